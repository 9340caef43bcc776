//! How the candidates for one container's init ended, by the kernel's own report.
//!
//! Only on kernels whose pidfds cannot tell (`sys::exit_events`). While a container starts
//! nobody knows its init's number, so everybody's end is kept, drained every few
//! milliseconds; from then on only the init's. Nothing is ever woken by it. Used by
//! `start`, `watch` reads through `start::Held`.

use crate::outcome::End;
use crate::sys::exit_events::{ExitEvents, Hear};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// More ends than a node has while one container starts; later ones are not kept then.
const MOST: usize = 65_536;

/// The ends heard of so far.
#[derive(Debug)]
pub struct Exits {
    events: Rc<ExitEvents>,
    heard: RefCell<HashMap<i32, End>>,
}

impl Exits {
    /// Begins to keep everybody's ends.
    pub fn of(events: Rc<ExitEvents>) -> Self {
        let exits = Self { events, heard: RefCell::default() };
        exits.hear(Hear::Everybody);
        exits
    }

    fn hear(&self, whose: Hear<'_>) {
        if let Err(error) = self.events.hear(whose) {
            tracing::warn!(%error, "the kernel will not tell how the container ends; only the runtime can");
        }
    }

    /// Keeps what has been heard, before the kernel's queue is full.
    pub fn keep(&self) {
        let mut heard = self.heard.borrow_mut();
        for (pid, end) in self.events.take() {
            if heard.len() < MOST {
                // The later process of a number is the one that a pidfd is held of.
                heard.insert(pid, end);
            }
        }
    }

    /// From now on only this process matters.
    pub fn only(&self, pid: i32) {
        self.hear(Hear::Only(&[pid]));
        self.keep();
        let mut heard = self.heard.borrow_mut();
        heard.retain(|heard, _| *heard == pid);
        heard.shrink_to_fit();
    }

    /// How a process ended, if that was heard.
    pub fn end_of(&self, pid: i32) -> Option<End> {
        self.keep();
        self.heard.borrow().get(&pid).copied()
    }
}

/// Of a start that failed, too: nobody else's ends are queued for a listener that never reads.
impl Drop for Exits {
    fn drop(&mut self) {
        self.hear(Hear::Nobody);
        self.events.take();
    }
}
