//! A connection to a runtime's streaming server by SPDY/3.1, as far as a program without a
//! terminal needs it: three streams, and one for its end. Each ends by itself.
//!
//! Only what Kubernetes' servers do (moby/spdystream) is relied on: they keep no windows, and
//! whoever opens a stream numbers it, oddly. Headers that we send are in stored blocks of
//! deflate, which need no compressor; those that come say nothing we do not know. Bytes from
//! the server are foreign input. Called by `session`.

use crate::cri::streaming::Address;
use crate::interact::session::{Incoming, SessionError};
use crate::interact::status;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Our streams; odd numbers are a client's.
const STATUS: u32 = 1;
const STDIN: u32 = 3;
const STDOUT: u32 = 5;
const STDERR: u32 = 7;
const STREAMS: [(u32, &str); 4] = [(STATUS, "error"), (STDIN, "stdin"), (STDOUT, "stdout"), (STDERR, "stderr")];
/// Kinds of control frames.
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
/// Flag of a stream's last frame.
const LAST: u8 = 1;
/// A frame's header.
const HEADER: usize = 8;
/// A server's own frames are 32 KiB; longer ones than this are none of a server's.
const LARGEST_FRAME: usize = 4 << 20;
/// One read.
const READ: usize = 32 << 10;
/// An answer to the upgrade, and a status.
const LARGEST_ANSWER: usize = 16 << 10;
const LARGEST_STATUS: usize = 64 << 10;

/// What goes to the program.
#[derive(Debug)]
pub struct Sender(OwnedWriteHalf);

/// What comes from it.
#[derive(Debug)]
pub struct Receiver {
    socket: OwnedReadHalf,
    /// Read and not yet taken.
    buffer: Vec<u8>,
    status: Vec<u8>,
    told: bool,
}

/// Makes a connection out of `stream`, with its four streams.
///
/// # Errors
/// [`SessionError::Refused`] before the program has started, [`SessionError::Broken`] after.
pub async fn shake_hands(address: &Address, mut stream: TcpStream) -> Result<(Sender, Receiver), SessionError> {
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n",
        address.path(),
        address.server
    );
    let refused = |error: io::Error| SessionError::Refused(error.to_string());
    stream.write_all(request.as_bytes()).await.map_err(refused)?;
    let (answer, rest) = read_answer(&mut stream).await.map_err(refused)?;
    consent(&answer)?;
    let (socket, mut sender) = stream.into_split();
    sender.write_all(&opening()).await.map_err(broken)?;
    Ok((Sender(sender), Receiver { socket, buffer: rest, status: Vec::new(), told: false }))
}

/// The head of the answer, and what came with it.
async fn read_answer(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        if bytes.len() > LARGEST_ANSWER || stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer to the upgrade is no HTTP"));
        }
    }
}

/// Whether the server agrees, also to the version that has a status at the end.
fn consent(answer: &str) -> Result<(), SessionError> {
    let mut lines = answer.lines();
    let first = lines.next().unwrap_or_default();
    let versions = lines.filter_map(|line| line.split_once(':'));
    let mut versions = versions.filter(|(name, _)| name.eq_ignore_ascii_case("x-stream-protocol-version"));
    match first.split(' ').nth(1) {
        Some("101") if versions.any(|(_, version)| version.trim() == "v4.channel.k8s.io") => Ok(()),
        Some("101") => Err(SessionError::Refused("it does not speak v4.channel.k8s.io".to_owned())),
        _ => Err(SessionError::Refused(first.chars().take(300).collect::<String>().escape_debug().to_string())),
    }
}

/// The frames that open our streams: one compressed text of all their headers.
fn opening() -> Vec<u8> {
    let mut frames = Vec::new();
    // zlib's own header, without a dictionary.
    let mut text: Vec<u8> = vec![0x78, 0x01];
    for (stream, kind) in STREAMS {
        let mut body = [stream.to_be_bytes(), [0; 4]].concat();
        // Priority and slot.
        body.extend([0, 0]);
        body.append(&mut text);
        body.extend(stored(&headers(&[("streamtype", kind)])));
        frames.extend(control(SYN_STREAM, &body));
    }
    frames
}

/// Names and values, each with its length before it.
fn headers(pairs: &[(&str, &str)]) -> Vec<u8> {
    let length = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes();
    let mut block = length(pairs.len()).to_vec();
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        block.extend(length(text.len()));
        block.extend(text.as_bytes());
    }
    block
}

/// Deflate without compression (RFC 1951, 3.2.4), and an empty block that has the reader hand it on.
fn stored(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    let mut block = vec![0];
    block.extend(length.to_le_bytes());
    block.extend((!length).to_le_bytes());
    block.extend(text);
    block.extend([0, 0, 0, 0xff, 0xff]);
    block
}

fn control(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&[0x80, 3][..], &kind.to_be_bytes(), &length.to_be_bytes(), body].concat()
}

fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let length = (length & 0x00ff_ffff) | (u32::from(flags) << 24);
    [&stream.to_be_bytes()[..], &length.to_be_bytes(), bytes].concat()
}

fn broken(error: io::Error) -> SessionError {
    SessionError::Broken(error.to_string())
}

