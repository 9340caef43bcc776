//! Undoing what a journal says, last first.

use crate::cleanup::entry::Entry;
use crate::cleanup::processes::{self, EndError};
use crate::cri::client::{Client, has_exited, is_ours};
use crate::cri::error::{Class, CriError};
use crate::layout;
use crate::mounts::table::{self, TableError};
use crate::sys::cgroup;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

/// Something could not be undone; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// The runtime did not do it.
    #[error("cannot remove {what}: {source}")]
    Runtime {
        /// Pod or container, with its id where known.
        what: String,
        /// Why not.
        #[source]
        source: CriError,
    },
    /// Processes stay.
    #[error(transparent)]
    Processes(#[from] EndError),
    /// A cgroup stays.
    #[error("cannot remove cgroup {0}")]
    Cgroup(#[source] io::Error),
    /// A mount stays.
    #[error(transparent)]
    Mounts(TableError),
    /// A file stays.
    #[error("cannot remove {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// First and longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// Between two looks for what a call that was cut off may still make.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Undoes `entries` until nothing is left. Endless: its caller has the patience.
///
/// Looks again and again during `unsettled`, in which an object may still appear.
///
/// `left` always holds what the last try left behind.
pub async fn until_undone(client: &Client, entries: &[Entry], unsettled: Duration, left: &RefCell<Vec<String>>) {
    until_gone(client, entries, left).await;
    let mut rest = unsettled;
    while !rest.is_zero() {
        let pause = rest.min(LOOK_AGAIN);
        sleep(pause).await;
        rest -= pause;
        until_gone(client, entries, left).await;
    }
}

async fn until_gone(client: &Client, entries: &[Entry], left: &RefCell<Vec<String>>) {
    let mut pause = PAUSES.0;
    while let Err(errors) = undo(client, entries).await {
        left.replace(errors.iter().map(ToString::to_string).collect());
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
    left.take();
}

/// Undoes `entries` once, all of them, last first.
///
/// # Errors
/// Everything that is still there.
pub async fn undo(client: &Client, entries: &[Entry]) -> Result<(), Vec<UndoError>> {
    let mut errors = Vec::new();
    for entry in entries.iter().rev() {
        let failed = undo_one(client, entry).await;
        // At once: the next one may take its whole limit.
        failed.iter().for_each(|error| tracing::warn!(%error, "will try again"));
        errors.extend(failed);
    }
    if errors.is_empty() {
        errors.extend(still_running(entries).await);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// The runtime says that all is gone; the kernel has the last word.
pub async fn still_running(entries: &[Entry]) -> Vec<UndoError> {
    let mut errors = Vec::new();
    for entry in entries {
        if let Entry::Processes { cgroups, .. } = entry {
            match processes::end(cgroups).await {
                Ok(()) => processes::forget(cgroups),
                Err(error) => errors.push(error.into()),
            }
        }
    }
    errors
}

/// Undoes one entry; everything of it that is still there.
pub async fn undo_one(client: &Client, entry: &Entry) -> Vec<UndoError> {
    match entry {
        Entry::Processes { cgroups, .. } => {
            processes::end(cgroups).await.err().map(UndoError::Processes).into_iter().collect()
        }
        Entry::Container { labels } => containers(client, labels).await,
        Entry::Pod { labels } => pods(client, labels).await,
        Entry::JobCgroup { group } => {
            let left = group.as_ref().and_then(|group| cgroup::remove_unknown_to_craned(group).err());
            left.map(UndoError::Cgroup).into_iter().collect()
        }
        Entry::Mounts { dirs, cgroup } => {
            table::clear(dirs, cgroup.as_deref()).await.err().map(UndoError::Mounts).into_iter().collect()
        }
        Entry::PodRecord { files } => files.iter().filter_map(|file| remove_file(file).err()).collect(),
        Entry::Socket { path } if is_served(path) => Vec::new(),
        Entry::Socket { path } => {
            let names = [path, &layout::socket_in_the_making(path)];
            names.into_iter().filter_map(|name| remove_file(name).err()).collect()
        }
    }
}

/// Ends and removes every container with these labels.
pub async fn containers(client: &Client, labels: &HashMap<String, String>) -> Vec<UndoError> {
    let found = match client.list(labels).await {
        Ok(found) => found,
        Err(source) => {
            return vec![UndoError::Runtime { what: "the step's container".to_owned(), source }];
        }
    };
    let mut errors = Vec::new();
    for container in found {
        // CRI-O spends the whole call on a container that still runs; a stop with no grace first is quick.
        let stopped = if has_exited(&container) { Ok(()) } else { client.stop(&container.id, Duration::ZERO).await };
        let removed = client.remove_anyway(&container.id).await;
        let what = format!("container {}", container.id);
        errors.extend(problem(&what, stopped.and(removed)));
    }
    errors
}

/// Ends and removes every sandbox with these labels.
pub async fn pods(client: &Client, labels: &HashMap<String, String>) -> Vec<UndoError> {
    let found = match client.list_pods(labels).await {
        Ok(found) => found.into_iter().filter(is_ours).collect::<Vec<_>>(),
        Err(source) => {
            return vec![UndoError::Runtime { what: "the job's pod".to_owned(), source }];
        }
    };
    if found.is_empty() {
        return Vec::new();
    }
    // Containers first: CRI-O spends its whole patience on one that still runs in the sandbox.
    let mut errors = containers(client, labels).await;
    for pod in found {
        let what = format!("pod {}", pod.id);
        let stopped = problem(&what, client.stop_pod(&pod.id).await);
        // Removal of a sandbox whose network still stands would leave the network.
        let result = match stopped {
            Some(error) => Some(error),
            None => problem(&what, client.remove_pod(&pod.id).await),
        };
        errors.extend(result);
    }
    errors
}

/// Already gone is success.
fn problem(what: &str, result: Result<(), CriError>) -> Option<UndoError> {
    result
        .err()
        .filter(|error| error.class() != Class::Gone)
        .map(|source| UndoError::Runtime { what: what.to_owned(), source })
}

/// After a hand-over the supervisor still answers craned, and removes its socket itself.
fn is_served(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

fn remove_file(path: &Path) -> Result<(), UndoError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(UndoError::File { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
