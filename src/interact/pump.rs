//! Moves input, output and the terminal's size between us and a program, until one of
//! them ends. Whoever calls it says what comes of that.

use crate::interact::input::{self, Input};
use crate::interact::keys::{DetachKeys, Typed};
use crate::interact::session::{self, EndOfInput, Incoming, Receiver, Sender, SessionError};
use crate::interact::status::Status;
use crate::sys::raw_terminal::{self, Raw};
use crate::sys::stdio;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval_at, timeout};

/// Far below the 4 hours after which containerd and CRI-O give a silent client up.
const KEEP_ALIVE: Duration = Duration::from_secs(30 * 60);
/// Nothing comes for so long: the log, which is written at the same time, has what came before.
const QUIET: Duration = Duration::from_millis(50);
/// A program that never pauses is shown from here on; a line of it may be missing.
const SETTLED: Duration = Duration::from_millis(500);
/// The server's goodbye, and output still on its way, after a program's end.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// What is connected to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Our stdin is the program's.
    pub stdin: bool,
    /// Our stdin is a terminal, and the program has one: keys go through as they are.
    pub terminal: bool,
    /// A connection that closes when our input ends is how the program is told; its output comes another way.
    pub close_at_end: bool,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The program has.
    Program(Status),
    /// Our input has, and with it the connection ([`Plan::close_at_end`]).
    Input,
    /// The person left by Ctrl-P Ctrl-Q; the program goes on.
    Left,
    /// Nobody reads our output any more.
    ReaderLeft,
    /// The server closed the connection without a word.
    Closed,
}

