//! A supervisor dies by SIGKILL or of its own fault: its guardian undoes at once.

use crate::support::job::Job;
use crate::support::mounting::on_each_mapped;
use crate::support::runtime::on_each;
use crate::support::supervisor::Supervisor;
use crate::support::user::TestUser;
use crate::support::{LONG, SOON, leaks, wait};
use crane_supervisor::wire::crane::JobStatus;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Before the second look, which comes 20 s after the first.
const AT_ONCE: Duration = Duration::from_secs(15);
/// After it.
const WHOLE: Duration = LONG;

fn directory(job: &Job, step: u32) -> PathBuf {
    job.places().temp.join(format!("{}/steps/{step}", job.id()))
}

#[test]
fn a_killed_container_step_is_undone_and_its_pod_stays() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.running("echo ready; sleep 300");
        step.kill9();
        wait::holds("the container is gone", AT_ONCE, || runtime.cri().containers(job.id()).is_empty());
        wait::holds("the socket is gone", AT_ONCE, || !step.socket.exists());
        assert_eq!(runtime.cri().pods(job.id()).len(), 1, "the pod is another step's");
        wait::holds("the step's directory is gone", WHOLE, || !directory(&job, 1).exists());
        wait::holds("the log says so", SOON, || job.supervisor_log(1).contains("nothing is left"));
        assert_eq!(job.craned.statuses(1), [JobStatus::Starting], "the reaper reports nothing");
        job.end_pod(pod);
    });
}

#[test]
fn a_killed_pod_step_is_undone_with_all_that_is_in_its_pod() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let mut pod = job.pod();
        let mut step = job.running("echo ready; sleep 300");
        pod.kill9();
        wait::holds("pod and container are gone", AT_ONCE, || {
            runtime.cri().pods(job.id()).is_empty() && runtime.cri().containers(job.id()).is_empty()
        });
        // Its own container ended under it: it says so, as it would of any.
        job.craned.wait_for(1, JobStatus::Completing, LONG);
        step.wait_exit(SOON);
    });
}

#[test]
fn both_steps_killed_at_once_leave_nothing() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let mut pod = job.pod();
        let mut step = job.running("echo ready; sleep 300");
        let _ = kill(Pid::from_raw(step.pid() as i32), Signal::SIGKILL);
        pod.kill9();
        step.kill9();
        wait::holds("pod and container are gone", AT_ONCE, || {
            runtime.cri().pods(job.id()).is_empty() && runtime.cri().containers(job.id()).is_empty()
        });
        // The job's own check of what is left does the rest.
    });
}

#[test]
fn a_step_killed_at_any_moment_of_its_preparation_leaves_nothing() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut killed = Vec::new();
        for round in 0..12u32 {
            let mut step = job.container_with(1 + round, &["sleep", "300"], |_| {});
            step.execute();
            wait::pause(Duration::from_millis(u64::from(round) * 15));
            step.kill9();
            killed.push(1 + round);
        }
        wait::holds("no container is left", WHOLE, || runtime.cri().containers(job.id()).is_empty());
        for step in killed {
            wait::holds("no directory is left", WHOLE, || !directory(&job, step).exists());
        }
        job.end_pod(pod);
    });
}

#[test]
fn a_pod_step_killed_at_any_moment_of_its_preparation_leaves_nothing() {
    on_each(|runtime| {
        // Each job's check of what is left comes when all are killed.
        let mut jobs = Vec::new();
        for round in 0..6 {
            let job = Job::on(runtime);
            let mut pod = job.start(&job.facts.pod_step());
            wait::pause(Duration::from_millis(round * 40));
            pod.kill9();
            jobs.push(job);
        }
    });
}

#[test]
fn the_mounts_and_the_bindfs_of_a_killed_step_go_too() {
    on_each_mapped(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let data = user.dir(&job.places().root.join("data"), 0o700);
        let job = job.with_mount(&data, "/data");
        let pod = job.pod();
        let mut step = job.running("echo ready; while :; do echo x >/data/f; done");
        assert!(!leaks::mounts(&job.places().root).is_empty(), "the mount is there");
        step.kill9();
        wait::holds("the mounts are gone", AT_ONCE, || leaks::mounts(&job.places().root).is_empty());
        wait::holds("the step's directory is gone", WHOLE, || !directory(&job, 1).exists());
        assert!(data.join("f").exists(), "what the user wrote is not ours");
        job.end_pod(pod);
    });
}

#[test]
fn a_step_that_crashes_leaves_its_note_and_nothing_else() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.running("echo ready; sleep 300");
        step.signal(Signal::SIGSEGV);
        step.wait_exit(SOON);
        wait::holds("the container is gone", AT_ONCE, || runtime.cri().containers(job.id()).is_empty());
        wait::holds("the step's directory is gone", WHOLE, || !directory(&job, 1).exists());
        wait::holds("the log says so", SOON, || job.supervisor_log(1).contains("nothing is left"));
        let log = job.supervisor_log(1);
        let (note, end) = (log.find("crashed: SIGSEGV"), log.find("nothing is left"));
        assert!(note.is_some() && note < end, "{log}");
        job.end_pod(pod);
    });
}

