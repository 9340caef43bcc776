//! The outcome on disk, so that it is known even if we are not there to tell.

use crate::ids::StepId;
use crate::outcome::{Outcome, Verdict};
use crate::sys::files::{self, Survives};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// What is kept: the outcome, and what craned is to be told of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Job number.
    pub job: u32,
    /// Step number.
    pub step: u32,
    /// How the step ended.
    pub outcome: Outcome,
    /// The same in craned's words.
    pub verdict: Verdict,
}

/// Puts an outcome on disk, synced.
///
/// # Errors
/// The write's error: the step goes on, its outcome then lives in memory only.
pub fn keep(path: &Path, id: StepId, outcome: &Outcome) -> io::Result<()> {
    let kept = Kept { job: id.job, step: id.step, outcome: outcome.clone(), verdict: outcome.verdict() };
    let bytes = serde_json::to_vec(&kept).map_err(io::Error::other)?;
    files::atomic_write(path, &bytes, Survives::Machine).map_err(io::Error::other)
}
