//! The order of one local job, from the pod step's start to the last process' end.
//!
//! ```text
//! start pod step ─► Running ─► start container step ─► ExecuteStep ─► Completing ─┐
//!      │ Failed, died, silent, interrupted: at any point ────────────────────────► end the pod ─► wait for both
//! ```
//! Reports decide; a supervisor's death only counts when no report explains it.
//! The pod step is ended on every way out, since it is the one that removes what
//! a dead container step left.

mod take_down;

use crate::exit_code;
use crate::ids::StepId;
use crate::layout::LogDir;
use crate::local::child::{READY_LIMIT, Supervisor};
use crate::local::craned::Report;
use crate::local::display::Display;
use crate::local::interrupts::Interrupts;
use crate::local::place::Place;
use crate::local::plan::{self, CONTAINER_STEP, Isolation, POD_STEP, Request};
use crate::local::{Ended, LocalError, grpc, traces};
use crate::logs::show::LastLine;
use crate::outcome::FinalStatus;
use crate::wire::crane::JobStatus;
use crate::wire::crane::supervisor::InitSupervisorRequest;
use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// A pod may have to wait for its network, and for the pull of the pause image.
const POD_LIMIT: Duration = Duration::from_secs(300);

/// Grace, removal and the last report after a stop was asked for.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// As far as a wait without a limit of its own goes; its event is a process' end.
const NO_LIMIT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// One local job under way.
pub struct Conductor<'a> {
    request: &'a Request,
    place: &'a Place,
    isolation: Isolation,
    log_dir: LogDir,
    reports: mpsc::UnboundedReceiver<Report>,
    interrupts: Interrupts,
    say: &'a dyn Fn(&str),
    /// Where another process shows the output.
    ready: Option<&'a Ready<'a>>,
    pod: Option<Supervisor>,
    container: Option<Supervisor>,
    display: Option<Display>,
    /// Steps that sent their last report: their processes end as they should.
    finished: Vec<u32>,
    /// Steps whose processes ended without it: their clean-up is ours to start.
    dead: Vec<StepId>,
    stop_asked: bool,
    last_line: LastLine,
    trouble: Vec<String>,
}

/// Hears of a job's number and log, before anything is written.
pub type Ready<'a> = dyn Fn(u32, &Path) + 'a;

/// Who sees the job.
pub struct Stage<'a> {
    /// What ends it early.
    pub interrupts: Interrupts,
    /// Takes lines for the person.
    pub say: &'a dyn Fn(&str),
    /// Where another process shows the output.
    pub ready: Option<&'a Ready<'a>>,
}

enum Event {
    Reported(Report),
    Interrupted(&'static str),
    Died(StepId, io::Result<ExitStatus>),
    TooLate,
}

impl<'a> Conductor<'a> {
    /// A job of which nothing has been started.
    pub fn new(
        request: &'a Request,
        place: &'a Place,
        isolation: Isolation,
        reports: mpsc::UnboundedReceiver<Report>,
        stage: Stage<'a>,
    ) -> Self {
        let Stage { interrupts, say, ready } = stage;
        let log_dir = LogDir::new(&request.node.log_dir);
        Self {
            request,
            place,
            isolation,
            log_dir,
            reports,
            interrupts,
            say,
            ready,
            pod: None,
            container: None,
            display: None,
            finished: Vec::new(),
            dead: Vec::new(),
            stop_asked: false,
            last_line: LastLine::Complete,
            trouble: Vec::new(),
        }
    }

    /// Whether the person has left before the end.
    pub fn alone(&self) -> bool {
        self.interrupts.alone()
    }

    /// What went wrong without deciding the job, and how the output ended.
    pub fn into_remarks(self) -> (Vec<String>, LastLine) {
        (self.trouble, self.last_line)
    }

    /// Runs the job; when it returns nothing of it runs any more, or `trouble` says what does.
    pub async fn conduct(&mut self) -> Result<Ended, LocalError> {
        let end = self.run_steps().await;
        self.clean_up().await;
        match end {
            // Ctrl-C reaches a supervisor that is only starting, too.
            Err(LocalError::NotReady { .. }) if self.was_interrupted().await => Ok(cancelled()),
            end => end,
        }
    }

    async fn was_interrupted(&mut self) -> bool {
        timeout(Duration::ZERO, self.interrupts.next()).await.is_ok()
    }

    async fn run_steps(&mut self) -> Result<Ended, LocalError> {
        let message = plan::pod_step(self.request, self.place, self.isolation);
        self.pod = Some(self.start(POD_STEP, message).await?);
        if let Some(ended) = self.wait_for_pod().await? {
            return Ok(ended);
        }
        let message = plan::container_step(self.request, self.place, self.isolation);
        self.container = Some(self.start(CONTAINER_STEP, message).await?);
        // The supervisor has made it before it was ready, and nothing runs yet: no line is missed.
        let log = self.log_dir.container_log(self.place.step(CONTAINER_STEP));
        match self.ready {
            Some(ready) => ready(self.place.job(), &log),
            None => self.display = Some(Display::start(&log)?),
        }
        grpc::execute(self.place.step(CONTAINER_STEP)).await?;
        self.wait_for_container().await
    }

    async fn start(&mut self, step: u32, message: InitSupervisorRequest) -> Result<Supervisor, LocalError> {
        let step = self.place.step(step);
        let started = Supervisor::start(&self.request.program, step, &message, READY_LIMIT).await;
        if started.is_err() {
            self.dead.push(step);
        }
        started
    }

