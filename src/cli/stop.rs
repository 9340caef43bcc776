//! `stop JOB.STEP…`: an orderly end through the steps' control sockets, waited for.
//!
//! Asks what craned would ask: a container step to cancel, a pod step to shut down. Kills
//! nothing itself.

use crate::cli::output;
use crate::cli::run::duration;
use crate::cli::steps::{self, Places, State, Step, StepsError, ended, live};
use crate::config;
use crate::ids::StepId;
use crate::local::LocalError;
use crate::local::grpc;
use crate::sys::pidfd::Process;
use crate::sys::stdio;
use clap::Args;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The supervisor's own time between TERM and KILL; none can be longer.
const GRACE: u64 = 10;
/// Between two looks for a directory that a reaper still has.
const LOOK: Duration = Duration::from_millis(100);
/// The step that has the pod.
const POD_STEP: u32 = 0;

/// Options of `stop`.
#[derive(Args, Debug)]
#[command(
    after_help = "A container gets TERM and, after the grace, KILL; craned is told that the step was cancelled. A step 0 holds\n\
    the job's pod: it is stopped after the containers in it, which must be named too. craned goes by its own mind about the\n\
    rest of the job. Exit code: 0 every step is gone, also one that had ended before; 1 one is not."
)]
pub struct Options {
    /// The steps.
    #[arg(value_name = "JOB.STEP", required = true)]
    pub steps: Vec<StepId>,

    /// Seconds between TERM and KILL, 10 at most.
    #[arg(long, value_name = "SECONDS", default_value_t = GRACE, value_parser = clap::value_parser!(u64).range(0..=GRACE))]
    pub grace: u64,

    /// As good as no grace: a second at most.
    #[arg(long, conflicts_with = "grace")]
    pub now: bool,

    /// How long to wait until they are gone.
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "60s")]
    pub timeout: Duration,

    /// Write one JSON object a line: job, step, gone, status, or the reason why not.
    #[arg(long)]
    pub json: bool,

    /// Configuration file of the node.
    #[arg(short = 'C', long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
}

