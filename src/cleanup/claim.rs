//! Owning a step: its directory, its lock, its journal.
//!
//! The lock is held while a supervisor or reaper lives and says so; a pid could
//! be anybody's. The directory is there exactly as long as something is owed.

use crate::cleanup::entry::{About, Entry, Header, VERSION};
use crate::cleanup::journal::{self, Journal, JournalError};
use crate::cleanup::reaper;
use crate::failpoint;
use crate::ids::StepId;
use crate::layout::{StepDir, TempDir};
use crate::sys::pidfd::Process;
use crate::sys::{files, process};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a killed reaper may take to let go.
const REAPER_END_LIMIT: Duration = Duration::from_secs(1);
/// How long a lock may be held by somebody who only looks at it, or has not signed it yet.
const LOOK_LIMIT: Duration = Duration::from_millis(250);
/// Between two tries meanwhile, in milliseconds.
const LOOK_PAUSE: u16 = 5;

/// A step could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another process owns it.
    #[error("step {id} is already supervised on this node (lock {path} is held)")]
    Held {
        /// The step.
        id: StepId,
        /// Its lock.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {verb} {path}: {source}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The journal could not be begun.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn io_error<'a>(verb: &'static str, path: &'a Path) -> impl Fn(io::Error) -> ClaimError + use<'a> {
    move |source| ClaimError::Io { verb, path: path.to_owned(), source }
}

/// A claimed step.
#[derive(Debug)]
pub struct Claim {
    dir: StepDir,
    lock: Option<Flock<File>>,
    /// What must be undone.
    pub journal: Journal,
}

impl Claim {
    /// Makes the step's directory, takes its lock and begins its journal.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn take(temp: &TempDir, id: StepId, runtime: &Path, log: &Path, about: About) -> Result<Self, ClaimError> {
        let dir = temp.step(id);
        let lock = take_lock(&dir, id)?;
        let header = Header {
            version: VERSION,
            job: id.job,
            step: id.step,
            boot: boot_id(),
            runtime: runtime.to_owned(),
            log: log.to_owned(),
            about,
        };
        // What an earlier owner still owed becomes ours: it is undone with the rest.
        if let Some(journal) = Journal::resume(&dir.journal(), &header)? {
            return Ok(Self { dir, lock: Some(lock), journal });
        }
        match Journal::create(&dir.journal(), &header) {
            Ok(journal) => Ok(Self { dir, lock: Some(lock), journal }),
            Err(error) => {
                remove_dir(&dir)?;
                Err(error.into())
            }
        }
    }

    /// The step's directory.
    pub fn dir(&self) -> &StepDir {
        &self.dir
    }

    /// Lets a reaper have the lock; what is left of the directory is its affair.
    pub fn hand_over(&mut self) {
        self.lock = None;
    }

    /// Whether a reaper was given the lock.
    pub fn is_handed_over(&self) -> bool {
        self.lock.is_none()
    }

    /// The step is not taken after all: the directory goes, unless an earlier owner's
    /// debts are in it.
    pub fn abandon(self) {
        let inherited = self.journal.entries().iter().any(|entry| !matches!(entry, Entry::Socket { .. }));
        if inherited {
            tracing::warn!(dir = %self.dir.path().display(), "what an earlier run owes stays journaled");
        } else if let Err(error) = self.finish() {
            tracing::warn!(%error, "the refused step's directory is left over");
        }
    }

    /// Nothing is owed any more: the directory goes, and the job's if it is empty.
    ///
    /// # Errors
    /// The first removal that failed, other than because others still use the job's directory.
    pub fn finish(mut self) -> Result<(), ClaimError> {
        if self.lock.is_none() {
            return Ok(());
        }
        let result = remove_dir(&self.dir);
        self.lock = None;
        result
    }
}

