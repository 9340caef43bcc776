//! The two gRPC services: note the call, meet the fault, let the world do it.

use super::faults::{Fault, Faults, Method};
use super::record::Calls;
use super::world::World;
use crane_supervisor::cri::api::image_service_server::{ImageService, ImageServiceServer};
use crane_supervisor::cri::api::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use crane_supervisor::cri::api::tasks::tasks_server::{Tasks, TasksServer};
use crane_supervisor::cri::api::tasks::{DeleteReply, DeleteTaskRequest, KillReply, KillRequest};
use crane_supervisor::cri::api::*;
use prost::Message;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::{Request, Response, Status};
use tower::Service as _;

/// All services on one socket, told apart by the path of the call.
pub fn all(
    runtime: RuntimeServiceServer<Service>,
    images: ImageServiceServer<Service>,
    tasks: Option<TasksServer<Service>>,
) -> impl tower::Service<
    http::Request<Body>,
    Response = http::Response<Body>,
    Error = Infallible,
    Future = BoxFuture<http::Response<Body>, Infallible>,
> + Clone
+ Send
+ 'static {
    tower::service_fn(move |request: http::Request<Body>| {
        let (mut runtime, mut images) = (runtime.clone(), images.clone());
        match (request.uri().path().split('/').nth(1), &tasks) {
            (Some("runtime.v1.ImageService"), _) => images.call(request),
            (Some("containerd.services.tasks.v1.Tasks"), Some(tasks)) => tasks.clone().call(request),
            _ => runtime.call(request),
        }
    })
}

type Reply<T> = Result<Response<T>, Status>;

/// Cheap to clone: one for each server.
#[derive(Clone)]
pub struct Service {
    world: Arc<World>,
    faults: Arc<Faults>,
    calls: Arc<Calls>,
}

impl Service {
    pub fn new(world: &Arc<World>, faults: &Arc<Faults>, calls: &Arc<Calls>) -> Self {
        Self { world: Arc::clone(world), faults: Arc::clone(faults), calls: Arc::clone(calls) }
    }

    /// `work` gets the world, the request and the caller's deadline.
    async fn call<Q, A, F, W>(&self, method: Method, request: Request<Q>, work: F) -> Reply<A>
    where
        Q: Message + Clone + 'static,
        A: Send + 'static,
        F: FnOnce(Arc<World>, Q, Duration) -> W,
        W: Future<Output = Result<A, Status>> + Send + 'static,
    {
        let deadline = request.metadata().get("grpc-timeout").and_then(|d| d.to_str().ok()).map(String::from);
        let request = request.into_inner();
        self.calls.note(method, deadline, &request);
        let deadline = self.calls.all().last().and_then(super::Call::deadline_seconds).unwrap_or(120.0);
        let work = work(Arc::clone(&self.world), request, Duration::from_secs_f64(deadline));
        let answer = match self.faults.next(method) {
            None => work.await,
            Some(Fault::Slow(time)) => slowly(time, work).await,
            Some(Fault::Fail(code, text)) => Err(Status::new(code, text)),
            Some(Fault::Hang) => {
                self.faults.released().await;
                work.await
            }
            Some(Fault::DoneButAnswers(code, text)) => {
                let _ = work.await;
                Err(Status::new(code, text))
            }
            Some(Fault::DoneLater(time, code, text)) => {
                tokio::spawn(slowly(time, work));
                Err(Status::new(code, text))
            }
            Some(Fault::DoneButSilent) => {
                let _ = work.await;
                std::future::pending().await
            }
        };
        answer.map(Response::new)
    }
}

