//! The CRI calls we make, each with a limit of its own.
//!
//! Knows the wire and time, and nothing of steps. Connections are made on
//! demand and remade by themselves after the runtime restarts.

use crate::channel;
use crate::cri::api::image_service_client::ImageServiceClient;
use crate::cri::api::runtime_service_client::RuntimeServiceClient;
use crate::cri::api::tasks::tasks_client::TasksClient;
use crate::cri::api::{
    AuthConfig, CgroupDriver, Container, ContainerConfig, ContainerFilter, ContainerState, ContainerStatusRequest,
    ContainerStatusResponse, CreateContainerRequest, ImageSpec, ListContainersRequest, ListPodSandboxRequest,
    PodSandbox, PodSandboxFilter, PodSandboxState, PodSandboxStatusRequest, RemoveContainerRequest,
    RemovePodSandboxRequest, ReopenContainerLogRequest, RunPodSandboxRequest, RuntimeCondition, RuntimeConfigRequest,
    StartContainerRequest, StatusRequest, StopContainerRequest, StopPodSandboxRequest, VersionRequest, VersionResponse,
};
use crate::cri::call::{call, present};
use crate::cri::endpoint::Endpoint;
use crate::cri::error::{Class, CriError};
use crate::cri::info;
use crate::cri::labels;
use crate::cri::sandbox::Config;
use crate::spec::Secret;
use crate::sys::line::{Busy, Line};
use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tonic::transport::Channel;

/// A verbose status repeats the whole environment, escaped.
const ANSWER_MAX: usize = 64 << 20;

/// How long each kind of call may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls that only look.
    pub look: Duration,
    /// RunPodSandbox: CNI plugins may take minutes (kubelet allows 4).
    pub run_pod: Duration,
    /// CreateContainer, StartContainer.
    pub start: Duration,
    /// Removing things, beyond any grace asked for.
    pub remove: Duration,
    /// A runtime that is away (restarting, upgraded) before anything was asked of it.
    pub away: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(10),
            run_pod: Duration::from_secs(240),
            start: Duration::from_secs(120),
            remove: Duration::from_secs(60),
            away: Duration::from_secs(30),
        }
    }
}

/// What a runtime says of a sandbox.
#[derive(Debug)]
pub struct PodState {
    /// Whether containers can be created in it.
    pub ready: bool,
    /// Of its name.
    pub namespace: String,
    /// All of them.
    pub labels: HashMap<String, String>,
    /// Of its pause process, if it was asked for.
    pub pid: Option<i32>,
}

/// How much ContainerStatus is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// State, code and reason.
    Brief,
    /// The runtime's own information too, some of it long.
    WithPid,
}

/// Whether a listed container has ended, for the runtime too.
pub fn has_exited(container: &Container) -> bool {
    container.state() == ContainerState::ContainerExited
}

/// Whether a listed sandbox is in the namespace in which all of ours are.
pub fn is_ours(pod: &PodSandbox) -> bool {
    pod.metadata.as_ref().is_some_and(|metadata| metadata.namespace == labels::NAMESPACE)
}

/// A runtime, and the image service beside it.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) runtime: RuntimeServiceClient<Channel>,
    pub(super) images: ImageServiceClient<Channel>,
    pub(super) tasks: TasksClient<Channel>,
    /// Set while something is made on a connection that our guardian holds too.
    busy: Option<Busy>,
    /// The limits in force.
    pub limits: Limits,
}

impl Client {
    /// A client that connects at its first call.
    pub fn new(runtime: &Endpoint, images: &Endpoint, limits: Limits) -> Self {
        Self::on(None, runtime, images, limits)
    }

    /// The same, on a connection that stands.
    pub fn on(line: Option<Line>, runtime: &Endpoint, images: &Endpoint, limits: Limits) -> Self {
        let (first, busy) = line.and_then(Line::into_parts).unzip();
        let runtime_channel = channel::begun(first, runtime.path());
        let image_channel = if images == runtime { runtime_channel.clone() } else { channel::to_socket(images.path()) };
        Self {
            tasks: TasksClient::new(runtime_channel.clone()),
            runtime: RuntimeServiceClient::new(runtime_channel).max_decoding_message_size(ANSWER_MAX),
            images: ImageServiceClient::new(image_channel).max_decoding_message_size(ANSWER_MAX),
            busy,
            limits,
        }
    }

    /// Whether something is being made that our guardian would let finish.
    pub fn is_making(&self) -> bool {
        self.busy.as_ref().is_some_and(Busy::is_raised)
    }

