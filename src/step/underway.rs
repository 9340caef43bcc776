//! Everything a step has under way, at most one of its kind.

use crate::control::Request;
use crate::step::action::Report;
use crate::step::event::{Event, Failure};
use crate::step::slot::Slot;
use crate::step::stages::Learnt;
use crate::step::state::Stage;
use crate::step::timers::Now;
use std::time::{Instant, SystemTime};
use tokio::sync::mpsc;

/// Everything under way.
#[derive(Default)]
pub struct Underway {
    /// No call of craned's can come any more.
    deaf: bool,
    /// A stage of getting something to run.
    pub stage: Slot<(Stage, Result<Learnt, Failure>)>,
    /// Learning the container's end.
    pub watch: Slot<Event>,
    /// Learning the end of a mount.
    pub mounts: Slot<Event>,
    /// Asking the runtime to end it.
    pub stop: Slot<()>,
    /// Copying the output to its end.
    pub drain: Slot<Event>,
    /// Undoing what was acquired.
    pub undo: Slot<Event>,
    /// The wait that is armed.
    pub patience: Slot<()>,
    /// The next end set by craned.
    pub limits: Slot<()>,
    /// The report on its way.
    pub delivery: Slot<Report>,
}

/// What the loop woke up for.
pub enum Next {
    /// A call of craned's; `None` once no call can come any more.
    Request(Option<Request>),
    /// A stage ended.
    Stage(Stage, Result<Learnt, Failure>),
    /// Something the machine knows.
    Event(Event),
    /// The stop call is over, whatever came of it.
    Stopped,
    /// An end may be due.
    LimitsDue,
    /// The wait that was armed is over.
    OutOfPatience,
    /// craned has acknowledged a report.
    Delivered(Report),
}

impl Underway {
    /// Waits for whatever happens first; calls of craned's before all else. May be dropped at any time.
    pub async fn next(&mut self, requests: &mut mpsc::Receiver<Request>) -> Next {
        let Self { deaf, stage, watch, mounts, stop, drain, undo, patience, limits, delivery } = self;
        tokio::select! {
            biased;
            // A closed channel is ready for ever and would starve all else.
            request = requests.recv(), if !*deaf => {
                *deaf = request.is_none();
                Next::Request(request)
            }
            (stage, result) = stage.done() => Next::Stage(stage, result),
            event = watch.done() => Next::Event(event),
            event = mounts.done() => Next::Event(event),
            event = drain.done() => Next::Event(event),
            event = undo.done() => Next::Event(event),
            report = delivery.done() => Next::Delivered(report),
            () = stop.done() => Next::Stopped,
            () = limits.done() => Next::LimitsDue,
            () = patience.done() => Next::OutOfPatience,
        }
    }
}

/// Reads both clocks.
pub fn clocks() -> Now {
    Now { monotonic: Instant::now(), wall: SystemTime::now() }
}
