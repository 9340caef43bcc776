//! Files that are opened with care: the user's as the user, ours whole or not at all.
//!
//! A path the user can change is only ever opened below a directory pinned by a
//! descriptor, with `openat2` and without following links, on a thread that acts
//! as the user; what came back is then checked on the descriptor itself. Called by
//! `logs::sink`, the journal, the outbox and the records. Never by path on an
//! object that was already opened.

use super::as_user::AsUser;
use crate::failpoint;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, OpenHow, ResolveFlag, fcntl, openat2, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a file could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A kernel call failed.
    #[error("cannot {verb} {}: {source}{}", path.display(), hint(source))]
    Call {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A path that must be absolute is not.
    #[error("cannot open {}: not an absolute path", .0.display())]
    Relative(PathBuf),
    /// A name with a slash, or none at all.
    #[error("cannot open {name:?} in {}: not a plain file name", dir.display())]
    Name {
        /// The directory.
        dir: PathBuf,
        /// The name.
        name: String,
    },
    /// A fifo, device, socket or directory where a regular file is needed.
    #[error("refuse to use {}: not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// It is not the user's own.
    #[error("refuse to use {}: it belongs to uid {owner}, not to the job's uid {user}", path.display())]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// The job's user.
        user: u32,
    },
    /// The same file has another name, perhaps somebody else's.
    #[error("refuse to use {}: the file has {links} links instead of one; remove it", path.display())]
    Links {
        /// The file.
        path: PathBuf,
        /// Its link count.
        links: u64,
    },
    /// A root-only file is larger than it can rightly be.
    #[error("cannot read {}: larger than {max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        max: u64,
    },
}

impl FilesError {
    /// The kind of a failed kernel call.
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Call { source, .. } => Some(source.kind()),
            Self::Relative(_)
            | Self::Name { .. }
            | Self::NotRegular(_)
            | Self::Owner { .. }
            | Self::Links { .. }
            | Self::TooLarge { .. } => None,
        }
    }
}

/// What an administrator can do about a cause that does not speak for itself.
fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOSYS) => "; openat2 is needed: Linux 5.6 or newer",
        Some(libc::ELOOP | libc::EXDEV) => "; symbolic links are not followed here",
        _ => "",
    }
}

fn call(verb: &'static str, path: &Path) -> impl Fn(Errno) -> FilesError {
    move |errno| FilesError::Call { verb, path: path.to_owned(), source: errno.into() }
}

/// Where the user's copy of a step's output lies: `<cwd>/<dir_name>/<file_name>`.
#[derive(Clone, Debug)]
pub struct UserFilePlace {
    /// The step's working directory, absolute, the user's to choose.
    pub cwd: PathBuf,
    /// One name below it; the directory is made if it is missing.
    pub dir_name: String,
    /// One name below that.
    pub file_name: String,
}

impl UserFilePlace {
    /// The whole path, for people to read; it is never opened.
    pub fn path(&self) -> PathBuf {
        self.cwd.join(&self.dir_name).join(&self.file_name)
    }
}

/// The user's file and its directory, both pinned.
#[derive(Debug)]
pub struct UserFile {
    /// Open for appending.
    pub file: File,
    /// The directory, wherever it is moved.
    dir: OwnedFd,
}

/// Opens the user's file for appending, as the user, making it and its directory if missing.
///
/// New ones are 0600 in 0700. Links in `cwd` itself are followed: they are the
/// user's right, with the user's rights. Never waits for a fifo's reader.
///
/// # Errors
/// [`FilesError`]: missing rights, a link in place of directory or file, or
/// anything but a regular file of the user's own with one name.
pub fn open_user_file(user: &AsUser, place: &UserFilePlace) -> Result<UserFile, FilesError> {
    let cwd = open_user_dir(user, &place.cwd)?;
    let dir_path = place.cwd.join(&place.dir_name);
    let dir = make_dir_below(user, &cwd, &place.cwd, &place.dir_name)?;
    plain_name(&dir_path, &place.file_name)?;
    let file = open_in(user, &dir, place)?;
    Ok(UserFile { file, dir })
}