    /// Makes a call that changes nothing, again and again while the runtime is away.
    ///
    /// # Errors
    /// The call's own, or its last one when the runtime does not come back in time.
    pub async fn when_there<T, F>(&self, make: impl Fn() -> F) -> Result<T, CriError>
    where
        F: Future<Output = Result<T, CriError>>,
    {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            match make().await {
                Err(error) if error.class() == Class::Unsure && begun.elapsed() < self.limits.away => {
                    tracing::debug!(%error, "waiting for the runtime");
                }
                result => return result,
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    /// The runtime's name and version.
    pub async fn version(&self) -> Result<VersionResponse, CriError> {
        let mut client = self.runtime.clone();
        let request = VersionRequest { version: "v1".to_owned() };
        call("Version", Some(self.limits.look), request, |r| async move { client.version(r).await }).await
    }

    /// The runtime's conditions (RuntimeReady, NetworkReady).
    pub async fn conditions(&self) -> Result<Vec<RuntimeCondition>, CriError> {
        let mut client = self.runtime.clone();
        let request = StatusRequest { verbose: false };
        let answer = call("Status", Some(self.limits.look), request, |r| async move { client.status(r).await }).await?;
        Ok(answer.status.unwrap_or_default().conditions)
    }

    /// Whether the runtime's configuration lets it take CDI devices; `None` where it does not say.
    pub async fn takes_cdi(&self) -> Result<Option<bool>, CriError> {
        Ok(info::takes_cdi(&self.told().await?))
    }

    /// Where the runtime keeps the FIFOs of its containers; `None` where it has none or does not say.
    pub async fn state_dir(&self) -> Result<Option<PathBuf>, CriError> {
        Ok(info::state_dir(&self.told().await?))
    }

    async fn told(&self) -> Result<HashMap<String, String>, CriError> {
        let mut client = self.runtime.clone();
        let request = StatusRequest { verbose: true };
        let answer = call("Status", Some(self.limits.look), request, |r| async move { client.status(r).await }).await?;
        Ok(answer.info)
    }

    /// Whether the runtime names cgroups for systemd.
    pub async fn uses_systemd_cgroups(&self) -> Result<bool, CriError> {
        let mut client = self.runtime.clone();
        let answer = call("RuntimeConfig", Some(self.limits.look), RuntimeConfigRequest {}, |r| async move {
            client.runtime_config(r).await
        })
        .await?;
        Ok(answer.linux.is_some_and(|linux| linux.cgroup_driver() == CgroupDriver::Systemd))
    }

    /// Creates and starts a sandbox; returns its id.
    pub async fn run_pod(&self, config: &Config) -> Result<String, CriError> {
        let _raised = self.busy.as_ref().map(Busy::raise);
        let mut client = self.runtime.clone();
        let request = RunPodSandboxRequest { config: Some(config.0.clone()), runtime_handler: String::new() };
        let answer =
            call(
                "RunPodSandbox",
                Some(self.limits.run_pod),
                request,
                |r| async move { client.run_pod_sandbox(r).await },
            )
            .await?;
        present("RunPodSandbox", "pod_sandbox_id", answer.pod_sandbox_id)
    }

    /// Sandboxes that carry all of `labels`, in any state.
    pub async fn list_pods(&self, labels: &HashMap<String, String>) -> Result<Vec<PodSandbox>, CriError> {
        let mut client = self.runtime.clone();
        let filter = PodSandboxFilter { label_selector: labels.clone(), ..PodSandboxFilter::default() };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let answer =
            call(
                "ListPodSandbox",
                Some(self.limits.look),
                request,
                |r| async move { client.list_pod_sandbox(r).await },
            )
            .await?;
        Ok(answer.items)
    }

    /// The one sandbox with these labels that is ready; `None` for none or several.
    pub async fn ready_pod(&self, labels: &HashMap<String, String>) -> Result<Option<String>, CriError> {
        let found = self.list_pods(labels).await?;
        let mut ready = found.into_iter().filter(|pod| pod.state() == PodSandboxState::SandboxReady);
        let first = ready.next();
        Ok(first.filter(|_| ready.next().is_none()).map(|pod| pod.id))
    }

    /// The state of one sandbox; with its pid if asked for in detail.
    pub async fn pod_status(&self, id: &str, detail: Detail) -> Result<PodState, CriError> {
        let mut client = self.runtime.clone();
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: detail == Detail::WithPid };
        let answer =
            call(
                "PodSandboxStatus",
                Some(self.limits.look),
                request,
                |r| async move { client.pod_sandbox_status(r).await },
            )
            .await?;
        let status = answer.status.ok_or(CriError::Malformed { call: "PodSandboxStatus", missing: "status" })?;
        let ready = status.state() == PodSandboxState::SandboxReady;
        let namespace = status.metadata.unwrap_or_default().namespace;
        Ok(PodState { ready, namespace, labels: status.labels, pid: info::pid(&answer.info) })
    }

    /// Ends a sandbox's processes and network.
    pub async fn stop_pod(&self, id: &str) -> Result<(), CriError> {
        let mut client = self.runtime.clone();
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        call("StopPodSandbox", Some(self.limits.remove), request, |r| async move { client.stop_pod_sandbox(r).await })
            .await
            .map(drop)
    }

    /// Forgets a sandbox.
    pub async fn remove_pod(&self, id: &str) -> Result<(), CriError> {
        let mut client = self.runtime.clone();
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let send = |r| async move { client.remove_pod_sandbox(r).await };
        call("RemovePodSandbox", Some(self.limits.remove), request, send).await.map(drop)
    }

    /// Creates a container in `pod`; returns its id. `pod_config` must be the pod's own.
    pub async fn create(&self, pod: &str, config: ContainerConfig, pod_config: &Config) -> Result<String, CriError> {
        let _raised = self.busy.as_ref().map(Busy::raise);
        let mut client = self.runtime.clone();
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod_config.0.clone()),
        };
        let answer =
            call(
                "CreateContainer",
                Some(self.limits.start),
                request,
                |r| async move { client.create_container(r).await },
            )
            .await?;
        present("CreateContainer", "container_id", answer.container_id)
    }

    /// Starts a created container.
    pub async fn start(&self, id: &str) -> Result<(), CriError> {
        let _raised = self.busy.as_ref().map(Busy::raise);
        let mut client = self.runtime.clone();
        let request = StartContainerRequest { container_id: id.to_owned() };
        call("StartContainer", Some(self.limits.start), request, |r| async move { client.start_container(r).await })
            .await
            .map(drop)
    }

    /// TERM, `grace`, KILL. The call's own limit is longer than the grace.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let mut client = self.runtime.clone();
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = StopContainerRequest { container_id: id.to_owned(), timeout };
        let limit = grace.saturating_add(self.limits.look);
        call("StopContainer", Some(limit), request, |r| async move { client.stop_container(r).await }).await.map(drop)
    }

    /// Forgets a container.
    pub async fn remove(&self, id: &str) -> Result<(), CriError> {
        let mut client = self.runtime.clone();
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        call("RemoveContainer", Some(self.limits.remove), request, |r| async move { client.remove_container(r).await })
            .await
            .map(drop)
    }

    /// Containers that carry all of `labels`, in any state.
    pub async fn list(&self, labels: &HashMap<String, String>) -> Result<Vec<Container>, CriError> {
        let mut client = self.runtime.clone();
        let filter = ContainerFilter { label_selector: labels.clone(), ..ContainerFilter::default() };
        let request = ListContainersRequest { filter: Some(filter) };
        let answer =
            call("ListContainers", Some(self.limits.look), request, |r| async move { client.list_containers(r).await })
                .await?;
        Ok(answer.containers)
    }

    /// The state of one container; with its pid in `info` if asked for in detail.
    pub async fn status(&self, id: &str, detail: Detail) -> Result<ContainerStatusResponse, CriError> {
        let mut client = self.runtime.clone();
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: detail == Detail::WithPid };
        call("ContainerStatus", Some(self.limits.look), request, |r| async move { client.container_status(r).await })
            .await
    }

    /// Has the runtime open the container's log anew, by its path.
    pub async fn reopen_log(&self, id: &str) -> Result<(), CriError> {
        let mut client = self.runtime.clone();
        let request = ReopenContainerLogRequest { container_id: id.to_owned() };
        let send = |r| async move { client.reopen_container_log(r).await };
        call("ReopenContainerLog", Some(self.limits.look), request, send).await.map(drop)
    }
}

/// Credentials as CRI takes them. The server's address stays empty: craned sends
/// host:port, which runtimes refuse or take for another host.
pub(super) fn auth(username: &str, password: &Secret) -> AuthConfig {
    AuthConfig { username: username.to_owned(), password: password.reveal().to_owned() }
}

pub(super) fn spec(reference: &str) -> ImageSpec {
    ImageSpec { image: reference.to_owned(), ..ImageSpec::default() }
}
