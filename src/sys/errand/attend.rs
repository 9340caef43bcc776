//! Watching over one program: its output, its end, its limit, and whether anyone still
//! waits for it. Called by `errand`, in its process.

use super::Order;
use crate::sys::pidfd::Process;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Instant;

/// What is kept of the end of a program's error output.
const LAST_WORDS: usize = 400;

/// Reads of 8 KiB at a time: more than a pipe holds (pipe(7): 1 MiB).
const READS_MAX: u32 = 256;

/// What a program writes.
struct Pipe {
    fd: Option<OwnedFd>,
}

impl Pipe {
    fn new(fd: Option<OwnedFd>) -> Self {
        let usable = fd.filter(|fd| fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok());
        Self { fd: usable }
    }

    /// Reads what there is now, so much at most that a flood does not put off its end.
    fn take(&mut self, mut keep: impl FnMut(&[u8])) {
        let mut buffer = [0; 8192];
        for _ in 0..READS_MAX {
            let Some(fd) = &self.fd else { return };
            match read(fd, &mut buffer) {
                Ok(0) => self.fd = None,
                Ok(count) => keep(buffer.get(..count).unwrap_or_default()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.fd = None,
            }
        }
    }
}

/// Waits for the program's end; what went wrong is the error.
pub(super) fn to_its_end(
    mut child: Child,
    socket: &UnixStream,
    until: Instant,
    order: &Order,
    output: &mut Vec<u8>,
) -> Result<(), String> {
    let mut stdout = Pipe::new(child.stdout.take().map(OwnedFd::from));
    let mut stderr = Pipe::new(child.stderr.take().map(OwnedFd::from));
    let most = usize::try_from(order.max_output).unwrap_or(usize::MAX);
    let mut words = Vec::new();
    let stopped = loop {
        let why = wait(&child, socket, [&stdout, &stderr], until, order);
        stdout.take(|bytes| {
            let room = most.saturating_sub(output.len());
            output.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        });
        stderr.take(|bytes| {
            words.extend_from_slice(bytes);
            words.drain(..words.len().saturating_sub(LAST_WORDS));
        });
        match why {
            Woken::Output => {}
            Woken::Ended => break None,
            Woken::Stop(problem) => break Some(problem),
        }
    };
    // All of its session, before its number can be another's.
    let _ = killpg(Pid::from_raw(i32::try_from(child.id()).unwrap_or_default()), Signal::SIGKILL);
    let status = child.wait();
    match (stopped, status) {
        (Some(problem), _) => Err(problem),
        (None, Ok(status)) if status.success() => Ok(()),
        (None, Ok(status)) => Err(ending(status, &words)),
        (None, Err(error)) => Err(format!("its end is not known: {error}")),
    }
}

fn ending(status: ExitStatus, words: &[u8]) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    };
    let text = String::from_utf8_lossy(words);
    match text.trim().lines().next_back() {
        Some(last) => format!("{how}: {}", last.trim()),
        None => how,
    }
}

enum Woken {
    Output,
    Ended,
    Stop(String),
}

fn wait(child: &Child, socket: &UnixStream, pipes: [&Pipe; 2], until: Instant, order: &Order) -> Woken {
    let Ok(process) = Process::open(i32::try_from(child.id()).unwrap_or_default()) else {
        return Woken::Ended;
    };
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Woken::Stop(format!("did not finish within {:?}", order.limit));
    }
    let mut wanted = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    if !order.outlives {
        wanted.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
    }
    wanted
        .extend(pipes.iter().filter_map(|pipe| pipe.fd.as_ref()).map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
    let _ready_or_interrupted = poll(&mut wanted, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    let ready = |index: usize| wanted.get(index).is_some_and(|one| one.any() == Some(true));
    match () {
        () if ready(0) => Woken::Ended,
        () if !order.outlives && ready(1) => Woken::Stop("was ended: nobody waits for it any more".to_owned()),
        () => Woken::Output,
    }
}
