//! Words for people on stderr; what a command prints as data goes to stdout by [`stdio::out`].

use crate::sys::stdio;

/// Says one line on stderr. There is nowhere to complain if that fails.
pub fn say(line: &str) {
    drop(stdio::err(format!("crane-supervisor: {line}\n").as_bytes()));
}
