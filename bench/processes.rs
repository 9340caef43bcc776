//! What /proc says of a process: its own memory, threads and wake-ups.

use crate::Result;
use std::collections::HashMap;
use std::fs;

/// A process at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// KiB nobody else has.
    pub private: f64,
    /// KiB, what is shared counted in parts.
    pub pss: f64,
    /// Threads.
    pub threads: f64,
    /// Context switches of each thread so far.
    switches: HashMap<String, u64>,
}

/// Looks at a process. Its counters first: reading memory maps may delay it.
pub fn look(pid: u32) -> Result<Look> {
    let mut switches = HashMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        let status = fs::read_to_string(task.path().join("status"))?;
        let count = field(&status, "voluntary_ctxt_switches") + field(&status, "nonvoluntary_ctxt_switches");
        switches.insert(task.file_name().to_string_lossy().into_owned(), count);
    }
    let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = |name| field(&memory, name) as f64;
    Ok(Look {
        private: kib("Private_Clean") + kib("Private_Dirty"),
        pss: kib("Pss"),
        threads: switches.len() as f64,
        switches,
    })
}

impl Look {
    /// Times a thread was scheduled since `earlier`.
    pub fn wake_ups_since(&self, earlier: &Self) -> f64 {
        let since = self
            .switches
            .iter()
            .map(|(task, count)| count.saturating_sub(earlier.switches.get(task).copied().unwrap_or_default()));
        since.sum::<u64>() as f64
    }
}

/// Processes named `name` that `parent` started.
pub fn children(parent: u32, name: &str) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let is = |key: &str, value: &str| {
            status.lines().filter_map(|line| line.strip_prefix(key)).any(|rest| rest.trim() == value)
        };
        is("Name:", name) && is("PPid:", &parent.to_string())
    };
    pids().filter(is_child).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Processes whose command line has all of `words`.
pub fn with_words(words: &[&str]) -> Vec<u32> {
    let has_all = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        words.iter().all(|word| line.contains(word))
    };
    pids().filter(has_all).collect()
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
