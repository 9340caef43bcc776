//! A node to measure on: craned's part, and jobs of our own making.
//!
//! One craned double for all jobs, which notes when each report arrives. Pod and
//! container steps are started over the real handshake and sockets.

use crate::Result;
use crate::init::{Edit, Facts, Places};
use crane_supervisor::cri::client::{Client, Limits};
use crane_supervisor::cri::endpoint::Endpoint;
use crane_supervisor::ids::StepId;
use crane_supervisor::local::child::{READY_LIMIT, Supervisor};
use crane_supervisor::local::grpc;
use crane_supervisor::wire::crane::craned_server::{Craned, CranedServer};
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::{JobStatus, StepStatusChangeReply, StepStatusChangeRequest};
use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// The job's user: a passwd entry every system has.
const NOBODY: u32 = 65534;
/// The testbed's image.
pub const IMAGE: &str = "docker.io/library/alpine:latest";
/// Far above what any single wait here takes.
pub const LIMIT: Duration = Duration::from_secs(60);

/// By job, step and status.
type Arrivals = HashMap<(u32, u32, JobStatus), Instant>;

/// When each step's reports came.
#[derive(Clone, Default)]
pub struct Reports {
    arrived: Arc<Mutex<Arrivals>>,
    news: Arc<Notify>,
}

impl Reports {
    /// Waits for a report and says when it came.
    pub async fn wait(&self, step: StepId, status: JobStatus) -> Result<Instant> {
        let found = timeout(LIMIT, async {
            loop {
                let news = self.news.notified();
                if let Some(&at) = self.lock().get(&(step.job, step.step, status)) {
                    return at;
                }
                news.await;
            }
        });
        Ok(found.await.map_err(|_| format!("no report {status:?} of step {step}"))?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(u32, u32, JobStatus), Instant>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl Craned for Reports {
    async fn step_status_change(
        &self,
        request: Request<StepStatusChangeRequest>,
    ) -> std::result::Result<Response<StepStatusChangeReply>, Status> {
        let at = Instant::now();
        let report = request.into_inner();
        let key = (report.job_id, report.step_id, report.new_status());
        self.lock().entry(key).or_insert(at);
        self.news.notify_waiters();
        Ok(Response::new(StepStatusChangeReply { ok: true }))
    }
}

/// The node; its directory goes with it.
pub struct Node {
    /// The supervisor under measurement.
    pub binary: PathBuf,
    /// A plain client of the runtime.
    pub client: Client,
    /// `unix:///path` of the runtime.
    pub endpoint: String,
    /// What supervisors reported.
    pub reports: Reports,
    /// Directories as on a node.
    pub places: Places,
    next_job: Cell<u32>,
}

impl Node {
    /// Makes the directories below `dir`; must be called within the event loop.
    pub fn new(binary: &Path, dir: &Path, endpoint: &str) -> Result<Self> {
        let own = std::process::id();
        let places = Places::below(&dir.join(format!("crane-bench-{own}")));
        for made in [&places.logs, &places.cwd] {
            std::fs::create_dir_all(made)?;
        }
        std::os::unix::fs::chown(&places.cwd, Some(NOBODY), Some(NOBODY))?;
        let reports = Reports::default();
        let incoming = UnixListenerStream::new(UnixListener::bind(&places.craned)?);
        let service = CranedServer::new(reports.clone());
        // Ends with the event loop.
        drop(tokio::spawn(tonic::transport::Server::builder().serve_with_incoming(service, incoming)));
        Ok(Self {
            binary: binary.to_owned(),
            client: client(endpoint)?,
            endpoint: endpoint.to_owned(),
            reports,
            places,
            // Above a cluster's numbers, and another process's here.
            next_job: Cell::new(2_000_000_000 + own % 1_000_000 * 1000),
        })
    }

    /// One more client of the runtime, with a connection of its own.
    pub fn new_client(&self) -> Result<Client> {
        client(&self.endpoint)
    }

    /// A job nobody else has.
    pub fn job(&self) -> Facts {
        let job = self.next_job.get();
        self.next_job.set(job + 1);
        Facts {
            job,
            uid: NOBODY,
            gids: vec![NOBODY],
            places: self.places.clone(),
            runtime: self.endpoint.clone(),
            images: self.endpoint.clone(),
            image: IMAGE.to_owned(),
            ..Facts::default()
        }
    }

    /// Starts a supervisor, which must become ready.
    pub async fn start(&self, init: &InitSupervisorRequest) -> Result<Supervisor> {
        let step = StepId { job: init.job_id, step: init.step_id };
        Ok(Supervisor::start(&self.binary, step, init, READY_LIMIT).await?)
    }

    /// Brings a job's pod up.
    pub async fn pod(&self, job: &Facts) -> Result<Supervisor> {
        let pod = self.start(&as_on_a_node(job.pod_step())).await?;
        self.reports.wait(pod.step(), JobStatus::Running).await?;
        Ok(pod)
    }

    /// Ends a job's pod.
    pub async fn end_pod(&self, mut pod: Supervisor) -> Result<()> {
        grpc::shut_down(pod.step()).await?;
        timeout(LIMIT, pod.ended()).await??;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.places.root) {
            eprintln!("bench: cannot remove {}: {error}", self.places.root.display());
        }
    }
}

fn client(endpoint: &str) -> Result<Client> {
    let socket = Endpoint::parse(endpoint)?;
    Ok(Client::new(&socket, &socket, Limits::default()))
}

/// A container that waits for its end.
pub fn sleeping(job: &Facts, step: u32) -> InitSupervisorRequest {
    as_on_a_node(job.container_step(step, &["sleep", "3600"]))
}

/// The tests log more than a node does.
pub fn as_on_a_node(mut init: InitSupervisorRequest) -> InitSupervisorRequest {
    init.debug_level = "info".to_owned();
    init.spec().name = "bench".to_owned();
    init
}
