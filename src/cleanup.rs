//! Undoing, so that nothing of a step is left whatever happens to us.
//!
//! `claim` owns a step's directory, `journal` writes down what is about to be
//! acquired, `perform` undoes it, `processes` without the runtime's help, `reaper` does so for a supervisor that is gone
//! or out of time; `guardian` starts one for a supervisor that was killed. Undo is
//! idempotent: already gone is success, and a failed undo never stops the next. `sweep`
//! does it for a whole node.

pub mod claim;
pub mod entry;
pub mod guardian;
pub mod journal;
pub mod perform;
pub mod processes;
pub mod reaper;
pub mod sweep;
