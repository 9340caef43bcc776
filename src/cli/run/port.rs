//! `-p`: a port mapping, or the partition name that `ccon run` takes there.
//!
//! Pure. What looks like an attempt at ports is ports or an error, never
//! silently a partition.

use crate::local::plan::{PortMapping, Protocol};
use std::net::{IpAddr, Ipv6Addr};

/// The value of one `-p`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortOrPartition {
    /// A port of the node leads to one of the container.
    Port(PortMapping),
    /// A partition's name, which one node has no use for.
    Partition(String),
}

/// A text that is neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a port mapping: expected [IP:]HOST:CONTAINER[/tcp|udp|sctp], ports from 1 to 65535")]
pub struct PortError(String);

/// Reads the value of `-p`.
pub fn parse(text: &str) -> Result<PortOrPartition, PortError> {
    let looks_like_ports =
        text.is_empty() || text.contains([':', '/']) || text.bytes().all(|byte| byte.is_ascii_digit());
    if !looks_like_ports {
        return Ok(PortOrPartition::Partition(text.to_owned()));
    }
    mapping(text).map(PortOrPartition::Port).ok_or_else(|| PortError(text.chars().take(64).collect()))
}

fn mapping(text: &str) -> Option<PortMapping> {
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, name)) => (ports, protocol(name)?),
    };
    let (rest, container) = ports.rsplit_once(':')?;
    let (ip, host) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((ip, host)) => (Some(address(ip)?), host),
    };
    Some(PortMapping { host_ip: ip, host: port(host)?, container: port(container)?, protocol })
}

fn protocol(name: &str) -> Option<Protocol> {
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// An IPv6 address stands in brackets, since it has colons of its own.
fn address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok().filter(IpAddr::is_ipv4),
    }
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?.filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ports(text: &str) -> PortMapping {
        match parse(text) {
            Ok(PortOrPartition::Port(mapping)) => mapping,
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    #[test]
    fn every_form_of_a_mapping_reads() {
        let plain = PortMapping { host_ip: None, host: 8080, container: 80, protocol: Protocol::Tcp };
        assert_eq!(ports("8080:80"), plain);
        assert_eq!(ports("8080:80/UDP"), PortMapping { protocol: Protocol::Udp, ..plain });
        assert_eq!(ports("127.0.0.1:8080:80"), PortMapping { host_ip: Some([127, 0, 0, 1].into()), ..plain });
        assert_eq!(ports("[::1]:8080:80/sctp").host_ip, Some(Ipv6Addr::LOCALHOST.into()));
    }

    #[test]
    fn a_name_is_a_partition() {
        for text in ["CPU", "gpu-a100", "node8080"] {
            assert_eq!(parse(text), Ok(PortOrPartition::Partition(text.into())));
        }
    }

    #[test]
    fn a_botched_mapping_is_no_partition() {
        for text in [
            "",
            "8080",
            "8080:",
            ":80",
            "0:80",
            "65536:80",
            "80:80/icmp",
            "a:80",
            "::1:80:80",
            "1.2.3:80:80",
            "1:2:3:4",
            "80/tcp",
        ] {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[0-9:./\\[\\]a-z]{0,24}|.{0,8}") {
            let _ = parse(&text);
        }
    }
}
