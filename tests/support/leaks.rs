//! What a job must not leave behind, and the look for it.
//!
//! Called by [`super::job::Job`] when it is dropped, so no test can forget it.

use super::init::{MARK, Places};
use super::runtime::Runtime;
use super::wait;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A detached reaper may still be at work when the last supervisor has gone.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks for a reaper's directory.
const BETWEEN: Duration = Duration::from_millis(100);

/// Waits until nothing of `job` is left; after the limit, what is, one line each.
pub fn left_of(job: u32, places: &Places, runtime: Option<&Runtime>) -> Vec<String> {
    let mut left = Vec::new();
    wait::until(LIMIT, || {
        // The whole look costs much; before a reaper has removed the directory it is in vain.
        left = job_directory(&places.temp.join(job.to_string()));
        if !left.is_empty() {
            wait::pause(BETWEEN);
            return None;
        }
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
    left.extend(mount_directories(job, &places.mount_base));
    left.extend(cgroups(job).into_iter().map(|path| format!("cgroup {}", path.display())));
    left.extend(runtime.map(|rt| rt.left_of(job)).unwrap_or_default());
    left
}

/// Processes that carry the job's mark in their environment, or, since a helper may have
/// another one, name its directory in an argument or were given a part of it. Zombies aside.
fn processes(job: u32) -> Vec<(i32, String)> {
    let mark = format!("{MARK}={job}");
    let marked = |environ: Vec<u8>| environ.split(|b| *b == 0).any(|entry| entry == mark.as_bytes());
    let root = format!("/cs-{job}/");
    let text = |pid: i32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let pids =
        entries(Path::new("/proc")).into_iter().filter_map(|path| path.file_name()?.to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| {
        std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(marked)
            || text(pid, "cmdline").contains(&root)
            || text(pid, "mountinfo").lines().any(|line| shows(line, &root))
    })
    .map(|pid| (pid, text(pid, "cmdline").replace('\0', " ")))
    .collect()
}

/// Whether a line of mountinfo shows a part of `root` in another place. In its own place
/// it is in every copy of the node's mount table, other jobs' helpers' too.
fn shows(line: &str, root: &str) -> bool {
    let mut fields = line.split(' ').skip(3);
    let (shown, place) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    shown.contains(root) && !place.contains(root)
}

/// What stays below `MountBaseDir` of any step of the job.
fn mount_directories(job: u32, base: &Path) -> Vec<String> {
    let prefix = format!("{job}.");
    let ours = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    entries(base).into_iter().filter(ours).map(|path| format!("in MountBaseDir: {}", path.display())).collect()
}

/// Mount points at or below `root`, oldest first.
pub fn mounts(root: &Path) -> Vec<String> {
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

/// Cgroups named after the job, in every hierarchy; a container's has its id for a name.
pub fn cgroups(job: u32) -> Vec<PathBuf> {
    let number = job.to_string();
    let names_job =
        |name: &str| name.len() < 64 && name.split(|c: char| !c.is_ascii_digit()).any(|part| part == number);
    let mut found = Vec::new();
    let mut open: Vec<(PathBuf, u32)> = vec![("/sys/fs/cgroup".into(), 0)];
    while let Some((path, depth)) = open.pop() {
        if path.file_name().is_some_and(|n| names_job(&n.to_string_lossy())) {
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
