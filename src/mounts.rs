//! Host directories and files in a container, without a way to trick root.
//!
//! A source is opened as the user and pinned (`source`); what is pinned is then
//! staged below a directory of root's by one of three engines: a plain bind,
//! a bind whose ids the kernel maps (`idmapped`), or a bindfs that runs as the
//! user (`bindfs`, `serve`). The runtime is given the staged path only. `plan`
//! chooses, `stage` does, `table` undoes.

pub mod bindfs;
pub mod error;
pub mod idmapped;
pub mod lock;
pub mod plan;
pub mod serve;
pub mod source;
pub mod stage;
pub mod table;
