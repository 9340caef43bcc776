//! A container log taken apart again into what the container wrote.
//!
//! Fed the log's bytes in any cuts, it hands on the two streams byte for byte. It
//! holds at most one unfinished record of 64 KiB; of a longer one the text is
//! handed on as it comes. Lines that are no records (runtimes write warnings into
//! the log) are not the container's: they go to standard error as they are.
//! Called by `logs::show`; it never waits and does no I/O of its own.

use super::line::{Ending, Record, Stream};
use std::io;

/// The longest record held back until its newline, in bytes. CRI runtimes cut at 8 or 16 KiB.
pub const LONGEST_RECORD: usize = 64 * 1024;

/// Some of what the container wrote.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// When, as the runtime wrote it; empty where it goes on with the same record, or is no record.
    pub time: &'a [u8],
    /// Where to.
    pub stream: Stream,
    /// What.
    pub bytes: &'a [u8],
}

/// Takes the pieces.
pub type Taker<'a> = dyn FnMut(Piece<'_>) -> io::Result<()> + 'a;

/// Turns a container log back into the container's output.
#[derive(Debug, Default)]
pub struct LineAssembler {
    /// The begin of a record whose newline has not come yet.
    held: Vec<u8>,
    /// Set while the rest of an overlong record is passed through.
    overlong: Option<Overlong>,
}

#[derive(Clone, Copy, Debug)]
struct Overlong {
    stream: Stream,
    newline: bool,
}

impl LineAssembler {
    /// Takes the next bytes of the log and hands the container's bytes to `out`.
    ///
    /// # Errors
    /// What `out` failed with; the rest of `bytes` is then lost.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Taker<'_>) -> io::Result<()> {
        for part in bytes.split_inclusive(|&b| b == b'\n') {
            if let Some(overlong) = self.overlong {
                self.pass_through(overlong, b"", part, out)?;
            } else if self.held.is_empty() && part.ends_with(b"\n") {
                emit(part, out)?;
            } else {
                self.hold(part, out)?;
            }
        }
        Ok(())
    }

    /// The log ended: hands on what is still held, a record torn off in the middle.
    ///
    /// # Errors
    /// What `out` failed with.
    pub fn finish(&mut self, out: &mut Taker<'_>) -> io::Result<()> {
        self.overlong = None;
        let held = std::mem::take(&mut self.held);
        if held.is_empty() { Ok(()) } else { emit(&held, out) }
    }

    /// The most bytes held at any time is [`LONGEST_RECORD`].
    fn hold(&mut self, part: &[u8], out: &mut Taker<'_>) -> io::Result<()> {
        let complete = part.ends_with(b"\n");
        if self.held.len() + part.len() > LONGEST_RECORD {
            return self.give_up_holding(part, out);
        }
        self.held.extend_from_slice(part);
        if !complete {
            return Ok(());
        }
        // Taken, not cleared: a quiet step holds no buffer.
        let held = std::mem::take(&mut self.held);
        emit(&held, out)
    }

    fn give_up_holding(&mut self, part: &[u8], out: &mut Taker<'_>) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        let begin = if held.is_empty() { part } else { &held };
        let (overlong, text) = match Record::parse_header(begin) {
            Ok((record, text)) => (Overlong { stream: record.stream, newline: record.ending == Ending::Full }, text),
            Err(_) => (Overlong { stream: Stream::Stderr, newline: true }, begin),
        };
        if held.is_empty() {
            let time = Record::parse_header(begin).map(|(record, _)| record.time).unwrap_or_default();
            return self.pass_through(overlong, time, text, out);
        }
        let time = Record::parse_header(begin).map(|(record, _)| record.time).unwrap_or_default();
        out(Piece { time, stream: overlong.stream, bytes: text })?;
        self.pass_through(overlong, b"", part, out)
    }

    fn pass_through(&mut self, overlong: Overlong, time: &[u8], part: &[u8], out: &mut Taker<'_>) -> io::Result<()> {
        let complete = part.ends_with(b"\n");
        self.overlong = if complete { None } else { Some(overlong) };
        let text = if complete && !overlong.newline { &part[..part.len() - 1] } else { part };
        if text.is_empty() { Ok(()) } else { out(Piece { time, stream: overlong.stream, bytes: text }) }
    }
}

