//! The eight calls of `crane.grpc.supervisor.Supervisor`.

use crate::control::socket::{self, Placed};
use crate::control::{Request, Snapshot};
use crate::outcome::Cause;
use crate::spec::bounded;
use crate::step::event::Event;
use crate::step::state::Status;
use crate::sys::cgroup;
use crate::sys::ticks::Ticks;
use crate::wire::crane::supervisor::supervisor_server::{Supervisor, SupervisorServer};
use crate::wire::crane::supervisor::{
    ChangeStepTimeConstraintReply, ChangeStepTimeConstraintRequest, CheckStatusReply, CheckStatusRequest,
    MigrateSshProcToCgroupReply, MigrateSshProcToCgroupRequest, QueryStepEnvReply, QueryStepEnvRequest,
    ReceivePmixPortReply, ReceivePmixPortRequest, ShutdownSupervisorReply, ShutdownSupervisorRequest,
    StepExecutionReply, StepExecutionRequest, TerminateStepReply, TerminateStepRequest,
};
use crate::wire::crane::{ErrCode, JobStatus, TerminateSource};
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status as RpcStatus};

/// Requests that wait for the driver; it takes them at once, so few ever do.
pub const QUEUE: usize = 64;
/// How often the socket's file is looked for: a watch on it would cost one of the
/// few inotify instances that root has on a node.
const LOOK_FOR_SOCKET: Duration = Duration::from_secs(20);
/// How long answers under way may take when the process ends.
const LAST_ANSWERS: Duration = Duration::from_millis(100);

/// A running control service.
pub struct Server {
    accepting: JoinHandle<()>,
    serving: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    placed: Arc<Mutex<Placed>>,
}

impl Server {
    /// Serves `listener`, already bound at `path`.
    ///
    /// # Errors
    /// If the runtime cannot take the listener.
    pub fn start(
        listener: StdListener,
        path: &Path,
        snapshot: Arc<Snapshot>,
        requests: mpsc::Sender<Request>,
    ) -> io::Result<Self> {
        let listener = UnixListener::from_std(listener)?;
        let (streams, incoming) = mpsc::channel(4);
        let (stop, stopped) = oneshot::channel::<()>();
        let calls = SupervisorServer::new(Calls { snapshot, requests });
        let serving = async move {
            let until = async { drop(stopped.await) };
            let server = tonic::transport::Server::builder();
            if let Err(error) = server.serve_with_incoming_shutdown(calls, ReceiverStream::new(incoming), until).await {
                tracing::error!(%error, "the control service ended");
            }
        };
        let placed = Arc::new(Mutex::new(Placed::at(path)));
        let accepting = accept(listener, path.to_owned(), Arc::clone(&placed), streams);
        Ok(Self { accepting: tokio::spawn(accepting), serving: tokio::spawn(serving), stop, placed })
    }

    /// Ends the service and removes the socket; an answer under way is still sent.
    pub async fn finish(self) {
        self.accepting.abort();
        let removed = self.placed.lock().map_or(Ok(()), |placed| placed.remove());
        if let Err(error) = removed {
            tracing::warn!(%error, "the control socket is left over");
        }
        drop(self.stop);
        drop(timeout(LAST_ANSWERS, self.serving).await);
    }
}

/// Accepts root's connections, and listens anew when the socket's file is gone.
async fn accept(
    mut listener: UnixListener,
    path: PathBuf,
    placed: Arc<Mutex<Placed>>,
    streams: mpsc::Sender<io::Result<UnixStream>>,
) {
    let turns = Ticks::every(LOOK_FOR_SOCKET);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if is_root(&stream) => {
                    if streams.send(Ok(stream)).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Out of descriptors, most likely: a pause lets others give some back.
                    sleep(Duration::from_millis(100)).await;
                }
            },
            () = turns.tick() => {
                if placed.lock().is_ok_and(|placed| placed.is_there()) {
                    continue;
                }
                match again(&path) {
                    Ok(new) => {
                        listener = new;
                        if let Ok(mut placed) = placed.lock() {
                            *placed = Placed::at(&path);
                        }
                        tracing::warn!(path = %path.display(), "the control socket was deleted; made again");
                    }
                    Err(error) => tracing::error!(%error, "the control socket was deleted and cannot be made again yet"),
                }
            }
        }
    }
}

/// The directory may be gone too, and somebody else's by now.
fn again(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        socket::check_directory(dir).map_err(io::Error::other)?;
    }
    socket::listen(path).map_err(io::Error::other).and_then(UnixListener::from_std)
}

