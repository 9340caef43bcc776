//! The node's files of ids: `/etc/subuid`, `/etc/subgid`, `/etc/passwd`, `/etc/group`.
//!
//! They are root's or they are not read. Links are followed: `/etc` is root's.
//! Lines that shadow-utils would not understand are passed over, as it does.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A million accounts.
const BYTES_MAX: u64 = 64 << 20;
/// A group with a hundred thousand members.
const LINE_MAX: usize = 1 << 20;
/// subordinateio.c passes over entries from this length on.
const ENTRY_MAX: usize = 1024;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Files {
    /// Subordinate uids.
    pub subuid: PathBuf,
    /// Subordinate gids.
    pub subgid: PathBuf,
    /// Accounts.
    pub passwd: PathBuf,
    /// Groups.
    pub group: PathBuf,
    /// What lckpwdf(3) locks.
    pub pwd_lock: PathBuf,
}

impl Files {
    /// The files of a directory.
    pub fn below(etc: &Path) -> Self {
        Self {
            subuid: etc.join("subuid"),
            subgid: etc.join("subgid"),
            passwd: etc.join("passwd"),
            group: etc.join("group"),
            pwd_lock: etc.join(".pwd.lock"),
        }
    }
}

impl Default for Files {
    fn default() -> Self {
        Self::below(Path::new("/etc"))
    }
}

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A kernel call failed.
    #[error("cannot {verb} {}: {source}", path.display())]
    Call {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A fifo, device, socket or directory.
    #[error("refuse to use {}: not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// Others than root can change it.
    #[error("refuse to use {}: uid {owner} owns it, with mode {mode:04o}; it must be root's, and nobody else may write to it (chown root, chmod go-w)", path.display())]
    Writable {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Permission bits.
        mode: u32,
    },
    /// More than such a file can rightly hold.
    #[error("refuse to use {}: larger than {BYTES_MAX} bytes, or a line is longer than {LINE_MAX}", .0.display())]
    TooLarge(PathBuf),
}

impl FileError {
    /// For `map_err`.
    pub(super) fn call(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Call { verb, path: path.to_owned(), source }
    }
}

/// What a file holds, and how it is kept.
#[derive(Debug)]
pub struct Content {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owning group; the owner is root.
    pub group: u32,
}

/// Reads a file of root's.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path) -> Result<Content, FileError> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    content(opened.map_err(FileError::call("open", path))?, path)
}

/// Reads a file of root's that may be missing.
///
/// # Errors
/// [`FileError`].
pub fn read_if_there(path: &Path) -> Result<Option<Content>, FileError> {
    match read(path) {
        Ok(content) => Ok(Some(content)),
        Err(FileError::Call { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn content(file: File, path: &Path) -> Result<Content, FileError> {
    let status = file.metadata().map_err(FileError::call("look at", path))?;
    if !status.is_file() {
        return Err(FileError::NotRegular(path.to_owned()));
    }
    let (owner, mode) = (status.uid(), status.mode() & 0o7777);
    if owner != 0 || mode & 0o022 != 0 {
        return Err(FileError::Writable { path: path.to_owned(), owner, mode });
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(FileError::call("read", path))?;
    if bytes.len() as u64 > BYTES_MAX || lines(&bytes).any(|line| line.len() > LINE_MAX) {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    Ok(Content { bytes, mode, group: status.gid() })
}

/// A line of `/etc/subuid` or `/etc/subgid`: ids that a user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Login name, or uid in decimal; in `/etc/subgid` too.
    pub owner: &'a [u8],
    /// First id.
    pub start: u64,
    /// How many.
    pub count: u64,
}

impl std::fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.start, self.count)
    }
}

/// The entries of `/etc/subuid` or `/etc/subgid` (subuid(5)).
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    lines(bytes).filter(|line| line.len() < ENTRY_MAX).filter_map(entry)
}

/// More fields than three are passed over, as there.
fn entry(line: &[u8]) -> Option<Entry<'_>> {
    let mut fields = line.split(|&byte| byte == b':');
    let owner = fields.next().filter(|owner| !owner.is_empty())?;
    Some(Entry { owner, start: number(fields.next()?)?, count: number(fields.next()?)? })
}

