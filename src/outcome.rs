//! How a step ended, and what craned is told about it.
//!
//! Pure. An end that could not be learnt is a value of its own (`Lost`), never
//! 0 and never a made-up 255.

use crate::exit_code;
use serde::{Deserialize, Serialize};

/// How the container's init ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It called exit with this code.
    Exited(u8),
    /// This signal killed it.
    Signalled(u8),
}

impl End {
    /// craned's exit code for this end.
    pub fn code(self) -> u32 {
        match self {
            Self::Exited(code) => u32::from(code),
            Self::Signalled(signal) => exit_code::of_signal(i32::from(signal)),
        }
    }
}

/// Why a step was asked to stop before its own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The user or the scheduler (pre-emption) cancelled it.
    Cancelled,
    /// The time limit was reached.
    TimeLimit,
    /// The absolute deadline was reached.
    Deadline,
    /// The front end that owned the step went away.
    FrontendGone,
    /// craned ends the job in the ordinary way.
    JobEnd,
    /// A mount of the container was lost.
    MountLost,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The container ended by itself.
    Ended(End),
    /// The kernel killed it for memory.
    OutOfMemory(End),
    /// It was stopped; `end` is the container's own end where there was one.
    Stopped {
        /// Who or what stopped it.
        cause: Cause,
        /// The container's end, if it ran and its end is known.
        end: Option<End>,
    },
    /// It was stopped because a mount was lost.
    MountLost {
        /// Which, and how.
        reason: String,
        /// As of [`Outcome::Stopped`].
        end: Option<End>,
    },
    /// It was stopped before ExecuteStep.
    NeverExecuted {
        /// Who or what stopped it.
        cause: Cause,
    },
    /// It never ran.
    Failed {
        /// craned's code for the phase that failed.
        code: u32,
        /// One line for the user.
        reason: String,
    },
    /// It ran, and how it ended cannot be learnt.
    Lost {
        /// Why not.
        reason: String,
    },
    /// A pod step whose pod was up until the job's end.
    PodEnded,
}

/// craned's word for the end of a step (`JobStatus`, the values that can be final).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FinalStatus {
    /// Exit code 0.
    Completed,
    /// Everything that has no better word.
    Failed,
    /// Stopped by the time limit.
    ExceedTimeLimit,
    /// Cancelled.
    Cancelled,
    /// Killed for memory.
    OutOfMemory,
    /// Stopped by the deadline.
    Deadline,
}

/// What craned is told: the final part of a `StepStatusChange`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// craned's final status.
    pub status: FinalStatus,
    /// craned's exit code.
    pub exit_code: u32,
    /// One line for the user; empty where the code says it all.
    pub reason: String,
}

impl Verdict {
    /// The same, with something the user should know beside it.
    pub fn with_remark(mut self, remark: &str) -> Self {
        self.reason.push_str(if self.reason.is_empty() { "" } else { "; " });
        self.reason.push_str(remark);
        self
    }
}

impl Outcome {
    /// What it is once a stop came first: the stop explains the end, except where the
    /// kernel ran out of memory before or nothing is known of the end.
    pub fn after_stop(self, cause: Cause) -> Self {
        match self {
            Self::Ended(end) => Self::Stopped { cause, end: Some(end) },
            Self::Stopped { end, .. } | Self::MountLost { end, .. } => Self::Stopped { cause, end },
            Self::Lost { .. } | Self::Failed { .. } | Self::NeverExecuted { .. } | Self::PodEnded => {
                Self::Stopped { cause, end: None }
            }
            Self::OutOfMemory(end) => Self::OutOfMemory(end),
        }
    }

    /// [`Outcome::after_stop`], where the end may be unknown.
    pub fn of_stop(cause: Cause, end: Option<Self>) -> Self {
        end.map_or(Self::Stopped { cause, end: None }, |end| end.after_stop(cause))
    }

