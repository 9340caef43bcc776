//! Telling craned, in order, until it has acknowledged.
//!
//! `record` tells people and programs on the node; `outbox` keeps the final report on disk before anything is removed; `craned`
//! delivers. craned answers UNAVAILABLE while it starts or stops, and may be
//! away for long: nothing here ever gives up.

pub mod craned;
pub mod outbox;
pub mod record;
