//! When a step must end: its time limit and its deadline. Pure.
//!
//! The limit runs on the monotonic clock from ExecuteStep; once craned changes
//! it, it counts from the step's start on craned's clock, as the deadline
//! always does. All arithmetic saturates.

use crate::outcome::Cause;
use crate::step::advance::{Advance, Advances};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Both clocks, read at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Does not jump.
    pub monotonic: Instant,
    /// Shared with craned.
    pub wall: SystemTime,
}

/// Ends are derived from the clocks anew at least this often, in case the wall clock jumps.
const RECHECK: Duration = Duration::from_secs(60);
/// A check this late tells of a freeze.
const FROZEN: Duration = Duration::from_secs(5);

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// This end has come.
    Due(Cause),
    /// Not yet: check again after this.
    Again(Duration),
    /// No end is set, or nothing was executed yet.
    Never,
}

/// Where the time limit counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// ExecuteStep, on the monotonic clock.
    Execution,
    /// The step's start, Unix seconds.
    Start(i64),
}

/// The ends set for a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Seconds.
    limit: Option<(i64, From)>,
    /// Unix seconds.
    deadline: Option<i64>,
    /// Unix seconds, craned's clock.
    started: Option<i64>,
    executed: Option<Instant>,
    /// craned has changed an end: then it holds before ExecuteStep too.
    changed: bool,
    /// Signals before the end.
    advances: Advances,
    /// Time that passed while we were frozen with the job: not charged.
    asleep: Duration,
    /// When the next check should come.
    due: Option<Instant>,
}

impl Limits {
    /// Seconds from ExecuteStep, a Unix time, and craned's start time of the step.
    pub fn new(limit: Option<i64>, deadline: Option<i64>, started: Option<i64>) -> Self {
        Self {
            limit: limit.map(|seconds| (seconds, From::Execution)),
            deadline,
            started,
            executed: None,
            changed: false,
            advances: Advances::default(),
            asleep: Duration::ZERO,
            due: None,
        }
    }

    /// With signals before whichever end comes first.
    pub fn with_advances(self, wanted: impl IntoIterator<Item = Advance>) -> Self {
        Self { advances: Advances::new(wanted), ..self }
    }

    /// The signals to send now; each is told once, so ask only when there is somebody to take them.
    pub fn advances_due(&mut self, now: Now) -> Vec<i32> {
        self.next(now).map_or_else(Vec::new, |(left, _)| self.advances.due(left))
    }

    /// ExecuteStep: the limit counts from now. A second call changes nothing.
    pub fn execute(&mut self, now: Now) {
        self.executed.get_or_insert(now.monotonic);
    }

    /// Whether an end is due, else when to check again.
    ///
    /// A check that comes late by far was not slow: craned froze us with the job
    /// (it announces a suspend to the first step only), and that time is not charged.
    pub fn check(&mut self, now: Now) -> Check {
        let late = self.due.take().map_or(Duration::ZERO, |due| now.monotonic.saturating_duration_since(due));
        if late > FROZEN {
            self.asleep = self.asleep.saturating_add(late);
        }
        match self.next(now) {
            None => Check::Never,
            Some((left, cause)) if left.is_zero() => Check::Due(cause),
            Some((left, _)) => {
                let wait = left.min(RECHECK).min(self.advances.next(left).unwrap_or(RECHECK));
                self.due = now.monotonic.checked_add(wait);
                Check::Again(wait)
            }
        }
    }

    /// ChangeStepTimeConstraint: outer `None` leaves a constraint as it is, inner `None` lifts it.
    pub fn change(&mut self, limit: Option<Option<i64>>, deadline: Option<Option<i64>>) {
        self.changed |= limit.is_some() || deadline.is_some();
        if let Some(limit) = limit {
            let from = self.started.map_or(From::Execution, From::Start);
            self.limit = limit.map(|seconds| (seconds, from));
        }
        if let Some(deadline) = deadline {
            self.deadline = deadline;
        }
    }

    /// How long until the earlier end, and which it is; zero when past.
    fn next(&self, now: Now) -> Option<(Duration, Cause)> {
        if self.executed.is_none() && !self.changed {
            return None;
        }
        let limit = self.limit.and_then(|(seconds, from)| match from {
            From::Execution => {
                let executed = self.executed?;
                let whole = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_add(self.asleep);
                Some(whole.saturating_sub(now.monotonic.saturating_duration_since(executed)))
            }
            From::Start(start) => Some(until(start.saturating_add(seconds), now.wall)),
        });
        let deadline = self.deadline.map(|time| until(time, now.wall));
        let limit = limit.map(|left| (left, Cause::TimeLimit));
        let deadline = deadline.map(|left| (left, Cause::Deadline));
        limit.into_iter().chain(deadline).min_by_key(|(left, _)| *left)
    }
}

