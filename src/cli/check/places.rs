//! Directories of the node: who owns them, and the room on their disks.

use crate::cli::check::line::{Level, Line, fail, ok, untold, warn};
use crate::cli::images::bytes;
use crate::config::Config;
use crate::layout;
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Less room than this, in bytes, is a warning, and a failure.
const LOW: u64 = 1 << 30;
const NONE: u64 = 64 << 20;

/// All but the disk of images, which the runtime tells.
pub fn look(config: &Config) -> Vec<Line> {
    let socket_dir = Path::new(layout::SOCKET_DIR);
    // Every step is refused then; elsewhere only the security of root's files is at stake.
    let mut lines = vec![roots(
        "control sockets",
        Level::Fail,
        socket_dir,
        "remove it, or chown root and chmod 0700: steps are refused",
    )];
    let temp_dirs = config.temp_dirs();
    let places =
        std::iter::once(("LogDir", config.log_dir())).chain(temp_dirs.into_iter().take(1).map(|dir| ("TempDir", dir)));
    let mut disks: Vec<(u64, PathBuf)> = Vec::new();
    for (key, dir) in places {
        lines.push(roots(key, Level::Warn, &dir, "chown root and chmod 0700: what root finds in it, it trusts"));
        let dir = existing(&dir);
        let device = fs::metadata(&dir).map_or(0, |found| found.dev());
        if disks.iter().all(|(known, _)| *known != device) {
            disks.push((device, dir));
        }
    }
    lines.extend(disks.iter().map(|(_, dir)| room("disk", dir)));
    lines
}

/// A directory that must be root's alone, or else `level`; one that is not there is made by the first step.
pub fn roots(check: &'static str, level: Level, path: &Path, remedy: &str) -> Line {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => ok(check, format!("{shown} is made when needed")),
        Err(_) if !geteuid().is_root() => untold(check, &format!("{shown}")),
        Err(error) => fail(check, format!("cannot look at {shown}: {error}"), "see whether its file system is well"),
        Ok(found) => match trouble(&found) {
            None => ok(check, format!("{shown} is root's, mode {:04o}", found.mode() & 0o7777)),
            Some(trouble) => Line { level, ..fail(check, format!("{shown} {trouble}"), remedy) },
        },
    }
}

fn trouble(found: &Metadata) -> Option<String> {
    match found.mode() & 0o777 {
        _ if found.is_symlink() => Some("is a symbolic link".into()),
        _ if !found.is_dir() => Some("is not a directory".into()),
        _ if found.uid() != 0 => Some(format!("belongs to user {}", found.uid())),
        mode if mode & 0o022 != 0 => Some(format!("can be written by others (mode {mode:04o})")),
        _ => None,
    }
}

/// The directory, or the nearest one above that is there.
pub fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// The room on the disk of a directory that is there.
pub fn room(check: &'static str, dir: &Path) -> Line {
    let shown = dir.display();
    let space = match statvfs(dir) {
        Ok(space) => space,
        Err(error) => {
            return warn(check, format!("cannot ask for the room at {shown}: {error}"), "see whether it is mounted");
        }
    };
    // Narrower than 64 bits on some architectures.
    #[allow(clippy::useless_conversion)]
    let (free, size) = (u64::from(space.blocks_available()), u64::from(space.fragment_size()));
    #[allow(clippy::useless_conversion)]
    let (files, free_files) = (u64::from(space.files()), u64::from(space.files_available()));
    judge(check, &format!("{shown}"), free.saturating_mul(size), (files > 0).then_some(free_files))
}

fn judge(check: &'static str, shown: &str, free: u64, files: Option<u64>) -> Line {
    let remedy = "make room: remove what is old, or images nobody uses (crictl rmi --prune)";
    match (free, files) {
        (0..NONE, _) => fail(check, format!("{} left at {shown}", bytes(free)), remedy),
        (_, Some(0..100)) => fail(check, format!("no inodes left at {shown}"), remedy),
        (0..LOW, _) => warn(check, format!("{} left at {shown}", bytes(free)), remedy),
        _ => ok(check, format!("{} left at {shown}", bytes(free))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_is_a_warning_and_none_a_failure() {
        let level = |free, files| judge("disk", "/x", free, files).level;
        assert_eq!((level(LOW, Some(1000)), level(LOW, None)), (Level::Ok, Level::Ok));
        assert_eq!(
            (level(LOW - 1, None), level(NONE - 1, None), level(LOW, Some(99))),
            (Level::Warn, Level::Fail, Level::Fail)
        );
    }

    #[test]
    fn a_missing_directory_is_fine_and_a_file_in_its_place_is_not() {
        assert_eq!(roots("d", Level::Fail, Path::new("/no/such"), "").level, Level::Ok);
        assert_eq!(roots("d", Level::Fail, Path::new("/etc/passwd"), "").level, Level::Fail);
        assert_eq!(roots("d", Level::Warn, Path::new("/tmp"), "").level, Level::Warn);
        assert_eq!(existing(Path::new("/no/such/dir")), Path::new("/"));
    }
}
