//! Output on real runtimes: every byte once and in order, whatever happens meanwhile.

use crate::support::bed::Bed;
use crate::support::job::Job;
use crate::support::mounting::is_long;
use crate::support::runtime::{on_each, on_each_alone};
use crate::support::supervisor::Supervisor;
use crate::support::{LONG, SOON, wait};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crane_supervisor::outcome::{End, Outcome};
use crane_supervisor::wire::crane::JobStatus;
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;

/// `count` numbered lines and the end.
fn count(lines: u32) -> String {
    format!("i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); done")
}

fn numbered(lines: u32) -> String {
    (0..lines).map(|i| format!("line {i}\n")).collect()
}

fn bounded(init: &mut InitSupervisorRequest, bytes: u64, files: u64) {
    (init.max_log_file_size, init.max_log_file_num) = (bytes, files);
}

/// The files of the container's log, in bytes, the newest first.
fn files(job: &Job) -> Vec<u64> {
    let log = job.places().logs.join(format!("{}.1.container.log", job.id()));
    let file = |n: u64| std::fs::metadata(crane_supervisor::layout::segment(&log, n)).ok();
    (0..100).map_while(file).map(|file| file.len()).collect()
}

#[test]
fn rotation_bounds_the_nodes_disk_and_loses_no_line() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let report = job.run_with(&["sh", "-c", &count(60_000)], |init| bounded(init, 200_000, 3));
        assert_eq!((report.exit_code, report.reason.as_str()), (0, ""));
        assert!(job.output(1, "stdout") == numbered(60_000), "lines differ");
        let files = files(&job);
        let total: u64 = files.iter().sum();
        assert!(files.len() <= 3 && total < 2_000_000, "{files:?}");
        assert!(job.user_log(1).len() as u64 > total, "nothing was dropped from the node: {files:?}");
    });
}

/// The output of step 1 is `wanted`; says where not, and what the records there are.
#[track_caller]
fn same_lines(job: &Job, wanted: &str) {
    let output = job.output(1, "stdout");
    let Some((at, (is, should))) =
        output.lines().zip(wanted.lines()).enumerate().find(|(_, (is, should))| is != should)
    else {
        return assert_eq!(output.len(), wanted.len(), "the rest is missing");
    };
    let records = job.user_log(1);
    let records: Vec<_> = String::from_utf8_lossy(&records).lines().map(str::to_owned).collect();
    let cut = (0..records.len()).filter(|&n| records[n].contains(" P ")).collect::<Vec<_>>();
    let near: Vec<_> = cut.iter().map(|&n| records[n.saturating_sub(1)..records.len().min(n + 3)].to_vec()).collect();
    let lengths = (output.len(), wanted.len());
    panic!("line {at} is {is:?} instead of {should:?}, lengths {lengths:?}; cut records: {near:#?}");
}

/// containerd 1.6 leaves the end of a flood unread when the container exits.
#[test]
fn a_flood_arrives_whole() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let report = job.run_with(&["sh", "-c", "seq 1 1000000"], |init| bounded(init, 2_000_000, 6));
        assert_eq!((report.exit_code, report.reason.as_str()), (0, ""));
        let wanted: String = (1..=1_000_000).map(|i| format!("{i}\n")).collect();
        same_lines(&job, &wanted);
        assert!(job.record(1).output.is_some_and(|output| output.rotations >= 2 && output.dropped_bytes == 0));
    });
}

/// A step that prints numbered lines after its word, with its log rotated once already.
fn amid_numbered_lines(job: &Job) -> Supervisor {
    // More than any machine prints until it is killed.
    let script = format!("echo ready; {}; sleep 300", count(10_000_000));
    let mut step = job.container_with(1, &["sh", "-c", &script], |init| bounded(init, 1_000_000, 100));
    step.execute();
    wait::holds("lines are coming", LONG, || files(job).len() > 1);
    step
}

