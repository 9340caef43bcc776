//! From a container's description to CRI's container configuration. Pure.

use crate::cri::api::{
    Capability, CdiDevice, ContainerConfig, ContainerMetadata, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, Mount, MountPropagation, NamespaceMode,
    SupplementalGroupsPolicy,
};
use crate::cri::{labels, sandbox};
use crate::identity::idmap::Ranges;
use crate::identity::user::User;
use crate::ids::StepId;
use crate::layout;
use crate::mounts::plan;
use crate::spec::{ContainerSpec, Resources, Secret};
use crate::step::effects::Effects;
use std::path::PathBuf;

/// One CFS period in microseconds, the kernel's default.
const CPU_PERIOD: i64 = 100_000;
/// Annotation by which runtimes without the `CDI_devices` field take CDI names.
const CDI_ANNOTATION: &str = "cdi.k8s.io/crane";

/// What of the node's /proc and /sys no container may see; runtimes hide nothing unasked.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// What of /proc no container may change, uid 0 without capabilities included.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A mount as the runtime is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMount {
    /// A staged path of ours on the node.
    pub host: PathBuf,
    /// In the container.
    pub target: PathBuf,
    /// Not to be written through.
    pub read_only: bool,
}

/// What a container is given beside its description.
#[derive(Debug)]
pub struct Given<'a> {
    /// The job's user.
    pub user: &'a User,
    /// The ids of the pod's user namespace, if it has one.
    pub ranges: Option<Ranges>,
    /// The runtime's own id of the image.
    pub image: &'a str,
    /// Parents first.
    pub mounts: Vec<HostMount>,
    /// What the prologs asked for.
    pub effects: &'a Effects,
    /// The container whose processes it sees.
    pub pid_target: Option<&'a str>,
    /// Kept without a user namespace, at the administrator's word.
    pub capabilities: &'a [String],
}

/// The configuration of a step's container; `attempt` makes its name new after a failed try.
pub fn config(id: StepId, spec: &ContainerSpec, given: &Given<'_>, attempt: u32) -> ContainerConfig {
    let user = given.user;
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: labels::container_name(id), attempt }),
        image: Some(ImageSpec { image: given.image.to_owned(), user_specified_image: spec.image.reference.clone() }),
        command: spec.command.clone(),
        args: spec.args.clone(),
        working_dir: spec.workdir.clone(),
        envs: environment(spec, user, given.effects),
        mounts: given.mounts.iter().map(mount).collect(),
        labels: spec.labels.clone(),
        annotations: annotations(spec),
        log_path: layout::container_log_name(id),
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        tty: spec.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(&spec.resources)),
            security_context: Some(security(spec, given)),
        }),
        cdi_devices: spec.devices.iter().map(|name| CdiDevice { name: name.clone() }).collect(),
    }
}

/// Private: what is mounted on one side stays there.
fn mount(mount: &HostMount) -> Mount {
    Mount {
        container_path: mount.target.to_string_lossy().into_owned(),
        host_path: mount.host.to_string_lossy().into_owned(),
        readonly: mount.read_only,
        propagation: MountPropagation::PropagationPrivate.into(),
    }
}

fn environment(spec: &ContainerSpec, user: &User, effects: &Effects) -> Vec<KeyValue> {
    let mut env = spec.env.clone();
    effects.apply(&mut env);
    let from_passwd = [("HOME", &user.home), ("SHELL", &user.shell)];
    let missing = from_passwd.into_iter().filter(|(key, _)| spec.wants_user_env && !env.contains_key(*key));
    let missing = missing.map(|(key, value)| KeyValue { key: key.to_owned(), value: value.clone() });
    let given = env
        .iter()
        .map(|(key, value): (&String, &Secret)| KeyValue { key: key.clone(), value: value.reveal().to_owned() });
    given.chain(missing).collect()
}

fn annotations(spec: &ContainerSpec) -> std::collections::HashMap<String, String> {
    let mut annotations = spec.annotations.clone();
    if !spec.devices.is_empty() {
        annotations.insert(CDI_ANNOTATION.to_owned(), spec.devices.join(","));
    }
    annotations
}

/// No new privileges, and without a user namespace no capability at all: a
/// set-uid program in a user's image must not become root on the node. In one,
/// the runtime's usual capabilities reach only what belongs to the namespace.
fn security(spec: &ContainerSpec, given: &Given<'_>) -> LinuxContainerSecurityContext {
    let groups = match given.ranges {
        None => given.user.groups.clone(),
        Some(ranges) => plan::inside_groups(given.user, ranges),
    };
    let (add_capabilities, drop_capabilities) = match given.ranges {
        None => (given.capabilities.to_vec(), vec!["ALL".to_owned()]),
        Some(_) => (Vec::new(), Vec::new()),
    };
    let mut namespaces = sandbox::namespaces(spec.pod.namespaces, given.ranges);
    if let Some(target) = given.pid_target {
        namespaces.pid = NamespaceMode::Target.into();
        target.clone_into(&mut namespaces.target_id);
    }
    let id = |value: u32| Some(Int64Value { value: i64::from(value) });
    LinuxContainerSecurityContext {
        capabilities: Some(Capability { add_capabilities, drop_capabilities }),
        namespace_options: Some(namespaces),
        run_as_user: id(spec.pod.run_as_user),
        run_as_group: id(spec.pod.run_as_group),
        supplemental_groups: groups.into_iter().map(i64::from).collect(),
        supplemental_groups_policy: SupplementalGroupsPolicy::Strict.into(),
        no_new_privs: true,
        masked_paths: MASKED.map(str::to_owned).into(),
        readonly_paths: READ_ONLY.map(str::to_owned).into(),
        seccomp: Some(sandbox::seccomp()),
    }
}

/// CRI's zero means unset. Fractions of a CPU become a quota; shares follow.
fn resources(wanted: &Resources) -> LinuxContainerResources {
    let mut resources = LinuxContainerResources {
        cpuset_cpus: wanted.cpu_list.clone(),
        memory_limit_in_bytes: wanted.memory.unwrap_or(0),
        memory_swap_limit_in_bytes: wanted.memory_and_swap.unwrap_or(0),
        ..LinuxContainerResources::default()
    };
    if let Some(cpus) = wanted.cpus {
        resources.cpu_period = CPU_PERIOD;
        // The kernel's smallest quota is 1 ms, its smallest share 2.
        resources.cpu_quota = ((cpus * 100_000.0) as i64).max(1000);
        resources.cpu_shares = ((cpus * 1024.0) as i64).clamp(2, 262_144);
    }
    resources
}

/// Where a container's processes are, below a hierarchy's mount: containerd's name for it and CRI-O's.
///
/// Without a parent, below containerd's own default.
pub fn cgroups(id: &str, parent: Option<&str>) -> [String; 2] {
    let parent = parent.unwrap_or("/k8s.io").trim_end_matches('/');
    [format!("{parent}/{id}"), format!("{parent}/crio-{id}")]
}
