//! What can happen to a step.

use crate::outcome::{Cause, Outcome};
use crate::spec::Rejection;
use crate::step::state::Stage;

/// Why a stage failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// craned's exit code.
    pub code: u32,
    /// One line for the user.
    pub reason: String,
    /// What the stage asked for may still appear: the runtime's answer did not come.
    pub unsettled: bool,
    /// Nothing of the user's ran, by the runtime's own fault: from Create on it may be tried again.
    pub again: bool,
    /// The same, for a runtime that cannot be told which mounts are read-only.
    pub untold: bool,
}

impl Failure {
    /// A failure that leaves nothing open.
    pub fn new(code: u32, reason: impl std::fmt::Display) -> Self {
        Self { code, reason: reason.to_string(), unsettled: false, again: false, untold: false }
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.code, rejection.reason)
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// ExecuteStep.
    Execute,
    /// TerminateStep, or a time limit.
    Stop(Cause),
    /// ShutdownSupervisor.
    Shutdown,
    /// The same, while the runtime makes something that is better not cut off.
    ShutdownAmid,
    /// A stage finished.
    StageDone(Stage),
    /// A stage failed.
    StageFailed(Stage, Failure),
    /// A mount does not serve any more: which, and how it came.
    MountLost(String),
    /// The container's end has been learnt.
    Ended(Outcome),
    /// The output is copied to its end, or as far as it goes.
    Drained,
    /// Everything acquired is undone.
    CleanedUp,
    /// The wait last armed is over; what the kernel can tell for sure of the container's end by now.
    OutOfPatience(Option<Outcome>),
    /// craned has acknowledged the final report.
    Delivered,
}
