//! Undoing for a supervisor that has no time left: a process of its own
//! session, outside the job's cgroups, which craned does not wait for.

use crate::cleanup::claim::{self, ClaimError, Lock};
use crate::cleanup::journal::{self, JournalError};
use crate::cleanup::perform::until_undone;
use crate::cri::client::{Client, Limits};
use crate::cri::endpoint::{Endpoint, EndpointError};
use crate::layout::StepDir;
use crate::sys::cgroup;
use crate::sys::helper::{self, HelperError};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How long a reaper may be in starting, within craned's 2 s.
const START_LIMIT: Duration = Duration::from_millis(400);
/// How long a reaper waits for its supervisor to let go of the lock.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
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
pub async fn launch(dir: &StepDir, unsettled: Duration) -> Result<i32, HelperError> {
    let seconds = unsettled.as_secs().to_string();
    let args = [COMMAND.as_ref(), "--unsettled".as_ref(), seconds.as_ref(), dir.path().as_os_str()];
    helper::detached(Path::new(helper::OURSELVES), &args, START_LIMIT).await
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
pub async fn reap(dir: &StepDir, unsettled: Duration) -> Result<(), ReapError> {
    let lock = wait_for_lock(dir).await?;
    let Some(mut lock) = lock else { return Ok(()) };
    claim::sign(&mut lock)?;
    if !journal::is_begun(&dir.journal()) {
        // Its owner was killed before it acquired anything, or after it had undone all.
        return Ok(claim::remove_dir(dir)?);
    }
    let (header, entries) = journal::read(&dir.journal())?;
    let runtime = Endpoint::parse(&header.runtime.to_string_lossy())?;
    let client = Client::new(&runtime, &runtime, Limits::default());
    tracing::info!(step = %header.id(), entries = entries.len(), "undoing what the supervisor left");
    let work = async {
        tokio::select! {
            () = until_undone(&client, &entries, unsettled) => Ended::Undone,
            () = vanished(dir) => Ended::Needless,
        }
    };
    match timeout(REAP_LIMIT, work).await {
        Ok(Ended::Undone) => Ok(claim::remove_dir(dir)?),
        Ok(Ended::Needless) => Ok(()),
        Err(_elapsed) => Err(ReapError::Unfinished(dir.journal().display().to_string())),
    }
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

/// `None`: the directory is gone, nothing is owed.
async fn wait_for_lock(dir: &StepDir) -> Result<Option<nix::fcntl::Flock<std::fs::File>>, ReapError> {
    let begun = Instant::now();
    while begun.elapsed() < LOCK_LIMIT {
        if !dir.path().exists() {
            return Ok(None);
        }
        match claim::lock(dir)? {
            Lock::Taken(lock) => return Ok(Some(lock)),
            Lock::Held | Lock::Vanished => sleep(Duration::from_millis(50)).await,
        }
    }
    Err(ReapError::Supervised(dir.path().display().to_string()))
}
