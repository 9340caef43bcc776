//! One connection to a runtime's streaming server: a program's input, output, terminal size
//! and end, whichever protocol carries them.
//!
//! WebSocket, but for one thing that no runtime takes over it today: the end of an input whose
//! output is still to come. For that SPDY/3.1, which every runtime has. The address is
//! foreign input and is connected to only where that is this node.

use crate::cri::streaming::{Address, AddressError};
use crate::interact::status::Status;
use crate::interact::{spdy, websocket};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

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

/// How it is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// For everything but the one below.
    WebSocket,
    /// For a program without a terminal that is to be told of its input's end; it has all three streams.
    Spdy,
}

/// What goes to the program.
#[derive(Debug)]
pub enum Sender {
    /// By WebSocket.
    WebSocket(websocket::Sender),
    /// By SPDY.
    Spdy(spdy::Sender),
}

/// What comes from it. Both are to be used at once: a program may read only once it could write.
#[derive(Debug)]
pub enum Receiver {
    /// By WebSocket.
    WebSocket(websocket::Receiver),
    /// By SPDY.
    Spdy(spdy::Receiver),
}

/// Connects; the program starts, or is attached to, by that.
///
/// # Errors
/// [`SessionError`], never with the token.
pub async fn open(url: &str, protocol: Protocol) -> Result<(Sender, Receiver), SessionError> {
    let address = Address::parse(url)?;
    let shaken = async {
        let stream = connect(&address).await?;
        match protocol {
            Protocol::WebSocket => {
                let (sender, receiver) = websocket::shake_hands(&address, stream).await?;
                Ok((Sender::WebSocket(sender), Receiver::WebSocket(receiver)))
            }
            Protocol::Spdy => {
                let (sender, receiver) = spdy::shake_hands(&address, stream).await?;
                Ok((Sender::Spdy(sender), Receiver::Spdy(receiver)))
            }
        }
    };
    match timeout(CONNECT_LIMIT, shaken).await {
        Ok(result) => result,
        Err(_elapsed) => Err(SessionError::Refused(format!("no answer within {} s", CONNECT_LIMIT.as_secs()))),
    }
}

async fn connect(address: &Address) -> Result<TcpStream, SessionError> {
    let failed = |source| SessionError::Connect { server: address.server, source };
    let stream = TcpStream::connect(address.server).await.map_err(failed)?;
    let (ours, theirs) = (stream.local_addr().map_err(failed)?, stream.peer_addr().map_err(failed)?);
    // The kernel talks to an address of this node's own from that very address.
    if !theirs.ip().is_loopback() && ours.ip() != theirs.ip() {
        return Err(SessionError::NotHere(address.server));
    }
    // Keys that a person types are not to wait for more.
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// Ends the connection; everything sent before has arrived, unless the server hangs.
pub async fn close(sender: Sender, receiver: Receiver) {
    let goodbye = async {
        match (sender, receiver) {
            (Sender::WebSocket(sender), Receiver::WebSocket(receiver)) => websocket::close(sender, receiver).await,
            // Its input has an end of its own.
            (Sender::Spdy(_), _) | (_, Receiver::Spdy(_)) => {}
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
        match self {
            Self::WebSocket(sender) => sender.input(bytes).await,
            Self::Spdy(sender) => sender.input(bytes).await,
        }
    }

    /// Our input has ended.
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub async fn end_input(&mut self) -> Result<EndOfInput, SessionError> {
        match self {
            Self::WebSocket(sender) => sender.end_input().await,
            Self::Spdy(sender) => sender.end_input().await.map(|()| EndOfInput::Told),
        }
    }

    /// The terminal has a new size.
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub async fn resize(&mut self, columns: u16, rows: u16) -> Result<(), SessionError> {
        match self {
            Self::WebSocket(sender) => sender.resize(columns, rows).await,
            // Without a terminal there is no size.
            Self::Spdy(_) => Ok(()),
        }
    }

    /// Says nothing, so that the server does not take us for gone (containerd: after 4 hours without input).
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub async fn keep_alive(&mut self) -> Result<(), SessionError> {
        match self {
            Self::WebSocket(sender) => sender.keep_alive().await,
            Self::Spdy(sender) => sender.keep_alive().await,
        }
    }
}

impl Receiver {
    /// The next thing from the server. Safe to cancel.
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub async fn next(&mut self) -> Result<Incoming, SessionError> {
        match self {
            Self::WebSocket(receiver) => receiver.next().await,
            Self::Spdy(receiver) => receiver.next().await,
        }
    }
}
