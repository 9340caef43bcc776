//! Other processes, as /proc shows them.

use procfs::process::Process;
use std::fmt;
use std::fs;
use std::io;

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
