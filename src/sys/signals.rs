//! Signals a supervisor takes and drops.
//!
//! craned asks for an orderly end over the socket only; a signal to its process
//! group (Ctrl-C, a service stop) must not end a step. The signals get an empty
//! handler instead of SIG_IGN, so that programs we start find them at their
//! default again. One of them, SIGUSR1, is also a request: for another log level.

use nix::sys::signal::SigSet;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::signal::unix::{SignalKind, signal};

/// The signals of the craned contract.
const DROPPED: [i32; 9] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTSTP, SIGPIPE];

/// Does `what` at each SIGUSR1, which an administrator sends; endless. Must be called within the runtime.
pub async fn on_request(what: impl Fn()) {
    match signal(SignalKind::user_defined1()) {
        Ok(mut requests) => {
            while requests.recv().await.is_some() {
                what();
            }
        }
        Err(error) => tracing::warn!(%error, "SIGUSR1 does not change the log level"),
    }
}

/// Takes the signals craned's surroundings may send, and unblocks what was blocked.
///
/// # Errors
/// The errno of sigaction(2) or pthread_sigmask(3).
pub fn drop_foreign() -> io::Result<()> {
    let seen = Arc::new(AtomicBool::new(false));
    for signal in DROPPED {
        signal_hook::flag::register(signal, Arc::clone(&seen))?;
    }
    SigSet::empty().thread_set_mask()?;
    Ok(())
}
