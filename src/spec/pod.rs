//! A job's pod, as every step of the job describes it.

use super::{Rejection, SubIdPolicy};
use crate::cri::labels;
use crate::ids::StepId;
use crate::wire::crane::PodJobAdditionalMeta;
use crate::wire::crane::StepToD;
use crate::wire::crane::pod_job_additional_meta::{NamespaceMode, PortMapping};
use crate::wire::crane::supervisor::InitSupervisorRequest;
use std::collections::HashMap;
use std::net::IpAddr;

/// Whose network a pod uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// Its own, made by CNI.
    Pod,
    /// The node's.
    Node,
}

/// Whose processes a container sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidMode {
    /// The pod's.
    Pod,
    /// Its own only.
    Container,
    /// Another container's of the same job.
    Target,
}

/// Whose IPC objects a container sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpcMode {
    /// The pod's: the only one a user may have.
    Pod,
}

/// The namespaces of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// Network.
    pub network: NetworkMode,
    /// Processes.
    pub pid: PidMode,
    /// System V and POSIX IPC.
    pub ipc: IpcMode,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// CRI's number for TCP, UDP or SCTP, the same as craned's.
    pub protocol: i32,
    /// Inside.
    pub container: i32,
    /// On the node.
    pub host: i32,
    /// The node's address; empty is every one.
    pub ip: String,
}

/// What a pod's resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// The user's, then the configured ones.
    pub servers: Vec<String>,
    /// Begins with the cluster's domain.
    pub searches: Vec<String>,
    /// As configured.
    pub options: Vec<String>,
}

/// A job's pod.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// The job.
    pub job: u32,
    /// The job's user.
    pub uid: u32,
    /// The job's name.
    pub job_name: String,
    /// Unique per job and node.
    pub pod_uid: String,
    /// Pod name and hostname.
    pub hostname: String,
    /// `<hostname>.<ClusterDomain>`.
    pub fqdn: String,
    /// All labels.
    pub labels: HashMap<String, String>,
    /// The user's annotations that may pass.
    pub annotations: HashMap<String, String>,
    /// Keys of annotations that may not, for a warning.
    pub refused_annotations: Vec<String>,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// With [`PidMode::Target`]: a container's id, or a step's number.
    pub pid_target: Option<String>,
    /// Published ports; none on the node's network.
    pub ports: Vec<Port>,
    /// Name resolution.
    pub dns: Dns,
    /// CRI `cgroup_parent`, relative to the cgroup root; `None` leaves it to the runtime.
    pub cgroup_parent: Option<String>,
    /// Where the runtime writes container logs.
    pub log_directory: String,
    /// A user namespace of its own, and where its ids come from.
    pub userns: Option<SubIdPolicy>,
    /// The user inside.
    pub run_as_user: u32,
    /// The primary group inside.
    pub run_as_group: u32,
}

pub(super) fn read(init: &InitSupervisorRequest, step: &StepToD, id: StepId) -> Result<PodSpec, Rejection> {
    let meta = step
        .pod_meta
        .as_ref()
        .ok_or_else(|| Rejection::new("step_spec.pod_meta", "missing: craned sends it on every container step"))?;
    let (run_as_user, run_as_group) = run_as(meta, step)?;
    let namespaces = namespaces(meta)?;
    let domain = cluster_domain(init);
    let hostname = labels::pod_name(id.job, &init.craned_id);
    let (annotations, refused_annotations) = labels::allowed_annotations(&meta.annotations);
    let job_name = job_name(init, step);
    Ok(PodSpec {
        job: id.job,
        uid: step.uid,
        pod_uid: format!("{}-{}", id.job, init.craned_id),
        fqdn: format!("{hostname}.{domain}"),
        hostname,
        labels: labels::pod(id.job, step.uid, &job_name, &meta.labels),
        job_name,
        annotations,
        refused_annotations,
        namespaces,
        pid_target: pid_target(meta, namespaces.pid)?,
        ports: if namespaces.network == NetworkMode::Node {
            Vec::new()
        } else {
            meta.ports.iter().map(port).collect::<Result<_, _>>()?
        },
        dns: dns(init, meta, &domain)?,
        cgroup_parent: cgroup_parent(&init.supv_cgroup_path)?,
        log_directory: init.log_dir.clone(),
        userns: meta.userns.then(|| SubIdPolicy::read(init)).transpose()?,
        run_as_user,
        run_as_group,
    })
}

fn job_name(init: &InitSupervisorRequest, step: &StepToD) -> String {
    if init.job_name.is_empty() { step.name.clone() } else { init.job_name.clone() }
}

