//! What craned is told of a state, by CheckStatus. Pure, as all of the machine.

use super::{Machine, Role};
use crate::step::state::{State, Status};

impl Machine {
    /// What CheckStatus answers.
    pub fn status(&self) -> Status {
        match (self.state, self.role) {
            (State::Ready, _) => Status::Starting,
            (State::Preparing { .. }, Role::Pod) => Status::Configuring,
            (State::Preparing { .. }, Role::Container) | (State::Running, _) => Status::Running,
            (
                State::Stopping { .. }
                | State::Collected
                | State::CleaningUp
                | State::Holding
                | State::Reporting
                | State::Done,
                _,
            ) => Status::Completing,
        }
    }
}
