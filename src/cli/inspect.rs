//! `inspect JOB.STEP`: everything this node knows about a step, as one JSON object.
//!
//! The environment is left out unless it is asked for: it may hold secrets of the user's.

use crate::cleanup::journal;
use crate::cli::output;
use crate::cli::steps::{self, Places, StepsError, ended, live};
use crate::config;
use crate::cri::client::{Client, Detail, Limits};
use crate::cri::endpoint::Endpoint;
use crate::cri::labels;
use crate::ids::StepId;
use crate::layout;
use crate::local::grpc;
use crate::step::pod_record;
use crate::sys::{cgroup, stdio};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::timeout;

/// How long the runtime may take; without an answer the rest is told.
const RUNTIME_LIMIT: Duration = Duration::from_secs(5);

/// Options of `inspect`.
#[derive(Args, Debug)]
#[command(after_help = "Exit code: 0; 1 the step is unknown here, or the caller is not root.")]
pub struct Options {
    /// The step.
    #[arg(value_name = "JOB.STEP")]
    pub step: StepId,

    /// A live step's environment too, secrets included.
    #[arg(long)]
    pub env: bool,

    /// Configuration file of the node.
    #[arg(short = 'C', long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
}

/// Tells all of it.
pub fn run(options: &Options) -> ExitCode {
    let told = match tell(options) {
        Ok(told) => told,
        Err(error) => {
            output::say(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let text = serde_json::to_string_pretty(&told).unwrap_or_default();
    if let Err(error) = stdio::out(format!("{text}\n").as_bytes()) {
        output::say(&format!("cannot write to stdout: {error}"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn tell(options: &Options) -> Result<Value, StepsError> {
    let places = Places::read(&options.config, "inspect", "ask craned (ccon inspect, cqueue)")?;
    let runtime = steps::event_loop()?;
    let told = runtime.block_on(everything(&places, options));
    runtime.shutdown_background();
    told
}

async fn everything(places: &Places, options: &Options) -> Result<Value, StepsError> {
    let id = options.step;
    let (record, unread) = match ended::read(places, id) {
        Ok(record) => (record, None),
        Err(problem) => (None, Some(problem)),
    };
    let present = live::look_at(places, id).await;
    let known = present.clone().or_else(|| record.clone().map(|record| ended::of(id, record)));
    let Some(step) = known else { return Err(StepsError::Unknown(id)) };
    let mut steps = [step];
    steps::name_users(&mut steps).await;
    let [step] = steps;
    let mut told = match json!(step) {
        Value::Object(told) => told,
        _ => Map::new(),
    };
    told.insert("paths".into(), paths(places, id));
    if present.is_some() {
        owned(places, id, &mut told).await;
        if options.env {
            let env =
                grpc::env(id).await.map_or_else(|error| json!({ "problem": error.to_string() }), |env| json!(env));
            told.insert("env".into(), env);
        }
    }
    let record = unread.map_or_else(|| json!(record), |problem| json!({ "problem": problem }));
    // Of a live step it is that of an earlier run.
    told.insert("record".into(), record);
    Ok(Value::Object(told))
}

/// Those that are there.
fn paths(places: &Places, id: StepId) -> Value {
    let dir = places.dir(id).map(|dir| dir.path().to_owned());
    let all = [
        ("directory", dir.unwrap_or_default()),
        ("socket", layout::socket(id)),
        ("log", places.log_dir.supervisor_log(id)),
        ("container_log", places.log_dir.container_log(id)),
        ("record", places.log_dir.record(id)),
    ];
    let there = all.into_iter().filter(|(_, path)| path.symlink_metadata().is_ok());
    Value::Object(there.map(|(name, path)| (name.to_owned(), json!(path))).collect())
}

/// What is written down in its directory, and what became of it.
async fn owned(places: &Places, id: StepId, told: &mut Map<String, Value>) {
    let Some(dir) = places.dir(id) else { return };
    let (header, entries) = match journal::read(&dir.journal()) {
        Ok(journal) => journal,
        Err(error) => {
            told.insert("journal".into(), json!({ "problem": error.to_string() }));
            return;
        }
    };
    let groups = live::groups(&entries);
    let processes = cgroup::member_files(&groups).map(|files| cgroup::members(&files)).unwrap_or_default();
    told.insert("processes".into(), json!(processes));
    let pods = places.temp_dirs.iter().find_map(|temp| pod_record::read(&temp.job(id.job)).ok().flatten());
    if let Some(pod) = pods {
        told.insert("pod".into(), json!({ "id": pod.id, "runtime": pod.runtime }));
    }
    if let (true, Some(uid)) = (id.step > 0, header.about.uid) {
        let container = timeout(RUNTIME_LIMIT, container(&header.runtime, id, uid)).await;
        let container = container.unwrap_or_else(|_| Err("the runtime does not answer".to_owned()));
        told.insert("container".into(), container.unwrap_or_else(|problem| json!({ "problem": problem })));
    }
    told.insert("journal".into(), json!({ "header": header, "entries": entries }));
}

/// CRI has nanoseconds.
fn since_epoch(nanoseconds: u64) -> String {
    steps::written(UNIX_EPOCH + Duration::from_nanos(nanoseconds))
}

/// The runtime's word on the step's container.
async fn container(socket: &Path, id: StepId, uid: u32) -> Result<Value, String> {
    let endpoint = Endpoint::parse(&socket.to_string_lossy()).map_err(|error| error.to_string())?;
    let client = Client::new(&endpoint, &endpoint, Limits::default());
    let selector = labels::container_selector(id, uid);
    let listed = client.list(&selector).await.map_err(|error| error.to_string())?;
    let Some(first) = listed.first() else { return Ok(Value::Null) };
    let answer = client.status(&first.id, Detail::Brief).await.map_err(|error| error.to_string())?;
    let status = answer.status.unwrap_or_default();
    Ok(json!({
        "id": status.id,
        "state": status.state().as_str_name(),
        "started_at": u64::try_from(status.started_at).ok().filter(|at| *at > 0).map(since_epoch),
        "exit_code": status.exit_code,
        "reason": status.reason,
        "image": status.image_ref,
    }))
}
