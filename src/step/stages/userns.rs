//! A user namespace that was asked for is there, or nothing runs.
//!
//! Some runtimes ignore the wish without a word (containerd 1.6), and what would run
//! then is root of the node.

use super::prepared;
use crate::exit_code;
use crate::identity::idmap::{Range, Ranges};
use crate::spec::PodSpec;
use crate::step::event::Failure;
use crate::sys::process;

/// The ranges of a pod that wants a user namespace, once they are known to hold its user.
pub(super) fn wanted(pod: &PodSpec, ranges: Option<Ranges>) -> Result<Option<Ranges>, Failure> {
    if pod.userns.is_none() {
        return Ok(None);
    }
    let ranges = ranges.ok_or_else(|| prepared("pod_meta.userns: the user's subordinate ids are not known"))?;
    check_run_as("run_as_user", pod.run_as_user, ranges.uids)?;
    check_run_as("run_as_group", pod.run_as_group, ranges.gids)?;
    Ok(Some(ranges))
}

/// Ids past the range would be other users' of the node.
fn check_run_as(field: &str, id: u32, range: Range) -> Result<(), Failure> {
    let refused = || {
        let reason =
            format!("pod_meta.{field}: {id} is not among the {} ids of the user namespace ({range})", range.size());
        Failure::new(exit_code::PERMISSION_DENIED, reason)
    };
    range.outside(id).map(drop).ok_or_else(refused)
}

/// Checks that a process is in a namespace with exactly these ranges.
pub(super) fn check(what: &str, pid: Option<i32>, ranges: Ranges) -> Result<(), Failure> {
    match pid.map(process::id_maps).and_then(Result::ok) {
        Some(maps) if maps == wanted_maps(ranges) => Ok(()),
        Some(_) => Err(missing(what)),
        None => Err(prepared(format!("cannot tell the user namespace of {what}: the runtime names no process of it"))),
    }
}

/// As [`check`], of a process that may have ended.
pub(super) fn check_running(what: &str, pid: i32, ranges: Ranges) -> Result<(), Failure> {
    match process::id_maps(pid) {
        Ok(maps) if maps != wanted_maps(ranges) => Err(missing(what)),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn wanted_maps(ranges: Ranges) -> [Vec<[u32; 3]>; 2] {
    [ranges.uids, ranges.gids].map(|range| vec![[0, range.start(), range.size()]])
}

/// The runtime did not do as it was told.
pub(super) fn missing(what: &str) -> Failure {
    prepared(format!(
        "the runtime put {what} into no user namespace of its own although one was asked for: containerd 1.7 or \
         newer with runc 1.2 or newer, or CRI-O, is needed; nothing of the job was run without one"
    ))
}
