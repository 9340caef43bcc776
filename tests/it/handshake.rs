//! The start of a supervisor: what is refused, and how, and what is accepted
//! because it can still be reported. No runtime is needed.

use crate::support::fake_cri::FakeCri;
use crate::support::init::Edit;
use crate::support::job::Job;
use crate::support::supervisor::{BINARY, Start, Supervisor};
use crate::support::{SOON, wait};
use crane_supervisor::wire::crane::JobStatus;
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use prost::Message;
use std::process::Command;
use std::time::Duration;

/// A refusal must be over this soon.
const REFUSAL: Duration = Duration::from_secs(2);

/// Sends `bytes`, ends the input, and expects a refusal that says `word`.
#[track_caller]
fn refused_bytes(bytes: &[u8], word: &str) {
    let job = Job::without_runtime();
    let mut supervisor = job.spawn(1);
    supervisor.send_raw(bytes);
    supervisor.close_input();
    expect_refusal(&mut supervisor, word);
}

/// Sends a container step's message changed by `edit`, and expects a refusal that says `word`.
#[track_caller]
fn refused(word: &str, edit: impl FnOnce(&mut InitSupervisorRequest)) {
    let job = Job::without_runtime();
    let mut init = job.facts.container_step(1, &["true"]);
    edit(&mut init);
    let mut supervisor = job.spawn(1);
    supervisor.send(&init);
    expect_refusal(&mut supervisor, word);
}

#[track_caller]
fn expect_refusal(supervisor: &mut Supervisor, word: &str) {
    let answer = supervisor.ready(REFUSAL);
    assert_eq!(answer, Some(false), "SupervisorReady; stderr: {}", supervisor.stderr());
    expect_failure(supervisor, word);
}

#[track_caller]
fn expect_failure(supervisor: &mut Supervisor, word: &str) {
    let status = supervisor.wait_exit(REFUSAL);
    let stderr = supervisor.stderr();
    assert!(!status.success(), "exit {status}");
    assert!(stderr.contains(word), "stderr does not name {word:?}: {stderr:?}");
}

/// Starts with any arguments and expects a failure that says `word`; no descriptor to answer on.
#[track_caller]
fn refused_arguments(args: &[&str], word: &str) {
    let job = Job::without_runtime();
    let args = args.iter().map(|&arg| arg.into()).collect();
    let mut supervisor = Start { args, ..Start::like_craned(&job.places().root, job.id(), 1) }.spawn();
    supervisor.close_input();
    expect_failure(&mut supervisor, word);
}

#[test]
fn missing_descriptors_are_named() {
    refused_arguments(&["--input-fd", "3"], "--output-fd");
    refused_arguments(&["--output-fd", "4"], "--input-fd");
}

#[test]
fn negative_descriptors_are_named() {
    refused_arguments(&["--input-fd", "-1", "--output-fd", "4"], "input-fd");
    refused_arguments(&["--input-fd=-1", "--output-fd", "4"], "input-fd");
    refused_arguments(&["--input-fd", "3", "--output-fd", "-7"], "output-fd");
}

#[test]
fn descriptors_that_are_no_numbers_are_named() {
    refused_arguments(&["--input-fd", "three", "--output-fd", "4"], "input-fd");
    refused_arguments(&["--input-fd", "99999999999", "--output-fd", "4"], "input-fd");
}

#[test]
fn a_closed_input_is_answered_on_the_output() {
    let job = Job::without_runtime();
    let args = ["--input-fd", "99", "--output-fd", "4"].map(String::from).to_vec();
    let mut supervisor = Start { args, ..Start::like_craned(&job.places().root, job.id(), 1) }.spawn();
    expect_refusal(&mut supervisor, "input-fd");
}

#[test]
fn a_closed_output_is_a_failure_on_stderr() {
    refused_arguments(&["--input-fd", "3", "--output-fd", "99"], "output-fd");
}

#[test]
fn end_of_input_before_anything_is_refused() {
    refused_bytes(b"", "input-fd");
}

#[test]
fn a_truncated_message_is_refused() {
    let job = Job::without_runtime();
    let whole = job.facts.container_step(1, &["true"]).encode_length_delimited_to_vec();
    refused_bytes(&whole[..whole.len() - 3], "input-fd");
    refused_bytes(&[0x80], "input-fd");
}

#[test]
fn an_oversized_length_is_refused_without_waiting_for_the_bytes() {
    let job = Job::without_runtime();
    for length in [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
        let mut supervisor = job.spawn(1);
        supervisor.send_raw(length);
        expect_refusal(&mut supervisor, "input-fd");
    }
}

