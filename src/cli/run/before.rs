//! The half of `run -i`, `-t` and `-d` that has the terminal. It starts the other half
//! (`behind`), shows what comes and hands on what is typed; it may leave at any time.

use super::{CANNOT_RUN, RunError};
use crate::cli::node::{self, NodeError};
use crate::cli::output;
use crate::cli::run::options::Options;
use crate::local::front::{Front, FrontError, Manner, Over};
use crate::logs::show::LastLine;
use crate::sys::{raw_terminal, stdio};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitCode, Stdio};

/// Why there was nothing to see.
#[derive(Debug, thiserror::Error)]
enum BeforeError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Front(#[from] FrontError),
}

/// Runs the job that `options` ask for; its exit code, or 0 if we left before.
pub fn run(options: &Options) -> ExitCode {
    match attend(options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn attend(options: &Options) -> Result<u8, BeforeError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(RunError::NotRoot.into());
    }
    let typed = raw_terminal::is_stdin();
    if options.tty && options.interactive && !typed {
        return Err(RunError::NoTerminal.into());
    }
    // What is to be said about the configuration, the other half says.
    let node = node::open_quietly(&options.config)?;
    let keys = options.tty && typed;
    let manner = match (options.detach, keys) {
        (true, _) => Manner::Leave,
        (false, true) if raw_terminal::is_stdout() => Manner::Terminal,
        // The log is exact, so it is what goes into a file or a pipe.
        (false, true) => Manner::Keys,
        (false, false) if options.interactive => Manner::Input,
        (false, false) => Manner::Watch,
    };
    let (ours, theirs) = UnixStream::pair().map_err(RunError::Behind)?;
    let conductor = start(theirs, keys && !options.interactive).map_err(RunError::Behind)?;
    let event_loop = node::event_loop()?;
    let over = event_loop.block_on(async {
        let mut front = Front::new(ours, node.client(), manner, &output::say)?;
        front.attend().await
    });
    // A reader of ours that is stuck must not hold us up.
    event_loop.shutdown_background();
    Ok(conclude(over?, options, conductor))
}

/// Ourselves again, with the same words; `keys`: it has no terminal to see that there are some.
fn start(socket: UnixStream, keys: bool) -> io::Result<Child> {
    let mut words = std::env::args_os().skip(1);
    let ours = ["--behind"].into_iter().chain(keys.then_some("--interactive")).map(OsString::from);
    let command: Vec<OsString> = words.next().into_iter().chain(ours).chain(words).collect();
    // Not `sys::helper`: it outlives us, and has our environment and directory.
    #[expect(clippy::disallowed_methods)]
    std::process::Command::new(std::env::current_exe()?)
        .args(command)
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .spawn()
}

fn conclude(over: Over, options: &Options, mut conductor: Child) -> u8 {
    match over {
        Over::Left(step) if options.detach => {
            // Nobody who wants the number: the job goes on all the same.
            let _ = stdio::out(format!("{step}\n").as_bytes());
            0
        }
        Over::Left(step) => {
            output::say(&format!("left; step {step} goes on: see crane-supervisor logs -f, exec and stop"));
            0
        }
        // It was over before we looked: no failure to start it, and its logs are there.
        Over::Ended { code, step: Some(step), .. } if options.detach && code != CANNOT_RUN => {
            let _ = stdio::out(format!("{step}\n").as_bytes());
            let _ = conductor.wait();
            0
        }
        Over::Ended { code, words, json, last_line, .. } => {
            words.iter().for_each(|line| output::say(line));
            // It has said its last word and ends at once.
            let _ = conductor.wait();
            let begin = if last_line == LastLine::Open && !json.starts_with('\n') { "\n" } else { "" };
            if options.json
                && let Err(error) = stdio::out(format!("{begin}{json}").as_bytes())
            {
                output::say(&format!("cannot write the JSON object to stdout: {error}"));
                return CANNOT_RUN;
            }
            code
        }
        Over::ConductorDied => {
            let status = conductor.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            output::say(&format!(
                "the process that conducted the job ended ({status}); crane-supervisor cleanup undoes what it left"
            ));
            CANNOT_RUN
        }
    }
}
