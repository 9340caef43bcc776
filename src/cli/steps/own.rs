//! What a user who is not root can tell of their own steps, by /proc alone.
//!
//! A job is the caller's if a process of theirs is in its cgroup (`…/job_<number>/…`, craned's
//! name); its live steps are told by the arguments of root's supervisors. Nothing else is
//! theirs to read: sockets, records and directories are root's.

use crate::cli::steps::{State, Step, written};
use crate::ids::StepId;
use crate::sys::process;
use std::collections::HashSet;

/// How craned names a supervisor.
const TITLE: &str = "csupervisor: [";

/// Live steps of jobs in which `uid` has processes.
pub fn of(uid: u32) -> Vec<Step> {
    let all = process::all();
    let jobs: HashSet<u32> =
        all.iter().filter(|seen| seen.uid == uid).filter_map(|seen| job_of(&seen.groups)).collect();
    let supervisors =
        all.iter().filter(|seen| seen.uid == 0).filter_map(|seen| Some((seen.pid, step_of(&seen.title)?)));
    let step = |(pid, id): (i32, StepId)| {
        let mut step = Step::new(id, State::Live, "Live");
        (step.uid, step.pid) = (Some(uid), Some(pid));
        step.since = process::started(pid).ok().map(written);
        step
    };
    let mut steps: Vec<_> = supervisors.filter(|(_, id)| jobs.contains(&id.job)).map(step).collect();
    steps.sort_unstable_by_key(Step::id);
    steps.dedup_by_key(|step| step.id());
    steps
}

fn step_of(title: &str) -> Option<StepId> {
    title.strip_prefix(TITLE)?.split_once(']')?.0.parse().ok()
}

/// The job in whose group a process is, by craned's names.
fn job_of(groups: &[String]) -> Option<u32> {
    let job = |path: &String| {
        let (_, below) = path.split_once("/crane/")?;
        below.split('/').find_map(|part| part.strip_prefix("job_")?.parse().ok())
    };
    groups.iter().find_map(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_and_steps_are_read_from_craneds_names() {
        assert_eq!(step_of("csupervisor: [42.1]"), Some(StepId { job: 42, step: 1 }));
        assert_eq!((step_of("csupervisor: 42.1"), step_of("crane-guardian: [42.1]")), (None, None));
        let job = |path: &str| job_of(&[path.to_owned()]);
        assert_eq!((job("/crane/job_42/4f53"), job("/x/crane/overflow/job_7/step_1/user")), (Some(42), Some(7)));
        assert_eq!((job("/"), job("/user.slice/job_3/x"), job("/crane/job_x")), (None, None, None));
    }
}