/// Gives the user's file the ending `.1`, in place of one that has it, and begins another, all below the
/// pinned directory, wherever that is by now.
///
/// # Errors
/// As [`open_user_file`].
pub fn begin_anew(user: &AsUser, open: &mut UserFile, place: &UserFilePlace) -> Result<(), FilesError> {
    let old = format!("{}.1", place.file_name);
    match renameat(&open.dir, place.file_name.as_str(), &open.dir, old.as_str()) {
        // The user may have removed it.
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(call("rename", &place.path())(errno)),
    }
    open.file = open_in(user, &open.dir, place)?;
    Ok(())
}

/// The last bytes of the user's file, or of the one with the ending `.1` where it is empty; `max` at most.
///
/// # Errors
/// As [`open_user_file`].
pub fn read_tail(user: &AsUser, open: &UserFile, place: &UserFilePlace, max: usize) -> Result<Vec<u8>, FilesError> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    for name in [place.file_name.clone(), format!("{}.1", place.file_name)] {
        let path = place.cwd.join(&place.dir_name).join(&name);
        let file = match openat2(&open.dir, name.as_str(), beneath(flags)) {
            Err(Errno::ENOENT) => continue,
            other => other.map_err(call("open", &path))?,
        };
        check_user_file(user, &file, &path)?;
        let file = File::from(file);
        let failed = |source| FilesError::Call { verb: "read", path: path.clone(), source };
        let size = file.metadata().map_err(failed)?.len();
        let mut tail = vec![0; max.min(usize::try_from(size).unwrap_or(max))];
        let from = size - tail.len() as u64;
        file.read_exact_at(&mut tail, from).map_err(failed)?;
        if !tail.is_empty() {
            return Ok(tail);
        }
    }
    Ok(Vec::new())
}

fn open_in(user: &AsUser, dir: &OwnedFd, place: &UserFilePlace) -> Result<File, FilesError> {
    let path = place.path();
    let flags = OFlag::O_WRONLY
        | OFlag::O_APPEND
        | OFlag::O_CREAT
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let file = match openat2(dir, place.file_name.as_str(), beneath(flags).mode(Mode::S_IRUSR | Mode::S_IWUSR)) {
        // A fifo that nobody reads.
        Err(Errno::ENXIO) => return Err(FilesError::NotRegular(path)),
        other => other.map_err(call("open", &path))?,
    };
    check_user_file(user, &file, &path)?;
    // It is a regular file: from here on a write may wait, but must not fail for being early.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND)).map_err(call("set up", &path))?;
    Ok(File::from(file))
}

