//! The command line: what was asked for, and the one command that does it.
//!
//! craned starts the program with two descriptors and no command; everything
//! else is a command that a person types. Nothing here does the work.

pub mod account;
pub mod check;
pub mod cleanup;
pub mod exec;
pub mod helpers;
pub mod images;
pub mod inspect;
pub mod login;
pub mod logs;
pub mod lookup_user;
pub mod node;
pub mod output;
pub mod ps;
pub mod pull;
pub mod reap;
pub mod run;
pub mod steps;
pub mod stop;
pub mod supervise;

use crate::cleanup::reaper::Begin;
use crate::mounts::serve;
use crate::sys::stdio;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Exit code for a command line that cannot be understood.
const USAGE: u8 = 2;

/// Supervises one container job step over CRI.
#[derive(Debug, Parser)]
#[command(name = "crane-supervisor", version, disable_version_flag = true, args_conflicts_with_subcommands = true)]
#[command(after_help = "craned starts it with --input-fd and --output-fd; the commands are for people.")]
struct Arguments {
    /// Descriptor to read craned's init message from.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    input_fd: Option<i32>,

    /// Descriptor to answer craned on.
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    output_fd: Option<i32>,

    /// Print the version.
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one container job on this node, without a cluster.
    Run(Box<run::options::Options>),
    /// Tell whether this node can run container jobs, and what to do where it cannot.
    Check(check::Options),
    /// List the steps of this node.
    Ps(ps::Options),
    /// Tell everything this node knows about a step, in JSON.
    Inspect(inspect::Options),
    /// Stop steps in the orderly way, and wait until they are gone.
    Stop(stop::Options),
    /// Undo what dead supervisors left on this node. Leaves live steps alone; safe at any time.
    Cleanup(cleanup::Options),
    /// Run a program in a step's container.
    Exec(exec::Options),
    /// Show what a step's container wrote, or the supervisor's own log of it.
    Logs(logs::Options),
    /// Pull images before jobs need them.
    Pull(pull::Options),
    /// List the images on this node.
    Images(images::Options),
    /// Keep a password for a registry, as ccon login does.
    Login(login::LoginOptions),
    /// Forget the password kept for a registry.
    Logout(login::LogoutOptions),
    /// Finish the clean-up of a step whose supervisor has gone.
    #[command(hide = true)]
    Reap {
        /// Seconds after which to look again for what a cut-off call may still make.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        unsettled: u64,
        /// Try for so long at most, do not detach, and say in JSON what is left.
        #[arg(long, value_name = "SECONDS")]
        within: Option<u64>,
        /// Do nothing where another process has the step already.
        #[arg(long)]
        orphaned: bool,
        /// The step's directory.
        step_dir: PathBuf,
    },
    /// Hold a user namespace for a supervisor.
    #[command(hide = true)]
    HoldUserNamespace,
    /// Copy mounts for a supervisor.
    #[command(hide = true)]
    LockMounts {
        /// Their mount points.
        points: Vec<PathBuf>,
    },
    /// Turn into bindfs for a supervisor.
    #[command(hide = true)]
    ServeBindfs,
    /// Look a user up for a supervisor.
    #[command(hide = true)]
    LookupUser {
        /// Find the user's subordinate ids too, by this policy.
        #[arg(long, value_name = "JSON")]
        subids: Option<String>,
        /// The user.
        uid: u32,
        /// The job's groups, primary first.
        gids: Vec<u32>,
    },
}

/// The whole command line as clap knows it: man pages and completions are made from it.
pub fn definition() -> clap::Command {
    Arguments::command()
}

/// Does what `arguments` (the program's name first) ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.first().is_some_and(serve::is_fusermount) {
        return helpers::fusermount();
    }
    // A step waits for this one: it goes past the parser.
    if let Some((uid, gids)) = lookup_user::arguments(&arguments) {
        return lookup_user::run(uid, &gids, None);
    }
    // Nor does craned's own: a parser of all commands would stay in every step's memory.
    if let Some((input, output)) = craneds(&arguments) {
        return supervise::run(Some(input), Some(output));
    }
    // 2 could be the container's own exit code.
    let usage = if arguments.get(1).is_some_and(|word| word == "run") { run::CANNOT_RUN } else { USAGE };
    match Arguments::try_parse_from(arguments) {
        Ok(arguments) => dispatch(arguments),
        Err(error) => explain(&error, usage),
    }
}

