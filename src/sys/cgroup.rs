//! Control groups as files: where hierarchies are mounted, who is in a group,
//! and moving ourselves out of groups that others kill.
//!
//! Works on v1, v2 and hybrid alike: a group path such as `/crane/job_7` is
//! looked for below every mounted hierarchy.

pub mod kill;
pub mod limits;
pub mod memory;
pub mod usage;

use procfs::ProcessCGroups;
use procfs::process::Process;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// v1 controllers or `name=…`; empty on v2.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// craned and systemd track services in these, and kill by them.
    fn is_service_tracking(&self) -> bool {
        self.controllers.is_empty() || self.controllers.iter().any(|name| name == "name=systemd")
    }

    /// Whether who is in `groups` is at the root: even a move to where one is already costs the kernel's grace period.
    fn has_at_root(&self, groups: &[(Vec<String>, String)]) -> bool {
        let same = |controllers: &[String]| match controllers {
            [] => self.controllers.is_empty(),
            some => some.iter().any(|name| self.controllers.contains(name)),
        };
        groups.iter().any(|(controllers, path)| path == "/" && same(controllers))
    }
}

/// Where the node's hierarchies are. What is mounted elsewhere may be a user's bind of a part of one,
/// and nothing may be written there.
const ROOT: &[u8] = b"/sys/fs/cgroup";

/// The hierarchies mounted in our mount namespace, at or below `/sys/fs/cgroup`.
///
/// # Errors
/// If /proc/self/mountinfo cannot be read.
pub fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(hierarchy).collect())
}

/// Of one line (proc_pid_mountinfo(5)). In bytes: other lines have names that users chose.
fn hierarchy(line: &[u8]) -> Option<Hierarchy> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mount = fields.nth(4)?;
    let below = mount.strip_prefix(ROOT)?;
    if !below.is_empty() && !below.starts_with(b"/") {
        return None;
    }
    let mut kind = fields.skip_while(|field| *field != b"-").skip(1);
    let controllers = match kind.next()? {
        b"cgroup2" => Vec::new(),
        b"cgroup" => String::from_utf8_lossy(kind.nth(1)?)
            .split(',')
            .filter(|option| !matches!(*option, "rw" | "ro"))
            .map(str::to_owned)
            .collect(),
        _ => return None,
    };
    Some(Hierarchy { mount: PathBuf::from(OsStr::from_bytes(mount)), controllers })
}

/// Leaves the groups by which a service manager ends a whole service: `name=systemd`
/// on v1 and the v2 tree beside it.
///
/// Nothing on a pure v2 machine: craned moves us there itself, right after Ready, and a
/// move of ours could undo its.
///
/// # Errors
/// The first move that failed, with its path; the others are still made.
pub fn leave_service() -> io::Result<()> {
    let all = hierarchies()?;
    if all.iter().all(|hierarchy| hierarchy.controllers.is_empty()) {
        return Ok(());
    }
    leave(all.iter().filter(|hierarchy| hierarchy.is_service_tracking()), None)
}

/// Takes process `pid` out of the groups by which a service manager ends a whole service.
///
/// For a process that craned does not know: nobody else moves it on a pure v2 machine.
///
/// # Errors
/// As [`leave_service`].
pub fn take_from_service(pid: i32) -> io::Result<()> {
    leave(hierarchies()?.iter().filter(|hierarchy| hierarchy.is_service_tracking()), Some(pid))
}

/// Leaves every group of a job, for a process that must outlive it.
///
/// # Errors
/// As [`leave_service`].
pub fn leave_all() -> io::Result<()> {
    leave(hierarchies()?.iter(), None)
}

/// Moves us or `other` to the root of each.
fn leave<'a>(chosen: impl Iterator<Item = &'a Hierarchy>, other: Option<i32>) -> io::Result<()> {
    let mut first = Ok(());
    let who = other.map_or_else(Process::myself, Process::new);
    let groups = who.and_then(|who| who.cgroups()).map(named).map_err(io::Error::other)?;
    for hierarchy in chosen.filter(|hierarchy| !hierarchy.has_at_root(&groups)) {
        let file = hierarchy.mount.join("cgroup.procs");
        // 0 stands for the writer.
        if let Err(error) = fs::write(&file, other.unwrap_or(0).to_string()) {
            first = first.and(Err(io::Error::new(error.kind(), format!("cannot move to {}: {error}", file.display()))));
        }
    }
    first
}

