//! Steps that have a supervisor, and those whose supervisor was killed.

use crate::cleanup::claim;
use crate::cleanup::entry::{Entry, Header};
use crate::cleanup::sweep::{numbers_in, socket};
use crate::cleanup::{journal, reaper};
use crate::cli::steps::{Places, State, Step, written};
use crate::ids::StepId;
use crate::layout::{self, StepDir};
use crate::local::grpc;
use crate::sys::cgroup::memory;
use crate::sys::process;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a supervisor may take to answer from memory; one that is frozen never does.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Every step with a control socket or a directory, of `job` only where given; and a line for each
/// directory that cannot be read.
pub fn ids(places: &Places, job: Option<u32>) -> (BTreeSet<StepId>, Vec<String>) {
    let mut found: BTreeSet<StepId> = socket::steps().into_iter().collect();
    let mut problems = Vec::new();
    for temp in &places.temp_dirs {
        for job in numbers(temp.path(), &mut problems) {
            let steps = numbers(&temp.job(job).steps(), &mut problems);
            found.extend(steps.into_iter().map(|step| StepId { job, step }));
        }
    }
    found.retain(|id| job.is_none_or(|only| only == id.job));
    (found, problems)
}

fn numbers(dir: &Path, problems: &mut Vec<String>) -> Vec<u32> {
    numbers_in(dir).unwrap_or_else(|error| {
        problems.push(error.to_string());
        Vec::new()
    })
}

/// Looks at all of them at once, in their order.
pub async fn look(places: &Places, ids: BTreeSet<StepId>) -> Vec<Step> {
    let places = Arc::new(places.clone());
    let mut looks = JoinSet::new();
    for id in ids {
        let places = Arc::clone(&places);
        looks.spawn(async move { look_at(&places, id).await });
    }
    let mut steps: Vec<Step> = looks.join_all().await.into_iter().flatten().collect();
    steps.sort_unstable_by_key(Step::id);
    steps
}

/// One step; `None` where nothing is there, or nothing any more.
pub async fn look_at(places: &Places, id: StepId) -> Option<Step> {
    let (path, dir) = (layout::socket(id), places.dir(id));
    let has_socket = socket::is_socket(&path);
    if has_socket && let Ok(Ok(presence)) = timeout(ANSWER_LIMIT, grpc::check(id)).await {
        let mut step = Step::new(id, State::Live, presence.status);
        step.pid = Some(presence.pid);
        step.since = process::started(presence.pid).ok().map(written);
        return Some(with_journal(step, dir.as_ref()));
    }
    let step = match &dir {
        Some(dir) if claim::is_held(dir).unwrap_or(false) => held(id, dir),
        Some(dir) if dir.path().is_dir() => {
            let mut step = Step::new(id, State::LeftOver, "LeftOver");
            step.since = fs::metadata(dir.journal()).and_then(|found| found.modified()).ok().map(written);
            step
        }
        // Removed while we looked: it has ended.
        Some(_) => return None,
        None if has_socket && socket::is_dead(&path).await => Step::new(id, State::LeftOver, "DeadSocket"),
        None if socket::is_socket(&path) => Step::new(id, State::Live, "NoAnswer"),
        None => return None,
    };
    Some(with_journal(step, dir.as_ref()))
}

/// A lock without an answer: a reaper's, or that of a supervisor that is frozen or hangs.
fn held(id: StepId, dir: &StepDir) -> Step {
    match reaper_of(dir) {
        Some(pid) => Step { pid: Some(pid), ..Step::new(id, State::LeftOver, "Reaping") },
        None => Step::new(id, State::Live, "NoAnswer"),
    }
}

/// The reaper that signed the lock, if it still is one.
fn reaper_of(dir: &StepDir) -> Option<i32> {
    let pid = fs::read_to_string(dir.lock()).ok()?.trim().parse().ok()?;
    let arguments = process::arguments_of(pid).ok()?;
    let is_ours = arguments.get(1).is_some_and(|word| word == reaper::COMMAND)
        && arguments.last().is_some_and(|last| Path::new(last) == dir.path());
    is_ours.then_some(pid)
}

fn with_journal(mut step: Step, dir: Option<&StepDir>) -> Step {
    let Some((header, entries)) = dir.and_then(|dir| journal::read(&dir.journal()).ok()) else { return step };
    let Header { about, .. } = header;
    step.uid = about.uid;
    step.image = about.image;
    step.memory_bytes = groups(&entries).iter().find_map(|group| memory::in_use(group));
    step
}

/// Where the processes of the step's container are or would be.
pub fn groups(entries: &[Entry]) -> Vec<String> {
    let of = |entry: &Entry| match entry {
        Entry::Processes { cgroups, .. } => cgroups.clone(),
        Entry::Socket { .. }
        | Entry::Pod { .. }
        | Entry::JobCgroup { .. }
        | Entry::PodRecord { .. }
        | Entry::Mounts { .. }
        | Entry::Container { .. } => Vec::new(),
    };
    entries.iter().rev().flat_map(of).collect()
}
