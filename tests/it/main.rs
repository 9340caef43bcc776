//! All integration tests, in one binary to save link time.
//!
//! `handshake`, `control`, `faults`, `layering` and `numbers` need no runtime;
//! `e2e`, `requeue` and `run` need the real ones that `scripts/test` starts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a failed expectation fails the test; tests start processes by themselves"
)]

#[path = "../support/mod.rs"]
mod support;

mod control;
mod doubles;
mod e2e;
mod faults;
mod handshake;
mod layering;
mod numbers;
mod requeue;
mod run;
