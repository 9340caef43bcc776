//! Control sockets nobody listens on.
//!
//! Those of craned's own supervisors have the same names: one that was made a moment ago
//! may not listen yet, so only old ones count. A supervisor remakes a socket it misses.

use crate::cleanup::sweep::finding::{Fate, Finding, Kind};
use crate::cleanup::sweep::{Mode, Sweep, is_older, names_in, owed};
use crate::ids::StepId;
use crate::layout;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The kernel answers at once, whatever the listener does.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

pub(super) async fn clear(sweep: &mut Sweep<'_>) {
    let dir = Path::new(layout::SOCKET_DIR);
    for id in steps().into_iter().filter(|id| sweep.wants(id.job)).collect::<Vec<_>>() {
        let path = layout::socket(id);
        let what = path.display().to_string();
        // A journal may have told of it.
        if sweep.found.iter().any(|known| known.what == what) {
            continue;
        }
        if !is_socket(&path) || !is_older(&path, sweep.order.older_than) || !is_dead(&path).await {
            continue;
        }
        match sweep.is_step_held(id) {
            Ok(true) => {}
            Ok(false) => sweep.found.push(Finding::of(id, Kind::Socket, what, end(&path, sweep.order.mode))),
            Err(error) => sweep.found.push(owed::unknown(id, Kind::Socket, dir, &error)),
        }
    }
}

/// Whether any step of the job has a control socket somebody listens on.
pub(super) async fn is_served(job: u32) -> bool {
    for id in steps().into_iter().filter(|id| id.job == job) {
        let path = layout::socket(id);
        if is_socket(&path) && !is_dead(&path).await {
            return true;
        }
    }
    false
}

/// Steps with a control socket, in a directory that is root's; others could put anything there.
pub fn steps() -> Vec<StepId> {
    let dir = Path::new(layout::SOCKET_DIR);
    let safe =
        fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir() && found.uid() == 0 && found.mode() & 0o022 == 0);
    let names = if safe { names_in(dir).unwrap_or_default() } else { Vec::new() };
    names.iter().filter_map(|name| layout::step_of_socket(name)).collect()
}

/// Whether a socket is there, listened on or not.
pub fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Only a refusal tells that nobody listens: a listener that is stopped or busy takes no answer.
pub async fn is_dead(path: &Path) -> bool {
    let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    matches!(timeout(CONNECT_LIMIT, UnixStream::connect(path)).await, Ok(Err(error)) if refused(&error))
}

fn end(path: &Path, mode: Mode) -> Fate {
    if mode == Mode::Look {
        return Fate::WouldUndo;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Fate::NotUndone { reason: format!("cannot remove it: {error}") }
        }
        _ => Fate::Undone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[tokio::test]
    async fn a_socket_is_dead_when_its_listener_is_gone() {
        let path = std::env::temp_dir().join(format!("sweep-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(is_socket(&path) && !is_dead(&path).await);
        drop(listener);
        assert!(is_dead(&path).await);
        assert_eq!(end(&path, Mode::Look), Fate::WouldUndo);
        assert!(path.exists());
        assert_eq!(end(&path, Mode::Undo), Fate::Undone);
        assert!(!path.exists() && !is_dead(&path).await);
    }
}
