//! What a job's end means to whoever called: an exit code and words.
//!
//! Pure. A container's own end passes through and needs no words.

use crate::cli::run::CANNOT_RUN;
use crate::exit_code;
use crate::local::{Ended, Ending, LocalError};
use crate::logs::show::LastLine;
use crate::outcome::FinalStatus;
use serde::Serialize;

/// Exit code of `timeout`, for the time limit and the deadline.
const TIMED_OUT: u8 = 124;

/// What a shell shows for Ctrl-C, for a job cancelled before its container had an end.
const CANCELLED: u8 = 130;

/// An exit code, and what has to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Our exit code.
    pub code: u8,
    /// Lines for stderr.
    pub words: Vec<String>,
}

/// The verdict on `end`.
pub fn of(end: &Result<Ended, LocalError>) -> Verdict {
    match end {
        Ok(ended) => of_ended(ended),
        Err(error) => Verdict { code: CANNOT_RUN, words: vec![error.to_string()] },
    }
}

fn of_ended(ended: &Ended) -> Verdict {
    let own = exit_code::as_shell(ended.exit_code);
    let or = |text: &str| {
        if ended.reason.is_empty() { text.to_owned() } else { ended.reason.clone() }
    };
    let verdict = |code, words: String| Verdict { code, words: vec![words] };
    match (ended.status, own) {
        (FinalStatus::ExceedTimeLimit, _) => verdict(TIMED_OUT, or("time limit reached")),
        (FinalStatus::Deadline, _) => verdict(TIMED_OUT, or("deadline reached")),
        (FinalStatus::Cancelled, own) => verdict(own.unwrap_or(CANCELLED), or("cancelled")),
        (FinalStatus::OutOfMemory, own) => verdict(own.unwrap_or(CANNOT_RUN), or("killed: out of memory")),
        (FinalStatus::Completed, Some(own)) => Verdict { code: own, words: Vec::new() },
        // A failure with a code of 0 is none of the container's.
        (_, Some(own @ 1..)) => Verdict { code: own, words: said(&ended.reason) },
        (status, _) => {
            let text = format!("the job ended as {status:?} with craned's code {}", ended.exit_code);
            verdict(CANNOT_RUN, or(&text))
        }
    }
}

fn said(reason: &str) -> Vec<String> {
    if reason.is_empty() { Vec::new() } else { vec![reason.to_owned()] }
}

#[derive(Serialize)]
struct Summary<'a> {
    job: u32,
    status: FinalStatus,
    /// craned's code; `None` where no step could tell.
    craned_exit_code: Option<u32>,
    exit_code: u8,
    reason: Option<String>,
    trouble: &'a [String],
    kept: Vec<String>,
    seconds: f64,
}

/// One JSON object on a line of its own, for `--json`.
pub fn json(ending: &Ending, verdict: &Verdict) -> String {
    let ended = ending.end.as_ref().ok();
    let summary = Summary {
        job: ending.job,
        status: ended.map_or(FinalStatus::Failed, |ended| ended.status),
        craned_exit_code: ended.map(|ended| ended.exit_code),
        exit_code: verdict.code,
        reason: verdict.words.first().cloned(),
        trouble: &ending.trouble,
        kept: ending.kept.iter().map(|path| path.display().to_string()).collect(),
        seconds: ending.took.as_secs_f64(),
    };
    // Numbers and text only: there is nothing in it that JSON could not hold.
    let object = serde_json::to_string(&summary).unwrap_or_default();
    match ending.last_line {
        LastLine::Complete => format!("{object}\n"),
        // The container's output stopped within a line.
        LastLine::Open => format!("\n{object}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn code(status: FinalStatus, exit_code: u32) -> u8 {
        of_ended(&Ended { status, exit_code, reason: String::new() }).code
    }

    #[test]
    fn a_containers_own_end_passes_through() {
        assert_eq!(code(FinalStatus::Completed, 0), 0);
        assert_eq!(code(FinalStatus::Failed, 7), 7);
        assert_eq!(code(FinalStatus::Failed, 130), 130);
        assert_eq!(code(FinalStatus::Failed, 265), 137);
        assert_eq!(code(FinalStatus::OutOfMemory, 265), 137);
        assert!(of_ended(&Ended { status: FinalStatus::Failed, exit_code: 7, reason: String::new() }).words.is_empty());
    }

    #[test]
    fn limits_cancels_and_failures_have_their_own() {
        assert_eq!(code(FinalStatus::ExceedTimeLimit, exit_code::TIME_LIMIT), 124);
        assert_eq!(code(FinalStatus::Deadline, exit_code::DEADLINE), 124);
        assert_eq!(code(FinalStatus::Cancelled, exit_code::TERMINATED), 130);
        assert_eq!(code(FinalStatus::Cancelled, 271), 143);
        for failed in [exit_code::PREPARATION_FAILED, exit_code::SPAWN_FAILED, exit_code::RPC_ERROR] {
            assert_eq!(code(FinalStatus::Failed, failed), 125);
        }
        assert_eq!(code(FinalStatus::Failed, 0), 125, "a failure is never a success");
    }

    #[test]
    fn the_json_object_is_one_line() {
        let end = Ok(Ended { status: FinalStatus::Failed, exit_code: 323, reason: "no \"image\"\nhere".into() });
        let ending = Ending {
            job: 7,
            end,
            trouble: vec![],
            kept: vec!["/a b".into()],
            last_line: LastLine::Complete,
            took: Duration::from_millis(1500),
        };
        let text = json(&ending, &of(&ending.end));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert_eq!((&value["exit_code"], &value["craned_exit_code"]), (&125.into(), &323.into()));
        assert_eq!(value["reason"], "no \"image\"\nhere");
    }
}