/// In a task of its own, which the caller's leaving does not end.
async fn slowly<A: Send + 'static>(
    time: Duration,
    work: impl Future<Output = Result<A, Status>> + Send + 'static,
) -> Result<A, Status> {
    let task = tokio::spawn(async move {
        tokio::time::sleep(time).await;
        work.await
    });
    task.await.unwrap_or_else(|_| Err(Status::internal("the fake failed")))
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, request: Request<VersionRequest>) -> Reply<VersionResponse> {
        self.call(Method::Version, request, |w, _, _| async move { Ok(w.version()) }).await
    }

    async fn status(&self, request: Request<StatusRequest>) -> Reply<StatusResponse> {
        self.call(Method::Status, request, |w, _, _| async move { Ok(w.status()) }).await
    }

    async fn runtime_config(&self, request: Request<RuntimeConfigRequest>) -> Reply<RuntimeConfigResponse> {
        self.call(Method::RuntimeConfig, request, |w, _, _| async move { w.runtime_config() }).await
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Reply<RunPodSandboxResponse> {
        self.call(Method::RunPodSandbox, request, |w, q, _| async move { w.run_pod(q) }).await
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Reply<StopPodSandboxResponse> {
        self.call(Method::StopPodSandbox, request, |w, q, deadline| async move {
            w.stop_pod(&q.pod_sandbox_id, deadline).await.map(|()| StopPodSandboxResponse {})
        })
        .await
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Reply<RemovePodSandboxResponse> {
        self.call(Method::RemovePodSandbox, request, |w, q, deadline| async move {
            w.remove_pod(&q.pod_sandbox_id, deadline).await;
            Ok(RemovePodSandboxResponse {})
        })
        .await
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Reply<PodSandboxStatusResponse> {
        self.call(Method::PodSandboxStatus, request, |w, q, _| async move { w.pod_status(&q.pod_sandbox_id) }).await
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Reply<ListPodSandboxResponse> {
        self.call(Method::ListPodSandbox, request, |w, q, _| async move {
            Ok(ListPodSandboxResponse { items: w.list_pods(&q.filter.unwrap_or_default()) })
        })
        .await
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Reply<CreateContainerResponse> {
        self.call(Method::CreateContainer, request, |w, q, _| async move { w.create(q) }).await
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Reply<StartContainerResponse> {
        self.call(Method::StartContainer, request, |w, q, _| async move {
            // Real runtimes take 16 ms and more, with the init waiting for its start meanwhile.
            tokio::time::sleep(Duration::from_millis(15)).await;
            w.start(&q.container_id).map(|()| StartContainerResponse {})
        })
        .await
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Reply<StopContainerResponse> {
        self.call(Method::StopContainer, request, |w, q, _| async move {
            let grace = Duration::from_secs(u64::try_from(q.timeout).unwrap_or(0));
            w.stop(&q.container_id, grace).await.map(|()| StopContainerResponse {})
        })
        .await
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Reply<RemoveContainerResponse> {
        self.call(Method::RemoveContainer, request, |w, q, deadline| async move {
            w.remove(&q.container_id, deadline).await;
            Ok(RemoveContainerResponse {})
        })
        .await
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Reply<ListContainersResponse> {
        self.call(Method::ListContainers, request, |w, q, _| async move {
            Ok(ListContainersResponse { containers: w.list_containers(&q.filter.unwrap_or_default()) })
        })
        .await
    }

    async fn exec(&self, _: Request<ExecRequest>) -> Reply<ExecResponse> {
        Err(Status::unimplemented("the fake streams nothing"))
    }

    async fn attach(&self, _: Request<AttachRequest>) -> Reply<AttachResponse> {
        Err(Status::unimplemented("the fake streams nothing"))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Reply<ReopenContainerLogResponse> {
        self.call(Method::ReopenContainerLog, request, |w, q, _| async move {
            w.reopen_log(&q.container_id).map(|()| ReopenContainerLogResponse {})
        })
        .await
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Reply<ContainerStatusResponse> {
        self.call(
            Method::ContainerStatus,
            request,
            |w, q, _| async move { w.container_status(&q.container_id, q.verbose) },
        )
        .await
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Reply<ImageStatusResponse> {
        self.call(Method::ImageStatus, request, |w, q, _| async move {
            Ok(ImageStatusResponse { image: w.image(&q.image.unwrap_or_default().image) })
        })
        .await
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Reply<PullImageResponse> {
        self.call(Method::PullImage, request, |w, q, _| async move { w.pull(&q) }).await
    }

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Reply<ListImagesResponse> {
        self.call(Method::ListImages, request, |w, _, _| async move { Ok(ListImagesResponse { images: w.images() }) })
            .await
    }

    async fn image_fs_info(&self, request: Request<ImageFsInfoRequest>) -> Reply<ImageFsInfoResponse> {
        self.call(Method::ImageFsInfo, request, |w, _, _| async move {
            let mountpoint = w.image_store().display().to_string();
            let usage = FilesystemUsage { fs_id: Some(FilesystemIdentifier { mountpoint }) };
            Ok(ImageFsInfoResponse { image_filesystems: vec![usage] })
        })
        .await
    }
}

#[tonic::async_trait]
impl Tasks for Service {
    async fn kill(&self, request: Request<KillRequest>) -> Reply<KillReply> {
        in_cris_namespace(&request)?;
        self.call(Method::TasksKill, request, |_, _, _| async { Ok(KillReply {}) }).await
    }

    async fn delete(&self, request: Request<DeleteTaskRequest>) -> Reply<DeleteReply> {
        in_cris_namespace(&request)?;
        self.call(Method::TasksDelete, request, |_, _, _| async { Ok(DeleteReply {}) }).await
    }
}

fn in_cris_namespace<T>(request: &Request<T>) -> Result<(), Status> {
    let named = request.metadata().get("containerd-namespace").is_some_and(|name| name == "k8s.io");
    if named { Ok(()) } else { Err(Status::failed_precondition("namespace is required")) }
}
