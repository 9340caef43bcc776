//! Other processes, as /proc shows them.

use procfs::process::Process;
use std::fmt;
use std::fs;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The user and group maps of a process's user namespace, as (inside, outside, how many).
///
/// # Errors
/// If the process is gone.
pub fn id_maps(pid: i32) -> io::Result<[Vec<[u32; 3]>; 2]> {
    let map = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).map(|text| read_map(&text));
    Ok([map("uid_map")?, map("gid_map")?])
}

fn read_map(text: &str) -> Vec<[u32; 3]> {
    let numbers = |line: &str| line.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>().ok();
    text.lines().filter_map(|line| numbers(line)?.try_into().ok()).collect()
}

/// The supplementary groups a process holds.
///
/// # Errors
/// If it is gone.
pub fn groups_of(pid: i32) -> io::Result<Vec<u32>> {
    let status = Process::new(pid).and_then(|process| process.status()).map_err(io::Error::other)?;
    Ok(status.groups)
}

/// A process, as anybody may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub pid: i32,
    /// Whose it is.
    pub uid: u32,
    /// Its first argument.
    pub title: String,
    /// The paths of its cgroups.
    pub groups: Vec<String>,
}

/// Every process that can be seen; one that ends meanwhile is left out.
pub fn all() -> Vec<Seen> {
    let seen = |process: Process| {
        let groups = process.cgroups().ok()?.0.into_iter().map(|group| group.pathname).collect();
        let title = process.cmdline().ok()?.into_iter().next().unwrap_or_default();
        Some(Seen { pid: process.pid, uid: process.uid().ok()?, title, groups })
    };
    procfs::process::all_processes().into_iter().flatten().flatten().filter_map(seen).collect()
}

/// When process `pid` was started.
///
/// # Errors
/// If the process is gone.
pub fn started(pid: i32) -> io::Result<SystemTime> {
    let ticks = Process::new(pid).and_then(|process| process.stat()).map_err(io::Error::other)?.starttime;
    let boot = procfs::boot_time_secs().map_err(io::Error::other)?;
    let per_second = procfs::ticks_per_second().max(1);
    let since_boot = Duration::from_millis(ticks.saturating_mul(1000) / per_second);
    UNIX_EPOCH.checked_add(Duration::from_secs(boot) + since_boot).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The arguments a process was started with.
///
/// # Errors
/// If it is gone.
pub fn arguments_of(pid: i32) -> io::Result<Vec<String>> {
    Process::new(pid).and_then(|process| process.cmdline()).map_err(io::Error::other)
}

/// A process that does not end, as far as the kernel tells why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Its number.
    pub pid: i32,
    /// Its name, by itself.
    pub command: String,
    /// As in /proc/PID/stat; `?` where it cannot be read.
    pub state: char,
    /// The kernel's function it waits in; empty or 0 for none.
    pub waits_in: String,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}), state {}", self.pid, self.command, self.state)?;
        if self.waits_in.is_empty() || self.waits_in == "0" {
            return Ok(());
        }
        write!(f, ", waiting in {}", self.waits_in)
    }
}

/// What /proc tells of a process that does not end.
pub fn stuck(pid: i32) -> Stuck {
    let told = Process::new(pid).and_then(|process| Ok((process.stat()?, process.wchan().unwrap_or_default())));
    let (command, state, waits_in) =
        told.map_or_else(|_| (String::new(), '?', String::new()), |(stat, wchan)| (stat.comm, stat.state, wchan));
    Stuck { pid, command, state, waits_in }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_arguments_are_told() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(arguments_of(me).unwrap().first().cloned(), std::env::args().next());
        assert!(groups_of(me).is_ok());
        let told = stuck(me);
        assert!(told.pid == me && told.state != '?' && !told.command.is_empty(), "{told}");
        assert_eq!(stuck(i32::MAX).state, '?');
    }
}
