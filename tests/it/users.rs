//! Who the job's user is, asked of the node in a process of its own.

use crate::support::fake_cri::FakeCri;
use crate::support::job::Job;
use crate::support::supervisor::Supervisor;
use crate::support::{LONG, wait};
use crane_supervisor::wire::crane::{JobStatus, TerminateSource};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A container step of `job` whose user database holds up whoever opens it, and the process that does.
fn step_that_asks_in_vain(job: &Job) -> (Supervisor, i32) {
    let init = job.facts.container_step(1, &["true"]);
    // Without a writer.
    let mut step = job.start_with_etc(&init, "rm passwd && mkfifo passwd");
    step.execute();
    let asks = wait::until(LONG, || asking(i32::try_from(step.pid()).unwrap())).expect("somebody asks");
    (step, asks)
}

/// The helper by which a step looks its user up.
fn asking(step: i32) -> Option<i32> {
    let all = procfs::process::all_processes().unwrap().flatten();
    let mut helpers = all.filter(|process| {
        process.stat().is_ok_and(|stat| stat.ppid == step)
            && process.cmdline().is_ok_and(|words| words.iter().any(|word| word == "lookup-user"))
    });
    helpers.next().map(|process| process.pid)
}

/// It is gone, whoever its parent is now.
fn is_gone(helper: i32) -> bool {
    kill(Pid::from_raw(helper), None).is_err()
}

#[test]
fn a_user_database_that_hangs_holds_up_no_call_and_nobody_waits_for_it_in_the_end() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let (mut step, helper) = step_that_asks_in_vain(&job);
    step.check();
    step.terminate(TerminateSource::UserCancel);
    assert_eq!(job.ended(&mut step).final_status(), JobStatus::Cancelled);
    wait::holds("the helper is gone", LONG, || is_gone(helper));
    job.end_pod(pod);
}

#[test]
fn the_helper_goes_with_a_killed_supervisor() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let (mut step, helper) = step_that_asks_in_vain(&job);
    step.kill9();
    wait::holds("the helper is gone", LONG, || is_gone(helper));
    job.end_pod(pod);
}

#[test]
fn a_name_services_library_that_aborts_fails_the_step_in_words() {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let (mut step, helper) = step_that_asks_in_vain(&job);
    kill(Pid::from_raw(helper), Signal::SIGABRT).unwrap();
    let report = job.ended(&mut step);
    assert_eq!(report.final_status(), JobStatus::Failed);
    assert!(report.reason.starts_with("cannot look up user 65534: "), "{report:?}");
    job.end_pod(pod);
}
