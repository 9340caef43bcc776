//! Output that the runtime left unread: taken from the container's FIFOs, added to its log.
//!
//! containerd reads a container's output from FIFOs and writes it to the log. Version 1.6
//! closes and removes them at the container's end before all is read, and one that was
//! killed reads no more. So they are held open here from before the start. Nothing is
//! read while the runtime may still read, for a byte goes to one reader only: what is left
//! when it has removed a FIFO is taken at once, since the shim waits no longer than 2 s for
//! it; the rest when the container has ended and nobody has the log open. Then it is added
//! to the log as the runtime would have. Called by `logs::copy`; for paths that no user can
//! change. Without FIFOs (CRI-O, an unknown place) it does nothing.

use super::chain;
use super::stamp;
use super::watch::Watch;
use crate::layout::segment;
use crate::sys::{async_fd, lease};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::Interest;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Bytes of one stream that are kept: the container may make its pipe 1 MiB long, and two more lie behind that.
const MAX_KEPT: usize = 2 << 20;
/// Text of one record, as containerd's default has it.
const MAX_TEXT: usize = 16 * 1024;
/// How long one FIFO is read before the end.
const LIMIT: Duration = Duration::from_secs(2);
/// How long after the last record a runtime that vanished may have had more in hand.
const FRESH: Duration = Duration::from_secs(1);
/// A runtime closes the log and removes the FIFO a moment apart; also between two looks at the end.
const SETTLE: Duration = Duration::from_millis(100);

/// The FIFOs of one container, held.
#[derive(Debug, Default)]
pub struct Fifos(Vec<Fifo>);

#[derive(Debug)]
struct Fifo {
    stream: &'static str,
    file: File,
    kept: Vec<u8>,
    /// Nothing comes any more, or no more is taken.
    done: bool,
}

impl Fifos {
    /// Opens what containerd has made for `container` below its `state_dir`; call it before the start.
    pub fn open(state_dir: &Path, container: &str) -> Self {
        if container.contains('/') {
            return Self::default();
        }
        let dirs = state_dir.join("containers").join(container).join("io");
        let found = fs::read_dir(&dirs).into_iter().flatten().flatten().flat_map(|dir| {
            ["stdout", "stderr"].map(|stream| (stream, dir.path().join(format!("{container}-{stream}"))))
        });
        let opened: Vec<_> = found.filter_map(|(stream, path)| Fifo::open(stream, &path)).collect();
        tracing::debug!(dir = %dirs.display(), fifos = opened.len(), "holding the container's FIFOs");
        Self(opened)
    }
}

impl Fifo {
    fn open(stream: &'static str, path: &Path) -> Option<Self> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        let is_fifo = file.metadata().is_ok_and(|file| file.file_type().is_fifo());
        is_fifo.then_some(Self { stream, file, kept: Vec::new(), done: false })
    }

