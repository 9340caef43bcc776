//! The kernel's edge: what needs raw system calls, and the only place with unsafe.
//!
//! Each module wraps one kernel mechanism in a safe type and decides nothing
//! about jobs or steps. Everything above calls it; it calls nobody.

pub mod as_user;
pub mod async_fd;
pub mod awaited;
pub mod cgroup;
pub mod crash;
pub mod errand;
pub mod exit_events;
pub mod fd_passing;
pub mod fds;
pub mod files;
pub mod guardian;
pub mod helper;
pub mod lease;
pub mod line;
pub mod memory;
pub mod mount_api;
pub mod pidfd;
pub mod privileges;
pub mod process;
pub mod raw_terminal;
pub mod refeed;
pub mod signals;
pub mod stdio;
pub mod terminal;
pub mod ticks;
pub mod user_file;
