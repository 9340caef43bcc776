//! Cleaning a whole node of what dead supervisors left, for the command `cleanup`.
//!
//! Four places are looked at: step directories (`owed`), bindfs mounts without one
//! (`stray`), pods by our labels (`orphan`), control sockets (`socket`). Nothing is undone
//! here but sockets: whatever has no journal gets one, and for every journal a reaper is
//! started, which holds the step's lock. So a supervisor that starts for the same step
//! meanwhile ends the reaper and takes its journal over, as it does with any other, and
//! two sweeps at once share the work. A held lock is left alone.

pub mod finding;
pub mod orphan;
pub mod owed;
pub mod socket;
pub mod stray;

use crate::cleanup::claim::{self, ClaimError};
use crate::cleanup::entry::{About, Header, VERSION};
use crate::cri::endpoint::Endpoint;
use crate::ids::StepId;
use crate::layout::{LogDir, StepDir, TempDir};
use finding::Finding;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Each part gets a moment even if others took all the time.
const LEAST: Duration = Duration::from_secs(2);

/// Whether anything is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only say what would be undone.
    Look,
    /// Undo it.
    Undo,
}

/// What to clean.
#[derive(Clone, Debug)]
pub struct Order {
    /// Every directory steps may have, the likelier first; never empty.
    pub temp_dirs: Vec<TempDir>,
    /// `MountBaseDir`.
    pub mount_base: PathBuf,
    /// Where pods are looked for.
    pub runtime: Endpoint,
    /// Where reapers log.
    pub log_dir: LogDir,
    /// Younger pods, sockets and mount directories may belong to a step in the making.
    pub older_than: Duration,
    /// How long all of it may take.
    pub limit: Duration,
    /// Whether anything is changed.
    pub mode: Mode,
    /// Only this job.
    pub job: Option<u32>,
}

/// A sweep under way.
struct Sweep<'a> {
    order: &'a Order,
    end: Instant,
    found: Vec<Finding>,
    /// Jobs nothing may be guessed about: a journal of theirs cannot be read, or their turn has been.
    settled: HashSet<u32>,
}

/// Looks for what is left, undoes it as ordered, and tells each thing.
pub async fn sweep(order: &Order) -> Vec<Finding> {
    let end = Instant::now() + order.limit;
    let mut sweep = Sweep { order, end, found: Vec::new(), settled: HashSet::new() };
    owed::clear(&mut sweep).await;
    stray::clear(&mut sweep).await;
    orphan::clear(&mut sweep).await;
    socket::clear(&mut sweep).await;
    sweep.found
}

impl Sweep<'_> {
    fn wants(&self, job: u32) -> bool {
        self.order.job.is_none_or(|only| only == job)
    }

    fn remaining(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now()).max(LEAST)
    }

    /// The directory for a step that has none.
    fn new_dir(&self, id: StepId) -> Option<StepDir> {
        let dirs = &self.order.temp_dirs;
        let first = dirs.iter().find(|dir| dir.path().is_dir()).or(dirs.first());
        first.map(|dir| dir.step(id))
    }

    fn header(&self, id: StepId) -> Header {
        Header {
            version: VERSION,
            job: id.job,
            step: id.step,
            boot: claim::boot_id(),
            runtime: self.order.runtime.path().to_owned(),
            log: self.order.log_dir.supervisor_log(id),
            about: About::default(),
        }
    }

    /// Whether any step of the job has an owner.
    fn is_job_held(&self, job: u32) -> Result<bool, ClaimError> {
        for temp in &self.order.temp_dirs {
            for step in numbers_in(&temp.job(job).steps())? {
                if claim::is_held(&temp.step(StepId { job, step }))? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether that step has an owner, in any of the directories.
    fn is_step_held(&self, id: StepId) -> Result<bool, ClaimError> {
        for temp in &self.order.temp_dirs {
            if claim::is_held(&temp.step(id))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The plain numbers among a directory's entries; none where it is not there.
///
/// # Errors
/// [`ClaimError::Io`].
pub fn numbers_in(dir: &Path) -> Result<Vec<u32>, ClaimError> {
    let mut numbers: Vec<u32> = names_in(dir)?
        .into_iter()
        .filter_map(|name| name.parse().ok().filter(|number: &u32| number.to_string() == name))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The names in a directory; none where it is not there.
fn names_in(dir: &Path) -> Result<Vec<String>, ClaimError> {
    let failed = |source| ClaimError::Io { verb: "read", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(failed)?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
    Ok(names.collect::<io::Result<Vec<_>>>().map_err(failed)?.into_iter().flatten().collect())
}

/// Whether a file is there for longer than `age`; a clock set back makes everything young.
fn is_older(path: &Path, age: Duration) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|elapsed| elapsed >= age))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_numbers_are_jobs_and_steps() {
        let dir = std::env::temp_dir().join(format!("sweep-{}", std::process::id()));
        for name in ["7", "10", "07", "+7", "x", "7.1"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        assert_eq!(numbers_in(&dir).unwrap(), [7, 10]);
        assert!(!is_older(&dir, Duration::from_secs(3600)) && is_older(&dir, Duration::ZERO));
        fs::remove_dir_all(&dir).unwrap();
        assert!(numbers_in(&dir).unwrap().is_empty() && !is_older(&dir, Duration::ZERO));
    }
}
