//! How much memory a cgroup uses, and how many of its processes were killed for
//! memory, as the kernel counts.
//!
//! v1 counts a kill in the group of the process that died; v2 there and in every
//! group above. Both count whichever limit it was: the group's own, one above,
//! or the node's. The count stands before the signal is sent. It cannot be read
//! any more once the group is removed (ENODEV), held open or not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const V1: &str = "memory.oom_control";
const V2: &str = "memory.events";
/// Both files have some 150 bytes at most.
const ROOM: usize = 512;

/// The counter of one group, held open.
#[derive(Debug)]
pub struct OomCounter {
    file: File,
    counts_below: bool,
}

impl OomCounter {
    /// Opens the counter of the group at `dir`, in whichever hierarchy has it there.
    ///
    /// # Errors
    /// If there is none: no such group, or no memory controller in this hierarchy.
    pub fn open(dir: &Path) -> io::Result<Self> {
        match File::open(dir.join(V1)) {
            Ok(file) => Ok(Self { file, counts_below: false }),
            Err(_not_v1) => Ok(Self { file: File::open(dir.join(V2))?, counts_below: true }),
        }
    }

    /// Whether it counts the groups below as well, as v2 does.
    pub fn counts_below(&self) -> bool {
        self.counts_below
    }

    /// How many processes were killed since the group was made.
    ///
    /// # Errors
    /// ENODEV once the group is removed; `InvalidData` from kernels that do not count (before 4.13).
    pub fn read(&self) -> io::Result<u64> {
        let mut text = [0; ROOM];
        let length = self.file.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text[..length]);
        let mut values = text.lines().filter_map(|line| line.strip_prefix("oom_kill "));
        let value = values.next().and_then(|value| value.trim().parse().ok());
        value.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no oom_kill counter"))
    }
}

/// Bytes of memory that `group` uses now, page cache included; `None` where no hierarchy tells.
pub fn in_use(group: &str) -> Option<u64> {
    let dirs = super::hierarchies().ok()?.into_iter();
    let dirs = dirs.map(|hierarchy| hierarchy.mount.join(group.trim_start_matches('/')));
    let files = dirs.flat_map(|dir| ["memory.usage_in_bytes", "memory.current"].map(|name| dir.join(name)));
    files.filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok()).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::files::scratch::Dir;
    use std::fs;

    #[test]
    fn both_forms_are_read() {
        let dir = Dir::new();
        let dir = dir.path();
        assert!(OomCounter::open(dir).is_err());
        fs::write(dir.join(V2), "low 0\nhigh 0\nmax 92\noom 7\noom_kill 2\noom_group_kill 1\n").unwrap();
        let v2 = OomCounter::open(dir).unwrap();
        assert_eq!((v2.read().unwrap(), v2.counts_below()), (2, true));
        fs::write(dir.join(V1), "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n").unwrap();
        let v1 = OomCounter::open(dir).unwrap();
        assert_eq!((v1.read().unwrap(), v1.counts_below()), (3, false));
        fs::write(dir.join(V1), "oom_kill_disable 0\nunder_oom 0\n").unwrap();
        assert_eq!(v1.read().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