impl Sender {
    /// See [`super::session::Sender::input`]; pieces are far below a frame's 16 MiB.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn input(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.0.write_all(&data(STDIN, 0, bytes)).await.map_err(broken)
    }

    /// The program reads to its end.
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub async fn end_input(&mut self) -> Result<(), SessionError> {
        self.0.write_all(&data(STDIN, LAST, &[])).await.map_err(broken)
    }

    /// An answer may come; nobody waits for it.
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub async fn keep_alive(&mut self) -> Result<(), SessionError> {
        self.0.write_all(&control(PING, &1u32.to_be_bytes())).await.map_err(broken)
    }
}

/// What a frame is to us.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    Data {
        stream: u32,
        bytes: Vec<u8>,
    },
    /// The stream of the program's end has ended.
    StatusOver,
    GoAway,
    Other,
}

impl Receiver {
    /// The next thing from the server. Safe to cancel: bytes are kept until a frame is whole.
    ///
    /// # Errors
    /// The connection broke, or what comes is no SPDY.
    pub async fn next(&mut self) -> Result<Incoming, SessionError> {
        loop {
            while let Some(frame) = take(&mut self.buffer)? {
                if let Some(incoming) = self.act(frame) {
                    return Ok(incoming);
                }
            }
            self.buffer.reserve(READ);
            if self.socket.read_buf(&mut self.buffer).await.map_err(broken)? == 0 {
                return Ok(self.status_as_it_is().unwrap_or(Incoming::Closed));
            }
        }
    }

    fn act(&mut self, frame: Frame) -> Option<Incoming> {
        match frame {
            Frame::Data { stream: STDOUT, bytes } if !bytes.is_empty() => Some(Incoming::Stdout(bytes)),
            Frame::Data { stream: STDERR, bytes } if !bytes.is_empty() => Some(Incoming::Stderr(bytes)),
            Frame::Data { stream: STATUS, bytes } => {
                let room = LARGEST_STATUS.saturating_sub(self.status.len());
                self.status.extend(bytes.into_iter().take(room));
                let whole = serde_json::from_slice::<serde::de::IgnoredAny>(&self.status).is_ok();
                whole.then(|| self.status_as_it_is()).flatten()
            }
            Frame::StatusOver => self.status_as_it_is(),
            Frame::GoAway => Some(self.status_as_it_is().unwrap_or(Incoming::Closed)),
            Frame::Data { .. } | Frame::Other => None,
        }
    }

    /// Once, if there is any.
    fn status_as_it_is(&mut self) -> Option<Incoming> {
        if self.told || self.status.is_empty() {
            return None;
        }
        self.told = true;
        Some(Incoming::Ended(status::read(&self.status)))
    }
}

/// The first whole frame.
fn take(buffer: &mut Vec<u8>) -> Result<Option<Frame>, SessionError> {
    let Some((head, rest)) = buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
    let [a, b, c, d, _flags, x, y, z] = *head;
    let length = usize::try_from(u32::from_be_bytes([0, x, y, z])).unwrap_or(usize::MAX);
    if length > LARGEST_FRAME {
        return Err(SessionError::Broken(format!("a frame of {length} bytes, which no streaming server sends")));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let first_word = body.first_chunk::<4>().map_or(0, |word| u32::from_be_bytes(*word) & 0x7fff_ffff);
    let frame = match (a & 0x80 != 0, u16::from_be_bytes([c, d])) {
        (false, _) => Frame::Data { stream: u32::from_be_bytes([a, b, c, d]), bytes: body.to_vec() },
        (true, RST_STREAM) if first_word == STATUS => Frame::StatusOver,
        (true, GO_AWAY) => Frame::GoAway,
        (true, _) => Frame::Other,
    };
    buffer.drain(..HEADER + length);
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_are_taken_when_they_are_whole() {
        let bytes =
            [data(STDOUT, 0, b"out"), control(GO_AWAY, &[0; 8]), control(RST_STREAM, &[0, 0, 0, 1, 0, 0, 0, 5])];
        let (mut buffer, mut frames) = (Vec::new(), Vec::new());
        for byte in bytes.concat() {
            buffer.push(byte);
            frames.extend(take(&mut buffer).unwrap());
        }
        assert_eq!(frames, [Frame::Data { stream: STDOUT, bytes: b"out".to_vec() }, Frame::GoAway, Frame::StatusOver]);
        assert!(buffer.is_empty() && take(&mut data(STDOUT, 0, &vec![0; LARGEST_FRAME + 1])).is_err());
    }

    #[test]
    fn a_server_that_does_not_agree_is_refused_in_its_words() {
        let agrees = "HTTP/1.1 101 Switching Protocols\r\nx-stream-protocol-version: v4.channel.k8s.io\r\n\r\n";
        assert!(consent(agrees).is_ok());
        for (answer, word) in [
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "does not speak v4"),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden"),
            ("\x1b[31m", "u{1b}"),
        ] {
            let error = consent(answer).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\x1b'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_server_are_a_panic(bytes: Vec<u8>) {
            let mut buffer = bytes;
            while let Ok(Some(_)) = take(&mut buffer) {}
        }
    }
}
