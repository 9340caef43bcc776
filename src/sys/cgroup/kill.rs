//! Ending everything in a control group, and telling of what does not end.
//!
//! v2 has `cgroup.kill`, which takes threaded groups along. On v1 each process is killed by its pidfd after a second look at
//! where it is; one that forks faster than it is killed is frozen meanwhile, where there is a
//! freezer. Works on groups below the one given too. Decides nothing about whose they are.

use crate::sys::pidfd::Process;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// How many groups of a container are looked at; only one with control over groups has more than a few.
const MOST: usize = 65_536;
/// Processes held at once: each takes a descriptor, of which a process often has 1024.
const AT_ONCE: usize = 256;

/// The directories that any hierarchy has for `groups`, those below them included, outermost first.
///
/// # Errors
/// If /proc/self/mountinfo cannot be read, or there are more than 65,536: processes in the rest would be missed.
pub fn directories(groups: &[String]) -> std::io::Result<Vec<PathBuf>> {
    let files = super::member_files(groups)?;
    let tops = files.iter().filter_map(|file| file.parent()).filter(|dir| dir.is_dir());
    let mut found = Vec::new();
    for top in tops {
        let mut open = vec![top.to_owned()];
        while let Some(dir) = open.pop() {
            if found.len() == MOST {
                return Err(std::io::Error::other(format!("more than {MOST} control groups in {}", top.display())));
            }
            open.extend(below(&dir));
            found.push(dir);
        }
    }
    Ok(found)
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Every process in them, ourselves never.
pub fn members(dirs: &[PathBuf]) -> BTreeSet<i32> {
    let us = i32::try_from(std::process::id()).unwrap_or_default();
    dirs.iter().flat_map(|dir| super::read_members(&dir.join("cgroup.procs"))).filter(|pid| *pid != us).collect()
}

/// Ends everything in `groups` where one word does it (v2), however many groups are below.
pub fn kill_trees(groups: &[String]) {
    let tops = super::member_files(groups).unwrap_or_default();
    // v1 has no such file; there each process is killed.
    tops.iter().for_each(|file| drop(fs::write(file.with_file_name("cgroup.kill"), "1")));
}

/// Sends SIGKILL to every process in them, once.
pub fn kill(dirs: &[PathBuf]) {
    // One word ends a whole tree, atomically. v1 has no such file, and may be there beside v2.
    let others: Vec<PathBuf> =
        dirs.iter().filter(|dir| fs::write(dir.join("cgroup.kill"), "1").is_err()).cloned().collect();
    let found: Vec<i32> = members(&others).into_iter().collect();
    found.chunks(AT_ONCE).for_each(|pids| kill_members(pids, &others));
}

/// As [`kill`], with v1's freezer closed meanwhile, so that nothing forks away.
pub fn kill_frozen(dirs: &[PathBuf]) {
    let set = |state: &str| dirs.iter().for_each(|dir| drop(fs::write(dir.join("freezer.state"), state)));
    set("FROZEN");
    kill(dirs);
    set("THAWED");
}

/// Held first and looked at again then: a number cannot become another's in between.
fn kill_members(pids: &[i32], dirs: &[PathBuf]) {
    let held: Vec<Process> = pids.iter().filter_map(|pid| Process::open(*pid).ok()).collect();
    let still = members(dirs);
    for process in held.iter().filter(|process| still.contains(&process.pid)) {
        // What refuses is told by who is still there afterwards.
        let _sent = process.signal(Signal::SIGKILL);
    }
}

/// Removes the directories, innermost first; one in use or already gone is left alone.
pub fn remove(dirs: &[PathBuf]) {
    for dir in dirs.iter().rev() {
        // In use: `members` has told of that. Gone: the runtime was quicker.
        let _removed = fs::remove_dir(dir);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::{Duration, Instant};

    /// Below a group, far below.
    fn inner() -> PathBuf {
        std::iter::repeat_n("inner", 20).collect()
    }

    /// A group of our own in some hierarchy that lets us, with groups below it.
    fn group() -> Option<(String, Vec<PathBuf>)> {
        let name = format!("/crane-kill-{}", std::process::id());
        let takes =
            |h: &super::super::Hierarchy| h.controllers.iter().any(|name| name == "memory" || name == "freezer");
        let places: Vec<_> = super::super::hierarchies().ok()?.into_iter().filter(takes).collect();
        let made = places.iter().filter(|place| {
            let dir = place.mount.join(name.trim_start_matches('/'));
            fs::create_dir_all(dir.join(inner())).is_ok()
        });
        (made.count() > 0).then(|| (name.clone(), directories(&[name]).unwrap()))
    }

    #[test]
    fn a_whole_tree_is_ended_and_removed() {
        let Some((name, dirs)) = group() else {
            // Unprivileged: the container tests do it for real.
            assert!(!nix::unistd::geteuid().is_root() || super::super::hierarchies().unwrap().len() == 1);
            return;
        };
        let mut children: Vec<_> = ["60", "61"].map(|time| Command::new("sleep").arg(time).spawn().unwrap()).into();
        let top = dirs.iter().find(|dir| dir.ends_with(name.trim_start_matches('/'))).unwrap();
        let bottom = dirs.iter().find(|dir| dir.ends_with(inner())).unwrap();
        for (dir, child) in [top, bottom].iter().zip(&children) {
            fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        assert_eq!(members(&dirs).len(), 2);
        kill_frozen(&dirs);
        children.iter_mut().for_each(|child| drop(child.wait()));
        let begun = Instant::now();
        while !members(&dirs).is_empty() && begun.elapsed() < Duration::from_secs(5) {}
        remove(&dirs);
        assert!(directories(&[name]).unwrap().is_empty());
    }
}
