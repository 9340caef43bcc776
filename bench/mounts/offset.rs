//! The peer: bindfs as CraneSched's own supervisor starts it, a daemon of root's that
//! shifts all ids by an offset.

use crate::user::TestUser;
use crate::{Result, processes, whole};
use nix::mount::{MntFlags, umount2};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For the table.
pub const NAME: &str = "bindfs by offset";

/// One such bindfs.
pub struct Offset {
    /// Where it is mounted.
    pub dir: PathBuf,
    /// From the start of the program until the mount is there.
    pub took: Duration,
}

impl Offset {
    /// Shows `source` at `dir`, with the user's ids as the user namespace's root.
    pub fn start(source: &Path, dir: &Path, user: &TestUser) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let took = whole::time(&[
            "bindfs",
            &format!("--uid-offset={}", user.subuids - user.uid),
            &format!("--gid-offset={}", user.subgids - user.gid),
            &format!("--create-for-user={}", user.uid),
            &format!("--create-for-group={}", user.gid),
            "-o",
            "allow_other",
            &source.to_string_lossy(),
            &dir.to_string_lossy(),
        ])?;
        Ok(Self { dir: dir.to_owned(), took })
    }

    /// Its process.
    pub fn pids(&self) -> Vec<u32> {
        processes::with_words(&["--uid-offset=", &self.dir.to_string_lossy()])
    }

    /// Unmounts it, which ends it.
    pub fn end(self) -> Result<Duration> {
        whole::time(&["fusermount3", "-u", &self.dir.to_string_lossy()])
    }
}

impl Drop for Offset {
    fn drop(&mut self) {
        // Not there any more after `end`.
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.dir);
    }
}
