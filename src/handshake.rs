//! Taking a step from craned: one frame in, one word out.
//!
//! craned waits on the pipe without a limit, so every way out answers. Nothing
//! here changes the process: a step that is not ours must find it as craned
//! left it.

pub mod frame;
pub mod hand_over;

use crate::ids::StepId;
use crate::layout::LogDir;
use crate::spec::{self, Kind, Refusal, StepSpec};
use crate::sys::fds::{self, Direction, FdError, TimedReader};
use crate::wire::crane::supervisor::{InitSupervisorRequest, SupervisorReady};
use frame::FrameError;
use hand_over::HandOver;
use prost::Message;
use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// How long craned may take to write the init message; it does so right after the spawn.
const INIT_LIMIT: Duration = Duration::from_secs(60);

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// A descriptor cannot be used.
    #[error(transparent)]
    Descriptor(#[from] FdError),
    /// Both descriptors are the same one.
    #[error("--input-fd and --output-fd are both {0}")]
    SameDescriptor(RawFd),
    /// The init message did not arrive whole.
    #[error("cannot read the init message from --input-fd: {0}")]
    Frame(#[from] FrameError),
    /// The init message is not protobuf of the right shape.
    #[error("cannot decode the init message from --input-fd: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A field makes reporting impossible.
    #[error("cannot take the step: {0}")]
    Refused(#[from] Refusal),
    /// Not a container's step, and nobody took it.
    #[error(transparent)]
    NotHandedOver(#[from] hand_over::HandOverError),
}

/// The pipe on which craned waits for our word.
#[derive(Debug)]
pub struct Answer(OwnedFd);

impl Answer {
    /// Claims `--output-fd`.
    ///
    /// # Errors
    /// [`HandshakeError`]: then nobody can be told.
    pub fn claim(input: Option<RawFd>, output: Option<RawFd>) -> Result<Self, HandshakeError> {
        match (input, output) {
            (Some(input), Some(output)) if input == output => Err(HandshakeError::SameDescriptor(input)),
            _ => Ok(Self(fds::claim(output, Direction::Output)?)),
        }
    }

    /// The number craned gave it.
    pub fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Says whether the step is taken, and closes the pipe.
    ///
    /// # Errors
    /// [`FrameError::Write`] if craned is gone.
    pub fn send(self, ok: bool) -> Result<(), FrameError> {
        frame::write(File::from(self.0), &SupervisorReady { ok }.encode_to_vec())
    }
}

/// A step that was not taken.
#[derive(Debug)]
pub struct NotTaken {
    /// Why.
    pub error: HandshakeError,
    /// Where its log would have been, as far as the message says.
    pub log: Option<(LogDir, StepId)>,
}

impl<E: Into<HandshakeError>> From<E> for NotTaken {
    fn from(error: E) -> Self {
        Self { error: error.into(), log: None }
    }
}

/// Whose a step is.
#[derive(Debug)]
pub enum Received {
    /// A container's, checked.
    Ours(Box<StepSpec>),
    /// The process supervisor's, and where its log would be.
    Theirs(HandOver, Option<(LogDir, StepId)>),
}

/// Reads craned's message and checks it.
///
/// # Errors
/// [`NotTaken`]; the caller answers `ok=false`.
pub fn receive(input: Option<RawFd>) -> Result<Received, NotTaken> {
    let input = fds::claim(input, Direction::Input)?;
    let frame = frame::read_limited(TimedReader::new(&input, INIT_LIMIT), frame::MAX_MESSAGE_BYTES)?;
    let init = InitSupervisorRequest::decode(frame.message())?;
    let log = log_of(&init);
    match kind(&init) {
        Ok(Some(kind)) => {
            let spec = spec::read(init, kind).map_err(|refusal| NotTaken { error: refusal.into(), log })?;
            Ok(Received::Ours(Box::new(spec)))
        }
        Ok(None) => {
            let id = StepId { job: init.job_id, step: init.step_id };
            // From here on the number belongs to whoever takes over.
            Ok(Received::Theirs(HandOver { id, frame: frame.into_bytes(), input: input.into_raw_fd() }, log))
        }
        Err(error) => Err(NotTaken { error, log }),
    }
}

fn log_of(init: &InitSupervisorRequest) -> Option<(LogDir, StepId)> {
    let id = StepId { job: init.job_id, step: init.step_id };
    init.log_dir.starts_with('/').then(|| (LogDir::new(&init.log_dir), id))
}

fn kind(init: &InitSupervisorRequest) -> Result<Option<Kind>, HandshakeError> {
    match &init.step_spec {
        Some(step) => Ok(spec::kind_of(step)),
        None => Err(Refusal { field: "step_spec", problem: "missing".to_owned() }.into()),
    }
}
