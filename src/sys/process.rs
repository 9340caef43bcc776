//! Other processes, as /proc shows them.

use procfs::process::Process;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_arguments_are_told() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(arguments_of(me).unwrap().first().cloned(), std::env::args().next());
        assert!(groups_of(me).is_ok());
    }
}
