//! The process of `run -i`, `-t` and `-d` that has the terminal: shows the job, hands on
//! what is typed, and may leave while another process conducts the job (`link`).
//!
//! Where our stdout is a terminal and the program has one, what it writes comes by the
//! runtime's stream, keystroke by keystroke; what it wrote before that is shown from the log,
//! which in all other cases is the only source, since it is exact.

use crate::cri::client::Client;
use crate::cri::find;
use crate::cri::streaming::Wanted;
use crate::ids::StepId;
use crate::interact::pump::{self, End, Plan, PumpError};
use crate::interact::session::{self, Protocol, SessionError};
use crate::local::LocalError;
use crate::local::display::Display;
use crate::local::interrupts::Interrupts;
use crate::local::link::{self, Told, Word};
use crate::local::plan::CONTAINER_STEP;
use crate::logs::show::LastLine;
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, timeout};

/// Between two looks whether the container runs; longer once it takes longer, as a pull does.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));
/// A container whose image is there runs by then.
const SOON: Duration = Duration::from_secs(5);
/// After it a container is known to run on although the connection broke.
const SETTLED: Duration = Duration::from_secs(1);
/// The last of a terminal's output, once the job is over.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// How the job is attended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Input goes in, to its end.
    Input,
    /// A terminal, both ways.
    Terminal,
    /// Keys go in; the output is read elsewhere.
    Keys,
    /// Its output is shown.
    Watch,
    /// As soon as it runs, we leave.
    Leave,
}

