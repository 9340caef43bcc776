//! Puts a container's init into a cgroup of its own, where one can be written.

use std::path::{Path, PathBuf};

/// The directories made for one container; they go with it.
#[derive(Default)]
pub struct Membership(Vec<PathBuf>);

impl Membership {
    /// Below `parent` as CRI gives it (relative to the cgroup root, but absolute in
    /// form), in every hierarchy; below `own`, in one, where there is none.
    pub fn enter(parent: &str, own: &str, id: &str, pid: u32) -> Self {
        let (parent, most) = if parent.is_empty() { (own, 1) } else { (parent, usize::MAX) };
        let entered = places(parent).map(|place| place.join(id)).filter(|place| {
            std::fs::create_dir_all(place).is_ok()
                && std::fs::write(place.join("cgroup.procs"), pid.to_string()).is_ok()
        });
        Self(entered.take(most).collect())
    }

    /// Removes them; the parents are craned's, or the fake's for longer.
    pub fn leave(&mut self) {
        self.0.retain(|place| std::fs::remove_dir(place).is_err());
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Removes the groups below `own` that are empty, save those of the containers named
/// by `keep`; returns those that are not.
pub fn sweep(own: &str, keep: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let groups = places(own).flat_map(|place| std::fs::read_dir(place).into_iter().flatten().flatten());
    groups
        .filter(|entry| entry.path().is_dir() && !keep(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .filter(|group| std::fs::remove_dir(group).is_err() && group.exists())
        .collect()
}

/// Removes `own` itself.
pub fn remove(own: &str) {
    for place in places(own) {
        let _ = std::fs::remove_dir(place);
    }
}

/// Where a group may be, one place per hierarchy.
fn places(group: &str) -> impl Iterator<Item = PathBuf> {
    let below = Path::new(group.trim_start_matches('/')).to_owned();
    hierarchies().into_iter().map(move |mount| mount.join(&below))
}

fn hierarchies() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let rows = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    rows.filter(|row| matches!(row.get(2), Some(&"cgroup" | &"cgroup2")))
        .filter_map(|row| Some(row.get(1)?.into()))
        .collect()
}