/// Pins a directory of the user's, as the user; links on the way are followed with the user's rights.
///
/// # Errors
/// [`FilesError`] when it is relative or the user cannot reach it.
pub fn open_user_dir(_user: &AsUser, path: &Path) -> Result<OwnedFd, FilesError> {
    if !path.is_absolute() {
        return Err(FilesError::Relative(path.to_owned()));
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(AT_FDCWD, path, how).map_err(call("open", path))
}

/// Pins the directory `name` in `parent`, making it 0700 if missing; it must be the user's own.
fn make_dir_below(user: &AsUser, parent: &OwnedFd, parent_path: &Path, name: &str) -> Result<OwnedFd, FilesError> {
    plain_name(parent_path, name)?;
    let path = parent_path.join(name);
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(call("create", &path)(errno)),
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = openat2(parent, name, beneath(flags)).map_err(call("open", &path))?;
    check_owner(user, &status(&dir, &path)?, &path)?;
    Ok(dir)
}

/// One name, so that no part of it can lead elsewhere.
fn plain_name(dir: &Path, name: &str) -> Result<(), FilesError> {
    let plain = Path::new(name).file_name() == Some(OsStr::new(name)) && !name.contains('\0');
    if plain { Ok(()) } else { Err(FilesError::Name { dir: dir.to_owned(), name: name.to_owned() }) }
}

fn beneath(flags: OFlag) -> OpenHow {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    OpenHow::new().flags(flags).resolve(resolve)
}

fn check_user_file(user: &AsUser, file: &OwnedFd, path: &Path) -> Result<(), FilesError> {
    let status = status(file, path)?;
    if !is_regular(&status) {
        return Err(FilesError::NotRegular(path.to_owned()));
    }
    check_owner(user, &status, path)?;
    // st_nlink is narrower than 64 bits on some architectures.
    #[allow(clippy::useless_conversion)]
    match u64::from(status.st_nlink) {
        1 => Ok(()),
        links => Err(FilesError::Links { path: path.to_owned(), links }),
    }
}

fn check_owner(user: &AsUser, status: &FileStat, path: &Path) -> Result<(), FilesError> {
    if status.st_uid == user.uid() {
        return Ok(());
    }
    Err(FilesError::Owner { path: path.to_owned(), owner: status.st_uid, user: user.uid() })
}

fn is_regular(status: &FileStat) -> bool {
    SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

fn status(fd: impl AsFd, path: &Path) -> Result<FileStat, FilesError> {
    fstat(fd).map_err(call("look at", path))
}

/// What a written file must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// The end of our process: nothing is synced, which may take seconds on a busy disk.
    Process,
    /// The end of the machine.
    Machine,
}

/// Replaces a root-only file so that a reader, or a crash, sees the old or the new one whole.
///
/// Written to [`temporary`] before the rename. One writer at a time: the caller
/// holds the lock of the directory.
///
/// # Errors
/// [`FilesError::Call`]; the old file is then untouched.
pub fn atomic_write(path: &Path, bytes: &[u8], survives: Survives) -> Result<(), FilesError> {
    let failed = |verb| move |source| FilesError::Call { verb, path: path.to_owned(), source };
    let sync = survives == Survives::Machine;
    let (Some(dir), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(FilesError::Relative(path.to_owned()));
    };
    let new_path = temporary(path);
    write_new(&new_path, bytes, 0o600)
        .and_then(|file| if sync { file.sync_all() } else { Ok(()) })
        .and_then(|()| {
            failpoint::pass(|| format!("prepared {}", point(path)));
            fs::rename(&new_path, path)
        })
        .map_err(|error| {
            // The error that matters is the first one.
            let _ = fs::remove_file(&new_path);
            failed("write")(error)
        })?;
    failpoint::pass(|| format!("in place {}", point(path)));
    if sync {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync the directory of"))?;
    }
    Ok(())
}

/// The name of a file, for failpoints.
fn point(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// Where [`atomic_write`] prepares the new content of `path`: left only by a writer that was killed.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = OsStr::new(".").to_owned();
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

/// Makes an empty root-only file, in place of whatever has its name.
///
/// # Errors
/// [`FilesError::Call`].
pub fn create_anew(path: &Path, mode: u32) -> Result<(), FilesError> {
    write_new(path, &[], mode).map(drop).map_err(|source| FilesError::Call {
        verb: "create",
        path: path.to_owned(),
        source,
    })
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        // One is left only by a writer that was killed.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(file)
}

/// Reads a root-only regular file of at most `max` bytes; never follows a link at its name.
///
/// # Errors
/// [`FilesError`]: missing (a `Call` of kind not found), no regular file, or too large.
pub fn read_limited(path: &Path, max: u64) -> Result<Vec<u8>, FilesError> {
    let failed = |verb| move |source| FilesError::Call { verb, path: path.to_owned(), source };
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed("open"))?;
    if !is_regular(&status(&file, path)?) {
        return Err(FilesError::NotRegular(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed("read"))?;
    if bytes.len() as u64 > max {
        return Err(FilesError::TooLarge { path: path.to_owned(), max });
    }
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod scratch;
#[cfg(test)]
mod tests;
