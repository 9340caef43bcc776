//! One connection to a runtime's streaming server, by WebSocket: numbered channels for a
//! program's streams (Kubernetes' remote command protocol, `v4.channel.k8s.io` and `v5`).
//!
//! Version 4 cannot say that our input has ended, other than by ending the connection;
//! version 5 can, and no containerd offers it up to 2.1. The address is foreign input and
//! is connected to only where that is this node.

use crate::cri::streaming::{Address, AddressError};
use crate::interact::status::{self, Status};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Newest first.
const PROTOCOLS: &str = "v5.channel.k8s.io, v4.channel.k8s.io";
/// What a message's first byte says.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5: the channel in the next byte ends.
const END: u8 = 255;
/// A server's own pieces are 32 KiB.
const LARGEST_MESSAGE: usize = 4 << 20;
/// Connecting, and the server's consent.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The server's part of a goodbye.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A connection that could not be made, or broke.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Not an address for us.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It is elsewhere.
    #[error(
        "the runtime streams at {0}, which is not this node; set its streaming address to 127.0.0.1 \
         (stream_server_address for containerd, stream_address for CRI-O)"
    )]
    NotHere(std::net::SocketAddr),
    /// Nobody there.
    #[error("cannot connect to the runtime's streaming server at {server}: {source}")]
    Connect {
        /// Where.
        server: std::net::SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Somebody there, who does not want.
    #[error("the runtime's streaming server refused: {0}")]
    Refused(String),
    /// It broke.
    #[error("the connection to the runtime broke: {0}")]
    Broken(String),
}

/// What comes from the program.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// It wrote to stdout, or to its terminal.
    Stdout(Vec<u8>),
    /// It wrote to stderr.
    Stderr(Vec<u8>),
    /// It has ended.
    Ended(Status),
    /// The server has closed the connection.
    Closed,
}

/// Whether a program can be told that its input has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfInput {
    /// It was.
    Told,
    /// Only by closing the connection.
    ByClosing,
}

/// What goes to the program.
#[derive(Debug)]
pub struct Sender {
    socket: SplitSink<WebSocketStream<TcpStream>, Message>,
    tells_end: bool,
}

/// What comes from it. Both are to be used at once: a program may read only once it could write.
#[derive(Debug)]
pub struct Receiver(SplitStream<WebSocketStream<TcpStream>>);

/// Connects; the program starts, or is attached to, by that.
///
/// # Errors
/// [`SessionError`], never with the token.
pub async fn open(url: &str) -> Result<(Sender, Receiver), SessionError> {
    let address = Address::parse(url)?;
    match timeout(CONNECT_LIMIT, shake_hands(&address)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(SessionError::Refused(format!("no answer within {} s", CONNECT_LIMIT.as_secs()))),
    }
}

/// Ends the connection; everything sent before has arrived.
pub async fn close(mut sender: Sender, mut receiver: Receiver) {
    let goodbye = async {
        // A server that has gone already has nothing to be told.
        if sender.socket.close().await.is_ok() {
            while !matches!(receiver.0.next().await, None | Some(Err(_))) {}
        }
    };
    let _in_time = timeout(CLOSE_LIMIT, goodbye).await;
}

impl Sender {
    /// Sends input; waits while the program is slow to read it.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn input(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.send(STDIN, bytes).await
    }

    /// Our input has ended.
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub async fn end_input(&mut self) -> Result<EndOfInput, SessionError> {
        if !self.tells_end {
            return Ok(EndOfInput::ByClosing);
        }
        self.send(END, &[STDIN]).await?;
        Ok(EndOfInput::Told)
    }

    /// The terminal has a new size.
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub async fn resize(&mut self, columns: u16, rows: u16) -> Result<(), SessionError> {
        self.send(RESIZE, format!(r#"{{"Width":{columns},"Height":{rows}}}"#).as_bytes()).await
    }

    /// Says nothing, so that the server does not take us for gone (containerd: after 4 hours without input).
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub async fn keep_alive(&mut self) -> Result<(), SessionError> {
        self.socket.send(Message::binary(Vec::new())).await.map_err(broken)
    }

    async fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<(), SessionError> {
        let message = [&[channel], bytes].concat();
        self.socket.send(Message::binary(message)).await.map_err(broken)
    }
}

impl Receiver {
    /// The next thing from the server. Safe to cancel.
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub async fn next(&mut self) -> Result<Incoming, SessionError> {
        loop {
            let bytes = match self.0.next().await {
                None | Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed)) => return Ok(Incoming::Closed),
                Some(Ok(Message::Binary(bytes))) => bytes,
                // Pings are answered below us; text belongs to other protocols.
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(broken(error)),
            };
            match bytes.split_first() {
                // An empty one of each says only that the server is ready.
                None | Some((_, [])) => {}
                Some((&STDOUT, rest)) => return Ok(Incoming::Stdout(rest.to_vec())),
                Some((&STDERR, rest)) => return Ok(Incoming::Stderr(rest.to_vec())),
                Some((&STATUS, rest)) => return Ok(Incoming::Ended(status::read(rest))),
                Some(_) => {}
            }
        }
    }
}

async fn shake_hands(address: &Address) -> Result<(Sender, Receiver), SessionError> {
    let failed = |source| SessionError::Connect { server: address.server, source };
    let stream = TcpStream::connect(address.server).await.map_err(failed)?;
    let (ours, theirs) = (stream.local_addr().map_err(failed)?, stream.peer_addr().map_err(failed)?);
    // The kernel talks to an address of this node's own from that very address.
    if !theirs.ip().is_loopback() && ours.ip() != theirs.ip() {
        return Err(SessionError::NotHere(address.server));
    }
    // Keys that a person types are not to wait for more.
    stream.set_nodelay(true).map_err(failed)?;
    let refused = |error: Error| SessionError::Refused(words(&error));
    let mut request = format!("ws://{}{}", address.server, address.path()).into_client_request().map_err(refused)?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOLS));
    let config =
        WebSocketConfig::default().max_message_size(Some(LARGEST_MESSAGE)).max_frame_size(Some(LARGEST_MESSAGE));
    let (socket, answer) =
        tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await.map_err(refused)?;
    let chosen = answer.headers().get(SEC_WEBSOCKET_PROTOCOL);
    let tells_end = chosen.is_some_and(|name| name.as_bytes().starts_with(b"v5."));
    let (socket, receiver) = socket.split();
    Ok((Sender { socket, tells_end }, Receiver(receiver)))
}

/// Without the request, which holds the token.
fn words(error: &Error) -> String {
    match error {
        Error::Http(answer) => {
            let body = answer.body().as_deref().unwrap_or_default();
            let text = String::from_utf8_lossy(body);
            let line: String = text.lines().next().unwrap_or_default().chars().take(300).collect();
            format!("{} {}", answer.status(), line.escape_debug()).trim_end().to_owned()
        }
        Error::Url(_) | Error::HttpFormat(_) => "its address is not one of HTTP".to_owned(),
        other => other.to_string(),
    }
}

fn broken(error: Error) -> SessionError {
    SessionError::Broken(words(&error))
}
