//! What `run` can be told, spelled as in `ccon run`.

use crate::cli::run::port::PortOrPartition;
use crate::cli::run::user::{JobUser, NumericIds};
use crate::cli::run::{duration, port, user, volume};
use crate::config::{self, size};
use crate::local::plan::Mount;
use clap::{Args, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Options and arguments of `run`.
#[derive(Args, Debug)]
#[command(after_help = "Exit code: the container's own (128+N if signal N killed it); 124 time limit reached; \
                        125 the job could not be run; 130 cancelled before the container had an end.")]
pub struct Options {
    /// Image to run.
    #[arg(value_name = "IMAGE")]
    pub image: String,

    /// Command and arguments; the image's own without them.
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,

    /// Stop the container after this time: [days-]hh:mm:ss, mm:ss, 90s, 5m, 2h or 1d.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub time: Option<Duration>,

    /// Set a variable; with the name alone, take the caller's value.
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,

    /// Working directory in the container.
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workdir: Option<String>,

    /// Run as these numeric ids; without GID, the user's primary group. In a user namespace they are ids inside it, 0
    /// where nothing is said.
    #[arg(short = 'u', long, value_name = "UID[:GID]", value_parser = user::parse_ids)]
    pub user: Option<NumericIds>,

    /// Give the container a user namespace, or none. Left out: UserNsEnabledByDefault, where the runtime can.
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub userns: Option<bool>,

    /// Mount a host path, opened as the job's user; a relative one starts at the working directory.
    #[arg(short = 'v', long = "volume", value_name = "HOST:CONTAINER[:ro|:rw]", value_parser = volume::parse)]
    pub volumes: Vec<Mount>,

    /// Whose job it is, by number or login name. Left out: who called sudo, or the caller.
    #[arg(long = "as", value_name = "UID[:GID]", value_parser = user::parse_job_user)]
    pub job_user: Option<JobUser>,

    /// The node's network, or the runtime's default pod network.
    #[arg(long, value_enum)]
    pub network: Option<Network>,

    /// Publish a port: `[IP:]HOST:CONTAINER[/PROTO]`. A partition's name is noted and ignored: this is one node.
    #[arg(short = 'p', long = "ports", value_name = "PORTS", value_parser = port::parse)]
    pub ports: Vec<PortOrPartition>,

    /// Name server of the pod.
    #[arg(long, value_name = "IP")]
    pub dns: Vec<IpAddr>,

    /// Program to run in place of the image's entrypoint.
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,

    /// When to pull the image: Always, IfNotPresent (the default) or Never.
    #[arg(long, value_name = "POLICY", value_enum, ignore_case = true)]
    pub pull_policy: Option<PullPolicy>,

    /// Name of the job.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub name: Option<String>,

    /// Memory limit, such as 512M.
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub mem: Option<u64>,

    /// CPUs the container may use, such as 1.5.
    #[arg(short = 'c', long, value_name = "N", value_parser = parse_cpus)]
    pub cpus_per_task: Option<f64>,

    /// Let the program read our standard input.
    #[arg(short = 'i', long)]
    pub interactive: bool,

    /// Give the program a terminal; ours, if standard input is one. Ctrl-P Ctrl-Q leaves it, and the job goes on.
    #[arg(short = 't', long)]
    pub tty: bool,

    /// Print the step (JOB.STEP) once its container runs, and leave; see `logs` and `exec`.
    #[arg(short = 'd', long, conflicts_with_all = ["interactive", "tty", "json"])]
    pub detach: bool,

    /// The process that conducts the job for another; its standard input is a socket to that one.
    #[arg(long, hide = true)]
    pub behind: bool,

    /// Configuration file of the node.
    #[arg(short = 'C', long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,

    /// Write one JSON object about the job as the last line of stdout.
    #[arg(long)]
    pub json: bool,

    /// Keep logs, records and the copy of the output even if all went well.
    #[arg(long)]
    pub keep: bool,
}

/// `--network`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// The node's own.
    Host,
    /// The runtime's default pod network.
    Default,
}

/// `--pull-policy`, in craned's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PullPolicy {
    /// Pull even if the image is there.
    #[value(name = "Always")]
    Always,
    /// Pull if the image is missing.
    #[value(name = "IfNotPresent", aliases = ["if-not-present", "if_not_present"])]
    IfNotPresent,
    /// Fail if the image is missing.
    #[value(name = "Never")]
    Never,
}

impl PullPolicy {
    /// As craned writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

fn parse_memory(text: &str) -> Result<u64, String> {
    match size::parse(text) {
        Ok(0) => Err("a container needs more than 0 bytes".into()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_cpus(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(count) if count.is_finite() && count > 0.0 => Ok(count),
        _ => Err("expected a number above 0, such as 2 or 0.5".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_nothing_are_refused() {
        assert!(parse_memory("0").is_err() && parse_memory("0M").is_err());
        for text in ["0", "-1", "nan", "inf", ""] {
            assert!(parse_cpus(text).is_err(), "{text:?} was accepted");
        }
        assert_eq!(parse_cpus("0.5"), Ok(0.5));
    }
}