#[test]
fn garbage_is_refused() {
    refused_bytes(b"\x10GET / HTTP/1.1\r\n\r\n", "init message");
    refused_bytes(&[0xff; 64], "init message");
}

#[test]
fn bytes_come_in_pieces() {
    let job = Job::without_runtime();
    let mut supervisor = job.spawn(1);
    let bytes = job.facts.container_step(1, &["true"]).encode_length_delimited_to_vec();
    for piece in bytes.chunks(7) {
        supervisor.send_raw(piece);
    }
    assert_eq!(supervisor.ready(SOON), Some(true), "{}", supervisor.stderr());
    end_of_an_idle_step(&job, &mut supervisor);
}

#[test]
fn a_missing_step_spec_is_refused() {
    refused("step_spec", |init| init.step_spec = None);
}

#[test]
fn job_zero_is_refused() {
    refused("job_id", |init| {
        init.job_id = 0;
        init.spec().job_id = 0;
    });
}

#[test]
fn contradicting_identities_are_refused() {
    refused("job_id", |init| init.spec().job_id += 1);
    refused("step_id", |init| init.spec().step_id += 1);
}

#[test]
fn a_missing_runtime_endpoint_is_refused() {
    refused("runtime_endpoint", |init| init.config().runtime_endpoint.clear());
    refused("container_config", |init| init.container_config = None);
}

#[test]
fn relative_paths_are_refused() {
    refused("temp_dir", |init| init.config().temp_dir = "supervisor/containers".into());
    refused("log_dir", |init| init.log_dir = "supervisor".into());
    refused("crane_base_dir", |init| init.crane_base_dir = "crane".into());
    refused("craned_unix_socket_path", |init| init.craned_unix_socket_path = "craned.sock".into());
}

#[test]
fn an_unknown_log_level_is_refused() {
    refused("debug_level", |init| init.debug_level = "loud".into());
}

#[test]
fn every_log_level_of_craned_is_taken() {
    for level in ["trace", "debug", "info", "warn", "error", "off"] {
        let job = Job::without_runtime();
        let mut init = job.facts.container_step(1, &["true"]);
        init.debug_level = level.into();
        let mut supervisor = job.start(&init);
        end_of_an_idle_step(&job, &mut supervisor);
    }
}

#[test]
fn a_log_directory_that_cannot_be_one_is_refused() {
    refused("log_dir", |init| init.log_dir = "/dev/null/logs".into());
}

#[test]
fn a_container_step_without_tasks_is_refused() {
    refused("task_res_map", |init| init.spec().task_res_map.clear());
}

#[test]
fn a_refusal_leaves_its_reason_in_the_step_log() {
    let job = Job::without_runtime();
    let mut init = job.facts.container_step(1, &["true"]);
    init.config().runtime_endpoint.clear();
    let mut supervisor = job.spawn(1);
    supervisor.send(&init);
    expect_refusal(&mut supervisor, "runtime_endpoint");
    let log = job.supervisor_log(1);
    assert!(log.contains("runtime_endpoint"), "step log: {log:?}");
}

#[test]
fn version_and_help_are_answered() {
    for (args, word) in [
        (["-v"], env!("CARGO_PKG_VERSION")),
        (["--version"], env!("CARGO_PKG_VERSION")),
        (["-h"], "crane-supervisor"),
        (["--help"], "crane-supervisor"),
    ] {
        let output = Command::new(BINARY).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(word), "{args:?}: {} {text:?}", output.status);
    }
}

#[test]
fn both_ends_of_the_handshake_are_closed_after_ready() {
    let job = Job::without_runtime();
    let mut supervisor = job.start(&job.facts.container_step(1, &["true"]));
    // A second look finds end of file, not silence: the other end is closed.
    let started = std::time::Instant::now();
    assert_eq!(supervisor.ready(SOON), None);
    assert!(started.elapsed() < SOON, "the output pipe is still open");
    // And the input too: writing into it is an error now.
    assert!(!supervisor.input_is_open(), "the input pipe is still open");
    end_of_an_idle_step(&job, &mut supervisor);
}

