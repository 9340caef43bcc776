//! The one loop of a supervisor: next event → machine → perform its actions.
//!
//! Everything under way lives in a slot here, at most one of its kind, and
//! nowhere else; dropping a slot cancels the work, but for a call that is left to the
//! guardian at the job's end. Only this loop changes the step's state.

mod ending;

use crate::cleanup::claim::Claim;
use crate::cleanup::entry::Entry;
use crate::cleanup::processes;
use crate::control::{Request, Snapshot};
use crate::cri::client::Client;
use crate::cri::watch::{self, FirstLook};
use crate::exit_code;
use crate::failpoint;
use crate::identity::look_up::LookUp;
use crate::report::craned::Sender;
use crate::spec::{Kind, StepSpec};
use crate::step::action::{Acquisition, Action, Report};
use crate::step::event::{Event, Failure};
use crate::step::history::History;
use crate::step::hooks::Hooks;
use crate::step::machine::{Machine, Role};
use crate::step::output::Output;
use crate::step::owed;
use crate::step::parts::Parts;
use crate::step::patience::{DRAIN_LIMIT, OVERDUE_LIMIT, OWING_LIMIT, Patience};
use crate::step::record::Writing;
use crate::step::send;
use crate::step::stages::{self, Context, Found, Learnt};
use crate::step::state::{Stage, State};
use crate::step::timers::{Check, Limits};
use crate::step::underway::{Next, Underway, clocks};
use crate::sys;
use crate::sys::exit_events::ExitEvents;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// One step, driven.
pub struct Driver {
    spec: Rc<StepSpec>,
    client: Client,
    machine: Machine,
    snapshot: Arc<Snapshot>,
    requests: mpsc::Receiver<Request>,
    claim: Claim,
    sender: Sender,
    limits: Limits,
    found: Found,
    underway: Underway,
    reports: VecDeque<Report>,
    hooks: Rc<Hooks>,
    output: Output,
    history: History,
    record: Writing,
    /// Begun before it is needed: a name service takes its time.
    look_up: Option<LookUp>,
    /// Where pidfds cannot tell how a process ended.
    exits: Option<Rc<ExitEvents>>,
    /// The stage under way makes something.
    acquiring: bool,
    /// A call that makes something was cut off, or left to itself: its object may still appear.
    unsettled: bool,
    /// A clean-up that could not be handed over is still under way.
    owing: bool,
    /// What the last try to undo left behind, for people.
    left: Rc<RefCell<Vec<String>>>,
    /// A limit was due when the container had ended already.
    is_overdue: bool,
    /// The step is over.
    over: bool,
}

impl Driver {
    /// A step about to begin.
    pub fn new(parts: Parts) -> (Self, Vec<Action>) {
        let Parts { spec, client, claim, snapshot, requests, look_up, hooks, exits } = parts;
        let role = if spec.kind == Kind::Pod { Role::Pod } else { Role::Container };
        let (machine, first) = Machine::new(role, Patience::with_epilogs(&spec.hooks));
        let sender = Sender { socket: spec.craned_socket.clone(), id: spec.id, node: spec.node.clone() };
        let state = machine.state();
        let driver = Self {
            limits: spec.limits.clone(),
            spec: Rc::new(spec),
            client,
            machine,
            snapshot,
            requests,
            claim,
            sender,
            found: Found::default(),
            underway: Underway::default(),
            reports: VecDeque::new(),
            hooks: Rc::new(hooks),
            output: Output::default(),
            history: History::new(state, clocks()),
            record: Writing::default(),
            look_up: Some(look_up),
            exits: exits.map(Rc::new),
            acquiring: false,
            unsettled: false,
            owing: false,
            left: Rc::default(),
            is_overdue: false,
            over: false,
        };
        (driver, first)
    }

    /// Runs the step to its end; what is returned, if nothing is owed, holds its directory.
    pub async fn run(mut self, first: Vec<Action>) -> Option<Claim> {
        self.perform(first).await;
        while !self.over {
            let next = self.underway.next(&mut self.requests).await;
            if let Some(event) = self.take(next) {
                self.advance(event).await;
            }
        }
        if self.owing && timeout(OWING_LIMIT, self.underway.undo.done()).await.is_ok() {
            self.owing = false;
        }
        self.write_record(None);
        self.record.finish().await;
        // A journal that is still owed stays for the next clean-up.
        (!self.owing).then_some(self.claim)
    }

