//! What goes wrong with bindfs, and with a supervisor that holds mounts: named
//! in the report, within a limit, and nothing stays.

use crate::support::init::managed;
use crate::support::job::Job;
use crate::support::mounting::{BINDFS, Engine, bindfs_below, is_long, on_each_mapped};
use crate::support::runtime::{Runtime, on_each_with_userns};
use crate::support::supervisor::{BINARY, Supervisor};
use crate::support::user::{RANGE, TestUser, own};
use crate::support::{LONG, SOON, leaks, wait};
use crane_supervisor::wire::crane::supervisor::init_supervisor_request::container_config::sub_id_config::Mapping;
use crane_supervisor::wire::crane::{JobStatus, StepStatusChangeRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A job with bindfs and one mount, `/data`.
fn job_with_data(runtime: &Runtime, user: &TestUser, program: impl AsRef<Path>) -> (Job, PathBuf) {
    let job = Job::on(runtime).of(user).with_userns().with_bindfs(program);
    let data = user.dir(&job.places().root.join("data"), 0o700);
    (job.with_mount(&data, "/data"), data)
}

#[track_caller]
fn failed_before_the_container(job: &Job, report: &StepStatusChangeRequest, words: &[&str]) {
    assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 323), "{report:?}");
    for word in words {
        assert!(report.reason.contains(word), "{word:?} is not in {:?}", report.reason);
    }
    assert!(job.runtime_log(1).is_empty(), "the container ran");
}

// ---- it cannot be had ----

#[test]
fn a_missing_bindfs_is_named() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let (job, _) = job_with_data(runtime, &user, "/no/such/bindfs");
        failed_before_the_container(&job, &job.run("true"), &["/no/such/bindfs"]);
    });
}

#[test]
fn a_mount_base_directory_that_cannot_be_one_is_named() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let (mut job, data) = job_with_data(runtime, &user, BINDFS);
        let file = user.file(&job.places().root.join("file"), "", 0o644);
        for place in [file.display().to_string(), "/proc/crane-test/mnt".into()] {
            job.facts.bindfs.as_mut().unwrap().mount_base_dir = place.clone();
            failed_before_the_container(&job, &job.run("true"), &[&place]);
            job = job_with_data(runtime, &user, BINDFS).0;
        }
        assert!(data.starts_with("/var/tmp"));
    });
}

#[test]
fn a_relative_mount_base_directory_is_below_cranes_own() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let (mut job, data) = job_with_data(runtime, &user, BINDFS);
        job.facts.bindfs.as_mut().unwrap().mount_base_dir = "mnt".into();
        job.facts.places.mount_base = job.places().base.join("mnt");
        let report = job.run("touch /data/new");
        assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
        assert!(data.join("new").exists());
        assert!(job.places().mount_base.is_dir(), "made where it belongs");
    });
}

/// A program to stand for bindfs.
fn script(job: &Job, text: &str) -> PathBuf {
    let path = job.places().root.join("bindfs.sh");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    own(&path, 0, 0, 0o755)
}

fn with_script(runtime: &Runtime, user: &TestUser, text: &str) -> Job {
    let (mut job, _) = job_with_data(runtime, user, BINDFS);
    let path = script(&job, text);
    job.facts.bindfs.as_mut().unwrap().bindfs_binary = path.display().to_string();
    job
}

#[test]
fn a_bindfs_that_ends_at_once_is_reported_with_its_last_words() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let job = with_script(runtime, &user, "echo my last words >&2; exit 3");
        let report = job.run("true");
        failed_before_the_container(&job, &report, &["bindfs", "my last words"]);
    });
}

#[test]
fn a_bindfs_that_hangs_is_given_up() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let job = with_script(runtime, &user, "exec sleep 300");
        let begun = Instant::now();
        let report = job.run("true");
        failed_before_the_container(&job, &report, &["bindfs"]);
        assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    });
}

#[test]
fn a_bindfs_that_says_more_than_anyone_reads_is_no_harm() {
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        let flood =
            "i=0; while [ $i -lt 20000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done >&2";
        let job = with_script(runtime, &user, &format!("{flood}; exec {} \"$@\"", "/usr/bin/bindfs"));
        let report = job.run("touch /data/new");
        assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
    });
}

#[test]
fn ids_that_bindfs_does_not_know_are_mapped_by_the_kernel() {
    on_each_with_userns(|runtime| {
        // Its ids are below 2^31; the kernel's own mapping takes all.
        let start = 3_000_000_000 + user_number() * RANGE;
        for with_bindfs in [true, false] {
            let user = TestUser::without_ranges();
            let (mut job, data) = job_with_data(runtime, &user, BINDFS);
            let one =
                |id: u32| Mapping { id: id.into(), id_count: 1, subid_start: start.into(), subid_size: RANGE.into() };
            job.facts.subid = Some(managed(one(user.uid), one(user.gid)));
            if !with_bindfs {
                job.facts.bindfs = None;
            }
            let report = job.run("touch /data/new; grep /data /proc/self/mountinfo");
            assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
            assert!(job.output(1, "stdout").contains("idmapped"), "{}", job.output(1, "stdout"));
            assert!(data.join("new").exists());
        }
    });
}

/// Tells test runs apart.
fn user_number() -> u32 {
    std::process::id() % 10_000
}

// ---- it dies ----

/// Says ready, and uses its mount until it is ended.
const BUSY: &str = "echo ready; while :; do echo x >/data/f; cat /data/f; sleep 0.01; done >/dev/null 2>&1";

#[track_caller]
fn bindfs_of(step: &Supervisor, user: &TestUser) -> i32 {
    let found = wait::until(LONG, || bindfs_below(step.pid(), user.uid).first().copied());
    found.unwrap_or_else(|| panic!("no bindfs of user {} below supervisor {}", user.uid, step.pid()))
}

