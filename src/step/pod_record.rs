//! The pod's record: how the container steps of a job learn of its pod.
//!
//! Root's alone. CreateContainer obeys the pod configuration in its request, so
//! a record that a user could write would choose namespaces and cgroups.

use crate::cri::sandbox::Config;
use crate::layout::JobDir;
use crate::sys::files::{self, FilesError, Survives};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// A configuration is a few KiB; labels and annotations may make it more.
const MAX_BYTES: u64 = 4 << 20;

/// A pod as its container steps need it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// The runtime's id.
    pub id: String,
    /// Exactly as sent.
    pub config: Config,
    /// The runtime's name; empty where it is not known.
    pub runtime: String,
    /// Where the runtime has the FIFOs of its containers, if it told.
    pub state_dir: Option<PathBuf>,
}

/// `pod.json`.
#[derive(Serialize, Deserialize)]
struct Named {
    pod: String,
    #[serde(default)]
    runtime: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state_dir: Option<PathBuf>,
}

/// A record could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FilesError),
    /// The content is not ours.
    #[error("pod record {path} cannot be understood: {problem}")]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
}

/// Everything a record may have left behind, whenever its writer was killed.
pub fn files(dir: &JobDir) -> Vec<PathBuf> {
    let record = [dir.pod_config(), dir.pod_record()];
    record.iter().map(|file| files::temporary(file)).chain(record.clone()).collect()
}

/// Writes a pod's record.
///
/// # Errors
/// [`RecordError::File`].
pub fn write(dir: &JobDir, pod: &Pod) -> Result<(), RecordError> {
    files::atomic_write(&dir.pod_config(), &pod.config.encode(), Survives::Process)?;
    let named = Named { pod: pod.id.clone(), runtime: pod.runtime.clone(), state_dir: pod.state_dir.clone() };
    let named = serde_json::to_vec(&named).unwrap_or_default();
    Ok(files::atomic_write(&dir.pod_record(), &named, Survives::Process)?)
}

/// Reads a job's pod record; `None` where there is none.
///
/// # Errors
/// [`RecordError`].
pub fn read(dir: &JobDir) -> Result<Option<Pod>, RecordError> {
    let (config, record) = (dir.pod_config(), dir.pod_record());
    let Some(named) = present(files::read_limited(&record, MAX_BYTES))? else {
        return Ok(None);
    };
    let Some(bytes) = present(files::read_limited(&config, MAX_BYTES))? else {
        return Ok(None);
    };
    let named: Named = serde_json::from_slice(&named)
        .map_err(|error| RecordError::Foreign { path: record, problem: error.to_string() })?;
    let config =
        Config::decode(&bytes).map_err(|error| RecordError::Foreign { path: config, problem: error.to_string() })?;
    Ok(Some(Pod { id: named.pod, config, runtime: named.runtime, state_dir: named.state_dir }))
}

fn present(read: Result<Vec<u8>, FilesError>) -> Result<Option<Vec<u8>>, RecordError> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == Some(io::ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
