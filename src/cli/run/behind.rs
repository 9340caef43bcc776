//! The half of `run -i`, `-t` and `-d` that conducts the job: a process of its own session
//! that goes on when the person leaves. Started by `before` only.

use super::{CANNOT_RUN, RunError, prepare, verdict, words};
use crate::cli::output;
use crate::cli::run::options::Options;
use crate::local::interrupts::Interrupts;
use crate::local::link::{self, Backstage, Teller, Told};
use crate::local::{self, Ending, LocalError, Stage};
use crate::sys::fds;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

/// Runs the job; its end is told over the socket.
pub fn run(options: Options) -> ExitCode {
    match conduct(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn conduct(options: Options) -> Result<(), RunError> {
    // Keys of the terminal are for who has it.
    nix::unistd::setsid().map_err(|errno| RunError::Behind(errno.into()))?;
    let socket = claim().map_err(RunError::Behind)?;
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let event_loop = event_loop.map_err(|source| RunError::Learn { what: "what wakes us (epoll)", source })?;
    event_loop.block_on(async {
        let (teller, front) = link::backstage(socket).map_err(RunError::Behind)?;
        let told = match run_job(options, &teller, front).await {
            Ok(ending) => ended(&ending),
            Err(error) => Told::Ended { code: CANNOT_RUN, words: vec![error.to_string()], json: String::new() },
        };
        teller.tell(&told);
        Ok(())
    })
}

/// The socket that was our standard input, which is /dev/null from here on.
fn claim() -> io::Result<UnixStream> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    fds::silence_input()?;
    Ok(UnixStream::from(socket))
}

async fn run_job(options: Options, teller: &Teller, front: Backstage) -> Result<Ending, RunError> {
    let say = |line: &str| teller.tell(&Told::Say(line.to_owned()));
    let request = prepare(options, &say)?;
    let ready = |job: u32, log: &Path| {
        teller.tell(&Told::Ready { job, uid: request.user.uid, log: log.to_owned() });
    };
    let mut interrupts = Interrupts::new()?;
    interrupts.listen_to(front);
    let ending: Result<Ending, LocalError> =
        local::run(&request, Stage { interrupts, say: &say, ready: Some(&ready) }).await;
    Ok(ending?)
}

fn ended(ending: &Ending) -> Told {
    let verdict = verdict::of(&ending.end);
    Told::Ended { code: verdict.code, words: words(ending, &verdict), json: verdict::json(ending, &verdict) }
}
