//! Writes a container's output in CRI's log format.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// One log file, shared by both streams.
#[derive(Clone)]
pub struct Log {
    file: Arc<Mutex<File>>,
    chunk: usize,
    /// Records kept back until `release`.
    held: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Log {
    /// Opens for appending, as runtimes do, and makes missing directories.
    pub fn open(path: &Path, chunk: usize) -> std::io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        Ok(Self { file: Arc::new(Mutex::new(open(path)?)), chunk, held: Arc::default() })
    }

    /// From now on writes to whatever has the name by now, made if nothing has.
    pub fn reopen(&self, path: &Path) -> std::io::Result<()> {
        *self.file.lock().unwrap() = open(path)?;
        Ok(())
    }

    /// Copies `from` until it ends.
    pub fn copy(&self, stream: &str, mut from: impl Read) {
        let mut pending = Vec::new();
        let mut buffer = [0; 16384];
        while let Ok(count) = from.read(&mut buffer)
            && count > 0
        {
            pending.extend_from_slice(&buffer[..count]);
            while let Some((record, rest)) = self.cut(&pending, stream) {
                self.write(&record);
                pending = rest;
            }
        }
        if !pending.is_empty() {
            self.write(&line(stream, 'P', &pending));
        }
    }

    /// The first record of `pending`, if it is complete, and what follows it.
    fn cut(&self, pending: &[u8], stream: &str) -> Option<(Vec<u8>, Vec<u8>)> {
        let end = pending.iter().take(self.chunk + 1).position(|b| *b == b'\n');
        match end {
            Some(end) => Some((line(stream, 'F', &pending[..end]), pending[end + 1..].to_vec())),
            None if pending.len() > self.chunk => {
                Some((line(stream, 'P', &pending[..self.chunk]), pending[self.chunk..].to_vec()))
            }
            None => None,
        }
    }

    /// From now on writes nothing until `release`.
    pub fn hold(&self) {
        *self.held.lock().unwrap() = Some(Vec::new());
    }

    /// Writes what was held.
    pub fn release(&self) {
        let held = self.held.lock().unwrap().take();
        self.write(&held.unwrap_or_default());
    }

    fn write(&self, record: &[u8]) {
        if let Some(held) = &mut *self.held.lock().unwrap() {
            return held.extend_from_slice(record);
        }
        let _ = self.file.lock().unwrap().write_all(record);
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn line(stream: &str, tag: char, text: &[u8]) -> Vec<u8> {
    let mut record = format!("{} {stream} {tag} ", now()).into_bytes();
    record.extend_from_slice(text);
    record.push(b'\n');
    record
}

/// RFC 3339 with nanoseconds, in UTC.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let (year, month, day) = civil(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:09}Z", since.subsec_nanos())
}

/// Days since 1970-01-01 as a date.
fn civil(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in months {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}
