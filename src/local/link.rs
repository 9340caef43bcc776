//! Between the two processes of `run -i`, `-t` and `-d`: one has the terminal, the other
//! conducts the job and goes on when the person leaves.
//!
//! The conductor tells in JSON, one object on each line; the front answers in single bytes. A
//! front that dies without having left ends the job, as a closed terminal does.

use crate::sys::fds;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::io::{self, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::rc::Rc;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// What the conductor tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    /// A line for the person.
    Say(String),
    /// The container step is ready, and its log is there.
    Ready {
        /// The job.
        job: u32,
        /// The job's user.
        uid: u32,
        /// What the container writes.
        log: PathBuf,
    },
    /// The job is over and everything cleaned up.
    Ended {
        /// Exit code of `run`.
        code: u8,
        /// Lines for the person.
        words: Vec<String>,
        /// The object of `--json`.
        json: String,
    },
}

/// What the front says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// The terminal closed.
    HangUp,
    /// The front died.
    Gone,
}

/// The byte by which a front leaves.
pub const LEAVE: u8 = b'l';

impl Word {
    /// On the socket.
    pub fn byte(self) -> u8 {
        match self {
            Self::Interrupt => b'i',
            Self::Terminate => b't',
            Self::HangUp | Self::Gone => b'h',
        }
    }
}

/// The conductor's mouth.
#[derive(Clone, Debug)]
pub struct Teller {
    socket: Rc<StdStream>,
    alone: Rc<Cell<bool>>,
}

/// The conductor's ear.
#[derive(Debug)]
pub struct Backstage {
    socket: Option<UnixStream>,
    alone: Rc<Cell<bool>>,
}

/// The conductor's end of the socket, inside an event loop.
///
/// # Errors
/// The kernel's.
pub fn backstage(socket: StdStream) -> io::Result<(Teller, Backstage)> {
    socket.set_nonblocking(true)?;
    let alone = Rc::new(Cell::new(false));
    let teller = Teller { socket: Rc::new(socket.try_clone()?), alone: Rc::clone(&alone) };
    Ok((teller, Backstage { socket: Some(UnixStream::from_std(socket)?), alone }))
}

impl Teller {
    /// Tells the front, if there is one. It reads all the time; one that is stopped may miss words.
    pub fn tell(&self, told: &Told) {
        if self.alone.get() {
            return;
        }
        let mut line = serde_json::to_vec(told).unwrap_or_default();
        line.push(b'\n');
        let _ = (&*self.socket).write_all(&line);
    }

    /// Whether the person has left.
    pub fn alone(&self) -> bool {
        self.alone.get()
    }
}

impl Backstage {
    /// Whether the person has left.
    pub fn alone(&self) -> bool {
        self.alone.get()
    }

    /// The next word. Safe to cancel.
    pub async fn next(&mut self) -> Word {
        loop {
            let Some(socket) = &mut self.socket else { return std::future::pending().await };
            match socket.read_u8().await {
                Ok(b'i') => return Word::Interrupt,
                Ok(b't') => return Word::Terminate,
                Ok(b'h') => return Word::HangUp,
                Ok(LEAVE) => {
                    self.alone.set(true);
                    self.socket = None;
                    // The person's terminal, or pipe, is not to wait for us.
                    let _ = fds::silence_standard();
                }
                Ok(_) => {}
                Err(_) => {
                    self.socket = None;
                    return Word::Gone;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::testing::block_on;

    #[test]
    fn words_arrive_and_a_front_that_dies_is_heard() {
        let (mut front, back) = StdStream::pair().unwrap();
        block_on(async {
            let (teller, mut ear) = backstage(back).unwrap();
            teller.tell(&Told::Say("a \"line\"".into()));
            front.write_all(&[Word::Interrupt.byte(), Word::Terminate.byte()]).unwrap();
            assert_eq!((ear.next().await, ear.next().await), (Word::Interrupt, Word::Terminate));
            let mut line = [0; 64];
            let count = io::Read::read(&mut front, &mut line).unwrap();
            assert!(matches!(serde_json::from_slice(&line[..count]).unwrap(), Told::Say(text) if text == "a \"line\""));
            drop(front);
            assert_eq!(ear.next().await, Word::Gone);
            assert!(!ear.alone());
        });
    }
}
