//! The locks of shadow-utils, so that `useradd`, `usermod` and we take turns.
//!
//! There are two: the record lock of lckpwdf(3) for all account files, and for
//! each file a `.lock` beside it that holds its owner's pid (link(2) makes it).
//! Locks are the process': one caller at a time in it.

use crate::identity::subid::file::Files;
use crate::sys::pidfd::Process;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long lckpwdf(3) tries.
pub const LIMIT: Duration = Duration::from_secs(15);
/// After so long a lock is tried again although its holder lives: nothing tells of its release.
const TURN: Duration = Duration::from_millis(20);

/// A lock that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
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
    /// Somebody else had it all the time.
    #[error("cannot lock {} within {} s: {} holds it; see what it does, and remove the lock only if nothing edits accounts", path.display(), limit.as_secs_f32(), holder(*pid))]
    Held {
        /// The lock.
        path: PathBuf,
        /// How long was tried.
        limit: Duration,
        /// Its holder, where it can be known.
        pid: Option<i32>,
    },
}

fn holder(pid: Option<i32>) -> String {
    pid.map_or_else(|| "an unknown process".to_owned(), |pid| format!("process {pid}"))
}

fn call(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LockError {
    move |source| LockError::Call { verb, path: path.to_owned(), source }
}

/// All the locks; dropped, they are released, the last taken first.
#[derive(Debug)]
pub struct Locks {
    _gids: LockFile,
    _uids: LockFile,
    /// The record lock goes with the descriptor.
    _all: File,
}

impl Locks {
    /// Takes them in the order of shadow-utils.
    ///
    /// # Errors
    /// [`LockError`]; nothing is locked then.
    pub fn take(files: &Files, limit: Duration) -> Result<Self, LockError> {
        let patience = Patience { limit, until: Instant::now() + limit };
        let all = record_lock(&files.pwd_lock, &patience)?;
        let uids = LockFile::take(&files.subuid, &patience)?;
        let gids = LockFile::take(&files.subgid, &patience)?;
        Ok(Self { _gids: gids, _uids: uids, _all: all })
    }
}

/// How long to try.
struct Patience {
    limit: Duration,
    until: Instant,
}

impl Patience {
    /// Waits for a lock's holder to end, a short while at most.
    fn wait(&self, path: &Path, pid: Option<i32>) -> Result<(), LockError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LockError::Held { path: path.to_owned(), limit: self.limit, pid });
        }
        let turn = left.min(TURN);
        match pid.map(Process::open) {
            Some(Ok(process)) => process.wait(turn),
            Some(Err(_)) | None => {
                let _nothing_to_wait_for = poll(&mut [], PollTimeout::try_from(turn).unwrap_or(PollTimeout::ZERO));
            }
        }
        Ok(())
    }
}

fn record_lock(path: &Path, patience: &Patience) -> Result<File, LockError> {
    let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).to_owned();
    let file = options.open(path).map_err(call("open", path))?;
    loop {
        match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
            Ok(_) => return Ok(file),
            Err(Errno::EAGAIN | Errno::EACCES) => patience.wait(path, record_holder(&file))?,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(call("lock", path)(errno.into())),
        }
    }
}

fn record_holder(file: &File) -> Option<i32> {
    let mut asked = whole_file();
    fcntl(file, FcntlArg::F_GETLK(&mut asked)).ok()?;
    (asked.l_pid > 0).then_some(asked.l_pid)
}

#[allow(clippy::unnecessary_cast)] // The types of the constants differ between architectures.
fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// A `.lock` of ours; dropped, it is removed.
#[derive(Debug)]
struct LockFile(PathBuf);

