//! A supervisor process, started and spoken to exactly as craned does it.
//!
//! Two plain pipes, `csupervisor: [JOB.STEP] --input-fd N --output-fd M`, one
//! init message in, one answer out. A supervisor that does not become ready is
//! ended and reaped here; a ready one is only ever waited for.

use crate::handshake::frame::{self, FrameError};
use crate::ids::StepId;
use crate::layout::StepDir;
use crate::local::LocalError;
use crate::sys::async_fd;
use crate::wire::crane::supervisor::{InitSupervisorRequest, SupervisorReady};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::pipe2;
use prost::Message;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;

/// A supervisor is ready in milliseconds; a node that pages heavily takes longer.
pub const READY_LIMIT: Duration = Duration::from_secs(20);

/// A supervisor that is not ready has nothing to clean up but its own directory.
const GO_LIMIT: Duration = Duration::from_secs(3);

/// The answer is one small message.
const MAX_ANSWER_BYTES: usize = 4096;

/// A supervisor that became ready.
#[derive(Debug)]
pub struct Supervisor {
    step: StepId,
    child: Child,
    /// Readable once the process has ended.
    end: AsyncFd<OwnedFd>,
}

impl Supervisor {
    /// Starts `program`, hands it `message` and waits until it is ready.
    pub async fn start(
        program: &Path,
        step: StepId,
        message: &InitSupervisorRequest,
        limit: Duration,
    ) -> Result<Self, LocalError> {
        let (mut supervisor, mut input, mut output) = Self::spawn(program, step)
            .map_err(|source| LocalError::Spawn { program: program.to_owned(), step, source })?;
        let conversation = async {
            // One that refuses early need not read it all: its answer says more than our broken pipe.
            let sent = input.write_all(&frame::encode(&message.encode_to_vec())).await;
            drop(input);
            (sent, read_answer(&mut output).await)
        };
        let reason = match timeout(limit, conversation).await {
            Ok((_, Ok(answer))) => match SupervisorReady::decode(answer.as_slice()) {
                Ok(SupervisorReady { ok: true }) => return Ok(supervisor),
                Ok(SupervisorReady { ok: false }) => {
                    "it refused the job; the reason is above and in its log".to_owned()
                }
                Err(error) => format!("its answer is no SupervisorReady: {error}"),
            },
            Ok((Err(sent), Err(error))) => {
                format!("it gave no answer: {error}; nor took its init message: {sent}")
            }
            Ok((Ok(()), Err(error))) => format!("it gave no answer: {error}"),
            Err(_) => format!("it gave no answer within {} s", limit.as_secs()),
        };
        let status = supervisor.end_soon().await;
        Err(LocalError::NotReady { step, reason, status })
    }

    fn spawn(program: &Path, step: StepId) -> io::Result<(Self, pipe::Sender, pipe::Receiver)> {
        let (init_read, init_write) = pipe2(OFlag::O_CLOEXEC)?;
        let (answer_read, answer_write) = pipe2(OFlag::O_CLOEXEC)?;
        // Of all our descriptors only these two survive the exec.
        fcntl(&init_read, FcntlArg::F_SETFD(FdFlag::empty()))?;
        fcntl(&answer_write, FcntlArg::F_SETFD(FdFlag::empty()))?;
        // Not `sys::helper`: a supervisor outlives its starter's interest and inherits two pipes by number.
        #[expect(clippy::disallowed_methods)]
        let mut child = std::process::Command::new(program)
            .arg0(format!("csupervisor: [{step}]"))
            .args(["--input-fd", &init_read.as_raw_fd().to_string()])
            .args(["--output-fd", &answer_write.as_raw_fd().to_string()])
            .stdin(Stdio::null())
            // Our stdout carries the container's output and nothing else.
            .stdout(Stdio::null())
            .spawn()?;
        let supervisor = Self { step, end: watch(&mut child)?, child };
        Ok((supervisor, pipe::Sender::from_owned_fd(init_write)?, pipe::Receiver::from_owned_fd(answer_read)?))
    }

    /// Its step.
    pub fn step(&self) -> StepId {
        self.step
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end and reaps it. Safe to cancel and to repeat.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let _ = self.end.readable().await?;
        self.child.wait()
    }

