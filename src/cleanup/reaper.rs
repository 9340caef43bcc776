//! Undoing for a supervisor that has no time left or was killed: a process of its own
//! session, outside the job's cgroups, which craned does not wait for.

use crate::cleanup::claim::{self, ClaimError, Lock};
use crate::cleanup::entry::{Entry, Header};
use crate::cleanup::guardian;
use crate::cleanup::journal::{self, JournalError};
use crate::cleanup::perform::{still_running, undo_one, until_undone};
use crate::cri::client::{Client, Limits};
use crate::cri::endpoint::{Endpoint, EndpointError};
use crate::layout::StepDir;
use crate::logs::resume;
use crate::sys::cgroup;
use crate::sys::helper::{self, HelperError};
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How long a reaper may be in starting, within craned's 2 s.
const START_LIMIT: Duration = Duration::from_millis(400);
/// How long a reaper waits for its supervisor to let go of the lock.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
/// How long a dead supervisor's lock may stay held: by a helper it was just starting, until that
/// has executed its program.
const DYING: Duration = Duration::from_secs(1);
/// How long a reaper keeps trying, a long outage of the runtime included.
const REAP_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// How often a reaper looks whether it is still wanted.
const LOOK_FOR_JOURNAL: Duration = Duration::from_secs(5);

/// A step could not be reaped.
#[derive(Debug, thiserror::Error)]
pub enum ReapError {
    /// Its journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Its lock or directory.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The journal names no runtime.
    #[error("the journal's runtime {0}")]
    Endpoint(#[from] EndpointError),
    /// Its supervisor is still at it.
    #[error("{0} is still supervised; not touched")]
    Supervised(String),
    /// Time is up.
    #[error("not everything could be undone within {REAP_LIMIT:?}; its journal {0} stays")]
    Unfinished(String),
}

/// Starts a reaper for `dir` that outlives us and the job.
///
/// # Errors
/// [`HelperError`]: then the journal stays for the next clean-up.
pub async fn launch(dir: &StepDir, unsettled: Duration, begin: Begin) -> Result<i32, HelperError> {
    let args = arguments(dir, unsettled, begin);
    helper::detached(Path::new(helper::OURSELVES), &args, START_LIMIT).await
}

/// When a reaper begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// As soon as the supervisor that is about to end lets go of the lock.
    OnceLetGo,
    /// At once: a lock that is held now is a successor's, who does the work.
    IfOrphaned,
}

/// The command line of a reaper, after the program's name.
pub fn arguments(dir: &StepDir, unsettled: Duration, begin: Begin) -> Vec<OsString> {
    let mut arguments = vec![COMMAND.into(), "--unsettled".into(), unsettled.as_secs().to_string().into()];
    if begin == Begin::IfOrphaned {
        arguments.push("--orphaned".into());
    }
    // The last: by it and the command a new supervisor of the step knows its reaper.
    arguments.push(dir.path().into());
    arguments
}

/// How a reaper ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// Nothing is left.
    All,
    /// Another process has the step, and with it what is owed.
    Elsewhere,
}

/// The command a reaper is started with; by it a new supervisor of the step knows one.
pub const COMMAND: &str = "reap";

/// Leaves the job, so that its end does not end us.
pub fn detach() {
    // Fails only for a group leader, which already stands apart.
    let _ = nix::unistd::setsid();
    if let Err(error) = cgroup::leave_all() {
        tracing::warn!(%error, "the job's end may end this reaper");
    }
}

/// Undoes what the journal in `dir` says, then removes the directory.
///
/// # Errors
/// [`ReapError`]; whatever is still owed stays journaled.
pub async fn reap(dir: &StepDir, unsettled: Duration, begin: Begin) -> Result<Reaped, ReapError> {
    let mut lock = match wait_for_lock(dir, begin).await? {
        Wait::Taken(lock) => lock,
        Wait::Gone => return Ok(Reaped::All),
        Wait::Another => return Ok(Reaped::Elsewhere),
    };
    claim::sign(&mut lock)?;
    if !journal::is_begun(&dir.journal())? {
        // Its owner was killed before it acquired anything, or after it had undone all.
        claim::remove_dir(dir)?;
        return Ok(Reaped::All);
    }
    let (header, entries) = read(dir)?;
    let runtime = Endpoint::parse(&header.runtime.to_string_lossy())?;
    let client = Client::new(&runtime, &runtime, Limits::default());
    tracing::info!(step = %header.id(), entries = entries.len(), "undoing what the supervisor left");
    let left = RefCell::default();
    let work = async {
        until_undone(&client, &entries, Duration::ZERO, &left).await;
        // Before the looks: a successor may come meanwhile.
        finish_copies(dir, resume::LIMIT).await;
        until_undone(&client, &entries, unsettled, &left).await;
    };
    let work = async {
        tokio::select! {
            () = work => Ended::Undone,
            () = vanished(dir) => Ended::Needless,
        }
    };
    match timeout(REAP_LIMIT, work).await {
        Ok(Ended::Undone) => Ok(claim::remove_dir(dir).map(|()| Reaped::All)?),
        Ok(Ended::Needless) => Ok(Reaped::Elsewhere),
        Err(_elapsed) => Err(ReapError::Unfinished(dir.journal().display().to_string())),
    }
}

