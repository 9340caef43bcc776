//! Puts a container's init below its cgroup parent, where that can be written.

use std::path::{Path, PathBuf};

/// The directories made for one container.
#[derive(Default)]
pub struct Membership(Vec<PathBuf>);

impl Membership {
    /// `parent` as CRI gives it: relative to the cgroup root, but absolute in form.
    pub fn enter(parent: &str, id: &str, pid: u32) -> Self {
        let below = Path::new(parent.trim_start_matches('/')).join(id);
        let places = hierarchies().into_iter().map(|mount| mount.join(&below));
        let entered = places.filter(|place| {
            std::fs::create_dir_all(place).is_ok()
                && std::fs::write(place.join("cgroup.procs"), pid.to_string()).is_ok()
        });
        Self(if parent.is_empty() { Vec::new() } else { entered.collect() })
    }

    /// Removes them; the parents are craned's.
    pub fn leave(&mut self) {
        for place in self.0.drain(..) {
            let _ = std::fs::remove_dir(place);
        }
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let rows = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    rows.filter(|row| matches!(row.get(2), Some(&"cgroup" | &"cgroup2")))
        .filter_map(|row| Some(row.get(1)?.into()))
        .collect()
}
