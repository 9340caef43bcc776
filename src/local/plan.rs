//! From what the caller of `run` asked for to the two init messages craned would send.
//!
//! Pure. What the caller did not ask for follows the configuration.

use crate::config;
use crate::local::place::Place;
use crate::spec::{Secret, SubIdPolicy};
use crate::wire::crane::container_job_additional_meta::ImageInfo;
use crate::wire::crane::pod_job_additional_meta as pod;
use crate::wire::crane::supervisor::InitSupervisorRequest;
use crate::wire::crane::supervisor::init_supervisor_request as init;
use crate::wire::crane::{
    ContainerJobAdditionalMeta, JobType, PodJobAdditionalMeta, ResourceInNodeV3, StepToD, StepType,
};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// The pod step's number.
pub const POD_STEP: u32 = 0;
/// The container step's number.
pub const CONTAINER_STEP: u32 = 1;

/// A container job, as asked for.
pub struct Request {
    /// The node's configuration.
    pub node: config::Container,
    /// The node's name, as craned's id of it.
    pub node_name: String,
    /// The supervisor program.
    pub program: PathBuf,
    /// Name of the job.
    pub name: String,
    /// The image.
    pub image: String,
    /// User name and password for its registry.
    pub credentials: Option<(String, Secret)>,
    /// Always, IfNotPresent or Never.
    pub pull_policy: &'static str,
    /// Replaces the image's entrypoint.
    pub entrypoint: Option<String>,
    /// Replaces the image's command, unless empty.
    pub command: Vec<String>,
    /// Working directory in the container.
    pub workdir: Option<String>,
    /// The container's environment beyond the image's.
    pub env: HashMap<String, String>,
    /// The job's user.
    pub user: Ids,
    /// Ids of the container's processes.
    pub run_as: RunAs,
    /// Whether the pod gets users of its own; `None`: as configured, where the runtime can.
    pub user_namespace: Option<bool>,
    /// Host paths in the container.
    pub mounts: Vec<Mount>,
    /// `None`: whatever the runtime has.
    pub network: Option<Network>,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// Name servers of the pod.
    pub dns: Vec<IpAddr>,
    /// Time limit.
    pub time: Option<Duration>,
    /// Memory limit in bytes.
    pub memory: Option<u64>,
    /// CPUs.
    pub cpus: Option<f64>,
    /// The step's working directory on the node.
    pub cwd: PathBuf,
    /// Whether traces are kept after a success.
    pub keep: bool,
    /// Whether the program has an input, and a terminal.
    pub interaction: Interaction,
}

/// What a program has of the person who started it, besides being seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interaction {
    /// An input.
    pub stdin: bool,
    /// A terminal, for input and output.
    pub tty: bool,
}

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// Ids of the container's processes, which depend on whose users they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// With the node's users.
    pub on_node: Ids,
    /// With users of the pod's own.
    pub in_namespace: Ids,
}

/// A host path in the container, as the map in craned's message writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Path on the node; a relative one starts at the working directory.
    pub host: String,
    /// Absolute path in the container, with `:ro` or `:rw` where that was said.
    pub container: String,
}

/// What the pod has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isolation {
    /// Its network.
    pub network: Network,
    /// Its users.
    pub users: Users,
}

/// Whose uids and gids there are in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// The node's.
    Nodes,
    /// Its own, in a user namespace.
    Own,
}

/// Which network the pod is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The node's own.
    Node,
    /// One of its own, made by the runtime.
    Pod,
}

/// A port of the node that leads to one of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Address of the node; all of them without.
    pub host_ip: Option<IpAddr>,
    /// Port of the node.
    pub host: u16,
    /// Port of the container.
    pub container: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// Transport of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, unless said otherwise.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// The init message of the pod step.
pub fn pod_step(request: &Request, place: &Place, isolation: Isolation) -> InitSupervisorRequest {
    let mut message = common(request, place, POD_STEP);
    message.step_spec = Some(StepToD {
        step_type: StepType::Daemon.into(),
        pod_meta: Some(pod_meta(request, isolation)),
        ..step(request, place, POD_STEP)
    });
    message
}

