//! Where a step is.

use crate::outcome::Cause;

/// The stages of getting something to run, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Look the job's user up.
    User,
    /// Pod step: run the pod. Container step: find it.
    Pod,
    /// Stage the mounts.
    Mounts,
    /// Have the image.
    Image,
    /// Run the administrator's programs.
    Prologs,
    /// Create the container.
    Create,
    /// Start it.
    Start,
}

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The socket listens; a container step waits for ExecuteStep.
    Ready,
    /// A stage is under way.
    Preparing {
        /// Which.
        stage: Stage,
        /// A stop that waits for the stage to settle.
        stop: Option<Cause>,
    },
    /// The container runs, or the pod is up.
    Running,
    /// The container was told to end.
    Stopping {
        /// Why.
        cause: Cause,
        /// Whether it has been killed already.
        killed: bool,
    },
    /// The container's end is known; its output is being drained.
    Collected,
    /// Everything acquired is being undone.
    CleaningUp,
    /// A pod step that failed waits for the job's end.
    Holding,
    /// The final report is on its way.
    Reporting,
    /// Nothing is left to do.
    Done,
}

/// What CheckStatus answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A pod step whose pod is not up yet.
    Configuring,
    /// A container step before ExecuteStep.
    Starting,
    /// Executed, or the pod is up.
    Running,
    /// Ending.
    Completing,
}
