//! Who a job runs as.

pub mod idmap;
pub mod images;
pub mod look_up;
pub mod privilege;
pub mod subid;
pub mod user;
