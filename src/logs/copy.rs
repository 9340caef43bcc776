//! The one copy of a container's output: from the runtime's log to the user's file.
//!
//! A task on the main runtime waits for the log to grow; each time, one blocking
//! closure copies all there is and ends, so that a quiet step holds neither thread
//! nor buffer, and a hung file system holds up nobody but that closure: the log is
//! rotated all the same. The first failure stops the copy and becomes one warning: a
//! step is never lost for its output's sake. Called by the driver: `start` before the
//! container, `drain` after.

use super::chain::{Chain, Writers};
use super::rotation::{Bounds, Reopen, Rotation, Tally};
use super::sink::{Sink, SinkError, UserFile};
use super::spill::{Fifos, Spill, Spilled};
use super::watch::Watch;
use crate::sys::as_user::User;
use crate::sys::files::UserFilePlace;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// The least time between two passes: a flood is copied in pieces large enough to cost little more than `cat`.
const PACE: Duration = Duration::from_millis(100);
/// How long after the container's end the runtime may take to close its log.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// What no count can tell.
const MISSING: &str = "some output may be missing: the runtime went away or did not read it to its end";
/// The same where the file system cannot tell whether it has.
const SETTLE: Duration = Duration::from_millis(100);

/// What is copied where, and as whom.
pub struct CopyPlan {
    /// The runtime's log: a path no user can change.
    pub source: PathBuf,
    /// How large that may grow.
    pub bounds: Bounds,
    /// Has the runtime open it anew.
    pub reopen: Reopen,
    /// What the runtime fills the log from.
    pub fifos: Fifos,
    /// The step's working directory.
    pub cwd: PathBuf,
    /// The directory for output in it, one name.
    pub dir_name: String,
    /// The user's file in that, one name.
    pub file_name: String,
    /// Whose file it is.
    pub user: User,
    /// Bytes that are kept of it; the older half goes first.
    pub cap: Option<u64>,
}

/// What became of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopySummary {
    /// Bytes the runtime wrote to its log.
    pub written: u64,
    /// Bytes written to the user's file.
    pub copied: u64,
    /// Bytes of the log that were not.
    pub left: u64,
    /// Bytes that the cap of the user's file has removed again.
    pub removed: u64,
    /// How often the log was rotated.
    pub rotations: u64,
    /// What the runtime did not write to its log.
    pub spilled: Spilled,
    /// One line for the user; `None` when everything was copied.
    pub warning: Option<String>,
}

/// Why a copy is not complete.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error("cannot read the container's log {}: {source}", path.display())]
    Source { path: PathBuf, source: io::Error },
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
    source: PathBuf,
    target: PathBuf,
    tally: Arc<Tally>,
    removed: Arc<AtomicU64>,
    spilled: Arc<OnceLock<Spilled>>,
    /// `None` when the log could not even be opened.
    running: Option<Running>,
    failed: Option<CopyError>,
}

#[derive(Debug)]
struct Running {
    /// Sent when the container has ended.
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
        let CopyPlan { source, bounds, reopen, fifos, cwd, dir_name, file_name, user, cap } = plan;
        let place = UserFilePlace { cwd, dir_name, file_name };
        let target = place.path();
        let removed = Arc::default();
        let sink = UserFile::new(place, user, cap, Arc::clone(&removed));
        Self { removed, ..Self::with_sink(source, target, bounds, reopen, fifos, sink) }
    }

    fn with_sink(
        source: PathBuf,
        target: PathBuf,
        bounds: Bounds,
        reopen: Reopen,
        fifos: Fifos,
        sink: impl Sink,
    ) -> Self {
        let (tally, spilled) = (Arc::<Tally>::default(), Arc::<OnceLock<Spilled>>::default());
        let opened = Watch::new(&source, PACE).map(Arc::new);
        let opened = opened.and_then(|watch| Ok((Chain::newest(&source, Arc::clone(&watch))?, watch)));
        let (running, failed) = match opened {
            Ok((chain, watch)) => {
                let rotation = Rotation::new(&source, bounds, reopen, &tally, &watch);
                let spill = (Spill::new(&source, fifos, &watch), Arc::clone(&spilled));
                let work = Work { sink, chain, tally: Arc::clone(&tally), ended: false };
                let (ended, end) = oneshot::channel();
                let place = Place { source: source.clone(), target: target.clone() };
                let task = Joined(tokio::spawn(output(work, place, watch, rotation, spill, end)));
                (Some(Running { ended, task }), None)
            }
            Err(error) => {
                let error = CopyError::Source { path: source.clone(), source: error };
                warn(&error);
                (None, Some(error))
            }
        };
        Self { source, target, tally, removed: Arc::default(), spilled, running, failed }
    }

    /// Copies what is left and ends; call it when the runtime says that the container has ended.
    ///
    /// The runtime may write the last of it a moment later: what counts is that it has
    /// closed its log. Takes at most `limit`, whatever the user's file system does; a
    /// write that hangs is left behind on its thread, so the runtime must be shut down
    /// in the background.
    pub async fn drain(self, limit: Duration) -> CopySummary {
        let Self { source, target, tally, removed, spilled, running, mut failed } = self;
        if let Some(Running { ended, mut task }) = running {
            // Nobody listens any more when the copy has failed before.
            let _ = ended.send(());
            failed = match timeout(limit, &mut task.0).await {
                Ok(Ok(result)) => result.err(),
                Ok(Err(_)) => Some(CopyError::Crashed(target)),
                Err(_) => Some(CopyError::Hung { path: target, limit }).inspect(warn),
            };
        }
        let (written, copied) = (tally.written(&source), tally.copied.load(Ordering::Relaxed));
        let (left, removed) = (written.saturating_sub(copied), removed.load(Ordering::Relaxed));
        let warning = match failed {
            Some(error) => Some(format!("{error}; {left} bytes of output were not copied")),
            None if left > 0 => Some(format!(
                "{left} bytes of output were not copied: the container wrote faster than the user's file could take it, and its log is bounded"
            )),
            None if removed > 0 => {
                Some(format!("the first {removed} bytes of output were removed from the user's file: it is capped"))
            }
            None => None,
        };
        let spilled = spilled.get().copied().unwrap_or_default();
        let warning = match warning {
            None if spilled.missing => Some(MISSING.to_owned()),
            Some(warning) if spilled.missing => Some(format!("{warning}; {MISSING}")),
            other => other,
        };
        let rotations = tally.rotations.load(Ordering::Relaxed);
        CopySummary { written, copied, left, removed, rotations, spilled, warning }
    }
}