#[test]
fn after_ready_the_standard_descriptors_are_dev_null_and_the_session_is_its_own() {
    let job = Job::without_runtime();
    let mut supervisor = job.start(&job.facts.container_step(1, &["true"]));
    for fd in 0..3 {
        let link = format!("/proc/{}/fd/{fd}", supervisor.pid());
        let at_null = || std::fs::read_link(&link).is_ok_and(|to| to == std::path::Path::new("/dev/null"));
        wait::holds(&format!("descriptor {fd} is /dev/null"), SOON, at_null);
    }
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", supervisor.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let pid = supervisor.pid().to_string();
    assert_eq!((fields[2], fields[3]), (&*pid, &*pid), "process group and session");
    end_of_an_idle_step(&job, &mut supervisor);
}

#[test]
fn signals_to_craneds_group_do_nothing() {
    use nix::sys::signal::Signal::*;
    let job = Job::without_runtime();
    let mut supervisor = job.start(&job.facts.container_step(1, &["true"]));
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTSTP, SIGPIPE] {
        supervisor.signal(signal);
    }
    assert_eq!(supervisor.check().job_id, job.id());
    end_of_an_idle_step(&job, &mut supervisor);
}

#[test]
fn an_unknown_user_is_accepted_and_reported() {
    let job = Job::without_runtime();
    let mut init = job.facts.container_step(1, &["true"]);
    init.spec().uid = 54321;
    init.pod().run_as_user = 54321;
    reported(&job, &init, 321, "54321");
}

#[test]
fn a_bad_pull_policy_is_accepted_and_reported() {
    let job = Job::without_runtime();
    let mut init = job.facts.container_step(1, &["true"]);
    init.image().pull_policy = "Sometimes".into();
    reported(&job, &init, 323, "Sometimes");
}

#[test]
fn a_container_step_without_a_pod_is_accepted_and_reported() {
    let job = Job::without_runtime();
    let mut init = job.facts.container_step(1, &["true"]);
    init.spec().pod_meta = None;
    reported(&job, &init, 323, "pod_meta");
}

#[test]
fn a_container_step_with_two_tasks_is_accepted_and_reported() {
    let job = Job::without_runtime();
    let mut init = job.facts.container_step(1, &["true"]);
    let share = init.spec().task_res_map[&0].clone();
    init.spec().task_res_map.insert(1, share);
    reported(&job, &init, 323, "Container steps only support exactly one task");
}

#[test]
fn a_runtime_that_is_not_there_is_accepted_and_reported() {
    let job = Job::without_runtime();
    let mut init = job.facts.container_step(1, &["true"]);
    // Bounded here, so that the test is: a runtime may also be restarting.
    init.container_config.as_mut().unwrap().cri_call_timeout = 2;
    let mut supervisor = job.start(&init);
    let _ = supervisor.client().execute();
    let end = job.ended(&mut supervisor);
    assert_eq!((end.final_status(), end.exit_code), (JobStatus::Failed, 323), "{end:?}");
    assert!(end.reason.contains("nowhere.sock"), "the reason names the socket: {:?}", end.reason);
}

#[test]
fn a_pod_step_that_cannot_work_is_reported_and_stays() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let mut init = job.facts.pod_step();
    init.pod().run_as_user = 0;
    let mut supervisor = job.start(&init);
    let failed = job.craned.wait_for(0, JobStatus::Failed, SOON);
    assert!((321..=324).contains(&failed.exit_code), "{failed:?}");
    assert!(failed.reason.contains("run_as_user"), "{}", failed.reason);
    assert!(supervisor.check().ok, "it stays up and answers");
    let end = job.end_pod(supervisor);
    assert_eq!((end.final_status(), end.exit_code, end.reason), (JobStatus::Failed, failed.exit_code, failed.reason));
}

/// The step is accepted; its end names `word` with `code`.
#[track_caller]
fn reported(job: &Job, init: &InitSupervisorRequest, code: u32, word: &str) {
    let mut supervisor = job.start(init);
    // It may know the end before it is asked to start.
    let _ = supervisor.client().execute();
    let end = job.ended(&mut supervisor);
    assert_eq!((end.final_status(), end.exit_code), (JobStatus::Failed, code), "{end:?}");
    assert!(end.reason.contains(word), "the reason does not name {word:?}: {:?}", end.reason);
    assert_eq!(job.craned.statuses(1), [JobStatus::Starting, JobStatus::Completing]);
}

/// Ends a container step that was never executed.
#[track_caller]
fn end_of_an_idle_step(job: &Job, supervisor: &mut Supervisor) {
    use crane_supervisor::wire::crane::TerminateSource;
    supervisor.terminate(TerminateSource::UserCancel);
    let end = job.ended(supervisor);
    assert_eq!((end.final_status(), end.exit_code), (JobStatus::Cancelled, 0));
}
