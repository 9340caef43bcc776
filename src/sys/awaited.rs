//! Work whose answer somebody waits for, in a process that ends when nobody does.
//!
//! What the work hangs on (a name service, a lock) says nothing of a reader that was killed.
//! A pipe does: the kernel signals whoever asked for it (`O_ASYNC`, fcntl(2)) when its last
//! reader goes, and SIGIO's default ends the process. It does so, too, when a reader finds the
//! pipe empty: whoever starts us waits until there is something to read, or the end.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::getpid;
use rustix::fs::{FileType, fstat};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Does `work` as long as the pipe that is standard output has a reader. Of another kind of
/// output nobody can be said to read it, so there the work is done in any case.
///
/// # Errors
/// There was no reader to begin with, or the errno of fcntl(2) or sigaction(2).
pub fn while_awaited<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let stdout = io::stdout();
    let answer = stdout.as_fd();
    if FileType::from_raw_mode(fstat(answer)?.st_mode) != FileType::Fifo {
        return Ok(work());
    }
    end_with_reader(answer)?;
    let done = work();
    // Also where it reads a part of the answer the kernel signals: that is no reason to end.
    fcntl(answer, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(done)
}

fn end_with_reader(answer: BorrowedFd<'_>) -> io::Result<()> {
    // Whoever started us may have had it ignored, and that is inherited.
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGIO, SigHandler::SigDfl) }?;
    // SAFETY: takes a descriptor that is open and a number.
    Errno::result(unsafe { libc::fcntl(answer.as_raw_fd(), libc::F_SETOWN, getpid().as_raw()) })?;
    fcntl(answer, FcntlArg::F_SETFL(OFlag::O_ASYNC))?;
    // It may have gone before.
    let mut seen = [PollFd::new(answer, PollFlags::empty())];
    poll(&mut seen, PollTimeout::ZERO)?;
    let is_gone = seen[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
    if is_gone { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
}
