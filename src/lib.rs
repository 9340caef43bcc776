//! crane-supervisor: one process per container job step, started by CraneSched's
//! craned, driving one pod or one container over CRI.
//!
//! Read it in this order:
//! - `cli::supervise`: how craned starts us, and the order of settling in.
//! - `spec`: the init message, checked; after it no field is foreign input.
//! - `step`: the state machine and the one loop that performs its actions.
//! - `identity`: the job's user and subordinate ids, looked up in a helper.
//! - `mounts`: host paths, opened as the user and staged by one of three engines.
//! - `cri`: the runtime; `cri::watch` and `cri::witness`: how an end is learnt.
//! - `cleanup`: journal before effect, and undoing.
//! - `control`, `report`: craned's calls, and what craned is told.
//! - `logs`, `telemetry`: the container's output, and our own log.
//! - `credentials`: a user's passwords for registries, for the commands only.
//! - `interact`: a person or a pipe at a program in a container, for the commands only.
//! - `local`, `cli::run`: craned's part, for a job without a cluster.
//! - `sys`: the kernel's edge, and the only place with unsafe.
//!
//! The rules everything rests on (`docs/design.md`): journal before effect;
//! evidence before removal; one writer; hints are not facts; unknown is a value;
//! the user's paths are opened as the user; what was asked for is there, or
//! nothing runs.

pub mod channel;
pub mod cleanup;
pub mod cli;
pub mod config;
pub mod control;
pub mod credentials;
pub mod cri;
pub mod exit_code;
pub mod failpoint;
pub mod handshake;
pub mod identity;
pub mod ids;
pub mod interact;
pub mod layout;
pub mod local;
pub mod logs;
pub mod mounts;
pub mod outcome;
pub mod report;
pub mod spec;
pub mod step;
pub mod sys;
pub mod telemetry;
pub mod wire;
