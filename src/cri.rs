//! The container runtime, over CRI `runtime.v1`.
//!
//! `api` is generated; `client` makes calls; `sandbox` and `container` build
//! configurations (pure); `watch` learns a container's end.

pub mod api;
pub mod endpoint;
pub mod labels;