/// Time from `now` until a Unix second; zero once it is past.
fn until(unix: i64, now: SystemTime) -> Duration {
    let Ok(seconds) = u64::try_from(unix) else {
        return Duration::ZERO;
    };
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(seconds).saturating_sub(since_epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(monotonic: Instant, unix: u64) -> Now {
        Now { monotonic, wall: UNIX_EPOCH + Duration::from_secs(unix) }
    }

    #[test]
    fn nothing_expires_before_execution() {
        let limits = Limits::new(Some(1), Some(1), Some(1));
        assert_eq!(limits.next(at(Instant::now(), 1000)), None);
    }

    #[test]
    fn a_changed_end_holds_before_execution_too() {
        let mut limits = Limits::new(Some(60), None, Some(900));
        limits.change(None, Some(Some(950)));
        assert_eq!(limits.next(at(Instant::now(), 1000)), Some((Duration::ZERO, Cause::Deadline)));
        limits.change(Some(Some(200)), Some(None));
        assert_eq!(limits.next(at(Instant::now(), 1000)), Some((Duration::from_secs(100), Cause::TimeLimit)));
    }

    #[test]
    fn the_check_comes_in_time_for_a_signal() {
        let begun = Instant::now();
        let advance = |number, seconds| Advance { number, before: Duration::from_secs(seconds) };
        let mut limits = Limits::new(Some(30), None, None).with_advances([advance(10, 20), advance(12, 90)]);
        limits.execute(at(begun, 1000));
        assert_eq!(limits.check(at(begun, 1000)), Check::Again(Duration::from_secs(10)));
        assert_eq!(limits.advances_due(at(begun, 1000)), [12]);
        let later = at(begun + Duration::from_secs(10), 1010);
        assert_eq!(limits.check(later), Check::Again(Duration::from_secs(20)));
        assert_eq!((limits.advances_due(later), limits.advances_due(later)), (vec![10], vec![]));
    }

    #[test]
    fn the_earlier_end_wins_and_says_which_it_is() {
        let begun = Instant::now();
        let mut limits = Limits::new(Some(60), Some(1030), Some(900));
        limits.execute(at(begun, 1000));
        assert_eq!(limits.next(at(begun, 1000)), Some((Duration::from_secs(30), Cause::Deadline)));
        limits.change(None, Some(None));
        assert_eq!(limits.next(at(begun, 1000)), Some((Duration::from_secs(60), Cause::TimeLimit)));
    }

    #[test]
    fn a_changed_limit_counts_from_the_steps_start() {
        let begun = Instant::now();
        let mut limits = Limits::new(None, None, Some(900));
        limits.execute(at(begun, 1000));
        limits.change(Some(Some(150)), None);
        assert_eq!(limits.next(at(begun, 1000)), Some((Duration::from_secs(50), Cause::TimeLimit)));
        limits.change(Some(Some(10)), None);
        assert_eq!(limits.next(at(begun, 1000)), Some((Duration::ZERO, Cause::TimeLimit)));
    }

    #[test]
    fn time_spent_frozen_is_not_charged() {
        let begun = Instant::now();
        let mut limits = Limits::new(Some(90), None, None);
        limits.execute(at(begun, 1000));
        assert_eq!(limits.check(at(begun, 1000)), Check::Again(Duration::from_secs(60)));
        let thawed = begun + Duration::from_secs(160);
        assert_eq!(limits.check(at(thawed, 1160)), Check::Again(Duration::from_secs(30)));
        assert_eq!(limits.check(at(thawed + Duration::from_secs(30), 1190)), Check::Due(Cause::TimeLimit));
    }

    #[test]
    fn a_jump_of_the_wall_clock_does_not_touch_a_limit_from_execution() {
        let begun = Instant::now();
        let mut limits = Limits::new(Some(60), None, Some(900));
        limits.execute(at(begun, 1000));
        assert_eq!(limits.next(at(begun, 9_999_999)), Some((Duration::from_secs(60), Cause::TimeLimit)));
    }

    proptest! {
        #[test]
        fn no_numbers_overflow(limit: Option<i64>, deadline: Option<i64>, started: Option<i64>, changed: Option<Option<i64>>, wall in 0u64..1 << 33) {
            let begun = Instant::now();
            let mut limits = Limits::new(limit, deadline, started);
            limits.execute(at(begun, wall));
            limits.change(changed, changed);
            let expected = changed.map_or(limit.or(deadline), |changed| changed).is_some();
            prop_assert_eq!(limits.next(at(begun, wall)).is_some(), expected);
        }
    }
}