/// Why the job cannot be attended.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// The socket to the conductor, or signals.
    #[error("cannot talk to the process that conducts the job: {0}")]
    Link(#[source] io::Error),
    /// Signals or the display.
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// How it ended, for us.
#[derive(Debug)]
pub enum Over {
    /// The job goes on without us.
    Left(StepId),
    /// It has ended.
    Ended {
        /// The container's step, if it came so far.
        step: Option<StepId>,
        /// Exit code of `run`.
        code: u8,
        /// Lines for the person.
        words: Vec<String>,
        /// The object of `--json`.
        json: String,
        /// How the output that was shown ended.
        last_line: LastLine,
    },
    /// Whoever conducted it died without a word.
    ConductorDied,
}

/// What attaching came to.
enum Attached {
    /// Input, or the program, has ended; its end is told by the conductor.
    Done,
    /// The person left.
    Left,
}

#[derive(Debug, thiserror::Error)]
enum AttachError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Pump(#[from] PumpError),
    #[error(transparent)]
    Runtime(#[from] crate::cri::error::CriError),
}

/// A job, attended.
pub struct Front<'a> {
    told: Lines<BufReader<OwnedReadHalf>>,
    words: OwnedWriteHalf,
    interrupts: Interrupts,
    client: Client,
    manner: Manner,
    say: &'a dyn Fn(&str),
}

impl<'a> Front<'a> {
    /// Attends the job at the other end of `socket`.
    ///
    /// # Errors
    /// [`FrontError`] of the kernel's.
    pub fn new(socket: StdStream, client: Client, manner: Manner, say: &'a dyn Fn(&str)) -> Result<Self, FrontError> {
        socket.set_nonblocking(true).map_err(FrontError::Link)?;
        let (reader, words) = UnixStream::from_std(socket).map_err(FrontError::Link)?.into_split();
        let told = BufReader::new(reader).lines();
        Ok(Self { told, words, interrupts: Interrupts::new()?, client, manner, say })
    }

    /// Until it ends, or we leave.
    ///
    /// # Errors
    /// [`FrontError`]; then the conductor ends the job, since we are gone.
    pub async fn attend(&mut self) -> Result<Over, FrontError> {
        let (step, uid, log) = loop {
            match self.event().await? {
                Event::Told(Told::Ready { job, uid, log }) => break (StepId { job, step: CONTAINER_STEP }, uid, log),
                Event::Told(Told::Ended { code, words, json }) => {
                    return Ok(Over::Ended { step: None, code, words, json, last_line: LastLine::Complete });
                }
                Event::Told(Told::Say(line)) => (self.say)(&line),
                Event::Passed => {}
                Event::ConductorDied => return Ok(Over::ConductorDied),
            }
        };
        let display = if self.manner == Manner::Leave { None } else { Some(Display::start(&log)?) };
        let (client, manner, say) = (self.client.clone(), self.manner, self.say);
        let attachment = attach(&client, manner, step, uid, display.as_ref(), say);
        let over = self.with(attachment, step).await?;
        match (over, display) {
            (Over::Ended { step, code, mut words, json, .. }, Some(display)) => {
                let last_line = self.finish(display, &mut words).await;
                Ok(Over::Ended { step, code, words, json, last_line })
            }
            (over, _) => Ok(over),
        }
    }

    async fn with(&mut self, attachment: impl Future<Output = Attached>, step: StepId) -> Result<Over, FrontError> {
        let mut attachment = std::pin::pin!(attachment);
        let mut attached = true;
        loop {
            tokio::select! {
                how = &mut attachment, if attached => match how {
                    Attached::Done => attached = false,
                    Attached::Left => {
                        self.words.write_all(&[link::LEAVE]).await.map_err(FrontError::Link)?;
                        return Ok(Over::Left(step));
                    }
                },
                event = self.event() => match event? {
                    Event::Told(Told::Ended { code, words, json }) => {
                        if attached && matches!(self.manner, Manner::Terminal) {
                            // What is still on its way; a connection that hangs is not waited for.
                            let _in_time = timeout(LAST_OUTPUT, &mut attachment).await;
                        }
                        let last_line = LastLine::Complete;
                        return Ok(Over::Ended { step: Some(step), code, words, json, last_line });
                    }
                    Event::Told(Told::Say(line)) => (self.say)(&line),
                    Event::Told(Told::Ready { .. }) | Event::Passed => {}
                    Event::ConductorDied => return Ok(Over::ConductorDied),
                },
            }
        }
    }

    /// The next thing from the conductor; a signal is passed on to it. Safe to cancel: a line
    /// is kept until it is whole.
    async fn event(&mut self) -> Result<Event, FrontError> {
        let signal = tokio::select! {
            line = self.told.next_line() => {
                let line = line.map_err(FrontError::Link)?;
                return Ok(line.and_then(|line| serde_json::from_str(&line).ok()).map_or(Event::ConductorDied, Event::Told));
            }
            signal = self.interrupts.next() => signal,
        };
        let word = match signal {
            "SIGTERM" => Word::Terminate,
            "SIGHUP" => Word::HangUp,
            _ => Word::Interrupt,
        };
        self.words.write_all(&[word.byte()]).await.map_err(FrontError::Link)?;
        Ok(Event::Passed)
    }

    /// A reader of ours that takes its time can be given up by a signal.
    async fn finish(&mut self, display: Display, words: &mut Vec<String>) -> LastLine {
        tokio::select! {
            result = display.finish() => match result {
                Ok(last_line) => return last_line,
                Err(error) => words.push(error.to_string()),
            },
            signal = self.interrupts.next() => words.push(format!("{signal}: the rest of the output is not shown")),
        }
        LastLine::Complete
    }
}

enum Event {
    Told(Told),
    /// A signal was passed on.
    Passed,
    ConductorDied,
}

/// Waits until the container runs, and does what the manner says. Never fails: the job goes on,
/// and its end is the conductor's to tell.
async fn attach(
    client: &Client,
    manner: Manner,
    step: StepId,
    uid: u32,
    display: Option<&Display>,
    say: &dyn Fn(&str),
) -> Attached {
    if manner == Manner::Watch {
        return Attached::Done;
    }
    let container = wait_until_it_runs(client, step, uid).await;
    if manner == Manner::Leave {
        return Attached::Left;
    }
    match stream(client, manner, &container, display, say).await {
        Ok(End::Left) => return Attached::Left,
        Ok(End::Program(_) | End::Input | End::ReaderLeft | End::Closed) => {}
        Err(error) => {
            // One that has just ended has nothing to be attached to, and its runtime may not know yet.
            sleep(SETTLED).await;
            if find::running(client, step, Some(uid)).await.is_ok() {
                say(&format!("not attached (any more): {error}; the job goes on, Ctrl-C stops it"));
            }
        }
    }
    Attached::Done
}

/// Whatever is wrong with the container is the conductor's to tell, who ends this wait.
async fn wait_until_it_runs(client: &Client, step: StepId, uid: u32) -> String {
    let begun = Instant::now();
    loop {
        match find::running(client, step, Some(uid)).await {
            Ok(container) => return container,
            Err(_) if begun.elapsed() < SOON => sleep(LOOKS.0).await,
            Err(_) => sleep(LOOKS.1).await,
        }
    }
}

async fn stream(
    client: &Client,
    manner: Manner,
    container: &str,
    display: Option<&Display>,
    say: &dyn Fn(&str),
) -> Result<End, AttachError> {
    let shown_here = manner == Manner::Terminal;
    let tty = matches!(manner, Manner::Terminal | Manner::Keys);
    let wanted = Wanted { stdin: true, stdout: shown_here, stderr: false, tty };
    let url = client.attach(container, wanted).await?;
    let (sender, mut receiver) = session::open(&url, Protocol::WebSocket).await?;
    let mut first = Vec::new();
    if let Some(display) = display.filter(|_| shown_here) {
        let Some(line) = pump::settle(&mut receiver).await? else { return Ok(End::Closed) };
        first = line;
        // From here on the terminal's output comes by the connection.
        display.hold().await;
    }
    let plan = Plan { stdin: true, terminal: tty, close_at_end: !tty };
    Ok(pump::run((sender, receiver), plan, first, say).await?)
}
