//! Taking a step from craned: one frame in, one word out.
//!
//! craned waits on the pipe without a limit, so every way out answers. Nothing
//! here changes the process: a step that is not ours must find it as craned
//! left it.

pub mod frame;

use crate::ids::StepId;
use crate::layout::LogDir;
use crate::spec::{self, Refusal, StepSpec};
use crate::sys::fds::{self, Direction, FdError, TimedReader};
use crate::wire::crane::supervisor::{InitSupervisorRequest, SupervisorReady};
use frame::FrameError;
use prost::Message;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
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
    /// Not a container's step.
    #[error(
        "cannot take step {job}.{step}: step_spec is neither a pod step nor a container step, \
         and this version hands over no other steps; run it with the process supervisor"
    )]
    NotOurs {
        /// Job number.
        job: u32,
        /// Step number.
        step: u32,
    },
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

/// Reads craned's message and checks it.
///
/// # Errors
/// [`NotTaken`]; the caller answers `ok=false`.
pub fn receive(input: Option<RawFd>) -> Result<StepSpec, NotTaken> {
    let input = fds::claim(input, Direction::Input)?;
    let bytes = frame::read_limited(TimedReader::new(&input, INIT_LIMIT), frame::MAX_MESSAGE_BYTES)?;
    let init = InitSupervisorRequest::decode(bytes.as_slice())?;
    let log = log_of(&init);
    read(init).map_err(|error| NotTaken { error, log })
}

fn log_of(init: &InitSupervisorRequest) -> Option<(LogDir, StepId)> {
    let id = StepId { job: init.job_id, step: init.step_id };
    init.log_dir.starts_with('/').then(|| (LogDir::new(&init.log_dir), id))
}

fn read(init: InitSupervisorRequest) -> Result<StepSpec, HandshakeError> {
    let Some(step) = &init.step_spec else {
        return Err(Refusal { field: "step_spec", problem: "missing".to_owned() }.into());
    };
    let kind = spec::kind_of(step).ok_or(HandshakeError::NotOurs { job: init.job_id, step: init.step_id })?;
    Ok(spec::read(init, kind)?)
}
