//! When a step was where: the phases of its final record. Pure.

use crate::step::state::{Stage, State};
use crate::step::timers::Now;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant, SystemTime};

/// A step's way goes through some dozen phases; a machine that went round in circles must not fill memory.
const MOST: usize = 32;

/// Where a step was, and from when on.
#[derive(Clone, Debug)]
pub struct History(Vec<(&'static str, Instant, SystemTime)>);

/// One phase of a final record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name: docs/operating.md lists them.
    pub name: String,
    /// Its begin, RFC 3339, UTC.
    pub begun: String,
    /// How long it took.
    pub seconds: f64,
}

impl History {
    /// A step that begins in `state`.
    pub fn new(state: State, now: Now) -> Self {
        Self(vec![(name(state), now.monotonic, now.wall)])
    }

    /// The step is in `state` from now on; tells how long the phase before took until now.
    pub fn enter(&mut self, state: State, now: Now) -> Duration {
        let (last, begun) = self.0.last().map_or(("", now.monotonic), |(last, begun, _)| (*last, *begun));
        if last != name(state) && self.0.len() < MOST {
            self.0.push((name(state), now.monotonic, now.wall));
        }
        now.monotonic.saturating_duration_since(begun)
    }

    /// All phases; the last ends now. `stamp` writes a time down.
    pub fn phases(&self, now: Instant, stamp: impl Fn(SystemTime) -> String) -> Vec<Phase> {
        let ends = self.0.iter().skip(1).map(|(_, begun, _)| *begun).chain([now]);
        let phase = |(&(name, begun, wall), end): (&(&str, Instant, SystemTime), Instant)| Phase {
            name: name.to_owned(),
            begun: stamp(wall),
            seconds: end.saturating_duration_since(begun).as_secs_f64(),
        };
        self.0.iter().zip(ends).map(phase).collect()
    }
}

fn name(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Preparing { stage, .. } => match stage {
            Stage::User => "user",
            Stage::Pod => "pod",
            Stage::Mounts => "mounts",
            Stage::Image => "image",
            Stage::Prologs => "prologs",
            Stage::Create => "create",
            Stage::Start => "start",
        },
        State::Running => "running",
        State::Stopping { .. } => "stopping",
        State::Collected => "draining",
        State::CleaningUp => "cleaning_up",
        State::Holding => "holding",
        State::Reporting => "reporting",
        State::Done => "done",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Cause;

    #[test]
    fn phases_follow_one_another_without_gaps() {
        let (begun, wall) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let at = |ms| Now { monotonic: begun + Duration::from_millis(ms), wall: wall + Duration::from_millis(ms) };
        let mut history = History::new(State::Ready, at(0));
        assert_eq!(history.enter(State::Running, at(250)), Duration::from_millis(250));
        history.enter(State::Stopping { cause: Cause::Cancelled, killed: false }, at(1250));
        history.enter(State::Stopping { cause: Cause::Cancelled, killed: true }, at(1500));
        let phases = history.phases(at(3250).monotonic, |time| format!("{:?}", time.duration_since(wall).unwrap()));
        let told: Vec<_> = phases.iter().map(|phase| (&*phase.name, &*phase.begun, phase.seconds)).collect();
        assert_eq!(told, [("ready", "0ns", 0.25), ("running", "250ms", 1.0), ("stopping", "1.25s", 2.0)]);
        (0..100).for_each(|_| {
            history.enter(State::Ready, at(0));
            history.enter(State::Done, at(0));
        });
        assert_eq!(history.0.len(), MOST);
    }
}
