//! Named points at which a test may kill this process, as `kill -9` would.
//!
//! Only in builds with the feature `failpoints`, which no package has; elsewhere every
//! function here is empty and costs nothing. Called wherever something is about to be
//! written down, done or undone, and right after it.
//!
//! A test sets, in the process' environment:
//! - `CRANE_FAILPOINT=NAME` or `NAME#3`: SIGKILL at the first or third time `NAME` is passed;
//! - `CRANE_FAILPOINTS_SEEN=FILE`: append each name that is passed, a line each;
//! - `CRANE_OLD_KERNEL=1`: pidfds cannot tell how a process ended, as before Linux 6.15.

use std::future::Future;

/// Passes the point that `name` makes; the name is only made where it is looked at.
#[cfg(feature = "failpoints")]
pub fn pass(name: impl FnOnce() -> String) {
    armed::pass(&name());
}

/// Passes the point that `name` makes.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn pass(_: impl FnOnce() -> String) {}

/// Passes a point a moment after `work` began, if it is still under way then.
#[cfg(feature = "failpoints")]
pub async fn during<T>(name: impl FnOnce() -> String, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = tokio::time::sleep(std::time::Duration::from_millis(1)) => pass(name),
    }
    work.await
}

/// Only awaits `work`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub async fn during<T>(_: impl FnOnce() -> String, work: impl Future<Output = T>) -> T {
    work.await
}

/// Whether a test wants a kernel whose pidfds tell no ends.
#[cfg(feature = "failpoints")]
pub fn old_kernel() -> bool {
    std::env::var_os("CRANE_OLD_KERNEL").is_some()
}

/// Never.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn old_kernel() -> bool {
    false
}

#[cfg(feature = "failpoints")]
mod armed {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::getpid;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::Mutex;

    /// How often the chosen point was passed.
    static PASSED: Mutex<u32> = Mutex::new(0);

    pub fn pass(name: &str) {
        if let Some(seen) = std::env::var_os("CRANE_FAILPOINTS_SEEN") {
            let file = OpenOptions::new().append(true).create(true).open(seen);
            let _written = file.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()));
        }
        let Ok(chosen) = std::env::var("CRANE_FAILPOINT") else { return };
        let (chosen, turn) = match chosen.rsplit_once('#') {
            Some((chosen, turn)) => (chosen, turn.parse().unwrap_or(1)),
            None => (chosen.as_str(), 1),
        };
        if chosen != name {
            return;
        }
        let Ok(mut passed) = PASSED.lock() else { return };
        *passed += 1;
        if *passed == turn {
            let _gone = kill(getpid(), Signal::SIGKILL);
        }
    }
}
