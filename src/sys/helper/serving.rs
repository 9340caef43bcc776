//! A child that serves until its own end, with a socket to it and its words read.
//!
//! Dropping it ends nothing: what it serves may still be in use.

use super::{HelperError, command, reap};
use crate::sys::pidfd::Process;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use tokio::net::unix::pipe;
use tokio::runtime::Handle;

/// The child.
#[derive(Debug)]
pub struct Serving {
    process: Process,
    child: RefCell<Option<Child>>,
    control: UnixStream,
}

/// Starts `program` with one end of a socket as its standard input; what it writes
/// to stdout and stderr is in the pipe returned.
///
/// # Errors
/// [`HelperError::Run`].
pub fn serve<S: AsRef<OsStr>>(program: &Path, args: &[S]) -> Result<(Serving, pipe::Receiver), HelperError> {
    let failed = |source| HelperError::Run { program: program.display().to_string(), source };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let (read, write) = io::pipe().map_err(failed)?;
    let output = pipe::Receiver::from_owned_fd(read.into()).map_err(failed)?;
    let child = command(program, args)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(write.try_clone().map_err(failed)?)
        .stderr(write)
        .spawn()
        .map_err(failed)?;
    let process = Process::open(i32::try_from(child.id()).unwrap_or_default()).map_err(failed)?;
    Ok((Serving { process, child: RefCell::new(Some(child)), control: ours }, output))
}

impl Serving {
    /// Our end of the socket.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// The child itself.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// How it ended; `None` while it runs.
    pub fn status(&self) -> Option<ExitStatus> {
        self.child.borrow_mut().as_mut().and_then(|child| child.try_wait().ok().flatten())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let (Some(child), Ok(runtime)) = (self.child.take(), Handle::try_current()) {
            drop(runtime.spawn(reap(child)));
        }
    }
}
