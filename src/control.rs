//! The control socket craned calls us on.
//!
//! Answers come from memory, never from behind a CRI call; what must happen is
//! sent to the driver as a request. The socket is root's alone: its directory's
//! owner and mode are checked, and so is the uid of every peer.

pub mod service;
pub mod socket;

use crate::ids::StepId;
use crate::spec::Secret;
use crate::step::event::Event;
use crate::step::state::Status;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

/// What a call asks of the driver.
#[derive(Debug)]
pub enum Request {
    /// Something happened to the step.
    Event(Event),
    /// ChangeStepTimeConstraint; outer `None` leaves a constraint as it is.
    ChangeLimits {
        /// Seconds from the step's start.
        limit: Option<Option<i64>>,
        /// Unix seconds.
        deadline: Option<Option<i64>>,
    },
}

/// What calls are answered from.
#[derive(Debug)]
pub struct Snapshot {
    /// The step.
    pub id: StepId,
    /// Whether it is a pod step.
    pub is_pod: bool,
    env: Mutex<BTreeMap<String, Secret>>,
    /// Below the cgroup mount: where a user's ssh sessions belong; pod steps only.
    pub user_cgroup: Option<String>,
    status: AtomicU8,
}

impl Snapshot {
    /// A snapshot with the status a step begins in.
    pub fn new(id: StepId, is_pod: bool, env: BTreeMap<String, Secret>, user_cgroup: Option<String>) -> Self {
        let snapshot = Self { id, is_pod, env: Mutex::new(env), user_cgroup, status: AtomicU8::new(0) };
        snapshot.set(if is_pod { Status::Configuring } else { Status::Starting });
        snapshot
    }

    /// Changes the step's environment; the driver alone calls this.
    pub fn change_env(&self, change: impl FnOnce(&mut BTreeMap<String, Secret>)) {
        if let Ok(mut env) = self.env.lock() {
            change(&mut env);
        }
    }

    /// The step's environment, in the open.
    pub fn env(&self) -> HashMap<String, String> {
        let reveal = |(key, value): (&String, &Secret)| (key.clone(), value.reveal().to_owned());
        self.env.lock().map(|env| env.iter().map(reveal).collect()).unwrap_or_default()
    }

    /// Publishes a status; the driver alone calls this.
    pub fn set(&self, status: Status) {
        let number = match status {
            Status::Configuring => 0,
            Status::Starting => 1,
            Status::Running => 2,
            Status::Completing => 3,
        };
        self.status.store(number, Ordering::Release);
    }

    /// The status last published.
    pub fn status(&self) -> Status {
        match self.status.load(Ordering::Acquire) {
            0 => Status::Configuring,
            1 => Status::Starting,
            2 => Status::Running,
            _ => Status::Completing,
        }
    }
}
