//! A connection to a runtime's streaming server by WebSocket: numbered channels for a
//! program's streams (Kubernetes' remote command protocol, `v4.channel.k8s.io` and `v5`).
//!
//! Version 4 cannot say that our input has ended, other than by ending the connection;
//! version 5 can, and no containerd offers it up to 2.1. Called by `session`.

use crate::cri::streaming::Address;
use crate::interact::session::{EndOfInput, Incoming, SessionError};
use crate::interact::status;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
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

/// What goes to the program.
#[derive(Debug)]
pub struct Sender {
    socket: SplitSink<WebSocketStream<TcpStream>, Message>,
    tells_end: bool,
}

/// What comes from it. Both are to be used at once: a program may read only once it could write.
#[derive(Debug)]
pub struct Receiver(SplitStream<WebSocketStream<TcpStream>>);

/// Says goodbye and waits for the server's: everything sent before has arrived then.
pub async fn close(mut sender: Sender, mut receiver: Receiver) {
    // A server that has gone already has nothing to be told.
    if sender.socket.close().await.is_ok() {
        while !matches!(receiver.0.next().await, None | Some(Err(_))) {}
    }
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

/// Makes a connection out of `stream`.
///
/// # Errors
/// [`SessionError::Refused`].
pub async fn shake_hands(address: &Address, stream: TcpStream) -> Result<(Sender, Receiver), SessionError> {
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
