//! `StepStatusChange`: one report at a time, over and over until `ok=true`.

use crate::channel;
use crate::failpoint;
use crate::ids::StepId;
use crate::outcome::{FinalStatus, Verdict};
use crate::step::action::Report;
use crate::wire::crane::craned_client::CranedClient;
use crate::wire::crane::{JobStatus, StepStatusChangeRequest};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::time::{sleep, timeout};

/// Bytes of a report's reason.
const REASON_MAX: usize = 4096;
/// How long craned may take for one answer.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// First and longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Where reports go, and from whom.
#[derive(Clone, Debug)]
pub struct Sender {
    /// craned's socket.
    pub socket: PathBuf,
    /// The step.
    pub id: StepId,
    /// craned's name for the node.
    pub node: String,
}

impl Sender {
    /// Delivers a report; returns once craned has acknowledged it, however long that takes.
    pub async fn deliver(self, report: Report) {
        let request = self.request(&report);
        let mut pause = PAUSES.0;
        let mut tries = 0_u32;
        failpoint::pass(|| format!("before report {}", point(&report)));
        loop {
            tries += 1;
            match send(&self.socket, request.clone()).await {
                Ok(()) => break,
                // The first failure is worth a line; craned being away is not our error.
                Err(problem) if tries == 1 => {
                    tracing::warn!(problem, ?report, "craned did not take a report; will keep trying")
                }
                Err(problem) => tracing::debug!(problem, tries, "craned did not take a report"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        failpoint::pass(|| format!("reported {}", point(&report)));
        tracing::info!(?report, tries, "reported");
    }

    fn request(&self, report: &Report) -> StepStatusChangeRequest {
        let silent = Verdict { status: FinalStatus::Completed, exit_code: 0, reason: String::new() };
        let (status, verdict, last) = match report {
            Report::Starting => (JobStatus::Starting, &silent, None),
            Report::PodRunning => (JobStatus::Running, &silent, None),
            Report::PodFailed(verdict) => (JobStatus::Failed, verdict, None),
            Report::Final(verdict) => (JobStatus::Completing, verdict, Some(final_status(verdict.status).into())),
        };
        StepStatusChangeRequest {
            job_id: self.id.job,
            step_id: self.id.step,
            craned_id: self.node.clone(),
            new_status: status.into(),
            exit_code: verdict.exit_code,
            reason: shortened(&verdict.reason),
            timestamp: Some(SystemTime::now().into()),
            final_status: last,
        }
    }
}

/// A reason may quote what a user wrote; a report that craned's server refuses for its size would be told for ever.
fn shortened(reason: &str) -> String {
    if reason.len() <= REASON_MAX {
        return reason.to_owned();
    }
    let end = (0..=REASON_MAX).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or_default();
    format!("{}…", &reason[..end])
}

fn point(report: &Report) -> &'static str {
    match report {
        Report::Starting => "starting",
        Report::PodRunning => "pod running",
        Report::PodFailed(_) => "pod failed",
        Report::Final(_) => "final",
    }
}

fn final_status(status: FinalStatus) -> JobStatus {
    match status {
        FinalStatus::Completed => JobStatus::Completed,
        FinalStatus::Failed => JobStatus::Failed,
        FinalStatus::ExceedTimeLimit => JobStatus::ExceedTimeLimit,
        FinalStatus::Cancelled => JobStatus::Cancelled,
        FinalStatus::OutOfMemory => JobStatus::OutOfMemory,
        FinalStatus::Deadline => JobStatus::Deadline,
    }
}

/// One try, over a connection of its own: reports are rare, an open one costs memory.
async fn send(socket: &Path, request: StepStatusChangeRequest) -> Result<(), String> {
    let mut client = CranedClient::new(channel::to_socket(socket));
    let mut request = tonic::Request::new(request);
    request.set_timeout(CALL_LIMIT);
    match timeout(CALL_LIMIT, client.step_status_change(request)).await {
        Ok(Ok(reply)) if reply.get_ref().ok => Ok(()),
        Ok(Ok(_)) => Err("craned answered ok=false".to_owned()),
        Ok(Err(status)) => Err(format!("{:?}: {}", status.code(), status.message())),
        Err(_elapsed) => Err(format!("no answer within {CALL_LIMIT:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_quotes_too_much_is_cut_between_two_letters() {
        assert_eq!(shortened("no such image"), "no such image");
        let long = shortened(&"é".repeat(3 << 20));
        assert!(long.len() <= REASON_MAX + "…".len() && long.ends_with("é…"), "{} bytes", long.len());
    }
}
