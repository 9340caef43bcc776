//! Processes held by pidfd: when one ends, and how.
//!
//! A pidfd never means another process, however often its number is reused.
//! `PIDFD_GET_INFO` (Linux 6.15) gives the exit status of a process that was
//! not our child, once its parent has reaped it.
#![allow(unsafe_code)]

use crate::failpoint;
use crate::outcome::End;
use crate::sys::async_fd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// `struct pidfd_info` in its first size (include/uapi/linux/pidfd.h).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `_IOWR(0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16) | (0xFF << 8) | 11;
/// Asks for, and on return marks, `exit_code`.
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// One process, held.
#[derive(Debug)]
pub struct Process {
    /// Its number in our pid namespace, for logs and /proc.
    pub pid: i32,
    fd: OwnedFd,
}

/// Whether this kernel's pidfds tell how a process ended (Linux 6.15 and newer).
///
/// By the kernel's version: a flag it does not know is no error to it.
pub fn tells_ends() -> bool {
    const SINCE: (u32, u32) = (6, 15);
    !failpoint::old_kernel() && kernel() >= Some(SINCE)
}

/// Major and minor version of the running kernel.
pub fn kernel() -> Option<(u32, u32)> {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    version_of(&release.unwrap_or_default())
}

/// `6.1.0-28-amd64` is (6, 1).
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

impl Process {
    /// Holds the process with this number.
    ///
    /// # Errors
    /// ESRCH if there is none.
    pub fn open(pid: i32) -> io::Result<Self> {
        let number = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        // NONBLOCK so that the runtime may poll it.
        let fd = rustix::process::pidfd_open(number, PidfdFlags::NONBLOCK)?;
        Ok(Self { pid, fd })
    }

    /// How it ended; `None` while it runs, is not reaped yet, or the kernel
    /// (before 6.15) cannot say.
    pub fn end(&self) -> Option<End> {
        if failpoint::old_kernel() {
            return None;
        }
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
        // SAFETY: the pointer is to a live struct whose size is encoded in the
        // request; a kernel without this request fails with ENOTTY.
        let rc = unsafe { libc::ioctl(self.fd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        (rc == 0 && info.mask & PIDFD_INFO_EXIT != 0).then(|| end_of_status(info.exit_code))
    }

    /// Whether it has ended, reaped or not.
    pub fn has_ended(&self) -> bool {
        let mut wanted = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut wanted, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Blocks until it has ended, at most `limit`.
    pub fn wait(&self, limit: Duration) {
        let mut wanted = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let _ended_or_not = poll(&mut wanted, timeout);
    }

    /// Sends a signal; a process that has ended is success.
    ///
    /// # Errors
    /// The errno of pidfd_send_signal(2).
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.signal_number(signal as libc::c_int)
    }

    /// As [`Process::signal`], by the kernel's number: the real-time signals have no name.
    ///
    /// # Errors
    /// As [`Process::signal`].
    pub fn signal_number(&self, number: i32) -> io::Result<()> {
        // SAFETY: plain system call on a descriptor we own; no siginfo is passed.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                number,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match io::Error::last_os_error() {
            _ if rc == 0 => Ok(()),
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        }
    }

    /// Waits, without polling, until the process has ended.
    ///
    /// # Errors
    /// If the runtime cannot watch the descriptor.
    pub async fn ended(&self) -> io::Result<()> {
        let watched = async_fd::readable(self.fd.try_clone()?)?;
        let _ready = watched.readable().await?;
        Ok(())
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads a wait(2) status.
pub(super) fn end_of_status(status: i32) -> End {
    let signal = u8::try_from(status & 0x7f).unwrap_or(0);
    match signal {
        0 => End::Exited(u8::try_from((status >> 8) & 0xff).unwrap_or(0)),
        _ => End::Signalled(signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_version_is_read() {
        assert_eq!(version_of("6.1.0-28-amd64"), Some((6, 1)));
        assert_eq!(version_of("5.14.0-427.el9.x86_64"), Some((5, 14)));
        assert_eq!(version_of("6.15-rc1"), Some((6, 15)));
        assert_eq!(version_of("6"), None);
        assert_eq!(version_of(""), None);
    }

    #[test]
    fn a_wait_status_tells_exit_from_signal() {
        assert_eq!(end_of_status(0x700), End::Exited(7));
        assert_eq!(end_of_status(0x8200), End::Exited(130));
        assert_eq!(end_of_status(9), End::Signalled(9));
        // 0x80: core dumped.
        assert_eq!(end_of_status(0x8b), End::Signalled(11));
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods)]
    async fn the_end_of_a_process_is_seen_and_told() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read x; exit 130"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let process = Process::open(child.id() as i32).unwrap();
        assert_eq!(process.end(), None);
        drop(child.stdin.take());
        process.ended().await.unwrap();
        child.wait().unwrap();
        assert!(process.has_ended());
        // `None` is the honest answer of kernels before 6.15.
        assert!(matches!(process.end(), Some(End::Exited(130)) | None));
        process.signal(Signal::SIGKILL).unwrap();
    }
}
