//! Opening what a user wants mounted, as that user.
//!
//! From here on the source is a descriptor: whatever becomes of the path, the
//! container gets what the user could reach at this moment, or nothing.

use crate::mounts::error::MountError;
use crate::sys::as_user::{AsUser, User};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{AccessFlags, faccessat};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory with all below it.
    Directory,
    /// One regular file, by its name.
    File(OsString),
}

/// A pinned source.
#[derive(Debug)]
pub struct Source {
    /// Where it was found, for messages.
    pub path: PathBuf,
    /// The thing itself (`O_PATH`).
    pub pinned: OwnedFd,
    /// What it is.
    pub kind: Kind,
}

/// Opens all sources, or none. Blocks as long as their file systems do.
///
/// # Errors
/// [`MountError`] for the first that the user cannot have.
pub fn open_all(paths: &[PathBuf], user: &User, name: &str) -> Result<Vec<Source>, MountError> {
    let as_user = user.enter()?;
    paths.iter().map(|path| open(&as_user, path, name)).collect()
}

/// The guard is the proof that this thread is the user.
fn open(_user: &AsUser, path: &Path, name: &str) -> Result<Source, MountError> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let pinned = openat2(AT_FDCWD, path, how).map_err(|errno| explain(errno, path, name))?;
    let kind = kind(&pinned, path).map_err(|errno| explain(errno, path, name))?;
    let Some(kind) = kind else { return Err(MountError::Kind(path.to_owned())) };
    match fstatfs(&pinned).map(|stat| stat.filesystem_type()) {
        Ok(PROC_SUPER_MAGIC) => return Err(MountError::Proc(path.to_owned())),
        Ok(CGROUP_SUPER_MAGIC | CGROUP2_SUPER_MAGIC) => return Err(MountError::Cgroup(path.to_owned())),
        Ok(_) | Err(_) => {}
    }
    let wanted = match kind {
        Kind::Directory => AccessFlags::R_OK | AccessFlags::X_OK,
        Kind::File(_) => AccessFlags::R_OK,
    };
    // AT_EACCESS: the ids just taken on, not root's real ones.
    match faccessat(&pinned, "", wanted, AtFlags::AT_EMPTY_PATH | AtFlags::AT_EACCESS) {
        Ok(()) => Ok(Source { path: path.to_owned(), pinned, kind }),
        Err(Errno::EACCES) => Err(MountError::Unreadable { path: path.to_owned(), user: name.to_owned() }),
        Err(errno) => Err(explain(errno, path, name)),
    }
}

fn kind(pinned: &OwnedFd, path: &Path) -> nix::Result<Option<Kind>> {
    let mode = SFlag::from_bits_truncate(fstat(pinned)?.st_mode) & SFlag::S_IFMT;
    Ok(match mode {
        SFlag::S_IFDIR => Some(Kind::Directory),
        SFlag::S_IFREG => path.file_name().map(|name| Kind::File(name.to_owned())),
        _ => None,
    })
}

fn explain(errno: Errno, path: &Path, user: &str) -> MountError {
    let (path, user) = (path.to_owned(), user.to_owned());
    match errno {
        Errno::ENOENT => MountError::Missing { path, user },
        Errno::ENOTDIR => MountError::NotDirectory(path),
        Errno::EACCES => MountError::Unreachable { path, user },
        errno => MountError::Open { path, user, source: errno.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    const NOBODY: u32 = 65_534;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("source-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    fn try_open(path: &Path) -> Result<Source, MountError> {
        let user = User { uid: NOBODY, gid: NOBODY, groups: vec![50] };
        open_all(&[path.to_owned()], &user, "nobody").map(|mut all| all.remove(0))
    }

    #[test]
    fn a_user_gets_what_the_user_can_reach_and_read() {
        let dir = scratch("reach");
        let (open, closed, group) = (dir.join("open"), dir.join("closed"), dir.join("group"));
        for path in [&open, &closed, &group] {
            fs::create_dir(path).unwrap();
        }
        fs::write(closed.join("file"), "secret").unwrap();
        fs::write(open.join("file"), "").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&group, Some(0), Some(50)).unwrap();
        fs::set_permissions(&group, fs::Permissions::from_mode(0o2770)).unwrap();
        symlink(&closed, open.join("link")).unwrap();
        assert_eq!(try_open(&open).unwrap().kind, Kind::Directory);
        assert_eq!(try_open(&open.join("file")).unwrap().kind, Kind::File("file".into()));
        assert_eq!(try_open(&group).unwrap().kind, Kind::Directory);
        assert!(matches!(try_open(&closed), Err(MountError::Unreadable { .. })));
        assert!(matches!(try_open(&closed.join("file")), Err(MountError::Unreachable { .. })));
        assert!(matches!(try_open(&open.join("link")), Err(MountError::Unreadable { .. })));
        assert!(matches!(try_open(&open.join("link/file")), Err(MountError::Unreachable { .. })));
        assert!(matches!(try_open(&open.join("file/x")), Err(MountError::NotDirectory(_))));
        assert!(matches!(try_open(&open.join("file/")), Err(MountError::NotDirectory(_))));
        assert!(matches!(try_open(&dir.join("none")), Err(MountError::Missing { .. })));
        assert!(matches!(try_open(Path::new("/dev/null")), Err(MountError::Kind(_))));
        assert!(matches!(try_open(Path::new("/proc/self/root/etc")), Err(MountError::Open { .. })));
        assert!(matches!(try_open(Path::new("/proc/sys")), Err(MountError::Proc(_))));
        let hierarchy = crate::sys::cgroup::hierarchies().unwrap().remove(0).mount;
        assert!(matches!(try_open(&hierarchy), Err(MountError::Cgroup(_))));
        fs::remove_dir_all(dir).unwrap();
    }
}