/// Without a user namespace only the job's own user; root may be anyone. In one, the
/// ids must lie in its range, which is not known yet.
fn run_as(meta: &PodJobAdditionalMeta, step: &StepToD) -> Result<(u32, u32), Rejection> {
    let (user, group) = (meta.run_as_user, meta.run_as_group);
    if meta.userns {
        return Ok((user, group));
    }
    if step.uid != 0 && user != step.uid {
        return Err(Rejection::of_user(
            "pod_meta.run_as_user",
            format!("{user} is not the job's user {}; use a user namespace", step.uid),
        ));
    }
    if step.uid != 0 && !step.gid.is_empty() && !step.gid.contains(&group) {
        return Err(Rejection::of_user(
            "pod_meta.run_as_group",
            format!("{group} is none of the job's groups {:?}", step.gid),
        ));
    }
    Ok((user, group))
}

fn namespaces(meta: &PodJobAdditionalMeta) -> Result<Namespaces, Rejection> {
    let asked = meta.namespace.clone().unwrap_or_default();
    let network = match asked.network() {
        NamespaceMode::Pod => NetworkMode::Pod,
        NamespaceMode::Node => NetworkMode::Node,
        other @ (NamespaceMode::Container | NamespaceMode::Target) => {
            return Err(mode("network", other, "POD or NODE"));
        }
    };
    let pid = match asked.pid() {
        NamespaceMode::Pod => PidMode::Pod,
        NamespaceMode::Container => PidMode::Container,
        NamespaceMode::Target => PidMode::Target,
        other @ NamespaceMode::Node => {
            return Err(mode("pid", other, "POD, CONTAINER or TARGET"));
        }
    };
    let ipc = match asked.ipc() {
        NamespaceMode::Pod => IpcMode::Pod,
        other @ (NamespaceMode::Container | NamespaceMode::Node | NamespaceMode::Target) => {
            return Err(mode("ipc", other, "POD"));
        }
    };
    Ok(Namespaces { network, pid, ipc })
}

/// Whether it is one of the job's own the runtime's list tells.
fn pid_target(meta: &PodJobAdditionalMeta, pid: PidMode) -> Result<Option<String>, Rejection> {
    let id = meta.namespace.as_ref().map_or("", |namespace| namespace.target_id.as_str());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match pid {
        PidMode::Pod | PidMode::Container => Ok(None),
        PidMode::Target if (1..=128).contains(&id.len()) && id.bytes().all(plain) => Ok(Some(id.to_owned())),
        PidMode::Target => {
            let problem = "pid is TARGET: expected the id of a container of this job, or the number of its step";
            Err(Rejection::new("pod_meta.namespace.target_id", problem))
        }
    }
}

fn mode(which: &str, got: NamespaceMode, allowed: &str) -> Rejection {
    Rejection::new(&format!("pod_meta.namespace.{which}"), format!("{} is not allowed: {allowed}", got.as_str_name()))
}

fn port(mapping: &PortMapping) -> Result<Port, Rejection> {
    const FIELD: &str = "pod_meta.ports";
    for (which, number) in [("container_port", mapping.container_port), ("host_port", mapping.host_port)] {
        if !(1..=65_535).contains(&number) {
            return Err(Rejection::new(FIELD, format!("{which} {number} is not between 1 and 65535")));
        }
    }
    if !mapping.host_ip.is_empty() && mapping.host_ip.parse::<IpAddr>().is_err() {
        return Err(Rejection::new(FIELD, format!("host_ip {:?} is not an address", mapping.host_ip)));
    }
    Ok(Port {
        protocol: mapping.protocol,
        container: mapping.container_port,
        host: mapping.host_port,
        ip: mapping.host_ip.clone(),
    })
}

/// Blanks and dots around it do not count; empty is Kubernetes' default.
fn cluster_domain(init: &InitSupervisorRequest) -> String {
    let configured = init.container_config.as_ref().and_then(|config| config.dns_config.as_ref());
    let text = configured.map_or("", |dns| dns.cluster_domain.trim_matches([' ', '.', '\t']));
    if text.is_empty() { "cluster.local".to_owned() } else { text.to_owned() }
}

fn dns(init: &InitSupervisorRequest, meta: &PodJobAdditionalMeta, domain: &str) -> Result<Dns, Rejection> {
    let configured = init.container_config.as_ref().and_then(|config| config.dns_config.clone()).unwrap_or_default();
    for server in &meta.dns_servers {
        if server.parse::<IpAddr>().is_err() {
            return Err(Rejection::new("pod_meta.dns_servers", format!("{server:?} is not an address")));
        }
    }
    let servers = meta.dns_servers.iter().cloned().chain(configured.servers).collect();
    let searches = std::iter::once(domain.to_owned()).chain(configured.searches).collect();
    Ok(Dns { servers, searches, options: configured.options })
}

