//! The control socket as a file: made safely, remade when deleted, removed at
//! the end.
//!
//! craned deletes the socket of a supervisor it believes dead, and a tidy-up of
//! /tmp may take the whole directory.

use crate::layout;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The control socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Its directory is not root's alone.
    #[error("{path} is not safe for control sockets: {problem}; remove it, or make it root's with mode 0700")]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A system call failed.
    #[error("cannot {verb} {path}: {source}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn failed<'a>(verb: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SocketError + use<'a> {
    move |source| SocketError::Io { verb, path: path.to_owned(), source }
}

/// Makes the socket directory if it is missing, and refuses one that others may write to.
///
/// # Errors
/// [`SocketError`].
pub fn check_directory(path: &Path) -> Result<(), SocketError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("create", path)(error));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    let problem = match found.mode() & 0o777 {
        _ if found.is_symlink() => "it is a symbolic link".to_owned(),
        _ if !found.is_dir() => "it is not a directory".to_owned(),
        _ if found.uid() != 0 => format!("it belongs to user {}", found.uid()),
        mode if mode & 0o022 != 0 => format!("others may write to it (mode {mode:04o})"),
        _ => return Ok(()),
    };
    Err(SocketError::Unsafe { path: path.to_owned(), problem })
}

/// Listens at `path`, for root only. What lies there is a dead step's: the caller
/// holds the step's lock.
///
/// Whoever finds the socket there can connect, and finds it protected: it gets its name last.
///
/// # Errors
/// [`SocketError::Io`].
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let unnamed = layout::socket_in_the_making(path);
    remove(&unnamed)?;
    let listener = UnixListener::bind(&unnamed).map_err(failed("listen at", &unnamed))?;
    let named = name(&listener, &unnamed, path);
    if named.is_err() {
        drop(fs::remove_file(&unnamed));
    }
    named.map(|()| listener)
}

fn name(listener: &UnixListener, unnamed: &Path, path: &Path) -> Result<(), SocketError> {
    fs::set_permissions(unnamed, Permissions::from_mode(0o600)).map_err(failed("protect", unnamed))?;
    listener.set_nonblocking(true).map_err(failed("listen at", unnamed))?;
    remove(path)?;
    fs::rename(unnamed, path).map_err(failed("name", path))
}

/// Removes the socket; already gone is success.
///
/// # Errors
/// [`SocketError`]; anything but a socket at that path is left alone.
pub fn remove(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("look at", path)(error)),
        Ok(found) if !found.file_type().is_socket() => {
            Err(SocketError::Unsafe { path: path.to_owned(), problem: "it is not a socket".to_owned() })
        }
        Ok(_) => fs::remove_file(path).map_err(failed("remove", path)),
    }
}

/// The control socket's file as we made it.
#[derive(Debug)]
pub struct Placed {
    path: PathBuf,
    inode: Option<u64>,
}

impl Placed {
    /// Remembers the file now at `path`.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), inode: inode(path) }
    }

    /// Whether it is still there, and still ours.
    pub fn is_there(&self) -> bool {
        self.inode.is_some() && inode(&self.path) == self.inode
    }

    /// Removes it, if it is ours: a successor's is left alone.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn remove(&self) -> Result<(), SocketError> {
        if self.is_there() { remove(&self.path) } else { Ok(()) }
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|found| found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("control-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_directory_others_could_have_made_is_refused() {
        let dir = scratch("dir");
        check_directory(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(check_directory(&dir), Err(SocketError::Unsafe { .. })));
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        let link = scratch("link");
        symlink(&dir, &link).unwrap();
        assert!(matches!(check_directory(&link), Err(SocketError::Unsafe { .. })));
        std::os::unix::fs::chown(&dir, Some(12_345), None).unwrap();
        assert!(matches!(check_directory(&dir), Err(SocketError::Unsafe { .. })));
        fs::remove_file(&link).unwrap();
        fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn only_our_own_socket_is_removed() {
        let path = scratch("sock");
        drop(UnixListener::bind(layout::socket_in_the_making(&path)).unwrap());
        let _listener = listen(&path).unwrap();
        assert!(!layout::socket_in_the_making(&path).exists(), "one that was killed may have left it");
        let placed = Placed::at(&path);
        assert!(placed.is_there());
        let _successor = listen(&path).unwrap();
        assert!(!placed.is_there());
        placed.remove().unwrap();
        assert!(path.exists(), "the successor's socket is gone");
        Placed::at(&path).remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn something_else_at_the_sockets_path_is_left_alone() {
        let path = scratch("file");
        fs::write(&path, "precious").unwrap();
        assert!(listen(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(!layout::socket_in_the_making(&path).exists(), "nothing is left of the attempt");
        fs::remove_file(&path).unwrap();
    }
}
