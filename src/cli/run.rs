//! `crane-supervisor run`: one container job on this node, without a cluster.
//!
//! Turns options, configuration and caller into a request for `local`, and the
//! job's end into words and an exit code. What was asked for is done or refused;
//! what was not asked for follows the configuration and what the node can do.

pub mod duration;
pub mod options;
pub mod port;
pub mod verdict;

use crate::cli::output;
use crate::config::{CheckError, Config, ConfigError, Container};
use crate::local::plan::{Ids, Network, PortMapping, Request};
use crate::local::{self, Ending, LocalError};
use nix::unistd::{Gid, Uid, User, getgid, getuid};
use options::{Options, PullPolicy};
use port::PortOrPartition;
use std::collections::HashMap;
use std::io;
use std::process::ExitCode;

/// Exit code of a job that could not be run, also for a command line that cannot be understood.
pub const CANNOT_RUN: u8 = 125;

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The caller is not root.
    #[error("run needs root: it talks to the container runtime and starts supervisors, as craned does; try sudo")]
    NotRoot,
    /// No configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nothing containers could run with.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// A variable that is not there to be taken over.
    #[error(
        "cannot take over the variable {0} (-e {0}): the caller's environment has none of that name, or it is not UTF-8"
    )]
    NoVariable(String),
    /// A variable without a name.
    #[error("-e {0:?} has no name: expected NAME=VALUE or NAME")]
    NoVariableName(String),
    /// SUDO_UID or SUDO_GID is nonsense.
    #[error("cannot tell the job's user: {name} is {value:?}, not a number; unset it or correct it")]
    SudoUser {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// Something about the process or the node cannot be learnt.
    #[error("cannot learn {what}: {source}")]
    Learn {
        /// What.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Playing craned failed.
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// Runs the job that `options` ask for and returns the exit code for it.
pub fn run(options: Options) -> ExitCode {
    let json = options.json;
    match prepare(options).and_then(|request| run_job(&request)) {
        Ok(ending) => conclude(&ending, json),
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn run_job(request: &Request) -> Result<Ending, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| RunError::Learn { what: "what wakes us (epoll)", source })?;
    let ending = runtime.block_on(local::run(request, &output::say));
    // A write that a stuck reader of ours holds up must not hold us up.
    runtime.shutdown_background();
    Ok(ending?)
}

fn conclude(ending: &Ending, json: bool) -> ExitCode {
    let verdict = verdict::of(&ending.end);
    for line in verdict.words.iter().chain(&ending.trouble) {
        output::say(line);
    }
    if !ending.kept.is_empty() {
        let kept: Vec<_> = ending.kept.iter().map(|path| path.display().to_string()).collect();
        output::say(&format!("kept: {}", kept.join(" ")));
    }
    if json && let Err(error) = output::data(verdict::json(ending, &verdict).as_bytes()) {
        output::say(&format!("cannot write the JSON object to stdout: {error}"));
        return ExitCode::from(CANNOT_RUN);
    }
    ExitCode::from(verdict.code)
}

fn prepare(options: Options) -> Result<Request, RunError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(RunError::NotRoot);
    }
    let (config, notes) = Config::read(&options.config)?;
    for note in notes {
        output::say(&format!("{}: {note}", options.config.display()));
    }
    let node = config.container()?;
    if node.user_ns_by_default {
        output::say("running without a user namespace although UserNsEnabledByDefault is set: not supported yet");
    }
    request(options, node)
}

fn request(options: Options, node: Container) -> Result<Request, RunError> {
    let user = job_user()?;
    Ok(Request {
        node,
        node_name: node_name()?,
        program: std::env::current_exe()
            .map_err(|source| RunError::Learn { what: "our own program's path", source })?,
        name: options.name.unwrap_or_else(|| "run".to_owned()),
        image: options.image,
        pull_policy: options.pull_policy.unwrap_or(PullPolicy::IfNotPresent).as_str(),
        entrypoint: options.entrypoint,
        command: options.command,
        workdir: options.workdir,
        env: environment(&options.env)?,
        user,
        run_as: options.user.map_or(user, |(uid, gid)| run_as(uid, gid, user)),
        network: options.network.map(|network| match network {
            options::Network::Host => Network::Node,
            options::Network::Default => Network::Pod,
        }),
        ports: ports(options.ports),
        dns: options.dns,
        time: options.time,
        memory: options.mem,
        cpus: options.cpus_per_task,
        cwd: std::env::current_dir().map_err(|source| RunError::Learn { what: "the working directory", source })?,
        keep: options.keep,
    })
}

/// Who called, also through sudo.
fn job_user() -> Result<Ids, RunError> {
    let own = Ids { uid: getuid().as_raw(), gid: getgid().as_raw() };
    Ok(Ids { uid: sudo_id("SUDO_UID")?.unwrap_or(own.uid), gid: sudo_id("SUDO_GID")?.unwrap_or(own.gid) })
}

fn sudo_id(name: &'static str) -> Result<Option<u32>, RunError> {
    let Some(value) = std::env::var_os(name) else {
        return Ok(None);
    };
    let value = value.to_string_lossy().into_owned();
    value.parse().map(Some).map_err(|_| RunError::SudoUser { name, value })
}

/// Without a group: the user's primary one on this node, else that of the same number.
fn run_as(uid: u32, gid: Option<u32>, job_user: Ids) -> Ids {
    let known = || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| Gid::as_raw(user.gid));
    let gid = gid.or_else(|| (uid == job_user.uid).then_some(job_user.gid)).or_else(known).unwrap_or(uid);
    Ids { uid, gid }
}

/// As craned's id of a node: its host name.
fn node_name() -> Result<String, RunError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.map_err(|source| RunError::Learn { what: "the node's name", source })?;
    Ok(name.trim().to_owned())
}

fn environment(arguments: &[String]) -> Result<HashMap<String, String>, RunError> {
    let pair = |argument: &String| match argument.split_once('=') {
        Some(("", _)) => Err(RunError::NoVariableName(argument.clone())),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None if argument.is_empty() => Err(RunError::NoVariableName(argument.clone())),
        None => match std::env::var(argument) {
            Ok(value) => Ok((argument.clone(), value)),
            Err(_) => Err(RunError::NoVariable(argument.clone())),
        },
    };
    arguments.iter().map(pair).collect()
}

fn ports(values: Vec<PortOrPartition>) -> Vec<PortMapping> {
    let mapping = |value| match value {
        PortOrPartition::Port(mapping) => Some(mapping),
        PortOrPartition::Partition(name) => {
            output::say(&format!("ignoring the partition {name}: this is one node"));
            None
        }
    };
    values.into_iter().filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_given_or_taken_over_or_refused() {
        let arguments = ["A=1", "B=", "C=x=y", "PATH"].map(str::to_owned);
        let env = environment(&arguments).unwrap();
        assert_eq!((env["A"].as_str(), env["B"].as_str(), env["C"].as_str()), ("1", "", "x=y"));
        assert_eq!(env["PATH"], std::env::var("PATH").unwrap());
        for bad in ["NO_SUCH_VARIABLE_HERE", "=x", ""] {
            assert!(environment(&[bad.to_owned()]).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_user_without_group_gets_one_that_fits() {
        let job_user = Ids { uid: 4_000_000, gid: 77 };
        assert_eq!(run_as(4_000_000, None, job_user).gid, 77);
        assert_eq!(run_as(0, None, job_user).gid, 0);
        assert_eq!(run_as(3_999_999, None, job_user).gid, 3_999_999);
        assert_eq!(run_as(0, Some(5), job_user).gid, 5);
    }
}
