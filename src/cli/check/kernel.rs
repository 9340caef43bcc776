//! What the kernel has: version, ends of processes, cgroups, inotify.

use crate::cli::check::line::{Line, fail, ok, warn};
use crate::sys::cgroup::{self, Hierarchy};
use crate::sys::exit_events::ExitEvents;
use crate::sys::pidfd;
use nix::unistd::geteuid;
use std::fs;
use std::path::Path;

/// `openat2`; `mount_setattr`.
const NEEDED: (u32, u32) = (5, 6);
const FOR_MOUNTS: (u32, u32) = (5, 12);
/// inotify instances that serve a full node.
const INOTIFY: u64 = 8192;
/// Controllers craned and runtimes limit containers by.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "freezer"];

/// All of it.
pub fn look() -> Vec<Line> {
    let mut lines = vec![version(), ends(), user_namespaces(), inotify()];
    lines.push(cgroup::hierarchies().map_or_else(
        |error| fail("cgroups", format!("cannot read the mounts: {error}"), "mount /proc"),
        |found| cgroups(&found, &fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default()),
    ));
    lines
}

fn version() -> Line {
    let Some(found) = pidfd::kernel() else {
        return warn("kernel", "its version cannot be read", "it should be Linux 5.12 or newer");
    };
    let shown = format!("Linux {}.{}", found.0, found.1);
    match found {
        old if old < NEEDED => fail("kernel", format!("{shown}: too old"), "use Linux 5.12 or newer"),
        old if old < FOR_MOUNTS => {
            warn("kernel", format!("{shown}: host mounts will fail"), "use Linux 5.12 or newer (mount_setattr)")
        }
        _ => ok("kernel", shown),
    }
}

fn ends() -> Line {
    if pidfd::tells_ends() {
        return ok("exit codes", "the kernel tells them (PIDFD_GET_INFO); the runtime's events are not needed");
    }
    match ExitEvents::listen() {
        Ok(_listening) => {
            ok("exit codes", "the kernel tells them (proc connector); the runtime's events are not needed")
        }
        Err(_) if !geteuid().is_root() => warn(
            "exit codes",
            "not told without root: whether the kernel tells them (proc connector)",
            "run check as root (sudo)",
        ),
        Err(error) => warn(
            "exit codes",
            format!("only the runtime tells them, and forgets those of containers that end while it is down: {error}"),
            "use Linux 6.15 or newer, or CONFIG_PROC_EVENTS and craned in the first network namespace",
        ),
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn user_namespaces() -> Line {
    match number("/proc/sys/user/max_user_namespaces") {
        Some(0) => fail(
            "user namespaces",
            "the kernel makes none (user.max_user_namespaces is 0): host mounts fail, and --userns",
            "sysctl -w user.max_user_namespaces=15000, and in /etc/sysctl.d",
        ),
        Some(most) => ok("user namespaces", format!("up to {most} (user.max_user_namespaces)")),
        None => {
            warn("user namespaces", "the kernel has none", "use one with CONFIG_USER_NS for --userns and host mounts")
        }
    }
}

fn inotify() -> Line {
    match number("/proc/sys/fs/inotify/max_user_instances") {
        Some(most) if most < INOTIFY => warn(
            "inotify",
            format!("root has {most} instances, enough for some {} container steps at once", most.saturating_sub(28)),
            format!("for more: sysctl -w fs.inotify.max_user_instances={INOTIFY}, and in /etc/sysctl.d"),
        ),
        Some(most) => ok("inotify", format!("root has {most} instances")),
        None => warn("inotify", "the kernel has none: output is followed in turns", "use one with CONFIG_INOTIFY_USER"),
    }
}

fn cgroups(found: &[Hierarchy], unified: &str) -> Line {
    let v1 = |name: &str| found.iter().any(|one| one.controllers.iter().any(|controller| controller == name));
    let is_v1 = CONTROLLERS.iter().any(|name| v1(name));
    let has = |name: &&str| match is_v1 {
        true => v1(name),
        // v2 freezes without a controller.
        false => *name == "freezer" || unified.split_whitespace().any(|controller| controller == *name),
    };
    let missing: Vec<_> = CONTROLLERS.into_iter().filter(|name| !has(name)).collect();
    let layout = match (is_v1, found.iter().any(|one| one.controllers.is_empty())) {
        (true, true) => "v1, with a v2 tree beside it",
        (true, false) => "v1",
        (false, true) => "v2, which this version was not tested with on real runtimes",
        (false, false) => {
            return fail("cgroups", "no hierarchy is mounted", "mount them at /sys/fs/cgroup, as systemd does");
        }
    };
    if missing.is_empty() {
        return ok("cgroups", layout);
    }
    let text = format!("{layout}; without {}: such limits of jobs do not hold", missing.join(", "));
    warn("cgroups", text, "enable the controllers in the kernel's command line (cgroup_enable=…)")
}

/// Whether the kernel knows this file system.
pub fn knows_file_system(name: &str) -> bool {
    let text = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    text.lines().any(|line| line.split_whitespace().last() == Some(name)) || Path::new("/sys/fs").join(name).is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::line::Level;

    fn of(controllers: &[&[&str]], unified: &str) -> (Level, String) {
        let one = |names: &&[&str]| Hierarchy {
            mount: "/c".into(),
            controllers: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let found: Vec<_> = controllers.iter().map(one).collect();
        let line = cgroups(&found, unified);
        (line.level, line.found)
    }

    #[test]
    fn every_layout_is_named_and_what_lacks_is_told() {
        let all: [&[&str]; 4] = [&["cpu", "cpuacct"], &["cpuset"], &["memory"], &["freezer"]];
        assert_eq!(of(&all, ""), (Level::Ok, "v1".into()));
        assert_eq!(of(&[&all[..], &[&[]]].concat(), "hugetlb").0, Level::Ok);
        assert_eq!(of(&[&[]], "cpu cpuset memory io").0, Level::Ok);
        let (level, found) = of(&[&[]], "cpu cpuset io");
        assert!(level == Level::Warn && found.contains("without memory"), "{found}");
        assert_eq!(of(&[], "").0, Level::Fail);
    }
}
