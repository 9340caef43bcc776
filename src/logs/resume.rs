//! The rest of a copy whose supervisor was killed.
//!
//! No offset is kept: the user's file is the log byte for byte, so its last bytes, looked
//! for in the log, say how far the copy came. Every record has a time, which tells those
//! of an earlier run of the step and makes them unlike any other; a file that the user has
//! changed is left as it is. Called by `cleanup::reaper` once the container is gone, so that
//! nobody writes to the log; what it needs to know is in a file of the step's directory from
//! the copy's begin to its end. A successor, which makes the log anew, sets the old one aside
//! and finishes its copy before it creates a container. Never fails a clean-up: trouble is a warning.

use super::chain::{self, Chain};
use super::line::Record;
use super::rotation;
use super::sink::{Sink, SinkError, UserFile};
use super::stamp;
use super::watch::Watch;
use crate::layout::{self, segment};
use crate::sys::as_user::User;
use crate::sys::files::{self, FilesError, Survives, UserFilePlace};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// How long the user's file system may take.
pub const LIMIT: Duration = Duration::from_secs(30);
/// The same where a container waits for it.
pub const SHORT_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of the user's file that are looked for: more than a record of any runtime's default has.
const TAIL: usize = 24 * 1024;
/// Bytes per read of the search.
const CHUNK: usize = 64 * 1024;
/// Of a file with paths and ids.
const MAX_BYTES: u64 = 1 << 20;
/// The least time between two wake-ups of a watch that nobody waits for.
const NEVER: Duration = Duration::from_secs(1);

/// A copy under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// The runtime's log.
    pub log: PathBuf,
    /// The step's working directory.
    pub cwd: PathBuf,
    /// The directory for output in it, one name.
    pub dir_name: String,
    /// The user's file in that, one name.
    pub file_name: String,
    /// Whose file it is.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Bytes that are kept of it.
    pub cap: Option<u64>,
}

impl Owed {
    /// Writes it down; call before the first byte is copied.
    ///
    /// # Errors
    /// [`FilesError`]; the copy may go on, a kill will cut it off.
    pub fn keep(&self, path: &Path) -> Result<(), FilesError> {
        files::atomic_write(path, &serde_json::to_vec(self).unwrap_or_default(), Survives::Process)
    }
}

/// The copy is over.
pub fn forget(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "a finished copy still counts as owed");
        }
        _ => {}
    }
}

