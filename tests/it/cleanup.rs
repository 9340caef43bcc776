//! `cleanup`: what killed supervisors leave is gone afterwards, and nothing else is.

use crate::support::job::Job;
use crate::support::mounting::{is_long, on_each_engine, tree};
use crate::support::runtime::{Runtime, on_each};
use crate::support::supervisor::{BINARY, Supervisor};
use crate::support::user::TestUser;
use crate::support::{LONG, SOON, leaks, wait};
use crane_supervisor::cleanup::entry::VERSION;
use crane_supervisor::wire::crane::{JobStatus, TerminateSource};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Says ready and stays.
const BUSY: &str = "echo ready; while :; do sleep 0.05; done";

/// The command for one job alone: other tests run beside on the same node.
fn command(job: &Job, options: &[&str]) -> Command {
    let config = job.configuration();
    let mut command = Command::new(BINARY);
    command.arg("cleanup").arg("-C").arg(config).args(["--json", "--job", &job.id().to_string()]).args(options);
    command
}

fn cleanup(job: &Job, options: &[&str]) -> (Option<i32>, Vec<Value>) {
    told(&command(job, options).output().unwrap())
}

#[track_caller]
fn told(output: &Output) -> (Option<i32>, Vec<Value>) {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output.status.code(), text.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect())
}

fn with(result: &str, findings: &[Value]) -> Vec<String> {
    let chosen = findings.iter().filter(|finding| finding["result"] == result);
    chosen.map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
}

fn kill(supervisors: &mut [&mut Supervisor]) {
    supervisors.iter_mut().for_each(|supervisor| supervisor.kill9_unguarded());
}

/// Pods and containers, mounts, and files below the job's places, as they are now.
fn state(job: &Job, runtime: &Runtime) -> (usize, usize, Vec<String>, Vec<PathBuf>) {
    let mut cri = runtime.cri();
    let mut files = tree(&job.places().temp);
    files.sort();
    (cri.pods(job.id()).len(), cri.containers(job.id()).len(), leaks::mounts(&job.places().root), files)
}

#[test]
fn what_killed_supervisors_left_is_undone_and_a_dry_run_only_tells() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new();
        let job = engine.job(runtime, &user);
        let data = user.dir(&job.places().root.join("data"), 0o700);
        let job = job.with_mount(&data, "/data");
        let (mut pod, mut step) = (job.pod(), job.running(BUSY));
        kill(&mut [&mut step, &mut pod]);
        let before = state(&job, runtime);
        let (code, dry) = cleanup(&job, &["--dry-run"]);
        assert_eq!(code, Some(0), "{dry:?}");
        for kind in ["pod", "container", "mounts", "pod_record", "socket", "directory"] {
            assert!(with("would_undo", &dry).iter().any(|found| found == kind), "{kind} in {dry:?}");
        }
        assert_eq!(dry.len(), with("would_undo", &dry).len());
        assert_eq!(state(&job, runtime), before, "a dry run changed something");
        assert!(before.0 == 1 && before.1 == 1 && !before.2.is_empty(), "{before:?}");

        let (code, done) = cleanup(&job, &[]);
        assert_eq!(code, Some(0), "{done:?}");
        assert_eq!(with("undone", &done).len(), dry.len(), "{done:?}");
        assert_eq!(leaks::left_of(job.id(), job.places(), Some(runtime)), [""; 0]);
        assert_eq!(cleanup(&job, &[]), (Some(0), Vec::new()));
        assert!(data.exists());
    });
}

#[test]
fn a_live_job_is_left_alone_and_one_beside_it_cleaned() {
    on_each_engine(|runtime, engine| {
        let user = TestUser::new();
        let (live, dead) = (engine.job(runtime, &user), Job::on(runtime));
        let data = user.dir(&live.places().root.join("data"), 0o700);
        let live = live.with_mount(&data, "/data");
        let obeys = "trap 'touch /data/end; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
        let (live_pod, mut live_step) = (live.pod(), live.running(obeys));
        let (mut pod, mut step) = (dead.pod(), dead.running(BUSY));
        kill(&mut [&mut step, &mut pod]);
        wait::pause(Duration::from_millis(1100));
        let before = state(&live, runtime);
        assert_eq!(cleanup(&live, &["--older-than", "1s"]), (Some(0), Vec::new()));
        assert_eq!(cleanup(&dead, &["--older-than", "1s"]).0, Some(0));
        assert_eq!(state(&live, runtime), before);
        // A container step alone, its pod still supervised.
        let mut other = live.container_with(2, &["sleep", "100"], |_| {});
        other.execute();
        wait::holds("the second container is there", LONG, || runtime.cri().containers(live.id()).len() == 2);
        other.kill9_unguarded();
        let (code, done) = cleanup(&live, &["--older-than", "1s"]);
        assert_eq!(code, Some(0), "{done:?}");
        assert!(done.iter().all(|finding| finding["step"] == 2), "{done:?}");
        assert_eq!(state(&live, runtime), before);
        live_step.terminate(TerminateSource::UserCancel);
        let report = live.ended(&mut live_step);
        assert_eq!(report.final_status(), JobStatus::Cancelled, "{report:?}");
        assert!(data.join("end").exists(), "the mount worked to the end");
        live.end_pod(live_pod);
    });
}

