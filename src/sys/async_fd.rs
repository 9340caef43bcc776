//! A descriptor that the runtime waits on.
//!
//! Tokio cannot see from the type that a descriptor stays open and the same, so
//! its registration is unsafe; for an `OwnedFd` it always holds. Called by
//! `logs::follow` and whoever else waits on a descriptor of its own.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits for `fd` to become readable from now on; it must be non-blocking.
///
/// Must be called within the runtime.
///
/// # Errors
/// The kernel's, such as EPERM for a descriptor that is always ready.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd owns its descriptor: it stays open and the same until AsyncFd,
    // its owner from here on, has deregistered and then dropped it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