    /// The runtime reads no more: it removes a FIFO after it has closed it.
    fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() == 0)
    }

    /// Somebody may still write; only told of a FIFO that has had a writer.
    fn is_written(&self) -> bool {
        let mut fds = [PollFd::new(&self.file, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default())).is_ok() && !fds[0].revents().contains(PollFlags::HUP)
    }

    /// Reads to the end. Cancel safe.
    async fn read_out(&mut self) -> io::Result<()> {
        let fd = async_fd::readable(OwnedFd::from(self.file.try_clone()?))?;
        let mut chunk = [0u8; 16 * 1024];
        while !self.done {
            match fd.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut chunk)?)).await {
                Ok(count) => {
                    self.kept.extend_from_slice(&chunk[..count]);
                    self.done = count == 0 || self.kept.len() >= MAX_KEPT;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What became of a container's FIFOs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spilled {
    /// Bytes of output that were added to the log.
    pub saved: u64,
    /// The runtime vanished while the container printed, or a FIFO could not be read to its end.
    pub missing: bool,
}

/// The FIFOs beside the log that the runtime fills from them.
pub(super) struct Spill {
    log: PathBuf,
    fifos: Mutex<Vec<Fifo>>,
    /// The runtime vanished in the middle of it.
    cut: AtomicBool,
}

impl Spill {
    /// Of the log at `log`; `watch` wakes when a FIFO is removed.
    pub(super) fn new(log: &Path, Fifos(fifos): Fifos, watch: &Watch) -> Self {
        fifos.iter().for_each(|fifo| watch.attend(&fifo.file));
        Self { log: log.to_owned(), fifos: Mutex::new(fifos), cut: AtomicBool::new(false) }
    }

    /// Looks whenever `changed` says so: takes what the runtime left, notes when it vanishes. Endless.
    pub(super) async fn watch(&self, changed: &Notify) {
        if self.fifos.lock().await.is_empty() {
            return std::future::pending().await;
        }
        let mut was_open = false;
        loop {
            changed.notified().await;
            let is_open = self.is_open();
            if was_open && is_open == Some(false) && self.is_fresh() {
                sleep(SETTLE).await;
                self.cut.fetch_or(self.is_cut().await, Ordering::Relaxed);
            }
            was_open = is_open == Some(true);
            let mut fifos = self.fifos.lock().await;
            for fifo in fifos.iter_mut().filter(|fifo| fifo.is_removed()) {
                // Somebody may hold it open; then `finish` goes on.
                if let Ok(result) = timeout(LIMIT, fifo.read_out()).await {
                    warn(result);
                }
            }
        }
    }

    /// Whether the container has printed just now.
    fn is_fresh(&self) -> bool {
        let written = fs::symlink_metadata(&self.log).and_then(|log| log.modified());
        written.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < FRESH))
    }

    /// Whether the runtime that has closed the log had more to read. One that is back by now and
    /// has it open again does not know what the one before had in hand.
    async fn is_cut(&self) -> bool {
        let fifos = self.fifos.lock().await;
        let cut = fifos.iter().any(|fifo| !fifo.is_removed() && fifo.is_written());
        if cut {
            tracing::warn!("the runtime went away while the container printed: some output may be missing");
        }
        cut
    }

    /// Takes the rest and adds all to the log; the container has ended. Waits until `until` at most.
    pub(super) async fn finish(&self, changed: &Notify, until: Instant) -> Spilled {
        while self.is_open() == Some(true) {
            if Instant::now() >= until {
                // What was taken cannot be added to a log that somebody writes.
                let taken = self.fifos.lock().await.iter().any(|fifo| !fifo.kept.is_empty());
                return Spilled { saved: 0, missing: taken || self.cut.load(Ordering::Relaxed) };
            }
            // Without inotify nobody tells of the close.
            let _ = timeout(SETTLE, changed.notified()).await;
        }
        let mut fifos = self.fifos.lock().await;
        let nobody_else = self.is_open() == Some(false);
        let mut missing = self.cut.load(Ordering::Relaxed);
        for fifo in fifos.iter_mut().filter(|fifo| nobody_else || fifo.is_removed()) {
            match timeout_at(until, fifo.read_out()).await {
                Ok(result) => warn(result),
                Err(_) => tracing::warn!(stream = fifo.stream, "somebody holds the container's output open"),
            }
            missing |= !fifo.done || fifo.kept.len() >= MAX_KEPT;
        }
        let saved = fifos.iter().map(|fifo| fifo.kept.len() as u64).sum();
        let taken: Vec<_> = fifos.drain(..).map(|fifo| (fifo.stream, fifo.kept)).collect();
        drop(fifos);
        if saved == 0 {
            return Spilled { saved, missing };
        }
        let log = self.log.clone();
        let added = tokio::task::spawn_blocking(move || add(&log, &taken)).await;
        match added.unwrap_or_else(|crashed| Err(io::Error::other(crashed))) {
            Ok(()) => {
                tracing::info!(bytes = saved, "the runtime left output unread; it was added to the log");
                Spilled { saved, missing }
            }
            Err(error) => {
                tracing::warn!(bytes = saved, %error, "output that the runtime left unread is lost");
                Spilled { saved: 0, missing: true }
            }
        }
    }

    /// Whether anybody writes to the log, to the file before the newest too; `None` where nobody can tell.
    fn is_open(&self) -> Option<bool> {
        let files = [0, 1].map(|number| chain::open(&segment(&self.log, number)));
        let written: Vec<_> = files.into_iter().flatten().map(|file| lease::is_written(&file)).collect();
        match () {
            () if written.iter().any(|written| matches!(written, Ok(true))) => Some(true),
            () if written.iter().all(Result::is_ok) => Some(false),
            () => None,
        }
    }
}

fn warn(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot read the container's FIFO");
    }
}

fn add(log: &Path, taken: &[(&str, Vec<u8>)]) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    // Buffered: an empty line's record is forty times as long, and a program may have left millions.
    let mut log = BufWriter::new(OpenOptions::new().append(true).custom_flags(flags).open(log)?);
    let mut clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for (stream, text) in taken {
        write_records(&mut log, &mut clock, stream, text)?;
    }
    log.flush()
}

/// `text` as CRI's log has it; the first record may go on a line that the runtime cut.
fn write_records(log: &mut impl Write, clock: &mut Duration, stream: &str, text: &[u8]) -> io::Result<()> {
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let (line, ended) = line.strip_suffix(b"\n").map_or((line, false), |line| (line, true));
        let mut parts = line.chunks(MAX_TEXT).peekable();
        if parts.peek().is_none() {
            write_record(log, clock, stream, true, b"")?;
        }
        while let Some(part) = parts.next() {
            write_record(log, clock, stream, ended && parts.peek().is_none(), part)?;
        }
    }
    Ok(())
}

fn write_record(log: &mut impl Write, clock: &mut Duration, stream: &str, ended: bool, text: &[u8]) -> io::Result<()> {
    let flag: &[u8] = if ended { b"F" } else { b"P" };
    let time = stamp::rfc3339_micros(*clock);
    // No two are alike: `resume` goes by that.
    *clock += Duration::from_micros(1);
    for part in [&time[..], b" ", stream.as_bytes(), b" ", flag, b" ", text, b"\n"] {
        log.write_all(part)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
