//! From a container's description to CRI's container configuration. Pure.

use crate::cri::api::{
    Capability, CdiDevice, ContainerConfig, ContainerMetadata, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, SupplementalGroupsPolicy,
};
use crate::cri::{labels, sandbox};
use crate::identity::user::User;
use crate::ids::StepId;
use crate::layout;
use crate::spec::{ContainerSpec, Resources, Secret};

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

/// The configuration of a step's container. `image` is the runtime's own id of it.
pub fn config(id: StepId, spec: &ContainerSpec, user: &User, image: &str, attempt: u32) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: labels::container_name(id), attempt }),
        image: Some(ImageSpec { image: image.to_owned(), user_specified_image: spec.image.reference.clone() }),
        command: spec.command.clone(),
        args: spec.args.clone(),
        working_dir: spec.workdir.clone(),
        envs: environment(spec, user),
        mounts: Vec::new(),
        labels: spec.labels.clone(),
        annotations: annotations(spec),
        log_path: layout::container_log_name(id),
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        tty: spec.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(&spec.resources)),
            security_context: Some(security(spec, user)),
        }),
        cdi_devices: spec.devices.iter().map(|name| CdiDevice { name: name.clone() }).collect(),
    }
}

fn environment(spec: &ContainerSpec, user: &User) -> Vec<KeyValue> {
    let from_passwd = [("HOME", &user.home), ("SHELL", &user.shell)];
    let missing = from_passwd.into_iter().filter(|(key, _)| spec.wants_user_env && !spec.env.contains_key(*key));
    let missing = missing.map(|(key, value)| KeyValue { key: key.to_owned(), value: value.clone() });
    let given = spec
        .env
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
/// set-uid program in a user's image must not become root on the node.
fn security(spec: &ContainerSpec, user: &User) -> LinuxContainerSecurityContext {
    let id = |value: u32| Some(Int64Value { value: i64::from(value) });
    LinuxContainerSecurityContext {
        capabilities: Some(Capability { add_capabilities: Vec::new(), drop_capabilities: vec!["ALL".to_owned()] }),
        namespace_options: Some(sandbox::namespaces(spec.pod.namespaces)),
        run_as_user: id(spec.pod.run_as_user),
        run_as_group: id(spec.pod.run_as_group),
        supplemental_groups: user.groups.iter().map(|&group| i64::from(group)).collect(),
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
