//! `cleanup`: undo what dead supervisors left on this node.
//!
//! Reads the configuration, has `cleanup::sweep` do the work, and prints one line for each
//! thing, for people or as JSON.

use crate::cleanup::sweep::finding::Finding;
use crate::cleanup::sweep::{self, Mode, Order};
use crate::cli::output;
use crate::cli::run::duration;
use crate::config::{self, CheckError, Config, ConfigError};
use crate::cri::endpoint::{Endpoint, EndpointError};
use crate::layout::{LogDir, TempDir};
use crate::sys::{signals, stdio};
use clap::Args;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Options of `cleanup`.
#[derive(Args, Debug)]
#[command(after_help = "Exit code: 0 nothing is left (or would be, with --dry-run); 1 something could not be undone.")]
pub struct Options {
    /// Configuration file of the node.
    #[arg(short = 'C', long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,

    /// Change nothing; say what would be undone.
    #[arg(long)]
    pub dry_run: bool,

    /// Write one JSON object a line: job, step, kind, what, result, and the reason where it was not undone.
    #[arg(long)]
    pub json: bool,

    /// Only what this job left.
    #[arg(long, value_name = "JOB")]
    pub job: Option<u32>,

    /// How old a pod, socket or mount without a step's directory must be.
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "60s")]
    pub older_than: Duration,

    /// How long it may take; what the runtime has not done by then is reported.
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "60s")]
    pub timeout: Duration,
}

/// Why nothing was looked at.
#[derive(Debug, thiserror::Error)]
enum CleanupError {
    #[error("cleanup needs root: it unmounts, and removes what supervisors of every user left; try sudo")]
    NotRoot,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0} ({remedy})", remedy = .0.remedy())]
    Check(#[from] CheckError),
    #[error("RuntimeEndpoint {0}")]
    Endpoint(#[from] EndpointError),
    #[error("cannot start the event loop: {0}")]
    EventLoop(#[source] io::Error),
}

/// Cleans up as `options` say.
pub fn run(options: &Options) -> ExitCode {
    drop(signals::drop_foreign());
    match clean(options) {
        Ok(findings) => conclude(&findings, options.json),
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn clean(options: &Options) -> Result<Vec<Finding>, CleanupError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(CleanupError::NotRoot);
    }
    let order = order(options)?;
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(event_loop.map_err(CleanupError::EventLoop)?.block_on(sweep::sweep(&order)))
}

fn order(options: &Options) -> Result<Order, CleanupError> {
    let (mut config, notes) = Config::read(&options.config)?;
    notes.iter().for_each(|note| output::say(note));
    // A feature that was turned off leaves as much behind as one that is on.
    config.container.enabled = true;
    let container = config.container()?;
    Ok(Order {
        temp_dirs: config.temp_dirs().into_iter().map(TempDir::new).collect(),
        mount_base: config.mount_base_dir(),
        runtime: Endpoint::parse(&container.runtime_socket.to_string_lossy())?,
        log_dir: LogDir::new(container.log_dir),
        older_than: options.older_than,
        limit: options.timeout,
        mode: if options.dry_run { Mode::Look } else { Mode::Undo },
        job: options.job,
    })
}

fn conclude(findings: &[Finding], json: bool) -> ExitCode {
    let mut text = String::new();
    for finding in findings {
        let line = if json { serde_json::to_string(finding).unwrap_or_default() } else { finding.to_string() };
        text.push_str(&line);
        text.push('\n');
    }
    if text.is_empty() && !json {
        text.push_str("nothing is left\n");
    }
    if let Err(error) = stdio::out(text.as_bytes()) {
        output::say(&format!("cannot write to stdout: {error}"));
        return ExitCode::FAILURE;
    }
    if findings.iter().any(Finding::is_left) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