    /// Lets one that refuses go by itself, since it may still be tidying up.
    async fn end_soon(&mut self) -> String {
        match timeout(GO_LIMIT, self.ended()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(_)) | Err(_) => self.end_now().await,
        }
    }

    /// Kills and reaps it: SIGKILL leaves nothing to wait long for.
    pub async fn end_now(&mut self) -> String {
        let _ = self.child.kill();
        match timeout(READY_LIMIT, self.ended()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("process {} cannot be ended", self.pid()),
        }
    }
}

/// Has `program` do what is written down in the directory of a step whose supervisor is dead.
pub async fn reap(program: &Path, dir: &StepDir) -> io::Result<ExitStatus> {
    // As above: it is our own program, and ends by itself.
    #[expect(clippy::disallowed_methods)]
    let mut child = std::process::Command::new(program)
        .arg("reap")
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let end = watch(&mut child)?;
    let _ = end.readable().await?;
    child.wait()
}

/// Becomes readable at the end of `child`; one that cannot be watched is ended at once.
fn watch(child: &mut Child) -> io::Result<AsyncFd<OwnedFd>> {
    let watched = pidfd(child).and_then(async_fd::readable);
    if watched.is_err() {
        child.kill()?;
        child.wait()?;
    }
    watched
}

fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Reads until a frame is complete, or until it never will be.
async fn read_answer(output: &mut pipe::Receiver) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::new();
    loop {
        let ended = output.read_buf(&mut bytes).await.map_err(FrameError::Read)? == 0;
        match frame::read_limited(bytes.as_slice(), MAX_ANSWER_BYTES) {
            Err(FrameError::Empty | FrameError::TruncatedLength { .. } | FrameError::Truncated { .. }) if !ended => {}
            complete => return complete.map(|frame| frame.message().to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::testing::{Scratch, block_on};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const STEP: StepId = StepId { job: 7, step: 1 };

    /// Starts a shell script in the supervisor's place.
    fn start(name: &str, script: &str, limit: Duration) -> Result<(Supervisor, ExitStatus), LocalError> {
        let scratch = Scratch::new(name);
        let program = scratch.path().join("supervisor");
        fs::write(&program, format!("#!/bin/sh\nin=/dev/fd/$2; out=/dev/fd/$4\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let message = InitSupervisorRequest { job_id: 7, step_id: 1, ..Default::default() };
        block_on(async {
            let mut supervisor = Supervisor::start(&program, STEP, &message, limit).await?;
            let status = supervisor.ended().await.unwrap();
            assert_eq!(supervisor.ended().await.unwrap(), status, "asking again gives the same answer");
            Ok((supervisor, status))
        })
    }

    #[test]
    fn a_ready_supervisor_has_read_the_message_and_is_waited_for() {
        let script = r#"test "$(head -c 5 $in | od -An -tx1 | tr -d ' \n')" = 0408071001 || exit 9
            printf '\002\010\001' > $out; exit 3"#;
        let (_, status) = start("ready", script, READY_LIMIT).unwrap();
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn every_way_of_not_becoming_ready_is_told_apart() {
        for (name, script, expected) in [
            ("refuses", r"printf '\000' > $out; exit 1", "it refused the job"),
            ("silent", "exit 4", "before the first byte"),
            ("cut", r"printf '\002\010' > $out", "after 1 of the message's 2 bytes"),
            ("garbage", r"printf '\002\377\377' > $out", "no SupervisorReady"),
        ] {
            let error = start(name, script, READY_LIMIT).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("7.1"), "{name}: {error}");
        }
    }

    #[test]
    fn one_that_hangs_is_ended_and_reaped() {
        let error = start("hangs", "exec sleep 1000", Duration::from_millis(200)).unwrap_err().to_string();
        assert!(error.contains("no answer within") && error.contains("signal: 9"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let message = InitSupervisorRequest::default();
        let error = block_on(Supervisor::start(Path::new("/nonexistent/s"), STEP, &message, READY_LIMIT))
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nonexistent/s"), "{error}");
    }
}
