//! Undoing, so that nothing of a step is left whatever happens to us.
//!
//! `claim` owns a step's directory, `journal` writes down what is about to be
//! acquired, `perform` undoes it, `reaper` does so for a supervisor that is gone
//! or out of time. Undo is idempotent: already gone is success, and a failed
//! undo never stops the next.

pub mod claim;
pub mod entry;
pub mod journal;
pub mod perform;
pub mod reaper;
