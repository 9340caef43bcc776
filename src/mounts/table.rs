//! Taking staged mounts down, by their directories alone.
//!
//! Called with what a journal says, by the supervisor and by any reaper after it.
//! Unmounts what the kernel lists below the directories, last first, ends what is left
//! of bindfs, and removes directories one by one: never recursively, and never
//! through a mount that is still there.

use crate::failpoint;
use crate::sys::cgroup;
use crate::sys::mount_api::{Unmount, detach};
use crate::sys::pidfd::Process;
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// What is mounted where, for us.
const TABLE: &str = "/proc/self/mountinfo";
/// How long somebody may keep a mount busy before it is unmounted lazily.
const BUSY_LIMIT: Duration = Duration::from_secs(1);
/// How long a bindfs whose mount is gone may take to end.
const END_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks at either.
const LOOK: Duration = Duration::from_millis(20);

/// A mount, directory or bindfs that is still there.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}: {source}", path.display())]
pub struct TableError {
    /// What was tried.
    pub verb: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

fn failed<'a>(verb: &'static str, path: &'a Path) -> impl Fn(io::Error) -> TableError + use<'a> {
    move |source| TableError { verb, path: path.to_owned(), source }
}

/// Undoes a step's mounts: those below `dirs`, the bindfs in `group`, the directories.
///
/// # Errors
/// The first thing that stays; the rest is still undone.
pub async fn clear(dirs: &[PathBuf], group: Option<&str>) -> Result<(), TableError> {
    let mut first = Ok(());
    let dirs: Vec<PathBuf> = dirs.iter().filter_map(|dir| ours(dir)).collect();
    for point in points_below(&dirs)? {
        failpoint::pass(|| "before unmounting".into());
        first = first.and(unmount(&point).await);
    }
    if let Some(group) = group {
        first = first.and(end_group(group).await);
    }
    failpoint::pass(|| "unmounted".into());
    for dir in &dirs {
        first = first.and(remove(dir));
    }
    first
}

/// Takes one mount point out of sight at once; one that is none is success.
pub fn detach_lazily(path: &Path) {
    if let Err(error) = detach(path, Unmount::Lazily)
        && error.raw_os_error() != Some(libc::EINVAL)
    {
        tracing::warn!(%error, path = %path.display(), "cannot unmount");
    }
}

/// Busy: again for a while, then lazily.
async fn unmount(point: &Path) -> Result<(), TableError> {
    let begun = Instant::now();
    loop {
        match detach(point, Unmount::Now) {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && begun.elapsed() < BUSY_LIMIT => {
                sleep(LOOK).await;
            }
            Err(error) => {
                tracing::warn!(%error, path = %point.display(), "still in use; unmounting it lazily");
                return match detach(point, Unmount::Lazily) {
                    Err(error) if !is_gone(&error) => Err(failed("unmount", point)(error)),
                    _ => Ok(()),
                };
            }
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT))
}

/// A directory as the kernel's table names it, if it is one that we made: for root alone. A user may put
/// something else under its name where a configured directory is sticky, and nothing is followed there.
fn ours(dir: &Path) -> Option<PathBuf> {
    // The table has no links in it; a configured directory may.
    let parent = fs::canonicalize(dir.parent()?).ok()?;
    let dir = parent.join(dir.file_name()?);
    let found = fs::symlink_metadata(&dir).ok()?;
    let ours = found.is_dir() && found.uid() == 0 && found.mode() & 0o077 == 0;
    if !ours {
        tracing::warn!(path = %dir.display(), "not a directory of ours; it is left alone");
    }
    ours.then_some(dir)
}

/// Mount points at or below `dirs`, the last mounted first.
fn points_below(dirs: &[PathBuf]) -> Result<Vec<PathBuf>, TableError> {
    let mut points = all_points().map_err(failed("read", Path::new(TABLE)))?;
    points.retain(|point| dirs.iter().any(|dir| point.starts_with(dir)));
    Ok(points)
}

/// All mount points of our mount namespace, the last mounted first.
fn all_points() -> io::Result<Vec<PathBuf>> {
    let text = fs::read(TABLE)?;
    let mut points: Vec<PathBuf> = text.split(|&byte| byte == b'\n').filter_map(mount_point).collect();
    points.reverse();
    Ok(points)
}

/// The fifth field, in which blanks and their like are written in octal (proc_pid_mountinfo(5)).
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|&byte| byte == b' ').nth(4)?;
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| after.get(..3)).flatten();
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(meant) => {
                path.push(meant);
                rest = &after[3..];
            }
            None => {
                path.push(byte);
                rest = after;
            }
        }
    }
    Some(PathBuf::from(OsString::from_vec(path)))
}