impl LockFile {
    fn take(file: &Path, patience: &Patience) -> Result<Self, LockError> {
        let lock = beside(file, ".lock");
        let named = Named::create(beside(file, ".crane-supervisor"))?;
        loop {
            match fs::hard_link(&named.0, &lock) {
                Ok(()) => return named.check_linked(Self(lock)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(call("create", &lock)(error)),
            }
            match owner(&lock) {
                Some(pid) if is_gone(pid) => remove_stale(&lock)?,
                pid => patience.wait(&lock, pid)?,
            }
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // One that stays is stale with our end, and anybody may remove it.
        let _ = fs::remove_file(&self.0);
    }
}

/// The file with our pid that becomes the lock; its first name goes in any case.
struct Named(PathBuf);

impl Named {
    fn create(path: PathBuf) -> Result<Self, LockError> {
        // Left by a process that was killed; only the holder of the record lock gets here.
        drop(fs::remove_file(&path));
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = opened.map_err(call("create", &path))?;
        let named = Self(path);
        let content = format!("{}\0", std::process::id());
        file.write_all(content.as_bytes()).and_then(|()| file.sync_data()).map_err(call("write", &named.0))?;
        Ok(named)
    }

    /// NFS may say that a link was made although it was not (open(2), O_EXCL).
    fn check_linked(&self, lock: LockFile) -> Result<LockFile, LockError> {
        match fs::metadata(&self.0).map_err(call("look at", &self.0))?.nlink() {
            2 => Ok(lock),
            _ => Err(call("create", &lock.0)(io::ErrorKind::AlreadyExists.into())),
        }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The pid in a lock; `None` where it is no number, or the lock has just gone.
fn owner(lock: &Path) -> Option<i32> {
    let mut text = String::new();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(lock).ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.split('\0').next()?.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Ours can only be a dead process' of the same number: we hold no lock yet.
fn is_gone(pid: i32) -> bool {
    u32::try_from(pid) == Ok(std::process::id()) || kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)
}

/// We hold the record lock, so nobody who obeys it can have put a new one in its place.
fn remove_stale(lock: &Path) -> Result<(), LockError> {
    match fs::remove_file(lock) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(call("remove the stale", lock)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// `/etc/subuid` and `.lock` are `/etc/subuid.lock`.
pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(file);
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::files::scratch::{Dir, Tmpfs};
    use nix::mount::{MsFlags, mount};
    use std::process::{Child, Command, Stdio};

    const SHORT: Duration = Duration::from_millis(100);

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[allow(clippy::disallowed_methods)]
    fn start(program: &str, args: &[&str]) -> Child {
        Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn locks_are_there_while_held_and_gone_after() {
        let dir = Dir::new();
        let files = Files::below(dir.path());
        let locks = Locks::take(&files, SHORT).unwrap();
        assert_eq!(names(dir.path()), [".pwd.lock", "subgid.lock", "subuid.lock"]);
        let content = fs::read_to_string(dir.path().join("subuid.lock")).unwrap();
        assert_eq!(content, format!("{}\0", std::process::id()));
        drop(locks);
        assert_eq!(names(dir.path()), [".pwd.lock"]);
    }

    #[test]
    fn a_lock_of_a_dead_process_is_removed_and_a_living_ones_respected() {
        let dir = Dir::new();
        let files = Files::below(dir.path());
        let mut other = start("cat", &[]);
        fs::write(dir.path().join("subgid.lock"), format!("{}\0", other.id())).unwrap();
        let error = Locks::take(&files, SHORT).unwrap_err();
        assert!(matches!(&error, LockError::Held { pid: Some(pid), .. } if *pid as u32 == other.id()), "{error}");
        assert_eq!(names(dir.path()), [".pwd.lock", "subgid.lock"], "ours are released, the other stays");
        drop(other.stdin.take());
        other.wait().unwrap();
        drop(Locks::take(&files, SHORT).unwrap());
        assert_eq!(names(dir.path()), [".pwd.lock"]);
    }

    #[test]
    fn a_lock_without_a_pid_is_not_touched() {
        let dir = Dir::new();
        fs::write(dir.path().join("subuid.lock"), "").unwrap();
        let error = Locks::take(&Files::below(dir.path()), SHORT).unwrap_err().to_string();
        assert!(error.contains("subuid.lock within 0.1 s: an unknown process holds it"), "{error}");
        assert!(dir.path().join("subuid.lock").exists());
    }

    #[test]
    fn the_record_lock_of_another_process_is_waited_for_and_named() {
        let dir = Dir::new();
        let files = Files::below(dir.path());
        // lckpwdf(3) itself uses /etc; the lock is the same.
        let script = "import fcntl,sys\nf=open(sys.argv[1],'w')\nfcntl.lockf(f,fcntl.LOCK_EX)\n\
            print('locked',flush=True)\nsys.stdin.read()";
        let mut other = start("python3", &["-c", script, files.pwd_lock.to_str().unwrap()]);
        let mut line = [0; 7];
        other.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        let error = Locks::take(&files, SHORT).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} holds it", other.id())), "{error}");
        drop(other.stdin.take());
        assert!(Locks::take(&files, LIMIT).is_ok());
        other.wait().unwrap();
    }

    #[test]
    fn a_read_only_directory_says_so() {
        let dir = Dir::new();
        let small = Tmpfs::mount(dir.path(), 65_536);
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, small.path(), None::<&str>, flags, None::<&str>).unwrap();
        let files = Files { subgid: small.path().join("subgid"), ..Files::below(dir.path()) };
        let error = Locks::take(&files, SHORT).unwrap_err().to_string();
        assert!(error.contains("cannot create") && error.contains("Read-only file system"), "{error}");
        assert_eq!(names(dir.path()), [".pwd.lock", "tmpfs"]);
    }
}
