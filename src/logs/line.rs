//! The CRI log format: `TIME STREAM FLAG TEXT\n`, one record per line.
//!
//! Pure and zero-copy. Runtimes differ: containerd writes `Z`, CRI-O `+00:00`;
//! trailing zeros of the fraction may be missing; CRI-O closes a split line with
//! an empty full record. Text is bytes, cut anywhere, even within a character.
//! Used by `logs::display` and by whatever shows a container log.

/// Which of the container's outputs a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output (everything, when the container has a terminal).
    Stdout,
    /// Standard error.
    Stderr,
}

/// Whether the container's line ends with this record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// `F`: a newline followed in the container's output.
    Full,
    /// `P`: the line goes on in the next record of this stream, or ended without newline.
    Partial,
}

/// One record, borrowed from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// RFC 3339 with 0 to 9 fractional digits, as the runtime wrote it.
    pub time: &'a [u8],
    /// Where the text was written.
    pub stream: Stream,
    /// Whether a newline follows the text.
    pub ending: Ending,
    /// Further tags after the first, without its `:`; mostly empty.
    pub tags: &'a [u8],
    /// The container's bytes, without the newline.
    pub text: &'a [u8],
}

/// A line of a container log that is no CRI record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The first word is no RFC 3339 time.
    #[error("not a CRI log record: no RFC 3339 time at its start")]
    Time,
    /// The second word is no stream.
    #[error("not a CRI log record: the second word is neither stdout nor stderr")]
    Stream,
    /// The third word is no flag.
    #[error("not a CRI log record: the third word does not start with the tag P or F")]
    Flag,
    /// There is more than one line.
    #[error("not a CRI log record: a newline within the text")]
    Newline,
}

impl<'a> Record<'a> {
    /// Takes one line apart; a newline at its end is optional and not part of the text.
    ///
    /// # Errors
    /// [`LineError`] names the first word that does not fit.
    pub fn parse(line: &'a [u8]) -> Result<Self, LineError> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if line.contains(&b'\n') {
            return Err(LineError::Newline);
        }
        let (record, text) = Self::parse_header(line)?;
        Ok(Self { text, ..record })
    }

    /// The words before the text, and the text as far as it is there.
    ///
    /// # Errors
    /// [`LineError`] names the first word that does not fit.
    pub fn parse_header(line: &'a [u8]) -> Result<(Self, &'a [u8]), LineError> {
        let (time, rest) = split_word(line);
        if !is_time(time) {
            return Err(LineError::Time);
        }
        let (stream, rest) = split_word(rest);
        let stream = match stream {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return Err(LineError::Stream),
        };
        let (flag, text) = split_word(rest);
        let (first, tags) = split_at_byte(flag, b':');
        let ending = match first {
            b"F" => Ending::Full,
            b"P" => Ending::Partial,
            _ => return Err(LineError::Flag),
        };
        Ok((Self { time, stream, ending, tags, text: &[] }, text))
    }

    /// Appends the record as a runtime writes it, with its newline.
    pub fn write_to(&self, log: &mut Vec<u8>) {
        log.extend_from_slice(self.time);
        log.extend_from_slice(match self.stream {
            Stream::Stdout => b" stdout ",
            Stream::Stderr => b" stderr ",
        });
        log.push(match self.ending {
            Ending::Full => b'F',
            Ending::Partial => b'P',
        });
        if !self.tags.is_empty() {
            log.push(b':');
            log.extend_from_slice(self.tags);
        }
        log.push(b' ');
        log.extend_from_slice(self.text);
        log.push(b'\n');
    }
}

/// The bytes up to the first space, and those after it.
fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    split_at_byte(line, b' ')
}

fn split_at_byte(line: &[u8], byte: u8) -> (&[u8], &[u8]) {
    match line.iter().position(|&b| b == byte) {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[]),
    }
}

/// The shape of RFC 3339, not the calendar: times are shown, never computed with.
fn is_time(word: &[u8]) -> bool {
    let Some((whole, rest)) = word.split_at_checked(19) else {
        return false;
    };
    if !fits(whole, b"dddd-dd-ddTdd:dd:dd") {
        return false;
    }
    let zone = match rest.strip_prefix(b".") {
        None => rest,
        Some(fraction) => {
            let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 || digits > 9 {
                return false;
            }
            &fraction[digits..]
        }
    };
    zone == b"Z" || fits(zone, b"+dd:dd") || fits(zone, b"-dd:dd")
}

/// Whether each byte is the pattern's, `d` standing for any digit.
fn fits(bytes: &[u8], pattern: &[u8]) -> bool {
    bytes.len() == pattern.len()
        && bytes.iter().zip(pattern).all(|(&b, &p)| if p == b'd' { b.is_ascii_digit() } else { b == p })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_of_both_runtimes_are_read() {
        let record = Record::parse(b"2026-11-21T16:13:11.79228299Z stdout F hello  you\n").unwrap();
        assert_eq!((record.stream, record.ending, record.text), (Stream::Stdout, Ending::Full, &b"hello  you"[..]));
        let record = Record::parse(b"2026-11-21T16:13:11.792282991+00:00 stderr P:a:b \x00\xff").unwrap();
        assert_eq!((record.stream, record.ending, record.tags), (Stream::Stderr, Ending::Partial, &b"a:b"[..]));
        assert_eq!(record.text, b"\x00\xff");
    }

    #[test]
    fn an_empty_full_record_may_lack_the_last_space() {
        for line in [&b"2026-11-21T16:13:11Z stdout F \n"[..], b"2026-11-21T16:13:11Z stdout F\n"] {
            let record = Record::parse(line).unwrap();
            assert_eq!((record.ending, record.text), (Ending::Full, &b""[..]));
        }
    }

    #[test]
    fn other_lines_are_refused_by_the_word_that_does_not_fit() {
        let cases: [(&[u8], LineError); 9] = [
            (b"", LineError::Time),
            (b"time=\"2026\" level=warning", LineError::Time),
            (b"2026-11-21T16:13:11.Z stdout F x", LineError::Time),
            (b"2026-11-21T16:13:11.1234567890Z stdout F x", LineError::Time),
            (b"2026-11-21T16:13:11Z", LineError::Stream),
            (b"2026-11-21T16:13:11Z stdin F x", LineError::Stream),
            (b"2026-11-21T16:13:11Z stdout", LineError::Flag),
            (b"2026-11-21T16:13:11Z stdout FP x", LineError::Flag),
            (b"2026-11-21T16:13:11Z stdout F x\ny\n", LineError::Newline),
        ];
        for (line, error) in cases {
            assert_eq!(Record::parse(line), Err(error), "{:?}", String::from_utf8_lossy(line));
        }
    }

    proptest! {
        #[test]
        fn a_record_reads_back_as_written(
            time in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|\\+00:00)",
            out in any::<bool>(), full in any::<bool>(), tags in "[a-z:]{0,8}",
            text in proptest::collection::vec(any::<u8>().prop_filter("newline", |b| *b != b'\n'), 0..200),
        ) {
            let record = Record {
                time: time.as_bytes(),
                stream: if out { Stream::Stdout } else { Stream::Stderr },
                ending: if full { Ending::Full } else { Ending::Partial },
                tags: tags.as_bytes(),
                text: &text,
            };
            let mut log = Vec::new();
            record.write_to(&mut log);
            prop_assert_eq!(Record::parse(&log), Ok(record));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Record::parse(&bytes);
            let mut line = b"2026-11-21T16:13:11".to_vec();
            line.extend_from_slice(&bytes);
            let _ = Record::parse(&line);
        }
    }
}
