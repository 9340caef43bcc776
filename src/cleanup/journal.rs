//! The journal: one JSON line per acquired thing, written before the effect.
//!
//! One write(2) per line and no sync: a killed process loses nothing written,
//! and after a reboot labels decide. A torn last line is an effect that did not
//! happen.

use crate::cleanup::entry::{Entry, Header, VERSION};
use crate::failpoint;
use crate::sys::files::{self, FilesError, Survives};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A journal of a few entries has hundreds of bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A journal could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Create, write or read failed.
    #[error("cannot {verb} journal {path}: {source}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It could not be rewritten.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The first line is not a header of ours.
    #[error(
        "journal {path} cannot be understood: {problem}; clean up by hand (crictl pods --label cranesched=true) and remove it"
    )]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    entries: Vec<Entry>,
}

impl Journal {
    /// Begins a journal; one that is there is replaced.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn create(path: &Path, header: &Header) -> Result<Self, JournalError> {
        let error = |source| JournalError::Io { verb: "create", path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_APPEND;
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(flags);
        let file = options.open(path).map_err(error)?;
        let mut journal = Self { path: path.to_owned(), file, entries: Vec::new() };
        journal.append(&line(header))?;
        Ok(journal)
    }

    /// Goes on with the journal an earlier owner left, under our own header; `None` where nothing is in it.
    ///
    /// What it acquired before a reboot is told so: our own entries are of this boot.
    ///
    /// # Errors
    /// [`JournalError`]; what is owed there is then for a person, and must not be overwritten.
    pub fn resume(path: &Path, header: &Header) -> Result<Option<Self>, JournalError> {
        let bytes = match read_bytes(path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| JournalError::Io { verb: "read", path: path.to_owned(), source })?,
        };
        if !has_line(&bytes) {
            return Ok(None);
        }
        let (earlier, entries) = understand(path, &bytes)?;
        if entries.is_empty() {
            return Ok(None);
        }
        let rebooted = earlier.boot != header.boot;
        if earlier.runtime != header.runtime {
            tracing::warn!(earlier = %earlier.runtime.display(), now = %header.runtime.display(),
                "an earlier run of the step used another runtime; what it left there is looked for at the new one");
        }
        let entries: Vec<Entry> =
            entries.into_iter().map(|entry| if rebooted { entry.after_reboot() } else { entry }).collect();
        let text: Vec<u8> = std::iter::once(line(header)).chain(entries.iter().map(line)).flatten().collect();
        files::atomic_write(path, &text, Survives::Process)?;
        let mut options = OpenOptions::new();
        let file = options.append(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path);
        let file = file.map_err(|source| JournalError::Io { verb: "open", path: path.to_owned(), source })?;
        Ok(Some(Self { path: path.to_owned(), file, entries }))
    }

    /// Writes an entry down. Call before the effect.
    ///
    /// # Errors
    /// [`JournalError::Io`]: then the effect must not happen.
    pub fn record(&mut self, entry: Entry) -> Result<(), JournalError> {
        self.append(&line(&entry))?;
        self.entries.push(entry);
        Ok(())
    }

    /// Everything written down so far, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn append(&mut self, line: &[u8]) -> Result<(), JournalError> {
        failpoint::pass(|| format!("before writing {}", point(line)));
        self.tear(line);
        let failed = |source| JournalError::Io { verb: "write", path: self.path.clone(), source };
        let length = self.file.metadata().map_err(failed)?.len();
        if let Err(source) = (&self.file).write_all(line) {
            // Half a line would spoil the next one.
            drop(self.file.set_len(length));
            return Err(failed(source));
        }
        failpoint::pass(|| format!("written {}", point(line)));
        Ok(())
    }

    /// Half a line, for a kill in the middle of a write.
    #[cfg(feature = "failpoints")]
    fn tear(&mut self, line: &[u8]) {
        let chosen = std::env::var("CRANE_FAILPOINT").unwrap_or_default();
        let torn = format!("torn {}", point(line));
        if chosen == torn {
            drop(self.file.write_all(&line[..line.len() / 2]));
        }
        failpoint::pass(|| torn);
    }

    #[cfg(not(feature = "failpoints"))]
    fn tear(&mut self, _: &[u8]) {}
}

/// The name of a line, for failpoints.
fn point(line: &[u8]) -> String {
    let kind = |value: serde_json::Value| value.get("acquired").and_then(|kind| kind.as_str().map(str::to_owned));
    serde_json::from_slice(line).ok().and_then(kind).unwrap_or_else(|| "header".to_owned())
}

