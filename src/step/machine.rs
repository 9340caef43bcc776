//! What a step does next: (state, event) → (state, actions).
//!
//! Pure: no clock, no I/O. The driver performs the actions in order. An event
//! that does not fit its state (a second ExecuteStep, a cancel while cleaning
//! up, a late answer of an abandoned stage) changes nothing.

mod overdue;
mod status;

use crate::outcome::{Cause, Outcome};
use crate::step::action::{Acquisition, Action, Report};
use crate::step::event::{Event, Failure};
use crate::step::patience::Patience;
use crate::step::state::{Stage, State};
use std::time::Duration;

/// How often a container is made anew whose start the runtime's own end cut off.
const RETRIES: u32 = 2;

/// Whether the step holds a pod or runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Step 0.
    Pod,
    /// Any other.
    Container,
}

/// One step's state and what it has learnt.
#[derive(Clone, Debug)]
pub struct Machine {
    role: Role,
    patience: Patience,
    state: State,
    outcome: Option<Outcome>,
    /// The job is ending: craned's short patience rules every wait.
    job_ending: bool,
    /// craned wants no report.
    silent: bool,
    /// Containers that were made in vain.
    retries: u32,
    /// The mount whose loss ends the step.
    lost_mount: Option<String>,
}

impl Machine {
    /// A step that has just been accepted, and what to do first.
    pub fn new(role: Role, patience: Patience) -> (Self, Vec<Action>) {
        let (state, actions) = match role {
            Role::Container => (State::Ready, vec![Action::Report(Report::Starting)]),
            Role::Pod => (State::Preparing { stage: Stage::User, stop: None }, vec![Action::Begin(Stage::User)]),
        };
        (
            Self {
                role,
                patience,
                state,
                outcome: None,
                job_ending: false,
                silent: false,
                retries: 0,
                lost_mount: None,
            },
            actions,
        )
    }

    /// Where the step is.
    pub fn state(&self) -> State {
        self.state
    }

    /// How it ended, once that is known.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Whether craned has ended the job.
    pub fn is_job_ending(&self) -> bool {
        self.job_ending
    }

