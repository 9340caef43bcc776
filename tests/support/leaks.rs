//! What a job must not leave behind, and the look for it.
//!
//! Called by [`super::job::Job`] when it is dropped, so no test can forget it.

use super::init::{MARK, Places};
use super::runtime::Runtime;
use super::wait;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A detached reaper may still be at work when the last supervisor has gone.
const LIMIT: Duration = Duration::from_secs(45);

/// Waits until nothing of `job` is left; after the limit, what is, one line each.
pub fn left_of(job: u32, places: &Places, runtime: Option<&Runtime>) -> Vec<String> {
    let mut left = Vec::new();
    wait::until(LIMIT, || {
        left = look(job, places, runtime);
        left.is_empty().then_some(())
    });
    left
}

/// Kills every process of `job`, after a test failed.
pub fn kill_processes(job: u32) {
    for (pid, _) in processes(job) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

fn look(job: u32, places: &Places, runtime: Option<&Runtime>) -> Vec<String> {
    let mut left: Vec<String> =
        processes(job).into_iter().map(|(pid, what)| format!("process {pid}: {what}")).collect();
    left.extend(mounts(&places.root).into_iter().map(|path| format!("mount {path}")));
    left.extend(sockets(job).into_iter().map(|path| format!("socket {}", path.display())));
    left.extend(job_directory(&places.temp.join(job.to_string())));
    left.extend(cgroups(job).into_iter().map(|path| format!("cgroup {}", path.display())));
    left.extend(runtime.map(|rt| rt.left_of(job)).unwrap_or_default());
    left
}

/// Processes that carry the job's mark in their environment, zombies aside.
fn processes(job: u32) -> Vec<(i32, String)> {
    let mark = format!("{MARK}={job}");
    let marked = |environ: Vec<u8>| environ.split(|b| *b == 0).any(|entry| entry == mark.as_bytes());
    let pids =
        entries(Path::new("/proc")).into_iter().filter_map(|path| path.file_name()?.to_str()?.parse::<i32>().ok());
    pids.filter(|pid| std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(marked))
        .map(|pid| {
            (pid, std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " "))
        })
        .collect()
}

fn mounts(root: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(root)).map(String::from).collect()
}

fn sockets(job: u32) -> Vec<PathBuf> {
    let prefix = format!("step_{job}.");
    let ours = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    entries(Path::new(super::supervisor::SOCKET_DIR)).into_iter().filter(ours).collect()
}

fn job_directory(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop().filter(|path| path.symlink_metadata().is_ok()) {
        open.extend(entries(&path));
        found.push(format!("in TempDir: {}", path.display()));
    }
    found
}

/// Cgroups named after the job, in every hierarchy.
pub fn cgroups(job: u32) -> Vec<PathBuf> {
    let name = format!("job_{job}");
    let mut found = Vec::new();
    let mut open: Vec<(PathBuf, u32)> = vec![("/sys/fs/cgroup".into(), 0)];
    while let Some((path, depth)) = open.pop() {
        if path.file_name().is_some_and(|n| n.to_string_lossy() == name) {
            found.push(path);
        } else if depth < 4 && path.is_dir() {
            open.extend(entries(&path).into_iter().map(|entry| (entry, depth + 1)));
        }
    }
    found
}

fn entries(path: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(path).map(|dir| dir.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}