/// `output` has all of those lines up to some, and not by the supervisor that was killed.
#[track_caller]
fn is_finished(job: &Job, output: &str) {
    let lines = output.lines().count() as u32 - 1;
    // The last line may be one that the kill cut.
    assert!(lines > 0 && format!("ready\n{}", numbered(lines)).starts_with(output.trim_end()), "lines differ");
    assert!(job.supervisor_log(1).contains("copy of the output was finished"), "there was nothing to finish");
}

/// The rest comes from whoever undoes what the dead supervisor left.
#[test]
fn a_supervisor_killed_amid_numbered_lines_leaves_a_whole_copy() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = amid_numbered_lines(&job);
        step.kill9();
        let directory = job.places().temp.join(format!("{}/steps/1", job.id()));
        wait::holds("the step's directory is gone", LONG, || !directory.exists());
        let (output, total) = (job.output(1, "stdout"), files(&job).iter().sum::<u64>());
        assert_eq!(job.user_log(1).len() as u64, total, "{}", job.supervisor_log(1));
        is_finished(&job, &output);
        job.end_pod(pod);
    });
}

/// Nobody was there to do it before the step came again.
#[test]
fn a_successor_finishes_the_copy_before_its_own() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = amid_numbered_lines(&job);
        step.kill9_unguarded();
        let mut step = job.container(&["echo", "second"]);
        step.execute();
        let report = job.ended(&mut step);
        assert_eq!((report.exit_code, report.reason.as_str()), (0, ""), "{}", job.supervisor_log(1));
        let output = job.output(1, "stdout");
        let (first, second) = output.split_at(output.len() - "second\n".len());
        assert_eq!(second, "second\n");
        is_finished(&job, first);
        let aside = |name: &str| name.contains(".before");
        let names = std::fs::read_dir(&job.places().logs).unwrap().flatten().map(|file| file.file_name());
        assert!(!names.into_iter().any(|name| aside(&name.to_string_lossy())), "the old log stays");
        job.end_pod(pod);
    });
}

/// What a killed runtime had in hand is gone; all else arrives once and in order.
#[test]
fn a_runtime_killed_amid_numbered_lines_loses_none_unsaid() {
    on_each_alone(|runtime| {
        let (job, bed) = (Job::on(runtime), Bed::of(runtime, std::time::Duration::ZERO));
        let pod = job.pod();
        let mut step = job.running(&format!("echo ready; sleep 0.3; {}", count(100_000)));
        wait::holds("lines are coming", LONG, || job.runtime_log(1).len() > 100_000);
        bed.stop(Signal::SIGKILL);
        bed.start();
        let report = job.ended(&mut step);
        assert_eq!((report.final_status(), report.exit_code), (JobStatus::Completed, 0), "{}", report.reason);
        job.end_pod(pod);
        let output = job.output(1, "stdout");
        let number = |line: &str| line.strip_prefix("line ").and_then(|number| number.parse::<u32>().ok());
        let numbers: Vec<_> = output.lines().filter_map(number).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "a line came twice or late");
        assert_eq!(numbers.last(), Some(&99_999), "the end is missing");
        let missing = 100_000 - numbers.len();
        assert!(missing == 0 || report.reason.contains("output may be missing"), "{missing} lines; {report:?}");
        let output = job.record(1).output.unwrap();
        assert_eq!(
            (output.may_be_missing, output.problem.unwrap_or_default()),
            (!report.reason.is_empty(), report.reason)
        );
    });
}

