//! `logs JOB.STEP`: what a step's container wrote, or our own log of the step.
//!
//! Reads the node's files only, so it works for live and ended steps, with the runtime and
//! craned down. Called by `cli` only.

use crate::cli::output;
use crate::cli::run::duration;
use crate::config::{self, Config, ConfigError};
use crate::ids::StepId;
use crate::layout::{LogDir, TempDir};
use crate::logs::chain::Writers;
use crate::logs::follow::{FollowError, Follower};
use crate::logs::line::Stream;
use crate::logs::print::{Form, Printer, Selection, Source};
use crate::logs::show::Show;
use crate::logs::stamp;
use clap::{Args, ValueEnum};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;

/// How often it is looked whether a step that prints nothing has ended.
const LOOK: Duration = Duration::from_millis(250);

/// Options of `logs`.
#[derive(Args, Debug)]
#[command(
    after_help = "The container's stdout goes to stdout, its stderr to stderr. A step's older output may have been\n\
    dropped from the node (MaxLogFileSize, MaxLogFileNum); the user's copy has it all."
)]
pub struct Options {
    /// The step, as in its logs' names: 42.1
    #[arg(value_name = "JOB.STEP")]
    pub step: StepId,

    /// Go on until the step ends.
    #[arg(short, long)]
    pub follow: bool,

    /// Only the last so many lines.
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<u64>,

    /// Only lines from then on: an RFC 3339 time, or how long ago (90s, 10m, 2h).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<Duration>,

    /// Only lines before then.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Duration>,

    /// Put each line's time before it.
    #[arg(short, long, conflicts_with = "supervisor")]
    pub timestamps: bool,

    /// Only what was written there.
    #[arg(long, conflicts_with = "supervisor")]
    pub stream: Option<StreamName>,

    /// One JSON object for each line: time, stream, text; newline: false where the line had none at its end,
    /// lossy: true where it was not UTF-8. With --supervisor: time, level, step, message, fields.
    #[arg(long, conflicts_with = "timestamps")]
    pub json: bool,

    /// The supervisor's own log of the step instead.
    #[arg(long)]
    pub supervisor: bool,

    /// Configuration file of the node.
    #[arg(short = 'C', long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
}

/// One of the container's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StreamName {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Why nothing, or not all, was shown.
#[derive(Debug, thiserror::Error)]
enum LogsError {
    #[error("logs needs root: the logs are root's alone; try sudo, or read the user's copy (ccon logs)")]
    NotRoot,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("step {step} has no such log on this node ({}): {hint}", path.display())]
    Missing { step: StepId, path: PathBuf, hint: &'static str },
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error("cannot show {}: {source}", path.display())]
    Show { path: PathBuf, source: io::Error },
    #[error("{files} files of the log were removed by its rotation before they were shown")]
    Overtaken { files: u64 },
    #[error("cannot start the event loop: {0}")]
    EventLoop(#[source] io::Error),
}

/// Shows what `options` ask for.
pub fn run(options: &Options) -> ExitCode {
    match prepare(options).and_then(|(log, steps)| show(options, &log, &steps)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// The log, and where a live step has its directory.
fn prepare(options: &Options) -> Result<(PathBuf, Vec<PathBuf>), LogsError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(LogsError::NotRoot);
    }
    let (config, _notes) = Config::read(&options.config)?;
    let dir = LogDir::new(config.log_dir());
    let log = if options.supervisor { dir.supervisor_log(options.step) } else { dir.container_log(options.step) };
    if !log.exists() {
        let hint = match options.supervisor {
            false if options.step.step == 0 => "step 0 holds the pod and has no output; see --supervisor",
            _ => "see LogDir in the configuration, or the step ran on another node",
        };
        return Err(LogsError::Missing { step: options.step, path: log, hint });
    }
    let steps = config.temp_dirs().into_iter().map(|dir| TempDir::new(dir).step(options.step).path().to_owned());
    Ok((log, steps.collect()))
}

fn show(options: &Options, log: &Path, steps: &[PathBuf]) -> Result<(), LogsError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LogsError::EventLoop)?;
    let shown = runtime.block_on(async {
        let skip = match options.tail {
            Some(tail) => lines(options, log).await?.saturating_sub(tail),
            None => 0,
        };
        let form = match (options.json, options.timestamps) {
            (true, _) => Form::Json,
            (false, true) => Form::Timed,
            (false, false) => Form::Raw,
        };
        show_lines(options, log, steps, printer(options, form, skip)).await
    });
    runtime.shutdown_background();
    shown
}

fn printer(options: &Options, form: Form, skip: u64) -> Printer {
    let stream = options.stream.map(|stream| match stream {
        StreamName::Stdout => Stream::Stdout,
        StreamName::Stderr => Stream::Stderr,
    });
    let source = if options.supervisor { Source::Supervisor } else { Source::Container };
    Printer::new(Selection { since: options.since, until: options.until, stream, skip }, form, source)
}

/// How many lines there are now, of those wanted.
async fn lines(options: &Options, log: &Path) -> Result<u64, LogsError> {
    let mut counted = Show::new(Follower::oldest(log)?, printer(options, Form::Counted, 0));
    counted.present().await.map_err(|source| LogsError::Show { path: log.to_owned(), source })?;
    Ok(counted.lines())
}

async fn show_lines(options: &Options, log: &Path, steps: &[PathBuf], printer: Printer) -> Result<(), LogsError> {
    let failed = |source| LogsError::Show { path: log.to_owned(), source };
    let mut show = Show::new(Follower::oldest(log)?, printer);
    show.present().await.map_err(failed)?;
    while options.follow && !show.reader_left() {
        // In this order: what is written before the step is over is shown.
        let over = steps.iter().all(|dir| !dir.exists()) && show.writers() != Writers::Some;
        show.present().await.map_err(failed)?;
        if over {
            break;
        }
        if let Ok(grown) = timeout(LOOK, show.grown()).await {
            grown?;
        }
    }
    show.rest(Duration::ZERO).await.map_err(failed)?;
    match show.gaps() {
        0 => Ok(()),
        files => Err(LogsError::Overtaken { files }),
    }
}

/// A moment, as a distance from the epoch.
fn moment(text: &str) -> Result<Duration, String> {
    if let Some(moment) = stamp::since_epoch(text.as_bytes()) {
        return Ok(moment);
    }
    let ago = duration::parse(text).map_err(|error| format!("{error}, or an RFC 3339 time (2026-11-21T16:13:11Z)"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(now.saturating_sub(ago))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_times_or_ages() {
        assert_eq!(moment("1970-01-01T00:01:00Z"), Ok(Duration::from_secs(60)));
        let (ago, now) = (moment("10m").unwrap(), moment("1s").unwrap());
        assert!(now > ago + Duration::from_secs(590) && now < ago + Duration::from_secs(620));
        assert!(moment("yesterday").unwrap_err().contains("RFC 3339"));
    }
}