/// Each within `limit`.
async fn finish_copies(dir: &StepDir, limit: Duration) {
    resume::finish_before(&dir.copy_before(), limit).await;
    resume::finish(&dir.copy(), limit).await;
}

/// What a reaper with a time limit tells who started it, as JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// Nothing is left.
    Undone,
    /// Somebody owns the step: it was not touched.
    Supervised,
    /// What is left, and why: the journal's entry by number where it is one.
    Left(Vec<(Option<usize>, String)>),
}

/// As [`reap`], but with a lock that is free and for no longer than `limit`.
pub async fn reap_within(dir: &StepDir, limit: Duration) -> Told {
    match undo_within(dir, limit).await {
        Ok(told) => told,
        Err(error) => Told::Left(vec![(None, error.to_string())]),
    }
}

async fn undo_within(dir: &StepDir, limit: Duration) -> Result<Told, ReapError> {
    let end = Instant::now() + limit;
    let mut lock = match claim::lock(dir)? {
        Lock::Taken(lock) => lock,
        Lock::Held => return Ok(Told::Supervised),
        Lock::Vanished => return Ok(Told::Undone),
    };
    claim::sign(&mut lock)?;
    if !journal::is_begun(&dir.journal())? {
        claim::remove_dir(dir)?;
        return Ok(Told::Undone);
    }
    let (header, entries) = read(dir)?;
    if guardian::lives(header.id()) {
        return Ok(Told::Supervised);
    }
    let runtime = Endpoint::parse(&header.runtime.to_string_lossy())?;
    let client = Client::new(&runtime, &runtime, limits_within(limit));
    tracing::info!(step = %header.id(), entries = entries.len(), "cleaning up what the supervisor left");
    let unheard = format!("{runtime} did not answer within {limit:?}");
    let mut left: Vec<_> = (0..entries.len()).map(|number| (Some(number), unheard.clone())).collect();
    let mut pause = Duration::from_millis(50);
    loop {
        // Each try begins at the last entry; what is done stays done.
        for (number, entry) in entries.iter().enumerate().rev() {
            let Ok(errors) = timeout(end.saturating_duration_since(Instant::now()), undo_one(&client, entry)).await
            else {
                return Ok(Told::Left(left));
            };
            left.retain(|(of, _)| *of != Some(number));
            left.extend(errors.iter().map(|error| (Some(number), error.to_string())));
        }
        if left.is_empty() {
            let running = still_running(&entries).await;
            left.extend(running.iter().map(|error| (None, error.to_string())));
        }
        if left.is_empty() {
            let rest = end.saturating_duration_since(Instant::now());
            finish_copies(dir, resume::LIMIT.min(rest / 2)).await;
            claim::remove_dir(dir)?;
            return Ok(Told::Undone);
        }
        if Instant::now() + pause >= end {
            return Ok(Told::Left(left));
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// So that every entry has its turn although the runtime answers nothing.
fn limits_within(limit: Duration) -> Limits {
    let usual = Limits::default();
    Limits { look: usual.look.min(limit / 6), remove: usual.remove.min(limit / 2), ..usual }
}

/// What a journal says is left now.
fn read(dir: &StepDir) -> Result<(Header, Vec<Entry>), JournalError> {
    let (header, entries) = journal::read(&dir.journal())?;
    let rebooted = header.boot != claim::boot_id();
    let entries = entries.into_iter().map(|entry| if rebooted { entry.after_reboot() } else { entry });
    Ok((header, entries.collect()))
}

/// How a reaper's work ends.
enum Ended {
    /// All of it was done.
    Undone,
    /// Somebody took the directory, and with it what was owed.
    Needless,
}

/// Waits until the step's journal is gone.
async fn vanished(dir: &StepDir) {
    while dir.journal().exists() {
        sleep(LOOK_FOR_JOURNAL).await;
    }
}

/// What became of the wait for a step's lock.
enum Wait {
    /// We hold it.
    Taken(Flock<File>),
    /// The directory is gone, nothing is owed.
    Gone,
    /// Another process came first.
    Another,
}

async fn wait_for_lock(dir: &StepDir, begin: Begin) -> Result<Wait, ReapError> {
    let begun = Instant::now();
    while begun.elapsed() < LOCK_LIMIT {
        if !dir.path().exists() {
            return Ok(Wait::Gone);
        }
        match claim::lock(dir)? {
            Lock::Taken(lock) => return Ok(Wait::Taken(lock)),
            Lock::Held if begin == Begin::IfOrphaned && begun.elapsed() > DYING => return Ok(Wait::Another),
            Lock::Held | Lock::Vanished => sleep(Duration::from_millis(50)).await,
        }
    }
    Err(ReapError::Supervised(dir.path().display().to_string()))
}