#[test]
fn what_a_container_prints_and_ends_with_while_its_runtime_is_down_arrives() {
    on_each_alone(|runtime| {
        let (job, bed) = (Job::on(runtime), Bed::of(runtime, std::time::Duration::ZERO));
        let pod = job.pod();
        let mut step = job.running("echo ready; sleep 3; seq 1 9000; printf end; exit 4");
        let pid = super::e2e::pid_of_running(&job, runtime, 1);
        let log = job.places().logs.join(format!("{}.1.container.log", job.id()));
        let quiet = || log.metadata().unwrap().modified().unwrap().elapsed().is_ok_and(|age| age.as_millis() > 1200);
        wait::holds("nothing is in the runtime's hands", LONG, quiet);
        bed.stop(Signal::SIGKILL);
        wait::holds("the container has ended", LONG, || !Path::new(&format!("/proc/{pid}")).exists());
        bed.start();
        let report = job.ended(&mut step);
        assert_eq!((report.exit_code, report.reason.as_str()), (4, ""));
        job.end_pod(pod);
        let wanted: String = (1..=9000).map(|i| format!("{i}\n")).collect();
        same_lines(&job, &format!("ready\n{wanted}end"));
    });
}

/// 1 GiB in the long size, with rotation all along and an exit right after the last byte.
#[test]
fn a_mass_of_numbered_lines_arrives_once_and_in_order() {
    let count = if is_long() { (1 << 30) / 100 } else { 300_000 };
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let script = format!("awk 'BEGIN {{ for (i = 0; i < {count}; i++) printf \"%099d\\n\", i }}'");
        let mut step = job.container_with(1, &["sh", "-c", &script], |init| bounded(init, 20_000_000, 100));
        step.execute();
        let report = job.craned.wait_for(1, JobStatus::Completing, Duration::from_secs(600));
        step.wait_exit(SOON);
        assert_eq!((report.exit_code, report.reason.as_str()), (0, ""));
        assert!(job.record(1).output.unwrap().rotations > 0);
        // Line by line: it would not fit into memory several times.
        let (mut next, mut begun) = (0, String::new());
        for record in BufReader::new(File::open(job.user_log_path(1)).unwrap()).lines() {
            let record = record.unwrap();
            let (head, text) = record.split_at(record.find(" stdout ").unwrap() + " stdout P ".len());
            begun.push_str(text);
            if head.ends_with("F ") {
                assert_eq!(begun.parse::<u32>(), Ok(next), "in {record}");
                next += 1;
                begun.clear();
            }
        }
        assert_eq!((next, begun.as_str()), (count, ""));
        job.end_pod(pod);
    });
}

#[test]
fn the_final_record_tells_how_a_step_went() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        // Busy for a moment, and not gone before anybody looks.
        let script = "echo hello; head -c 20000000 /dev/urandom | sha256sum >/dev/null; sleep 0.2; exit 3";
        job.run(script);
        let record = job.record(1);
        assert_eq!((record.version, record.job, record.step, &*record.kind), (1, job.id(), 1, "container"));
        assert_eq!(record.outcome, Some(Outcome::Ended(End::Exited(3))));
        assert_eq!((record.verdict.exit_code, &*record.verdict.reason), (3, ""));
        let names: Vec<_> = record.phases.iter().map(|phase| &*phase.name).collect();
        let wanted = "ready user pod mounts image prologs create start running draining cleaning_up reporting";
        assert_eq!(names.join(" "), wanted);
        let running = record.phases.iter().find(|phase| phase.name == "running").unwrap();
        assert!(running.seconds > 0.2 && running.seconds < 60.0 && running.begun.ends_with('Z'), "{running:?}");
        let image = record.image.clone().unwrap();
        assert_eq!(image.reference, runtime.image());
        assert!(
            image.digest.is_some_and(|digest| !digest.is_empty()) && record.pod.is_some() && record.container.is_some()
        );
        let output = record.output.clone().unwrap();
        assert_eq!((output.written_bytes, output.copied_bytes), (job.user_log(1).len() as u64, output.written_bytes));
        assert_eq!((output.dropped_bytes, output.problem), (0, None));
        let usage = record.usage.unwrap();
        assert!(usage.cpu_us.is_some_and(|us| us > 20_000) && usage.memory_peak_bytes.is_some(), "{usage:?}");
        let pod = job.record(0);
        assert_eq!((&*pod.kind, pod.outcome), ("pod", Some(Outcome::PodEnded)));
    });
}

