//! The runtimes a test runs on: real ones named by the environment, or a fake.
//!
//! `scripts/test` starts the real ones and sets
//! `CRANE_TEST_RUNTIMES=name=unix:///socket;name=…`, `CRANE_TEST_USERNS=name;name…`
//! with those of them whose pods can have user namespaces, and `CRANE_TEST_IMAGE`.

use super::fake_cri::FakeCri;
use super::supervisor::channel;
use crane_supervisor::cri::api::runtime_service_client::RuntimeServiceClient;
use crane_supervisor::cri::api::{
    Container, ContainerFilter, ContainerStatusRequest, ContainerStatusResponse, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, ListContainersRequest, ListPodSandboxRequest, NamespaceMode, NamespaceOption,
    PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, PodSandboxStatusRequest,
    PodSandboxStatusResponse, RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest, VersionRequest,
};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tonic::transport::Channel;

/// A runtime to start jobs on.
#[derive(Clone)]
pub enum Runtime {
    /// A real one.
    Real {
        /// Its name in failures.
        name: String,
        /// `unix:///path`.
        endpoint: String,
    },
    /// Ours.
    Fake(Arc<FakeCri>),
}

impl Runtime {
    /// Its name in failures.
    pub fn name(&self) -> String {
        match self {
            Self::Real { name, .. } => name.clone(),
            Self::Fake(fake) => fake.flavour().name.to_owned(),
        }
    }

    /// `unix:///path`.
    pub fn endpoint(&self) -> String {
        match self {
            Self::Real { endpoint, .. } => endpoint.clone(),
            Self::Fake(fake) => fake.endpoint(),
        }
    }

    /// The image service's, often the same.
    pub fn image_endpoint(&self) -> String {
        match self {
            Self::Real { endpoint, .. } => endpoint.clone(),
            Self::Fake(fake) => fake.image_endpoint(),
        }
    }

    /// An image that is present and has a shell.
    pub fn image(&self) -> String {
        match self {
            Self::Real { .. } => {
                std::env::var("CRANE_TEST_IMAGE").unwrap_or_else(|_| "docker.io/library/alpine:latest".into())
            }
            Self::Fake(_) => super::fake_cri::IMAGE.into(),
        }
    }

    /// Is it the fake?
    pub fn is_fake(&self) -> bool {
        matches!(self, Self::Fake(_))
    }

    /// What the runtime still knows of `job`, one line each.
    pub fn left_of(&self, job: u32) -> Vec<String> {
        match self {
            Self::Real { endpoint, .. } => Cri::new(endpoint).left_of(job),
            Self::Fake(fake) => fake.left_of(job),
        }
    }

    /// Removes all of `job`, after a test failed.
    pub fn purge(&self, job: u32) {
        match self {
            Self::Real { endpoint, .. } => Cri::new(endpoint).purge(job),
            Self::Fake(fake) => fake.purge(job),
        }
    }

    /// A plain client of it.
    pub fn cri(&self) -> Cri {
        Cri::new(&self.endpoint())
    }
}

/// Runs `test` on every real runtime at once; failures name the runtime.
#[track_caller]
pub fn on_each(test: impl Fn(&Runtime) + Sync) {
    on_all(&real(), test);
}

/// [`on_each`] of those that can give a pod a user namespace.
#[track_caller]
pub fn on_each_with_userns(test: impl Fn(&Runtime) + Sync) {
    on_all(&chosen(|able| able), test);
}

/// [`on_each`] of those that cannot.
#[track_caller]
pub fn on_each_without_userns(test: impl Fn(&Runtime) + Sync) {
    on_all(&chosen(|able| !able), test);
}

#[track_caller]
fn chosen(choose: impl Fn(bool) -> bool) -> Vec<Runtime> {
    let able = std::env::var("CRANE_TEST_USERNS").unwrap_or_default();
    let runtimes: Vec<_> =
        real().into_iter().filter(|rt| choose(able.split(';').any(|name| name == rt.name()))).collect();
    assert!(!runtimes.is_empty(), "no such runtime beside CRANE_TEST_USERNS={able}: run scripts/test");
    runtimes
}

/// Runs `test` on every real runtime, and no other test on any: it may end and start them.
#[track_caller]
pub fn on_each_alone(test: impl Fn(&Runtime) + Sync) {
    let _alone = IN_USE.write().unwrap_or_else(PoisonError::into_inner);
    on_all_of(&real(), test);
}

/// Held by each test while it uses the runtimes.
static IN_USE: RwLock<()> = RwLock::new(());

#[track_caller]
fn on_all(runtimes: &[Runtime], test: impl Fn(&Runtime) + Sync) {
    let _beside_others = IN_USE.read().unwrap_or_else(PoisonError::into_inner);
    on_all_of(runtimes, test);
}

