//! One log read to its end across rotations: every byte once, in order.
//!
//! The log's files are `x` (being written), `x.1` (the one before), `x.2` and so on;
//! a rotation renames them while we read. A file is left for the next only when
//! nobody has it open for writing any more and it was then read to its end: a runtime
//! writes to the old file until it has reopened, and may finish a record even after it
//! said so. A file that shrank is read from its beginning. Reads what is there and
//! never waits; for paths that no user can change. Called by `logs::follow` (`run`,
//! `logs`) and `logs::copy`.

use super::watch::{Purpose, Watch};
use crate::layout;
use crate::sys::lease;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How often a look at the files' names is repeated that a rotation may have disturbed.
const LOOKS: u32 = 5;

/// Whether more can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Nobody has the log open for writing.
    None,
    /// Somebody has.
    Some,
    /// The file system cannot say.
    Unknown,
}

/// A place in a log.
#[derive(Debug)]
pub struct Chain {
    path: PathBuf,
    file: File,
    offset: u64,
    watch: Arc<Watch>,
    gaps: u64,
    /// Set when its reader is no longer wanted.
    stop: Option<Arc<AtomicBool>>,
}

impl Chain {
    /// The begin of the file being written.
    ///
    /// # Errors
    /// The kernel's, also for a symbolic link; `InvalidInput` for what is no regular file.
    pub fn newest(path: &Path, watch: Arc<Watch>) -> io::Result<Self> {
        Self::at(path, open(path)?, watch)
    }

    /// The begin of the oldest file there is.
    ///
    /// # Errors
    /// As [`Chain::newest`].
    pub fn oldest(path: &Path, watch: Arc<Watch>) -> io::Result<Self> {
        Self::at(path, open_oldest(path)?, watch)
    }

    fn at(path: &Path, file: File, watch: Arc<Watch>) -> io::Result<Self> {
        watch.turn_to(&file, Purpose::Reading)?;
        Ok(Self { path: path.to_owned(), file, offset: 0, watch, gaps: 0, stop: None })
    }

    /// The same, which ends as soon as `stop` is set.
    pub fn until(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// The log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How often files were removed before they were read.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Whether the file we are at may still grow. Read on after `None` of them: the last may just have left.
    pub fn writers(&self) -> Writers {
        match lease::is_written(&self.file) {
            Ok(true) => Writers::Some,
            Ok(false) => Writers::None,
            Err(_unsupported) => Writers::Unknown,
        }
    }

    /// The file that was begun after ours; `None` while ours is the newest.
    fn next(&mut self) -> io::Result<Option<File>> {
        for _ in 0..LOOKS {
            let own = self.file.metadata()?;
            match place_of(&self.path, own.ino()) {
                Some(0) => return Ok(None),
                // Between the rename and the making of the new one.
                Some(n) => match open(&layout::segment(&self.path, n - 1)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    // A rotation meanwhile has moved both: look again.
                    next if place_of(&self.path, own.ino()) == Some(n) => return next.map(Some),
                    _ => {}
                },
                None if own.nlink() == 0 => {
                    return match open_oldest(&self.path) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                        next => next.map(Some).inspect(|_| self.gaps += 1),
                    };
                }
                None => {}
            }
        }
        Ok(None)
    }

    /// Goes on to what can be read after the end of this file; tells whether there is anything.
    ///
    /// # Errors
    /// The kernel's.
    pub fn advance(&mut self) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.offset {
            self.offset = 0;
            return Ok(true);
        }
        let Some(next) = self.next()? else { return Ok(false) };
        let may_leave = match self.writers() {
            Writers::None => true,
            Writers::Some => false,
            // Something in the next is a sign that the runtime has turned to it.
            Writers::Unknown => next.metadata()?.len() > 0,
        };
        // The last writer may have written before it left.
        if !may_leave || self.file.metadata()?.len() > self.offset {
            return Ok(may_leave);
        }
        self.watch.turn_to(&next, Purpose::Reading)?;
        self.file = next;
        self.offset = 0;
        Ok(true)
    }

    /// Goes back by `bytes` of what the last read gave.
    pub fn step_back(&mut self, bytes: usize) {
        self.offset = self.offset.saturating_sub(bytes as u64);
    }

    /// Reads on over all files there are; 0 is the present end of the log.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_on(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.read(buffer)?;
            if count > 0 || !self.advance()? {
                return Ok(count);
            }
        }
    }
}

impl Read for Chain {
    /// Reads on within this file; opens nothing, so also right while the thread acts as the user.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Ok(0);
        }
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        self.watch.note_read(self.offset);
        Ok(count)
    }
}

/// Opens one file of a log for reading.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

fn open_oldest(path: &Path) -> io::Result<File> {
    let oldest = numbers(path).last().unwrap_or(0);
    open(&layout::segment(path, oldest))
}

/// The numbers of the files there are, from the newest. A rotation leaves one gap at most while it goes on.
pub(super) fn numbers(path: &Path) -> impl Iterator<Item = u64> + use<'_> {
    let mut missing = 0;
    (0..)
        .map_while(move |n| {
            let is_there = fs::symlink_metadata(layout::segment(path, n)).is_ok();
            missing = if is_there { 0 } else { missing + 1 };
            (missing < 3).then_some((n, is_there))
        })
        .filter_map(|(n, is_there)| is_there.then_some(n))
}

fn place_of(path: &Path, inode: u64) -> Option<u64> {
    numbers(path).find(|&n| fs::symlink_metadata(layout::segment(path, n)).is_ok_and(|file| file.ino() == inode))
}