/// Moves a process into `group` in every hierarchy that has it.
///
/// # Errors
/// If no hierarchy has the group, or a move failed.
pub fn move_process(pid: i32, group: &str) -> io::Result<()> {
    let files: Vec<PathBuf> = member_files(&[group])?.into_iter().filter(|file| file.exists()).collect();
    if files.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("no cgroup hierarchy has {group}")));
    }
    for file in files {
        fs::write(&file, pid.to_string())
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    }
    Ok(())
}

/// Makes `group` where its parent is there and moves a process into it.
///
/// Not in v1's cpuset, whose new groups take nobody before they are set up.
///
/// # Errors
/// If no hierarchy has the parent, or a group could not be made or joined.
pub fn join_own(pid: i32, group: &str) -> io::Result<()> {
    let takes = |hierarchy: &Hierarchy| !hierarchy.controllers.iter().any(|name| name == "cpuset");
    let mut joined = false;
    for dir in
        hierarchies()?.into_iter().filter(takes).map(|hierarchy| hierarchy.mount.join(group.trim_start_matches('/')))
    {
        if dir.parent().is_some_and(Path::is_dir) {
            let context = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(context(error)),
                _ => {}
            }
            fs::write(dir.join("cgroup.procs"), pid.to_string()).map_err(context)?;
            joined = true;
        }
    }
    if joined {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("no cgroup hierarchy has the parent of {group}")))
    }
}

/// Removes `group` in every hierarchy that has it; its processes must have ended.
///
/// # Errors
/// The first that stays, other than because it is not there.
pub fn remove(group: &str) -> io::Result<()> {
    let mut first = Ok(());
    for hierarchy in hierarchies()? {
        let dir = hierarchy.mount.join(group.trim_start_matches('/'));
        match fs::remove_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                first = first.and(Err(io::Error::new(error.kind(), format!("{}: {error}", dir.display()))));
            }
            _ => {}
        }
    }
    first
}

/// Removes `group` of a job in the hierarchies where craned has made no group for a step in it: a
/// runtime made it there, with what its containers had.
///
/// # Errors
/// As [`remove`].
pub fn remove_unknown_to_craned(group: &str) -> io::Result<()> {
    let mut first = Ok(());
    for hierarchy in hierarchies()? {
        let dir = hierarchy.mount.join(group.trim_start_matches('/'));
        let children: Vec<_> = fs::read_dir(&dir).into_iter().flatten().flatten().collect();
        let groups = children.into_iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let groups: Vec<_> = groups.map(|entry| (entry.file_name(), entry.path())).collect();
        if groups.iter().any(|(name, _)| name.to_string_lossy().starts_with("step_")) {
            continue;
        }
        for path in groups.iter().map(|(_, path)| path).chain([&dir]) {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    first = first.and(Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))));
                }
                _ => {}
            }
        }
    }
    first
}

/// The membership lists each group may have, one per hierarchy, existing or not.
pub fn member_files<S: AsRef<str>>(groups: &[S]) -> io::Result<Vec<PathBuf>> {
    MemberFiles::of(groups).map(|files| files.every)
}

/// Where the members of some groups are listed, existing or not.
#[derive(Debug, Default)]
pub struct MemberFiles {
    /// In each hierarchy.
    pub every: Vec<PathBuf>,
    /// Only in the v1 hierarchy that counts memory, in which every container is; where there is none, as `every`.
    pub counting: Vec<PathBuf>,
}

