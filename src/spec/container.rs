//! The container of a container step.

use super::{BindfsSpec, ImageSource, MountSpec, PodSpec, Rejection, Secret, environment, image, mount};
use crate::cri::labels;
use crate::ids::StepId;
use crate::wire::crane::supervisor::InitSupervisorRequest;
use crate::wire::crane::{ContainerJobAdditionalMeta, ResourceInNodeV3, StepToD};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// What a container may use; `None` leaves it to the job's cgroup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// The processors it may run on, as the kernel writes a list; empty is any of the job's.
    pub cpu_list: String,
    /// Whole and fractional CPUs.
    pub cpus: Option<f64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together.
    pub memory_and_swap: Option<i64>,
}

/// The container of a container step.
#[derive(Debug)]
pub struct ContainerSpec {
    /// The pod it runs in, as this step's message describes it.
    pub pod: PodSpec,
    /// Its image.
    pub image: ImageSource,
    /// Replaces the image's entrypoint where not empty.
    pub command: Vec<String>,
    /// Replaces the image's command where not empty.
    pub args: Vec<String>,
    /// Replaces the image's directory where not empty.
    pub workdir: String,
    /// The whole environment but the image's part.
    pub env: BTreeMap<String, Secret>,
    /// Set HOME and SHELL from the user's passwd entry where the environment has none.
    pub wants_user_env: bool,
    /// All labels.
    pub labels: HashMap<String, String>,
    /// The user's annotations that may pass.
    pub annotations: HashMap<String, String>,
    /// Keeps stdin open for attach.
    pub stdin: bool,
    /// Closes stdin when the first attached client leaves.
    pub stdin_once: bool,
    /// Gives it a terminal.
    pub tty: bool,
    /// CDI device names.
    pub devices: Vec<String>,
    /// Host directories and files, parents first.
    pub mounts: Vec<MountSpec>,
    /// The administrator's bindfs, for mounts in a user namespace.
    pub bindfs: Option<BindfsSpec>,
    /// Limits of its own.
    pub resources: Resources,
    /// The job's own cpuset, on v1: a container starts with all processors and is moved there.
    pub cpuset: Option<String>,
    /// Where the user's copy of the output goes.
    pub cwd: PathBuf,
}

pub(super) fn read(
    init: &InitSupervisorRequest,
    step: &StepToD,
    id: StepId,
    pod: PodSpec,
) -> Result<ContainerSpec, Rejection> {
    let meta = step.container_meta.as_ref().ok_or_else(|| Rejection::new("step_spec.container_meta", "missing"))?;
    if step.task_res_map.len() != 1 {
        return Err(Rejection::new("task_res_map", "Container steps only support exactly one task"));
    }
    if !meta.mounts.is_empty() && pod.userns.is_some() && step.uid == 0 {
        return Err(Rejection::of_user(
            "container_meta.mounts",
            "root's files are not mapped into a user namespace: submit the job as an ordinary user",
        ));
    }
    if !step.cwd.starts_with('/') || step.cwd.contains('\0') {
        return Err(Rejection::new("step_spec.cwd", format!("{:?} is not an absolute path", step.cwd)));
    }
    let config = init.container_config.clone().unwrap_or_default();
    let pull_limit = super::seconds(config.image_pull_timeout);
    let (annotations, _) = labels::allowed_annotations(&meta.annotations);
    let step_name = if meta.name.is_empty() { &step.name } else { &meta.name };
    Ok(ContainerSpec {
        image: image::read(meta.image.as_ref(), pull_limit)?,
        command: command(meta)?,
        args: arguments(&meta.args)?,
        workdir: workdir(meta)?,
        env: environment::of_container(init, step, &meta.env)?,
        wants_user_env: step.get_user_env,
        labels: labels::container(id, step.uid, &pod.job_name, step_name, &meta.labels),
        annotations,
        stdin: meta.stdin,
        stdin_once: meta.stdin_once,
        tty: meta.tty,
        devices: devices(&meta.cdi_devices)?,
        resources: resources(step),
        cpuset: super::pod::cpuset(&init.cpuset_cg_str)?,
        mounts: mount::read(&meta.mounts, Path::new(&step.cwd))?,
        bindfs: mount::bindfs(init)?,
        cwd: PathBuf::from(&step.cwd),
        pod,
    })
}

/// `vendor/class=device` (Container Device Interface); a comma would be two in the annotation.
fn devices(names: &[String]) -> Result<Vec<String>, Rejection> {
    let is_name = |name: &String| {
        let plain = !name.contains([',', '\0', '\n']);
        plain && name.split_once('=').is_some_and(|(kind, device)| kind.contains('/') && !device.is_empty())
    };
    match names.iter().find(|name| !is_name(name)) {
        None => Ok(names.to_vec()),
        Some(odd) => Err(Rejection::new("container_meta.cdi_devices", format!("{odd:?} is not vendor/class=device"))),
    }
}

fn command(meta: &ContainerJobAdditionalMeta) -> Result<Vec<String>, Rejection> {
    let words = if meta.command.is_empty() { Vec::new() } else { vec![meta.command.clone()] };
    no_nul("container_meta.command", words)
}

fn arguments(args: &[String]) -> Result<Vec<String>, Rejection> {
    no_nul("container_meta.args", args.to_vec())
}

fn no_nul(field: &str, words: Vec<String>) -> Result<Vec<String>, Rejection> {
    match words.iter().any(|word| word.contains('\0')) {
        true => Err(Rejection::new(field, "holds NUL, which no program can be given")),
        false => Ok(words),
    }
}

fn workdir(meta: &ContainerJobAdditionalMeta) -> Result<String, Rejection> {
    let text = &meta.workdir;
    match text.is_empty() || (text.starts_with('/') && !text.contains('\0')) {
        true => Ok(text.clone()),
        false => Err(Rejection::new("container_meta.workdir", format!("{text:?} is not an absolute path"))),
    }
}

/// The single task's share, else the step's.
fn resources(step: &StepToD) -> Resources {
    let share: Option<&ResourceInNodeV3> = step.task_res_map.values().next().or(step.res.as_ref());
    let Some(share) = share else {
        return Resources::default();
    };
    let bytes = |value: u64| i64::try_from(value).ok().filter(|&bytes| bytes > 0);
    Resources {
        cpu_list: share.cpu_ids.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        cpus: Some(share.cpu_count).filter(|cpus| cpus.is_finite() && *cpus > 0.0),
        memory: bytes(share.memory_bytes),
        memory_and_swap: bytes(share.memory_sw_bytes),
    }
}
