//! `reap STEP_DIR`: go on with a clean-up that outlasted its supervisor, or, for `cleanup`,
//! with one whose supervisor was killed.

use crate::cleanup::journal;
use crate::cleanup::reaper::{self, Begin, Reaped, Told};
use crate::layout::StepDir;
use crate::sys::{privileges, signals, stdio};
use crate::telemetry::{self, Level, LogConfig, Telemetry};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Detaches, says so, and undoes what the journal in `step_dir` names.
pub fn run(step_dir: PathBuf, unsettled: Duration, begin: Begin) -> ExitCode {
    let dir = StepDir::at(step_dir);
    reaper::detach();
    drop(signals::drop_foreign());
    drop(privileges::ordinary_oom_score());
    // Read before our starter may go: the lock comes later.
    let log = open_log(&dir);
    // Our starter waits for this byte; where it is gone already, nothing is lost.
    drop(stdio::out(b"!"));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the event loop");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(reaper::reap(&dir, unsettled, begin));
    // A write to a hung file system must not hold the process.
    runtime.shutdown_background();
    match &result {
        Ok(Reaped::All) => tracing::info!("nothing is left"),
        Ok(Reaped::Elsewhere) => tracing::info!("another process has taken the step, and cleans up"),
        Err(error) => tracing::error!(%error, "not everything could be undone"),
    }
    drop(log);
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Undoes what it can within `limit` and tells the rest on standard output.
pub fn run_within(step_dir: PathBuf, limit: Duration) -> ExitCode {
    let dir = StepDir::at(step_dir);
    drop(signals::drop_foreign());
    let log = open_log(&dir);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the event loop");
            return ExitCode::FAILURE;
        }
    };
    let told = runtime.block_on(reaper::reap_within(&dir, limit));
    runtime.shutdown_background();
    match &told {
        Told::Undone => tracing::info!("nothing is left"),
        Told::Supervised => {}
        Told::Left(left) => tracing::warn!(?left, "not everything could be undone"),
    }
    drop(log);
    match stdio::out(serde_json::to_string(&told).unwrap_or_default().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The step's own log, where its journal names it.
fn open_log(dir: &StepDir) -> Option<Telemetry> {
    let (header, _) = journal::read(&dir.journal()).ok()?;
    let config =
        LogConfig { path: header.log.clone(), level: Level::Info, max_bytes: 0, max_files: 0, step: header.id() };
    telemetry::start(config).ok()
}