/// Why the rest is not copied.
#[derive(Debug, thiserror::Error)]
enum ResumeError {
    #[error("what is owed, {}, cannot be understood: {source}", path.display())]
    Foreign { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("cannot read the container's log {}: {source}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("cannot set the container's log {} aside: {source}", path.display())]
    Aside { path: PathBuf, source: io::Error },
    #[error("two earlier runs of the step owe a copy; only the first is finished")]
    Twice,
    #[error("the end of {} is not in the container's log: it was changed", .0.display())]
    Changed(PathBuf),
}

/// Sets the log aside whose copy the file at `copy` owes, and writes that down at `before`; nothing where
/// there is none. Called before the container's log is made anew; a runtime may still write to the old one.
pub fn set_aside(copy: &Path, before: &Path) {
    let moved = read(copy).and_then(|owed| owed.map_or(Ok(()), |owed| move_aside(owed, before)));
    if let Err(error) = moved {
        warn(&error);
    }
    forget(copy);
}

fn move_aside(owed: Owed, before: &Path) -> Result<(), ResumeError> {
    if before.exists() {
        return Err(ResumeError::Twice);
    }
    let (log, aside) = (&owed.log, layout::log_before(&owed.log));
    let mut files: Vec<u64> = chain::numbers(log).collect();
    files.reverse();
    Owed { log: aside.clone(), ..owed.clone() }.keep(before)?;
    // The oldest first: without it the others would not be read.
    for number in files {
        let path = segment(log, number);
        fs::rename(&path, segment(&aside, number)).map_err(|source| ResumeError::Aside { path, source })?;
    }
    Ok(())
}

/// As [`finish`], for a log that was set aside, which then goes.
pub async fn finish_before(path: &Path, limit: Duration) {
    match read(path) {
        Ok(None) => {}
        Ok(Some(owed)) => {
            finish(path, limit).await;
            rotation::remove_older(&owed.log);
            // Gone already is as well.
            drop(fs::remove_file(&owed.log));
        }
        Err(error) => {
            warn(&error);
            forget(path);
        }
    }
}

/// Copies what the owner of the file at `path` could not, within `limit`; nothing where there is none.
///
/// Must be called within the runtime, which must then be shut down in the background: a
/// write that hangs is left behind on its thread.
pub async fn finish(path: &Path, limit: Duration) {
    let owed = match read(path) {
        Ok(Some(owed)) => owed,
        Ok(None) => return,
        Err(error) => return warn(&error),
    };
    // Made here, for it registers with the event loop.
    let watch = match Watch::new(&owed.log, NEVER) {
        Ok(watch) => Arc::new(watch),
        Err(source) => return warn(&ResumeError::Log { path: owed.log, source }),
    };
    let given_up = Arc::<AtomicBool>::default();
    let stop = Arc::clone(&given_up);
    match timeout(limit, tokio::task::spawn_blocking(move || copy(owed, watch, stop))).await {
        Ok(Ok(Ok(0))) => {}
        Ok(Ok(Ok(bytes))) => tracing::info!(bytes, "the user's copy of the output was finished"),
        Ok(Ok(Err(error))) => warn(&error),
        Ok(Err(error)) => tracing::error!(%error, "the user's copy of the output ends early"),
        Err(_) => {
            // What comes next may write to the same file.
            given_up.store(true, Ordering::Relaxed);
            tracing::warn!(?limit, "the user's copy of the output ends early: finishing it takes too long");
        }
    }
    forget(path);
}

fn warn(error: &ResumeError) {
    tracing::warn!(%error, "the user's copy of the output ends early");
}

fn read(path: &Path) -> Result<Option<Owed>, ResumeError> {
    match files::read_limited(path, MAX_BYTES) {
        Err(error) if error.kind() == Some(io::ErrorKind::NotFound) => Ok(None),
        read => serde_json::from_slice(&read?)
            .map(Some)
            .map_err(|source| ResumeError::Foreign { path: path.to_owned(), source }),
    }
}

/// Bytes copied.
fn copy(owed: Owed, watch: Arc<Watch>, stop: Arc<AtomicBool>) -> Result<u64, ResumeError> {
    let Owed { log, cwd, dir_name, file_name, uid, gid, groups, cap } = owed;
    let place = UserFilePlace { cwd, dir_name, file_name };
    let target = place.path();
    let mut sink = UserFile::new(place, User { uid, gid, groups }, cap, Arc::default());
    sink.open()?;
    let tail = sink.tail(TAIL)?;
    let failed = |source| ResumeError::Log { path: log.clone(), source };
    let begin = || Chain::oldest(&log, Arc::clone(&watch)).map(|chain| chain.until(Arc::clone(&stop))).map_err(failed);
    let mut chain = begin()?;
    // By time only where need be: clocks are set back.
    if !skip(&mut chain, &tail).map_err(failed)? {
        chain = begin()?;
        let first = first_time(&mut chain).map_err(failed)?;
        if !skip(&mut chain, ours(&tail, first)).map_err(failed)? {
            return Err(ResumeError::Changed(target));
        }
    }
    let copied = AtomicU64::new(0);
    loop {
        sink.copy_from(&mut chain, &copied)?;
        if !chain.advance().map_err(failed)? {
            break;
        }
    }
    sink.close()?;
    Ok(copied.load(Ordering::Relaxed))
}

/// Goes on to behind `needle`, the end of what was copied; false where the log does not have it.
fn skip(chain: &mut Chain, needle: &[u8]) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK];
    let mut seen = Vec::new();
    while !needle.is_empty() {
        let count = chain.read_on(&mut chunk)?;
        if count == 0 {
            return Ok(false);
        }
        seen.extend_from_slice(&chunk[..count]);
        if let Some(at) = seen.windows(needle.len()).position(|part| part == needle) {
            // Within what was read last, or it would have been found before.
            chain.step_back(seen.len() - at - needle.len());
            return Ok(true);
        }
        seen.drain(..seen.len().saturating_sub(needle.len() - 1));
    }
    Ok(true)
}

/// Of the chain's first record; reads nothing on.
fn first_time(chain: &mut Chain) -> io::Result<Option<Duration>> {
    let mut chunk = vec![0; CHUNK];
    let count = chain.read_on(&mut chunk)?;
    chain.step_back(count);
    Ok(chunk[..count].split(|byte| *byte == b'\n').next().and_then(time_of))
}

fn time_of(line: &[u8]) -> Option<Duration> {
    Record::parse_header(line).ok().and_then(|(record, _)| stamp::since_epoch(record.time))
}

/// What of a file's end can be of a log that begins at `begin`: the rest is an earlier run's, or was dropped since.
fn ours(tail: &[u8], begin: Option<Duration>) -> &[u8] {
    let Some(begin) = begin else { return &[] };
    let (mut at, mut end) = (0, 0);
    for line in tail.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        if time_of(line).is_some_and(|time| time < begin) {
            at = end;
        }
    }
    &tail[at..]
}

#[cfg(test)]
mod tests;