#[test]
fn a_full_home_costs_the_copy_and_is_said_but_changes_no_outcome() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let cwd = &job.places().cwd;
        let (size, user) = ("size=1m,mode=0700", "uid=65534,gid=65534");
        let options = format!("{size},{user}");
        nix::mount::mount(Some("none"), cwd, Some("tmpfs"), nix::mount::MsFlags::empty(), Some(&*options)).unwrap();
        let report = job.run(&count(60_000));
        let (written, copied) = (job.runtime_log(1), job.user_log(1));
        nix::mount::umount2(cwd, nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert_eq!((report.final_status(), report.exit_code), (JobStatus::Completed, 0));
        assert!(report.reason.contains("No space left") && report.reason.contains("not copied"), "{}", report.reason);
        assert!(copied.len() > 500_000 && written.starts_with(&copied));
        let output = job.record(1).output.unwrap();
        assert_eq!(output.written_bytes, written.len() as u64);
        assert_eq!(output.dropped_bytes, (written.len() - copied.len()) as u64);
        assert_eq!(Some(output.problem.unwrap()), Some(report.reason));
    });
}

/// `logs` as an administrator of this job's node types it.
fn logs(job: &Job, options: &[&str]) -> Command {
    let places = job.places();
    let config = places.root.join("config.yaml");
    let text = format!(
        "CraneBaseDir: {}\nSupervisor:\n  LogDir: {}\nContainer:\n  TempDir: {}\n",
        places.base.display(),
        places.logs.display(),
        places.temp.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crane-supervisor"));
    command.arg("logs").arg("-C").arg(config).arg(format!("{}.1", job.id())).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Stdout and stderr of a `logs` that must succeed.
#[track_caller]
fn shown(job: &Job, options: &[&str]) -> (String, String) {
    let output = logs(job, options).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{options:?}: {}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn logs_shows_an_ended_step_as_asked() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        job.run("echo one; echo two; echo bad >&2; sleep 1.2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf end");
        let long = "x".repeat(20_000);
        assert_eq!(shown(&job, &[]), (format!("one\ntwo\n{long}\nend"), "bad\n".into()));
        assert_eq!(shown(&job, &["--stream", "stderr"]), (String::new(), "bad\n".into()));
        assert_eq!(shown(&job, &["--tail", "2"]).0, format!("{long}\nend"));
        let json = shown(&job, &["--json", "--tail", "1"]).0;
        let line: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((line["text"].as_str(), line["newline"].as_bool()), (Some("end"), Some(false)));
        let time = line["time"].as_str().unwrap();
        let (timed, _) = shown(&job, &["-t", "--since", time]);
        assert!(timed.starts_with(time) && timed.ends_with(" end"), "{timed}");
        assert_eq!(shown(&job, &["--until", "1h"]).0, "");
        let (ours, _) = shown(&job, &["--supervisor", "--json"]);
        let mut lines = ours.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let reported = lines.rfind(|line| line["message"] == "reported").unwrap();
        assert!(reported["fields"]["tries"] == "1" && reported["level"] == "INFO", "{reported}");
        let (ours, _) = shown(&job, &["--supervisor", "--tail", "1"]);
        assert!(ours.contains("INFO") && ours.ends_with("done\n"), "{ours}");
        let missing = logs(&job, &["--tail", "x"]).output().unwrap();
        assert_eq!(missing.status.code(), Some(2));
    });
}

#[test]
fn logs_follows_a_live_step_over_rotations_to_its_end() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let script = format!("echo ready; sleep 0.5; {}", count(20_000));
        let mut step = job.running_with(&script, |init| bounded(init, 100_000, 100));
        let followed = logs(&job, &["-f"]).spawn().unwrap();
        let report = job.ended(&mut step);
        let output = followed.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout) == format!("ready\n{}", numbered(20_000)), "lines differ");
        assert_eq!(report.exit_code, 0);
        assert!(files(&job).len() > 1, "nothing was rotated");
        job.end_pod(pod);
    });
}