/// One whole record, or one torn off at the end of the log.
fn emit(record: &[u8], out: &mut Taker<'_>) -> io::Result<()> {
    let Ok((header, text)) = Record::parse_header(record.strip_suffix(b"\n").unwrap_or(record)) else {
        return out(Piece { time: b"", stream: Stream::Stderr, bytes: record });
    };
    let bytes = match header.ending {
        Ending::Partial if text.is_empty() => return Ok(()),
        Ending::Partial => text,
        // Text and newline lie side by side in the record: one piece, no copy.
        Ending::Full if record.ends_with(b"\n") => &record[record.len() - 1 - text.len()..],
        Ending::Full => text,
    };
    out(Piece { time: header.time, stream: header.stream, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(log: &[u8], cut: usize) -> (Vec<u8>, Vec<u8>) {
        let mut assembler = LineAssembler::default();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut out = |piece: Piece<'_>| {
            match piece.stream {
                Stream::Stdout => stdout.extend_from_slice(piece.bytes),
                Stream::Stderr => stderr.extend_from_slice(piece.bytes),
            }
            Ok(())
        };
        for bytes in log.chunks(cut) {
            assembler.feed(bytes, &mut out).unwrap();
            assert!(assembler.held.len() <= LONGEST_RECORD);
        }
        assembler.finish(&mut out).unwrap();
        (stdout, stderr)
    }

    const T: &str = "2026-11-21T16:13:11.7Z";

    #[test]
    fn split_lines_are_joined_and_streams_kept_apart() {
        let log = format!("{T} stdout P ab\n{T} stderr F err\n{T} stdout P cd\n{T} stdout F \n{T} stdout P end\n");
        for cut in [1, 7, 1000] {
            assert_eq!(shown(log.as_bytes(), cut), (b"abcd\nend".to_vec(), b"err\n".to_vec()));
        }
    }

    #[test]
    fn a_line_that_is_no_record_goes_to_stderr_as_it_is() {
        let log = format!("level=warning msg=x\n{T} stdout F ok\ntorn");
        assert_eq!(shown(log.as_bytes(), 5), (b"ok\n".to_vec(), b"level=warning msg=x\ntorn".to_vec()));
    }

    #[test]
    fn an_overlong_record_passes_through_without_being_held() {
        let text = vec![b'x'; 3 * LONGEST_RECORD];
        let mut log = format!("{T} stdout F ").into_bytes();
        log.extend_from_slice(&text);
        log.extend_from_slice(format!("\n{T} stdout P tail\n").as_bytes());
        let expected = [&text[..], b"\ntail"].concat();
        for cut in [999, 4096, log.len()] {
            assert_eq!(shown(&log, cut).0, expected, "cut at {cut}");
        }
        let log = [&text[..], b"\n"].concat();
        assert_eq!(shown(&log, 1000).1, log);
    }

    proptest! {
        #[test]
        fn output_comes_back_byte_for_byte(
            pieces in proptest::collection::vec(
                (any::<bool>(), any::<bool>(), proptest::collection::vec(any::<u8>().prop_filter("nl", |b| *b != b'\n'), 0..40)), 0..20),
            cut in 1usize..60,
        ) {
            let (mut log, mut stdout, mut stderr) = (Vec::new(), Vec::new(), Vec::new());
            for (is_out, full, text) in &pieces {
                let (stream, target) = if *is_out { (Stream::Stdout, &mut stdout) } else { (Stream::Stderr, &mut stderr) };
                let ending = if *full { Ending::Full } else { Ending::Partial };
                Record { time: T.as_bytes(), stream, ending, tags: b"", text }.write_to(&mut log);
                target.extend_from_slice(text);
                if *full { target.push(b'\n'); }
            }
            prop_assert_eq!(shown(&log, cut), (stdout, stderr));
        }
    }
}
