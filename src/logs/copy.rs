//! The one copy of a container's output: from the runtime's log to the user's file.
//!
//! A task on the main runtime waits for the log to grow; each time, one blocking
//! closure copies all there is and ends, so that a quiet step holds neither thread
//! nor buffer, and a hung file system holds up nobody but that closure. The first
//! failure stops the copy and becomes one warning: a step is never lost for its
//! output's sake. Called by the driver: `start` before the container, `drain` after.

use super::follow::{FollowError, Follower};
use super::sink::{Sink, SinkError, UserFile};
use crate::sys::as_user::User;
use crate::sys::files::UserFilePlace;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What is copied where, and as whom.
#[derive(Clone, Debug)]
pub struct CopyPlan {
    /// The runtime's log: a path no user can change. Made if the runtime has not yet.
    pub source: PathBuf,
    /// The step's working directory.
    pub cwd: PathBuf,
    /// The directory for output in it, one name.
    pub dir_name: String,
    /// The user's file in that, one name.
    pub file_name: String,
    /// Whose file it is.
    pub user: User,
}

/// What became of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySummary {
    /// Bytes written to the user's file.
    pub copied: u64,
    /// Bytes of the log that were not.
    pub left: u64,
    /// One line for the user; `None` when everything was copied.
    pub warning: Option<String>,
}

/// Why a copy is not complete.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("cannot write {}: the file system did not answer within {} s", path.display(), limit.as_secs_f32())]
    Hung { path: PathBuf, limit: Duration },
    #[error("cannot write {}: the copy crashed; see the supervisor's log", .0.display())]
    Crashed(PathBuf),
}

/// A running copy. Dropped without [`Copier::drain`], it stops where it is.
#[derive(Debug)]
pub struct Copier {
    target: PathBuf,
    copied: Arc<AtomicU64>,
    /// `None` when the log could not even be opened.
    running: Option<Running>,
    failed: Option<CopyError>,
}

#[derive(Debug)]
struct Running {
    log: Arc<File>,
    /// Sent when the log grows no more.
    ended: oneshot::Sender<()>,
    task: Joined,
}

/// A task that does not outlive its parent.
#[derive(Debug)]
struct Joined(JoinHandle<Result<(), CopyError>>);

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Copier {
    /// Begins the copy; the user's file is made at once, even if nothing is ever printed.
    ///
    /// Must be called within the runtime. Failures show in the log, once, and in
    /// the summary of [`Copier::drain`].
    pub fn start(plan: CopyPlan) -> Self {
        let CopyPlan { source, cwd, dir_name, file_name, user } = plan;
        let place = UserFilePlace { cwd, dir_name, file_name };
        let target = place.path();
        match Follower::open_or_create(&source) {
            Ok(follower) => Self::with_sink(follower, target, UserFile::new(place, user)),
            Err(error) => {
                let error = CopyError::from(error);
                warn(&error);
                Self { target, copied: Arc::default(), running: None, failed: Some(error) }
            }
        }
    }

    fn with_sink(follower: Follower, target: PathBuf, sink: impl Sink) -> Self {
        let copied = Arc::new(AtomicU64::new(0));
        let (ended, end) = oneshot::channel();
        let log = follower.file();
        let work = Work { sink, log: Arc::clone(&log), copied: Arc::clone(&copied) };
        let path = target.clone();
        let task = Joined(tokio::spawn(async move { copy(work, follower, end, path).await.inspect_err(warn) }));
        Self { target, copied, running: Some(Running { log, ended, task }), failed: None }
    }

    /// Copies what is left and ends; call it when the runtime says that the container has ended.
    ///
    /// Takes at most `limit`, whatever the user's file system does; a write that
    /// hangs is left behind on its thread, so the runtime must be shut down in the
    /// background.
    pub async fn drain(self, limit: Duration) -> CopySummary {
        let Self { target, copied, running, mut failed } = self;
        let mut size = 0;
        if let Some(Running { log, ended, mut task }) = running {
            // Nobody listens any more when the copy has failed before.
            let _ = ended.send(());
            failed = match tokio::time::timeout(limit, &mut task.0).await {
                Ok(Ok(result)) => result.err(),
                Ok(Err(_)) => Some(CopyError::Crashed(target)),
                Err(_) => Some(CopyError::Hung { path: target, limit }).inspect(warn),
            };
            size = log.metadata().map_or(0, |log| log.len());
        }
        let copied = copied.load(Ordering::Relaxed);
        let left = size.saturating_sub(copied);
        let warning = failed.map(|error| format!("{error}; {left} bytes of output were not copied"));
        CopySummary { copied, left, warning }
    }
}

fn warn(error: &CopyError) {
    tracing::warn!(%error, "the user's copy of the output stops");
}

/// What goes to the blocking thread and comes back.
struct Work<S> {
    sink: S,
    log: Arc<File>,
    copied: Arc<AtomicU64>,
}

async fn copy<S: Sink>(
    work: Work<S>,
    mut follower: Follower,
    mut ended: oneshot::Receiver<()>,
    target: PathBuf,
) -> Result<(), CopyError> {
    // What is written between this first pass and the wait has woken the follower already.
    let mut work = step(work, &target, |work| work.sink.open()).await?;
    work = step(work, &target, Work::pass).await?;
    loop {
        let last = tokio::select! {
            biased;
            _ = &mut ended => true,
            grown = follower.readable() => { grown?; false }
        };
        work = step(work, &target, Work::pass).await?;
        if last {
            let closed = blocking(&target, move || work.sink.close()).await;
            follower.let_go();
            return closed;
        }
    }
}

impl<S: Sink> Work<S> {
    fn pass(&mut self) -> Result<(), SinkError> {
        self.sink.copy_from(&self.log, &self.copied)
    }
}

/// One call on the blocking thread; after a failure the file is closed there too, since that may hang.
async fn step<S: Sink>(
    mut work: Work<S>,
    target: &Path,
    call: impl FnOnce(&mut Work<S>) -> Result<(), SinkError> + Send + 'static,
) -> Result<Work<S>, CopyError> {
    blocking(target, move || match call(&mut work) {
        Ok(()) => Ok(work),
        Err(error) => {
            // The first failure is the one that counts.
            let _ = work.sink.close();
            Err(error)
        }
    })
    .await
}

async fn blocking<T: Send + 'static>(
    target: &Path,
    call: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, CopyError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(CopyError::Crashed(target.to_owned())),
    }
}

#[cfg(test)]
mod tests;