#[track_caller]
fn on_all_of(runtimes: &[Runtime], test: impl Fn(&Runtime) + Sync) {
    let test = &test;
    let failed: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = runtimes.iter().map(|rt| (rt.name(), scope.spawn(move || test(rt)))).collect();
        runs.into_iter()
            .filter_map(|(name, run)| run.join().err().map(|why| format!("on {name}: {}", panic_text(&*why))))
            .collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn panic_text(why: &(dyn std::any::Any + Send)) -> String {
    let text = why.downcast_ref::<String>().cloned();
    text.or_else(|| why.downcast_ref::<&str>().map(|s| (*s).into())).unwrap_or_else(|| "failed".into())
}

pub fn real() -> Vec<Runtime> {
    let list = std::env::var("CRANE_TEST_RUNTIMES").unwrap_or_default();
    let runtimes: Vec<_> = list
        .split(';')
        .filter_map(|entry| entry.trim().split_once('='))
        .map(|(name, endpoint)| Runtime::Real { name: name.into(), endpoint: endpoint.into() })
        .collect();
    assert!(!runtimes.is_empty(), "CRANE_TEST_RUNTIMES names no runtime: run scripts/test");
    runtimes
}

/// A minimal CRI client to look at what the supervisor made.
pub struct Cri {
    runtime: tokio::runtime::Runtime,
    stub: RuntimeServiceClient<Channel>,
}

impl Cri {
    /// Connects at the first call.
    pub fn new(endpoint: &str) -> Self {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        let channel = runtime.block_on(async { channel(Path::new(path), Duration::from_secs(30)) });
        Self { runtime, stub: RuntimeServiceClient::new(channel) }
    }

    /// `runtime_name runtime_version`.
    pub fn version(&mut self) -> String {
        let reply = self.runtime.block_on(self.stub.version(VersionRequest::default())).expect("Version");
        let reply = reply.into_inner();
        format!("{} {}", reply.runtime_name, reply.runtime_version)
    }

    /// The pods of `job`, by label.
    pub fn pods(&mut self, job: u32) -> Vec<PodSandbox> {
        self.pods_with(of_job(job))
    }

    /// All pods.
    pub fn all_pods(&mut self) -> Vec<PodSandbox> {
        self.pods_with(HashMap::new())
    }

    fn pods_with(&mut self, label_selector: HashMap<String, String>) -> Vec<PodSandbox> {
        let filter = Some(PodSandboxFilter { label_selector, ..PodSandboxFilter::default() });
        let reply = self.runtime.block_on(self.stub.list_pod_sandbox(ListPodSandboxRequest { filter }));
        reply.expect("ListPodSandbox").into_inner().items
    }

    /// The containers of `job`, by label.
    pub fn containers(&mut self, job: u32) -> Vec<Container> {
        let filter = Some(ContainerFilter { label_selector: of_job(job), ..ContainerFilter::default() });
        let reply = self.runtime.block_on(self.stub.list_containers(ListContainersRequest { filter }));
        reply.expect("ListContainers").into_inner().containers
    }

    /// PodSandboxStatus.
    pub fn pod_status(&mut self, id: &str) -> PodSandboxStatusResponse {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        self.runtime.block_on(self.stub.pod_sandbox_status(request)).expect("PodSandboxStatus").into_inner()
    }

    /// ContainerStatus, verbose.
    pub fn container_status(&mut self, id: &str) -> ContainerStatusResponse {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: true };
        self.runtime.block_on(self.stub.container_status(request)).expect("ContainerStatus").into_inner()
    }

    /// RunPodSandbox of a pod on the node's network; its id.
    pub fn run_pod(&mut self, name: &str, namespace: &str, labels: HashMap<String, String>, logs: &Path) -> String {
        let metadata =
            PodSandboxMetadata { name: name.into(), uid: name.into(), namespace: namespace.into(), attempt: 0 };
        let network = NamespaceMode::Node as i32;
        let namespaces = NamespaceOption { network, ..NamespaceOption::default() };
        let context = LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces),
            ..LinuxSandboxSecurityContext::default()
        };
        let config = PodSandboxConfig {
            metadata: Some(metadata),
            labels,
            log_directory: logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig { security_context: Some(context), ..LinuxPodSandboxConfig::default() }),
            ..PodSandboxConfig::default()
        };
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let reply = self.runtime.block_on(self.stub.run_pod_sandbox(request));
        reply.expect("RunPodSandbox").into_inner().pod_sandbox_id
    }

    fn left_of(&mut self, job: u32) -> Vec<String> {
        let mut left: Vec<_> = self.pods(job).iter().map(|pod| format!("pod {} ({:?})", pod.id, pod.state())).collect();
        left.extend(self.containers(job).iter().map(|c| format!("container {} ({:?})", c.id, c.state())));
        left
    }

    fn purge(&mut self, job: u32) {
        for container in self.containers(job) {
            let request = RemoveContainerRequest { container_id: container.id };
            let _ = self.runtime.block_on(self.stub.remove_container(request));
        }
        for pod in self.pods(job) {
            let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id };
            let _ = self.runtime.block_on(self.stub.remove_pod_sandbox(request));
        }
    }
}

fn of_job(job: u32) -> HashMap<String, String> {
    HashMap::from([("job_id".into(), job.to_string())])
}