    /// Turns what happened into the machine's words.
    fn take(&mut self, next: Next) -> Option<Event> {
        match next {
            Next::Request(Some(Request::Event(Event::Shutdown))) if self.client.is_making() => {
                Some(Event::ShutdownAmid)
            }
            Next::Event(event) | Next::Request(Some(Request::Event(event))) => Some(event),
            Next::Request(Some(Request::ChangeLimits { limit, deadline })) => {
                self.limits.change(limit, deadline);
                self.check_limits()
            }
            // The service outlives this loop; without it nothing could be asked anyway.
            Next::Request(None) => Some(Event::Shutdown),
            Next::Stage(stage, Ok(learnt)) => {
                self.learn(learnt);
                Some(Event::StageDone(stage))
            }
            Next::Stage(stage, Err(failure)) => {
                self.unsettled |= failure.unsettled;
                self.found.untold |= failure.untold;
                if failure.again {
                    self.found.forget_container();
                }
                Some(Event::StageFailed(stage, failure))
            }
            Next::Stopped => {
                // What the runtime says now may be an end that no process' end hints at.
                if matches!(self.machine.state(), State::Stopping { .. }) {
                    self.watch(FirstLook::Now);
                }
                None
            }
            Next::LimitsDue => self.check_limits(),
            Next::OutOfPatience => {
                Some(Event::OutOfPatience(self.found.held.as_ref().and_then(|held| held.end_for_sure())))
            }
            Next::Delivered(report) => {
                self.deliver_next();
                matches!(report, Report::Final(_)).then_some(Event::Delivered)
            }
        }
    }

    async fn advance(&mut self, event: Event) {
        self.owing &= event != Event::CleanedUp;
        let before = self.machine.state();
        let actions = self.machine.step(event.clone());
        let after = self.machine.state();
        if before != after {
            let ms = self.history.enter(after, clocks()).as_millis();
            tracing::info!(?event, from = ?before, to = ?after, ms, "state");
        }
        match (&event, after) {
            (Event::StageFailed(stage, Failure { code, reason, again: true, .. }), State::Preparing { .. }) => {
                tracing::warn!(?stage, code, reason, "stage failed, and nothing of the user's ran; trying again");
            }
            (Event::StageFailed(stage, Failure { code, reason, .. }), _) => {
                tracing::error!(?stage, code, reason, "stage failed");
            }
            _ => {}
        }
        self.snapshot.set(self.machine.status());
        if before != State::Running && after == State::Running {
            sys::memory::trim();
            // A signal may have been due before there was somebody to take it.
            self.underway.limits.set(async {});
        }
        self.perform(actions).await;
    }

