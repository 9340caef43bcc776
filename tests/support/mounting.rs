//! The ways a host path reaches a container, and what stands between.

use super::job::Job;
use super::runtime::{Runtime, on_each, on_each_with_userns};
use super::user::TestUser;
use std::path::{Path, PathBuf};

/// The system's own bindfs.
pub const BINDFS: &str = "bindfs";

/// How a mount is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// No user namespace: a plain bind.
    Plain,
    /// User namespace, mapped by the kernel.
    Idmapped,
    /// User namespace, mapped by the system's bindfs.
    Bindfs,
    /// The same by the newer one of the testbed.
    NewBindfs,
}

impl Engine {
    /// A job of `user` whose mounts are made this way; the container is root where it can be.
    pub fn job(self, runtime: &Runtime, user: &TestUser) -> Job {
        let job = Job::on(runtime).of(user);
        match self {
            Self::Plain => job,
            Self::Idmapped => job.with_userns(),
            Self::Bindfs => job.with_userns().with_bindfs(BINDFS),
            Self::NewBindfs => job.with_userns().with_bindfs(new_bindfs().expect("asked for only where it is")),
        }
    }

    /// What a file of the job's user and group looks like inside.
    pub fn inside(self, user: &TestUser) -> (u32, u32) {
        if self == Self::Plain { (user.uid, user.gid) } else { (0, 0) }
    }
}

/// Runs `test` with both engines of user namespaces, on every runtime that has these.
#[track_caller]
pub fn on_each_mapped(test: impl Fn(&Runtime, Engine) + Sync) {
    for engine in [Engine::Idmapped, Engine::Bindfs] {
        on_each_with_userns(|runtime| named(engine, || test(runtime, engine)));
    }
}

/// [`on_each_mapped`], and without user namespaces on every runtime.
#[track_caller]
pub fn on_each_engine(test: impl Fn(&Runtime, Engine) + Sync) {
    on_each(|runtime| named(Engine::Plain, || test(runtime, Engine::Plain)));
    on_each_mapped(test);
}

/// Says which engine it was where `test` fails.
fn named(engine: Engine, test: impl FnOnce()) {
    struct Tell(Engine);
    impl Drop for Tell {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with {:?}", self.0);
            }
        }
    }
    let tell = Tell(engine);
    test();
    drop(tell);
}

/// The testbed's newer bindfs, where it could be had.
pub fn new_bindfs() -> Option<PathBuf> {
    std::env::var_os("CRANE_TEST_BINDFS_NEW").map(PathBuf::from)
}

/// Processes named bindfs that act as `uid` and descend from process `ancestor`.
pub fn bindfs_below(ancestor: u32, uid: u32) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_bindfs = |pid: &u32| {
        status(*pid, "Name:").is_some_and(|name| name.starts_with("bindfs"))
            && status(*pid, "Uid:").is_some_and(|ids| ids.split_whitespace().next() == Some(&uid.to_string()))
    };
    pids.filter(is_bindfs).filter(|pid| descends(*pid, ancestor)).filter_map(|pid| i32::try_from(pid).ok()).collect()
}

fn descends(mut pid: u32, ancestor: u32) -> bool {
    while pid > 1 {
        if pid == ancestor {
            return true;
        }
        pid = status(pid, "PPid:").and_then(|parent| parent.parse().ok()).unwrap_or(0);
    }
    false
}

fn status(pid: u32, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(text.lines().find_map(|line| line.strip_prefix(field))?.trim().to_owned())
}

/// Every path at and below `dir`, links not followed.
pub fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let path = found[next].clone();
        if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            found.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        next += 1;
    }
    found
}

/// Does the run ask for the long size of heavy tests?
pub fn is_long() -> bool {
    std::env::var("CRANE_TEST_SIZE").is_ok_and(|size| size == "long")
}
