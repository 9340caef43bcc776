//! `reap STEP_DIR`: go on with a clean-up that outlasted its supervisor.

use crate::cleanup::{journal, reaper};
use crate::cli::output;
use crate::layout::StepDir;
use crate::sys::{privileges, signals};
use crate::telemetry::{self, Level, LogConfig};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Detaches, says so, and undoes what the journal in `step_dir` names.
pub fn run(step_dir: PathBuf, unsettled: Duration) -> ExitCode {
    let dir = StepDir::at(step_dir);
    reaper::detach();
    drop(signals::drop_foreign());
    drop(privileges::ordinary_oom_score());
    // Read before our starter may go: the lock comes later.
    let log = journal::read(&dir.journal()).ok().and_then(|(header, _)| {
        let config =
            LogConfig { path: header.log.clone(), level: Level::Info, max_bytes: 0, max_files: 0, step: header.id() };
        telemetry::start(config).ok()
    });
    // Our starter waits for this byte; where it is gone already, nothing is lost.
    drop(output::data(b"!"));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the event loop");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(reaper::reap(&dir, unsettled));
    match &result {
        Ok(()) => tracing::info!("nothing is left"),
        Err(error) => tracing::error!(%error, "not everything could be undone"),
    }
    drop(log);
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
