//! The control socket: all eight calls in every state, on a fake runtime.

use crate::support::fake_cri::{FakeCri, Fault, Method, REMOTE_IMAGE};
use crate::support::init::{Edit, MARK};
use crate::support::job::{Job, NOBODY};
use crate::support::supervisor::{Start, Supervisor};
use crate::support::{LONG, SOON, wait};
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::{ErrCode, JobStatus, TerminateSource};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From memory: far below any call to a runtime.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Runs until it is told to end, and ends at once then.
const OBEDIENT: &str = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";

/// A job on a fake containerd with a pod, and what is asked of each state.
fn fake() -> (Arc<FakeCri>, Job) {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    (fake, job)
}

#[track_caller]
fn within<T>(limit: Duration, what: &str, call: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let answer = call();
    let took = started.elapsed();
    assert!(took < limit, "{what} took {took:?}, the limit is {limit:?}");
    answer
}

/// What must hold of a container step in any state.
#[track_caller]
fn answers_as_a_container_step(job: &Job, step: &mut Supervisor, status: JobStatus) {
    let pid = i32::try_from(step.pid()).unwrap();
    // The first call connects.
    step.check();
    let check = within(AT_ONCE, "CheckStatus", || step.check());
    assert_eq!((check.job_id, check.step_id, check.supervisor_pid, check.ok), (job.id(), step.step, pid, true));
    assert_eq!(check.status(), status);
    let client = step.client();
    let env = client.query_env().unwrap();
    assert!(env.ok);
    assert_eq!(env.env.get(MARK), Some(&job.id().to_string()), "QueryEnvMap");
    assert!(!client.pmix_port().unwrap(), "ReceivePmixPort");
    assert_eq!(client.migrate_ssh(pid).unwrap(), ErrCode::ErrInvalidParam, "MigrateSshProcToCgroup");
    assert!(client.change_time(Some(86400), None).unwrap(), "ChangeStepTimeConstraint");
}

#[test]
fn every_call_is_answered_before_the_step_is_executed() {
    let (_fake, job) = fake();
    let pod = job.pod();
    let mut step = job.container(&["true"]);
    answers_as_a_container_step(&job, &mut step, JobStatus::Starting);
    step.terminate(TerminateSource::UserCancel);
    let end = job.ended(&mut step);
    assert_eq!((end.final_status(), end.exit_code), (JobStatus::Cancelled, 0));
    job.end_pod(pod);
}

#[test]
fn every_call_is_answered_while_the_image_is_pulled() {
    let (fake, job) = fake();
    fake.fault(Method::PullImage, 1, Fault::Hang);
    let pod = job.pod();
    let mut step = job.container_with(1, &["true"], |init| init.image().image = REMOTE_IMAGE.into());
    within(Duration::from_secs(1), "ExecuteStep", || step.execute());
    fake.wait_for(Method::PullImage, 1, SOON);
    answers_as_a_container_step(&job, &mut step, JobStatus::Running);
    step.terminate(TerminateSource::UserCancel);
    let end = job.ended(&mut step);
    assert_eq!((end.final_status(), end.exit_code), (JobStatus::Cancelled, 320));
    job.end_pod(pod);
}

#[test]
fn every_call_is_answered_while_the_container_runs() {
    let (_fake, job) = fake();
    let pod = job.pod();
    let mut step = job.running(OBEDIENT);
    answers_as_a_container_step(&job, &mut step, JobStatus::Running);
    step.terminate(TerminateSource::UserCancel);
    assert_eq!(job.ended(&mut step).final_status(), JobStatus::Cancelled);
    job.end_pod(pod);
}

#[test]
fn every_call_is_answered_while_the_step_ends() {
    let (fake, job) = fake();
    let pod = job.pod();
    let mut step = job.running(OBEDIENT);
    fake.fault(Method::RemoveContainer, 1, Fault::Hang);
    step.terminate(TerminateSource::UserCancel);
    fake.wait_for(Method::RemoveContainer, 1, SOON);
    answers_as_a_container_step(&job, &mut step, JobStatus::Completing);
    step.execute();
    step.terminate(TerminateSource::UserCancel);
    fake.release();
    assert_eq!(job.ended(&mut step).final_status(), JobStatus::Cancelled);
    job.end_pod(pod);
}

