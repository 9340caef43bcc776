//! The node's configuration file, for the commands that a person starts.
//!
//! Supervising takes everything from craned's init message; only its look-up's helper,
//! and a step that is handed over, come here. `file` reads, `check` decides what is usable; neither changes anything.

pub mod check;
pub mod file;
pub mod section;
pub mod size;

pub use check::{CheckError, Container};
pub use file::{Config, ConfigError, DEFAULT_PATH, DEFAULT_PROCESS_SUPERVISOR};
