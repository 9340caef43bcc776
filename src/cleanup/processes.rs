//! A container's processes, ended by its recorded cgroup and without the runtime's help.
//!
//! A runtime that hangs ends nothing, and one whose shim was killed says "removed" while
//! the process lives on (containerd 2.1). So a step is clean when the kernel says that the
//! group is empty. What the kernel itself cannot end is named, for the administrator.

use crate::sys::cgroup::kill;
use crate::sys::process::{self, Stuck};
use std::io;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long killed processes may take to go.
const GOING: Duration = Duration::from_secs(2);
/// Between two looks meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// From then on they are frozen while they are killed: they may be forking.
const STUBBORN: Duration = Duration::from_millis(200);
/// As many as an error names.
const NAMED: usize = 4;

/// Processes that do not end.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot kill {} of the container: {}; held in the kernel (a hung file system, a suspended job), it is tried again",
    count(*.all), list(.named)
)]
pub struct Unkillable {
    all: usize,
    named: Vec<Stuck>,
}

/// Processes may be left.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// They do not end.
    #[error(transparent)]
    Unkillable(#[from] Unkillable),
    /// Whether any are left cannot be told.
    #[error("cannot tell whether processes of the container are left in its control groups: {0}")]
    Unknown(#[source] io::Error),
}

fn count(all: usize) -> String {
    if all == 1 { "a process".to_owned() } else { format!("{all} processes") }
}

fn list(named: &[Stuck]) -> String {
    named.iter().map(Stuck::to_string).collect::<Vec<_>>().join(", ")
}

/// Ends everything in `groups`, in whichever hierarchy has them.
///
/// # Errors
/// [`EndError`]; names what is still there after 2 s.
pub async fn end(groups: &[String]) -> Result<(), EndError> {
    let begun = Instant::now();
    kill::kill_trees(groups);
    loop {
        // Anew each time: a process may make groups.
        let dirs = kill::directories(groups).map_err(EndError::Unknown)?;
        let left = kill::members(&dirs);
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > GOING {
            let named = left.iter().take(NAMED).map(|pid| process::stuck(*pid)).collect();
            return Err(Unkillable { all: left.len(), named }.into());
        }
        if begun.elapsed() > STUBBORN {
            kill::kill_frozen(&dirs)
        } else {
            kill::kill(&dirs)
        }
        sleep(LOOK).await;
    }
}

/// Kills everything in `groups` once, without waiting.
pub fn kill_now(groups: &[String]) {
    kill::kill_trees(groups);
    match kill::directories(groups) {
        Ok(dirs) => kill::kill(&dirs),
        Err(error) => tracing::warn!(%error, "cannot find the container's processes"),
    }
}

/// Removes the empty groups that a runtime left behind.
pub fn forget(groups: &[String]) {
    // They stay, empty.
    kill::remove(&kill::directories(groups).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_group_that_is_not_there_has_ended() {
        let gone = ["/no/such/group".to_owned()];
        end(&gone).await.unwrap();
        forget(&gone);
    }

    #[test]
    fn the_survivors_are_named() {
        let named = vec![Stuck { pid: 7, command: "cat".into(), state: 'D', waits_in: "fuse_wait".into() }];
        let text = Unkillable { all: 1, named }.to_string();
        assert!(text.contains("a process of the container: 7 (cat), state D, waiting in fuse_wait"), "{text}");
    }
}