/// The init message of the container step.
pub fn container_step(request: &Request, place: &Place, isolation: Isolation) -> InitSupervisorRequest {
    let mut message = common(request, place, CONTAINER_STEP);
    message.step_spec = Some(StepToD {
        step_type: StepType::Primary.into(),
        pod_meta: Some(pod_meta(request, isolation)),
        container_meta: Some(container_meta(request)),
        // The one task of a container step has all of it.
        task_res_map: HashMap::from([(0, resources(request))]),
        time_limit: request.time.and_then(|time| prost_types::Duration::try_from(time).ok()),
        ..step(request, place, CONTAINER_STEP)
    });
    message
}

fn common(request: &Request, place: &Place, step_id: u32) -> InitSupervisorRequest {
    let node = &request.node;
    InitSupervisorRequest {
        job_lifecycle_hook_config: None,
        cpuset_cg_str: String::new(),
        job_id: place.job(),
        step_id,
        debug_level: node.debug_level.clone(),
        craned_id: request.node_name.clone(),
        craned_unix_socket_path: text(place.craned_socket()),
        crane_base_dir: text(&node.base_dir),
        job_name: request.name.clone(),
        container_config: Some(container_config(node)),
        step_spec: None,
        env: HashMap::from([
            ("CRANE_JOB_ID".into(), place.job().to_string()),
            ("CRANE_JOB_NAME".into(), request.name.clone()),
            ("CRANE_JOB_NODELIST".into(), request.node_name.clone()),
        ]),
        log_dir: text(&node.log_dir),
        // No cgroup of a job here: the runtime's own parent is used.
        supv_cgroup_path: String::new(),
        max_log_file_size: node.max_log_file_size,
        max_log_file_num: node.max_log_file_num,
        enable_slurm_compatible_env: false,
    }
}

fn container_config(node: &config::Container) -> init::ContainerConfig {
    use init::container_config::{BindFsConfig, DnsConfig};
    init::ContainerConfig {
        temp_dir: text(&node.temp_dir),
        runtime_endpoint: format!("unix://{}", node.runtime_socket.display()),
        image_endpoint: format!("unix://{}", node.image_socket.display()),
        bindfs: node.bind_fs.as_ref().map(|bind_fs| BindFsConfig {
            bindfs_binary: bind_fs.bindfs_binary.clone(),
            fusermount_binary: bind_fs.fusermount_binary.clone(),
            mount_base_dir: text(&bind_fs.mount_base_dir),
        }),
        subid: Some(sub_id(&node.sub_id)),
        dns_config: Some(DnsConfig {
            cluster_domain: node.dns.cluster_domain.clone(),
            servers: node.dns.servers.clone(),
            searches: node.dns.searches.clone(),
            options: node.dns.options.clone(),
        }),
        image_pull_timeout: node.image_pulling_timeout.unwrap_or(0),
        cri_call_timeout: node.cri_request_timeout.unwrap_or(0),
    }
}

fn sub_id(section: &config::file::SubIdSection) -> init::container_config::SubIdConfig {
    init::container_config::SubIdConfig {
        managed: section.managed,
        uid_mappings: section.uid_mappings.iter().map(mapping).collect(),
        gid_mappings: section.gid_mappings.iter().map(mapping).collect(),
    }
}

/// The policy that a supervisor makes of the section.
///
/// # Errors
/// The reason for which it would fail every pod step that wants a user namespace.
pub fn sub_id_policy(section: &config::file::SubIdSection) -> Result<SubIdPolicy, String> {
    let config = init::ContainerConfig { subid: Some(sub_id(section)), ..init::ContainerConfig::default() };
    let message = InitSupervisorRequest { container_config: Some(config), ..InitSupervisorRequest::default() };
    SubIdPolicy::read(&message).map_err(|rejection| rejection.reason)
}

