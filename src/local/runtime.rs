//! Asks the runtime, before anything is made, whether it is there and what it has.

use crate::cri::api::runtime_service_client::RuntimeServiceClient;
use crate::cri::api::{RuntimeStatus, StatusRequest, VersionRequest};
use crate::local::{LocalError, features, grpc};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::Code;

/// A runtime that is well answers these in milliseconds.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// What the runtime says about its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    /// Pods can have one of their own.
    Ready,
    /// They cannot, for this reason.
    NotReady(String),
}

/// Which pods can have a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserNamespaces {
    /// All, as far as the runtime says.
    Everywhere,
    /// Pods with a network of their own.
    WithPodNetwork,
    /// None, for this reason.
    Nowhere(String),
}

/// What the runtime can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its name and version.
    pub name: String,
    /// Networks of pods' own.
    pub pod_network: PodNetwork,
    /// User namespaces.
    pub user_namespaces: UserNamespaces,
}

/// Calls the runtime on `socket`.
pub async fn probe(socket: &Path) -> Result<Offer, LocalError> {
    match timeout(PROBE_LIMIT, ask(socket)).await {
        Ok(answer) => answer,
        Err(_) => Err(unreachable(socket, format!("no answer within {} s", PROBE_LIMIT.as_secs()), HANGS)),
    }
}

/// Whether anybody listens on `socket`; its error says what is wrong, a channel's does not.
pub async fn is_there(socket: &Path) -> Result<(), LocalError> {
    match timeout(PROBE_LIMIT, UnixStream::connect(socket)).await {
        Ok(connected) => connected.map(drop).map_err(|error| cannot_connect(socket, &error)),
        Err(_elapsed) => Err(unreachable(socket, "nobody takes connections".into(), HANGS)),
    }
}

async fn ask(socket: &Path) -> Result<Offer, LocalError> {
    is_there(socket).await?;
    // Later than ours: a call that is cut off would look like an answer that is not CRI's.
    let channel = grpc::connect(socket, PROBE_LIMIT * 2).await;
    let channel = channel.map_err(|error| unreachable(socket, grpc::innermost(&error), NOT_CRI))?;
    let mut runtime = RuntimeServiceClient::new(channel);
    let version = runtime.version(VersionRequest::default()).await;
    let version = version.map_err(|status| unreachable(socket, describe(&status), NOT_CRI))?.into_inner();
    let status = runtime.status(StatusRequest::default()).await;
    let status = status.map_err(|status| LocalError::RuntimeStatus { reason: describe(&status) })?.into_inner();
    Ok(Offer {
        name: format!("{} {}", version.runtime_name, version.runtime_version),
        user_namespaces: features::user_namespaces(&version, &status.runtime_handlers),
        pod_network: pod_network(status.status.unwrap_or_default()),
    })
}

/// A runtime that does not say is taken to have one: creating the pod will tell.
fn pod_network(status: RuntimeStatus) -> PodNetwork {
    match status.conditions.into_iter().find(|condition| condition.r#type == "NetworkReady" && !condition.status) {
        None => PodNetwork::Ready,
        Some(condition) => PodNetwork::NotReady(condition.message),
    }
}

const HANGS: &str = "the runtime hangs: look at its log, e.g. journalctl -u containerd";

const NOT_CRI: &str =
    "the socket answers but not as CRI v1: is the CRI plugin enabled (containerd: not in disabled_plugins)?";

fn cannot_connect(socket: &Path, error: &io::Error) -> LocalError {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "start the runtime (systemctl start containerd) or correct RuntimeEndpoint",
        io::ErrorKind::PermissionDenied => "run as root, or as somebody who may open that socket",
        io::ErrorKind::ConnectionRefused if !is_socket(socket) => {
            "that is no socket: correct RuntimeEndpoint (containerd: unix:///run/containerd/containerd.sock)"
        }
        io::ErrorKind::ConnectionRefused => {
            "the socket is left over and nobody listens: start the runtime (systemctl start containerd)"
        }
        _ => "check that RuntimeEndpoint names the runtime's socket",
    };
    unreachable(socket, error.to_string(), hint)
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn unreachable(socket: &Path, why: String, hint: &'static str) -> LocalError {
    LocalError::RuntimeUnreachable { socket: socket.to_owned(), why, hint }
}

fn describe(status: &tonic::Status) -> String {
    match status.code() {
        Code::Unimplemented => format!("not implemented ({})", status.message()),
        code => format!("{code} ({})", status.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::testing::{Scratch, block_on};

    #[test]
    fn a_missing_socket_and_a_dead_one_get_their_own_advice() {
        let scratch = Scratch::new("probe");
        let socket = scratch.path().join("a.sock");
        let error = block_on(probe(&socket)).unwrap_err().to_string();
        assert!(error.starts_with("Failed to get CRI version: ") && error.contains("a.sock"), "{error}");
        assert!(error.contains("RuntimeEndpoint"), "{error}");

        let error = block_on(probe(scratch.path())).unwrap_err().to_string();
        assert!(error.contains("that is no socket"), "{error}");

        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let error = block_on(probe(&socket)).unwrap_err().to_string();
        assert!(error.contains("nobody listens"), "{error}");
    }
}
