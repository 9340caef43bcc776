//! What a local job owns besides its supervisors: a number, and the socket craned would listen on.
//!
//! The number is claimed by making `/run/crane-supervisor-<job>` exclusively, so
//! two `run`s on a node never share one whatever their configurations say. All
//! of it is on tmpfs and gone after a reboot.

use crate::ids::StepId;
use crate::layout::{self, TempDir};
use crate::local::LocalError;
use crate::local::plan::{CONTAINER_STEP, POD_STEP};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where claims are made.
const RUN_DIR: &str = "/run";

/// Far above what a controller counts up to, so local jobs never meet a cluster's.
const FIRST_JOB: u32 = 3_000_000_000;
const JOBS: u32 = 1_000_000_000;

/// How many numbers are tried before something must be wrong.
const ATTEMPTS: u32 = 64;

/// A claimed job number with its private directory.
#[derive(Debug)]
pub struct Place {
    job: u32,
    dir: PathBuf,
    socket: PathBuf,
}

impl Place {
    /// Claims a number nobody on this node uses.
    pub fn claim(temp_dir: &TempDir) -> Result<Self, LocalError> {
        Self::claim_in(Path::new(RUN_DIR), temp_dir, first_guess())
    }

    pub(in crate::local) fn claim_in(run_dir: &Path, temp_dir: &TempDir, guess: u32) -> Result<Self, LocalError> {
        for attempt in 0..ATTEMPTS {
            let job = FIRST_JOB + guess.wrapping_add(attempt) % JOBS;
            let dir = run_dir.join(format!("crane-supervisor-{job}"));
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) if in_use(job, temp_dir) => remove(&dir)?,
                Ok(()) => {
                    return Ok(Self { job, socket: dir.join("craned.sock"), dir });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(LocalError::Claim { path: dir, source }),
            }
        }
        Err(LocalError::NoNumber { dir: run_dir.to_owned() })
    }

    /// The job's number.
    pub fn job(&self) -> u32 {
        self.job
    }

    /// A step of the job.
    pub fn step(&self, step: u32) -> StepId {
        StepId { job: self.job, step }
    }

    /// Where supervisors report to.
    pub fn craned_socket(&self) -> &Path {
        &self.socket
    }

    /// Gives the number back.
    pub fn release(&self) -> Result<(), LocalError> {
        remove(&self.dir)
    }
}

fn remove(dir: &Path) -> Result<(), LocalError> {
    fs::remove_dir_all(dir).map_err(|source| LocalError::Release { path: dir.to_owned(), source })
}

/// An earlier job of that number may still be owed a clean-up.
fn in_use(job: u32, temp_dir: &TempDir) -> bool {
    let sockets = [POD_STEP, CONTAINER_STEP].map(|step| layout::socket(StepId { job, step }));
    fs::symlink_metadata(temp_dir.job(job).path()).is_ok()
        || sockets.iter().any(|path| fs::symlink_metadata(path).is_ok())
}

/// Milliseconds spread jobs over time, the process id those of one moment.
fn first_guess() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let millis = u32::try_from(since.as_millis() % u128::from(JOBS)).unwrap_or(0);
    millis.wrapping_add(std::process::id().wrapping_mul(7919)) % JOBS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::testing::Scratch;

    #[test]
    fn two_claims_of_one_number_get_two() {
        let scratch = Scratch::new("claims");
        let temp_dir = TempDir::new(scratch.path().join("temp"));
        let first = Place::claim_in(scratch.path(), &temp_dir, 7).unwrap();
        let second = Place::claim_in(scratch.path(), &temp_dir, 7).unwrap();
        assert_eq!((first.job(), second.job()), (FIRST_JOB + 7, FIRST_JOB + 8));
        first.release().unwrap();
        assert_eq!(Place::claim_in(scratch.path(), &temp_dir, 7).unwrap().job(), FIRST_JOB + 7);
    }

    #[test]
    fn a_number_that_is_owed_a_clean_up_is_left_alone() {
        let scratch = Scratch::new("owed");
        let temp_dir = TempDir::new(scratch.path().join("temp"));
        fs::create_dir_all(temp_dir.job(FIRST_JOB + 7).path()).unwrap();
        let place = Place::claim_in(scratch.path(), &temp_dir, 7).unwrap();
        assert_eq!(place.job(), FIRST_JOB + 8);
        assert!(!scratch.path().join(format!("crane-supervisor-{}", FIRST_JOB + 7)).exists());
    }

    #[test]
    fn a_place_that_cannot_be_made_is_named() {
        let error = Place::claim_in(Path::new("/nonexistent"), &TempDir::new("/t"), 1).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/crane-supervisor-"), "{error}");
    }
}
