//! A connection that our guardian holds too, for a call that must not end with us.
//!
//! A server gives up a call whose caller hangs up, and not every server can: containerd in the
//! middle of RunPodSandbox forgets a shim that runs, in the middle of StartContainer it keeps a
//! task that CRI cannot remove. So while such a call is under way and we are killed, the connection
//! stays up for a while, and what the call made can be undone as usual. Knows no protocol.

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::{pipe2, read, write};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a call may go on without us. A start takes about 100 ms, on a loaded node longer.
const HOLD: Duration = Duration::from_secs(10);
/// The same from the server's last word on: it was an answer, if perhaps not to that call.
const ANSWERED: Duration = Duration::from_secs(3);

/// The connection, and the mark that a call is under way on it.
#[derive(Debug)]
pub struct Line {
    stream: UnixStream,
    busy: Busy,
}

/// Set while a call is under way that must not be cut off; our guardian sees it.
#[derive(Clone, Debug)]
pub struct Busy(Arc<Mark>);

/// A pipe with a byte in it for each such call, and how many there are.
#[derive(Debug)]
struct Mark {
    reader: OwnedFd,
    writer: OwnedFd,
    calls: AtomicU32,
}

/// While it lives, [`Busy`] is set.
#[derive(Debug)]
pub struct Raised<'a>(&'a Busy);

/// What the guardian has of it.
#[derive(Debug)]
pub struct Held {
    connection: OwnedFd,
    busy: OwnedFd,
}

impl Line {
    /// Connects to the socket at `path`, without waiting.
    ///
    /// # Errors
    /// The errno of socket(2), connect(2) or pipe2(2); EAGAIN from a server that accepts nobody.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let mark = Mark { reader, writer, calls: AtomicU32::new(0) };
        Ok(Self { stream: stream.into(), busy: Busy(Arc::new(mark)) })
    }

    /// The guardian's part of it.
    ///
    /// # Errors
    /// The errno of fcntl(2).
    pub fn held(&self) -> io::Result<Held> {
        Ok(Held { connection: self.stream.as_fd().try_clone_to_owned()?, busy: self.busy.0.reader.try_clone()? })
    }

    /// The connection, where it still stands, and its mark.
    pub fn into_parts(self) -> Option<(UnixStream, Busy)> {
        let gone = wait(self.stream.as_fd(), PollFlags::empty(), PollTimeout::ZERO).is_some();
        (!gone).then_some((self.stream, self.busy))
    }
}

impl Busy {
    /// Sets the mark.
    pub fn raise(&self) -> Raised<'_> {
        // Fails only where 64 KiB of marks are unread.
        let _ = write(&self.0.writer, b"!");
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        Raised(self)
    }

    /// Whether it is set.
    pub fn is_raised(&self) -> bool {
        self.0.calls.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.0.calls.fetch_sub(1, Ordering::Relaxed);
        let _ = read(&self.0.0.reader, &mut [0]);
    }
}

impl Held {
    /// Its descriptors.
    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.connection.as_raw_fd(), self.busy.as_raw_fd()]
    }

    /// Keeps the connection up if a call is under way: until 3 s after the server's last word, until
    /// the server has gone, and for 10 s at most.
    pub fn linger(&self) {
        // A hang-up there only says that we are dead.
        let busy = wait(self.busy.as_fd(), PollFlags::POLLIN, PollTimeout::ZERO);
        if !busy.is_some_and(|found| found.contains(PollFlags::POLLIN)) {
            return;
        }
        let end = Instant::now() + HOLD;
        let mut limit = HOLD;
        loop {
            let rest = end.saturating_duration_since(Instant::now()).min(limit);
            let rest = PollTimeout::try_from(rest).unwrap_or(PollTimeout::ZERO);
            match wait(self.connection.as_fd(), PollFlags::POLLIN, rest) {
                Some(found) if found == PollFlags::POLLIN && self.is_word() => limit = ANSWERED,
                _ => return,
            }
        }
    }

    /// Takes what the server said, which nobody else will read; `false` at its end.
    fn is_word(&self) -> bool {
        read(&self.connection, &mut [0; 4096]).is_ok_and(|count| count > 0)
    }
}

/// Which of `events`, an error and a hang-up come within `limit`.
fn wait(fd: BorrowedFd<'_>, events: PollFlags, limit: PollTimeout) -> Option<PollFlags> {
    let mut wanted = [PollFd::new(fd, events)];
    let came = poll(&mut wanted, limit).is_ok_and(|ready| ready > 0);
    came.then(|| wanted[0].revents()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_connection_lingers_only_while_a_call_is_under_way() {
        let path = std::env::temp_dir().join(format!("line-{}.sock", std::process::id()));
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path).unwrap();
        let line = Line::open(&path).unwrap();
        let held = line.held().unwrap();
        let (server, _) = listener.accept().unwrap();
        let (stream, busy) = line.into_parts().unwrap();
        let took = || {
            let begun = Instant::now();
            held.linger();
            begun.elapsed()
        };
        let quick = Duration::from_millis(500);
        assert!(took() < quick);
        drop(busy.raise());
        assert!(!busy.is_raised());
        assert!(took() < quick, "the call is over");
        std::mem::forget(busy.raise());
        assert!(busy.is_raised());
        drop((stream, busy));
        (&server).write_all(b"an answer").unwrap();
        let after_a_word = took();
        assert!(
            after_a_word > quick && after_a_word < 12 * quick,
            "{after_a_word:?}: the call goes on without its caller"
        );
        drop(server);
        assert!(took() < quick, "the server has gone");
        std::fs::remove_file(&path).unwrap();
        assert!(Line::open(&path).is_err());
    }

    #[test]
    fn a_caller_that_died_without_a_call_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("line-idle-{}.sock", std::process::id()));
        drop(std::fs::remove_file(&path));
        let _listener = UnixListener::bind(&path).unwrap();
        let line = Line::open(&path).unwrap();
        let held = line.held().unwrap();
        drop(line);
        let begun = Instant::now();
        held.linger();
        assert!(begun.elapsed() < Duration::from_millis(500));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_server_that_hung_up_leaves_no_connection() {
        let path = std::env::temp_dir().join(format!("line-gone-{}.sock", std::process::id()));
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path).unwrap();
        let line = Line::open(&path).unwrap();
        drop(listener.accept().unwrap());
        assert!(line.into_parts().is_none());
        std::fs::remove_file(&path).unwrap();
    }
}