fn mapping(section: &config::file::MappingSection) -> init::container_config::sub_id_config::Mapping {
    init::container_config::sub_id_config::Mapping {
        id: section.id,
        id_count: section.id_count,
        subid_start: section.sub_id_start,
        subid_size: section.sub_id_size,
    }
}

fn step(request: &Request, place: &Place, step_id: u32) -> StepToD {
    StepToD {
        job_id: place.job(),
        step_id,
        res: Some(resources(request)),
        r#type: JobType::Container.into(),
        uid: request.user.uid,
        gid: vec![request.user.gid],
        start_time: Some(SystemTime::now().into()),
        cwd: text(&request.cwd),
        name: request.name.clone(),
        ..StepToD::default()
    }
}

/// Without `--mem` and `-c` nothing is limited.
fn resources(request: &Request) -> ResourceInNodeV3 {
    ResourceInNodeV3 {
        cpu_ids: Vec::new(),
        cpu_count: request.cpus.unwrap_or(0.0),
        memory_bytes: request.memory.unwrap_or(0),
        // As craned sets it: no swap beyond the memory.
        memory_sw_bytes: request.memory.unwrap_or(0),
    }
}

fn pod_meta(request: &Request, isolation: Isolation) -> PodJobAdditionalMeta {
    let (userns, run_as) = match isolation.users {
        Users::Nodes => (false, request.run_as.on_node),
        Users::Own => (true, request.run_as.in_namespace),
    };
    let network = match isolation.network {
        Network::Node => pod::NamespaceMode::Node,
        Network::Pod => pod::NamespaceMode::Pod,
    };
    PodJobAdditionalMeta {
        name: request.name.clone(),
        namespace: Some(pod::NamespaceOption {
            network: network.into(),
            pid: pod::NamespaceMode::Container.into(),
            ipc: pod::NamespaceMode::Pod.into(),
            target_id: String::new(),
        }),
        userns,
        run_as_user: run_as.uid,
        run_as_group: run_as.gid,
        ports: request.ports.iter().map(port).collect(),
        dns_servers: request.dns.iter().map(IpAddr::to_string).collect(),
        ..PodJobAdditionalMeta::default()
    }
}

fn port(port: &PortMapping) -> pod::PortMapping {
    let protocol = match port.protocol {
        Protocol::Tcp => pod::port_mapping::Protocol::Tcp,
        Protocol::Udp => pod::port_mapping::Protocol::Udp,
        Protocol::Sctp => pod::port_mapping::Protocol::Sctp,
    };
    pod::PortMapping {
        protocol: protocol.into(),
        container_port: port.container.into(),
        host_port: port.host.into(),
        host_ip: port.host_ip.map_or_else(String::new, |ip| ip.to_string()),
    }
}

fn container_meta(request: &Request) -> ContainerJobAdditionalMeta {
    ContainerJobAdditionalMeta {
        name: request.name.clone(),
        image: Some(ImageInfo {
            image: request.image.clone(),
            pull_policy: request.pull_policy.to_owned(),
            username: request.credentials.as_ref().map(|(name, _)| name.clone()).unwrap_or_default(),
            password: request.credentials.as_ref().map(|(_, word)| word.reveal().to_owned()).unwrap_or_default(),
            ..ImageInfo::default()
        }),
        command: request.entrypoint.clone().unwrap_or_default(),
        args: request.command.clone(),
        workdir: request.workdir.clone().unwrap_or_default(),
        env: request.env.clone(),
        mounts: request.mounts.iter().map(|mount| (mount.host.clone(), mount.container.clone())).collect(),
        tty: request.interaction.tty,
        stdin: request.interaction.stdin,
        // The end of ours is the end of its; a terminal stays, for whoever comes back.
        stdin_once: request.interaction.stdin && !request.interaction.tty,
        ..ContainerJobAdditionalMeta::default()
    }
}

/// The wire has text only; paths come from a text file or from our own names.
fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
