//! `ps`: the steps of this node.

use crate::cli::images::bytes;
use crate::cli::output;
use crate::cli::run::duration;
use crate::cli::steps::{self, Places, Step, StepsError, ended, live, own};
use crate::config;
use crate::sys::stdio;
use clap::Args;
use nix::unistd::geteuid;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::sleep;

/// Clears a terminal and goes to its corner.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Options of `ps`.
#[derive(Args, Debug)]
#[command(
    after_help = "SINCE: a live step's start, an ended one's end, a left-over one's last change (UTC). PID: its supervisor.\n\
    MEM: its container's; of an ended step the most it used. Exit code: 0, also where there is no step; 1 nothing can be\n\
    told, or not all."
)]
pub struct Options {
    /// Ended steps too, by their final records.
    #[arg(short, long)]
    pub all: bool,

    /// Only this job.
    #[arg(long, value_name = "JOB")]
    pub job: Option<u32>,

    /// Again and again, every TIME (2s without one), until Ctrl-C.
    #[arg(short, long, value_name = "TIME", value_parser = duration::parse, num_args = 0..=1, default_missing_value = "2s", require_equals = true)]
    pub watch: Option<Duration>,

    /// Write one JSON object a line.
    #[arg(long)]
    pub json: bool,

    /// Configuration file of the node.
    #[arg(short = 'C', long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
}

/// Lists them.
pub fn run(options: &Options) -> ExitCode {
    match list(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Whether all could be told.
fn list(options: &Options) -> Result<bool, StepsError> {
    let places = if geteuid().is_root() {
        Some(Places::read(&options.config, "ps", "")?)
    } else {
        output::say(OWN_ONLY);
        None
    };
    let runtime = steps::event_loop()?;
    let told = runtime.block_on(show(options, places.as_ref()));
    runtime.shutdown_background();
    Ok(told)
}

/// What another user's `ps` is.
const OWN_ONLY: &str = "not root: shown are live steps of jobs in which you have processes now, without image, status and \
memory; the rest is root's to see (sudo), or craned's to tell (cqueue)";

async fn show(options: &Options, places: Option<&Places>) -> bool {
    loop {
        let (steps, problems) = collect(options, places).await;
        problems.iter().for_each(|problem| output::say(problem));
        let text = if options.json { json(&steps) } else { table(&steps) };
        let clear = if options.watch.is_some() && !options.json && io::stdout().is_terminal() { CLEAR } else { "" };
        match (stdio::out_while_read(format!("{clear}{text}").as_bytes()), options.watch) {
            (Err(error), _) => {
                output::say(&format!("cannot write to stdout: {error}"));
                return false;
            }
            (Ok(true), Some(pause)) => sleep(pause).await,
            (Ok(_), _) => return problems.is_empty(),
        }
    }
}

async fn collect(options: &Options, places: Option<&Places>) -> (Vec<Step>, Vec<String>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    match places {
        None => {
            found = own::of(geteuid().as_raw());
            found.retain(|step| options.job.is_none_or(|only| only == step.job));
        }
        Some(places) => {
            let (ids, unread) = live::ids(places, options.job);
            problems = unread;
            found.extend(live::look(places, ids).await);
            if options.all {
                let (ended, unread) = ended::all(places, options.job);
                problems.extend(unread);
                let known: Vec<_> = found.iter().map(Step::id).collect();
                // A requeued job's record is an earlier run's.
                found.extend(ended.into_iter().filter(|step| !known.contains(&step.id())));
                found.sort_by_key(Step::id);
            }
        }
    }
    steps::name_users(&mut found).await;
    (found, problems)
}

fn json(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{}\n", serde_json::to_string(step).unwrap_or_default())).collect()
}

fn table(steps: &[Step]) -> String {
    let mut rows = vec![["JOB.STEP", "USER", "IMAGE", "STATUS", "SINCE", "PID", "MEM"].map(str::to_owned)];
    rows.extend(steps.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(step: &Step) -> [String; 7] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        step.id().to_string(),
        or_none(step.user.clone().or(step.uid.map(|uid| uid.to_string()))),
        or_none(step.image.clone()),
        step.status.clone(),
        or_none(step.since.as_ref().map(|since| format!("{}Z", since.split(['.', 'Z']).next().unwrap_or_default()))),
        or_none(step.pid.map(|pid| pid.to_string())),
        or_none(step.memory_bytes.map(bytes)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::steps::State;
    use crate::ids::StepId;

    #[test]
    fn what_is_unknown_is_a_dash_and_seconds_are_enough() {
        let mut step = Step::new(StepId { job: 42, step: 1 }, State::Live, "Running");
        step.since = Some("2026-11-25T14:13:56.123456Z".into());
        let text = table(&[step]);
        let cells: Vec<_> = text.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        assert_eq!(cells, ["42.1", "-", "-", "Running", "2026-11-25T14:13:56Z", "-", "-"]);
    }
}
