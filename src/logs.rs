//! Output of containers and our own log file.
//!
//! The runtime writes the container's output itself (CRI log format). `follow`
//! waits for it to grow, `copy` makes the one copy, byte for byte, which `sink`
//! writes as the user; `line` and `display` take the format apart for `run`'s live
//! display. `rotate` bounds our own log; `stamp` and `escape` write its lines. Nothing here
//! ever delays or fails a step: trouble with output is a warning.

pub mod copy;
pub mod display;
pub mod escape;
pub mod follow;
pub mod line;
pub mod rotate;
pub mod sink;
pub mod stamp;
