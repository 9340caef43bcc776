//! Published ports: one that is taken has its own reason before the runtime is asked.
//!
//! A CNI plugin writes its rule beside an older one's, and a pod would be up whose port is
//! another's. Ports below 1024 are not tried: we have given that privilege up.

use super::prepared;
use crate::cri::client::{Client, Detail};
use crate::spec::{PodSpec, Port, StepSpec};
use crate::step::event::Failure;
use crate::step::pod_record;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

/// craned's and CRI's numbers.
const TCP: i32 = 0;
const UDP: i32 = 1;

/// Fails with who has the port.
pub(super) async fn check(client: &Client, spec: &StepSpec, pod: &PodSpec) -> Result<(), Failure> {
    for port in pod.ports.iter().filter(|port| port.host > 0) {
        let refused = |problem: &str| Err(prepared(format!("pod_meta.ports: {}: {problem}", name(port))));
        match try_to_bind(port).map_err(|error| error.kind()) {
            Err(io::ErrorKind::AddrInUse) => return refused("in use by a program of this node"),
            Err(io::ErrorKind::AddrNotAvailable) => return refused("not an address of this node"),
            Ok(()) | Err(_) => {}
        }
        if let Some(job) = published_by(client, spec, port).await {
            return refused(&format!("already published by job {job}"));
        }
    }
    Ok(())
}

fn name(port: &Port) -> String {
    let protocol = match port.protocol {
        TCP => "TCP",
        UDP => "UDP",
        _ => "SCTP",
    };
    let at = if port.ip.is_empty() { String::new() } else { format!(" of {}", port.ip) };
    format!("{protocol} port {}{at}", port.host)
}

fn try_to_bind(port: &Port) -> io::Result<()> {
    let ip = port.ip.parse::<IpAddr>().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let number = u16::try_from(port.host).map_err(io::Error::other)?;
    match port.protocol {
        TCP => TcpListener::bind((ip, number)).map(drop),
        UDP => UdpSocket::bind((ip, number)).map(drop),
        _ => Ok(()),
    }
}

/// Another job of this node whose pod is up and has the port, by its record.
async fn published_by(client: &Client, spec: &StepSpec, port: &Port) -> Option<u32> {
    let jobs = fs::read_dir(spec.temp_dir.path()).into_iter().flatten().flatten();
    let jobs = jobs.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for job in jobs.filter(|&job| job != spec.id.job) {
        let Ok(Some(other)) = pod_record::read(&spec.temp_dir.job(job)) else { continue };
        // What a dead job left may still have a record.
        if other.config.publishes(port) && client.pod_status(&other.id, Detail::Brief).await.is_ok_and(|pod| pod.ready)
        {
            return Some(job);
        }
    }
    None
}
