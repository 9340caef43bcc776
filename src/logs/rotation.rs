//! Keeps the runtime's log within its size and number of files.
//!
//! The runtime holds the file open and rotates nothing. So the file gets another name,
//! an empty one takes its place, and the runtime is asked to open its log anew
//! (ReopenContainerLog). Until it does so it goes on writing to the old file, so nothing
//! is lost whatever it answers; it is asked again. The oldest file goes when there are too
//! many, read or not: the node's disk comes first. Called by `logs::copy`.

use super::chain::{self, numbers};
use super::watch::{Purpose, Watch};
use crate::layout::segment;
use crate::sys::files::{self, FilesError};
use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// First and longest pause before the runtime is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Asks the runtime to open the container's log anew; a word why it did not.
pub type Reopen = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// How large a log may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of one file before it is followed by another; 0 is no limit.
    pub max_bytes: u64,
    /// Files, the one being written included; fewer than two mean two.
    pub max_files: u64,
}

/// What is counted of a log while it is copied and rotated.
#[derive(Debug, Default)]
pub struct Tally {
    /// Bytes copied to the user's file.
    pub copied: AtomicU64,
    /// Bytes in files that are removed by now.
    removed: AtomicU64,
    /// How often the log was rotated.
    pub rotations: AtomicU64,
}

impl Tally {
    /// Bytes the runtime has written to the log at `path`, what is removed included.
    pub fn written(&self, path: &Path) -> u64 {
        let there = numbers(path).filter_map(|n| fs::symlink_metadata(segment(path, n)).ok());
        there.map(|file| file.len()).sum::<u64>() + self.removed.load(Ordering::Relaxed)
    }
}

/// Removes what an earlier run's rotations left of the log at `path`.
pub fn remove_older(path: &Path) {
    for number in numbers(path).filter(|&number| number > 0) {
        let old = segment(path, number);
        if let Err(error) = fs::remove_file(&old) {
            tracing::warn!(%error, path = %old.display(), "an earlier run's output stays");
        }
    }
}

/// A log being bounded.
pub struct Rotation {
    path: PathBuf,
    bounds: Bounds,
    reopen: Reopen,
    tally: Arc<Tally>,
    watch: Arc<Watch>,
}

impl Rotation {
    /// Of the log at `path`.
    pub(super) fn new(path: &Path, bounds: Bounds, reopen: Reopen, tally: &Arc<Tally>, watch: &Arc<Watch>) -> Self {
        Self { path: path.to_owned(), bounds, reopen, tally: Arc::clone(tally), watch: Arc::clone(watch) }
    }

    /// Rotates whenever `grown` says to look and it is time. Endless; may be dropped at any time.
    pub(super) async fn run(self, grown: &Notify) {
        if self.bounds.max_bytes == 0 {
            return std::future::pending().await;
        }
        let mut pause = PAUSES.0;
        loop {
            grown.notified().await;
            if !self.is_due() {
                continue;
            }
            if let Err(error) = self.turn_over() {
                tracing::warn!(%error, "the container's log cannot be rotated; trying again");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
                continue;
            }
            pause = PAUSES.0;
            self.until_reopened().await;
        }
    }

    /// Also where somebody removed the file: what is written to it then could be read by nobody else.
    fn is_due(&self) -> bool {
        match fs::symlink_metadata(&self.path) {
            Ok(file) => file.len() >= self.bounds.max_bytes,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// The old file moves up, an empty one takes its place.
    fn turn_over(&self) -> Result<(), FilesError> {
        let failed = |verb| move |source| FilesError::Call { verb, path: self.path.clone(), source };
        let keep = self.bounds.max_files.max(2) - 1;
        let present: Vec<u64> = numbers(&self.path).collect();
        for &number in present.iter().rev() {
            if number >= keep {
                self.remove(number).map_err(failed("remove the oldest file of"))?;
            } else {
                let (from, to) = (segment(&self.path, number), segment(&self.path, number + 1));
                fs::rename(from, to).map_err(failed("rename"))?;
            }
        }
        files::create_anew(&self.path, 0o600)?;
        let new = chain::open(&self.path).map_err(failed("open"))?;
        self.watch.turn_to(&new, Purpose::Rotating).map_err(failed("watch"))?;
        self.tally.rotations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Emptied before it goes: a reader that hangs would keep its blocks.
    fn remove(&self, number: u64) -> io::Result<()> {
        let path = segment(&self.path, number);
        let file = OpenOptions::new().write(true).open(&path)?;
        let size = file.metadata()?.len();
        let before = self.tally.removed.fetch_add(size, Ordering::Relaxed);
        let unread = (before + size).saturating_sub(self.tally.copied.load(Ordering::Relaxed)).min(size);
        if unread > 0 {
            tracing::warn!(bytes = unread, "output is dropped uncopied: the node's cap is reached");
        }
        file.set_len(0)?;
        fs::remove_file(&path)
    }

    async fn until_reopened(&self) {
        let mut pause = PAUSES.0;
        while let Err(problem) = (self.reopen)().await {
            tracing::warn!(problem, "the runtime did not reopen the container's log; asking again");
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        tracing::debug!("the container's log was rotated");
    }
}