/// It could not go on.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// The connection.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Our terminal.
    #[error("cannot take the terminal over: {0}")]
    Terminal(#[source] io::Error),
    /// Our input.
    #[error("cannot read the input: {0}")]
    Input(#[source] io::Error),
    /// Our output.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
}

/// What a terminal's program is writing when we come, after its last whole line.
///
/// The log has every whole line, also those written before we came; so whoever shows the log
/// goes on until this returns, and shows no more then. `None`: it has ended, and the log has all.
///
/// # Errors
/// The connection broke.
pub async fn settle(receiver: &mut Receiver) -> Result<Option<Vec<u8>>, PumpError> {
    let (mut line, until) = (Vec::new(), Instant::now() + SETTLED);
    while Instant::now() < until {
        match timeout(QUIET, receiver.next()).await {
            Err(_elapsed) => break,
            Ok(Ok(Incoming::Stdout(bytes) | Incoming::Stderr(bytes))) => {
                line.extend_from_slice(&bytes);
                let whole = line.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
                line.drain(..whole);
            }
            Ok(Ok(Incoming::Ended(_) | Incoming::Closed)) => return Ok(None),
            Ok(Err(error)) => return Err(error.into()),
        }
    }
    Ok(Some(line))
}

/// Moves everything over an open connection, `first` of all what [`settle`] left; `note` hears what a person should know.
///
/// # Errors
/// [`PumpError`]; our terminal is as it was then, too.
pub async fn run(
    connection: (Sender, Receiver),
    plan: Plan,
    first: Vec<u8>,
    note: &dyn Fn(&str),
) -> Result<End, PumpError> {
    let (mut sender, mut receiver) = connection;
    let raw = if plan.terminal { Some(Raw::enter().map_err(PumpError::Terminal)?) } else { None };
    if !first.is_empty() {
        write(first, stdio::out_while_read).await?;
    }
    // At once: each may have to wait for the other's progress.
    let end = tokio::select! {
        end = incoming(&mut receiver) => end,
        end = outgoing(&mut sender, plan, note) => end,
    };
    // Before the goodbye, which may take a moment, and before anybody says anything.
    drop(raw);
    session::close(sender, receiver).await;
    end
}

async fn incoming(receiver: &mut Receiver) -> Result<End, PumpError> {
    loop {
        match receiver.next().await? {
            Incoming::Ended(status) => {
                // Nothing comes after it as a rule; a server that does not close is not waited for.
                while let Ok(Ok(late)) = timeout(LAST_OUTPUT, receiver.next()).await {
                    if show(late).await?.is_some() {
                        break;
                    }
                }
                return Ok(End::Program(status));
            }
            other => {
                if let Some(end) = show(other).await? {
                    return Ok(end);
                }
            }
        }
    }
}

async fn show(incoming: Incoming) -> Result<Option<End>, PumpError> {
    match incoming {
        Incoming::Stdout(bytes) => Ok((!write(bytes, stdio::out_while_read).await?).then_some(End::ReaderLeft)),
        Incoming::Stderr(bytes) => write(bytes, |bytes| stdio::err(bytes).map(|()| true)).await.map(|_| None),
        Incoming::Ended(status) => Ok(Some(End::Program(status))),
        Incoming::Closed => Ok(Some(End::Closed)),
    }
}

/// On a thread of its own: a full pipe must not hold up keys and signals.
async fn write(bytes: Vec<u8>, to: fn(&[u8]) -> io::Result<bool>) -> Result<bool, PumpError> {
    let written = spawn_blocking(move || to(&bytes)).await;
    written.map_err(io::Error::other).and_then(|result| result).map_err(PumpError::Output)
}

async fn outgoing(sender: &mut Sender, plan: Plan, note: &dyn Fn(&str)) -> Result<End, PumpError> {
    let mut resized = signal(SignalKind::window_change()).map_err(PumpError::Terminal)?;
    let mut ours = if plan.stdin { Some(input::start().map_err(PumpError::Input)?) } else { None };
    let mut alive = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    let mut keys = DetachKeys::default();
    if plan.terminal {
        announce(sender).await?;
    }
    loop {
        tokio::select! {
            piece = next_piece(&mut ours) => match piece {
                Some(bytes) => {
                    if give(sender, plan, &mut keys, &bytes.map_err(PumpError::Input)?).await? {
                        return Ok(End::Left);
                    }
                }
                None => {
                    ours = None;
                    // A terminal that has gone ends nothing: its hang-up does.
                    if !plan.terminal && end_input(sender, plan, note).await? {
                        return Ok(End::Input);
                    }
                }
            },
            _ = resized.recv(), if plan.terminal => {
                if let Some((columns, rows)) = raw_terminal::size() {
                    sender.resize(columns, rows).await?;
                }
            }
            _ = alive.tick() => sender.keep_alive().await?,
        }
    }
}

/// The terminal's size, in two steps: a program that has drawn already draws anew at a change.
async fn announce(sender: &mut Sender) -> Result<(), PumpError> {
    if let Some((columns, rows)) = raw_terminal::size() {
        sender.resize(columns.saturating_add(1), rows.saturating_add(1)).await?;
        sender.resize(columns, rows).await?;
    }
    Ok(())
}

async fn next_piece(ours: &mut Option<Input>) -> Option<io::Result<Vec<u8>>> {
    match ours {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

/// Whether the person left.
async fn give(sender: &mut Sender, plan: Plan, keys: &mut DetachKeys, bytes: &[u8]) -> Result<bool, PumpError> {
    let typed = if plan.terminal { keys.take(bytes) } else { Typed::Bytes(bytes.to_vec()) };
    let (bytes, left) = match typed {
        Typed::Bytes(bytes) => (bytes, false),
        Typed::Left(bytes) => (bytes, true),
    };
    if !bytes.is_empty() {
        sender.input(&bytes).await?;
    }
    Ok(left)
}

/// Whether the connection is to be closed for it.
async fn end_input(sender: &mut Sender, plan: Plan, note: &dyn Fn(&str)) -> Result<bool, PumpError> {
    match sender.end_input().await? {
        EndOfInput::Told => Ok(false),
        EndOfInput::ByClosing if plan.close_at_end => Ok(true),
        EndOfInput::ByClosing => {
            note(
                "this runtime cannot tell the program that its input has ended; it goes on waiting if it reads to the end",
            );
            Ok(false)
        }
    }
}
