//! From a pod's description to CRI's sandbox configuration. Pure.

use crate::cri::api::{
    DnsConfig, IdMapping, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, PortMapping, SecurityProfile, UserNamespace, security_profile::ProfileType,
};
use crate::cri::labels::{INTERNAL, NAMESPACE};
use crate::identity::idmap::{Range, Ranges};
use crate::spec::{IpcMode, Namespaces, NetworkMode, PidMode, PodSpec};
use prost::Message;
use std::collections::HashMap;

/// A sandbox configuration, opaque outside `cri`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config(pub(super) PodSandboxConfig);

impl Config {
    /// As protobuf.
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// The ids of its user namespace; `None` where it has none.
    pub fn ranges(&self) -> Option<Ranges> {
        let context = self.0.linux.as_ref()?.security_context.as_ref()?;
        let options = context.namespace_options.as_ref()?.userns_options.as_ref()?;
        let range = |mappings: &[IdMapping]| {
            let [IdMapping { host_id, container_id: 0, length }] = *mappings else { return None };
            Range::new(u64::from(host_id), u64::from(length)).ok()
        };
        Some(Ranges { uids: range(&options.uids)?, gids: range(&options.gids)? })
    }

    /// Whether it has this port of the node, on one of the same addresses.
    pub fn publishes(&self, port: &crate::spec::Port) -> bool {
        self.0.port_mappings.iter().any(|own| {
            let same_place = own.host_ip.is_empty() || port.ip.is_empty() || own.host_ip == port.ip;
            own.host_port == port.host && own.protocol == port.protocol && same_place
        })
    }

    /// From protobuf.
    ///
    /// # Errors
    /// If the bytes are no such message.
    pub fn decode(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        PodSandboxConfig::decode(bytes).map(Self)
    }
}

/// The configuration of a job's pod; `attempt` makes its name new after a failed try.
pub fn config(pod: &PodSpec, ranges: Option<Ranges>, attempt: u32) -> Config {
    let own_network = pod.namespaces.network == NetworkMode::Pod;
    Config(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.hostname.clone(),
            uid: pod.pod_uid.clone(),
            namespace: NAMESPACE.to_owned(),
            attempt,
        }),
        hostname: if own_network { pod.hostname.clone() } else { String::new() },
        log_directory: pod.log_directory.clone(),
        dns_config: dns(pod),
        port_mappings: pod.ports.iter().map(port).collect(),
        labels: pod.labels.clone(),
        annotations: annotations(pod),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: pod.cgroup_parent.clone().unwrap_or_default(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod.namespaces, ranges)),
                seccomp: Some(seccomp()),
            }),
        }),
    })
}

/// The namespaces of pod and container alike: runtimes want them equal.
pub fn namespaces(wanted: Namespaces, ranges: Option<Ranges>) -> NamespaceOption {
    let network = match wanted.network {
        NetworkMode::Pod => NamespaceMode::Pod,
        NetworkMode::Node => NamespaceMode::Node,
    };
    let pid = match wanted.pid {
        // The pod itself has no container to share with.
        PidMode::Pod | PidMode::Target => NamespaceMode::Pod,
        PidMode::Container => NamespaceMode::Container,
    };
    let ipc = match wanted.ipc {
        IpcMode::Pod => NamespaceMode::Pod,
    };
    NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        userns_options: ranges.map(user_namespace),
        ..NamespaceOption::default()
    }
}

/// One range each from id 0 on: runtimes accept no more.
fn user_namespace(ranges: Ranges) -> UserNamespace {
    let mapping = |range: Range| IdMapping { host_id: range.start(), container_id: 0, length: range.size() };
    UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: vec![mapping(ranges.uids)],
        gids: vec![mapping(ranges.gids)],
    }
}

/// The runtime's own system call filter; without a word CRI means none.
pub fn seccomp() -> SecurityProfile {
    SecurityProfile { profile_type: ProfileType::RuntimeDefault.into() }
}

/// Only with servers: a search list alone makes a resolv.conf that names no
/// server, and the runtime's default (a copy of the node's) is then better.
fn dns(pod: &PodSpec) -> Option<DnsConfig> {
    (!pod.dns.servers.is_empty()).then(|| DnsConfig {
        servers: pod.dns.servers.clone(),
        searches: pod.dns.searches.clone(),
        options: pod.dns.options.clone(),
    })
}

fn port(port: &crate::spec::Port) -> PortMapping {
    PortMapping {
        protocol: port.protocol,
        container_port: port.container,
        host_port: port.host,
        host_ip: port.ip.clone(),
    }
}

fn annotations(pod: &PodSpec) -> HashMap<String, String> {
    let mut annotations = pod.annotations.clone();
    let ours = [
        ("uid", pod.uid.to_string()),
        ("job_id", pod.job.to_string()),
        ("job_name", pod.job_name.clone()),
        ("hostname", pod.hostname.clone()),
        ("fqdn", pod.fqdn.clone()),
    ];
    annotations.extend(ours.map(|(key, value)| (format!("{INTERNAL}{key}"), value)));
    annotations
}
