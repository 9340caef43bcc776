//! The life of one step: a pure state machine under one loop.
//!
//! ```text
//!          ┌─ stop before ExecuteStep ────────────────────────────────────────┐
//!  Ready ──┴► Preparing ──► Running ──► Stopping ──► Collected ──► CleaningUp ─┴► Reporting ──► Done
//!                 │            └────── own end ───────┘               ▲  │           ▲
//!                 └─ a stage failed, or a stop ───────────────────────┘  └► Holding ─┘
//! ```
//!
//! A container step waits in `Ready` for ExecuteStep; a pod step begins in
//! `Preparing` and waits in `Running` (its pod is up) or `Holding` (it failed)
//! for ShutdownSupervisor. `machine` decides, `driver` acts; everyone else only
//! sends events.

pub mod action;
pub mod advance;
pub mod driver;
pub mod effects;
pub mod event;
pub mod history;
pub mod hooks;
pub mod machine;
pub mod output;
pub mod owed;
pub mod parts;
pub mod patience;
pub mod state;
pub mod timers;

pub mod pod_record;
mod record;
mod send;
mod slot;
mod stages;
mod underway;
