//! Shows the container's output while it runs: stdout to stdout, stderr to stderr, byte for byte.
//!
//! Reads the log that the runtime writes, as the supervisor does for the user's
//! copy. A reader of ours that is slow holds up the display and nothing else: the
//! writing happens beside the loop. One that went away is no error.

use crate::local::LocalError;
use crate::logs::chain::Writers;
use crate::logs::display::LineAssembler;
use crate::logs::follow::Follower;
use crate::logs::line::Stream;
use crate::sys::stdio;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout_at};

/// One read of the log.
const READ_BYTES: usize = 64 * 1024;

/// How long after the last report the runtime may take to close its log.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// How the output on stdout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLine {
    /// With a newline, or there was none at all.
    Complete,
    /// Without.
    Open,
}

/// A running display of one container log.
#[derive(Debug)]
pub struct Display {
    last_look: oneshot::Sender<()>,
    task: JoinHandle<Result<LastLine, LocalError>>,
}

impl Display {
    /// Shows `log`, which the supervisor has made, from its beginning.
    pub fn start(log: &Path) -> Result<Self, LocalError> {
        let follower = Follower::oldest(log)
            .map_err(|error| LocalError::Display { path: log.to_owned(), source: io::Error::other(error) })?;
        let (last_look, ended) = oneshot::channel();
        let shown = Shown {
            follower,
            assembler: LineAssembler::default(),
            buffer: vec![0; READ_BYTES],
            last_line: LastLine::Complete,
        };
        // Joined in `finish`, which every way out of a started job takes.
        let task = tokio::spawn(shown.run(ended, log.to_owned()));
        Ok(Self { last_look, task })
    }

    /// The log is complete: shows the rest and ends.
    ///
    /// Takes as long as the reader of our output does; the caller decides how
    /// long that may be. Cancelled, it leaves the rest unshown.
    pub async fn finish(self) -> Result<LastLine, LocalError> {
        // An error of the display has ended it already; the join tells.
        let _ = self.last_look.send(());
        match self.task.await {
            Ok(result) => result,
            Err(error) => Err(LocalError::DisplayLost { reason: error.to_string() }),
        }
    }
}

struct Shown {
    follower: Follower,
    assembler: LineAssembler,
    buffer: Vec<u8>,
    last_line: LastLine,
}

impl Shown {
    async fn run(mut self, mut ended: oneshot::Receiver<()>, log: PathBuf) -> Result<LastLine, LocalError> {
        let failed = |source| LocalError::Display { path: log.clone(), source };
        loop {
            self.show_new().await.map_err(failed)?;
            tokio::select! {
                biased;
                _ = &mut ended => break,
                grown = self.follower.readable() => grown.map_err(io::Error::other).map_err(failed)?,
            }
        }
        self.show_rest().await.map_err(failed)?;
        let mut rest = Vec::new();
        self.assembler.finish(&mut |stream, bytes| collect(&mut rest, stream, bytes)).map_err(failed)?;
        self.write_out(rest).await.map_err(failed)?;
        Ok(self.last_line)
    }

    /// Up to where nobody can add anything any more.
    async fn show_rest(&mut self) -> io::Result<()> {
        let until = Instant::now() + CLOSE_LIMIT;
        loop {
            let writers = self.follower.writers();
            self.show_new().await?;
            if writers != Writers::Some || Instant::now() >= until {
                return Ok(());
            }
            // Time out or not: look again.
            let _ = timeout_at(until, self.follower.readable()).await;
        }
    }

    /// Up to the present end of the log.
    async fn show_new(&mut self) -> io::Result<()> {
        loop {
            let read = self.follower.read(&mut self.buffer)?;
            if read == 0 {
                return Ok(());
            }
            let mut pieces = Vec::new();
            self.assembler.feed(&self.buffer[..read], &mut |stream, bytes| collect(&mut pieces, stream, bytes))?;
            self.write_out(pieces).await?;
        }
    }

    /// On a thread of its own: a full pipe must not stop reports and signals.
    async fn write_out(&mut self, pieces: Vec<(Stream, Vec<u8>)>) -> io::Result<()> {
        if pieces.is_empty() {
            return Ok(());
        }
        let last = pieces.iter().rev().find(|(stream, _)| *stream == Stream::Stdout);
        if let Some((_, bytes)) = last {
            self.last_line = if bytes.ends_with(b"\n") { LastLine::Complete } else { LastLine::Open };
        }
        let written = spawn_blocking(move || pieces.iter().try_for_each(|(stream, bytes)| write_piece(*stream, bytes)));
        written.await.map_err(io::Error::other)?
    }
}

/// Neighbouring pieces of one stream become one write.
fn collect(pieces: &mut Vec<(Stream, Vec<u8>)>, stream: Stream, bytes: &[u8]) -> io::Result<()> {
    match pieces.last_mut() {
        Some((last, held)) if *last == stream => held.extend_from_slice(bytes),
        _ => pieces.push((stream, bytes.to_vec())),
    }
    Ok(())
}

fn write_piece(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    match stream {
        Stream::Stdout => stdio::out(bytes),
        Stream::Stderr => stdio::err(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_one_stream_are_joined_in_order() {
        let mut pieces = Vec::new();
        for (stream, bytes) in
            [(Stream::Stdout, "a"), (Stream::Stdout, "b"), (Stream::Stderr, "c"), (Stream::Stdout, "d")]
        {
            collect(&mut pieces, stream, bytes.as_bytes()).unwrap();
        }
        let expected =
            [(Stream::Stdout, b"ab".to_vec()), (Stream::Stderr, b"c".to_vec()), (Stream::Stdout, b"d".to_vec())];
        assert_eq!(pieces, expected);
    }
}
