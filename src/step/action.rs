//! What the driver is told to do.

use crate::outcome::{Outcome, Verdict};
use crate::step::state::Stage;
use std::time::Duration;

/// What craned is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A container step is ready for ExecuteStep.
    Starting,
    /// The pod is up.
    PodRunning,
    /// The pod will not come up.
    PodFailed(Verdict),
    /// The end of the step.
    Final(Verdict),
}

/// Something about to be acquired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquisition {
    /// The pod sandbox and its record.
    Pod,
    /// The staged mounts.
    Mounts,
    /// The container.
    Container,
    /// The container's processes.
    Processes,
}

impl Action {
    /// Its name, for failpoints.
    pub fn name(&self) -> String {
        match self {
            Self::Report(_) => "Report".to_owned(),
            Self::StartLimits => "StartLimits".to_owned(),
            Self::Record(what) => format!("Record {what:?}"),
            Self::Begin(stage) => format!("Begin {stage:?}"),
            Self::Abandon => "Abandon".to_owned(),
            Self::Watch => "Watch".to_owned(),
            Self::Stop { .. } => "Stop".to_owned(),
            Self::Kill => "Kill".to_owned(),
            Self::Wait(_) => "Wait".to_owned(),
            Self::Drain => "Drain".to_owned(),
            Self::Keep(_) => "Keep".to_owned(),
            Self::Undo => "Undo".to_owned(),
            Self::HandOver => "HandOver".to_owned(),
            Self::Exit => "Exit".to_owned(),
        }
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Queue a report.
    Report(Report),
    /// Count the time limit from now.
    StartLimits,
    /// Write down, before the effect, what must be undone.
    Record(Acquisition),
    /// Begin a stage.
    Begin(Stage),
    /// Drop the stage under way; what it asked for may still happen.
    Abandon,
    /// Learn the container's end.
    Watch,
    /// TERM, then KILL after the grace.
    Stop {
        /// Time to end in.
        grace: Duration,
    },
    /// KILL, without the runtime if need be.
    Kill,
    /// Send `OutOfPatience` after this long; replaces the wait before it.
    Wait(Duration),
    /// Copy the output to its end.
    Drain,
    /// Put the outcome on disk.
    Keep(Outcome),
    /// Undo everything written down, last first.
    Undo,
    /// Leave the undoing to a detached reaper.
    HandOver,
    /// End the process.
    Exit,
}
