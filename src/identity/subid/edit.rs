//! Adding a line to `/etc/subuid` and one to `/etc/subgid`: both or none.
//!
//! Only with the locks held. Each file is replaced whole and its old content
//! kept beside it with a `-`, as shadow-utils does. Everything that can fail for
//! want of space or rights is done before the first file changes. A process that
//! is killed between the two leaves the second file's new content under a name
//! of its own: [`was_cut_off`] knows by that, and [`finish`] does the rest.

use crate::identity::subid::file::{self, Content, FileError, Files};
use crate::identity::subid::lock::{Locks, beside};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Lines that were not added.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It would become a file of its own.
    #[error("refuse to replace {}: it is a symbolic link, which shadow-utils refuses too", .0.display())]
    Link(PathBuf),
    /// The second file could not be replaced, and the first not put back.
    #[error("{first}; what was added to {} before could not be taken back: {source}", path.display())]
    Half {
        /// The file that has its line.
        path: PathBuf,
        /// Why it could not be put back.
        source: Box<FileError>,
        /// What failed first.
        first: Box<FileError>,
    },
}

/// What is to be added for a user.
#[derive(Debug)]
pub struct Lines {
    /// The user.
    pub uid: u32,
    /// For `/etc/subuid`, with its end.
    pub uids: String,
    /// For `/etc/subgid`, with its end.
    pub gids: String,
}

/// Adds a line to each file; a missing file is made.
///
/// # Errors
/// [`EditError`]; both files are as before, but after [`EditError::Half`].
pub fn append(files: &Files, lines: &Lines, _locks: &Locks) -> Result<(), EditError> {
    let uids = Change::prepare(&files.subuid, &lines.uids, beside(&files.subuid, "+"))?;
    let gids = Change::prepare(&files.subgid, &lines.gids, pending(files, lines.uid))?;
    apply(&uids, &gids)
}

/// Whether an [`append`] for this user ended between the two files.
pub fn was_cut_off(files: &Files, uid: u32) -> bool {
    pending(files, uid).exists()
}

/// Adds the second line of an [`append`] that was cut off.
///
/// # Errors
/// [`EditError`]; the files are as before, and it can be tried again.
pub fn finish(files: &Files, lines: &Lines, _locks: &Locks) -> Result<(), EditError> {
    Change::prepare(&files.subgid, &lines.gids, beside(&files.subgid, "+"))?.apply()?;
    let pending = pending(files, lines.uid);
    Ok(fs::remove_file(&pending).map_err(FileError::call("remove", &pending))?)
}

/// Only an edit for the same user writes there.
fn pending(files: &Files, uid: u32) -> PathBuf {
    beside(&files.subgid, &format!("+{uid}"))
}

fn apply(uids: &Change, gids: &Change) -> Result<(), EditError> {
    uids.apply()?;
    let Err(first) = gids.apply() else { return Ok(()) };
    match uids.take_back() {
        Ok(()) => Err(first.into()),
        Err(source) => {
            Err(EditError::Half { path: uids.path.clone(), source: Box::new(source), first: Box::new(first) })
        }
    }
}

/// A file's new content, on disk beside it; dropped without being applied, it goes.
#[derive(Debug)]
struct Change {
    path: PathBuf,
    new: PathBuf,
    old: Option<Content>,
}

impl Change {
    fn prepare(path: &Path, line: &str, new: PathBuf) -> Result<Self, EditError> {
        if fs::symlink_metadata(path).is_ok_and(|status| status.is_symlink()) {
            return Err(EditError::Link(path.to_owned()));
        }
        let change = Self { path: path.to_owned(), new, old: file::read_if_there(path)? };
        if let Some(old) = &change.old {
            let kept = Unfinished(beside(path, "-+"));
            write(&kept.0, &old.bytes, old)?;
            rename(&kept.0, &beside(path, "-"))?;
        }
        let mut bytes = change.old.as_ref().map(|old| old.bytes.clone()).unwrap_or_default();
        if bytes.last().is_some_and(|&last| last != b'\n') {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(line.as_bytes());
        write(&change.new, &bytes, change.old.as_ref().unwrap_or(&NEW))?;
        Ok(change)
    }

    fn apply(&self) -> Result<(), FileError> {
        rename(&self.new, &self.path)
    }

    fn take_back(&self) -> Result<(), FileError> {
        match &self.old {
            Some(old) => {
                write(&self.new, &old.bytes, old)?;
                rename(&self.new, &self.path)
            }
            None => fs::remove_file(&self.path).map_err(FileError::call("remove", &self.path)),
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.new);
    }
}

/// Removed when dropped, unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// How shadow-utils makes a missing file.
const NEW: Content = Content { bytes: Vec::new(), mode: 0o644, group: 0 };

/// Writes a new file, kept as `like` is, to the disk.
fn write(path: &Path, bytes: &[u8], like: &Content) -> Result<(), FileError> {
    // Left by a writer that was killed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(FileError::call("remove", path)(error)),
        Ok(()) | Err(_) => {}
    }
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(FileError::call("create", path))?;
    file.write_all(bytes)
        .and_then(|()| fchown(&file, Some(0), Some(like.group)))
        .and_then(|()| file.set_permissions(Permissions::from_mode(like.mode)))
        .and_then(|()| file.sync_all())
        .map_err(FileError::call("write", path))
}

fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::call("replace", to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::subid::lock::LIMIT;
    use crate::sys::files::scratch::{Dir, Tmpfs};
    use std::os::unix::fs::{MetadataExt, chown, symlink};

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn bob() -> Lines {
        Lines { uid: 9, uids: "bob:3:4\n".into(), gids: "bob:5:6\n".into() }
    }

    fn add(files: &Files) -> Result<(), EditError> {
        append(files, &bob(), &Locks::take(files, LIMIT).unwrap())
    }

    #[test]
    fn lines_are_added_and_the_old_files_kept_with_mode_and_group() {
        let dir = Dir::new();
        let files = Files::below(dir.path());
        // The last line has no end.
        fs::write(&files.subuid, "# mine\nalice:1:2").unwrap();
        fs::set_permissions(&files.subuid, Permissions::from_mode(0o640)).unwrap();
        chown(&files.subuid, Some(0), Some(42)).unwrap();
        add(&files).unwrap();
        assert_eq!(text(&files.subuid), "# mine\nalice:1:2\nbob:3:4\n");
        assert_eq!(text(&files.subgid), "bob:5:6\n");
        assert_eq!(text(&dir.path().join("subuid-")), "# mine\nalice:1:2");
        for (name, mode, group) in [("subuid", 0o640, 42), ("subuid-", 0o640, 42), ("subgid", 0o644, 0)] {
            let status = fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!((status.mode() & 0o7777, status.gid()), (mode, group), "{name}");
        }
        assert_eq!(names(dir.path()), [".pwd.lock", "subgid", "subuid", "subuid-"]);
    }

    #[test]
    fn a_full_disk_changes_neither_file() {
        let dir = Dir::new();
        let small = Tmpfs::mount(dir.path(), 16_384);
        let files = Files { subgid: small.path().join("subgid"), ..Files::below(dir.path()) };
        fs::write(&files.subuid, "alice:1:2\n").unwrap();
        fs::write(&files.subgid, "alice:1:2\n").unwrap();
        let locks = Locks::take(&files, LIMIT).unwrap();
        let filled = fs::write(small.path().join("filler"), vec![0; 65_536]);
        assert_eq!(filled.unwrap_err().kind(), io::ErrorKind::StorageFull);
        let error = append(&files, &bob(), &locks).unwrap_err().to_string();
        drop(locks);
        assert!(error.contains("cannot write") && error.contains("No space left"), "{error}");
        assert_eq!((text(&files.subuid), text(&files.subgid)), ("alice:1:2\n".into(), "alice:1:2\n".into()));
        assert_eq!(names(dir.path()), [".pwd.lock", "subuid", "subuid-", "tmpfs"]);
        assert_eq!(names(small.path()), ["filler", "subgid"]);
    }

    #[test]
    fn the_first_line_is_taken_back_when_the_second_fails() {
        for old in [None, Some("alice:1:2\n")] {
            let dir = Dir::new();
            let files = Files::below(dir.path());
            if let Some(old) = old {
                fs::write(&files.subuid, old).unwrap();
            }
            let uids = Change::prepare(&files.subuid, "bob:3:4\n", beside(&files.subuid, "+")).unwrap();
            let gids = Change::prepare(&files.subgid, "bob:5:6\n", pending(&files, 9)).unwrap();
            fs::remove_file(&gids.new).unwrap();
            assert!(matches!(apply(&uids, &gids), Err(EditError::File(FileError::Call { verb: "replace", .. }))));
            drop((uids, gids));
            assert_eq!(fs::read_to_string(&files.subuid).ok().as_deref(), old);
            assert!(!files.subgid.exists() && !was_cut_off(&files, 9) && !dir.path().join("subuid+").exists());
        }
    }

    #[test]
    fn a_link_is_not_replaced_by_a_file() {
        let dir = Dir::new();
        let files = Files::below(dir.path());
        fs::write(dir.path().join("elsewhere"), "").unwrap();
        symlink("elsewhere", &files.subgid).unwrap();
        assert!(matches!(add(&files), Err(EditError::Link(_))));
        assert!(!files.subuid.exists());
    }

    #[test]
    fn a_killed_edit_is_known_by_what_it_left_and_finished() {
        let dir = Dir::new();
        let files = Files::below(dir.path());
        fs::write(&files.subgid, "alice:1:2\n").unwrap();
        let gids = Change::prepare(&files.subgid, "bob:5:6\n", pending(&files, 9)).unwrap();
        // A killed process drops nothing.
        std::mem::forget(gids);
        assert!(was_cut_off(&files, 9) && !was_cut_off(&files, 8));
        finish(&files, &bob(), &Locks::take(&files, LIMIT).unwrap()).unwrap();
        assert_eq!(text(&files.subgid), "alice:1:2\nbob:5:6\n");
        assert_eq!(names(dir.path()), [".pwd.lock", "subgid", "subgid-"]);
    }
}
