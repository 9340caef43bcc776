//! `exec JOB.STEP -- CMD`: a program beside a step's own, in its container.
//!
//! Finds the container as craned does, by its labels, and asks the runtime; the step's
//! supervisor is not involved. The program is the container's user and in its cgroup. Called
//! by `cli` only.

use crate::cli::node::{self, Node, NodeError};
use crate::cli::output;
use crate::config;
use crate::cri::client::Client;
use crate::cri::error::{Class, CriError};
use crate::cri::find::{self, FindError};
use crate::cri::streaming::Wanted;
use crate::ids::StepId;
use crate::interact::pump::{self, End, Plan, PumpError};
use crate::interact::session::{self, Protocol, SessionError};
use crate::interact::status::Status;
use crate::sys::raw_terminal;
use clap::Args;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// The program could not be run or watched; as of `run`.
const CANNOT_RUN: u8 = 125;
/// As a shell has them.
const CANNOT_EXECUTE: u8 = 126;
const NO_SUCH_PROGRAM: u8 = 127;
/// 128 and the signal that ended us.
const OF_SIGNALS: u8 = 128;

/// Options of `exec`.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit code: the program's own; 125 it could not be run or its end is not known; 126 it cannot be\n\
    executed; 127 there is no such program; 128+N signal N ended this command, and the program goes on."
)]
pub struct Options {
    /// The step, as in its logs' names: 42.1
    #[arg(value_name = "JOB.STEP")]
    pub step: StepId,

    /// Program and arguments.
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,

    /// Let it read our standard input.
    #[arg(short, long)]
    pub interactive: bool,

    /// Give it a terminal, and with -i ours: Ctrl-P Ctrl-Q leaves it.
    #[arg(short, long)]
    pub tty: bool,

    /// Configuration file of the node.
    #[arg(short = 'C', long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
}

/// Why there is no exit code of the program's.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("step {0} holds the job's pod and has no container; name a step from 1 on, such as {job}.1", job = .0.job)]
    PodStep(StepId),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error("cannot give the program this terminal (-i -t): standard input is none; leave out -t")]
    NoTerminal,
    #[error("step {step} has just ended: {cause}")]
    JustEnded { step: StepId, cause: CriError },
    #[error("cannot run the program in the container of step {step}: {cause}")]
    Refused { step: StepId, cause: CriError },
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Pump(#[from] PumpError),
    #[error("the runtime closed the connection and did not say how the program ended; it may go on")]
    Closed,
    #[error("cannot watch for signals: {0}")]
    Signals(#[source] io::Error),
}

/// Does what `options` ask for; the program's exit code.
pub fn run(options: &Options) -> ExitCode {
    match prepare_and_run(options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn prepare_and_run(options: &Options) -> Result<u8, ExecError> {
    if options.step.step == 0 {
        return Err(ExecError::PodStep(options.step));
    }
    if options.tty && options.interactive && !raw_terminal::is_stdin() {
        return Err(ExecError::NoTerminal);
    }
    let node = node::open(&options.config)?;
    let event_loop = node::event_loop()?;
    let code = event_loop.block_on(until_signalled(options, &node));
    // A reader of ours that is stuck must not hold us up.
    event_loop.shutdown_background();
    code
}

/// The terminal is put right by what is dropped.
async fn until_signalled(options: &Options, node: &Node) -> Result<u8, ExecError> {
    let take = |kind| signal(kind).map_err(ExecError::Signals);
    let (mut int, mut term) = (take(SignalKind::interrupt())?, take(SignalKind::terminate())?);
    let (mut hup, mut quit) = (take(SignalKind::hangup())?, take(SignalKind::quit())?);
    let number = tokio::select! {
        code = exec(options, node) => return code,
        _ = int.recv() => 2,
        _ = term.recv() => 15,
        _ = hup.recv() => 1,
        _ = quit.recv() => 3,
    };
    output::say("left; the program goes on in the container, if it has not ended");
    Ok(OF_SIGNALS + number)
}

async fn exec(options: &Options, node: &Node) -> Result<u8, ExecError> {
    let client = node.client();
    let container = find::running(&client, options.step, None).await.map_err(in_words)?;
    let connection = connect(&client, options, &container).await?;
    let terminal = options.tty && options.interactive;
    let plan = Plan { stdin: options.interactive, terminal, close_at_end: false };
    match pump::run(connection, plan, Vec::new(), &output::say).await? {
        End::Program(Status::Exited(code)) => Ok(code),
        End::Program(Status::Failed(why)) => {
            output::say(&format!("cannot run the program in the container of step {}: {why}", options.step));
            Ok(code_of(&why))
        }
        End::Left => {
            output::say("left; the program goes on in the container");
            Ok(0)
        }
        End::ReaderLeft => Ok(0),
        End::Input | End::Closed => Err(ExecError::Closed),
    }
}

/// The end of an input is told by SPDY; by a server that has none any more, it is over WebSocket.
async fn connect(
    client: &Client,
    options: &Options,
    container: &str,
) -> Result<(session::Sender, session::Receiver), ExecError> {
    if options.interactive && !options.tty {
        match session::open(&address(client, options, container).await?, Protocol::Spdy).await {
            Err(SessionError::Refused(_)) => {}
            other => return Ok(other?),
        }
    }
    Ok(session::open(&address(client, options, container).await?, Protocol::WebSocket).await?)
}

/// A runtime that cannot be asked is the node's matter.
fn in_words(error: FindError) -> ExecError {
    match error {
        FindError::Ask(error) => ExecError::Node(node::unreachable(&error)),
        other => ExecError::Find(other),
    }
}

async fn address(client: &Client, options: &Options, container: &str) -> Result<String, ExecError> {
    let wanted = Wanted { stdin: options.interactive, stdout: true, stderr: !options.tty, tty: options.tty };
    let (step, command) = (options.step, options.command.clone());
    client.exec(container, command, wanted).await.map_err(|cause| match cause.class() {
        Class::Gone => ExecError::JustEnded { step, cause },
        Class::Unsure | Class::NameTaken | Class::Unimplemented | Class::Permanent => {
            ExecError::Refused { step, cause }
        }
    })
}

/// Only the runtime's words tell why a program was not started.
fn code_of(why: &str) -> u8 {
    let says = |words: &[&str]| words.iter().any(|word| why.contains(word));
    match () {
        () if says(&["executable file not found", "no such file or directory"]) => NO_SUCH_PROGRAM,
        () if says(&["permission denied", "exec format error"]) => CANNOT_EXECUTE,
        () => CANNOT_RUN,
    }
}
