//! Plays craned's part for one container job on this node, for `run`.
//!
//! Starts a pod step and a container step over the real handshake, takes their
//! reports on a real socket, shows the output and ends them in craned's order:
//! whatever works here works under craned. It makes no pod, container or mount
//! itself. Whatever happens after the first supervisor is ready, the pod step is
//! told to end and both processes are waited for, each wait with a limit.

pub mod child;
pub mod conduct;
pub mod craned;
pub mod display;
pub mod error;
pub mod features;
pub mod front;
pub mod grpc;
pub mod interrupts;
pub mod isolation;
pub mod link;
pub mod place;
pub mod plan;
pub mod runtime;
#[cfg(test)]
mod testing;
pub mod traces;

pub use error::LocalError;

use crate::layout::{LogDir, TempDir};
use crate::logs::show::LastLine;
use crate::outcome::FinalStatus;
pub use conduct::Stage;

use conduct::Conductor;
use place::Place;
use plan::{CONTAINER_STEP, Isolation, POD_STEP, Request};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How a job went.
#[derive(Debug)]
pub struct Ending {
    /// Its number.
    pub job: u32,
    /// How the container, or the pod before it, ended; or why nobody knows.
    pub end: Result<Ended, LocalError>,
    /// What went wrong beside it: display, clean-up.
    pub trouble: Vec<String>,
    /// Logs, records and output that are still there.
    pub kept: Vec<PathBuf>,
    /// Whether what went to stdout ended with a newline.
    pub last_line: LastLine,
    /// From the first supervisor's start until everything was gone.
    pub took: Duration,
}

/// The last word of the step that decided the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// craned's final status.
    pub status: FinalStatus,
    /// craned's exit code.
    pub exit_code: u32,
    /// One line for the user, or empty.
    pub reason: String,
}

impl Ended {
    /// Whether the container ran and everything about it is as asked for.
    pub fn is_success(&self) -> bool {
        self.status == FinalStatus::Completed && self.exit_code == 0
    }
}

/// Runs the job and leaves nothing behind but its traces.
///
/// An error means that nothing was started.
pub async fn run(request: &Request, stage: Stage<'_>) -> Result<Ending, LocalError> {
    let isolation = isolation::choose(request, runtime::probe(&request.node.runtime_socket).await?, stage.say)?;
    for dir in [&request.node.log_dir, &request.node.temp_dir] {
        make_private_dir(dir)?;
    }
    let temp_dir = TempDir::new(&request.node.temp_dir);
    let place = Place::claim(&temp_dir)?;
    let result = run_in(request, &place, isolation, stage).await;
    let released = place.release();
    let mut ending = result?;
    ending.trouble.extend(released.err().map(|error| error.to_string()));
    Ok(ending)
}

async fn run_in(
    request: &Request,
    place: &Place,
    isolation: Isolation,
    stage: Stage<'_>,
) -> Result<Ending, LocalError> {
    let started = Instant::now();
    let listener = craned::listen(place.craned_socket())?;
    let (sender, reports) = mpsc::unbounded_channel();
    let mut conductor = Conductor::new(request, place, isolation, reports, stage);
    let end = tokio::select! {
        end = conductor.conduct() => end,
        error = craned::serve(place.job(), listener, sender) => Err(error),
    };
    if matches!(end, Err(LocalError::ReportsEnded { .. })) {
        conductor.clean_up().await;
    }
    // Nobody has seen the output of one that was left.
    let keep = request.keep || conductor.alone();
    let (mut trouble, last_line) = conductor.into_remarks();
    let kept = settle_traces(request, place, end.as_ref().is_ok_and(Ended::is_success) && !keep, &mut trouble);
    Ok(Ending { job: place.job(), end, trouble, kept, last_line, took: started.elapsed() })
}

fn make_private_dir(path: &Path) -> Result<(), LocalError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| LocalError::Directory { path: path.to_owned(), source })
}

/// Removes the job's traces where they need not stay; returns what is still there.
fn settle_traces(request: &Request, place: &Place, needless: bool, trouble: &mut Vec<String>) -> Vec<PathBuf> {
    let (job, container) = (place.job(), place.step(CONTAINER_STEP));
    let mut kept = match traces::in_log_dir(&LogDir::new(&request.node.log_dir), job) {
        Ok(files) => files,
        Err(error) => {
            trouble.push(format!("cannot list {}: {error}", request.node.log_dir.display()));
            Vec::new()
        }
    };
    let copy = request.cwd.join(crate::layout::user_output_dir_name(job));
    if !needless || !trouble.is_empty() {
        kept.extend(copy.exists().then_some(copy));
        return kept;
    }
    for (path, error) in traces::remove(&kept) {
        trouble.push(format!("cannot remove {}: {error}", path.display()));
    }
    if let Err(error) = traces::remove_user_copy(&request.cwd, container, &request.node_name, request.user.uid) {
        trouble.push(format!("cannot remove the copy of the output in {}: {error}", copy.display()));
    }
    Vec::new()
}

/// Both steps' numbers, pod first.
const STEPS: [u32; 2] = [POD_STEP, CONTAINER_STEP];