    /// Takes one event and says what to do.
    pub fn step(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Execute => self.execute(),
            Event::Stop(cause) => self.stop(cause),
            Event::Shutdown => self.shutdown(false),
            Event::ShutdownAmid => self.shutdown(true),
            Event::StageDone(stage) => self.stage_done(stage),
            Event::StageFailed(stage, failure) => self.stage_failed(stage, failure),
            Event::MountLost(reason) => self.mount_lost(reason),
            Event::Ended(outcome) => self.ended(outcome),
            Event::Drained => self.drained(),
            Event::CleanedUp => self.cleaned_up(),
            Event::OutOfPatience(end) => self.out_of_patience(end),
            Event::Delivered => self.delivered(),
        }
    }

    fn execute(&mut self) -> Vec<Action> {
        match (self.state, self.role) {
            (State::Ready, Role::Container) => {
                self.state = State::Preparing { stage: Stage::User, stop: None };
                vec![Action::StartLimits, Action::Begin(Stage::User)]
            }
            _ => Vec::new(),
        }
    }

    /// A pod step takes no stop; ShutdownSupervisor ends it.
    fn stop(&mut self, cause: Cause) -> Vec<Action> {
        if self.role == Role::Pod {
            return Vec::new();
        }
        let mut actions = if cause == Cause::JobEnd { self.begin_job_end() } else { Vec::new() };
        actions.extend(match self.state {
            State::Ready => {
                self.silent = cause == Cause::JobEnd;
                self.finish(Outcome::NeverExecuted { cause })
            }
            State::Preparing { stage, stop: None } => self.stop_while_preparing(stage, cause),
            State::Running => {
                self.state = State::Stopping { cause, killed: false };
                self.ask_to_end()
            }
            // The job's end shortens a grace that is already running.
            State::Stopping { killed: false, .. } if cause == Cause::JobEnd => self.ask_to_end(),
            State::Preparing { stop: Some(_), .. }
            | State::Stopping { .. }
            | State::Collected
            | State::CleaningUp
            | State::Holding
            | State::Reporting
            | State::Done => Vec::new(),
        });
        actions
    }

    /// A container that goes on without its files would do so in vain.
    fn mount_lost(&mut self, reason: String) -> Vec<Action> {
        self.lost_mount.get_or_insert(reason);
        self.stop(Cause::MountLost)
    }

    /// From here craned's short patience is the only wait.
    fn begin_job_end(&mut self) -> Vec<Action> {
        match self.state {
            State::Reporting | State::Done => Vec::new(),
            _ if self.job_ending => Vec::new(),
            State::Ready
            | State::Preparing { .. }
            | State::Running
            | State::Stopping { .. }
            | State::Collected
            | State::CleaningUp
            | State::Holding => {
                self.job_ending = true;
                vec![Action::Wait(self.patience.job_end)]
            }
        }
    }

    fn wait(&self, wait: Duration) -> Option<Action> {
        (!self.job_ending).then_some(Action::Wait(wait))
    }

    fn stop_while_preparing(&mut self, stage: Stage, cause: Cause) -> Vec<Action> {
        match stage {
            Stage::User | Stage::Pod | Stage::Mounts | Stage::Image | Stage::Prologs => {
                let mut actions = vec![Action::Abandon];
                actions.extend(self.finish(Outcome::Stopped { cause, end: None }));
                actions
            }
            // Cut off, these leave an object behind that may still start; soon done, they leave a clear state.
            Stage::Create | Stage::Start => {
                self.state = State::Preparing { stage, stop: Some(cause) };
                self.wait(self.patience.settle).into_iter().collect()
            }
        }
    }

    fn ask_to_end(&self) -> Vec<Action> {
        let grace = if self.job_ending { self.patience.grace.min(Duration::from_secs(1)) } else { self.patience.grace };
        let overdue = grace.saturating_add(self.patience.overdue);
        std::iter::once(Action::Stop { grace }).chain(self.wait(overdue)).collect()
    }

    fn shutdown(&mut self, making: bool) -> Vec<Action> {
        if self.role == Role::Container {
            return self.stop(Cause::JobEnd);
        }
        let mut actions = self.begin_job_end();
        actions.extend(match self.state {
            // As with a start: what is soon done leaves a clear state.
            State::Preparing { stage: Stage::Pod, .. } if making => {
                self.state = State::Preparing { stage: Stage::Pod, stop: Some(Cause::JobEnd) };
                Vec::new()
            }
            State::Preparing { .. } => {
                let abandon = std::iter::once(Action::Abandon);
                abandon.chain(self.finish(Outcome::Stopped { cause: Cause::JobEnd, end: None })).collect()
            }
            State::Running => self.finish(Outcome::PodEnded),
            State::Holding => self.report(),
            State::Ready
            | State::Stopping { .. }
            | State::Collected
            | State::CleaningUp
            | State::Reporting
            | State::Done => Vec::new(),
        });
        actions
    }

    fn stage_done(&mut self, done: Stage) -> Vec<Action> {
        let State::Preparing { stage, stop } = self.state else {
            return Vec::new();
        };
        if stage != done {
            return Vec::new();
        }
        match (self.role, done, stop) {
            (Role::Pod, _, Some(cause)) => self.finish(Outcome::Stopped { cause, end: None }),
            (Role::Pod, Stage::User, None) => self.acquire(Acquisition::Pod, Stage::Pod),
            (Role::Pod, Stage::Pod, None) => self.next_stage(Stage::Prologs),
            (Role::Pod, Stage::Mounts | Stage::Image | Stage::Prologs | Stage::Create | Stage::Start, None) => {
                self.state = State::Running;
                vec![Action::Report(Report::PodRunning)]
            }
            (Role::Container, Stage::User, _) => self.next_stage(Stage::Pod),
            (Role::Container, Stage::Pod, _) => self.acquire(Acquisition::Mounts, Stage::Mounts),
            (Role::Container, Stage::Mounts, _) => self.next_stage(Stage::Image),
            (Role::Container, Stage::Image, _) => self.next_stage(Stage::Prologs),
            (Role::Container, Stage::Prologs, _) => self.acquire(Acquisition::Container, Stage::Create),
            (Role::Container, Stage::Create, None) => self.acquire(Acquisition::Processes, Stage::Start),
            (Role::Container, Stage::Create, Some(cause)) => self.finish(Outcome::Stopped { cause, end: None }),
            (Role::Container, Stage::Start, None) => {
                self.state = State::Running;
                vec![Action::Watch]
            }
            (Role::Container, Stage::Start, Some(cause)) => {
                self.state = State::Stopping { cause, killed: false };
                let mut actions = vec![Action::Watch];
                actions.extend(self.ask_to_end());
                actions
            }
        }
    }

    /// Written down first.
    fn acquire(&mut self, what: Acquisition, stage: Stage) -> Vec<Action> {
        let record = std::iter::once(Action::Record(what));
        record.chain(self.next_stage(stage)).collect()
    }

    fn next_stage(&mut self, stage: Stage) -> Vec<Action> {
        self.state = State::Preparing { stage, stop: None };
        vec![Action::Begin(stage)]
    }

    fn stage_failed(&mut self, failed: Stage, failure: Failure) -> Vec<Action> {
        let State::Preparing { stage, stop } = self.state else {
            return Vec::new();
        };
        if stage != failed {
            return Vec::new();
        }
        if failure.again && failed == Stage::Start && stop.is_none() && self.retries < RETRIES {
            self.retries += 1;
            return self.next_stage(Stage::Create);
        }
        let outcome = match stop {
            Some(cause) => Outcome::Stopped { cause, end: None },
            None => Outcome::Failed { code: failure.code, reason: failure.reason },
        };
        let mut actions = match (self.role, stop) {
            (Role::Pod, None) => vec![Action::Report(Report::PodFailed(outcome.verdict()))],
            (Role::Pod, Some(_)) | (Role::Container, _) => Vec::new(),
        };
        actions.extend(self.finish(outcome));
        actions
    }

    fn ended(&mut self, outcome: Outcome) -> Vec<Action> {
        let outcome = match self.state {
            State::Running => outcome,
            State::Stopping { cause, .. } => outcome.after_stop(cause),
            State::Ready
            | State::Preparing { .. }
            | State::Collected
            | State::CleaningUp
            | State::Holding
            | State::Reporting
            | State::Done => return Vec::new(),
        };
        self.state = State::Collected;
        let outcome = self.settle(outcome);
        let keep_and_drain = [Action::Keep(outcome), Action::Drain].into_iter();
        keep_and_drain.chain(self.wait(self.patience.drain)).collect()
    }

    fn drained(&mut self) -> Vec<Action> {
        if self.state != State::Collected {
            return Vec::new();
        }
        self.clean_up()
    }

    /// From here on the outcome is known.
    fn settle(&mut self, outcome: Outcome) -> Outcome {
        let outcome = outcome.naming(self.lost_mount.as_deref());
        self.outcome = Some(outcome.clone());
        outcome
    }

    /// The outcome is settled without a container's end: keep it, undo all.
    fn finish(&mut self, outcome: Outcome) -> Vec<Action> {
        let outcome = self.settle(outcome);
        let mut actions = vec![Action::Keep(outcome)];
        actions.extend(self.clean_up());
        actions
    }

    fn clean_up(&mut self) -> Vec<Action> {
        self.state = State::CleaningUp;
        std::iter::once(Action::Undo).chain(self.wait(self.patience.cleanup)).collect()
    }

    fn cleaned_up(&mut self) -> Vec<Action> {
        if self.state != State::CleaningUp {
            return Vec::new();
        }
        self.report()
    }

    /// Reports the end, or waits for the job's end with a pod that failed.
    fn report(&mut self) -> Vec<Action> {
        let verdict = match &self.outcome {
            Some(outcome) => outcome.verdict(),
            None => Outcome::Lost { reason: "the step ended without an outcome".to_owned() }.verdict(),
        };
        if self.role == Role::Pod && !self.job_ending {
            self.state = State::Holding;
            return Vec::new();
        }
        if self.silent {
            self.state = State::Done;
            return vec![Action::Exit];
        }
        self.state = State::Reporting;
        vec![Action::Report(Report::Final(verdict))]
    }

    fn delivered(&mut self) -> Vec<Action> {
        if self.state != State::Reporting {
            return Vec::new();
        }
        self.state = State::Done;
        vec![Action::Exit]
    }
}

#[cfg(test)]
mod tests;
