//! What a step does when a wait is over. Pure, as all of the machine.

use super::Machine;
use crate::outcome::Outcome;
use crate::step::action::Action;
use crate::step::state::State;

impl Machine {
    pub(super) fn out_of_patience(&mut self, end: Option<Outcome>) -> Vec<Action> {
        match self.state {
            State::Preparing { stop: Some(cause), .. } => {
                let mut actions = vec![Action::Abandon];
                actions.extend(self.give_up(Outcome::Stopped { cause, end: None }));
                actions
            }
            State::Stopping { cause, killed: false } if !self.job_ending => {
                self.state = State::Stopping { cause, killed: true };
                vec![Action::Kill, Action::Wait(self.patience.killed)]
            }
            State::Stopping { cause, .. } => self.give_up(Outcome::of_stop(cause, end)),
            State::Collected => self.give_up_draining(),
            State::CleaningUp => {
                let mut actions = vec![Action::HandOver];
                actions.extend(self.report());
                actions
            }
            State::Ready
            | State::Preparing { stop: None, .. }
            | State::Running
            | State::Holding
            | State::Reporting
            | State::Done => Vec::new(),
        }
    }

    /// At the job's end a reaper does the rest; otherwise we still have time to.
    fn give_up(&mut self, outcome: Outcome) -> Vec<Action> {
        if !self.job_ending {
            return self.finish(outcome);
        }
        let outcome = self.settle(outcome);
        self.state = State::CleaningUp;
        let mut actions = vec![Action::Keep(outcome), Action::HandOver];
        actions.extend(self.report());
        actions
    }

    fn give_up_draining(&mut self) -> Vec<Action> {
        if !self.job_ending {
            return self.clean_up();
        }
        self.state = State::CleaningUp;
        let mut actions = vec![Action::HandOver];
        actions.extend(self.report());
        actions
    }
}