    async fn perform(&mut self, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            failpoint::pass(|| format!("before {}", action.name()));
            match action {
                Action::Report(report) => {
                    let report = self.output.remark_on(self.naming_left(report));
                    if let Report::Final(verdict) = &report {
                        self.write_record(Some(verdict.clone()));
                    }
                    self.reports.push_back(report);
                    self.deliver_next();
                }
                Action::StartLimits => {
                    self.limits.execute(clocks());
                    // One already past stops the stage about to begin.
                    self.underway.limits.set(async {});
                }
                Action::Record(what) => {
                    if let Err(failure) = self.record(what) {
                        // Not written down, so not done: the stage fails instead of beginning.
                        self.underway.stage.set(async move { (owed::stage_of(what), Err(failure)) });
                        actions.retain(|action| !matches!(action, Action::Begin(_)));
                    }
                }
                Action::Begin(stage) => self.begin(stage),
                Action::Abandon => {
                    let stage = &mut self.underway.stage;
                    // At the job's end we are gone before the runtime has cleaned up after a call
                    // that is cut off: our guardian lets it finish, a reaper undoes what it made.
                    let is_left = self.client.is_making() && self.machine.is_job_ending();
                    let cut_off = if is_left { stage.forget() } else { stage.clear() };
                    self.unsettled |= cut_off && self.acquiring;
                }
                Action::Watch => self.watch(FirstLook::OnHint),
                Action::Stop { grace } => self.stop(grace),
                Action::Kill => self.kill(),
                // Counts from here, not from when the loop comes to look at it.
                Action::Wait(wait) => self.underway.patience.set(sleep(wait)),
                Action::Drain => self.drain(),
                Action::Keep(outcome) if actions.front() == Some(&Action::HandOver) => {
                    actions.pop_front();
                    failpoint::pass(|| format!("before {}", Action::HandOver.name()));
                    // At once: at the job's end there is hardly time for one after the other.
                    let ((), reaper) = tokio::join!(self.keep(outcome), self.launch_reaper());
                    // Until here the directory is ours.
                    self.hand_over(reaper);
                }
                Action::Keep(outcome) => self.keep(outcome).await,
                Action::Undo => self.undo(),
                Action::HandOver => {
                    let reaper = self.launch_reaper().await;
                    self.hand_over(reaper);
                }
                Action::Exit => self.over = true,
            }
        }
    }

    fn learn(&mut self, learnt: Learnt) {
        let created = matches!(learnt, Learnt::Created(_));
        self.found.add(learnt);
        self.snapshot.change_env(|env| self.found.effects.apply(env));
        if let Some(container) = &self.found.container {
            self.output.note_container(container);
        }
        if let (true, Some(user), Some(work)) = (created, &self.found.user, self.spec.container()) {
            self.output.start(&self.spec, work, user, &self.found, &self.client);
        }
        if let Some(mounts) =
            self.found.mounts.clone().filter(|mounts| mounts.has_daemons() && self.underway.mounts.is_free())
        {
            self.underway.mounts.set(async move { Event::MountLost(mounts.lost().await) });
        }
    }

    /// Writes down what is about to be acquired.
    fn record(&mut self, what: Acquisition) -> Result<(), Failure> {
        for entry in owed::entries(&self.spec, what, self.found.container.as_deref()) {
            self.claim.journal.record(entry).map_err(|error| Failure::new(exit_code::PREPARATION_FAILED, error))?;
        }
        Ok(())
    }

    fn begin(&mut self, stage: Stage) {
        self.acquiring = match stage {
            Stage::User | Stage::Mounts | Stage::Image | Stage::Prologs => false,
            Stage::Pod => self.spec.kind == Kind::Pod,
            Stage::Create | Stage::Start => true,
        };
        let context = Context {
            client: self.client.clone(),
            spec: Rc::clone(&self.spec),
            found: self.found.clone(),
            hooks: Rc::clone(&self.hooks),
            look_up: self.look_up.take(),
            exits: self.exits.clone(),
        };
        self.underway.stage.set(async move { (stage, stages::perform(stage, context).await) });
    }

    fn watch(&mut self, first: FirstLook) {
        let Some(held) = self.found.held.clone() else {
            return;
        };
        let client = self.client.clone();
        self.underway.watch.set(async move { Event::Ended(watch::until_end(&client, &held, first).await) });
    }

    fn stop(&mut self, grace: Duration) {
        let Some(container) = self.found.container.clone() else {
            return;
        };
        let client = self.client.clone();
        tracing::info!(container, grace_s = grace.as_secs(), "stopping the container");
        if let Some(held) = &self.found.held {
            held.note_stop();
        }
        self.underway.stop.set(async move {
            // A runtime that restarts just now must not cost the program its TERM.
            if let Err(error) = client.when_there(|| client.stop(&container, grace)).await {
                tracing::warn!(%error, "the runtime did not stop the container");
            }
        });
    }

    /// The kernel does what the runtime did not.
    fn kill(&mut self) {
        tracing::warn!("the container outlived its grace; killing it");
        if let Some(Err(error)) = self.found.held.as_ref().map(|held| held.kill()) {
            tracing::warn!(%error, "only the runtime can kill the container now");
        }
        // In the pod's pid namespace its children outlive its init.
        for entry in self.claim.journal.entries() {
            if let Entry::Processes { cgroups, .. } = entry {
                processes::kill_now(cgroups);
            }
        }
        self.stop(Duration::ZERO);
    }

    fn drain(&mut self) {
        let copied = self.output.finish(DRAIN_LIMIT);
        self.underway.drain.set(async move {
            copied.await;
            Event::Drained
        });
    }

    fn deliver_next(&mut self) {
        if self.underway.delivery.is_free()
            && let Some(report) = self.reports.pop_front()
        {
            let sender = self.sender.clone();
            self.underway.delivery.set(async move {
                sender.deliver(report.clone()).await;
                report
            });
        }
    }

    /// The limit that is due, else a timer for the next one.
    fn check_limits(&mut self) -> Option<Event> {
        match self.limits.check(clocks()) {
            Check::Due(cause) => {
                self.underway.limits.clear();
                // An end of its own that the runtime has not told yet is no end by the limit; one that
                // nobody can tell must not last for ever.
                let over = self.found.held.as_ref().is_some_and(|held| held.has_ended());
                if over && !std::mem::replace(&mut self.is_overdue, true) {
                    self.underway.limits.set(sleep(OVERDUE_LIMIT));
                    return None;
                }
                Some(Event::Stop(cause))
            }
            Check::Again(wait) => {
                if let Some(held) = self.found.held.as_ref().filter(|_| self.machine.state() == State::Running) {
                    send::in_advance(held, self.limits.advances_due(clocks()));
                }
                self.underway.limits.set(sleep(wait));
                None
            }
            Check::Never => {
                self.underway.limits.clear();
                None
            }
        }
    }
}