/// Why a step is still there.
#[derive(Debug, thiserror::Error)]
enum StopError {
    #[error(transparent)]
    Unknown(#[from] StepsError),
    #[error("its supervisor is dead: crane-supervisor cleanup --job {0} undoes what it left")]
    Dead(u32),
    #[error("it holds the pod of {0}: name those too, or stop them first")]
    Used(String),
    #[error(transparent)]
    Call(#[from] LocalError),
    #[error("it is still {status} after {limit:?}: {hint}")]
    Still { status: String, limit: Duration, hint: &'static str },
}

/// Stops them.
pub fn run(options: &Options) -> ExitCode {
    match stop(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn stop(options: &Options) -> Result<bool, StepsError> {
    let places = Places::read(&options.config, "stop", "cancel the job (ccancel)")?;
    let runtime = steps::event_loop()?;
    let all = runtime.block_on(stop_all(&places, options));
    runtime.shutdown_background();
    Ok(all)
}

/// Whether all are gone. The pods last: their containers would be killed with them.
async fn stop_all(places: &Places, options: &Options) -> bool {
    let mut asked: BTreeSet<StepId> = options.steps.iter().copied().collect();
    let (pods, containers): (Vec<_>, Vec<_>) = asked.iter().copied().partition(|id| id.step == POD_STEP);
    let mut all = true;
    for turn in [containers, pods] {
        let mut stops = JoinSet::new();
        for id in turn {
            let order = Order { id, grace: grace(options), limit: options.timeout };
            let (places, asked) = (places.clone(), asked.clone());
            stops.spawn(async move { (id, stop_one(&places, order, &asked).await) });
        }
        while let Some(joined) = stops.join_next().await {
            let Ok((id, result)) = joined else {
                output::say("internal error: a stop crashed");
                all = false;
                continue;
            };
            // One that stays keeps its pod.
            if result.is_err() {
                asked.remove(&id);
            }
            all &= tell(id, result, options.json);
        }
    }
    all
}

fn grace(options: &Options) -> Duration {
    if options.now { Duration::ZERO } else { Duration::from_secs(options.grace) }
}

/// One step to stop.
#[derive(Clone, Copy)]
struct Order {
    id: StepId,
    grace: Duration,
    limit: Duration,
}

/// What it ended as.
async fn stop_one(places: &Places, order: Order, asked: &BTreeSet<StepId>) -> Result<String, StopError> {
    let id = order.id;
    let Some(step) = live::look_at(places, id).await else {
        return match ended::read(places, id) {
            Ok(Some(record)) => Ok(format!("had ended: {}", ended::status(&record.verdict))),
            Ok(None) | Err(_) => Err(StepsError::Unknown(id).into()),
        };
    };
    match step.state {
        State::Live => {}
        State::LeftOver | State::Ended => return Err(StopError::Dead(id.job)),
    }
    let process = step.pid.and_then(|pid| Process::open(pid).ok());
    let begun = Instant::now();
    match ask(places, order, asked, process.as_ref()).await {
        // It ended by itself meanwhile.
        Err(StopError::Call(_)) if live::look_at(places, id).await.is_none() => {}
        asked => asked?,
    }
    has_ended(process.as_ref(), order.limit.saturating_sub(begun.elapsed())).await;
    while let Some(left) = live::look_at(places, id).await {
        // craned may have started the job again.
        if left.state == State::Live && left.pid.is_some() && left.pid != step.pid {
            break;
        }
        if begun.elapsed() >= order.limit {
            return Err(still(left, order.limit));
        }
        sleep(LOOK).await;
    }
    let record = ended::read(places, id).ok().flatten();
    Ok(record.map_or_else(|| "stopped".to_owned(), |record| format!("stopped: {}", ended::status(&record.verdict))))
}

/// What craned would ask; a container step is hurried once the grace is over.
async fn ask(
    places: &Places,
    order: Order,
    asked: &BTreeSet<StepId>,
    process: Option<&Process>,
) -> Result<(), StopError> {
    let Order { id, grace, limit: _ } = order;
    if id.step == POD_STEP {
        check_unused(places, id, asked).await?;
        return Ok(grpc::shut_down(id).await?);
    }
    grpc::cancel(id).await?;
    if grace < Duration::from_secs(GRACE) && !has_ended(process, grace).await {
        // One that has gone meanwhile takes no call.
        drop(grpc::hurry(id).await);
    }
    Ok(())
}

/// Other steps of the job live in its pod.
async fn check_unused(places: &Places, id: StepId, asked: &BTreeSet<StepId>) -> Result<(), StopError> {
    let (others, _unread) = live::ids(places, Some(id.job));
    let others = others.into_iter().filter(|other| *other != id && !asked.contains(other));
    let others = live::look(places, others.collect()).await;
    let users: Vec<_> =
        others.iter().filter(|step| step.state == State::Live).map(|step| step.id().to_string()).collect();
    if users.is_empty() { Ok(()) } else { Err(StopError::Used(users.join(", "))) }
}

/// Whether the supervisor ended within `limit`.
async fn has_ended(process: Option<&Process>, limit: Duration) -> bool {
    let Some(process) = process else { return false };
    timeout(limit, process.ended()).await.is_ok_and(|ended| ended.is_ok())
}

fn still(left: Step, limit: Duration) -> StopError {
    let hint = match left.status.as_str() {
        "Completing" => "it cleans up, or craned does not take its report; its log says which (logs --supervisor)",
        "NoAnswer" => "its supervisor does not answer; is the job suspended?",
        "Reaping" => "a reaper cleans up after it; its log says why it takes long (logs --supervisor)",
        _ => "its log says why (logs --supervisor)",
    };
    StopError::Still { status: left.status, limit, hint }
}

/// One line; whether the step is gone and that could be said.
fn tell(id: StepId, result: Result<String, StopError>, json: bool) -> bool {
    let gone = result.is_ok();
    let line = match (result, json) {
        (Ok(status), true) => {
            serde_json::json!({ "job": id.job, "step": id.step, "gone": true, "status": status }).to_string()
        }
        (Err(error), true) => {
            serde_json::json!({ "job": id.job, "step": id.step, "gone": false, "reason": error.to_string() })
                .to_string()
        }
        (Ok(status), false) => format!("{id} {status}"),
        (Err(error), false) => {
            output::say(&format!("step {id} is not stopped: {error}"));
            return false;
        }
    };
    match stdio::out(format!("{line}\n").as_bytes()) {
        Ok(()) => gone,
        Err(error) => {
            output::say(&format!("cannot write to stdout: {error}"));
            false
        }
    }
}
