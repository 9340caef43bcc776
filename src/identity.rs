//! Who a job runs as.

pub mod look_up;
pub mod user;
