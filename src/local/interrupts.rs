//! What ends `run` early: signals of a person or a service manager, or the word of the
//! process that has the terminal.

use crate::local::LocalError;
use crate::local::link::{Backstage, Word};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives SIGINT, SIGTERM, SIGHUP and SIGQUIT from its making on.
#[derive(Debug)]
pub struct Interrupts {
    int: Signal,
    term: Signal,
    hup: Signal,
    quit: Signal,
    front: Option<Backstage>,
}

impl Interrupts {
    /// Takes the signals over; without this they would end us with everything left behind.
    pub fn new() -> Result<Self, LocalError> {
        let take = |kind| signal(kind).map_err(LocalError::Signals);
        Ok(Self {
            int: take(SignalKind::interrupt())?,
            term: take(SignalKind::terminate())?,
            hup: take(SignalKind::hangup())?,
            quit: take(SignalKind::quit())?,
            front: None,
        })
    }

    /// Hears the words of the process that has the terminal too.
    pub fn listen_to(&mut self, front: Backstage) {
        self.front = Some(front);
    }

    /// Whether the person has left and nobody sees the job any more.
    pub fn alone(&self) -> bool {
        self.front.as_ref().is_some_and(Backstage::alone)
    }

    /// The name of the next one. Safe to cancel.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.int.recv() => "SIGINT",
            _ = self.term.recv() => "SIGTERM",
            _ = self.hup.recv() => "SIGHUP",
            _ = self.quit.recv() => "SIGQUIT",
            word = word(&mut self.front) => match word {
                Word::Interrupt => "SIGINT",
                Word::Terminate => "SIGTERM",
                Word::HangUp => "SIGHUP",
                Word::Gone => "the terminal's process ended",
            },
        }
    }
}

async fn word(front: &mut Option<Backstage>) -> Word {
    match front {
        Some(front) => front.next().await,
        None => std::future::pending().await,
    }
}
