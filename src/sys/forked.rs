//! A question that a child answers: forked, not executed, which saves a program's start.
//!
//! For what may block or load libraries. Forked while one thread is all there is, so the
//! child may do what any process may. It has one descriptor, the pipe for its answer, is
//! killed when we end or lose interest, has no environment, and never returns into our code.
#![allow(unsafe_code)]

use crate::sys::guardian::{NeverReturn, entitle};
use crate::sys::helper::{HelperError, Output};
use crate::sys::pidfd::Process;
use crate::sys::{fds, privileges};
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getppid, pipe2};
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// A question under way; dropped, it is given up.
#[derive(Debug)]
pub struct Asked {
    name: &'static str,
    /// Ours to wait for, once; so the number stays its own.
    child: Option<Pid>,
    answer: Option<OwnedFd>,
}

/// Has a child answer `question`; `name` is what `ps -e` shows of it, 15 bytes at most. No other thread may exist yet.
///
/// # Errors
/// The errno of pipe2(2) or fork(2).
pub fn ask(name: &'static CStr, question: impl FnOnce() -> String) -> io::Result<Asked> {
    debug_assert_eq!(fs::read_dir("/proc/self/task").map_or(1, Iterator::count), 1, "a fork needs a lone thread");
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    let parent = nix::unistd::getpid();
    // SAFETY: no other thread exists, so no lock is held and nothing is half done in the
    // child; it never returns from `answer`.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            Ok(Asked { name: name.to_str().unwrap_or_default(), child: Some(child), answer: Some(reader) })
        }
        ForkResult::Child => answer(parent, name, writer, question),
    }
}

fn answer(parent: Pid, name: &CStr, pipe: OwnedFd, question: impl FnOnce() -> String) -> ! {
    let _never = NeverReturn;
    let _ = prctl::set_name(name);
    entitle(name.to_str().unwrap_or_default());
    // SAFETY: no other thread exists, and nobody holds a part of the environment.
    unsafe { libc::clearenv() };
    // Our parent may have ended before we said so.
    if prctl::set_pdeathsig(Signal::SIGKILL).is_ok() && getppid() == parent {
        let _ = fds::silence_standard();
        let _ = fds::close_others(&mut [pipe.as_raw_fd()]);
        // A library that is loaded must not be the last thing the kernel would kill.
        drop(privileges::ordinary_oom_score());
        let _ = File::from(pipe).write_all(question().as_bytes());
    }
    NeverReturn::end()
}

impl Asked {
    /// Waits for the child's end, takes at most `max_output` bytes of its answer.
    ///
    /// # Errors
    /// [`HelperError`]; it is killed then.
    pub async fn output(mut self, limit: Duration, max_output: u64) -> Result<Output, HelperError> {
        let name = || self.name.to_owned();
        match timeout(limit, self.finish(max_output)).await {
            Ok(result) => result.map_err(|source| HelperError::Run { program: name(), source }),
            Err(_elapsed) => Err(HelperError::TimedOut { program: name(), limit }),
        }
    }

    async fn finish(&mut self, max_output: u64) -> io::Result<Output> {
        let (Some(child), Some(answer)) = (self.child, self.answer.take()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let process = Process::open(child.as_raw())?;
        let mut stdout = Vec::new();
        pipe::Receiver::from_owned_fd(answer)?.take(max_output).read_to_end(&mut stdout).await?;
        process.ended().await?;
        self.child = None;
        Ok(Output { status: wait(child)?, stdout })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        // Fails only where it has ended.
        let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
        let reap = async move {
            if let Ok(process) = Process::open(child.as_raw()) {
                drop(process.ended().await);
            }
            drop(wait(child));
        };
        // Before or after the loop we end at once, and a child that does not is init's.
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(reap));
        }
    }
}

fn wait(child: Pid) -> io::Result<ExitStatus> {
    use nix::sys::wait::WaitStatus;
    match waitpid(child, None)? {
        WaitStatus::Exited(_, code) => Ok(ExitStatus::from_raw(code << 8)),
        WaitStatus::Signaled(_, signal, _) => Ok(ExitStatus::from_raw(signal as i32)),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}