#[test]
fn a_second_execute_is_a_success_without_effect() {
    let (fake, job) = fake();
    let pod = job.pod();
    let mut step = job.running(OBEDIENT);
    step.execute();
    step.execute();
    step.terminate(TerminateSource::UserCancel);
    job.ended(&mut step);
    assert_eq!(fake.starts_of(job.id()), 1);
    job.end_pod(pod);
}

#[test]
fn a_pod_step_answers_every_call() {
    let (_fake, job) = fake();
    let mut pod = job.pod();
    let pid = i32::try_from(pod.pid()).unwrap();
    let check = pod.check();
    assert_eq!((check.job_id, check.step_id, check.supervisor_pid), (job.id(), 0, pid));
    assert_eq!((check.status(), check.ok), (JobStatus::Running, true));
    let client = pod.client();
    assert_eq!(client.execute().unwrap(), ErrCode::ErrInvalidParam, "ExecuteStep");
    assert!(client.query_env().unwrap().ok);
    assert!(!client.pmix_port().unwrap());
    assert!(client.change_time(Some(1), Some(1)).unwrap(), "limits are taken and ignored");
    assert!(client.terminate(TerminateSource::UserCancel).unwrap().ok);
    wait::pause(Duration::from_millis(300));
    assert_eq!(pod.check().status(), JobStatus::Running, "a pod step ignores TerminateStep");
    let end = job.end_pod(pod);
    assert_eq!((end.final_status(), end.exit_code), (JobStatus::Completed, 0));
}

#[test]
fn a_pod_step_is_configuring_until_its_pod_is_up() {
    let (fake, job) = fake();
    fake.fault(Method::RunPodSandbox, 1, Fault::Hang);
    let mut pod = job.start(&job.facts.pod_step());
    fake.wait_for(Method::RunPodSandbox, 1, SOON);
    assert_eq!(pod.check().status(), JobStatus::Configuring);
    fake.release();
    job.craned.wait_for(0, JobStatus::Running, SOON);
    assert_eq!(pod.check().status(), JobStatus::Running);
    job.end_pod(pod);
    assert_eq!(job.craned.statuses(0), [JobStatus::Running, JobStatus::Completing]);
}

#[test]
fn a_process_is_moved_only_where_a_cgroup_can_take_it() {
    let (_fake, job) = fake();
    let mut pod = job.pod();
    // No cgroup in the message, and no such process: either way an error, not a hang.
    assert_eq!(pod.client().migrate_ssh(i32::MAX).unwrap(), ErrCode::ErrCgroup);
    job.end_pod(pod);
}

#[test]
fn an_ssh_session_is_moved_into_the_jobs_user_group_by_the_pod_step_alone() {
    let (_fake, mut job) = fake();
    let group = job.make_cgroups(0);
    job.make_cgroups_at("step_0/user");
    let mut pod = job.pod_with(|init| init.supv_cgroup_path = group);
    let mut session = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = i32::try_from(session.id()).unwrap();
    assert_eq!(pod.client().migrate_ssh(pid).unwrap(), ErrCode::Success);
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.contains(&format!("/crane/job_{}/step_0/user", job.id())), "{groups}");
    assert_eq!(pod.client().migrate_ssh(0).unwrap(), ErrCode::ErrInvalidParam);
    let mut step = job.container_with(1, &["true"], |_| {});
    assert_eq!(step.client().migrate_ssh(pid).unwrap(), ErrCode::ErrInvalidParam, "not a pod step");
    session.kill().unwrap();
    session.wait().unwrap();
    step.terminate(TerminateSource::UserCancel);
    job.ended(&mut step);
    job.end_pod(pod);
}

#[test]
fn a_time_limit_in_the_past_ends_the_step_now() {
    let (_fake, job) = fake();
    let pod = job.pod();
    let mut step = job.running_with(OBEDIENT, |init| init.spec().start_time = Some(ago(3600)));
    assert!(step.client().change_time(Some(60), None).unwrap());
    let end = job.ended(&mut step);
    assert_eq!((end.final_status(), end.exit_code), (JobStatus::ExceedTimeLimit, 325));
    job.end_pod(pod);
}