fn line(value: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Reads a journal that somebody else left.
///
/// # Errors
/// [`JournalError`]; a torn last line is none.
pub fn read(path: &Path) -> Result<(Header, Vec<Entry>), JournalError> {
    let failed = |source| JournalError::Io { verb: "read", path: path.to_owned(), source };
    understand(path, &read_bytes(path).map_err(failed)?)
}

fn understand(path: &Path, bytes: &[u8]) -> Result<(Header, Vec<Entry>), JournalError> {
    parse(bytes).map_err(|problem| JournalError::Foreign { path: path.to_owned(), problem })
}

/// Whether anything was ever written down: without a whole first line nothing was acquired.
///
/// # Errors
/// [`JournalError::Io`]: then nobody knows, and something may be owed.
pub fn is_begun(path: &Path) -> Result<bool, JournalError> {
    match read_bytes(path) {
        Ok(bytes) => Ok(has_line(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(JournalError::Io { verb: "read", path: path.to_owned(), source }),
    }
}

fn has_line(bytes: &[u8]) -> bool {
    bytes.contains(&b'\n')
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    // Read in part, it would be forgotten in part.
    let whole = u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_BYTES);
    whole.then_some(bytes).ok_or_else(|| io::Error::other(format!("it is larger than {MAX_BYTES} bytes")))
}

/// Understands a journal's bytes. Whole lines only; a line in the middle that
/// is not ours is a problem, because what follows it might be lost.
fn parse(bytes: &[u8]) -> Result<(Header, Vec<Entry>), String> {
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(&[][..], |end| &bytes[..end]);
    let mut lines = whole.split(|&byte| byte == b'\n');
    let first = lines.next().filter(|line| !line.is_empty()).ok_or("it is empty")?;
    let header: Header = serde_json::from_slice(first).map_err(|error| format!("line 1: {error}"))?;
    if header.version == 0 || header.version > VERSION {
        return Err(format!(
            "version {} is not among 1 to {VERSION}; a newer crane-supervisor wrote it",
            header.version
        ));
    }
    let entries = lines
        .enumerate()
        .map(|(at, line)| serde_json::from_slice(line).map_err(|error| format!("line {}: {error}", at + 2)));
    Ok((header, entries.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleanup::entry::About;
    use crate::sys::files::scratch::Dir;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn header() -> Header {
        let about = About { uid: Some(8), image: Some("a:1".into()) };
        Header { version: VERSION, job: 7, step: 1, boot: "b".into(), runtime: "/r".into(), log: "/l".into(), about }
    }

    fn entries() -> Vec<Entry> {
        vec![
            Entry::Socket { path: "/s".into() },
            Entry::Container { labels: HashMap::from([("a".into(), "b".into())]) },
        ]
    }

    fn bytes() -> Vec<u8> {
        entries().iter().fold(line(&header()), |all, entry| [all, line(entry)].concat())
    }

    #[test]
    fn a_journal_reads_back_as_written() {
        assert_eq!(parse(&bytes()).unwrap(), (header(), entries()));
    }

    #[test]
    fn a_torn_last_line_is_an_effect_that_did_not_happen() {
        let whole = bytes();
        assert_eq!(parse(&whole[..whole.len() - 3]).unwrap().1, entries()[..1]);
    }

    #[test]
    fn another_version_and_a_broken_middle_are_refused() {
        let newer = Header { version: VERSION + 1, ..header() };
        assert!(parse(&line(&newer)).unwrap_err().contains("newer"));
        let older = Header { version: 1, ..header() };
        assert!(parse(&line(&older)).is_ok());
        let broken = [line(&header()), b"rubbish\n".to_vec(), line(&entries()[0])].concat();
        assert!(parse(&broken).unwrap_err().starts_with("line 2"));
        assert!(parse(b"").is_err());
    }

    #[test]
    fn what_was_acquired_before_a_reboot_is_told_from_what_came_after() {
        let dir = Dir::new();
        let path = dir.path().join("journal");
        let processes = |name: &str| Entry::Processes { container: name.into(), cgroups: vec![format!("/{name}")] };
        let mut journal = Journal::create(&path, &header()).unwrap();
        journal.record(processes("before")).unwrap();
        let later = Header { boot: "c".into(), runtime: "/another".into(), ..header() };
        let mut journal = Journal::resume(&path, &later).unwrap().unwrap();
        journal.record(processes("after")).unwrap();
        let (header, entries) = read(&path).unwrap();
        assert_eq!(header, later);
        assert_eq!(entries, [processes("before").after_reboot(), processes("after")]);
        assert_eq!(entries, journal.entries());
    }

    #[test]
    fn a_journal_that_nobody_here_understands_is_not_overwritten() {
        let dir = Dir::new();
        let path = dir.path().join("journal");
        let newer = line(&Header { version: VERSION + 1, ..header() });
        std::fs::write(&path, &newer).unwrap();
        assert!(matches!(Journal::resume(&path, &header()), Err(JournalError::Foreign { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), newer);
        std::fs::write(&path, &newer[..5]).unwrap();
        assert!(Journal::resume(&path, &header()).unwrap().is_none(), "nothing was acquired yet");
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_none_that_is_empty() {
        let dir = Dir::new();
        let path = dir.path().join("journal");
        assert!(!is_begun(&path).unwrap());
        // Read as root too, this fails.
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(is_begun(&path), Err(JournalError::Io { .. })));
        assert!(matches!(Journal::resume(&path, &header()), Err(JournalError::Io { .. })));
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, vec![b'\n'; usize::try_from(MAX_BYTES).unwrap() + 1]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("larger than"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }
    }
}
