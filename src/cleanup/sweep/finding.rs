//! One thing a dead supervisor left, and what became of it.

use crate::cleanup::entry::Entry;
use crate::ids::StepId;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The job's pod.
    Pod,
    /// The step's container.
    Container,
    /// The container's processes.
    Processes,
    /// The step's mounts.
    Mounts,
    /// A runtime's own groups for a job.
    Cgroup,
    /// The pod's record.
    PodRecord,
    /// A control socket.
    Socket,
    /// The step's directory.
    Directory,
    /// A journal.
    Journal,
    /// The runtime itself, which could not be asked.
    Runtime,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum Fate {
    /// It is gone.
    Undone,
    /// It would be undone, were this not a dry run.
    WouldUndo,
    /// It is still there.
    NotUndone {
        /// Why.
        reason: String,
    },
}

/// One thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whose.
    pub job: Option<u32>,
    /// Whose.
    pub step: Option<u32>,
    /// What it is.
    pub kind: Kind,
    /// Where it is, or by which labels it is found.
    pub what: String,
    /// What became of it.
    #[serde(flatten)]
    pub fate: Fate,
}

impl Finding {
    /// A thing of a step.
    pub fn of(id: StepId, kind: Kind, what: impl Into<String>, fate: Fate) -> Self {
        Self { job: Some(id.job), step: Some(id.step), kind, what: what.into(), fate }
    }

    /// A thing that stays.
    pub fn stays(id: StepId, kind: Kind, what: &Path, reason: &impl ToString) -> Self {
        Self::of(id, kind, what.display().to_string(), Fate::NotUndone { reason: reason.to_string() })
    }

    /// Whether it is still there although it should not be.
    pub fn is_left(&self) -> bool {
        matches!(self.fate, Fate::NotUndone { .. })
    }
}

/// Kind and description of a journal's entry.
pub fn describe(entry: &Entry) -> (Kind, String) {
    match entry {
        Entry::Socket { path } => (Kind::Socket, path.display().to_string()),
        Entry::Pod { labels } => (Kind::Pod, selector(labels)),
        Entry::Container { labels } => (Kind::Container, selector(labels)),
        Entry::Processes { container, .. } => (Kind::Processes, format!("of container {container}")),
        Entry::JobCgroup { group } => (Kind::Cgroup, group.clone().unwrap_or_default()),
        Entry::PodRecord { files } => (Kind::PodRecord, paths(files)),
        Entry::Mounts { dirs, cgroup: _ } => (Kind::Mounts, paths(dirs)),
    }
}

fn paths(paths: &[std::path::PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}

/// As `crictl --label` takes them.
fn selector(labels: &HashMap<String, String>) -> String {
    let sorted: BTreeMap<_, _> = labels.iter().collect();
    sorted.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Container => "container",
            Self::Processes => "processes",
            Self::Mounts => "mounts",
            Self::Cgroup => "cgroup",
            Self::PodRecord => "pod record",
            Self::Socket => "socket",
            Self::Directory => "directory",
            Self::Journal => "journal",
            Self::Runtime => "runtime",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match (self.job, self.step) {
            (Some(job), Some(step)) => format!("step {job}.{step}: "),
            (Some(job), None) => format!("job {job}: "),
            (None, _) => String::new(),
        };
        let (verb, reason) = match &self.fate {
            Fate::Undone => ("undone", None),
            Fate::WouldUndo => ("would undo", None),
            Fate::NotUndone { reason } => ("not undone", Some(reason)),
        };
        write!(f, "{whose}{verb}: {} {}", self.kind, self.what)?;
        reason.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_for_people_and_one_object_for_programs() {
        let id = StepId { job: 7, step: 1 };
        let left = Finding::stays(id, Kind::Mounts, Path::new("/t/m"), &"busy");
        assert_eq!(left.to_string(), "step 7.1: not undone: mounts /t/m: busy");
        assert!(left.is_left());
        let json = serde_json::to_value(&left).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"job": 7, "step": 1, "kind": "mounts", "what": "/t/m", "result": "not_undone", "reason": "busy"})
        );
        let labels = crate::cri::labels::pod_selector(7, 8);
        assert_eq!(describe(&Entry::Pod { labels }), (Kind::Pod, "cranesched=true,job_id=7,uid=8".into()));
    }
}