#[test]
fn a_reaper_at_work_is_left_to_it() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let mut pod = job.pod();
        pod.kill9_unguarded();
        let (dir, socket) = (step_dir(&job, 0), runtime.endpoint().trim_start_matches("unix://").to_owned());
        edit(&dir.join("journal"), |text| text.replace(&socket, "/no/such.sock"));
        let mut reaper = Command::new(BINARY).arg("reap").arg(&dir).stdout(Stdio::null()).spawn().unwrap();
        let signed = || fs::read_to_string(dir.join("lock")).is_ok_and(|text| text == reaper.id().to_string());
        wait::holds("the reaper has signed the lock", SOON, signed);
        wait::pause(Duration::from_millis(1100));
        assert_eq!(cleanup(&job, &["--older-than", "1s"]), (Some(0), Vec::new()));
        assert_eq!(runtime.cri().pods(job.id()).len(), 1);
        assert!(reaper.try_wait().unwrap().is_none(), "the reaper was ended");
        reaper.kill().unwrap();
        reaper.wait().unwrap();
        edit(&dir.join("journal"), |text| text.replace("/no/such.sock", &socket));
        assert_eq!(cleanup(&job, &[]).0, Some(0));
    });
}

#[test]
fn without_a_temp_dir_in_the_configuration_both_defaults_are_looked_in() {
    on_each(|runtime| {
        for place in ["supervisor/containers", "craned/container"] {
            let mut job = Job::on(runtime);
            job.facts.places.temp = job.places().base.join(place);
            let mut pod = job.pod();
            pod.kill9_unguarded();
            let config = job.configuration();
            let kept =
                |text: String| text.lines().filter(|line| !line.contains("TempDir")).collect::<Vec<_>>().join("\n");
            edit(&config, kept);
            let (code, done) = cleanup(&job, &[]);
            assert_eq!(code, Some(0), "{done:?}");
            assert!(with("undone", &done).contains(&"pod".to_owned()), "{place}: {done:?}");
        }
    });
}

#[test]
fn people_get_one_line_for_each_thing() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let mut pod = job.pod();
        pod.kill9_unguarded();
        let config = job.configuration();
        let say = || {
            let id = job.id().to_string();
            let output = Command::new(BINARY).args(["cleanup", "--job", &id, "-C"]).arg(&config).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let said = say();
        let pod = format!("step {}.0: undone: pod cranesched=true,job_id={},uid=", job.id(), job.id());
        assert!(said.lines().any(|line| line.starts_with(&pod)), "{said}");
        assert_eq!(say(), "nothing is left\n");
    });
}

/// Moments of a step's start, spread over its first half second.
fn moments() -> impl Iterator<Item = Duration> {
    let (rounds, apart) = if is_long() { (100, 5) } else { (5, 90) };
    (0..rounds).map(move |round| Duration::from_millis(round * apart))
}

#[test]
fn nothing_is_left_of_a_step_killed_at_any_moment_of_its_start() {
    on_each(|runtime| {
        for moment in moments() {
            let job = Job::on(runtime);
            let mut pod = job.start(&job.facts.pod_step());
            wait::pause(moment);
            pod.kill9_unguarded();
            let (code, told) = cleanup(&job, &["--older-than", "1s"]);
            assert_eq!(code, Some(0), "pod killed after {moment:?}: {told:?}");
            drop(job);
            let job = Job::on(runtime);
            let mut pod = job.pod();
            let mut step = job.container_with(1, &["sleep", "100"], |_| {});
            step.execute();
            wait::pause(moment);
            kill(&mut [&mut step, &mut pod]);
            let (code, told) = cleanup(&job, &["--older-than", "1s"]);
            assert_eq!(code, Some(0), "container killed after {moment:?}: {told:?}");
        }
    });
}

