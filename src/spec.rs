//! The init message, checked: from here on no field is foreign input.
//!
//! Pure. A field that makes reporting impossible is a [`Refusal`], answered
//! `ok=false`; any other bad field is a [`Rejection`], accepted and reported
//! `Failed` with its reason, because craned's users never see why a supervisor
//! refused (craned contract). Every text names the field.

mod check;
mod container;
mod environment;
mod hooks;
mod image;
mod mount;
mod pod;
pub mod reference;
mod secret;
mod subid;

pub use container::{ContainerSpec, Resources};
pub use environment::{check_variable, is_craned as is_craned_variable};
pub use hooks::Hooks;
pub use image::{ImageSource, PullPolicy};
pub use mount::{BindfsSpec, MountSpec};
pub use pod::{Dns, IpcMode, Namespaces, NetworkMode, PidMode, PodSpec, Port};
pub use secret::Secret;
pub use subid::{SubIdMapping, SubIdPolicy};

use crate::cri::endpoint::Endpoint;
use crate::exit_code;
use crate::ids::StepId;
use crate::layout::{LogDir, TempDir};
use crate::step::advance::Advance;
use crate::step::timers::Limits;
use crate::wire::crane::signal::SignalFlag;
use crate::wire::crane::supervisor::InitSupervisorRequest;
use crate::wire::crane::{Signal, StepToD, StepType};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// Why a step is not taken at all.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct Refusal {
    /// The field of the init message.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// Why a step that is taken cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// craned's exit code.
    pub code: u32,
    /// One line for the user; begins with the field.
    pub reason: String,
}

impl Rejection {
    fn new(field: &str, problem: impl std::fmt::Display) -> Self {
        Self { code: exit_code::PREPARATION_FAILED, reason: format!("{field}: {problem}") }
    }

    fn of_user(field: &str, problem: impl std::fmt::Display) -> Self {
        Self { code: exit_code::PERMISSION_DENIED, reason: format!("{field}: {problem}") }
    }
}

/// Which of craned's steps a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Step 0 of a container job.
    Pod,
    /// The first step, by which the job's signals are meant.
    PrimaryContainer,
    /// A step added later.
    CommonContainer,
}

/// Where and how our own log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// What is written at all.
    pub level: LevelFilter,
    /// Bytes of one file; 0 is no limit.
    pub max_bytes: u64,
    /// Files kept, the current one included.
    pub max_files: u64,
}

/// What a step is to run.
#[derive(Debug)]
pub enum Work {
    /// Bring up the job's pod and hold it.
    Pod(Box<PodSpec>),
    /// Run a container in it.
    Container(Box<ContainerSpec>),
}

/// One step, checked.
#[derive(Debug)]
pub struct StepSpec {
    /// Which step.
    pub id: StepId,
    /// Which kind of step.
    pub kind: Kind,
    /// craned's name for this node.
    pub node: String,
    /// The job's user.
    pub uid: u32,
    /// Primary group first; empty where craned does not say.
    pub gids: Vec<u32>,
    /// Where craned takes reports.
    pub craned_socket: PathBuf,
    /// The container feature's directory.
    pub temp_dir: TempDir,
    /// The node's log directory.
    pub log_dir: LogDir,
    /// Our own log.
    pub log: LogSettings,
    /// The runtime's socket.
    pub runtime: Endpoint,
    /// The image service's socket.
    pub images: Endpoint,
    /// The limit of each ordinary CRI call, where craned sets one.
    pub call_limit: Option<Duration>,
    /// The step's environment as craned may ask for it.
    pub env: BTreeMap<String, Secret>,
    /// When it must end.
    pub limits: Limits,
    /// This supervisor's cgroup, for helpers; empty where craned made none.
    pub cgroup: String,
    /// Programs before and after it.
    pub hooks: Hooks,
    /// What to do, or why it cannot be done.
    pub work: Result<Work, Rejection>,
}

impl StepSpec {
    /// The container it is to run, if it is to run one.
    pub fn container(&self) -> Option<&ContainerSpec> {
        match &self.work {
            Ok(Work::Container(work)) => Some(work),
            Ok(Work::Pod(_)) | Err(_) => None,
        }
    }

    /// Where the user's subordinate ids come from, on a pod step that needs them; a
    /// container step takes the pod's.
    pub fn subids(&self) -> Option<&SubIdPolicy> {
        match &self.work {
            Ok(Work::Pod(pod)) => pod.userns.as_ref(),
            Ok(Work::Container(_)) | Err(_) => None,
        }
    }
}