/// The socket's mode keeps others out; this holds should the mode ever be changed.
fn is_root(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "refused a control connection: only root may connect");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "refused a control connection of unknown origin");
            false
        }
    }
}

struct Calls {
    snapshot: Arc<Snapshot>,
    requests: mpsc::Sender<Request>,
}

impl Calls {
    /// The driver is gone only while the process ends: nothing is left to ask for then.
    async fn send(&self, request: Request) {
        drop(self.requests.send(request).await);
    }
}

type Answer<T> = Result<Response<T>, RpcStatus>;

#[tonic::async_trait]
impl Supervisor for Calls {
    async fn execute_step(&self, _: tonic::Request<StepExecutionRequest>) -> Answer<StepExecutionReply> {
        let code = if self.snapshot.is_pod {
            ErrCode::ErrInvalidParam
        } else {
            self.send(Request::Event(Event::Execute)).await;
            ErrCode::Success
        };
        Ok(Response::new(StepExecutionReply { code: code.into() }))
    }

    async fn query_env_map(&self, _: tonic::Request<QueryStepEnvRequest>) -> Answer<QueryStepEnvReply> {
        Ok(Response::new(QueryStepEnvReply { ok: true, env: self.snapshot.env() }))
    }

    async fn check_status(&self, _: tonic::Request<CheckStatusRequest>) -> Answer<CheckStatusReply> {
        let status = match self.snapshot.status() {
            Status::Configuring => JobStatus::Configuring,
            Status::Starting => JobStatus::Starting,
            Status::Running => JobStatus::Running,
            Status::Completing => JobStatus::Completing,
        };
        Ok(Response::new(CheckStatusReply {
            job_id: self.snapshot.id.job,
            step_id: self.snapshot.id.step,
            supervisor_pid: i32::try_from(std::process::id()).unwrap_or_default(),
            status: status.into(),
            ok: true,
        }))
    }

    async fn change_step_time_constraint(
        &self,
        request: tonic::Request<ChangeStepTimeConstraintRequest>,
    ) -> Answer<ChangeStepTimeConstraintReply> {
        let asked = request.into_inner();
        tracing::info!(limit = asked.time_limit_seconds, deadline = asked.deadline_time, "time constraint changed");
        let limit = asked.time_limit_seconds.map(bounded);
        let deadline = asked.deadline_time.map(bounded);
        self.send(Request::ChangeLimits { limit, deadline }).await;
        Ok(Response::new(ChangeStepTimeConstraintReply { ok: true }))
    }

    async fn terminate_step(&self, request: tonic::Request<TerminateStepRequest>) -> Answer<TerminateStepReply> {
        let source = request.into_inner().terminate_source();
        let cause = match source {
            TerminateSource::UserCancel | TerminateSource::Preempt => Cause::Cancelled,
            TerminateSource::NormalCompletion => Cause::JobEnd,
            TerminateSource::FrontendDisconnect => Cause::FrontendGone,
        };
        tracing::info!(source = source.as_str_name(), "asked to terminate");
        self.send(Request::Event(Event::Stop(cause))).await;
        Ok(Response::new(TerminateStepReply { ok: true, reason: String::new() }))
    }

    async fn migrate_ssh_proc_to_cgroup(
        &self,
        request: tonic::Request<MigrateSshProcToCgroupRequest>,
    ) -> Answer<MigrateSshProcToCgroupReply> {
        let pid = request.into_inner().pid;
        let code = match &self.snapshot.user_cgroup {
            _ if !self.snapshot.is_pod || pid <= 1 => ErrCode::ErrInvalidParam,
            None => ErrCode::ErrCgroup,
            Some(group) => match cgroup::move_process(pid, group) {
                Ok(()) => ErrCode::Success,
                Err(error) => {
                    tracing::warn!(pid, group, %error, "cannot move an ssh session into the job");
                    ErrCode::ErrCgroup
                }
            },
        };
        Ok(Response::new(MigrateSshProcToCgroupReply { err_code: code.into() }))
    }

    async fn shutdown_supervisor(
        &self,
        _: tonic::Request<ShutdownSupervisorRequest>,
    ) -> Answer<ShutdownSupervisorReply> {
        tracing::info!("asked to shut down");
        self.send(Request::Event(Event::Shutdown)).await;
        Ok(Response::new(ShutdownSupervisorReply {}))
    }

    /// MPI only: not a container's matter.
    async fn receive_pmix_port(&self, _: tonic::Request<ReceivePmixPortRequest>) -> Answer<ReceivePmixPortReply> {
        Ok(Response::new(ReceivePmixPortReply { ok: false }))
    }
}
