//! The programs of administrator and user around a step.

use super::Kind;
use crate::wire::crane::StepToD;
use crate::wire::crane::supervisor::InitSupervisorRequest;
use crate::wire::crane::supervisor::init_supervisor_request::JobLifecycleHookConfig;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where craned sets no limit.
const LIMIT: Duration = Duration::from_secs(300);
/// Bytes of output where craned sets no limit, and the most that is taken.
const OUTPUT: u64 = 1 << 20;

/// The programs before and after a step.
#[derive(Debug)]
pub struct Hooks {
    /// Run before the container, or once the pod is up; one that fails is the step's failure.
    pub prologs: Vec<PathBuf>,
    /// Run at the end.
    pub epilogs: Vec<PathBuf>,
    /// For all prologs together.
    pub prolog_limit: Duration,
    /// For all epilogs together.
    pub epilog_limit: Duration,
    /// Bytes of their output that are kept.
    pub max_output: u64,
    /// What is not an absolute path.
    pub unusable: Option<String>,
    /// The environment of those that run as root: craned's own names, from craned alone.
    pub root_env: BTreeMap<String, String>,
}

impl Hooks {
    /// Whether there are any.
    pub fn any(&self) -> bool {
        !(self.prologs.is_empty() && self.epilogs.is_empty())
    }
}

pub(super) fn read(init: &InitSupervisorRequest, step: &StepToD, kind: Kind) -> Hooks {
    let config = init.job_lifecycle_hook_config.clone().unwrap_or_default();
    let both = |nodes: &[String], own: &str| -> Vec<PathBuf> {
        nodes.iter().map(String::as_str).chain([own]).filter(|path| !path.is_empty()).map(PathBuf::from).collect()
    };
    let (prologs, epilogs) = match kind {
        Kind::Pod => (both(&config.prologs, ""), both(&config.epilogs, "")),
        Kind::PrimaryContainer | Kind::CommonContainer => {
            (both(&config.task_prologs, &step.task_prolog), both(&config.task_epilogs, &step.task_epilog))
        }
    };
    let unusable = prologs.iter().chain(&epilogs).find(|path| !is_usable(path));
    let unusable = unusable.map(|path| format!("{path:?} is not an absolute path"));
    // What the job's user chose, such as a library to load, must not reach a program of root's.
    let craneds = init.env.iter().filter(|(key, value)| super::is_craned_variable(key) && !value.contains('\0'));
    Hooks {
        prologs,
        epilogs,
        prolog_limit: limit(&config, config.prolog_timeout),
        epilog_limit: limit(&config, config.epilog_timeout),
        max_output: Some(config.max_output_size).filter(|&size| size > 0).map_or(OUTPUT, |size| size.min(OUTPUT)),
        unusable,
        root_env: craneds.map(|(key, value)| (key.clone(), value.clone())).collect(),
    }
}

fn is_usable(path: &Path) -> bool {
    path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0)
}

fn limit(config: &JobLifecycleHookConfig, own: u32) -> Duration {
    let seconds = if config.prolog_epilog_timeout > 0 { config.prolog_epilog_timeout } else { own };
    if seconds > 0 { Duration::from_secs(u64::from(seconds)) } else { LIMIT }
}