/// Removes a step's directory, and its parents up to the job's where they are empty.
///
/// # Errors
/// The first removal that failed.
pub fn remove_dir(dir: &StepDir) -> Result<(), ClaimError> {
    // The lock last: whoever gets it meanwhile finds the name gone and starts over.
    let written = [dir.copy(), dir.copy_before(), dir.outbox()];
    let journal = dir.journal();
    let unfinished: Vec<_> = written.iter().chain([&journal]).map(|file| files::temporary(file)).collect();
    for file in unfinished.into_iter().chain(written).chain([journal, dir.lock()]) {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &file)(error));
            }
            _ => failpoint::pass(|| format!("removed {}", file.file_name().unwrap_or_default().display())),
        }
    }
    fs::remove_dir(dir.path()).map_err(io_error("remove", dir.path()))?;
    for parent in dir.path().ancestors().skip(1).take(2) {
        match fs::remove_dir(parent) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                return Err(io_error("remove", parent)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Locks a step, against its own reaper too: that one's work is ours now.
fn take_lock(dir: &StepDir, id: StepId) -> Result<Flock<File>, ClaimError> {
    let begun = Instant::now();
    loop {
        make_dir(dir.path()).map_err(io_error("create", dir.path()))?;
        failpoint::pass(|| "directory made".into());
        match lock(dir)? {
            Lock::Taken(lock) => {
                failpoint::pass(|| "locked".into());
                return Ok(lock);
            }
            Lock::Held if begun.elapsed() < REAPER_END_LIMIT && end_reaper(dir) => {}
            Lock::Held if begun.elapsed() < LOOK_LIMIT => pause(),
            Lock::Held => return Err(ClaimError::Held { id, path: dir.lock() }),
            // Its owner removed the directory in between.
            Lock::Vanished => {}
        }
    }
}

/// Before there is an event loop, and nobody tells when a lock is free.
fn pause() {
    let _ = nix::poll::poll(&mut [], LOOK_PAUSE);
}

/// Kills the reaper that signed the lock, and waits a moment for its end.
fn end_reaper(dir: &StepDir) -> bool {
    let signed = fs::read_to_string(dir.lock()).ok().and_then(|text| text.trim().parse().ok());
    let Some(pid) = signed else { return false };
    let Ok(process) = Process::open(pid) else { return true };
    // Held first, then looked at: the number cannot become another's in between.
    let arguments = process::arguments_of(pid).unwrap_or_default();
    let ours = arguments.get(1).is_some_and(|word| word == reaper::COMMAND)
        && arguments.last().is_some_and(|last| Path::new(last) == dir.path());
    if ours && process.signal(Signal::SIGKILL).is_ok() {
        process.wait(REAPER_END_LIMIT);
    }
    ours
}

/// Says in the lock which reaper holds it.
///
/// # Errors
/// [`ClaimError::Io`].
pub fn sign(lock: &mut File) -> Result<(), ClaimError> {
    let signed = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
    signed.map_err(io_error("sign", Path::new("lock")))
}

/// What became of an attempt to lock a step.
pub enum Lock {
    /// We hold it.
    Taken(Flock<File>),
    /// Somebody else does.
    Held,
    /// The file is no longer the one at that name.
    Vanished,
}

/// Tries to lock a step's lock file, made if need be.
///
/// # Errors
/// [`ClaimError::Io`].
pub fn lock(dir: &StepDir) -> Result<Lock, ClaimError> {
    let path = dir.lock();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    let file = match options.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lock::Vanished),
        opened => opened.map_err(io_error("open", &path))?,
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) if is_at(&lock, &path) => Ok(Lock::Taken(lock)),
        Ok(_) => Ok(Lock::Vanished),
        Err((_, Errno::EWOULDBLOCK)) => Ok(Lock::Held),
        Err((_, errno)) => Err(io_error("lock", &path)(errno.into())),
    }
}

/// Whether somebody holds the step's lock. Makes nothing, and holds the lock itself, shared, for no
/// longer than a look; a supervisor that starts just then tries again.
///
/// # Errors
/// [`ClaimError::Io`]: then nobody knows.
pub fn is_held(dir: &StepDir) -> Result<bool, ClaimError> {
    let path = dir.lock();
    let mut options = OpenOptions::new();
    let file = match options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(io_error("open", &path))?,
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_free) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, errno)) => Err(io_error("lock", &path)(errno.into())),
    }
}

/// Steps of the same job that have a journal and nobody to undo it: an earlier run's, whose
/// guardians were killed too.
pub fn orphans_beside(temp: &TempDir, id: StepId) -> Vec<StepDir> {
    let entries = fs::read_dir(temp.job(id.job).steps()).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = numbers.filter(|step| *step != id.step).map(|step| temp.step(StepId { job: id.job, step }));
    // One that cannot be read is a reaper's to tell of.
    others
        .filter(|dir| journal::is_begun(&dir.journal()).unwrap_or(true) && is_held(dir).is_ok_and(|held| !held))
        .collect()
}

/// Names `entries` in a journal of their own, where nobody owns the step and it has no journal: a reaper
/// can undo them then, and a supervisor that starts meanwhile ends the reaper and takes them over.
///
/// `false`: the step has an owner or a journal, and nothing was changed.
///
/// # Errors
/// [`ClaimError`].
pub fn adopt(dir: &StepDir, header: &Header, entries: &[Entry]) -> Result<bool, ClaimError> {
    make_dir(dir.path()).map_err(io_error("create", dir.path()))?;
    let Lock::Taken(_lock) = lock(dir)? else { return Ok(false) };
    if journal::is_begun(&dir.journal())? {
        return Ok(false);
    }
    let mut journal = Journal::create(&dir.journal(), header)?;
    entries.iter().try_for_each(|entry| journal.record(entry.clone()))?;
    Ok(true)
}

/// A lock on a file that was unlinked meanwhile protects nothing.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Makes a directory and its parents, for root only. Another step of the job may
/// be removing an empty parent right now, so one loss is tried again.
pub fn make_dir(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    match builder.create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => builder.create(path),
        result => result,
    }
}

/// This boot's id; a journal of another boot describes things long gone.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests;