/// As strtoul(3) without a base: hexadecimal after 0x, octal after 0.
fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return unsigned(digits, 16);
    }
    match text.strip_prefix('0') {
        Some(digits) if !digits.is_empty() => unsigned(digits, 8),
        _ => unsigned(text, 10),
    }
}

/// Without the sign that the standard library takes.
fn unsigned(digits: &str, radix: u32) -> Option<u64> {
    digits.starts_with(|first: char| first.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, radix).ok())?
}

/// A line of `/etc/passwd` or `/etc/group`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account<'a> {
    /// Login or group name.
    pub name: &'a [u8],
    /// uid or gid.
    pub id: u32,
}

/// The accounts of `/etc/passwd`, or the groups of `/etc/group`: the id is the third field of both.
pub fn accounts(bytes: &[u8]) -> impl Iterator<Item = Account<'_>> {
    lines(bytes).filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let id = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
        Some(Account { name, id })
    })
}

/// Without comments and the lines that ask for NIS.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&byte| byte == b'\n').filter(|line| !line.starts_with(b"#") && !is_nis(line))
}

fn is_nis(line: &[u8]) -> bool {
    line.starts_with(b"+") || line.starts_with(b"-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::files::scratch::Dir;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn entries_are_read_as_shadow_utils_reads_them() {
        let text = b"alice:100000:65536\n\n# comment\n#bob:1:2\n+nis:1:2\n1001:0x10:010:more\nno:fields\n:1:2\n\
            neg:-1:2\nplus:+1:2\nword:a:2\nempty::2\nbig:99999999999999999999:1\nlast:7:0";
        let found: Vec<_> =
            entries(text).map(|entry| (String::from_utf8_lossy(entry.owner), entry.start, entry.count)).collect();
        let wanted = [("alice", 100_000, 65_536), ("1001", 16, 8), ("last", 7, 0)];
        assert_eq!(found, wanted.map(|(owner, start, count)| (owner.into(), start, count)));
        let long = format!("{}:1:2\n", "x".repeat(ENTRY_MAX));
        assert_eq!(entries(long.as_bytes()).count(), 0);
    }

    #[test]
    fn accounts_and_groups_have_their_id_in_the_third_field() {
        let text = b"root:x:0:0:root:/root:/bin/sh\n+:::\nwheel:x:10:a,b\nbroken:x\nword:x:y:0\n";
        let found: Vec<_> = accounts(text).map(|account| account.id).collect();
        assert_eq!(found, [0, 10]);
    }

    #[test]
    fn only_roots_own_regular_files_are_read() {
        let dir = Dir::new();
        let path = dir.path().join("subuid");
        assert!(read_if_there(&path).unwrap().is_none());
        fs::write(&path, "a:1:2\n").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert_eq!(read(&path).unwrap().mode, 0o640);
        symlink(&path, dir.path().join("link")).unwrap();
        assert_eq!(read(&dir.path().join("link")).unwrap().bytes, b"a:1:2\n");
        for mode in [0o664, 0o646] {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(FileError::Writable { .. })));
        }
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        chown(&path, Some(1000), None).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("uid 1000 owns it, with mode 0644"), "{error}");
        assert!(matches!(read(dir.path()), Err(FileError::NotRegular(_))));
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let dir = Dir::new();
        let path = dir.path().join("group");
        fs::write(&path, vec![b'x'; LINE_MAX + 1]).unwrap();
        assert!(matches!(read(&path), Err(FileError::TooLarge(_))));
        File::create(&path).unwrap().set_len(BYTES_MAX + 1).unwrap();
        assert!(matches!(read(&path), Err(FileError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes: Vec<u8>) {
            prop_assert!(entries(&bytes).count() <= bytes.len());
            prop_assert!(accounts(&bytes).count() <= bytes.len());
        }

        #[test]
        fn what_was_written_is_read_back(start: u64, count: u64, before in "[a-z:0-9\n#]{0,60}") {
            let text = format!("{before}\nalice:{start}:{count}\n");
            let last = entries(text.as_bytes()).last();
            prop_assert_eq!(last, Some(Entry { owner: b"alice", start, count }));
        }
    }
}
