//! `lookup-user UID [GID…]`: the part of a look-up that may block or load
//! libraries, in a process of its own.

use crate::cli::output;
use crate::identity::look_up;
use crate::sys::privileges;
use std::process::ExitCode;

/// Answers on standard output, in JSON.
pub fn run(uid: u32, gids: &[u32]) -> ExitCode {
    // A name service's library must not be the last thing the kernel would kill.
    drop(privileges::ordinary_oom_score());
    match output::data(look_up::answer(uid, gids).as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
