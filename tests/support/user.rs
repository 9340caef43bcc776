//! Real users made for a test and removed after it.
//!
//! Made with shadow-utils, which lock the files: several test runs may share
//! one `/etc`, and the supervisor itself writes to `/etc/subuid`. The name holds
//! the pid of the run, so what a killed run left is recognised and removed.
//!
//! Declare the user before its jobs: it must be dropped last.

use super::wait;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Names begin with it; no real user's does.
const PREFIX: &str = "cstest-";
/// User ids tried.
const UIDS: std::ops::Range<u32> = 20_000..30_000;
/// Ids of a user's range, as useradd gives them.
pub const RANGE: u32 = 65_536;
/// Where the ranges of users and groups begin: apart, so that a mix-up shows, and all
/// below 2^31, past which bindfs has no ids.
pub const SUBUIDS: u32 = 700_000_000;
/// See [`SUBUIDS`].
pub const SUBGIDS: u32 = 1_400_000_000;
/// From a range of one user to another one of theirs, which no test user has either.
pub const NEXT_RANGE: u32 = 700_000_000;
/// The files that name users.
const FILES: [&str; 4] = ["/etc/passwd", "/etc/group", "/etc/subuid", "/etc/subgid"];

/// A user with a group of their own; removed when dropped, and that is checked.
#[derive(Debug)]
pub struct TestUser {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group, which nobody else has.
    pub gid: u32,
    /// A second group, where asked for.
    pub group: Option<u32>,
    /// Where the user's ranges begin, whether listed in `/etc/subuid` or not.
    pub subuids: u32,
    /// The same of groups.
    pub subgids: u32,
}

impl TestUser {
    /// A user with a range in `/etc/subuid` and one in `/etc/subgid`.
    pub fn new() -> Self {
        let user = Self::without_ranges();
        user.add_range("--add-subuids", user.subuids, RANGE);
        user.add_range("--add-subgids", user.subgids, RANGE);
        user
    }

    /// A user that neither file names.
    pub fn without_ranges() -> Self {
        remove_leftovers();
        let first = UIDS.start + std::process::id() * 16 % (UIDS.end - UIDS.start);
        let found = (first..UIDS.end).chain(UIDS.start..first).find_map(make);
        found.expect("some user id between 20000 and 29999 is free")
    }

    /// Gives them a second group.
    pub fn with_group(mut self) -> Self {
        let gid = self.uid + 10_000;
        let name = format!("{}-g", self.name);
        shadow("groupadd", &["-g", &gid.to_string(), &name]);
        self.group = Some(gid);
        shadow("usermod", &["-a", "-G", &name, &self.name]);
        self
    }

    /// Lists a range; `option` is usermod's.
    pub fn add_range(&self, option: &str, start: u32, size: u32) {
        shadow("usermod", &[option, &format!("{start}-{}", start + size - 1), &self.name]);
    }

    /// What `/etc/subuid` or `/etc/subgid` says of them: start and size.
    pub fn listed(&self, file: &str) -> Vec<(u32, u32)> {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let own = text.lines().filter_map(|line| line.strip_prefix(&self.name)?.strip_prefix(':'));
        own.map(|line| {
            let (start, size) = line.split_once(':').unwrap_or_else(|| panic!("{file}: bad line {line}"));
            (start.parse().unwrap(), size.parse().unwrap())
        })
        .collect()
    }

    /// Makes a directory of theirs.
    pub fn dir(&self, path: &Path, mode: u32) -> PathBuf {
        std::fs::create_dir_all(path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        own(path, self.uid, self.gid, mode)
    }

    /// Makes a file of theirs.
    pub fn file(&self, path: &Path, text: &str, mode: u32) -> PathBuf {
        std::fs::write(path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        own(path, self.uid, self.gid, mode)
    }
}

/// Gives `path` away; mode last, since a change of owner clears bits.
pub fn own(path: &Path, uid: u32, gid: u32, mode: u32) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("tests run as root");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("tests run as root");
    path.to_owned()
}

impl Drop for TestUser {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let removed = remove(&self.name);
        if !failed {
            assert!(removed.is_ok(), "cannot remove user {}: {}", self.name, removed.unwrap_err());
            let left: Vec<_> = FILES.into_iter().filter(|file| names(file, &self.name)).collect();
            assert!(left.is_empty(), "user {} is still named in {left:?}", self.name);
        }
    }
}

fn make(uid: u32) -> Option<TestUser> {
    let name = format!("{PREFIX}{uid}-{}", std::process::id());
    let number = uid.to_string();
    let made = Command::new("useradd")
        .args(["-u", &number, "-U", "-M", "-d", "/nonexistent", "-s", "/bin/sh"])
        .args(["-K", "SUB_UID_COUNT=0", "-K", "SUB_GID_COUNT=0", &name])
        .output()
        .expect("useradd is installed");
    match made.status.code() {
        Some(0) => {}
        // The id or the name is another test's.
        Some(4 | 9) => return None,
        _ => panic!("useradd {name}: {}", String::from_utf8_lossy(&made.stderr)),
    }
    let offset = (uid - UIDS.start) * RANGE;
    let gid = primary_group(&name);
    Some(TestUser { name, uid, gid, group: None, subuids: SUBUIDS + offset, subgids: SUBGIDS + offset })
}

/// useradd chooses the group's id: the user's where it is free.
fn primary_group(name: &str) -> u32 {
    let passwd = std::fs::read_to_string("/etc/passwd").expect("passwd can be read");
    let entry = passwd.lines().find(|line| line.starts_with(&format!("{name}:")));
    entry.and_then(|line| line.split(':').nth(3)?.parse().ok()).expect("useradd made an entry")
}

/// The user, their groups and ranges.
fn remove(name: &str) -> Result<(), String> {
    let limit = Duration::from_secs(5);
    let mut said = String::new();
    // The kernel may need a moment to end their last process.
    let done = wait::until(limit, || {
        let output = Command::new("userdel").arg(name).output().expect("userdel is installed");
        said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success() || !names("/etc/passwd", name)).then_some(())
    });
    let second = format!("{name}-g");
    if names("/etc/group", &second) {
        shadow("groupdel", &[&second]);
    }
    done.ok_or(said)
}

fn remove_leftovers() {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    for name in passwd.lines().filter_map(|line| line.split(':').next()).filter(|name| name.starts_with(PREFIX)) {
        let run = name.rsplit('-').next().unwrap_or_default();
        if !Path::new("/proc").join(run).exists() {
            let _ = remove(name);
        }
    }
}

fn names(file: &str, name: &str) -> bool {
    let start = format!("{name}:");
    std::fs::read_to_string(file).unwrap_or_default().lines().any(|line| line.starts_with(&start))
}

#[track_caller]
fn shadow(command: &str, args: &[&str]) {
    let output = Command::new(command).args(args).output().unwrap_or_else(|e| panic!("cannot start {command}: {e}"));
    assert!(output.status.success(), "{command} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
