//! A step's guardian: when its supervisor ends and something is still owed, a reaper starts.
//!
//! The supervisor may end by SIGKILL, a panic or an abort. `sys::guardian` has the process;
//! here is what it is told. It only undoes and reports nothing: craned declares the step
//! failed itself. Called by `cli::supervise`, before the step is claimed: a claim's lock would
//! be the guardian's too.

use crate::cleanup::reaper;
use crate::ids::StepId;
use crate::layout::StepDir;
use crate::step::patience::UNSETTLED_REAPER;
use crate::sys::guardian::{self, Guardian, Orders};
use crate::sys::line::Held;
use crate::sys::process;
use std::io;

/// Starts the guardian of step `id` with the directory `dir`, to hold `line` too. No other thread may exist yet.
///
/// # Errors
/// The errno of pidfd_open(2) or fork(2).
pub fn start(id: StepId, dir: &StepDir, line: Option<Held>) -> io::Result<Guardian> {
    // Nobody can say whether its supervisor's end cut a call off.
    let arguments = reaper::arguments(dir, UNSETTLED_REAPER, reaper::Begin::IfOrphaned);
    let name = "crane-supervisor".into();
    guardian::start(Orders {
        // The first thing a claim makes, and the last it removes.
        file: dir.path().to_owned(),
        arguments: std::iter::once(name).chain(arguments).collect(),
        title: title(id),
        line,
    })
}

/// Whether the step has a guardian. Where its lock is free, that one lets a call finish and reaps then.
pub fn lives(id: StepId) -> bool {
    let title = title(id);
    process::all().iter().any(|seen| seen.uid == 0 && seen.title == title)
}

fn title(id: StepId) -> String {
    format!("crane-guardian: [{id}]")
}
