//! Shows the container's output while it runs: stdout to stdout, stderr to stderr, byte for byte.
//!
//! Reads the log that the runtime writes, as the supervisor does for the user's
//! copy. A reader of ours that is slow holds up the display and nothing else: the
//! writing happens beside the loop. One that went away is no error.

use crate::local::LocalError;
use crate::logs::follow::Follower;
use crate::logs::print::Printer;
use crate::logs::show::{LastLine, Show};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How long after the last report the runtime may take to close its log.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A running display of one container log.
#[derive(Debug)]
pub struct Display {
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<Result<LastLine, LocalError>>,
}

impl Display {
    /// Shows `log`, which the supervisor has made, from its beginning.
    pub fn start(log: &Path) -> Result<Self, LocalError> {
        let follower = Follower::oldest(log)
            .map_err(|error| LocalError::Display { path: log.to_owned(), source: io::Error::other(error) })?;
        let (commands, told) = mpsc::unbounded_channel();
        let shown = Show::new(follower, Printer::default());
        // Joined in `finish`, which every way out of a started job takes.
        let task = tokio::spawn(show(shown, told, log.to_owned()));
        Ok(Self { commands, task })
    }

    /// Shows what is there and then no more: what comes is shown by somebody else.
    pub async fn hold(&self) {
        let (done, held) = oneshot::channel();
        // A display that has failed tells so in `finish`.
        if self.commands.send(Command::Hold(done)).is_ok() {
            let _ = held.await;
        }
    }

    /// The log is complete: shows the rest, unless it is held, and ends.
    ///
    /// Takes as long as the reader of our output does; the caller decides how
    /// long that may be. Cancelled, it leaves the rest unshown.
    pub async fn finish(self) -> Result<LastLine, LocalError> {
        // An error of the display has ended it already; the join tells.
        let _ = self.commands.send(Command::Finish);
        match self.task.await {
            Ok(result) => result,
            Err(error) => Err(LocalError::DisplayLost { reason: error.to_string() }),
        }
    }
}

#[derive(Debug)]
enum Command {
    Hold(oneshot::Sender<()>),
    Finish,
}

async fn show(
    mut show: Show,
    mut told: mpsc::UnboundedReceiver<Command>,
    log: PathBuf,
) -> Result<LastLine, LocalError> {
    let failed = |source| LocalError::Display { path: log.clone(), source };
    let mut held = false;
    loop {
        if !held {
            show.present().await.map_err(failed)?;
        }
        tokio::select! {
            biased;
            command = told.recv() => match command {
                Some(Command::Hold(done)) => {
                    show.present().await.map_err(failed)?;
                    held = true;
                    let _ = done.send(());
                }
                Some(Command::Finish) | None => break,
            },
            grown = show.grown(), if !held => grown.map_err(io::Error::other).map_err(failed)?,
        }
    }
    if held {
        return Ok(LastLine::Complete);
    }
    show.rest(CLOSE_LIMIT).await.map_err(failed)?;
    match show.gaps() {
        0 => Ok(show.last_line()),
        files => Err(LocalError::NotShown { files }),
    }
}