#[test]
fn a_deadline_in_the_past_ends_the_step_now() {
    let (_fake, job) = fake();
    let pod = job.pod();
    let mut step = job.running(OBEDIENT);
    assert!(step.client().change_time(None, Some(ago(60).seconds)).unwrap());
    let end = job.ended(&mut step);
    assert_eq!((end.final_status(), end.exit_code), (JobStatus::Deadline, 330));
    job.end_pod(pod);
}

#[test]
fn a_longer_limit_replaces_a_short_one() {
    let (_fake, job) = fake();
    let pod = job.pod();
    let mut step = job.running_with(OBEDIENT, |init| init.time_limit(2));
    assert!(step.client().change_time(Some(i64::MAX), None).unwrap(), "craned's way to suspend");
    assert_eq!(step.exit_within(Duration::from_secs(3)), None, "the old limit still ended it");
    step.terminate(TerminateSource::UserCancel);
    assert_eq!(job.ended(&mut step).final_status(), JobStatus::Cancelled);
    job.end_pod(pod);
}

#[test]
fn the_environment_is_answered_as_the_container_gets_it() {
    let (_fake, job) = fake();
    let pod = job.pod();
    let mut step = job.container_with(1, &["true"], |init| {
        init.spec().env.insert("FROM_STEP".into(), "1".into());
        init.container().env.insert("FROM_USER".into(), "2".into());
    });
    let env = step.client().query_env().unwrap().env;
    assert_eq!(env.get("FROM_STEP").map(String::as_str), Some("1"));
    assert_eq!(env.get("CRANE_JOB_ID"), Some(&job.id().to_string()));
    step.terminate(TerminateSource::UserCancel);
    job.ended(&mut step);
    job.end_pod(pod);
}

fn ago(seconds: i64) -> prost_types::Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    prost_types::Timestamp { seconds: i64::try_from(now.as_secs()).unwrap() - seconds, nanos: 0 }
}

// ---- the socket itself ----

/// A container step that waits for ExecuteStep; no runtime is asked.
fn idle() -> (Job, Supervisor) {
    let job = Job::without_runtime();
    let step = job.start(&job.facts.container_step(1, &["true"]));
    (job, step)
}

#[track_caller]
fn end_idle(job: &Job, step: &mut Supervisor) {
    step.terminate(TerminateSource::UserCancel);
    job.ended(step);
}

#[test]
fn the_socket_is_roots_alone_and_goes_with_the_supervisor() {
    let (job, mut step) = idle();
    let socket = std::fs::symlink_metadata(&step.socket).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!((socket.permissions().mode() & 0o7777, socket.uid()), (0o600, 0));
    let dir = std::fs::symlink_metadata(step.socket.parent().unwrap()).unwrap();
    // It may be older than this test; what we make is checked in a /tmp of its own below.
    assert_eq!((dir.permissions().mode() & 0o022, dir.uid()), (0, 0));
    end_idle(&job, &mut step);
    assert!(!step.socket.exists(), "removed at exit");
}