#[test]
fn two_cleanups_at_once_share_the_work() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let (mut pod, mut step) = (job.pod(), job.running(BUSY));
        kill(&mut [&mut step, &mut pod]);
        let mut both: Vec<_> = (0..2).map(|_| command(&job, &[]).stdout(Stdio::null()).spawn().unwrap()).collect();
        for child in &mut both {
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
        assert_eq!(leaks::left_of(job.id(), job.places(), Some(runtime)), [""; 0]);
    });
}

#[test]
fn a_step_that_starts_while_cleanups_run_is_taken_and_runs() {
    on_each(|runtime| {
        for round in 0..if is_long() { 40 } else { 4 } {
            let job = Job::on(runtime);
            let (mut pod, mut step) = (job.pod(), job.running(BUSY));
            kill(&mut [&mut step, &mut pod]);
            let piped = || command(&job, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let cleaning = [piped(), piped(), piped()];
            wait::pause(Duration::from_millis(30 * round));
            // The same job again, as after a requeue.
            let again = job.start(&job.facts.pod_step());
            let ran = || job.craned.statuses(0).iter().filter(|status| **status == JobStatus::Running).count();
            wait::holds("the pod is up again", LONG, || ran() == 2);
            for child in cleaning {
                let told = told(&child.wait_with_output().unwrap());
                assert_eq!(told.0, Some(0), "round {round}: {told:?}");
            }
            wait::pause(Duration::from_millis(1100));
            assert_eq!(cleanup(&job, &["--older-than", "1s"]).0, Some(0));
            assert_eq!(runtime.cri().pods(job.id()).len(), 1, "round {round}");
            job.end_pod(again);
        }
    });
}

/// A pod made past every supervisor, in `namespace`.
fn lone_pod(job: &Job, runtime: &Runtime, namespace: &str, ours: bool) -> String {
    let mut labels =
        HashMap::from([("job_id".to_owned(), job.id().to_string()), ("uid".to_owned(), job.facts.uid.to_string())]);
    if ours {
        labels.insert("cranesched".to_owned(), "true".to_owned());
    }
    runtime.cri().run_pod(&format!("lone-{}-{namespace}-{ours}", job.id()), namespace, labels, &job.places().logs)
}

#[test]
fn an_orphaned_pod_is_removed_when_old_enough_and_a_foreign_one_never() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let ours = lone_pod(&job, runtime, "cranesched", true);
        let foreign = lone_pod(&job, runtime, "cranesched", false);
        let elsewhere = lone_pod(&job, runtime, "default", true);
        let ids = || runtime.cri().pods(job.id()).into_iter().map(|pod| pod.id).collect::<Vec<_>>();
        assert_eq!(cleanup(&job, &[]), (Some(0), Vec::new()), "too young");
        wait::pause(Duration::from_millis(1100));
        let (_, dry) = cleanup(&job, &["--older-than", "1s", "--dry-run"]);
        assert!(dry.iter().any(|finding| finding["kind"] == "pod" && finding["what"] == *ours), "{dry:?}");
        assert_eq!(ids().len(), 3);
        let (code, done) = cleanup(&job, &["--older-than", "1s"]);
        assert_eq!(
            (code, with("undone", &done)),
            (Some(0), vec!["pod".to_owned(), "directory".to_owned()]),
            "{done:?}"
        );
        let left = ids();
        assert!(!left.contains(&ours) && left.contains(&foreign) && left.contains(&elsewhere), "{left:?}");
        runtime.purge(job.id());
    });
}

#[test]
fn a_job_whose_directories_are_gone_is_found_by_its_labels() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let (mut pod, mut step) = (job.pod(), job.running(BUSY));
        kill(&mut [&mut step, &mut pod]);
        fs::remove_dir_all(&job.places().temp).unwrap();
        wait::pause(Duration::from_millis(1100));
        let (code, done) = cleanup(&job, &["--older-than", "1s"]);
        assert_eq!(code, Some(0), "{done:?}");
        for kind in ["pod", "socket"] {
            assert!(with("undone", &done).iter().any(|found| found == kind), "{kind} in {done:?}");
        }
    });
}

