//! A second, tiny process that outlives this one, to run a command after it.
//!
//! Forked while one thread is all there is, so the child may do what any process may,
//! and its memory stays shared with ours. It holds our pidfd and, where one was given, a
//! connection (`sys::line`), sleeps without a timeout, and when we have ended executes our own program, if a given file
//! is still there. It is never told anything, never wakes up before, and never returns
//! into our code. Which command and which file is `cleanup::guardian`'s affair.
#![allow(unsafe_code)]

use crate::sys::pidfd::Process;
use crate::sys::{fds, helper, line, memory};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, execve, fork, getpid, setsid};
use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What a guardian's name is in `ps -e`; 15 bytes at most.
const COMM: &std::ffi::CStr = c"crane-guardian";

/// What a guardian does when we have ended.
#[derive(Debug)]
pub struct Orders {
    /// Only while this is there.
    pub file: PathBuf,
    /// The arguments for our own program, its name first.
    pub arguments: Vec<OsString>,
    /// What `ps` shows as its command line until then.
    pub title: String,
    /// A connection that is not to end with us while a call is under way on it.
    pub line: Option<line::Held>,
}

/// Our guardian.
#[derive(Debug)]
pub struct Guardian {
    child: Pid,
}

/// Starts one. No other thread may exist yet.
///
/// # Errors
/// The errno of pidfd_open(2) or fork(2).
pub fn start(orders: Orders) -> io::Result<Guardian> {
    debug_assert_eq!(fs::read_dir("/proc/self/task").map_or(1, Iterator::count), 1, "a guardian needs a lone thread");
    let ward = Process::open(getpid().as_raw())?;
    // SAFETY: no other thread exists (see above), so no lock is held and nothing is
    // half done in the child; it never returns from `guard`.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Guardian { child }),
        ForkResult::Child => guard(&ward, orders),
    }
}

impl Guardian {
    /// Its number. It is our child and not waited for, so the number stays its own.
    pub fn pid(&self) -> i32 {
        self.child.as_raw()
    }

    /// Ends it: what we leave behind is in other hands.
    pub fn dismiss(self) {
        // Both fail only where it is gone.
        let _ = nix::sys::signal::kill(self.child, Signal::SIGKILL);
        let _ = waitpid(self.child, None);
    }
}

/// Ends the process where a panic would unwind into the parent's code.
struct NeverReturn;

impl Drop for NeverReturn {
    fn drop(&mut self) {
        end()
    }
}

fn end() -> ! {
    // SAFETY: ends this process at once; nothing of the parent's is flushed or run.
    unsafe { libc::_exit(1) }
}

/// The whole life of a guardian.
fn guard(ward: &Process, orders: Orders) -> ! {
    let _never = NeverReturn;
    // Each failure leaves a guardian that is only less tidy.
    let _ = setsid();
    let _ = fds::silence_standard();
    let line = orders.line.as_ref().map(line::Held::descriptors);
    let mut kept: Vec<RawFd> = line.into_iter().flatten().chain([ward.as_fd().as_raw_fd()]).collect();
    let _ = fds::close_others(&mut kept);
    let _ = nix::sys::prctl::set_name(COMM);
    entitle(&orders.title);
    memory::trim();
    memory::trim_stack();
    let mut wanted = [PollFd::new(ward.as_fd(), PollFlags::POLLIN)];
    while poll(&mut wanted, PollTimeout::NONE) == Err(Errno::EINTR) {}
    if let Some(line) = &orders.line {
        line.linger();
    }
    if orders.file.exists() {
        let plain = |text: OsString| CString::new(text.into_vec()).unwrap_or_default();
        let arguments: Vec<CString> = orders.arguments.into_iter().map(plain).collect();
        let environment = [plain(format!("PATH={}", helper::SEARCH_PATH).into())];
        let _ = execve(&plain(helper::OURSELVES.into()), &arguments, &environment);
    }
    end()
}

/// Writes `title` over our arguments, where /proc shows it.
fn entitle(title: &str) {
    let Ok(stat) = procfs::process::Process::myself().and_then(|me| me.stat()) else { return };
    let (Some(start), Some(end)) = (stat.arg_start, stat.arg_end) else { return };
    let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end)) else { return };
    // The last byte stays 0: by that the kernel knows where to stop.
    let Some(room) = end.checked_sub(start).filter(|_| start != 0).and_then(|size| size.checked_sub(1)) else { return };
    let length = title.len().min(room);
    let place = start as *mut u8;
    // SAFETY: the kernel put our arguments' bytes at start..end of our writable stack; no other
    // thread exists, and nobody reads the arguments in this process again.
    unsafe {
        place.write_bytes(0, room);
        place.copy_from_nonoverlapping(title.as_ptr(), length);
    }
}
