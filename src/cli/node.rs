//! The node's runtime, for commands that ask it themselves.

use crate::cli::output;
use crate::config::{CheckError, Config, ConfigError, Container};
use crate::cri::client::{Client, Limits};
use crate::cri::endpoint::{Endpoint, EndpointError};
use crate::cri::error::CriError;
use crate::local::{LocalError, runtime};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Why it cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nothing containers could run with.
    #[error("{0} ({remedy})", remedy = .0.remedy())]
    Check(#[from] CheckError),
    /// An address that is none.
    #[error("{key} {source}")]
    Endpoint {
        /// The key.
        key: &'static str,
        /// The cause.
        source: EndpointError,
    },
    /// Nobody listens there.
    #[error(transparent)]
    Absent(#[from] LocalError),
    /// The kernel refuses what an event loop needs.
    #[error("cannot start the event loop: {0}")]
    EventLoop(#[source] io::Error),
    /// The runtime does not answer.
    #[error("cannot ask the container runtime: {cause}{hint}")]
    Runtime {
        /// What went wrong.
        cause: String,
        /// What to do.
        hint: &'static str,
    },
}

/// A node's runtime and configuration.
pub struct Node {
    runtime: Endpoint,
    images: Endpoint,
    limits: Limits,
    /// The configuration.
    pub container: Container,
    /// How long a pull may do nothing, where that is set; 0 is no limit.
    pub stall_s: Option<u64>,
}

impl Node {
    /// Whether there is a runtime at all: says at once what is wrong, where a call would wait.
    pub async fn is_there(&self) -> Result<(), NodeError> {
        runtime::probe(&self.container.runtime_socket).await?;
        Ok(runtime::is_there(&self.container.image_socket).await?)
    }

    /// A client of its runtime; only inside an event loop.
    pub fn client(&self) -> Client {
        Client::new(&self.runtime, &self.images, self.limits)
    }
}

/// Reads the configuration; says what a person should know about it. Makes no call.
pub fn open(path: &Path) -> Result<Node, NodeError> {
    let (config, notes) = Config::read(path)?;
    notes.iter().for_each(|note| output::say(&format!("{}: {note}", path.display())));
    of(config)
}

/// [`open`] where somebody else says it.
pub fn open_quietly(path: &Path) -> Result<Node, NodeError> {
    of(Config::read(path)?.0)
}

fn of(config: Config) -> Result<Node, NodeError> {
    let container = config.container()?;
    let endpoint = |key, socket: &Path| {
        Endpoint::parse(&socket.to_string_lossy()).map_err(|source| NodeError::Endpoint { key, source })
    };
    let runtime = endpoint("RuntimeEndpoint", &container.runtime_socket)?;
    let images = endpoint("ImageEndpoint", &container.image_socket)?;
    let mut limits = Limits::default();
    if let Some(seconds) = container.cri_request_timeout.filter(|seconds| *seconds > 0) {
        limits.look = Duration::from_secs(seconds);
    }
    Ok(Node { runtime, images, limits, container, stall_s: config.supervisor.container.pull_stall_timeout })
}

/// What the calls run in.
pub fn event_loop() -> Result<Runtime, NodeError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NodeError::EventLoop)
}

/// A call that failed, for people.
pub fn unreachable(error: &CriError) -> NodeError {
    let ours = nix::unistd::geteuid().is_root();
    let hint = if ours { "" } else { "; its socket is root's as a rule: try sudo" };
    NodeError::Runtime { cause: error.to_string(), hint }
}