/// From craned's path of our own cgroup to the job's, two levels up, as CRI wants it.
///
/// Passed on as a host path it would put the container outside the job.
fn cgroup_parent(supervisor: &str) -> Result<Option<String>, Rejection> {
    const ROOT: &str = "/sys/fs/cgroup";
    if supervisor.is_empty() {
        return Ok(None);
    }
    let problem = |text: &str| Rejection {
        code: crate::exit_code::CGROUP_ERROR,
        reason: format!("supv_cgroup_path: {supervisor:?} {text}"),
    };
    let below = supervisor.strip_prefix(ROOT).ok_or_else(|| problem("is not below /sys/fs/cgroup"))?;
    let mut parts: Vec<&str> = below.split('/').filter(|part| !part.is_empty()).collect();
    if parts.contains(&"..") || parts.len() < 3 {
        return Err(problem("is not …/job_J/step_S/system"));
    }
    parts.truncate(parts.len() - 2);
    Ok(Some(format!("/{}", parts.join("/"))))
}

/// The job's cpuset on v1, from the root of that hierarchy.
pub(super) fn cpuset(text: &str) -> Result<Option<String>, Rejection> {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    match parts[..] {
        [] => Ok(None),
        _ if parts.contains(&"..") || text.contains('\0') => Err(Rejection {
            code: crate::exit_code::CGROUP_ERROR,
            reason: format!("cpuset_cg_str: {text:?} holds '..' or NUL"),
        }),
        _ => Ok(Some(format!("/crane/{}", parts.join("/")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::crane::pod_job_additional_meta::NamespaceOption;

    #[test]
    fn the_jobs_cgroup_is_two_levels_up_and_without_the_mount_point() {
        let parent = |path| cgroup_parent(path).map_err(|rejection| rejection.code);
        assert_eq!(parent("/sys/fs/cgroup/crane/job_7/step_1/system"), Ok(Some("/crane/job_7".into())));
        assert_eq!(
            parent("/sys/fs/cgroup/crane/overflow/job_7/step_1/system"),
            Ok(Some("/crane/overflow/job_7".into()))
        );
        assert_eq!(parent(""), Ok(None));
        for bad in ["/crane/job_7/step_1/system", "/sys/fs/cgroup/system", "/sys/fs/cgroup/a/../b/c/d"] {
            assert_eq!(parent(bad), Err(322), "{bad}");
        }
    }

    #[test]
    fn only_the_jobs_own_user_runs_without_a_user_namespace() {
        let meta = |user, group| PodJobAdditionalMeta { run_as_user: user, run_as_group: group, ..Default::default() };
        let step = |uid, gid: &[u32]| StepToD { uid, gid: gid.to_vec(), ..Default::default() };
        assert!(run_as(&meta(1000, 1000), &step(1000, &[1000, 50])).is_ok());
        assert!(run_as(&meta(1000, 50), &step(1000, &[1000, 50])).is_ok());
        assert_eq!(run_as(&meta(0, 0), &step(1000, &[1000])).unwrap_err().code, 321);
        assert_eq!(run_as(&meta(1000, 0), &step(1000, &[1000])).unwrap_err().code, 321);
        assert!(run_as(&meta(4242, 4242), &step(0, &[0])).is_ok());
    }

    #[test]
    fn a_target_is_named_plainly_or_refused() {
        let of = |id: &str| {
            let namespace = NamespaceOption { target_id: id.into(), ..Default::default() };
            let meta = PodJobAdditionalMeta { namespace: Some(namespace), ..Default::default() };
            pid_target(&meta, PidMode::Target)
        };
        assert_eq!((of("1").unwrap(), of("0a-f_9").unwrap()), (Some("1".into()), Some("0a-f_9".into())));
        for bad in ["", "a/b", "a b", "a\0", &"x".repeat(129)] {
            assert!(of(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(pid_target(&PodJobAdditionalMeta::default(), PidMode::Pod), Ok(None));
    }

    #[test]
    fn the_nodes_processes_are_never_shown() {
        for (pid, ipc) in [(NamespaceMode::Node, NamespaceMode::Pod), (NamespaceMode::Pod, NamespaceMode::Node)] {
            let namespace = NamespaceOption { pid: pid.into(), ipc: ipc.into(), ..Default::default() };
            assert!(namespaces(&PodJobAdditionalMeta { namespace: Some(namespace), ..Default::default() }).is_err());
        }
    }
}