fn warn(error: &CopyError) {
    tracing::warn!(%error, "the user's copy of the output stops");
}

/// What goes to the blocking thread and comes back.
struct Work<S> {
    sink: S,
    chain: Chain,
    tally: Arc<Tally>,
    /// The container has: the log must be closed before the copy is complete.
    ended: bool,
}

/// For messages.
struct Place {
    source: PathBuf,
    target: PathBuf,
}

/// Copies and rotates until the end is told and the copy is complete.
async fn output<S: Sink>(
    work: Work<S>,
    place: Place,
    watch: Arc<Watch>,
    rotation: Rotation,
    (spill, spilled): (Spill, Arc<OnceLock<Spilled>>),
    ended: oneshot::Receiver<()>,
) -> Result<(), CopyError> {
    let (to_copy, to_rotate, to_spill) = (Notify::new(), Notify::new(), Notify::new());
    let (tell_whole, mut whole) = oneshot::channel();
    // What the runtime left is in the log before the copy looks for its end.
    let completed = async {
        tokio::select! {
            _ = ended => {}
            () = spill.watch(&to_spill) => {}
        }
        let until = Instant::now() + CLOSE_LIMIT;
        let _ = spilled.set(spill.finish(&to_spill, until).await);
        // Nobody listens any more when the copy is over.
        let _ = tell_whole.send(until);
        std::future::pending().await
    };
    let copied = async {
        let copied = copy(work, &place.target, &to_copy, &mut whole).await.inspect_err(warn);
        // The node's disk is bounded until the end whatever became of the copy; it may have failed after that.
        if copied.is_err() && !whole.is_terminated() {
            let _ = (&mut whole).await;
        }
        copied
    };
    let result = tokio::select! {
        copied = copied => copied,
        () = rotation.run(&to_rotate) => Ok(()),
        () = completed => Ok(()),
        error = tell(&watch, [&to_copy, &to_rotate, &to_spill]) => {
            Err(CopyError::Source { path: place.source.clone(), source: error }).inspect_err(warn)
        }
    };
    // The kernel takes 10 to 20 ms for closing a watch, and an end is to be told.
    drop(tokio::task::spawn_blocking(move || drop(watch)));
    result
}

/// Tells all of every change of the log. Ends only with an error.
async fn tell(watch: &Watch, whom: [&Notify; 3]) -> io::Error {
    let mut woken = None;
    loop {
        if let Err(error) = watch.changed(&mut woken).await {
            return error;
        }
        whom.into_iter().for_each(Notify::notify_one);
    }
}

async fn copy<S: Sink>(
    work: Work<S>,
    target: &Path,
    grown: &Notify,
    ended: &mut oneshot::Receiver<Instant>,
) -> Result<(), CopyError> {
    let mut work = step(work, target, |work| work.sink.open().map(|()| Writers::Some)).await?.0;
    let mut until = None;
    loop {
        let writers;
        (work, writers) = step(work, target, Work::pass).await?;
        match (until, writers) {
            (None, _) => tokio::select! {
                biased;
                limit = &mut *ended => {
                    work.ended = true;
                    until = Some(limit.unwrap_or_else(|_| Instant::now()));
                }
                () = grown.notified() => {}
            },
            (Some(until), Writers::Some) if Instant::now() < until => tokio::select! {
                () = grown.notified() => {}
                () = sleep_until(until) => {}
            },
            (Some(_), Writers::Unknown) if work.ended => {
                work.ended = false;
                sleep(SETTLE).await;
            }
            (Some(_), writers) => {
                if writers == Writers::Some {
                    tracing::warn!(
                        "the runtime has not closed the container's log; what it still writes is not copied"
                    );
                }
                return blocking(target, move || work.sink.close()).await;
            }
        }
    }
}

impl<S: Sink> Work<S> {
    /// Copies all there is; after the container's end tells whether that was all.
    fn pass(&mut self) -> Result<Writers, SinkError> {
        self.copy_all()?;
        if !self.ended {
            return Ok(Writers::Unknown);
        }
        let writers = self.chain.writers();
        // The last word may have been written just before the look.
        self.copy_all()?;
        Ok(writers)
    }

    /// The sink acts as the user, who may not open our log: what must be opened is opened in between.
    fn copy_all(&mut self) -> Result<(), SinkError> {
        loop {
            self.sink.copy_from(&mut self.chain, &self.tally.copied)?;
            let more = self.chain.advance();
            if !more.map_err(|source| SinkError::Read { path: self.chain.path().to_owned(), source })? {
                return Ok(());
            }
        }
    }
}

/// One call on the blocking thread; after a failure the file is closed there too, since that may hang.
async fn step<S: Sink>(
    mut work: Work<S>,
    target: &Path,
    call: impl FnOnce(&mut Work<S>) -> Result<Writers, SinkError> + Send + 'static,
) -> Result<(Work<S>, Writers), CopyError> {
    blocking(target, move || match call(&mut work) {
        Ok(writers) => Ok((work, writers)),
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
