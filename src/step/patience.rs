//! How long a step waits for each thing, in one place.

use crate::spec::Hooks;
use std::time::Duration;

/// How long the user's copy may take to catch up after the end.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// The same where the container's end was not learnt.
pub const UNDRAINED_LIMIT: Duration = Duration::from_secs(1);
/// How long the outcome may take to reach the disk before we go on.
pub const KEEP_LIMIT: Duration = Duration::from_millis(300);
/// How long the runtime may take, once a limit is due, to tell of an end that it has not told yet.
pub const OVERDUE_LIMIT: Duration = Duration::from_secs(60);
/// How long a clean-up nobody could take over may go on after the report.
pub const OWING_LIMIT: Duration = Duration::from_secs(600);
/// How long a clean-up may take while bindfs still serves a container that ran.
pub const SERVED_UNDO: Duration = Duration::from_secs(3);
/// How long after a cut-off call its object may appear.
pub const UNSETTLED: Duration = Duration::from_secs(2);
/// The same for a reaper, who has time.
pub const UNSETTLED_REAPER: Duration = Duration::from_secs(20);

/// How long each wait of a step may be.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between TERM and KILL.
    pub grace: Duration,
    /// A create or start under way when a stop comes.
    pub settle: Duration,
    /// After the grace, before we kill without the runtime.
    pub overdue: Duration,
    /// After that kill, before the end counts as unknown.
    pub killed: Duration,
    /// Copying the output to its end; the copy has a limit of its own just below.
    pub drain: Duration,
    /// Undoing, before a reaper takes over.
    pub cleanup: Duration,
    /// From the job's end to our report: craned kills at 2 s.
    pub job_end: Duration,
}

impl Patience {
    /// Epilogs have their own limit, and the clean-up waits for them.
    pub fn with_epilogs(hooks: &Hooks) -> Self {
        let usual = Self::default();
        let more = if hooks.epilogs.is_empty() { Duration::ZERO } else { hooks.epilog_limit };
        Self { cleanup: usual.cleanup.saturating_add(more), ..usual }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10),
            settle: Duration::from_secs(5),
            overdue: Duration::from_secs(3),
            killed: Duration::from_secs(5),
            drain: Duration::from_secs(31),
            cleanup: Duration::from_secs(30),
            job_end: Duration::from_millis(1200),
        }
    }
}
