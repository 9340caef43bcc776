//! The supervisor's own log: its level at run time, and what is never in it.

use crate::support::init::Edit;
use crate::support::job::Job;
use crate::support::runtime::on_each;
use crate::support::{LONG, wait};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn sigusr1_turns_the_log_up_and_back_while_the_step_runs() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let pod = job.pod();
        let mut step = job.running_with("echo ready; sleep 300", |init| init.debug_level = "info".into());
        let calls = || job.supervisor_log(1).matches("CRI call").count();
        assert_eq!(calls(), 0, "calls are debug");
        for (level, number) in [("Debug", 1), ("Trace", 2), ("Info", 3), ("Debug", 4)] {
            step.signal(Signal::SIGUSR1);
            wait::holds("the log says so", LONG, || {
                let log = job.supervisor_log(1);
                let changes: Vec<_> = log.lines().filter(|line| line.contains("log level changed")).collect();
                changes.len() == number && changes[number - 1].contains(&format!("level={level} configured=Info"))
            });
        }
        step.terminate(crane_supervisor::wire::crane::TerminateSource::UserCancel);
        job.ended(&mut step);
        assert!(calls() > 0, "calls are told from now on");
        job.end_pod(pod);
    });
}

/// All files below `dir` that hold `canary`.
fn files_with(dir: &Path, canary: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(path) = open.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => open.extend(entries.flatten().map(|entry| entry.path())),
            Err(_) => {
                let text = fs::read(&path).unwrap_or_default();
                if text.windows(canary.len()).any(|part| part == canary.as_bytes()) {
                    found.push(path);
                }
            }
        }
    }
    found
}

/// The job's, the step's and the container's own; and what a failed start says of them.
#[test]
fn no_environment_value_is_in_any_file_of_ours_even_at_trace() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let canary = format!("canary-{}", job.id());
        let pod = job.pod_with(|init| {
            init.debug_level = "trace".into();
            init.env.insert("POD_TOKEN".into(), canary.clone());
        });
        for (number, command) in [(1, &["sh", "-c", "test -n \"$TOKEN$JOB_TOKEN\"; exit 5"][..]), (2, &["/missing"])] {
            let mut step = job.container_with(number, command, |init| {
                init.debug_level = "trace".into();
                init.env.insert("JOB_TOKEN".into(), canary.clone());
                init.spec().env.insert("STEP_TOKEN".into(), canary.clone());
                init.container().env.insert("TOKEN".into(), canary.clone());
            });
            step.execute();
            let report = job.ended(&mut step);
            assert_eq!(report.exit_code, if number == 1 { 5 } else { 324 }, "{}", report.reason);
            assert!(!format!("{report:?}").contains(&canary));
            assert!(job.supervisor_log(number).contains("DEBUG"), "a log without words proves nothing");
        }
        let places = job.places();
        let found: Vec<_> = [&places.base, &places.logs, &places.temp, &places.cwd]
            .into_iter()
            .flat_map(|dir| files_with(dir, &canary))
            .collect();
        assert_eq!(found, <[PathBuf; 0]>::default());
        job.end_pod(pod);
    });
}
