//! One log with the watch on it: read, wait, read on.
//!
//! Called by `run`'s live display and `logs --follow`; only for paths that no user
//! can change.

use super::chain::{Chain, Writers};
use super::watch::Watch;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The least time between two wake-ups: somebody looks at it.
const PACE: Duration = Duration::from_millis(20);

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
    /// It cannot be watched.
    #[error("cannot wait for the log {}: {source}", path.display())]
    Wait {
        /// The log.
        path: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
}

/// One log being followed.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    chain: Chain,
    watch: Arc<Watch>,
    woken: Option<Instant>,
}

impl Follower {
    /// Follows the existing log at `path`, from the begin of the file being written.
    ///
    /// Must be called within the runtime.
    ///
    /// # Errors
    /// [`FollowError`]; anything but a regular file is refused.
    pub fn newest(path: &Path) -> Result<Self, FollowError> {
        Self::with(path, Chain::newest)
    }

    /// As [`Follower::newest`], from the begin of all there is.
    ///
    /// # Errors
    /// As [`Follower::newest`].
    pub fn oldest(path: &Path) -> Result<Self, FollowError> {
        Self::with(path, Chain::oldest)
    }

    fn with(path: &Path, open: impl Fn(&Path, Arc<Watch>) -> io::Result<Chain>) -> Result<Self, FollowError> {
        let watch = Watch::new(path, PACE).map_err(|source| FollowError::Wait { path: path.to_owned(), source })?;
        let watch = Arc::new(watch);
        let chain = open(path, Arc::clone(&watch));
        let chain = chain.map_err(|source| FollowError::Open { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), chain, watch, woken: None })
    }

    /// Waits until the log may have changed since the last wait; read to its end before waiting.
    ///
    /// Cancel safe. Returns at most once per 20 ms, and sometimes with nothing new.
    ///
    /// # Errors
    /// [`FollowError::Wait`].
    pub async fn readable(&mut self) -> Result<(), FollowError> {
        let changed = self.watch.changed(&mut self.woken).await;
        changed.map_err(|source| FollowError::Wait { path: self.path.clone(), source })
    }

    /// Reads on from where the last read stopped; 0 is the present end of the log.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.chain.read_on(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Whether more can come; read on after `None`.
    pub fn writers(&self) -> Writers {
        self.chain.writers()
    }

    /// How often files of the log were removed before they were read.
    pub fn gaps(&self) -> u64 {
        self.chain.gaps()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::files::scratch::Dir;
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::os::unix::fs::symlink;

    const SOON: Duration = Duration::from_millis(60);

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    async fn quiet(follower: &mut Follower) -> bool {
        tokio::time::timeout(SOON, follower.readable()).await.is_err()
    }

    fn rest(follower: &mut Follower) -> String {
        let (mut text, mut buffer) = (Vec::new(), [0; 100]);
        while let count @ 1.. = follower.read(&mut buffer).unwrap() {
            text.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn it_wakes_for_what_is_written_and_for_nothing_else() {
        let dir = Dir::new();
        let path = dir.path().join("log");
        let mut writer = File::create(&path).unwrap();
        run(async {
            let mut follower = Follower::newest(&path).unwrap();
            assert_eq!(rest(&mut follower), "");
            std::fs::write(dir.path().join("other"), "x").unwrap();
            assert!(quiet(&mut follower).await);
            writer.write_all(b"one").unwrap();
            follower.readable().await.unwrap();
            assert_eq!(rest(&mut follower), "one");
            assert!(quiet(&mut follower).await, "one write wakes once");
            writer.write_all(b"two").unwrap();
            follower.readable().await.unwrap();
            assert_eq!(rest(&mut follower), "two");
        });
    }

    #[test]
    fn a_cancelled_wait_loses_no_wake_up() {
        let dir = Dir::new();
        let path = dir.path().join("log");
        File::create(&path).unwrap();
        run(async {
            let mut follower = Follower::newest(&path).unwrap();
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
            assert!(Follower::newest(&path).is_err());
            std::fs::write(&path, "x").unwrap();
            symlink(&path, dir.path().join("link")).unwrap();
            let fifo = dir.path().join("fifo");
            nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
            for other in [dir.path().join("link"), dir.path().to_owned(), fifo] {
                assert!(Follower::newest(&other).is_err(), "{}", other.display());
            }
        });
    }

    #[test]
    fn a_rotation_is_followed_once_the_old_file_is_complete() {
        let dir = Dir::new();
        let path = dir.path().join("log");
        let mut old = File::create(&path).unwrap();
        run(async {
            let mut follower = Follower::newest(&path).unwrap();
            old.write_all(b"1\n").unwrap();
            assert_eq!(rest(&mut follower), "1\n");
            std::fs::rename(&path, dir.path().join("log.1")).unwrap();
            let mut new = File::create(&path).unwrap();
            new.write_all(b"3\n").unwrap();
            follower.readable().await.unwrap();
            assert_eq!(rest(&mut follower), "", "the old file may still grow");
            old.write_all(b"2\n").unwrap();
            drop(old);
            follower.readable().await.unwrap();
            assert_eq!(rest(&mut follower), "2\n3\n");
            // The end of the old watch is an event too.
            assert!(!quiet(&mut follower).await && quiet(&mut follower).await);
            new.write_all(b"4\n").unwrap();
            follower.readable().await.unwrap();
            assert_eq!(rest(&mut follower), "4\n");
            assert_eq!(follower.writers(), Writers::Some);
            drop(new);
            follower.readable().await.unwrap();
            assert_eq!((rest(&mut follower).as_str(), follower.writers()), ("", Writers::None));
        });
    }

    #[test]
    fn several_rotations_at_once_a_removal_and_a_truncation_are_followed() {
        let dir = Dir::new();
        let path = dir.path().join("log");
        let file = |n: u32| dir.path().join(format!("log.{n}"));
        std::fs::write(&path, "1\n").unwrap();
        run(async {
            let mut follower = Follower::newest(&path).unwrap();
            std::fs::rename(&path, file(3)).unwrap();
            std::fs::write(file(2), "2\n").unwrap();
            std::fs::write(file(1), "3\n").unwrap();
            std::fs::write(&path, "4\n").unwrap();
            assert_eq!(rest(&mut follower), "1\n2\n3\n4\n");
            std::fs::rename(&path, file(1)).unwrap();
            std::fs::remove_file(file(1)).unwrap();
            std::fs::remove_file(file(2)).unwrap();
            std::fs::remove_file(file(3)).unwrap();
            std::fs::write(&path, "5 and more\n").unwrap();
            assert_eq!((rest(&mut follower).as_str(), follower.gaps()), ("5 and more\n", 1));
            std::fs::write(&path, "6\n").unwrap();
            assert_eq!(rest(&mut follower), "6\n");
            assert_eq!(rest(&mut Follower::oldest(&path).unwrap()), "6\n");
        });
    }
}
