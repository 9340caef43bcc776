//! A craned double: takes `StepStatusChange` on a unix socket, remembers every
//! attempt in order, and answers by script.

use super::server::UnixServer;
use crane_supervisor::wire::crane::craned_server::{Craned as CranedService, CranedServer};
use crane_supervisor::wire::crane::{JobStatus, StepStatusChangeReply, StepStatusChangeRequest};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status};

/// How one attempt is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `ok=true`.
    Ok,
    /// `ok=false`: not taken.
    NotOk,
    /// gRPC UNAVAILABLE, as craned answers while it starts or stops.
    Unavailable,
    /// Never; only the caller's deadline ends it.
    Hang,
}

/// One call of `StepStatusChange`.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What was reported.
    pub request: StepStatusChangeRequest,
    /// When it arrived.
    pub at: Instant,
    /// How it was answered.
    pub answer: Answer,
    /// The caller gave a deadline (`grpc-timeout`).
    pub has_deadline: bool,
}

#[derive(Default)]
struct Shared {
    attempts: Mutex<Vec<Attempt>>,
    arrived: Condvar,
    script: Mutex<VecDeque<Answer>>,
}

/// The double; `stop` and `restart` play craned's own restart.
pub struct Craned {
    path: PathBuf,
    shared: Arc<Shared>,
    server: Mutex<Option<UnixServer>>,
}

impl Craned {
    /// Listens on `path`.
    pub fn start(path: impl Into<PathBuf>) -> Self {
        let craned = Self { path: path.into(), shared: Arc::default(), server: Mutex::new(None) };
        craned.restart();
        craned
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next `times` attempts get `answer`, after what is scripted already; then `Ok` again.
    pub fn answer(&self, times: usize, answer: Answer) {
        self.shared.script.lock().unwrap().extend(std::iter::repeat_n(answer, times));
    }

    /// Goes away: no socket, connections cut. What was taken stays remembered.
    pub fn stop(&self) {
        self.server.lock().unwrap().take();
    }

    /// Comes (back) on the same path.
    pub fn restart(&self) {
        let taker = Taker(Arc::clone(&self.shared));
        let server = UnixServer::start(&self.path, CranedServer::new(taker));
        *self.server.lock().unwrap() = Some(server);
    }

    /// Every attempt so far, in order of arrival.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.shared.attempts.lock().unwrap().clone()
    }

    /// What was acknowledged of `step`, in order.
    pub fn reports(&self, step: u32) -> Vec<StepStatusChangeRequest> {
        acknowledged(&self.shared.attempts.lock().unwrap(), step)
    }

    /// The statuses acknowledged of `step`, in order.
    pub fn statuses(&self, step: u32) -> Vec<JobStatus> {
        self.reports(step).iter().map(StepStatusChangeRequest::new_status).collect()
    }

    /// Waits until a report of `step` with `status` is acknowledged.
    #[track_caller]
    pub fn wait_for(&self, step: u32, status: JobStatus, limit: Duration) -> StepStatusChangeRequest {
        let found = self.wait(limit, |attempts| {
            acknowledged(attempts, step).into_iter().find(|report| report.new_status() == status)
        });
        found.unwrap_or_else(|| {
            panic!("no {status:?} of step {step} within {limit:?}; attempts: {:#?}", self.attempts())
        })
    }

    /// Waits until `count` attempts have arrived, acknowledged or not.
    #[track_caller]
    pub fn wait_for_attempts(&self, count: usize, limit: Duration) -> Vec<Attempt> {
        let found = self.wait(limit, |attempts| (attempts.len() >= count).then(|| attempts.to_vec()));
        found.unwrap_or_else(|| panic!("not {count} attempts within {limit:?}: {:#?}", self.attempts()))
    }

    fn wait<T>(&self, limit: Duration, look: impl Fn(&[Attempt]) -> Option<T>) -> Option<T> {
        let end = Instant::now() + limit;
        let mut attempts = self.shared.attempts.lock().unwrap();
        loop {
            if let Some(found) = look(&attempts) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            attempts = self.shared.arrived.wait_timeout(attempts, left).unwrap().0;
        }
    }
}

fn acknowledged(attempts: &[Attempt], step: u32) -> Vec<StepStatusChangeRequest> {
    let taken = attempts.iter().filter(|a| a.answer == Answer::Ok && a.request.step_id == step);
    taken.map(|a| a.request.clone()).collect()
}

struct Taker(Arc<Shared>);

#[tonic::async_trait]
impl CranedService for Taker {
    async fn step_status_change(
        &self,
        request: Request<StepStatusChangeRequest>,
    ) -> Result<Response<StepStatusChangeReply>, Status> {
        let answer = self.0.script.lock().unwrap().pop_front().unwrap_or(Answer::Ok);
        let has_deadline = request.metadata().contains_key("grpc-timeout");
        let attempt = Attempt { request: request.into_inner(), at: Instant::now(), answer, has_deadline };
        self.0.attempts.lock().unwrap().push(attempt);
        self.0.arrived.notify_all();
        match answer {
            Answer::Ok => Ok(Response::new(StepStatusChangeReply { ok: true })),
            Answer::NotOk => Ok(Response::new(StepStatusChangeReply { ok: false })),
            Answer::Unavailable => Err(Status::unavailable("craned is not ready")),
            Answer::Hang => std::future::pending().await,
        }
    }
}
