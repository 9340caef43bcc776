//! The user's file at the end of the copy.
//!
//! Everything here may hang for as long as the user's file system does, so it is
//! called only on threads made for that (`spawn_blocking`), never on main. Opening,
//! writing and closing happen as the user. Called by `logs::copy` and
//! `logs::resume`.

use super::chain::Chain;
use crate::sys::as_user::{AsUser, AsUserError, User};
use crate::sys::files::{self, FilesError, UserFilePlace};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes per read. It lies on the thread's stack: what a thread leaves behind is given back, heap is not.
const CHUNK: usize = 64 * 1024;

/// Why the copy stopped.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The thread could not act as the user.
    #[error("cannot write {}: {source}", path.display())]
    AsUser {
        /// The user's file.
        path: PathBuf,
        /// Why.
        source: AsUserError,
    },
    /// The user's file could not be opened.
    #[error(transparent)]
    Open(#[from] FilesError),
    /// The runtime's log could not be read.
    #[error("cannot read the container's log {}: {source}", path.display())]
    Read {
        /// The log.
        path: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// The user's file could not be written: full, over quota, read-only, gone.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The user's file.
        path: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// Network file systems tell of a failed write only here.
    #[error("cannot close {}: {source}; its end may be missing", path.display())]
    Close {
        /// The user's file.
        path: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
}

/// Where a copy goes. Each call may take as long as the file system likes.
pub(super) trait Sink: Send + 'static {
    /// Makes the target, once, before anything else.
    fn open(&mut self) -> Result<(), SinkError>;
    /// Appends all that `source` has by now, counting what was written.
    fn copy_from(&mut self, source: &mut Chain, copied: &AtomicU64) -> Result<(), SinkError>;
    /// The last word about what was written.
    fn close(self) -> Result<(), SinkError>;
}

/// The user's file, written as the user.
pub(super) struct UserFile {
    place: UserFilePlace,
    user: User,
    cap: Option<u64>,
    /// Bytes of this step's that its cap has removed.
    removed: Arc<AtomicU64>,
    open: Option<Capped>,
}

/// An open file, and what it may take.
struct Capped {
    files: files::UserFile,
    /// Bytes after which it is begun anew: half of the cap, since the file before stays.
    half: Option<u64>,
    size: u64,
    /// Its last record is complete.
    whole: bool,
    /// Bytes of this step's in the file before, and in this one.
    old: u64,
    ours: u64,
}

impl UserFile {
    /// At most `cap` bytes are kept of all, where there is a cap.
    pub(super) fn new(place: UserFilePlace, user: User, cap: Option<u64>, removed: Arc<AtomicU64>) -> Self {
        Self { place, user, cap, removed, open: None }
    }

    /// The last bytes of the open file, of the one before where it is empty; `max` at most.
    pub(super) fn tail(&self, max: usize) -> Result<Vec<u8>, SinkError> {
        let as_user = self.user.enter().map_err(|e| self.not_user(e))?;
        let Some(open) = &self.open else { return Ok(Vec::new()) };
        Ok(files::read_tail(&as_user, &open.files, &self.place, max)?)
    }

    fn not_user(&self, source: AsUserError) -> SinkError {
        SinkError::AsUser { path: self.place.path(), source }
    }
}

impl Sink for UserFile {
    fn open(&mut self) -> Result<(), SinkError> {
        let as_user = self.user.enter().map_err(|e| self.not_user(e))?;
        let files = files::open_user_file(&as_user, &self.place)?;
        let size = files.file.metadata().map_or(0, |file| file.len());
        self.open = Some(Capped { files, half: self.cap.map(|cap| cap / 2), size, whole: true, old: 0, ours: 0 });
        Ok(())
    }

    fn copy_from(&mut self, source: &mut Chain, copied: &AtomicU64) -> Result<(), SinkError> {
        let as_user = self.user.enter().map_err(|e| self.not_user(e))?;
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let log = source.path().to_owned();
        let target = Writer { open, as_user: &as_user, place: &self.place, removed: &self.removed };
        pump(source, target, copied).map_err(|error| match error {
            PumpError::Read(source) => SinkError::Read { path: log.clone(), source },
            PumpError::Write(source) => SinkError::Write { path: self.place.path(), source },
        })
    }

    fn close(mut self) -> Result<(), SinkError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let _as_user = self.user.enter().map_err(|e| self.not_user(e))?;
        // Dropping it would hide what close says.
        nix::unistd::close(open.files.file)
            .map_err(|errno| SinkError::Close { path: self.place.path(), source: errno.into() })
    }
}

