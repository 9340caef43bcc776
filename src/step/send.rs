//! Signals of a job's user, delivered to the container's init. Never a stop of ours.

use crate::cri::start::Held;

/// Sends each to the init; a failure is said and no more, since the step goes on.
pub fn in_advance(held: &Held, numbers: Vec<i32>) {
    for number in numbers {
        if number == libc::SIGKILL {
            // Its end is then no shortage of memory.
            held.note_stop();
        }
        match held.signal(number) {
            Ok(()) => tracing::info!(number, "signal before the end sent"),
            Err(error) => tracing::warn!(number, %error, "a signal before the end is not sent"),
        }
    }
}