#[test]
fn a_deleted_socket_comes_back() {
    let (job, mut step) = idle();
    std::fs::remove_file(&step.socket).unwrap();
    // Looked for every 20 s: a watch on it would cost root an inotify instance a step.
    wait::holds("the socket is back", std::time::Duration::from_secs(30), || step.socket.exists());
    let mode = std::fs::symlink_metadata(&step.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(step.check().job_id, job.id(), "and answers");
    end_idle(&job, &mut step);
    assert!(!step.socket.exists(), "the new one is removed too");
}

#[test]
fn a_stale_socket_of_a_dead_supervisor_is_replaced() {
    let (job, mut step) = idle();
    step.kill9();
    assert!(step.socket.exists());
    // What the dead one left under TempDir is its successor's to take over.
    let mut next = job.start(&job.facts.container_step(1, &["true"]));
    assert_eq!(next.check().supervisor_pid, i32::try_from(next.pid()).unwrap());
    end_idle(&job, &mut next);
}

/// Speaks the first bytes of HTTP/2 and says whether anything came back.
const PEER: &str = r#"
use IO::Socket::UNIX;
my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or do { print "cannot connect: $!"; exit };
$SIG{PIPE} = 'IGNORE'; $SIG{ALRM} = sub { print "silent"; exit }; alarm 5;
syswrite $s, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . pack("H*", "000000040000000000");
my $n = sysread $s, my $b, 64;
print $n ? "answered" : "closed";
"#;

/// What a process of user `uid` meets at `socket`, past the directory's mode.
fn met_by(uid: u32, socket: &std::path::Path) -> String {
    // A second name for the same socket, in a directory anyone may enter.
    let dir = std::path::PathBuf::from(format!("/tmp/cs-door-{}-{uid}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let door = dir.join("s");
    std::fs::hard_link(socket, &door).unwrap();
    std::fs::set_permissions(&door, std::fs::Permissions::from_mode(0o666)).unwrap();
    let output = Command::new("perl").args(["-e", PEER]).arg(&door).uid(uid).gid(uid).current_dir("/").output();
    std::fs::set_permissions(&door, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn a_peer_that_is_not_root_is_turned_away() {
    let (job, mut step) = idle();
    assert_eq!(met_by(NOBODY, &step.socket), "closed");
    assert_eq!(met_by(0, &step.socket), "answered");
    assert_eq!(step.check().job_id, job.id(), "root is still served");
    end_idle(&job, &mut step);
}

/// Starts a supervisor that sees a `/tmp/crane` of its own, made by `setup`.
fn in_private_tmp(setup: &str) -> (Job, Supervisor, InitSupervisorRequest) {
    let job = Job::without_runtime();
    let private = Some(format!("mount -t tmpfs -o mode=1777 tmpfs /tmp && {{ {setup}; }}"));
    let supervisor = Start { private, ..Start::like_craned(&job.places().root, job.id(), 1) }.spawn();
    let init = job.facts.container_step(1, &["true"]);
    (job, supervisor, init)
}

#[track_caller]
fn refused_for_its_directory(setup: &str) {
    let (_job, mut supervisor, init) = in_private_tmp(setup);
    supervisor.send(&init);
    assert_eq!(supervisor.ready(SOON), Some(false), "after: {setup}; stderr: {}", supervisor.stderr());
    assert!(!supervisor.wait_exit(SOON).success());
    assert!(supervisor.stderr().contains("/tmp/crane"), "stderr: {}", supervisor.stderr());
}

#[test]
fn a_socket_directory_that_others_can_change_is_refused() {
    refused_for_its_directory("mkdir -m 700 /tmp/crane; chown 65534 /tmp/crane");
    refused_for_its_directory("mkdir -m 700 /tmp/real; ln -s /tmp/real /tmp/crane");
    refused_for_its_directory("mkdir /tmp/crane; chmod 0777 /tmp/crane");
    refused_for_its_directory("mkdir /tmp/crane; chmod 0770 /tmp/crane");
    refused_for_its_directory("touch /tmp/crane");
}

#[test]
fn a_missing_socket_directory_is_made() {
    let (job, mut supervisor, init) = in_private_tmp("true");
    supervisor.send(&init);
    assert_eq!(supervisor.ready(SOON), Some(true), "stderr: {}", supervisor.stderr());
    job.craned.wait_for(1, JobStatus::Starting, SOON);
    let made = std::fs::metadata(format!("/proc/{}/root/tmp/crane", supervisor.pid())).unwrap();
    assert_eq!((made.permissions().mode() & 0o7777, made.uid()), (0o700, 0));
    let inside = format!("/proc/{}/root{}", supervisor.pid(), supervisor.socket.display());
    assert!(std::path::Path::new(&inside).exists(), "{inside}");
    let mut client = crate::support::supervisor::Client::new(inside.as_ref());
    assert!(client.terminate(TerminateSource::UserCancel).unwrap().ok);
    job.craned.wait_for(1, JobStatus::Completing, LONG);
    supervisor.wait_exit(SOON);
}