impl Drop for UserFile {
    /// A copy that is given up is dropped on main, and a close may hang as well as a write.
    fn drop(&mut self) {
        if let (Some(open), Ok(runtime)) = (self.open.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(open));
        }
    }
}

/// Writes to the user's file, and begins another between two records where the cap asks for it.
struct Writer<'a> {
    open: &'a mut Capped,
    as_user: &'a AsUser,
    place: &'a UserFilePlace,
    removed: &'a AtomicU64,
}

impl Writer<'_> {
    fn begin_anew(&mut self) -> io::Result<()> {
        files::begin_anew(self.as_user, &mut self.open.files, self.place).map_err(io::Error::other)?;
        self.removed.fetch_add(self.open.old, Ordering::Relaxed);
        self.open.old = std::mem::take(&mut self.open.ours);
        self.open.size = 0;
        Ok(())
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut end = bytes.len();
        if let Some(half) = self.open.half {
            if self.open.whole && self.open.size >= half {
                self.begin_anew()?;
            }
            let room = usize::try_from(half.saturating_sub(self.open.size)).unwrap_or(usize::MAX);
            if room < end {
                // The record that crosses the line is the last.
                let from = room.saturating_sub(1);
                end = bytes[from..].iter().position(|byte| *byte == b'\n').map_or(end, |at| from + at + 1);
            }
        }
        let written = self.open.files.file.write(&bytes[..end])?;
        self.open.size += written as u64;
        self.open.ours += written as u64;
        self.open.whole = bytes[..written].ends_with(b"\n");
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub(super) enum PumpError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies until `source` has no more, in large pieces; counts each piece as soon as it is written.
pub(super) fn pump(mut source: impl Read, mut target: impl Write, copied: &AtomicU64) -> Result<(), PumpError> {
    let mut chunk = [0u8; CHUNK];
    loop {
        let mut bytes = match source.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => &chunk[..count],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(PumpError::Read(error)),
        };
        while !bytes.is_empty() {
            match target.write(bytes) {
                Ok(0) => return Err(PumpError::Write(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    bytes = &bytes[count..];
                    copied.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A regular file's write waits; one that will not is as broken as any other.
                Err(error) => return Err(PumpError::Write(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes one byte at a time, interrupted before each.
    struct Grudging {
        taken: Vec<u8>,
        interrupted: bool,
    }

    impl Write for Grudging {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.taken.push(bytes[0]);
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn short_and_interrupted_writes_lose_nothing() {
        let text: Vec<u8> = (0..=255).cycle().take(3 * CHUNK / 2).collect();
        let (mut target, copied) = (Grudging { taken: vec![], interrupted: false }, AtomicU64::new(0));
        pump(&text[..], &mut target, &copied).unwrap();
        assert!(target.taken == text);
        assert_eq!(copied.into_inner(), text.len() as u64);
    }

    #[test]
    fn a_full_target_is_an_error_of_writing() {
        let copied = AtomicU64::new(0);
        let mut small = [0u8; 10];
        let error = pump(&[1u8; 20][..], &mut small[..], &copied).unwrap_err();
        assert!(matches!(error, PumpError::Write(_)));
        assert_eq!(copied.into_inner(), 10);
    }
}