/// Tells whether a step is ours at all: a pod step, or any other with a container.
pub fn kind_of(step: &StepToD) -> Option<Kind> {
    match (step.step_type(), &step.pod_meta, &step.container_meta) {
        (StepType::Daemon, Some(_), _) => Some(Kind::Pod),
        (StepType::Daemon, None, _) | (_, _, None) => None,
        (StepType::Primary, _, Some(_)) => Some(Kind::PrimaryContainer),
        (StepType::Invalid | StepType::Common, _, Some(_)) => Some(Kind::CommonContainer),
    }
}

/// Checks a whole init message.
///
/// # Errors
/// [`Refusal`] for what makes reporting impossible.
pub fn read(init: InitSupervisorRequest, kind: Kind) -> Result<StepSpec, Refusal> {
    let step = init.step_spec.as_ref().ok_or_else(|| check::refusal("step_spec", "missing"))?;
    let id = check::identity(&init, step)?;
    let config = init
        .container_config
        .as_ref()
        .ok_or_else(|| check::refusal("container_config", "missing: craned sends it where containers are enabled"))?;
    let runtime = check::endpoint("container_config.runtime_endpoint", &config.runtime_endpoint)?;
    let images = match config.image_endpoint.as_str() {
        "" => runtime.clone(),
        text => check::endpoint("container_config.image_endpoint", text)?,
    };
    check::absolute("crane_base_dir", &init.crane_base_dir)?;
    let temp_dir = TempDir::new(check::absolute("container_config.temp_dir", &config.temp_dir)?);
    let log_dir = LogDir::new(check::absolute("log_dir", &init.log_dir)?);
    let craned_socket = check::socket("craned_unix_socket_path", &init.craned_unix_socket_path)?;
    let log = LogSettings {
        level: check::level(&init.debug_level)?,
        max_bytes: init.max_log_file_size,
        max_files: init.max_log_file_num,
    };
    if kind != Kind::Pod && step.task_res_map.is_empty() {
        return Err(check::refusal("step_spec.task_res_map", "empty: a container step has one task"));
    }
    Ok(StepSpec {
        id,
        kind,
        node: init.craned_id.clone(),
        uid: step.uid,
        gids: step.gid.clone(),
        craned_socket,
        temp_dir,
        log_dir: log_dir.clone(),
        log,
        runtime,
        images,
        call_limit: seconds(config.cri_call_timeout),
        env: environment::of_step(&init, step),
        limits: limits(step).with_advances(advances(step, kind)),
        cgroup: init.supv_cgroup_path.clone(),
        hooks: hooks::read(&init, step, kind),
        work: work(&init, step, id, kind),
    })
}

fn work(init: &InitSupervisorRequest, step: &StepToD, id: StepId, kind: Kind) -> Result<Work, Rejection> {
    let pod = pod::read(init, step, id)?;
    match kind {
        Kind::Pod => Ok(Work::Pod(Box::new(pod))),
        Kind::PrimaryContainer | Kind::CommonContainer => {
            container::read(init, step, id, pod).map(|spec| Work::Container(Box::new(spec)))
        }
    }
}

/// craned's "infinite": the last second of the year 9999, as a time or as a duration.
const NEVER: i64 = 253_402_300_799;

/// Absent, zero and craned's infinite all mean none.
pub fn bounded(seconds: i64) -> Option<i64> {
    (seconds != 0 && seconds < NEVER).then_some(seconds)
}

fn limits(step: &StepToD) -> Limits {
    let limit = step.time_limit.as_ref().and_then(|limit| bounded(limit.seconds));
    let deadline = step.deadline_time.as_ref().and_then(|time| bounded(time.seconds));
    let started = step.start_time.as_ref().and_then(|time| bounded(time.seconds));
    Limits::new(limit, deadline, started)
}

/// Signals of the job's script are for its first step alone, the others for the later ones.
fn advances(step: &StepToD, kind: Kind) -> impl Iterator<Item = Advance> {
    let concerned = move |signal: &&Signal| match (kind, signal.signal_flag()) {
        (Kind::Pod, _) => false,
        (Kind::PrimaryContainer, flag) => flag == SignalFlag::BatchOnly,
        (Kind::CommonContainer, flag) => flag != SignalFlag::BatchOnly,
    };
    let advance = |signal: &Signal| Advance {
        number: signal.signal_number,
        before: Duration::from_secs(u64::from(signal.signal_time)),
    };
    step.signals.iter().filter(concerned).map(advance)
}

/// A limit in seconds; gRPC cannot even write down those past craned's infinite.
fn seconds(value: u64) -> Option<Duration> {
    let bounded = i64::try_from(value).ok().and_then(bounded)?;
    u64::try_from(bounded).ok().map(Duration::from_secs)
}