    /// With the lost mount that was the cause of a stop.
    pub fn naming(self, lost_mount: Option<&str>) -> Self {
        match (self, lost_mount) {
            (Self::Stopped { cause: Cause::MountLost, end }, Some(reason)) => {
                Self::MountLost { reason: reason.to_owned(), end }
            }
            (outcome, _) => outcome,
        }
    }

    /// The outcome in craned's words.
    pub fn verdict(&self) -> Verdict {
        let verdict = |status, exit_code, reason: &str| Verdict { status, exit_code, reason: reason.to_owned() };
        match self {
            Self::Ended(End::Exited(0)) | Self::PodEnded => verdict(FinalStatus::Completed, 0, ""),
            Self::Ended(end) => verdict(FinalStatus::Failed, end.code(), ""),
            Self::OutOfMemory(end) => verdict(FinalStatus::OutOfMemory, end.code(), "killed: out of memory"),
            Self::Stopped { cause, end } => stopped(*cause, *end),
            Self::MountLost { reason, end } => Verdict { reason: reason.clone(), ..stopped(Cause::MountLost, *end) },
            Self::NeverExecuted { cause: cause @ (Cause::FrontendGone | Cause::TimeLimit | Cause::Deadline) } => {
                stopped(*cause, None)
            }
            // Nothing ran, so nothing has an exit code (craned contract).
            Self::NeverExecuted { cause: Cause::Cancelled | Cause::JobEnd | Cause::MountLost } => {
                verdict(FinalStatus::Cancelled, 0, "")
            }
            Self::Failed { code, reason } => verdict(FinalStatus::Failed, *code, reason),
            Self::Lost { reason } => verdict(FinalStatus::Failed, exit_code::RPC_ERROR, reason),
        }
    }
}

fn stopped(cause: Cause, end: Option<End>) -> Verdict {
    let own = end.map_or(exit_code::TERMINATED, End::code);
    let (status, exit_code, reason) = match cause {
        Cause::Cancelled => (FinalStatus::Cancelled, own, ""),
        Cause::TimeLimit => (FinalStatus::ExceedTimeLimit, exit_code::TIME_LIMIT, "time limit reached"),
        Cause::Deadline => (FinalStatus::Deadline, exit_code::DEADLINE, "deadline reached"),
        Cause::FrontendGone => (FinalStatus::Failed, own, "Cfored connection failure"),
        Cause::JobEnd if own == 0 => (FinalStatus::Completed, 0, ""),
        Cause::JobEnd => (FinalStatus::Failed, own, ""),
        Cause::MountLost if own == 0 => (FinalStatus::Failed, exit_code::PREPARATION_FAILED, "a mount was lost"),
        Cause::MountLost => (FinalStatus::Failed, own, "a mount was lost"),
    };
    Verdict { status, exit_code, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_pass_and_signals_shift() {
        assert_eq!(Outcome::Ended(End::Exited(130)).verdict().exit_code, 130);
        assert_eq!(Outcome::Ended(End::Signalled(9)).verdict().exit_code, 265);
        assert_eq!(Outcome::Ended(End::Exited(0)).verdict().status, FinalStatus::Completed);
        assert_eq!(Outcome::Ended(End::Exited(1)).verdict().status, FinalStatus::Failed);
    }

    #[test]
    fn a_cancel_reports_the_containers_own_end_or_320() {
        let cancel = |end| Outcome::Stopped { cause: Cause::Cancelled, end }.verdict();
        assert_eq!(cancel(Some(End::Signalled(15))).exit_code, 271);
        assert_eq!(cancel(None).exit_code, 320);
        assert_eq!(cancel(None).status, FinalStatus::Cancelled);
    }

    #[test]
    fn an_unknown_end_is_never_a_success() {
        let verdict = Outcome::Lost { reason: "the runtime forgot it".into() }.verdict();
        assert_eq!((verdict.status, verdict.exit_code), (FinalStatus::Failed, 328));
        assert!(!verdict.reason.is_empty());
    }
}
