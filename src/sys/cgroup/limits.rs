//! The limits of the groups a process is in, as the kernel has them now.

use super::{Hierarchy, groups_of, hierarchies};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the kernel holds a group to; `None` is no limit, or one that cannot be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together.
    pub memory_and_swap: Option<u64>,
    /// Whole and fractional CPUs.
    pub cpus: Option<f64>,
    /// The processors, as the kernel writes a list.
    pub cpu_list: Option<String>,
}

/// v1 says "no limit" by the largest number of whole pages.
const V1_NONE: u64 = 1 << 62;

/// The groups of `pid` that are the container's own, by its id in their names: an ending
/// process is shown at the root, among all others of the node.
fn own_groups(pid: i32, container: &str) -> io::Result<Vec<(Vec<String>, String)>> {
    let own: Vec<_> = groups_of(pid)?.into_iter().filter(|(_, path)| path.contains(container)).collect();
    if own.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(own) }
}

/// The limits of the groups that process `pid` of a container is in.
///
/// # Errors
/// If the process is gone or ending, or the mounts cannot be read.
pub fn of(pid: i32, container: &str) -> io::Result<Limits> {
    let groups = own_groups(pid, container)?;
    let hierarchies = hierarchies()?;
    let place = |wanted: Option<&str>| place(&hierarchies, &groups, wanted);
    if let Some(dir) = place(Some("memory")) {
        let quota = place(Some("cpu")).and_then(|cpu| v1_quota(&cpu));
        return Ok(Limits {
            memory: number(&dir.join("memory.limit_in_bytes")).filter(|&bytes| bytes < V1_NONE),
            memory_and_swap: number(&dir.join("memory.memsw.limit_in_bytes")).filter(|&bytes| bytes < V1_NONE),
            cpus: quota,
            cpu_list: place(Some("cpuset")).and_then(|dir| text(&dir.join("cpuset.cpus"))),
        });
    }
    let Some(dir) = place(None) else { return Ok(Limits::default()) };
    let memory = number(&dir.join("memory.max"));
    let swap = number(&dir.join("memory.swap.max"));
    Ok(Limits {
        memory,
        memory_and_swap: memory.zip(swap).map(|(memory, swap)| memory.saturating_add(swap)),
        cpus: text(&dir.join("cpu.max")).as_deref().and_then(v2_quota),
        cpu_list: text(&dir.join("cpuset.cpus")),
    })
}

/// The directory of a process's group in the hierarchy with that controller; v2's without one.
fn place(hierarchies: &[Hierarchy], groups: &[(Vec<String>, String)], controller: Option<&str>) -> Option<PathBuf> {
    let has = |controllers: &[String]| match controller {
        Some(name) => controllers.iter().any(|one| one == name),
        None => controllers.is_empty(),
    };
    let hierarchy = hierarchies.iter().find(|hierarchy| has(&hierarchy.controllers))?;
    let (_, path) = groups.iter().find(|(controllers, _)| has(controllers))?;
    Some(hierarchy.mount.join(path.trim_start_matches('/')))
}

fn text(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn number(file: &Path) -> Option<u64> {
    text(file)?.parse().ok()
}

fn v1_quota(dir: &Path) -> Option<f64> {
    let quota: i64 = text(&dir.join("cpu.cfs_quota_us"))?.parse().ok()?;
    let period: i64 = text(&dir.join("cpu.cfs_period_us"))?.parse().ok()?;
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

fn v2_quota(line: &str) -> Option<f64> {
    let (quota, period) = line.split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

/// Moves all of a container's v1 cpuset group, by `pid` in it, children included, into `group` of that hierarchy.
///
/// Returns whether there is such a hierarchy. Looks again until nobody is left, since they may fork.
///
/// # Errors
/// If `group` is not there, or a process that goes on cannot be moved.
pub fn move_cpuset(pid: i32, container: &str, group: &str) -> io::Result<bool> {
    const PASSES: usize = 50;
    let hierarchies = hierarchies()?;
    let Some(from) = place(&hierarchies, &own_groups(pid, container)?, Some("cpuset")) else { return Ok(false) };
    let Some(root) = hierarchies.iter().find(|one| one.controllers.iter().any(|name| name == "cpuset")) else {
        return Ok(false);
    };
    let to = root.mount.join(group.trim_start_matches('/'));
    let target = to.join("cgroup.procs");
    if !target.is_file() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", to.display())));
    }
    if from == to {
        return Ok(true);
    }
    for _ in 0..PASSES {
        let members = members_below(&from);
        if members.is_empty() {
            return Ok(true);
        }
        for member in members {
            match fs::write(&target, member.to_string()) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(io::Error::new(error.kind(), format!("{}: {error}", target.display())));
                }
                _ => {}
            }
        }
    }
    Err(io::Error::other(format!("processes keep appearing in {}", from.display())))
}

fn members_below(dir: &Path) -> Vec<i32> {
    let mut members = super::read_members(&dir.join("cgroup.procs"));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            members.extend(members_below(&entry.path()));
        }
    }
    members
}

/// The processors in a list such as `0-3,8`; `None` for what is no list.
pub fn processors(list: &str) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    for part in list.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last > 1 << 16 {
            return None;
        }
        found.extend(first..=last);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_processors_is_read() {
        assert_eq!(processors("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(processors(""), Some(vec![]));
        assert_eq!((processors("a"), processors("0-4294967295")), (None, None));
    }

    #[test]
    fn a_quota_is_a_part_of_its_period() {
        assert_eq!(v2_quota("50000 100000"), Some(0.5));
        assert_eq!(v2_quota("max 100000"), None);
    }
}
