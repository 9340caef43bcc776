//! What a job leaves on purpose: logs, records and the user's copy of the output.
//!
//! After a success `run` removes those of its own job, and nothing else; after a
//! failure they are what explains it, so they stay.

use crate::ids::StepId;
use crate::layout::{self, LogDir};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The files in `log_dir` that belong to steps of `job`.
pub fn in_log_dir(log_dir: &LogDir, job: u32) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(log_dir.path())? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| belongs_to(name, job)) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// `<job>.<step>.…`, so that job 4 never takes files of job 42.
fn belongs_to(name: &str, job: u32) -> bool {
    let mut parts = name.splitn(3, '.');
    let step = (parts.next(), parts.next());
    let (Some(first), Some(second)) = step else {
        return false;
    };
    format!("{first}.{second}").parse::<StepId>().is_ok_and(|id| id.job == job) && parts.next().is_some()
}

/// Removes `files`; one that is already gone is fine.
pub fn remove(files: &[PathBuf]) -> Vec<(PathBuf, io::Error)> {
    let failed = |path: &PathBuf| match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Some((path.clone(), error)),
        _ => None,
    };
    files.iter().filter_map(failed).collect()
}

/// Removes the user's copy of the output of `step` below `cwd`, and its directory if empty then.
///
/// The user can change what is there, so each step down is by descriptor and
/// follows no link, and only a directory owned by `uid` is entered.
pub fn remove_user_copy(cwd: &Path, step: StepId, node: &str, uid: u32) -> io::Result<()> {
    let name = layout::user_output_dir_name(step.job);
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let base = Dir::open(cwd, flags, Mode::empty())?;
    let dir = match Dir::openat(&base, name.as_str(), flags | OFlag::O_NOFOLLOW, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    };
    let opened = fstat(&dir)?;
    if opened.st_uid != uid {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{name} belongs to uid {}", opened.st_uid),
        ));
    }
    gone(unlinkat(&dir, layout::user_output_name(step.step, node).as_str(), UnlinkatFlags::NoRemoveDir))?;
    if !same_file(&fstatat(&base, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?, &opened) {
        return Ok(());
    }
    match unlinkat(&base, name.as_str(), UnlinkatFlags::RemoveDir) {
        // Something of the user's is in it.
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()),
        other => gone(other),
    }
}

fn gone(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::ENOENT) => Ok(()),
        other => Ok(other?),
    }
}

fn same_file(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// The last line of a log that says something, for a person; at most some hundred bytes of it.
pub fn last_line(log: &Path) -> Option<String> {
    use std::os::unix::fs::FileExt;
    const TAIL_BYTES: u64 = 4096;
    const SHOWN_CHARS: usize = 400;
    let file = fs::File::open(log).ok()?;
    let start = file.metadata().ok()?.len().saturating_sub(TAIL_BYTES);
    let mut tail = vec![0; TAIL_BYTES as usize];
    let read = file.read_at(&mut tail, start).ok()?;
    let text = String::from_utf8_lossy(&tail[..read]).into_owned();
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.chars().take(SHOWN_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::testing::Scratch;
    use nix::unistd::getuid;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_files_of_the_job_are_found() {
        for name in ["4.0.log", "4.1.container.log", "4.1.log.2", "4.1.json"] {
            assert!(belongs_to(name, 4), "{name}");
        }
        for name in ["42.1.log", "4.log", "4", "4.1", "x4.1.log", "4.x.log", ""] {
            assert!(!belongs_to(name, 4), "{name}");
        }
    }

    #[test]
    fn the_users_copy_goes_and_his_own_files_stay() {
        let scratch = Scratch::new("copy");
        let step = StepId { job: 9, step: 1 };
        let uid = getuid().as_raw();
        remove_user_copy(scratch.path(), step, "n1", uid).unwrap();

        let dir = scratch.path().join("9.out");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("1.n1.log"), "x").unwrap();
        remove_user_copy(scratch.path(), step, "n1", uid).unwrap();
        assert!(!dir.exists());

        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("mine"), "x").unwrap();
        remove_user_copy(scratch.path(), step, "n1", uid).unwrap();
        assert!(dir.join("mine").exists());
    }

    #[test]
    fn a_link_or_another_owners_directory_is_not_entered() {
        let scratch = Scratch::new("link");
        let step = StepId { job: 9, step: 1 };
        let target = scratch.path().join("elsewhere");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("1.n1.log"), "x").unwrap();
        symlink(&target, scratch.path().join("9.out")).unwrap();
        assert!(remove_user_copy(scratch.path(), step, "n1", getuid().as_raw()).is_err());
        fs::remove_file(scratch.path().join("9.out")).unwrap();
        fs::rename(&target, scratch.path().join("9.out")).unwrap();
        assert!(remove_user_copy(scratch.path(), step, "n1", getuid().as_raw() + 1).is_err());
        assert!(scratch.path().join("9.out/1.n1.log").exists());
    }

    #[test]
    fn the_last_line_is_the_last_that_says_something() {
        let scratch = Scratch::new("last");
        let log = scratch.path().join("l");
        assert_eq!(last_line(&log), None);
        fs::write(&log, format!("{}\nfirst\nthe end\n\n  \n", "x".repeat(9000))).unwrap();
        assert_eq!(last_line(&log).as_deref(), Some("the end"));
    }
}
