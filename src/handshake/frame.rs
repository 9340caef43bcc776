//! One protobuf message behind its length, as craned frames them on a pipe.
//!
//! A frame is a varint (the length in bytes) and that many bytes. Nothing here
//! knows what the bytes mean. The length is the peer's word, so memory grows
//! with what really arrives and never with what was announced. Called by the
//! supervising side for the init message and by `local`, which plays craned.

use std::fmt;
use std::io::{self, Read, Write};

/// The longest message we read: an init message is some kilobytes, with a very
/// large environment some hundred.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// A varint has at most this many bytes (64 bits, 7 in each).
const MAX_VARINT_BYTES: usize = 10;

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the stream before it wrote anything.
    #[error("the stream ended before the first byte of a message")]
    Empty,
    /// The stream ended inside the length.
    #[error("the stream ended inside the message's length, after {got} bytes of it")]
    TruncatedLength {
        /// Bytes of the length that arrived.
        got: usize,
    },
    /// The length is no 64-bit varint.
    #[error("the message's length is longer than the {MAX_VARINT_BYTES} bytes of a varint")]
    OverlongVarint,
    /// The announced length is over the limit.
    #[error("the message is {length} bytes long, over the limit of {limit}")]
    Oversized {
        /// The announced length in bytes.
        length: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// The stream ended inside the message.
    #[error("the stream ended after {got} of the message's {expected} bytes")]
    Truncated {
        /// Bytes of the message that arrived.
        got: usize,
        /// The announced length in bytes.
        expected: usize,
    },
    /// Reading failed.
    #[error("cannot read the message: {0}")]
    Read(#[source] io::Error),
    /// Writing failed.
    #[error("cannot write a message of {length} bytes: {source}")]
    Write {
        /// The message's length in bytes.
        length: usize,
        /// The cause.
        source: io::Error,
    },
}

/// One frame, as it was written. Its debug form has no byte of it: passwords are in it.
pub struct Frame {
    bytes: Vec<u8>,
    /// Where the message begins.
    begin: usize,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame of {} bytes", self.bytes.len())
    }
}

impl Frame {
    /// The message.
    pub fn message(&self) -> &[u8] {
        self.bytes.get(self.begin..).unwrap_or_default()
    }

    /// All of it, the length first.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads one frame whose message has at most `max_bytes`.
///
/// Blocks as `reader` does and reads nothing beyond the frame.
pub fn read_limited(mut reader: impl Read, max_bytes: usize) -> Result<Frame, FrameError> {
    let mut bytes = Vec::new();
    let length = read_length(&mut reader, &mut bytes)?;
    let expected = usize::try_from(length)
        .ok()
        .filter(|length| *length <= max_bytes)
        .ok_or(FrameError::Oversized { length, limit: max_bytes })?;
    let begin = bytes.len();
    let got = reader.take(length).read_to_end(&mut bytes).map_err(FrameError::Read)?;
    if got < expected {
        return Err(FrameError::Truncated { got, expected });
    }
    Ok(Frame { bytes, begin })
}

/// Appends what it reads to `bytes`.
fn read_length(reader: &mut impl Read, bytes: &mut Vec<u8>) -> Result<u64, FrameError> {
    let mut length = 0u64;
    for index in 0..MAX_VARINT_BYTES {
        let byte = match read_byte(reader)? {
            Some(byte) => byte,
            None if index == 0 => return Err(FrameError::Empty),
            None => return Err(FrameError::TruncatedLength { got: index }),
        };
        bytes.push(byte);
        // The tenth byte has room for one bit of the 64.
        if index == MAX_VARINT_BYTES - 1 && byte > 1 {
            return Err(FrameError::OverlongVarint);
        }
        length |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(length);
        }
    }
    Err(FrameError::OverlongVarint)
}

fn read_byte(reader: &mut impl Read) -> Result<Option<u8>, FrameError> {
    let mut byte = [0];
    loop {
        match reader.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Read(error)),
        }
    }
}

/// The frame of `message`.
pub fn encode(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(MAX_VARINT_BYTES + message.len());
    let mut length = message.len() as u64;
    while length > 0x7f {
        frame.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    frame.push(length as u8);
    frame.extend_from_slice(message);
    frame
}

/// Writes `message` as one frame and flushes.
pub fn write(mut writer: impl Write, message: &[u8]) -> Result<(), FrameError> {
    let frame = encode(message);
    writer
        .write_all(&frame)
        .and_then(|()| writer.flush())
        .map_err(|source| FrameError::Write { length: message.len(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_message_reads_back_as_written_and_no_further(message in prop::collection::vec(any::<u8>(), 0..1000), tail in any::<[u8; 3]>()) {
            let mut stream = Vec::new();
            write(&mut stream, &message).unwrap();
            stream.extend_from_slice(&tail);
            let mut reader = stream.as_slice();
            let frame = read_limited(&mut reader, 1000).unwrap();
            prop_assert_eq!(frame.message(), message.as_slice());
            prop_assert_eq!(frame.into_bytes(), encode(&message));
            prop_assert_eq!(reader, tail.as_slice());
        }

        #[test]
        fn the_frame_is_the_one_protobuf_writes(message in prop::collection::vec(any::<u8>(), 0..70_000)) {
            let mut theirs = Vec::new();
            prost::encoding::encode_varint(message.len() as u64, &mut theirs);
            theirs.extend_from_slice(&message);
            prop_assert_eq!(encode(&message), theirs);
        }

        #[test]
        fn every_cut_is_named(message in prop::collection::vec(any::<u8>(), 1..300), cut in any::<prop::sample::Index>()) {
            let frame = encode(&message);
            let cut = cut.index(frame.len());
            let error = read_limited(&frame[..cut], 1000).unwrap_err();
            let length_bytes = frame.len() - message.len();
            match error {
                FrameError::Empty => prop_assert_eq!(cut, 0),
                FrameError::TruncatedLength { got } => prop_assert_eq!(got, cut),
                FrameError::Truncated { got, expected } => prop_assert_eq!((got, expected), (cut - length_bytes, message.len())),
                other => prop_assert!(false, "{other}"),
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_limited(bytes.as_slice(), 32);
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_anything_is_read() {
        let mut announced = Vec::new();
        prost::encoding::encode_varint(u64::MAX, &mut announced);
        let error = read_limited(announced.as_slice(), MAX_MESSAGE_BYTES).unwrap_err();
        assert!(matches!(error, FrameError::Oversized { length: u64::MAX, limit: MAX_MESSAGE_BYTES }), "{error}");
    }

    #[test]
    fn a_length_that_never_ends_is_refused() {
        let error = read_limited([0xff; 32].as_slice(), 100).unwrap_err();
        assert!(matches!(error, FrameError::OverlongVarint), "{error}");
    }

    #[test]
    fn an_announced_length_reserves_nothing() {
        struct Announce<'a>(&'a [u8]);
        impl Read for Announce<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                // A caller that trusted the length would offer it all at once.
                assert!(buffer.len() < 1024 * 1024, "{} bytes reserved", buffer.len());
                self.0.read(buffer)
            }
        }
        let mut announced = Vec::new();
        prost::encoding::encode_varint(MAX_MESSAGE_BYTES as u64, &mut announced);
        let error = read_limited(Announce(&announced), MAX_MESSAGE_BYTES).unwrap_err();
        assert!(matches!(error, FrameError::Truncated { got: 0, expected: MAX_MESSAGE_BYTES }), "{error}");
    }
}
