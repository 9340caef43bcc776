//! Who the job's user is, asked of the node in a process of its own.

use crate::support::fake_cri::FakeCri;
use crate::support::job::Job;
use crate::support::supervisor::Supervisor;
use crate::support::{LONG, wait};
use crane_supervisor::identity::look_up::LOOK_UP_LIMIT;
use crane_supervisor::wire::crane::{JobStatus, TerminateSource};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Instant;

/// A container step whose user database holds up whoever opens it, and the process that does.
fn while_asked_in_vain(test: impl FnOnce(&Job, &mut Supervisor, i32)) {
    let fake = FakeCri::containerd();
    let job = Job::on_fake(&fake);
    let pod = job.pod();
    let init = job.facts.container_step(1, &["true"]);
    // Without a writer.
    let mut step = job.start_with_etc(&init, "rm passwd && mkfifo passwd");
    step.execute();
    let helper = wait::until(LONG, || asking(i32::try_from(step.pid()).unwrap())).expect("somebody asks");
    wait::holds("it ends with its reader from now on", LONG, || is_signalled(helper));
    let begun = Instant::now();
    test(&job, &mut step, helper);
    wait::holds("the helper is gone", LONG, || is_gone(helper));
    assert!(begun.elapsed() < LOOK_UP_LIMIT / 2, "it ended by its own limit");
    job.end_pod(pod);
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

/// The kernel tells it of its output's reader (O_ASYNC).
fn is_signalled(helper: i32) -> bool {
    let info = std::fs::read_to_string(format!("/proc/{helper}/fdinfo/1")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & libc::O_ASYNC != 0)
}

/// It has ended, whoever its parent is now.
fn is_gone(helper: i32) -> bool {
    let state = |process: procfs::process::Process| process.stat().map(|stat| stat.state);
    procfs::process::Process::new(helper).and_then(state).map_or(true, |state| state == 'Z')
}

#[test]
fn a_user_database_that_hangs_holds_up_no_call_and_nobody_waits_for_it_in_the_end() {
    while_asked_in_vain(|job, step, _| {
        step.check();
        step.terminate(TerminateSource::UserCancel);
        assert_eq!(job.ended(step).final_status(), JobStatus::Cancelled);
    });
}

#[test]
fn the_helper_goes_with_a_killed_supervisor() {
    while_asked_in_vain(|_, step, _| step.kill9());
}

#[test]
fn a_name_services_library_that_aborts_fails_the_step_in_words() {
    while_asked_in_vain(|job, step, helper| {
        kill(Pid::from_raw(helper), Signal::SIGABRT).unwrap();
        let report = job.ended(step);
        let wanted = "cannot look up user 65534: the look-up helper ended with signal: 6";
        assert!(report.final_status() == JobStatus::Failed && report.reason.starts_with(wanted), "{report:?}");
    });
}
