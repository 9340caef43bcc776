//! The container runtime, over CRI `runtime.v1`.
//!
//! `api` is generated; `client` makes calls; `sandbox` and `container` build
//! configurations (pure); `pull` brings images; `watch` learns a container's end.

pub mod api;
mod call;
pub mod client;
pub mod container;
pub mod endpoint;
pub mod error;
pub mod exits;
pub mod facts;
pub mod find;
pub mod image;
pub mod info;
pub mod labels;
mod oom;
pub mod pull;
pub mod sandbox;
mod settle;
pub mod start;
pub mod streaming;
pub mod task;
pub mod watch;
pub mod witness;
