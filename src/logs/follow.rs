//! Waits for one log to grow, without polling.
//!
//! The watch is on exactly this inode: one on the shared log directory would wake
//! every supervisor of the node for every line of every step. While the log grows
//! steadily the waits are paced, so that a flood is read in large pieces instead of
//! line by line. Used by `logs::copy` and by `run`'s live display; only for paths
//! that no user can change.

use crate::sys::async_fd;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// The least time between two wake-ups of one follower.
const PACE: Duration = Duration::from_millis(20);
/// Room for queued events; equal ones are merged by the kernel, so few ever wait.
const EVENTS: usize = 512;
/// First and longest pause between two looks at the size, without inotify.
const TURNS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why a log cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// It cannot be opened.
    #[error("cannot open the log {}: {source}", path.display())]
    Open {
        /// The log.
        path: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// It is a fifo, device or directory.
    #[error("cannot follow {}: not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// It cannot be watched.
    #[error("cannot watch the log {}: {source}; see fs.inotify.max_user_instances and max_user_watches", path.display())]
    Watch {
        /// The log.
        path: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// Waiting failed.
    #[error("cannot wait for the log {}: {source}", path.display())]
    Wait {
        /// The log.
        path: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
}

/// One log, read from its beginning, and the watch on it.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Arc<File>,
    /// `None` on a node that is out of inotify instances: then the size is looked at.
    watch: Option<AsyncFd<OwnedFd>>,
    woken: Option<Instant>,
}

impl Follower {
    /// Follows the existing log at `path`, from its beginning.
    ///
    /// Must be called within the runtime.
    ///
    /// # Errors
    /// [`FollowError`]; a symbolic link is refused.
    pub fn open(path: &Path) -> Result<Self, FollowError> {
        Self::follow(path, OpenOptions::new().read(true))
    }

    /// As [`Follower::open`], making the log (0600) if the runtime has not yet: it appends to an existing one.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn open_or_create(path: &Path) -> Result<Self, FollowError> {
        // Creating needs write access, but nothing is ever written.
        Self::follow(path, OpenOptions::new().read(true).append(true).create(true).mode(0o600))
    }

    fn follow(path: &Path, how: &mut OpenOptions) -> Result<Self, FollowError> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let opened = how.custom_flags(flags).open(path).and_then(|file| Ok((file.metadata()?.is_file(), file)));
        let (regular, file) = opened.map_err(|source| FollowError::Open { path: path.to_owned(), source })?;
        if !regular {
            return Err(FollowError::NotRegular(path.to_owned()));
        }
        let watch = match watch(&file) {
            Ok(watch) => Some(watch),
            // The limit counts all of root's processes on the node; output must not hang on it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOSPC)) => {
                tracing::warn!(%error, "looking at the log in turns instead; raise fs.inotify.max_user_instances");
                None
            }
            Err(source) => return Err(FollowError::Watch { path: path.to_owned(), source }),
        };
        Ok(Self { path: path.to_owned(), file: Arc::new(file), watch, woken: None })
    }

    /// Waits until the log may have grown since the last wait; read to its end before waiting.
    ///
    /// Cancel safe. Returns at most once per 20 ms, and sometimes with nothing new.
    ///
    /// # Errors
    /// [`FollowError::Wait`].
    pub async fn readable(&mut self) -> Result<(), FollowError> {
        let failed = |source| FollowError::Wait { path: self.path.clone(), source };
        let Some(watch) = &self.watch else { return self.grown().await.map_err(failed) };
        let ready = watch.readable().await.map_err(failed)?;
        // The guard keeps the readiness unless cleared below: dropping it here loses nothing.
        drop(ready);
        if let Some(woken) = self.woken {
            tokio::time::sleep_until(woken + PACE).await;
        }
        self.woken = Some(Instant::now());
        take_events(watch).map_err(failed)
    }

    /// Looks at the size, less often the longer nothing comes.
    async fn grown(&self) -> io::Result<()> {
        let mut pause = TURNS.0;
        loop {
            tokio::time::sleep(pause).await;
            if self.file.metadata()?.len() > (&*self.file).stream_position()? {
                return Ok(());
            }
            pause = (pause * 2).min(TURNS.1);
        }
    }

    /// Reads on from where the last read stopped; 0 is the present end of the log.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&*self.file).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Ends the watch on another thread: the kernel takes 10 to 20 ms for closing one, and an end is to be told.
    ///
    /// Must be called within the runtime.
    pub fn let_go(self) {
        drop(tokio::task::spawn_blocking(move || drop(self)));
    }

    /// The open log, to be read elsewhere; its position is shared.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}

/// Before the reading, so that what is written during it wakes again.
fn take_events(watch: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut events = [0u8; EVENTS];
    loop {
        match watch.try_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, &mut events)?)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn watch(file: &File) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    // By descriptor, so that it is the opened inode whatever the name means by now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    inotify.add_watch(path.as_str(), AddWatchFlags::IN_MODIFY)?;
    async_fd::readable(inotify.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::files::scratch::Dir;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    const SOON: Duration = Duration::from_millis(60);

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    async fn quiet(follower: &mut Follower) -> bool {
        tokio::time::timeout(SOON, follower.readable()).await.is_err()
    }

    #[test]
    fn it_wakes_for_what_is_written_and_for_nothing_else() {
        let dir = Dir::new();
        let path = dir.path().join("log");
        let mut writer = File::create(&path).unwrap();
        run(async {
            let mut follower = Follower::open(&path).unwrap();
            let mut buffer = [0; 16];
            assert_eq!(follower.read(&mut buffer).unwrap(), 0);
            std::fs::write(dir.path().join("other"), "x").unwrap();
            assert!(quiet(&mut follower).await);
            writer.write_all(b"one").unwrap();
            follower.readable().await.unwrap();
            assert_eq!(follower.read(&mut buffer).unwrap(), 3);
            assert!(quiet(&mut follower).await, "one write wakes once");
            writer.write_all(b"two").unwrap();
            follower.readable().await.unwrap();
            assert_eq!(follower.read(&mut buffer).unwrap(), 3);
            assert_eq!(&buffer[..3], b"two");
        });
    }

    #[test]
    fn a_cancelled_wait_loses_no_wake_up() {
        let dir = Dir::new();
        let path = dir.path().join("log");
        run(async {
            let mut follower = Follower::open_or_create(&path).unwrap();
            follower.woken = Some(Instant::now() + Duration::from_millis(100));
            OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
            // Cancelled within the pacing.
            assert!(tokio::time::timeout(Duration::from_millis(10), follower.readable()).await.is_err());
            tokio::time::timeout(Duration::from_secs(5), follower.readable()).await.unwrap().unwrap();
        });
    }

    #[test]
    fn only_a_regular_file_by_its_own_name_is_followed() {
        let dir = Dir::new();
        let path = dir.path().join("log");
        run(async {
            assert!(matches!(Follower::open(&path), Err(FollowError::Open { .. })));
            std::fs::write(&path, "x").unwrap();
            symlink(&path, dir.path().join("link")).unwrap();
            assert!(matches!(Follower::open(&dir.path().join("link")), Err(FollowError::Open { .. })));
            assert!(matches!(Follower::open(dir.path()), Err(FollowError::NotRegular(_))));
            let fifo = dir.path().join("fifo");
            nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
            assert!(matches!(Follower::open(&fifo), Err(FollowError::NotRegular(_))));
        });
    }
}
