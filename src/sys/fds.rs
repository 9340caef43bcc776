//! File descriptors: claiming those craned left us, closing all others, and
//! turning the standard ones into /dev/null.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// A descriptor number from the command line cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FdError {
    /// Not given.
    #[error("--{option} is missing: craned passes the number of a pipe")]
    Missing {
        /// `input-fd` or `output-fd`.
        option: &'static str,
    },
    /// Negative, or one of the three standard ones.
    #[error("--{option} {number}: not a descriptor above 2")]
    OutOfRange {
        /// `input-fd` or `output-fd`.
        option: &'static str,
        /// As given.
        number: i32,
    },
    /// Not open, or open the wrong way round.
    #[error("--{option} {number}: {problem}")]
    Unusable {
        /// `input-fd` or `output-fd`.
        option: &'static str,
        /// As given.
        number: i32,
        /// What the kernel says of it.
        problem: &'static str,
    },
}

/// Which way a claimed descriptor is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// craned writes, we read.
    Input,
    /// We write, craned reads.
    Output,
}

impl Direction {
    fn option(self) -> &'static str {
        match self {
            Self::Input => "input-fd",
            Self::Output => "output-fd",
        }
    }
}

/// Takes ownership of the descriptor craned passed by number.
///
/// # Errors
/// [`FdError`] if it is missing, out of range, closed or open the wrong way.
pub fn claim(number: Option<RawFd>, direction: Direction) -> Result<OwnedFd, FdError> {
    let option = direction.option();
    let number = number.ok_or(FdError::Missing { option })?;
    if number <= 2 {
        return Err(FdError::OutOfRange { option, number });
    }
    let unusable = |problem| FdError::Unusable { option, number, problem };
    // SAFETY: borrowed only for the two fcntl calls below, which fail with
    // EBADF and touch nothing if the number is not open.
    let probe = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl(probe, FcntlArg::F_GETFL).map_err(|_| unusable("not an open descriptor"))?;
    let access = OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE;
    match direction {
        Direction::Input if access == OFlag::O_WRONLY => return Err(unusable("not readable")),
        Direction::Output if access == OFlag::O_RDONLY => return Err(unusable("not writable")),
        Direction::Input | Direction::Output => {}
    }
    fcntl(probe, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|_| unusable("cannot be made close-on-exec"))?;
    // SAFETY: open (checked above), passed to us to own by craned, and claimed
    // once per number: the caller refuses equal numbers.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor above 2 except `keep`.
///
/// craned closes all others before exec; nothing of ours may depend on that.
///
/// # Errors
/// The errno of close_range(2).
pub fn close_others(keep: &mut [RawFd]) -> io::Result<()> {
    keep.sort_unstable();
    let mut first: libc::c_uint = 3;
    for &fd in keep.iter() {
        let Ok(fd) = libc::c_uint::try_from(fd) else {
            continue;
        };
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: called before anything of ours owns a descriptor other than the kept
    // ones, or in a forked child that never runs an owner's code again.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Points stdin, stdout and stderr at /dev/null.
///
/// # Errors
/// If /dev/null cannot be opened.
pub fn silence_standard() -> io::Result<()> {
    let null: File = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

/// Points stdin alone at /dev/null.
///
/// # Errors
/// If /dev/null cannot be opened.
pub fn silence_input() -> io::Result<()> {
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    Ok(())
}

/// Reads from a descriptor, but never past one moment.
pub struct TimedReader<'a> {
    fd: BorrowedFd<'a>,
    until: Instant,
}

impl<'a> TimedReader<'a> {
    /// Reads from `fd` for at most `limit` from now, over all reads together.
    pub fn new(fd: &'a impl AsFd, limit: Duration) -> Self {
        Self { fd: fd.as_fd(), until: Instant::now() + limit }
    }
}

impl Read for TimedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut wanted = [PollFd::new(self.fd, PollFlags::POLLIN)];
            match poll(&mut wanted, timeout) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(nix::unistd::read(self.fd, buffer)?),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn a_missing_negative_standard_or_closed_number_is_refused() {
        assert_eq!(claim(None, Direction::Input).unwrap_err(), FdError::Missing { option: "input-fd" });
        for number in [-1, 0, 2] {
            assert!(matches!(claim(Some(number), Direction::Output), Err(FdError::OutOfRange { .. })));
        }
        assert!(matches!(claim(Some(987_654), Direction::Input), Err(FdError::Unusable { .. })));
    }

    #[test]
    fn a_pipe_held_the_wrong_way_round_is_refused() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        assert!(claim(Some(reader.as_raw_fd()), Direction::Output).is_err());
        assert!(claim(Some(writer.as_raw_fd()), Direction::Input).is_err());
        assert!(claim(Some(reader.into_raw_fd()), Direction::Input).is_ok());
    }

    #[test]
    fn a_silent_peer_does_not_hold_the_reader_past_its_limit() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        let mut timed = TimedReader::new(&reader, Duration::from_millis(20));
        assert_eq!(timed.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
