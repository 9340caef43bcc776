//! Whether anybody has a file open for writing, as the kernel knows it.
//!
//! The kernel grants a read lease only while nobody has (fcntl(2), F_SETLEASE). It is
//! given back at once; should a writer come in that instant, it waits for that, and
//! the signal for it is one that does nothing by default. Called by `logs::chain`,
//! which must know when the runtime has finished with a log.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Which signal tells of a broken lease (asm-generic/fcntl.h).
const F_SETSIG: libc::c_int = 10;

/// Tells whether a process has `file` open for writing; it must be opened read-only, and be root's.
///
/// # Errors
/// The kernel's, where the file system has no leases.
pub fn is_written(file: &File) -> io::Result<bool> {
    set(file, F_SETSIG, libc::SIGURG)?;
    match set(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => set(file, libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}

fn set(file: &File, command: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: these commands take an int and change only the state of this open file, which outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, value) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::files::scratch::Dir;
    use std::fs::OpenOptions;

    #[test]
    fn a_writer_is_seen_and_nothing_stays() {
        let dir = Dir::new();
        let path = dir.path().join("log");
        let writer = File::create(&path).unwrap();
        let (reader, other) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        assert!(is_written(&reader).unwrap());
        drop(writer);
        for reader in [&reader, &other, &reader] {
            assert!(!is_written(reader).unwrap());
        }
        // No lease is left that would hold this up.
        let _writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(is_written(&reader).unwrap());
    }
}