/// The step's directory below the job's TempDir.
fn step_dir(job: &Job, step: u32) -> PathBuf {
    job.places().temp.join(format!("{}/steps/{step}", job.id()))
}

fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, change(text)).unwrap();
}

#[test]
fn a_journal_of_another_boot_is_undone_by_labels() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let (mut pod, mut step) = (job.pod(), job.running(BUSY));
        kill(&mut [&mut step, &mut pod]);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        for step in [0, 1] {
            edit(&step_dir(&job, step).join("journal"), |text| text.replace(boot.trim(), "another"));
        }
        let (code, done) = cleanup(&job, &[]);
        assert_eq!(code, Some(0), "{done:?}");
        assert_eq!(leaks::left_of(job.id(), job.places(), Some(runtime)), [""; 0]);
    });
}

#[test]
fn a_journal_of_an_unknown_version_is_named_and_nothing_of_its_job_touched() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let mut pod = job.pod();
        pod.kill9_unguarded();
        let journal = step_dir(&job, 0).join("journal");
        let version = |number: u32| format!("\"version\":{number},");
        edit(&journal, |text| text.replacen(&version(VERSION), &version(99), 1));
        wait::pause(Duration::from_millis(1100));
        let (code, told) = cleanup(&job, &["--older-than", "1s"]);
        assert_eq!(code, Some(1), "{told:?}");
        let finding = told.iter().find(|finding| finding["kind"] == "journal").unwrap();
        assert!(finding["reason"].as_str().unwrap().contains("version 99"), "{finding}");
        assert!(journal.exists());
        assert_eq!(runtime.cri().pods(job.id()).len(), 1);
        edit(&journal, |text| text.replacen(&version(99), &version(VERSION), 1));
        assert_eq!(cleanup(&job, &[]).0, Some(0));
    });
}

#[test]
fn a_runtime_that_is_away_is_named_in_time_and_the_rest_done() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let (mut pod, mut step) = (job.pod(), job.running(BUSY));
        kill(&mut [&mut step, &mut pod]);
        let journal = step_dir(&job, 0).join("journal");
        let socket = runtime.endpoint().trim_start_matches("unix://").to_owned();
        edit(&journal, |text| text.replace(&socket, "/no/such.sock"));
        let begun = Instant::now();
        let (code, told) = cleanup(&job, &["--timeout", "3s"]);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!((code, with("not_undone", &told)), (Some(1), vec!["pod".to_owned()]), "{told:?}");
        let reason = told.iter().find_map(|finding| finding["reason"].as_str()).unwrap();
        assert!(reason.contains("cannot remove"), "{reason}");
        assert!(!step_dir(&job, 1).exists() && journal.exists());
        edit(&journal, |text| text.replace("/no/such.sock", &socket));
        assert_eq!(cleanup(&job, &[]).0, Some(0));
    });
}

#[test]
fn directories_without_a_journal_and_dead_sockets_go() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let dir = step_dir(&job, 3);
        fs::create_dir_all(dir.join("mounts/0")).unwrap();
        fs::set_permissions(dir.join("mounts"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        fs::write(dir.join("lock"), "").unwrap();
        let record = job.places().temp.join(format!("{}/pod.json", job.id()));
        fs::write(&record, "{}").unwrap();
        let stray = job.places().mount_base.join(format!("{}.4", job.id()));
        fs::create_dir_all(stray.join("0")).unwrap();
        fs::set_permissions(&stray, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        fs::create_dir_all("/tmp/crane").unwrap();
        let [dead, served] = [5, 6].map(|step| PathBuf::from(format!("/tmp/crane/step_{}.{step}.sock", job.id())));
        drop(UnixListener::bind(&dead).unwrap());
        let listener = UnixListener::bind(&served).unwrap();
        wait::pause(Duration::from_millis(2100));
        let (code, told) = cleanup(&job, &["--older-than", "1s"]);
        assert_eq!(code, Some(0), "{told:?}");
        assert!(!dead.exists() && served.exists() && !stray.exists() && !dir.exists(), "{told:?}");
        drop(listener);
        wait::holds("the second look finds the rest", SOON, || {
            cleanup(&job, &["--older-than", "1s"]).0 == Some(0) && !record.exists() && !served.exists()
        });
    });
}

#[test]
fn a_caller_who_is_not_root_is_told() {
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", BINARY, "cleanup"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("needs root"), "{output:?}");
}
