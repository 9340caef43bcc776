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
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long after the last report the runtime may take to close its log.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A running display of one container log.
#[derive(Debug)]
pub struct Display {
    last_look: oneshot::Sender<()>,
    task: JoinHandle<Result<LastLine, LocalError>>,
}

impl Display {
    /// Shows `log`, which the supervisor has made, from its beginning.
    pub fn start(log: &Path) -> Result<Self, LocalError> {
        let follower = Follower::oldest(log)
            .map_err(|error| LocalError::Display { path: log.to_owned(), source: io::Error::other(error) })?;
        let (last_look, ended) = oneshot::channel();
        let shown = Show::new(follower, Printer::default());
        // Joined in `finish`, which every way out of a started job takes.
        let task = tokio::spawn(show(shown, ended, log.to_owned()));
        Ok(Self { last_look, task })
    }

    /// The log is complete: shows the rest and ends.
    ///
    /// Takes as long as the reader of our output does; the caller decides how
    /// long that may be. Cancelled, it leaves the rest unshown.
    pub async fn finish(self) -> Result<LastLine, LocalError> {
        // An error of the display has ended it already; the join tells.
        let _ = self.last_look.send(());
        match self.task.await {
            Ok(result) => result,
            Err(error) => Err(LocalError::DisplayLost { reason: error.to_string() }),
        }
    }
}

async fn show(mut show: Show, mut ended: oneshot::Receiver<()>, log: PathBuf) -> Result<LastLine, LocalError> {
    let failed = |source| LocalError::Display { path: log.clone(), source };
    loop {
        show.present().await.map_err(failed)?;
        tokio::select! {
            biased;
            _ = &mut ended => break,
            grown = show.grown() => grown.map_err(io::Error::other).map_err(failed)?,
        }
    }
    show.rest(CLOSE_LIMIT).await.map_err(failed)?;
    match show.gaps() {
        0 => Ok(show.last_line()),
        files => Err(LocalError::NotShown { files }),
    }
}