fn kill9(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("bindfs lives");
}

#[track_caller]
fn failed_for_the_mount(report: &StepStatusChangeRequest, data: &Path) {
    assert_eq!(report.final_status(), JobStatus::Failed, "{report:?}");
    let named = report.reason.contains("/data") || report.reason.contains(&data.display().to_string());
    assert!(report.reason.contains("bindfs") && named, "{report:?}");
}

/// Some milliseconds below `limit`, different each time.
fn some_time(limit: u32) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    Duration::from_millis(u64::from(now / 1000 % limit))
}

#[test]
fn a_bindfs_killed_at_any_moment_ends_its_step_alone() {
    let rounds = if is_long() { 50 } else { 3 };
    on_each_with_userns(|runtime| {
        for _ in 0..rounds {
            let user = TestUser::new();
            let (job, data) = job_with_data(runtime, &user, BINDFS);
            let pod = job.pod();
            let mut step = job.container_with(1, &["sh", "-c", BUSY], |_| {});
            step.execute();
            let bindfs = bindfs_of(&step, &user);
            wait::pause(some_time(1000));
            kill9(bindfs);
            let report = job.ended(&mut step);
            failed_for_the_mount(&report, &data);
            assert!(leaks::mounts(&job.places().root).is_empty(), "{:?}", leaks::mounts(&job.places().root));
            // The next step of the same source has a mount that works.
            let mut next = job.container_with(2, &["touch", "/data/next"], |_| {});
            next.execute();
            assert_eq!(job.ended(&mut next).final_status(), JobStatus::Completed);
            assert!(data.join("next").exists());
            job.end_pod(pod);
        }
    });
}

#[test]
fn a_job_goes_on_when_the_bindfs_of_another_with_the_same_source_dies() {
    let rounds = if is_long() { 50 } else { 3 };
    on_each_with_userns(|runtime| {
        let user = TestUser::new();
        for _ in 0..rounds {
            let (first, data) = job_with_data(runtime, &user, BINDFS);
            let second = Job::on(runtime).of(&user).with_userns().with_bindfs(BINDFS).with_mount(&data, "/data");
            let (pod, other_pod) = (first.pod(), second.pod());
            let mut dies = first.running(BUSY);
            let mut lives = second.running("echo ready; until [ -e /data/go ]; do sleep 0.02; done; touch /data/done");
            wait::pause(some_time(300));
            kill9(bindfs_of(&dies, &user));
            failed_for_the_mount(&first.ended(&mut dies), &data);
            user.file(&data.join("go"), "", 0o644);
            let report = second.ended(&mut lives);
            assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
            assert!(data.join("done").exists());
            first.end_pod(pod);
            second.end_pod(other_pod);
        }
    });
}

#[test]
fn a_job_that_ends_takes_no_other_jobs_mount_away() {
    on_each_mapped(|runtime, engine: Engine| {
        let user = TestUser::new();
        let stays = engine.job(runtime, &user);
        let data = user.dir(&stays.places().root.join("data"), 0o700);
        let stays = stays.with_mount(&data, "/data");
        let pod = stays.pod();
        let mut step = stays.running("echo ready; until [ -e /data/go ]; do sleep 0.02; done; touch /data/done");
        let other = engine.job(runtime, &user).with_mount(&data, "/data");
        assert_eq!(other.run("touch /data/other").final_status(), JobStatus::Completed);
        drop(other);
        user.file(&data.join("go"), "", 0o644);
        assert_eq!(stays.ended(&mut step).final_status(), JobStatus::Completed);
        stays.end_pod(pod);
    });
}

// ---- its supervisor dies ----

#[test]
fn mounts_of_a_killed_supervisor_are_undone_by_its_successor() {
    on_each_mapped(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let data = user.dir(&job.places().root.join("data"), 0o700);
        let job = job.with_mount(&data, "/data");
        let mut pod = job.pod();
        let mut step = job.running(BUSY);
        assert!(!leaks::mounts(&job.places().root).is_empty(), "the mount is there");
        step.kill9_unguarded();
        pod.kill9_unguarded();
        let again = job.start(&job.facts.pod_step());
        let ran = || job.craned.statuses(0).iter().filter(|status| **status == JobStatus::Running).count();
        wait::holds("the pod is up a second time", LONG, || ran() == 2);
        let mut next = job.container(&["sh", "-c", "touch /data/next"]);
        next.execute();
        let report = job.ended(&mut next);
        assert_eq!(report.final_status(), JobStatus::Completed, "{report:?}");
        assert!(data.join("next").exists());
        job.end_pod(again);
    });
}

#[test]
fn mounts_of_a_killed_supervisor_are_undone_by_a_reaper() {
    on_each_mapped(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let data = user.dir(&job.places().root.join("data"), 0o700);
        let job = job.with_mount(&data, "/data");
        let mut pod = job.pod();
        let mut step = job.running(BUSY);
        step.kill9_unguarded();
        pod.kill9_unguarded();
        for number in [1, 0] {
            let dir = job.places().temp.join(format!("{}/steps/{number}", job.id()));
            let reaped = Command::new(BINARY).arg("reap").arg(&dir).output().unwrap();
            assert!(reaped.status.success(), "step {number}: {reaped:?}; {}", job.supervisor_log(number));
            // Held by nobody any more, so nothing is left for later.
            wait::holds("the step's directory is gone", SOON, || !dir.exists());
        }
        let _ = fs::remove_file(format!("/tmp/crane/step_{}.0.sock", job.id()));
        let _ = fs::remove_file(format!("/tmp/crane/step_{}.1.sock", job.id()));
    });
}
