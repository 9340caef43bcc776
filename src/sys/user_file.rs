//! A small private file below a user's home, read and replaced as that user.
//!
//! Root acts as the user (`as_user`) and so with the user's rights alone; a link on the way
//! is then the user's own business. For root's own home no link is followed at all. The file
//! itself is never a link, is 0600, and is replaced whole by a rename. Called by `credentials`.

use super::as_user::{AsUser, AsUserError, User};
use super::files::FilesError;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::poll::poll;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file of this kind is far smaller.
const MAX: u64 = 1 << 20;
/// How long another process may hold the directory's lock.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
/// Milliseconds between two tries.
const LOCK_TURN: u8 = 20;

/// Why the file could not be read or replaced.
#[derive(Debug, thiserror::Error)]
pub enum UserFileError {
    /// Root could not become the user.
    #[error(transparent)]
    AsUser(#[from] AsUserError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FilesError),
    /// Somebody else changes it, for longer than that takes.
    #[error("cannot change {}: another process has held {} locked for {LOCK_LIMIT:?}", file.display(), dir.display())]
    Locked {
        /// The file.
        file: PathBuf,
        /// Its directory.
        dir: PathBuf,
    },
}

/// Where it is: `<home>/<dirs>…/<name>`.
#[derive(Clone, Debug)]
pub struct UserFile<'a> {
    /// Whose.
    pub user: &'a User,
    /// Absolute.
    pub home: &'a Path,
    /// Directories below it, one name each.
    pub dirs: &'a [&'a str],
    /// Its name.
    pub name: &'a str,
}

/// What was read.
#[derive(Debug)]
pub struct Content {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Others than the user may read it.
    pub exposed: bool,
}

impl UserFile<'_> {
    /// The whole path, for people.
    pub fn path(&self) -> PathBuf {
        self.dir_path().join(self.name)
    }

    /// Reads it; `None` where there is none.
    ///
    /// # Errors
    /// [`UserFileError`]: not the user's own regular file, too large, or out of reach.
    pub fn read(&self) -> Result<Option<Content>, UserFileError> {
        let _as_user = self.act()?;
        match self.open_dir(Missing::Leave) {
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(dir) => Ok(self.read_in(&dir)?),
        }
    }

    /// Replaces it by what `change` makes of it, and makes its directories where they are missing.
    ///
    /// # Errors
    /// [`UserFileError`], or the error of `change`; the file is then as before.
    pub fn update<E: From<UserFileError>>(
        &self,
        change: impl FnOnce(Option<Content>) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let _as_user = self.act().map_err(|error| E::from(error.into()))?;
        let file_error = |error: FilesError| E::from(error.into());
        let dir = self.open_dir(Missing::Make).map_err(file_error)?;
        let dir = self.lock(dir)?;
        let bytes = change(self.read_in(&dir).map_err(file_error)?)?;
        self.replace_in(&dir, &bytes).map_err(file_error)
    }

    fn act(&self) -> Result<Option<AsUser>, AsUserError> {
        (self.user.uid != geteuid().as_raw()).then(|| self.user.enter()).transpose()
    }

    fn dir_path(&self) -> PathBuf {
        self.dirs.iter().fold(self.home.to_owned(), |path, name| path.join(name))
    }

    fn open_dir(&self, missing: Missing) -> Result<OwnedFd, FilesError> {
        if !self.home.is_absolute() {
            return Err(FilesError::Relative(self.home.to_owned()));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(self.resolve());
        let mut path = self.home.to_owned();
        let mut dir = openat2(AT_FDCWD, self.home, how).map_err(failed("open", &path))?;
        for name in self.dirs {
            path.push(name);
            if missing == Missing::Make {
                match mkdirat(&dir, *name, Mode::S_IRWXU) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(failed("create", &path)(errno)),
                }
            }
            dir = openat2(&dir, *name, how).map_err(failed("open", &path))?;
        }
        Ok(dir)
    }

    /// As the user, with the user's rights, links may lead anywhere; as root, nowhere.
    fn resolve(&self) -> ResolveFlag {
        let links = if self.user.uid == 0 { ResolveFlag::RESOLVE_NO_SYMLINKS } else { ResolveFlag::empty() };
        ResolveFlag::RESOLVE_NO_MAGICLINKS | links
    }

    fn read_in(&self, dir: &OwnedFd) -> Result<Option<Content>, FilesError> {
        let path = self.path();
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = match openat2(dir, self.name, OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH)) {
            Err(Errno::ENOENT) => return Ok(None),
            file => File::from(file.map_err(failed("open", &path))?),
        };
        let io_failed = |verb| io_error(verb, &path);
        let meta = file.metadata().map_err(io_failed("look at"))?;
        if !meta.is_file() {
            return Err(FilesError::NotRegular(path));
        }
        if meta.uid() != self.user.uid {
            return Err(FilesError::Owner { path, owner: meta.uid(), user: self.user.uid });
        }
        let mut bytes = Vec::new();
        file.take(MAX + 1).read_to_end(&mut bytes).map_err(io_failed("read"))?;
        if bytes.len() as u64 > MAX {
            return Err(FilesError::TooLarge { path, max: MAX });
        }
        Ok(Some(Content { bytes, exposed: meta.mode() & 0o077 != 0 }))
    }

    fn lock(&self, dir: OwnedFd) -> Result<Flock<OwnedFd>, UserFileError> {
        let begun = Instant::now();
        let mut dir = dir;
        loop {
            match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(locked),
                Err((_, Errno::EWOULDBLOCK)) if begun.elapsed() >= LOCK_LIMIT => {
                    return Err(UserFileError::Locked { file: self.path(), dir: self.dir_path() });
                }
                Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => dir = back,
                Err((_, errno)) => return Err(failed("lock", &self.dir_path())(errno).into()),
            }
            // flock has no event to wait for with a limit.
            let _nothing_to_wait_for = poll(&mut [], LOCK_TURN);
        }
    }

    fn replace_in(&self, dir: &OwnedFd, bytes: &[u8]) -> Result<(), FilesError> {
        let path = self.path();
        let temporary = format!(".{}.{}.tmp", self.name, std::process::id());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        // One is left only by a process of that number that was killed.
        let _ = unlinkat(dir, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        let how = OpenHow::new().flags(flags).mode(mode).resolve(ResolveFlag::RESOLVE_BENEATH);
        let mut file = File::from(openat2(dir, temporary.as_str(), how).map_err(failed("create", &path))?);
        let written = file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error("write", &path));
        written
            .and_then(|()| renameat(dir, temporary.as_str(), dir, self.name).map_err(failed("replace", &path)))
            .inspect_err(|_| {
                let _ = unlinkat(dir, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
            })?;
        nix::unistd::fsync(dir).map_err(failed("sync the directory of", &path))
    }
}

/// What to do about directories that are not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Leave,
}

fn is_missing(error: &FilesError) -> bool {
    error.kind() == Some(io::ErrorKind::NotFound)
}

fn failed(verb: &'static str, path: &Path) -> impl Fn(Errno) -> FilesError {
    move |errno| FilesError::Call { verb, path: path.to_owned(), source: errno.into() }
}

fn io_error(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> FilesError {
    move |source| FilesError::Call { verb, path: path.to_owned(), source }
}
