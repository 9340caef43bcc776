//! All integration tests, in one binary to save link time.
//!
//! `handshake`, `control`, `documents` but for one, `doubles`, `faults`, `layering`, `numbers`, `pulls` and `users` need no runtime; the others need
//! the real ones that `scripts/test` starts, and those of mounts a bindfs and /dev/fuse too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a failed expectation fails the test; tests start processes by themselves"
)]

#[path = "../support/mod.rs"]
mod support;

mod attach;
mod bindfs;
mod cgroups;
mod check;
mod cleanup;
mod control;
mod cut_off;
mod devices;
mod documents;
mod doubles;
mod e2e;
#[cfg(feature = "failpoints")]
mod failpoints;
mod faults;
mod first_use;
mod guardian;
mod hand_over;
mod handshake;
mod homes;
mod hooks;
mod images;
mod layering;
mod messages;
mod mounts;
mod network;
mod numbers;
mod oom;
mod output;
mod own_log;
mod processes;
mod proofs;
mod pulls;
mod refusals;
mod registry_commands;
mod requeue;
mod run;
mod scenarios;
mod staging;
mod steps;
mod swap;
mod target;
mod upgrade;
mod userns;
mod users;
#[cfg(feature = "failpoints")]
mod witness;