#[test]
fn a_successor_ends_the_guardians_reaper_and_goes_on() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let mut pod = job.pod();
        let mut step = job.running("echo ready; sleep 300");
        step.kill9();
        pod.kill9();
        // The reapers are anywhere between their start and their second look.
        let again = job.start(&job.facts.pod_step());
        let ran = || job.craned.statuses(0).iter().filter(|status| **status == JobStatus::Running).count();
        wait::holds("the pod is up a second time", LONG, || ran() == 2);
        let mut step = job.container(&["sh", "-c", "exit 3"]);
        step.execute();
        let end = job.ended(&mut step);
        assert_eq!((end.final_status(), end.exit_code), (JobStatus::Failed, 3), "{end:?}");
        job.end_pod(again);
    });
}

#[test]
fn without_its_guardian_a_killed_step_waits_for_its_successor() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.running("echo ready; sleep 300");
        step.kill9_unguarded();
        wait::pause(Duration::from_millis(500));
        assert_eq!(runtime.cri().containers(job.id()).len(), 1, "nobody is there to undo");
        assert!(directory(&job, 1).join("journal").exists());
        let mut step = job.container(&["true"]);
        step.execute();
        assert_eq!(job.ended(&mut step).final_status(), JobStatus::Completed);
        job.end_pod(pod);
    });
}

#[test]
fn a_refused_second_supervisor_does_not_touch_the_first() {
    let job = Job::without_runtime();
    let mut first = job.start(&job.facts.container_step(1, &["true"]));
    let mut second = job.spawn(1);
    second.send(&job.facts.container_step(1, &["true"]));
    assert_eq!(second.ready(SOON), Some(false));
    second.wait_exit(SOON);
    wait::holds("its guardian looks and goes", SOON, || job.supervisor_log(1).contains("another process has taken"));
    assert_eq!(first.check().job_id, job.id());
    assert!(directory(&job, 1).join("journal").exists());
    first.shut_down();
    first.wait_exit(SOON);
}

#[test]
fn a_guardian_is_small_alone_and_gone_with_its_supervisor() {
    let job = Job::without_runtime();
    let mut step = job.start(&job.facts.container_step(1, &["true"]));
    let guardian = step.guardian().expect("every supervisor has a guardian");
    let file = |name: &str| fs::read_to_string(format!("/proc/{guardian}/{name}")).unwrap();
    wait::holds("it has its name", SOON, || file("cmdline").trim_end_matches('\0') == title(&job));
    let stat = procfs::process::Process::new(guardian).unwrap().stat().unwrap();
    assert_eq!((stat.session, stat.num_threads), (guardian, 1));
    let open: Vec<_> = fs::read_dir(format!("/proc/{guardian}/fd")).unwrap().flatten().collect();
    let open: Vec<_> = open.iter().map(|fd| fs::read_link(fd.path()).unwrap()).collect();
    assert_eq!(open.len(), 4, "three times nothing, and a pidfd: {open:?}");
    assert_eq!(open.iter().filter(|path| path.ends_with("dev/null")).count(), 3, "{open:?}");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1] {
        kill(Pid::from_raw(guardian), signal).unwrap();
    }
    let private = private_kib(guardian);
    // 128 measured with a development build where others share its pages too.
    assert!(private <= 160, "{private} KiB private");
    assert_eq!(step.guardian(), Some(guardian), "signals do not end it");
    end(&mut step);
    assert!(wait::process_end(guardian as u32, SOON), "it goes too");
    assert!(leaks::left_of(job.id(), job.places(), None).is_empty());
}

fn title(job: &Job) -> String {
    format!("crane-guardian: [{}.1]", job.id())
}

fn end(step: &mut Supervisor) {
    step.shut_down();
    step.wait_exit(SOON);
}

fn private_kib(pid: i32) -> u64 {
    let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let of =
        |name: &str| memory.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().nth(1).unwrap();
    of("Private_Clean:").parse::<u64>().unwrap() + of("Private_Dirty:").parse::<u64>().unwrap()
}

#[test]
fn it_leaves_craneds_service_with_its_supervisor() {
    let tracked: Vec<_> = ["systemd", "unified", ""].map(|name| PathBuf::from("/sys/fs/cgroup").join(name)).into();
    let tracked = tracked.into_iter().find(|dir| dir.join("cgroup.procs").is_file()).expect("some hierarchy is there");
    let job = Job::without_runtime();
    let service = tracked.join(format!("service_of_{}", job.id()));
    fs::create_dir(&service).unwrap();
    let mut step = job.spawn(1);
    fs::write(service.join("cgroup.procs"), step.pid().to_string()).unwrap();
    step.send(&job.facts.container_step(1, &["true"]));
    assert_eq!(step.ready(SOON), Some(true));
    let guardian = step.guardian().expect("every supervisor has a guardian");
    let outside = |pid: i32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        !groups.contains("service_of_")
    };
    wait::holds("the guardian is out", SOON, || outside(guardian));
    // craned moves the supervisor itself where there is v2 alone.
    let alone = tracked == Path::new("/sys/fs/cgroup/");
    wait::holds("so is the supervisor", SOON, || alone || outside(step.pid() as i32));
    end(&mut step);
    wait::holds("the group is empty", SOON, || fs::remove_dir(&service).is_ok());
}
