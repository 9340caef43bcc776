//! Other processes, as /proc shows them.

use procfs::process::Process;
use std::io;

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
