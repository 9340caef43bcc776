//! craned's side of the reports: takes each one, acknowledges it, hands it on in order.

use crate::local::LocalError;
use crate::wire::crane::craned_server::{Craned, CranedServer};
use crate::wire::crane::{JobStatus, StepStatusChangeReply, StepStatusChangeRequest};
use std::path::Path;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// What a supervisor said about its step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The step within the job.
    pub step: u32,
    /// Where the step is.
    pub status: JobStatus,
    /// craned's exit code.
    pub exit_code: u32,
    /// One line for the user, or empty.
    pub reason: String,
    /// How the step ended, on its last report.
    pub final_status: Option<JobStatus>,
}

struct Inbox {
    job: u32,
    reports: mpsc::UnboundedSender<Report>,
}

#[tonic::async_trait]
impl Craned for Inbox {
    async fn step_status_change(
        &self,
        request: Request<StepStatusChangeRequest>,
    ) -> Result<Response<StepStatusChangeReply>, Status> {
        let change = request.into_inner();
        if change.job_id != self.job {
            return Err(Status::invalid_argument(format!("this is job {}, not {}", self.job, change.job_id)));
        }
        let report = Report {
            step: change.step_id,
            status: change.new_status(),
            exit_code: change.exit_code,
            final_status: change.final_status.is_some().then(|| change.final_status()),
            reason: change.reason,
        };
        // Nobody listens once the job is over; a late repetition is still acknowledged.
        let _ = self.reports.send(report);
        Ok(Response::new(StepStatusChangeReply { ok: true }))
    }
}

/// Binds `socket`; supervisors can connect from then on.
pub fn listen(socket: &Path) -> Result<UnixListener, LocalError> {
    UnixListener::bind(socket).map_err(|source| LocalError::Listen { path: socket.to_owned(), source })
}

/// Answers reports of `job` until dropped.
pub async fn serve(job: u32, listener: UnixListener, reports: mpsc::UnboundedSender<Report>) -> LocalError {
    let service = CranedServer::new(Inbox { job, reports });
    let incoming = UnixListenerStream::new(listener);
    match tonic::transport::Server::builder().serve_with_incoming(service, incoming).await {
        Ok(()) => LocalError::ReportsEnded { source: None },
        Err(source) => LocalError::ReportsEnded { source: Some(source) },
    }
}
