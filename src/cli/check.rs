//! `check`: whether this node can run container jobs, and what to do where it cannot.
//!
//! Each line is OK, WARN or FAIL, says what was found and what to do. Changes nothing, unless
//! a trial is asked for. Every probe has a limit, and none needs another's success: without a
//! configuration the rest is looked at with the defaults, without root what can be told is.

pub mod fuse;
pub mod ids;
pub mod kernel;
pub mod leftovers;
pub mod line;
pub mod places;
pub mod runtime;
pub mod settings;

use crate::cli::output;
use crate::cli::run::user::{JobUser, parse_job_user};
use crate::config::{self, Config};
use crate::sys::stdio;
use clap::Args;
use line::{LIMIT, Level, Line, answer, ok, warn, within};
use nix::unistd::geteuid;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::runtime::Handle;

/// The image of a trial where none is named.
const TRIAL_IMAGE: &str = "alpine:latest";

/// Options of `check`.
#[derive(Args, Debug)]
#[command(
    after_help = "OK: as it should be. WARN: some jobs will not run, or it could not be told. FAIL: no container job runs, or none\n\
    of a kind the configuration promises. Exit code: 0 no FAIL; 1 a FAIL; 2 a mistake on the command line."
)]
pub struct Options {
    /// A directory that jobs mount: whether its file system maps ids.
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// A user: which subordinate ids their user namespaces get.
    #[arg(long, value_name = "USER", value_parser = parse_job_user)]
    pub user: Option<JobUser>,

    /// Run a container as well, of IMAGE (alpine:latest), on the way `run` does it.
    #[arg(long, value_name = "IMAGE", num_args = 0..=1, default_missing_value = TRIAL_IMAGE, require_equals = true)]
    pub run: Option<String>,

    /// Only WARN and FAIL.
    #[arg(short, long)]
    pub quiet: bool,

    /// Write one JSON object a line: check, level (ok, warn, fail), found, remedy.
    #[arg(long)]
    pub json: bool,

    /// Configuration file of the node.
    #[arg(short = 'C', long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
}

/// Checks this node.
pub fn run(options: &Options) -> ExitCode {
    let event_loop = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(event_loop) => event_loop,
        Err(error) => {
            output::say(&format!("cannot start the event loop: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let mut told = Told { options, warnings: 0, failures: 0, broken: false };
    event_loop.block_on(check(options, &mut told));
    // A probe that hangs in the kernel must not hold us.
    event_loop.shutdown_background();
    told.conclude()
}

async fn check(options: &Options, told: &mut Told<'_>) {
    told.tell(vec![caller()]);
    let path = options.config.clone();
    let found = answer(LIMIT, "config", &path.display().to_string(), move || settings::look(&path)).await;
    let (lines, config, node) = found.unwrap_or_else(|line| (vec![line], Config::default(), None));
    told.tell(lines);
    let looked = config.clone();
    told.tell(within("supervisor", "the programs it names", move || settings::programs(&looked)).await);
    told.tell(within("kernel", "the kernel's files", kernel::look).await);
    let looked = config.clone();
    told.tell(within("disk", "the directories of steps", move || places::look(&looked)).await);
    told.tell(fuse::look(&config).await);
    told.tell(ids::file_systems(&config, &options.paths).await);
    if let Some(user) = options.user.clone() {
        let looked = config.clone();
        told.tell(within("subordinate ids", "looking the user up", move || ids::of_user(&looked, user)).await);
    }
    let Some(node) = node else { return };
    told.tell(runtime::look(&node).await);
    // It reads directories, between the questions to the runtime.
    let event_loop = Handle::current();
    let look = move || event_loop.block_on(leftovers::look(&config, &node));
    let line = answer(LIMIT * 2, "leftovers", "the directories of steps and mounts", look).await;
    told.tell(vec![line.unwrap_or_else(|line| line)]);
    if let Some(image) = &options.run {
        told.tell(vec![leftovers::trial(&options.config, image).await]);
    }
}

fn caller() -> Line {
    match geteuid().is_root() {
        true => ok("caller", "root"),
        false => warn("caller", "not root: some of this cannot be told", "run check as root (sudo)"),
    }
}

/// What was told so far.
struct Told<'a> {
    options: &'a Options,
    warnings: usize,
    failures: usize,
    broken: bool,
}

impl Told<'_> {
    /// As it comes: a person sees what is being waited for.
    fn tell(&mut self, lines: Vec<Line>) {
        for line in lines {
            match line.level {
                Level::Ok if self.options.quiet => continue,
                Level::Ok => {}
                Level::Warn => self.warnings += 1,
                Level::Fail => self.failures += 1,
            }
            let text =
                if self.options.json { serde_json::to_string(&line).unwrap_or_default() } else { line.to_string() };
            if let Err(error) = stdio::out(format!("{text}\n").as_bytes()) {
                output::say(&format!("cannot write to stdout: {error}"));
                self.broken = true;
            }
        }
    }

    fn conclude(&self) -> ExitCode {
        if !self.options.json && !self.options.quiet {
            output::say(&format!("{} FAIL, {} WARN", self.failures, self.warnings));
        }
        if self.failures > 0 || self.broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
