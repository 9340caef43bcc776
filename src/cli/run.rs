//! `crane-supervisor run`: one container job on this node, without a cluster.
//!
//! Turns options, configuration and caller into a request for `local`, and the
//! job's end into words and an exit code. What was asked for is done or refused;
//! what was not asked for follows the configuration and what the node can do.

pub mod before;
pub mod behind;
pub mod duration;
pub mod options;
pub mod port;
pub mod user;
pub mod verdict;
pub mod volume;

use crate::cli::{account, output};
use crate::config::{CheckError, Config, ConfigError, Container};
use crate::credentials::{Account, CredentialsError};
use crate::local::interrupts::Interrupts;
use crate::local::plan::{Interaction, Network, PortMapping, Request};
use crate::local::{self, Ending, LocalError, Stage};
use crate::spec::Secret;
use crate::spec::reference::Reference;
use crate::sys::stdio;
use options::{Options, PullPolicy};
use port::PortOrPartition;
use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use user::UserError;
use verdict::Verdict;

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
    #[error("{0} ({remedy})", remedy = .0.remedy())]
    Check(#[from] CheckError),
    /// A variable that is not there to be taken over.
    #[error(
        "cannot take over the variable {0} (-e {0}): the caller's environment has none of that name, or it is not UTF-8"
    )]
    NoVariable(String),
    /// A variable without a name.
    #[error("-e {0:?} has no name: expected NAME=VALUE or NAME")]
    NoVariableName(String),
    /// The job has no user.
    #[error(transparent)]
    User(#[from] UserError),
    /// A host path is to be at two places.
    #[error("cannot mount {0:?} twice (-v): a job's mounts hold one container path for each host path")]
    RepeatedVolume(String),
    /// Something about the process or the node cannot be learnt.
    #[error("cannot learn {what}: {source}")]
    Learn {
        /// What.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// One process was to become two.
    #[error("cannot start the process that conducts the job: {0}")]
    Behind(#[source] io::Error),
    /// A terminal was asked for, of what is none.
    #[error("cannot give the container this terminal (-i -t): standard input is none; leave out -t")]
    NoTerminal,
    /// Playing craned failed.
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// Runs the job that `options` ask for and returns the exit code for it.
pub fn run(options: Options) -> ExitCode {
    if options.behind {
        return behind::run(options);
    }
    if options.detach || options.interactive || options.tty {
        return before::run(&options);
    }
    let json = options.json;
    match prepare(options, &output::say).and_then(|request| run_job(&request)) {
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
    let ending = runtime.block_on(async {
        let stage = Stage { interrupts: Interrupts::new()?, say: &output::say, ready: None };
        local::run(request, stage).await
    });
    // A write that a stuck reader of ours holds up must not hold us up.
    runtime.shutdown_background();
    Ok(ending?)
}

fn conclude(ending: &Ending, json: bool) -> ExitCode {
    let verdict = verdict::of(&ending.end);
    words(ending, &verdict).iter().for_each(|line| output::say(line));
    if json && let Err(error) = stdio::out(verdict::json(ending, &verdict).as_bytes()) {
        output::say(&format!("cannot write the JSON object to stdout: {error}"));
        return ExitCode::from(CANNOT_RUN);
    }
    ExitCode::from(verdict.code)
}

/// All there is to say about a job that is over.
fn words(ending: &Ending, verdict: &Verdict) -> Vec<String> {
    let mut words: Vec<_> = verdict.words.iter().chain(&ending.trouble).cloned().collect();
    if !ending.kept.is_empty() {
        let kept: Vec<_> = ending.kept.iter().map(|path| path.display().to_string()).collect();
        words.push(format!("kept: {}", kept.join(" ")));
    }
    words
}

fn prepare(options: Options, say: &dyn Fn(&str)) -> Result<Request, RunError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(RunError::NotRoot);
    }
    let (config, notes) = Config::read(&options.config)?;
    for note in notes {
        say(&format!("{}: {note}", options.config.display()));
    }
    request(options, config.container()?, say)
}

fn request(options: Options, node: Container, say: &dyn Fn(&str)) -> Result<Request, RunError> {
    if let Some(host) = volume::repeated(&options.volumes) {
        return Err(RunError::RepeatedVolume(host.to_owned()));
    }
    let user = user::job_user(options.job_user)?;
    Ok(Request {
        node,
        node_name: node_name()?,
        program: std::env::current_exe()
            .map_err(|source| RunError::Learn { what: "our own program's path", source })?,
        name: options.name.unwrap_or_else(|| "run".to_owned()),
        credentials: credentials(&options.image, user.uid, say),
        image: options.image,
        pull_policy: options.pull_policy.unwrap_or(PullPolicy::IfNotPresent).as_str(),
        entrypoint: options.entrypoint,
        command: options.command,
        workdir: options.workdir,
        env: environment(&options.env)?,
        user,
        run_as: user::run_as(options.user, user),
        user_namespace: options.userns,
        mounts: options.volumes,
        network: options.network.map(|network| match network {
            options::Network::Host => Network::Node,
            options::Network::Default => Network::Pod,
        }),
        ports: ports(options.ports, say),
        dns: options.dns,
        time: options.time,
        memory: options.mem,
        cpus: options.cpus_per_task,
        cwd: std::env::current_dir().map_err(|source| RunError::Learn { what: "the working directory", source })?,
        // Nobody sees the output of one that was left at once.
        keep: options.keep || options.detach,
        interaction: Interaction { stdin: options.interactive, tty: options.tty },
    })
}

/// What the job's user has for the image's registry. A public image needs none, so what
/// is wrong with the file is said and no more.
fn credentials(image: &str, uid: u32, say: &dyn Fn(&str)) -> Option<(String, Secret)> {
    // What is no reference is refused by the supervisor, with its words.
    let registry = Reference::parse(image).ok()?.registry();
    let account = match Account::of(uid) {
        Ok(account) => account,
        Err(CredentialsError::Unknown(_)) => return None,
        Err(error) => {
            say(&format!("going on without registry passwords: {error}"));
            return None;
        }
    };
    account::find(&account, &registry).unwrap_or_else(|error| {
        say(&format!("going on without registry passwords: {error}"));
        None
    })
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

fn ports(values: Vec<PortOrPartition>, say: &dyn Fn(&str)) -> Vec<PortMapping> {
    let mapping = |value| match value {
        PortOrPartition::Port(mapping) => Some(mapping),
        PortOrPartition::Partition(name) => {
            say(&format!("ignoring the partition {name}: this is one node"));
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
}