impl MemberFiles {
    /// Those of `groups`.
    ///
    /// # Errors
    /// If /proc/self/mountinfo cannot be read.
    pub fn of<S: AsRef<str>>(groups: &[S]) -> io::Result<Self> {
        let all = hierarchies()?;
        let counting: Vec<_> = all.iter().filter(|one| one.controllers.iter().any(|name| name == "memory")).collect();
        let every: Vec<_> = all.iter().collect();
        let counting = files_in(if counting.is_empty() { &every } else { &counting }, groups);
        Ok(Self { every: files_in(&every, groups), counting })
    }
}

fn files_in<S: AsRef<str>>(hierarchies: &[&Hierarchy], groups: &[S]) -> Vec<PathBuf> {
    let groups = groups.iter().map(|group| group.as_ref().trim_start_matches('/'));
    let dirs = groups.flat_map(|group| hierarchies.iter().map(move |hierarchy| hierarchy.mount.join(group)));
    dirs.map(|dir| dir.join("cgroup.procs")).collect()
}

/// The processes in the first of `files` that exists and has any.
pub fn members(files: &[PathBuf]) -> Vec<i32> {
    files.iter().map(|file| read_members(file)).find(|pids| !pids.is_empty()).unwrap_or_default()
}

fn read_members(file: &Path) -> Vec<i32> {
    // A group that is gone has no members.
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).filter(|&pid| pid > 0).collect()
}

/// The groups a process is in, as (controllers, path); v2's entry has no controllers.
///
/// # Errors
/// If the process is gone.
pub fn groups_of(pid: i32) -> io::Result<Vec<(Vec<String>, String)>> {
    Process::new(pid).and_then(|process| process.cgroups()).map(named).map_err(io::Error::other)
}

fn named(groups: ProcessCGroups) -> Vec<(Vec<String>, String)> {
    groups.0.into_iter().map(|group| (group.controllers, group.pathname)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_hierarchies_are_found() {
        let found = hierarchies().unwrap();
        assert!(!found.is_empty());
        assert!(found.iter().all(|h| h.mount.is_absolute()));
    }

    #[test]
    fn only_the_nodes_own_mounts_are_hierarchies_whatever_else_is_in_the_table() {
        let of = |line: &[u8]| hierarchy(line).map(|found| (found.mount, found.controllers.join(" ")));
        let v1 = b"33 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct";
        assert_eq!(of(v1), Some(("/sys/fs/cgroup/cpu,cpuacct".into(), "cpu cpuacct".into())));
        let named = b"34 25 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd";
        assert_eq!(of(named), Some(("/sys/fs/cgroup/systemd".into(), "xattr name=systemd".into())));
        let v2 = b"35 25 0:31 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw";
        assert_eq!(of(v2), Some(("/sys/fs/cgroup".into(), String::new())));
        for other in [
            &b"36 25 0:31 /crane/job_7 /var/crane/7/steps/1/mounts/0 rw - cgroup2 cgroup2 rw"[..],
            b"37 25 0:31 / /sys/fs/cgroups rw - cgroup2 cgroup2 rw",
            b"38 25 0:40 /home/u/\xff /var/crane/7/steps/1/mounts/1 rw - ext4 /dev/sda rw",
            b"39 25 0:41 / /sys/fs/cgroup rw - tmpfs tmpfs rw",
            b"40 25 0:41 / /sys/fs/cgroup",
            b"",
        ] {
            assert_eq!(of(other), None, "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn a_group_that_is_gone_has_no_members() {
        assert!(members(&member_files(&["/no/such/group"]).unwrap()).is_empty());
    }

    #[test]
    fn memory_is_counted_in_one_hierarchy_or_nobody_says_in_which() {
        let files = MemberFiles::of(&["/a", "b"]).unwrap();
        let is_told = hierarchies().unwrap().iter().any(|one| one.controllers.iter().any(|name| name == "memory"));
        let told: Vec<_> =
            files.every.iter().filter(|file| !is_told || file.to_string_lossy().contains("memory")).collect();
        assert!(!told.is_empty());
        assert_eq!(files.counting.iter().collect::<Vec<_>>(), told);
    }

    #[test]
    fn our_own_groups_are_told() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(!groups_of(me).unwrap().is_empty());
    }
}
