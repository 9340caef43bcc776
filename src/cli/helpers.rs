//! Hidden commands by which a supervisor's mounts are made; not for people.
//!
//! Each fails with a line on stderr, which the supervisor has in its log.

use crate::cli::output;
use crate::mounts::{idmapped, lock, serve};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// `hold-user-namespace`.
pub fn hold_user_namespace() -> ExitCode {
    code("hold a user namespace", idmapped::hold())
}

/// `lock-mounts`.
pub fn lock_mounts(points: &[PathBuf]) -> ExitCode {
    code("copy the mounts", lock::copy(points))
}

/// `serve-bindfs`: returns only if it failed.
pub fn serve_bindfs() -> ExitCode {
    output::say(&serve::become_bindfs().to_string());
    ExitCode::FAILURE
}

/// `fusermount`, as libfuse starts it.
pub fn fusermount() -> ExitCode {
    code("hand back the FUSE device", serve::hand_back())
}

fn code(what: &str, result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&format!("cannot {what}: {error}"));
            ExitCode::FAILURE
        }
    }
}
