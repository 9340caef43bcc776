//! Bytes to stdout and stderr; never panics.
//!
//! The `print!` macros abort when the reader has gone away. Here a reader that
//! has seen enough is a success, as in `crane-supervisor … | head`.

use std::io::{self, Write};

/// Writes `bytes` to stdout and flushes; a closed pipe is a success.
///
/// # Errors
/// Any other error of the write.
pub fn out(bytes: &[u8]) -> io::Result<()> {
    out_while_read(bytes).map(drop)
}

/// As [`out`]; tells whether anybody still reads.
///
/// # Errors
/// As [`out`].
pub fn out_while_read(bytes: &[u8]) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    }
}

/// Writes `bytes` to stderr; a closed pipe is a success.
///
/// # Errors
/// Any other error of the write.
pub fn err(bytes: &[u8]) -> io::Result<()> {
    forgive_closed_pipe(io::stderr().lock().write_all(bytes))
}

fn forgive_closed_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_closed_pipe_is_forgiven() {
        assert!(forgive_closed_pipe(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        assert!(forgive_closed_pipe(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}
