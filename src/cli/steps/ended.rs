//! Steps that have ended, by their final records.

use crate::cli::steps::{Places, State, Step};
use crate::ids::StepId;
use crate::outcome::Verdict;
use crate::report::record::Record;
use crate::sys::files;
use std::fs;
use std::io;

/// A record has some kilobytes.
const MAX_BYTES: u64 = 1 << 20;

/// All of them, of `job` only where given; and a line for each that cannot be read.
pub fn all(places: &Places, job: Option<u32>) -> (Vec<Step>, Vec<String>) {
    let dir = places.log_dir.path();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), Vec::new()),
        Err(error) => return (Vec::new(), vec![format!("cannot read {}: {error}", dir.display())]),
    };
    let id = |name: String| name.strip_suffix(".json")?.parse::<StepId>().ok();
    let mut ids: Vec<_> = entries.flatten().filter_map(|entry| id(entry.file_name().into_string().ok()?)).collect();
    ids.retain(|id| job.is_none_or(|only| only == id.job));
    ids.sort_unstable();
    let (mut steps, mut problems) = (Vec::new(), Vec::new());
    for id in ids {
        match read(places, id) {
            Ok(record) => steps.extend(record.map(|record| of(id, record))),
            Err(problem) => problems.push(problem),
        }
    }
    (steps, problems)
}

/// The final record of a step; `None` where it has none.
pub fn read(places: &Places, id: StepId) -> Result<Option<Record>, String> {
    let path = places.log_dir.record(id);
    let bytes = match files::read_limited(&path, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == Some(io::ErrorKind::NotFound) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let record = serde_json::from_slice(&bytes);
    record.map(Some).map_err(|error| format!("cannot understand the record {}: {error}", path.display()))
}

/// What a record says of its step.
pub fn of(id: StepId, record: Record) -> Step {
    let mut step = Step::new(id, State::Ended, status(&record.verdict));
    step.uid = Some(record.uid);
    step.image = record.image.map(|image| image.reference);
    step.since = record.phases.last().map(|phase| phase.begun.clone());
    step.memory_bytes = record.usage.and_then(|usage| usage.memory_peak_bytes);
    step.exit_code = Some(record.verdict.exit_code);
    step.reason = Some(record.verdict.reason).filter(|reason| !reason.is_empty());
    step
}

/// `Completed`, `Failed(7)`: craned's status, and its code where it is not 0.
pub fn status(verdict: &Verdict) -> String {
    match verdict.exit_code {
        0 => format!("{:?}", verdict.status),
        code => format!("{:?}({code})", verdict.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::FinalStatus;

    #[test]
    fn a_code_is_shown_where_it_says_something() {
        let verdict = |status, exit_code| Verdict { status, exit_code, reason: String::new() };
        assert_eq!(status(&verdict(FinalStatus::Completed, 0)), "Completed");
        assert_eq!(status(&verdict(FinalStatus::Cancelled, 271)), "Cancelled(271)");
    }
}
