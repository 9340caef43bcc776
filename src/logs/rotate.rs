//! Our own log: a file that stays bounded by size and number.
//!
//! `x.log` is the newest, `x.log.1` the one before, up to `x.log.<n-1>`. A line is
//! never split over two files. A full disk or a vanished directory costs the lines
//! that could not be written, which are counted, and nothing else. Called by
//! `telemetry` on the log's worker thread only.

use crate::layout::segment;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lines that could not be written, shared with whoever wants to know.
#[derive(Clone, Debug, Default)]
pub struct LostLines(Arc<AtomicU64>);

impl LostLines {
    /// How many so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An append-only log of at most `max_files` files of about `max_bytes` each.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    max_files: u64,
    /// `None` after a failure: the next line tries again.
    current: Option<Current>,
    lost: LostLines,
}

#[derive(Debug)]
struct Current {
    file: File,
    size: u64,
    /// A line was cut off by an error; the next one must not continue it.
    torn: bool,
}

impl RotatingFile {
    /// Opens or creates the newest file, 0600, appending to what is there.
    ///
    /// `max_bytes` 0 means no limit; `max_files` 0 or 1 keeps one file, begun anew
    /// when it is full.
    ///
    /// # Errors
    /// The file cannot be opened, or is a symbolic link.
    pub fn open(path: impl Into<PathBuf>, max_bytes: u64, max_files: u64) -> io::Result<Self> {
        let path = path.into();
        let current = Some(Current::open(&path)?);
        Ok(Self { path, max_bytes, max_files, current, lost: LostLines::default() })
    }

    /// The count of lines that could not be written.
    pub fn lost_lines(&self) -> LostLines {
        self.lost.clone()
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => Current::open(&self.path)?,
        };
        if self.max_bytes > 0 && current.size > 0 && current.size + line.len() as u64 > self.max_bytes {
            current = self.rotate(current)?;
        }
        let written = current.append(line);
        // A full disk keeps the file; anything else is tried again from the start.
        let keep = written.as_ref().err().is_none_or(|e| e.kind() == io::ErrorKind::StorageFull);
        self.current = keep.then_some(current);
        written
    }

    fn rotate(&self, full: Current) -> io::Result<Current> {
        if self.max_files <= 1 {
            full.file.set_len(0)?;
            return Ok(Current { size: 0, torn: false, ..full });
        }
        // Up to the first gap only: the number of files may be configured in billions.
        let last = self.max_files - 1;
        let gap = (1..last).find(|&n| !segment(&self.path, n).exists()).unwrap_or(last);
        for number in (0..gap).rev() {
            rename_if_there(&segment(&self.path, number), &segment(&self.path, number + 1))?;
        }
        Current::open(&self.path)
    }
}

impl Write for RotatingFile {
    /// Takes the whole line always; one that cannot be written is counted.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.write_line(line).is_err() {
            self.lost.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Current {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        let status = file.metadata()?;
        if !status.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self { file, size: status.len(), torn: false })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.write_counted(b"\n")?;
            self.torn = false;
        }
        let before = self.size;
        self.write_counted(line).inspect_err(|_| self.torn = self.size > before)
    }

    fn write_counted(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.size += written as u64;
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::files::scratch::{Dir, Tmpfs};
    use std::os::unix::fs::{MetadataExt, symlink};

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn files_move_up_and_the_oldest_goes() {
        let dir = Dir::new();
        let path = dir.path().join("x.log");
        fs::write(&path, "0\n").unwrap();
        let mut log = RotatingFile::open(&path, 4, 3).unwrap();
        for line in ["1\n", "2\n", "longer than all\n", "3\n", "4\n", "5\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(read(&path), "5\n");
        assert_eq!(read(&dir.path().join("x.log.1")), "3\n4\n");
        assert_eq!(read(&dir.path().join("x.log.2")), "longer than all\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(fs::metadata(dir.path().join("x.log.1")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(log.lost_lines().count(), 0);
    }

    #[test]
    fn one_file_is_begun_anew_and_no_limit_is_none() {
        let dir = Dir::new();
        for files in [0, 1] {
            let path = dir.path().join(format!("one{files}"));
            let mut log = RotatingFile::open(&path, 4, files).unwrap();
            for line in ["1\n", "2\n", "3\n"] {
                log.write_all(line.as_bytes()).unwrap();
            }
            assert_eq!(read(&path), "3\n");
        }
        let path = dir.path().join("endless");
        let mut log = RotatingFile::open(&path, 0, 3).unwrap();
        (0..1000).for_each(|_| log.write_all(b"line\n").unwrap());
        assert_eq!(read(&path).len(), 5000);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_vanished_directory_costs_only_the_lines_meanwhile() {
        let dir = Dir::new();
        let home = dir.path().join("logs");
        fs::create_dir(&home).unwrap();
        let path = home.join("x.log");
        let mut log = RotatingFile::open(&path, 4, 2).unwrap();
        log.write_all(b"abc\n").unwrap();
        fs::remove_dir_all(&home).unwrap();
        log.write_all(b"lost\n").unwrap();
        assert_eq!(log.lost_lines().count(), 1);
        fs::create_dir(&home).unwrap();
        log.write_all(b"back\n").unwrap();
        assert_eq!((read(&path), log.lost_lines().count()), ("back\n".to_owned(), 1));
    }

    #[test]
    fn a_full_disk_costs_lines_but_tears_none() {
        let dir = Dir::new();
        let disk = Tmpfs::mount(dir.path(), 1 << 20);
        let path = disk.path().join("x.log");
        let filler = disk.path().join("filler");
        let mut log = RotatingFile::open(&path, 0, 1).unwrap();
        log.write_all(b"first\n").unwrap();
        let _ = File::create(&filler).unwrap().write_all(&vec![0; 2 << 20]);
        // Longer than what is left of the file's own page.
        log.write_all(&[&[b'x'; 8000][..], b"\n"].concat()).unwrap();
        assert_eq!(log.lost_lines().count(), 1);
        fs::remove_file(&filler).unwrap();
        log.write_all(b"last\n").unwrap();
        assert!(read(&path).starts_with("first\n") && read(&path).ends_with("\nlast\n"));
    }

    #[test]
    fn a_link_in_its_place_is_refused() {
        let dir = Dir::new();
        symlink(dir.path().join("target"), dir.path().join("x.log")).unwrap();
        assert!(RotatingFile::open(dir.path().join("x.log"), 0, 1).is_err());
        assert!(!dir.path().join("target").exists());
    }
}