/// The descriptors, if these are the words that craned writes.
fn craneds(words: &[OsString]) -> Option<(i32, i32)> {
    let words: Vec<_> = words.iter().skip(1).map(|word| word.to_str()).collect::<Option<_>>()?;
    match words.as_slice() {
        ["--input-fd", input, "--output-fd", output] => Some((input.parse().ok()?, output.parse().ok()?)),
        _ => None,
    }
}

fn dispatch(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Some(Command::Run(options)) => run::run(*options),
        Some(Command::Check(options)) => check::run(&options),
        Some(Command::Ps(options)) => ps::run(&options),
        Some(Command::Inspect(options)) => inspect::run(&options),
        Some(Command::Stop(options)) => stop::run(&options),
        Some(Command::Cleanup(options)) => cleanup::run(&options),
        Some(Command::Exec(options)) => exec::run(&options),
        Some(Command::Logs(options)) => logs::run(&options),
        Some(Command::Pull(options)) => pull::run(&options),
        Some(Command::Images(options)) => images::run(&options),
        Some(Command::Login(options)) => login::login(&options),
        Some(Command::Logout(options)) => login::logout(&options),
        Some(Command::Reap { within: Some(seconds), step_dir, .. }) => {
            reap::run_within(step_dir, Duration::from_secs(seconds))
        }
        Some(Command::Reap { unsettled, orphaned, step_dir, .. }) => {
            let begin = if orphaned { Begin::IfOrphaned } else { Begin::OnceLetGo };
            reap::run(step_dir, Duration::from_secs(unsettled), begin)
        }
        Some(Command::HoldUserNamespace) => helpers::hold_user_namespace(),
        Some(Command::LockMounts { points }) => helpers::lock_mounts(&points),
        Some(Command::ServeBindfs) => helpers::serve_bindfs(),
        Some(Command::LookupUser { subids, uid, gids }) => lookup_user::run(uid, &gids, subids.as_deref()),
        None if arguments.input_fd.is_none() && arguments.output_fd.is_none() => {
            output::say(&format!("nothing to do: name a command\n\n{}", Arguments::command().render_help()));
            ExitCode::from(USAGE)
        }
        None => supervise::run(arguments.input_fd, arguments.output_fd),
    }
}

/// Help and version are data; everything else is a mistake.
fn explain(error: &clap::Error, usage: u8) -> ExitCode {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match stdio::out(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        _ => {
            output::say(text.trim_end());
            ExitCode::from(usage)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn craned_descriptors_are_numbers_even_negative_ones() {
        let arguments = parse("csupervisor:[1.0] --input-fd 3 --output-fd -1").unwrap();
        assert_eq!((arguments.input_fd, arguments.output_fd), (Some(3), Some(-1)));
        assert!(parse("c --input-fd three").is_err());
    }

    #[test]
    fn craneds_own_words_go_past_the_parser_and_mean_the_same() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let line = "csupervisor:[1.0] --input-fd 3 --output-fd -1";
        let parsed = parse(line).unwrap();
        assert_eq!(craneds(&words(line)), parsed.input_fd.zip(parsed.output_fd));
        for line in ["c", "c --input-fd 3", "c --input-fd x --output-fd 4", "c run --input-fd 3 --output-fd 4"] {
            assert_eq!(craneds(&words(line)), None, "{line}");
        }
    }

    #[test]
    fn version_and_help_are_asked_for_in_both_lengths() {
        for flag in ["-v", "--version"] {
            assert_eq!(parse(&format!("c {flag}")).unwrap_err().kind(), ErrorKind::DisplayVersion);
        }
        for flag in ["-h", "--help"] {
            assert_eq!(parse(&format!("c {flag}")).unwrap_err().kind(), ErrorKind::DisplayHelp);
        }
    }

    #[test]
    fn what_follows_the_image_is_the_containers() {
        for line in ["c run -p CPU a:1 -- echo -e hi", "c run -p CPU a:1 echo -e hi"] {
            let Some(Command::Run(options)) = parse(line).unwrap().command else { panic!("no run") };
            assert_eq!((options.image.as_str(), options.command.join(" ")), ("a:1", "echo -e hi".into()), "{line}");
        }
    }
}
