//! What can keep `run` from playing craned.

use crate::ids::StepId;
use std::io;
use std::path::PathBuf;

/// Why a local job could not be run, or not be watched to its end.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The runtime is not there. The beginning is worded as in CraneSched's deployment guide.
    #[error("Failed to get CRI version: {why} (socket {socket}); {hint}")]
    RuntimeUnreachable {
        /// The runtime's socket.
        socket: PathBuf,
        /// What the kernel or the runtime said.
        why: String,
        /// What to try.
        hint: &'static str,
    },
    /// The runtime is there and does not say how it is.
    #[error("cannot ask the runtime for its status: {reason}")]
    RuntimeStatus {
        /// What the runtime said.
        reason: String,
    },
    /// Ports were asked for and there is no pod network to publish them from.
    #[error("cannot publish ports: {reason}")]
    NoPorts {
        /// Why not.
        reason: String,
    },
    /// A user namespace was asked for and cannot be had.
    #[error(
        "cannot give the container the user namespace that --userns asks for: {reason}; --userns=false runs it without"
    )]
    NoUserNamespace {
        /// Why not.
        reason: String,
    },
    /// Towards the mounted files, root inside would be the node's root.
    #[error(
        "cannot mount host paths (-v) into a user namespace for a job of root; \
         say whose job it is with --as UID[:GID], or --userns=false to run without"
    )]
    RootMounts,
    /// A number cannot be claimed.
    #[error("cannot make the job's private directory {path}: {source}")]
    Claim {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Every number that was tried is taken.
    #[error(
        "cannot find a free job number: everything tried in {dir} is taken; remove crane-supervisor-* left there by killed runs"
    )]
    NoNumber {
        /// Where claims are made.
        dir: PathBuf,
    },
    /// A claim cannot be given back.
    #[error("cannot remove the job's private directory {path}: {source}")]
    Release {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A directory of the node is missing and cannot be made.
    #[error("cannot make the directory {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The socket for reports cannot be made.
    #[error("cannot listen for reports on {path}: {source}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Reports are no longer received.
    #[error("cannot receive reports any more: the server ended{}", .source.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    ReportsEnded {
        /// The cause, if the server named one.
        source: Option<tonic::transport::Error>,
    },
    /// The supervisor program cannot be started.
    #[error("cannot start the supervisor {program} of step {step}: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The step.
        step: StepId,
        /// The cause.
        source: io::Error,
    },
    /// The supervisor did not become ready.
    #[error("the supervisor of step {step} did not start: {reason} ({status})")]
    NotReady {
        /// The step.
        step: StepId,
        /// What happened instead.
        reason: String,
        /// How its process ended.
        status: String,
    },
    /// A ready supervisor ended without its last report.
    #[error("the supervisor of step {step} died ({status}); last line of its log: {last_line}")]
    Died {
        /// The step.
        step: StepId,
        /// How its process ended.
        status: String,
        /// The end of its log.
        last_line: String,
    },
    /// A supervisor did not report in time.
    #[error("step {step} did not report {what} within {seconds} s; last line of its log: {last_line}")]
    Silent {
        /// The step.
        step: StepId,
        /// What was waited for.
        what: &'static str,
        /// The limit in seconds.
        seconds: u64,
        /// The end of its log.
        last_line: String,
    },
    /// A call to a supervisor failed.
    #[error("cannot call {call} of step {step}: {reason}")]
    Call {
        /// The method.
        call: &'static str,
        /// The step.
        step: StepId,
        /// What the supervisor or the socket said.
        reason: String,
    },
    /// The output cannot be shown.
    #[error("cannot show the output in {path}: {source}")]
    Display {
        /// The container's log.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The display itself failed.
    #[error("cannot show the output: {reason}")]
    DisplayLost {
        /// What happened.
        reason: String,
    },
    /// Our own reader was slower than the log's bound allows.
    #[error(
        "not all output was shown: {files} files of its log were removed before whoever reads ours took them; it is whole in the user's copy"
    )]
    NotShown {
        /// How many.
        files: u64,
    },
    /// Signals cannot be received.
    #[error("cannot watch for signals: {0}")]
    Signals(#[source] io::Error),
}
