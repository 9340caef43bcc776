//! The final record of a step: one JSON file beside its logs, for people and programs.
//!
//! `<log_dir>/<job>.<step>.json`, replaced whole and never synced: it tells what happened,
//! nothing depends on it. docs/operating.md documents it; a field that changes its
//! meaning raises [`VERSION`], new fields do not. Written by the driver at the step's end.

use crate::outcome::{Outcome, Verdict};
use crate::step::history::Phase;
use crate::sys::cgroup::usage::Usage;
use crate::sys::files::{self, FilesError, Survives};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of the record's schema.
pub const VERSION: u32 = 1;

/// How a step went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// Job number.
    pub job: u32,
    /// Step number.
    pub step: u32,
    /// `pod` or `container`.
    pub kind: String,
    /// craned's name for the node.
    pub node: String,
    /// The job's user.
    pub uid: u32,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// The same in craned's words, as reported; the reason has what went wrong with the output too.
    pub verdict: Verdict,
    /// Where it was and for how long, in order.
    pub phases: Vec<Phase>,
    /// The runtime's id of the pod.
    pub pod: Option<String>,
    /// The runtime's id of the container.
    pub container: Option<String>,
    /// Of a container step.
    pub image: Option<Image>,
    /// Of a container that was created.
    pub output: Option<Output>,
    /// Of a container that ran, as far as the kernel told.
    pub usage: Option<Usage>,
    /// Whether a reaper was left to finish the clean-up.
    pub handed_over: bool,
}

/// What a container was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As asked for.
    pub reference: String,
    /// The runtime's id of it, which is the digest of its configuration; `None` if the step did not come so far.
    pub digest: Option<String>,
}

/// What a container wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Bytes of the runtime's log, framing included.
    pub written_bytes: u64,
    /// Bytes of it that reached the user's file.
    pub copied_bytes: u64,
    /// Bytes that did not, or that the cap of the user's file has removed again.
    pub dropped_bytes: u64,
    /// How often the runtime's log was rotated.
    pub rotations: u64,
    /// Bytes of output that the runtime left unread, and that were added to its log.
    #[serde(default)]
    pub recovered_bytes: u64,
    /// Whether output may be missing that nobody can count: the runtime was killed while the container printed.
    #[serde(default)]
    pub may_be_missing: bool,
    /// Why not all was copied.
    pub problem: Option<String>,
}

/// Writes the record.
///
/// # Errors
/// [`FilesError`]; a record that was there is then untouched.
pub fn write(path: &Path, record: &Record) -> Result<(), FilesError> {
    let failed =
        |source: serde_json::Error| FilesError::Call { verb: "write", path: path.to_owned(), source: source.into() };
    let mut bytes = serde_json::to_vec_pretty(record).map_err(failed)?;
    bytes.push(b'\n');
    files::atomic_write(path, &bytes, Survives::Process)
}