/// A bindfs ends with its mount; one that was stopped, say, does not.
async fn end_group(group: &str) -> Result<(), TableError> {
    let path = Path::new(group);
    let files = cgroup::member_files(&[group]).map_err(failed("find", path))?;
    let begun = Instant::now();
    while begun.elapsed() < END_LIMIT && !cgroup::members(&files).is_empty() {
        sleep(LOOK).await;
    }
    for pid in cgroup::members(&files) {
        tracing::warn!(pid, "ending a bindfs that outlived its mount");
        // Held first and looked at again then: the number cannot become another's in between.
        if let Ok(process) = Process::open(pid)
            && cgroup::members(&files).contains(&pid)
        {
            process.signal(Signal::SIGKILL).map_err(failed("end a bindfs in", path))?;
            drop(tokio::time::timeout(END_LIMIT, process.ended()).await);
        }
    }
    cgroup::remove(group).map_err(failed("remove cgroup", path))
}

/// A directory of ours: what is in it is empty directories and files without content.
fn remove(dir: &Path) -> Result<(), TableError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        entries => entries.map_err(failed("read", dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed("read", dir))?;
        let path = entry.path();
        // A mount point refuses both.
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        removed.map_err(failed("remove", &path))?;
    }
    fs::remove_dir(dir).map_err(failed("remove", dir))
}

/// Device and root of what is mounted last at `path` in a process's view; `None` where nothing is.
pub fn what_is_at(process: &str, path: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
    let text = fs::read(format!("/proc/{process}/mountinfo")).ok()?;
    let mut lines = text.split(|&byte| byte == b'\n');
    let line = lines.rfind(|line| mount_point(line).is_some_and(|at| at == path))?;
    let mut fields = line.split(|&byte| byte == b' ').skip(2);
    Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
}

/// The type of the file system mounted where `path` is, as the kernel names it.
pub fn filesystem_of(path: &Path) -> String {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let lines = text.split(|&byte| byte == b'\n');
    let holding = lines.filter_map(|line| Some((mount_point(line)?, line)));
    let nearest = holding
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.as_os_str().as_bytes().len());
    let kind = nearest.and_then(|(_, line)| {
        let mut fields = line.split(|&byte| byte == b' ').skip_while(|field| *field != b"-");
        fields.nth(1).map(|kind| String::from_utf8_lossy(kind).into_owned())
    });
    kind.unwrap_or_else(|| "of unknown type".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        let line = br"36 35 98:0 / /mnt/a\040b\134c rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/mnt/a b\c")));
        assert_eq!(mount_point(br"1 2 3 / /x\9 rw"), Some(PathBuf::from(r"/x\9")));
        assert_eq!(mount_point(b""), None);
    }

    #[test]
    fn the_file_system_of_a_path_has_a_name() {
        assert_eq!(filesystem_of(Path::new("/proc/self/status")), "proc");
    }

    #[tokio::test]
    async fn mounts_below_a_linked_directory_are_found() {
        let root = fs::canonicalize(std::env::temp_dir()).unwrap().join(format!("table-{}", std::process::id()));
        let (real, link) = (root.join("real"), root.join("link"));
        fs::create_dir_all(real.join("mounts/0")).unwrap();
        fs::set_permissions(real.join("mounts"), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        let nothing: Option<&str> = None;
        let point = real.join("mounts/0");
        nix::mount::mount(Some("none"), &point, Some("tmpfs"), nix::mount::MsFlags::empty(), nothing).unwrap();
        clear(&[link.join("mounts")], None).await.unwrap();
        assert!(!real.join("mounts").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn a_link_in_the_place_of_our_directory_is_not_followed() {
        let root = fs::canonicalize(std::env::temp_dir()).unwrap().join(format!("planted-{}", std::process::id()));
        let (theirs, planted) = (root.join("theirs"), root.join("7.1"));
        fs::create_dir_all(theirs.join("0")).unwrap();
        fs::write(theirs.join("precious"), "").unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("theirs", &planted).unwrap();
        let nothing: Option<&str> = None;
        let point = theirs.join("0");
        nix::mount::mount(Some("none"), &point, Some("tmpfs"), nix::mount::MsFlags::empty(), nothing).unwrap();
        clear(std::slice::from_ref(&planted), None).await.unwrap();
        let mounted = what_is_at("self", &point).is_some();
        detach(&point, Unmount::Now).unwrap();
        assert!(mounted && theirs.join("precious").exists() && planted.is_symlink());
        // Nor is one that others may enter.
        fs::remove_file(&planted).unwrap();
        fs::create_dir(&planted).unwrap();
        fs::set_permissions(&planted, fs::Permissions::from_mode(0o755)).unwrap();
        clear(std::slice::from_ref(&planted), None).await.unwrap();
        assert!(planted.is_dir());
        fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn what_is_not_there_is_cleared() {
        clear(&[PathBuf::from("/no/such/dir")], Some("/no/such/group")).await.unwrap();
    }

    proptest! {
        #[test]
        fn any_line_is_read(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _any_path_or_none = mount_point(&line);
        }
    }
}
