//! Output of containers and our own log file.
//!
//! The runtime writes the container's output itself (CRI log format). `watch` waits for
//! it to grow, `chain` reads it across rotations; `copy` makes the one copy, byte for
//! byte, which `sink` writes as the user, `rotation` bounds the runtime's file, and `spill`
//! adds what the runtime left unread; `resume` finishes the copy of a killed supervisor.
//! `show` is for people: it uses `follow`, takes the format apart with `line` and `display`,
//! and chooses and writes lines with `print`. `rotate`
//! bounds our own log; `stamp` and `escape` write its lines. Nothing here ever delays or
//! fails a step: trouble with output is a warning.

pub mod chain;
pub mod copy;
pub mod display;
pub mod escape;
pub mod follow;
pub mod line;
pub mod own_line;
pub mod print;
pub mod resume;
pub mod rotate;
pub mod rotation;
pub mod show;
pub mod sink;
pub mod spill;
pub mod stamp;
pub mod watch;
