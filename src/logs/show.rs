//! Shows a log on stdout and stderr, once or while it grows.
//!
//! The writing happens beside the loop: a reader of ours that is slow holds up the display
//! and nothing else. One that went away is no error, and is told to the caller. Called by
//! `run` (`local::display`) and `logs`.

use super::chain::Writers;
use super::display::LineAssembler;
use super::follow::{FollowError, Follower};
use super::line::Stream;
use super::print::{Pieces, Printer};
use crate::sys::stdio;
use std::io;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

/// One read of the log.
const READ_BYTES: usize = 64 * 1024;

/// How the output on stdout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLine {
    /// With a newline, or there was none at all.
    Complete,
    /// Without.
    Open,
}

/// A log being shown.
#[derive(Debug)]
pub struct Show {
    follower: Follower,
    assembler: LineAssembler,
    printer: Printer,
    buffer: Vec<u8>,
    last_line: LastLine,
    reader_left: bool,
}

impl Show {
    /// Shows what `follower` reads as `printer` writes it.
    pub fn new(follower: Follower, printer: Printer) -> Self {
        let buffer = vec![0; READ_BYTES];
        let assembler = LineAssembler::default();
        Self { follower, assembler, printer, buffer, last_line: LastLine::Complete, reader_left: false }
    }

    /// How the output on stdout ended, as far as it is shown.
    pub fn last_line(&self) -> LastLine {
        self.last_line
    }

    /// Whether whoever read our stdout has gone.
    pub fn reader_left(&self) -> bool {
        self.reader_left
    }

    /// How many lines were wanted.
    pub fn lines(&self) -> u64 {
        self.printer.count
    }

    /// How often files of the log were removed before they were shown.
    pub fn gaps(&self) -> u64 {
        self.follower.gaps()
    }

    /// Whether anybody may still write to the log.
    pub fn writers(&self) -> Writers {
        self.follower.writers()
    }

    /// Waits until there may be more. Cancel safe.
    ///
    /// # Errors
    /// The watch's.
    pub async fn grown(&mut self) -> Result<(), FollowError> {
        self.follower.readable().await
    }

    /// Shows all up to the present end of the log.
    ///
    /// # Errors
    /// The log cannot be read, or our output not written.
    pub async fn present(&mut self) -> io::Result<()> {
        loop {
            let read = self.follower.read(&mut self.buffer)?;
            if read == 0 {
                return Ok(());
            }
            let (mut pieces, printer) = (Pieces::new(), &mut self.printer);
            self.assembler.feed(&self.buffer[..read], &mut |piece| {
                printer.take(piece, &mut pieces);
                Ok(())
            })?;
            self.write_out(pieces).await?;
        }
    }

    /// Shows all up to where nobody can add anything any more, or what is there after `limit`; then ends.
    ///
    /// # Errors
    /// As [`Show::present`].
    pub async fn rest(&mut self, limit: Duration) -> io::Result<()> {
        let until = Instant::now() + limit;
        loop {
            let writers = self.follower.writers();
            self.present().await?;
            if writers != Writers::Some || Instant::now() >= until {
                break;
            }
            // Time out or not: look again.
            let _ = timeout_at(until, self.follower.readable()).await;
        }
        let (mut pieces, printer) = (Pieces::new(), &mut self.printer);
        self.assembler.finish(&mut |piece| {
            printer.take(piece, &mut pieces);
            Ok(())
        })?;
        printer.finish(&mut pieces);
        self.write_out(pieces).await
    }

    /// On a thread of its own: a full pipe must not stop reports and signals.
    async fn write_out(&mut self, pieces: Pieces) -> io::Result<()> {
        if let Some((_, bytes)) = pieces.iter().rev().find(|(stream, _)| *stream == Stream::Stdout) {
            self.last_line = if bytes.ends_with(b"\n") { LastLine::Complete } else { LastLine::Open };
        }
        if pieces.is_empty() {
            return Ok(());
        }
        let written = spawn_blocking(move || write_all(&pieces)).await;
        self.reader_left |= !written.map_err(io::Error::other)??;
        Ok(())
    }
}

/// Tells whether stdout still has a reader.
fn write_all(pieces: &Pieces) -> io::Result<bool> {
    let mut read = true;
    for (stream, bytes) in pieces {
        match stream {
            Stream::Stdout => read &= stdio::out_while_read(bytes)?,
            Stream::Stderr => stdio::err(bytes)?,
        }
    }
    Ok(read)
}
