//! Locking the restrictions of a bind mount, so that no runtime takes them off.
//!
//! OCI runtimes remount a bind with the options they were told, and CRI can tell them
//! neither nosuid nor nodev. The kernel refuses to clear flags of a mount that was copied
//! into the mount namespace of a lesser user namespace (mount_namespaces(7)); the copy
//! keeps that when it comes back. A runtime then keeps the flags it may not clear.

use crate::mounts::error::{MountError, staging};
use crate::mounts::table;
use crate::sys::fd_passing;
use crate::sys::helper::{self, HelperError, serving};
use crate::sys::mount_api::Tree;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// The hidden command of the helper.
pub const COMMAND: &str = "lock-mounts";
/// How long the helper may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long the words of a helper that failed may take to arrive.
const WORDS_LIMIT: Duration = Duration::from_millis(100);

/// Replaces the mounts at `points` by copies whose flags are locked.
///
/// # Errors
/// [`MountError::Helper`], [`MountError::Stage`].
pub async fn lock(points: &[PathBuf]) -> Result<(), MountError> {
    let program = Path::new(helper::OURSELVES);
    let failed = |source| HelperError::Run { program: COMMAND.to_owned(), source };
    let arguments = std::iter::once(OsString::from(COMMAND)).chain(points.iter().map(OsString::from));
    let (helper, mut words) = serving::serve(program, &arguments.collect::<Vec<_>>())?;
    if timeout(LIMIT, helper.process().ended()).await.is_err() {
        drop(helper.process().signal(nix::sys::signal::Signal::SIGKILL));
        return Err(HelperError::TimedOut { program: COMMAND.to_owned(), limit: LIMIT }.into());
    }
    if !helper.status().is_some_and(|status| status.success()) {
        let mut said = [0; 500];
        let length = timeout(WORDS_LIMIT, words.read(&mut said)).await.ok().and_then(Result::ok).unwrap_or(0);
        let said = String::from_utf8_lossy(&said[..length]).trim().to_owned();
        return Err(failed(io::Error::other(said)).into());
    }
    for point in points {
        let (_, mut fds) = fd_passing::receive(helper.control(), 2).map_err(failed)?;
        let Some(copy) = fds.pop() else { return Err(failed(io::ErrorKind::UnexpectedEof.into()).into()) };
        table::detach_lazily(point);
        Tree::from(copy).attach(point).map_err(staging("mount", point))?;
    }
    Ok(())
}

/// The helper: copies each mount from within a user namespace and sends it back.
///
/// # Errors
/// The kernel's.
pub fn copy(points: &[PathBuf]) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    for point in points {
        let pinned = open(point, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        fd_passing::send(io::stdin(), b"\n", &[Tree::of(pinned)?.as_fd()])?;
    }
    Ok(())
}
