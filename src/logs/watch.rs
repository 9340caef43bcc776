//! Wakes for changes of at most two files, without polling.
//!
//! Files are watched by inode and not by their directory: one on the shared log
//! directory would wake every supervisor of the node for every line of every step.
//! One inotify instance for each watch, since root has few. While a log grows
//! steadily the waits are paced, so that a flood is read in large pieces instead of
//! line by line. Called by `logs::follow`, `logs::copy` and `logs::spill`.

use crate::sys::async_fd;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, sleep_until};

/// Room for queued events; equal ones are merged by the kernel, so few ever wait.
const EVENTS: usize = 512;
/// First and longest pause between two looks at the log, without inotify.
const TURNS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What a file is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is the one being read.
    Reading,
    /// It is the one being written, which may have to be rotated.
    Rotating,
}

/// The watch on one log.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    /// The least time between two wake-ups.
    pace: Duration,
    /// `None` on a node that is out of inotify instances: then the log is looked at.
    inotify: Option<AsyncFd<OwnedFd>>,
    watched: Mutex<[Option<i32>; 2]>,
    /// How far the log has been read, and in which file; for looking at it.
    read: AtomicU64,
    inode: AtomicU64,
    /// Root has no watch left either.
    blind: AtomicBool,
}

impl Watch {
    /// A watch on nothing yet, for the log at `path`, that wakes once in `pace` at most. Must be called within
    /// the runtime.
    ///
    /// # Errors
    /// The kernel's, other than that root has no inotify instance left.
    pub fn new(path: impl Into<PathBuf>, pace: Duration) -> io::Result<Self> {
        let made = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(io::Error::from);
        let inotify = match made.and_then(async_fd::readable) {
            Ok(inotify) => Some(inotify),
            // The limit counts all of root's processes on the node; output must not hang on it.
            Err(error) if is_shortage(&error) => {
                tracing::warn!(%error, "looking at the log in turns instead; raise fs.inotify.max_user_instances");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            path: path.into(),
            pace,
            inotify,
            watched: Mutex::default(),
            read: 0.into(),
            inode: 0.into(),
            blind: false.into(),
        })
    }

    /// Watches `file` from now on, in place of the one before for the same purpose.
    ///
    /// # Errors
    /// The kernel's; the one before is then still watched.
    pub fn turn_to(&self, file: &File, purpose: Purpose) -> io::Result<()> {
        if purpose == Purpose::Reading {
            self.inode.store(file.metadata()?.ino(), Ordering::Relaxed);
        }
        let Some(inotify) = &self.inotify else { return Ok(()) };
        // By descriptor, so that it is the opened inode whatever the name means by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let wanted = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::MOVE_SELF;
        let new = match inotify::add_watch(inotify.get_ref(), path.as_str(), wanted).map_err(io::Error::from) {
            Err(error) if is_shortage(&error) => {
                if !self.blind.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "looking at the log in turns instead; raise fs.inotify.max_user_watches");
                }
                return Ok(());
            }
            new => new?,
        };
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let old = watched[purpose as usize].replace(new);
        // The kernel has one watch for each inode, whatever it is for.
        if let Some(old) = old.filter(|old| !watched.contains(&Some(*old))) {
            // It went by itself if the file was removed.
            let _ = inotify::remove_watch(inotify.get_ref(), old);
        }
        Ok(())
    }

    /// Wakes when `file`, which is no log, is removed. Where that cannot be had, what happens to the log must do.
    pub fn attend(&self, file: &File) {
        let Some(inotify) = &self.inotify else { return };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        if let Err(error) = inotify::add_watch(inotify.get_ref(), path.as_str(), WatchFlags::ATTRIB) {
            tracing::debug!(%error, "cannot watch for the removal of a FIFO");
        }
    }

    /// Says how far the file turned to has been read.
    pub fn note_read(&self, offset: u64) {
        self.read.store(offset, Ordering::Relaxed);
    }

    /// Waits until the log may have changed since the last wait; look at all of it before waiting.
    ///
    /// Cancel safe. Returns at most once per pace after `woken`, and sometimes with nothing new.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn changed(&self, woken: &mut Option<Instant>) -> io::Result<()> {
        let inotify = match &self.inotify {
            Some(inotify) if !self.blind.load(Ordering::Relaxed) => inotify,
            Some(_) | None => {
                self.looked_at().await;
                return Ok(());
            }
        };
        // The guard keeps the readiness unless cleared below: dropping it here loses nothing.
        drop(inotify.readable().await?);
        if let Some(woken) = *woken {
            sleep_until(woken + self.pace).await;
        }
        *woken = Some(Instant::now());
        take_events(inotify)
    }

    /// Looks less often the longer nothing comes.
    async fn looked_at(&self) {
        let mut pause = TURNS.0;
        loop {
            sleep(pause).await;
            let same = std::fs::metadata(&self.path).is_ok_and(|log| {
                (log.ino(), log.len()) == (self.inode.load(Ordering::Relaxed), self.read.load(Ordering::Relaxed))
            });
            if !same {
                return;
            }
            pause = (pause * 2).min(TURNS.1);
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOSPC))
}

/// Before the reading, so that what is written during it wakes again.
fn take_events(inotify: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut events = [0u8; EVENTS];
    loop {
        match inotify.try_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, &mut events)?)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
