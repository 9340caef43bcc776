//! The steps of this node, from what their supervisors answer or left behind.
//!
//! Live ones answer on their control sockets or hold a lock, ended ones have a final
//! record, left-over ones a directory or a socket that nobody serves. Reads files and asks
//! supervisors, never the runtime: it works while that is down. Called by `ps`, `inspect`
//! and `stop`.

pub mod ended;
pub mod live;
pub mod own;

use crate::config::{Config, ConfigError};
use crate::ids::StepId;
use crate::layout::{LogDir, StepDir, TempDir};
use crate::logs::stamp;
use nix::unistd::{Uid, User};
use serde::Serialize;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long a name service may take for all names of a list; without an answer numbers are shown.
const NAMES_LIMIT: Duration = Duration::from_secs(2);

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
pub enum StepsError {
    /// Control sockets and directories are root's.
    #[error("{command} needs root: the control sockets and records of steps are root's alone; try sudo, or {instead}")]
    NotRoot {
        /// The command.
        command: &'static str,
        /// What a user can do without.
        instead: &'static str,
    },
    /// No configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel refuses what an event loop needs.
    #[error("cannot start the event loop: {0}")]
    EventLoop(#[source] io::Error),
    /// Nobody knows the step.
    #[error("step {0} is unknown on this node: see ps --all; or it ran elsewhere, or its record was removed")]
    Unknown(StepId),
}

/// Whether a supervisor has the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// One has.
    Live,
    /// One had, and all is done.
    Ended,
    /// One had, and was killed: something may still be owed.
    LeftOver,
}

/// A step, as far as the node can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Job number.
    pub job: u32,
    /// Step number.
    pub step: u32,
    /// Whether a supervisor has it.
    pub state: State,
    /// craned's word, or ours where nobody answers: docs/operating.md lists them.
    pub status: String,
    /// The job's user.
    pub uid: Option<u32>,
    /// Its login name.
    pub user: Option<String>,
    /// The container's image, as asked for.
    pub image: Option<String>,
    /// RFC 3339, UTC: a live step's start, an ended step's end, a left-over one's last change.
    pub since: Option<String>,
    /// The supervisor, or a reaper.
    pub pid: Option<i32>,
    /// Of the container: in use, or the most that was.
    pub memory_bytes: Option<u64>,
    /// craned's exit code, of an ended step.
    pub exit_code: Option<u32>,
    /// One line about the end.
    pub reason: Option<String>,
}

impl Step {
    /// One of which no more is known.
    pub fn new(id: StepId, state: State, status: impl Into<String>) -> Self {
        Self {
            job: id.job,
            step: id.step,
            state,
            status: status.into(),
            uid: None,
            user: None,
            image: None,
            since: None,
            pid: None,
            memory_bytes: None,
            exit_code: None,
            reason: None,
        }
    }

    /// Which it is.
    pub fn id(&self) -> StepId {
        StepId { job: self.job, step: self.step }
    }
}

/// Where a node's steps leave traces.
#[derive(Clone, Debug)]
pub struct Places {
    /// Every directory steps may have, the likelier first.
    pub temp_dirs: Vec<TempDir>,
    /// Logs and records.
    pub log_dir: LogDir,
}

impl Places {
    /// Those of the configuration at `path`; the caller must be root.
    pub fn read(path: &Path, command: &'static str, instead: &'static str) -> Result<Self, StepsError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(StepsError::NotRoot { command, instead });
        }
        let (config, _notes) = Config::read(path)?;
        Ok(Self {
            temp_dirs: config.temp_dirs().into_iter().map(TempDir::new).collect(),
            log_dir: LogDir::new(config.log_dir()),
        })
    }

    /// The directory of a step, where it has one.
    pub fn dir(&self, id: StepId) -> Option<StepDir> {
        self.temp_dirs.iter().map(|temp| temp.step(id)).find(|dir| dir.path().is_dir())
    }
}

/// What the questions are asked in.
pub fn event_loop() -> Result<tokio::runtime::Runtime, StepsError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StepsError::EventLoop)
}

/// A moment as all of them are written here.
pub fn written(time: SystemTime) -> String {
    let stamp = stamp::rfc3339_micros(time.duration_since(UNIX_EPOCH).unwrap_or_default());
    String::from_utf8_lossy(&stamp).into_owned()
}

/// Fills login names in; a name service that hangs costs the names.
pub async fn name_users(steps: &mut [Step]) {
    let mut uids: Vec<u32> = steps.iter().filter_map(|step| step.uid).collect();
    uids.sort_unstable();
    uids.dedup();
    let look = spawn_blocking(move || {
        let name = |uid| Some((uid, User::from_uid(Uid::from_raw(uid)).ok()??.name));
        uids.into_iter().filter_map(name).collect::<HashMap<_, _>>()
    });
    let Ok(Ok(names)) = timeout(NAMES_LIMIT, look).await else { return };
    for step in steps {
        step.user = step.uid.and_then(|uid| names.get(&uid).cloned());
    }
}
