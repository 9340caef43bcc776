//! Turning this process into another program that reads again what we have read.
//!
//! The bytes go into a new pipe under the old descriptor's number; where a pipe cannot
//! hold them all, a process that is nobody's child writes the rest. Nothing else of the
//! process changes. Must be called while only one thread exists.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, execv, fork, pipe2, write};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Puts `bytes`, and the end of the stream after them, where `number` is.
///
/// # Errors
/// The errno of the call that failed; `number` is then as it was.
pub fn replace_input(number: RawFd, bytes: &[u8]) -> io::Result<()> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    if let Ok(size) = libc::c_int::try_from(bytes.len()) {
        // Refused past /proc/sys/fs/pipe-max-size to all but root: then a process writes the rest.
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size));
    }
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let rest = write_what_fits(&writer, bytes)?;
    if !rest.is_empty() {
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?;
        leave_writing(&reader, &writer, rest)?;
    }
    // SAFETY: `number` was craned's input descriptor and nobody here owns it any more;
    // dup2 replaces it in one step and leaves it open across exec.
    match unsafe { libc::dup2(reader.as_raw_fd(), number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn write_what_fits<'a>(writer: &OwnedFd, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match write(writer, rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(rest)
}

/// A grandchild, so that the program to come has no child it does not know.
fn leave_writing(reader: &OwnedFd, writer: &OwnedFd, rest: &[u8]) -> io::Result<()> {
    // SAFETY: one thread is all there is, so no lock is held in the child; it ends in
    // `_exit` without running anything of the parent's.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            while waitpid(child, None) == Err(Errno::EINTR) {}
            Ok(())
        }
        ForkResult::Child => {
            // SAFETY: as above.
            if let Ok(ForkResult::Child) = unsafe { fork() } {
                write_rest(reader, writer, rest);
            }
            // SAFETY: ends this process at once; nothing of the parent's is flushed.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Holds nothing but the writing end; a reader that goes away ends it.
fn write_rest(reader: &OwnedFd, writer: &OwnedFd, rest: &[u8]) {
    // SAFETY: the copy of a descriptor in this process, which nobody uses again.
    unsafe { libc::close(reader.as_raw_fd()) };
    // Standard streams too: craned must see their end when the program closes them.
    let keep = writer.as_raw_fd();
    for fd in 0..=2 {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
    if super::fds::close_others(&mut [keep]).is_err() {
        return;
    }
    let mut rest = rest;
    while !rest.is_empty() {
        match write(writer, rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Leaves `fd` open across exec, or not.
///
/// # Errors
/// The errno of fcntl(2).
pub fn keep_across_exec(fd: BorrowedFd<'_>, keep: bool) -> io::Result<()> {
    let flags = if keep { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Becomes `program`, with our own environment and these arguments, the name first.
/// Returns only if that failed.
pub fn become_program(program: &Path, arguments: Vec<OsString>) -> io::Error {
    let plain = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::other);
    let arguments: Result<Vec<CString>, _> = arguments.into_iter().map(|word| plain(word.into_vec())).collect();
    let (program, arguments) = match (plain(program.as_os_str().as_bytes().to_vec()), arguments) {
        (Ok(program), Ok(arguments)) => (program, arguments),
        (Err(error), _) | (_, Err(error)) => return error,
    };
    match execv(&program, &arguments) {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::IntoRawFd;

    fn read_back(length: usize) {
        let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let number = File::open("/dev/null").unwrap().into_raw_fd();
        replace_input(number, &bytes).unwrap();
        let mut read = Vec::new();
        let mut input =
            File::from(super::super::fds::claim(Some(number), super::super::fds::Direction::Input).unwrap());
        input.read_to_end(&mut read).unwrap();
        assert!(read == bytes, "{} of {length} bytes", read.len());
    }

    #[test]
    fn what_was_read_is_read_again_and_then_the_stream_ends() {
        for length in [0, 1, 4096, 65_536, 65_537, 1 << 20, (1 << 20) + 1] {
            read_back(length);
        }
    }
}