    /// `None` once the pod is up.
    async fn wait_for_pod(&mut self) -> Result<Option<Ended>, LocalError> {
        let limit = Instant::now() + POD_LIMIT;
        loop {
            match self.next(limit).await {
                Event::Reported(report) if report.step != POD_STEP => {}
                Event::Reported(report) if report.status == JobStatus::Running => return Ok(None),
                Event::Reported(report) => {
                    if let Some(ended) = terminal(&report) {
                        return Ok(Some(ended));
                    }
                }
                Event::Interrupted(signal) => {
                    (self.say)(&format!("{signal}: stopping before the container was started"));
                    return Ok(Some(cancelled()));
                }
                Event::Died(step, status) => return Err(self.died(step, status)),
                Event::TooLate => return Err(self.silent(POD_STEP, "a running pod", POD_LIMIT)),
            }
        }
    }

    async fn wait_for_container(&mut self) -> Result<Ended, LocalError> {
        // The container may run for ever; a stop that was asked for may not.
        let mut limit = Instant::now() + NO_LIMIT;
        loop {
            match self.next(limit).await {
                Event::Reported(report) if report.step == CONTAINER_STEP => {
                    if let Some(ended) = terminal(&report) {
                        return Ok(ended);
                    }
                }
                Event::Reported(report) => {
                    if let Some(ended) = terminal(&report) {
                        self.trouble.push(format!("the pod step ended before the container: {}", ended.reason));
                    }
                }
                Event::Interrupted(signal) if self.stop_asked => {
                    (self.say)(&format!("{signal}: already stopping; what is left is cleaned up first"));
                }
                Event::Interrupted(signal) => {
                    (self.say)(&format!("{signal}: stopping the container"));
                    limit = Instant::now() + STOP_LIMIT;
                    self.ask_to_stop().await?;
                }
                Event::Died(step, status) if step.step == CONTAINER_STEP => {
                    return Err(self.died(step, status));
                }
                Event::Died(step, status) => {
                    let error = self.died(step, status);
                    self.trouble.push(error.to_string());
                }
                Event::TooLate => return Err(self.silent(CONTAINER_STEP, "its end", STOP_LIMIT)),
            }
        }
    }

    async fn ask_to_stop(&mut self) -> Result<(), LocalError> {
        grpc::cancel(self.place.step(CONTAINER_STEP)).await?;
        self.stop_asked = true;
        Ok(())
    }

    /// The next thing that matters. A report always comes before its sender's death.
    async fn next(&mut self, limit: Instant) -> Event {
        loop {
            let (step, status) = tokio::select! {
                biased;
                Some(report) = self.reports.recv() => {
                    if report.status == JobStatus::Completing {
                        self.finished.push(report.step);
                    }
                    return Event::Reported(report);
                }
                signal = self.interrupts.next() => return Event::Interrupted(signal),
                death = death(&mut self.container) => death,
                death = death(&mut self.pod) => death,
                () = sleep_until(limit) => return Event::TooLate,
            };
            let ended = if step.step == POD_STEP { &mut self.pod } else { &mut self.container };
            *ended = None;
            if !self.finished.contains(&step.step) {
                self.dead.push(step);
                return Event::Died(step, status);
            }
        }
    }

    fn died(&self, step: StepId, status: io::Result<ExitStatus>) -> LocalError {
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        LocalError::Died { step, status, last_line: self.last_line(step) }
    }

    fn silent(&self, step: u32, what: &'static str, limit: Duration) -> LocalError {
        let step = self.place.step(step);
        LocalError::Silent { step, what, seconds: limit.as_secs(), last_line: self.last_line(step) }
    }

    fn last_line(&self, step: StepId) -> String {
        traces::last_line(&self.log_dir.supervisor_log(step)).unwrap_or_else(|| "(none)".to_owned())
    }
}

async fn death(supervisor: &mut Option<Supervisor>) -> (StepId, io::Result<ExitStatus>) {
    match supervisor {
        Some(supervisor) => (supervisor.step(), supervisor.ended().await),
        None => std::future::pending().await,
    }
}

/// The step's end, if the report tells one.
fn terminal(report: &Report) -> Option<Ended> {
    let status = match report.status {
        JobStatus::Completing => final_status(report.final_status),
        JobStatus::Failed => FinalStatus::Failed,
        // Steps on their way; `Running` and the like are no end.
        _ => return None,
    };
    Some(Ended { status, exit_code: report.exit_code, reason: report.reason.clone() })
}

fn final_status(status: Option<JobStatus>) -> FinalStatus {
    match status {
        Some(JobStatus::Completed) => FinalStatus::Completed,
        Some(JobStatus::ExceedTimeLimit) => FinalStatus::ExceedTimeLimit,
        Some(JobStatus::Cancelled) => FinalStatus::Cancelled,
        Some(JobStatus::OutOfMemory) => FinalStatus::OutOfMemory,
        Some(JobStatus::Deadline) => FinalStatus::Deadline,
        // A supervisor that says anything else has not said that the step succeeded.
        _ => FinalStatus::Failed,
    }
}

fn cancelled() -> Ended {
    Ended { status: FinalStatus::Cancelled, exit_code: exit_code::TERMINATED, reason: String::new() }
}
