//! What the integration tests stand on: doubles for everything around the
//! supervisor, and the real binary started as craned starts it.
//!
//! - [`job::Job`] is one job on one runtime: scratch directories, a craned
//!   double, step builders, and a leak check that runs when it is dropped.
//! - [`user::TestUser`] is a real user of the node for one test.
//! - [`mounting`] has the ways host paths reach containers, and bindfs to shoot at.
//! - [`terminal::Terminal`] is a person at a terminal.
//! - [`supervisor::Supervisor`] is one started process and its control socket.
//! - [`craned::Craned`] takes the reports; [`fake_cri::FakeCri`] plays a
//!   runtime, faults included; [`runtime`] finds real ones.
//!
//! Tests are plain blocking functions: every double has its own thread. No
//! wait is without a limit; [`wait`] has them all.
#![allow(dead_code, reason = "a shared library: not every test file needs all of it")]

pub mod bed;
pub mod craned;
pub mod fake_cri;
pub mod init;
pub mod job;
pub mod leaks;
pub mod mounting;
pub mod node;
pub mod output;
pub mod registry;
pub mod runtime;
pub mod server;
pub mod supervisor;
pub mod terminal;
pub mod user;
pub mod wait;

use std::time::Duration;

/// Enough for anything that should happen at once, on a loaded machine.
pub const SOON: Duration = Duration::from_secs(5);
/// Enough for a whole container on a loaded machine with a real runtime.
pub const LONG: Duration = Duration::from_secs(40);
/// craned's own deadline for every control call.
pub const RPC: Duration = Duration::from_secs(5);
/// Seconds between TERM and KILL where nothing else is configured.
pub const GRACE: Duration = Duration::from_secs(10);
