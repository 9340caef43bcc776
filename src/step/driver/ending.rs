//! The driver's part at a step's end: the outcome kept, everything undone or handed over.

use super::Driver;
use crate::cleanup::entry::Entry;
use crate::cleanup::{perform, reaper};
use crate::logs::resume;
use crate::outcome::{Outcome, Verdict};
use crate::report::outbox;
use crate::step::action::Report;
use crate::step::event::Event;
use crate::step::hooks;
use crate::step::patience::{KEEP_LIMIT, SERVED_UNDO, UNDRAINED_LIMIT, UNSETTLED, UNSETTLED_REAPER};
use crate::step::record::Known;
use crate::sys::helper::HelperError;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

impl Driver {
    /// On a thread: a sync takes seconds on a busy disk, and calls must be answered meanwhile.
    pub(super) fn keep(&self, outcome: Outcome) -> impl Future<Output = ()> + use<> {
        tracing::info!(?outcome, "outcome");
        let (path, id) = (self.claim.dir().outbox(), self.spec.id);
        let write = spawn_blocking(move || outbox::keep(&path, id, &outcome));
        async move {
            let problem = match timeout(KEEP_LIMIT, write).await {
                Ok(Ok(Ok(()))) => return,
                Ok(Ok(Err(error))) => error.to_string(),
                Ok(Err(error)) => error.to_string(),
                Err(_elapsed) => format!("the disk did not answer within {KEEP_LIMIT:?}"),
            };
            tracing::error!(problem, "the outcome is not on disk yet; it is still reported");
        }
    }

    pub(super) fn undo(&mut self) {
        let client = self.client.clone();
        // The socket answers until the end of the process, which removes it.
        let acquired = self.claim.journal.entries().iter();
        let entries: Vec<Entry> = acquired.filter(|entry| !matches!(entry, Entry::Socket { .. })).cloned().collect();
        let unsettled = match () {
            // Nobody took over what was left to itself.
            () if self.unsettled && self.client.is_making() => UNSETTLED_REAPER,
            () if self.unsettled => UNSETTLED,
            () => Duration::ZERO,
        };
        let copied = self.output.finish(UNDRAINED_LIMIT);
        self.underway.watch.clear();
        self.underway.mounts.clear();
        let mounts = self.found.mounts.take();
        let left = Rc::clone(&self.left);
        let before = self.claim.dir().copy_before();
        let patience = if self.found.held.is_some() { SERVED_UNDO } else { Duration::ZERO };
        // Beside the undoing: at the job's end there is hardly time for one after the other.
        let epilogs = hooks::at_end(&self.hooks, &self.spec, &self.found);
        self.underway.undo.set(async move {
            let undone = async move {
                let undone = perform::until_undone(&client, &entries, unsettled, &left);
                tokio::pin!(undone);
                if timeout(patience, &mut undone).await.is_err() {
                    if let Some(mounts) = &mounts {
                        mounts.kill();
                    }
                    undone.await;
                }
                if let Some(mounts) = mounts {
                    mounts.kill();
                }
            };
            tokio::join!(epilogs, undone);
            copied.await;
            // Where none of ours was made.
            resume::finish_before(&before, resume::SHORT_LIMIT).await;
            Event::CleanedUp
        });
    }

    /// One that waits until we let go of the step.
    pub(super) async fn launch_reaper(&self) -> Result<i32, HelperError> {
        let unsettled = if self.unsettled { UNSETTLED_REAPER } else { Duration::ZERO };
        reaper::launch(self.claim.dir(), unsettled, reaper::Begin::OnceLetGo).await
    }

    pub(super) fn hand_over(&mut self, reaper: Result<i32, HelperError>) {
        match reaper {
            Ok(pid) => {
                tracing::warn!(pid, "the clean-up takes longer than craned waits; a reaper goes on with it");
                self.underway.undo.clear();
                self.underway.stop.clear();
                self.claim.hand_over();
            }
            Err(error) => {
                tracing::error!(%error, "no reaper could be started; going on as long as craned lets us");
                self.owing = true;
                if self.underway.undo.is_free() {
                    self.undo();
                }
            }
        }
    }

    /// Beside the last report, or at an end without one.
    pub(super) fn write_record(&mut self, told: Option<Verdict>) {
        let outcome = self.machine.outcome();
        let Some(verdict) = told.or_else(|| outcome.map(Outcome::verdict)) else { return };
        self.record.begin(Known {
            spec: &self.spec,
            found: &self.found,
            history: &self.history,
            outcome,
            verdict,
            output: self.output.summary(),
            handed_over: self.claim.is_handed_over(),
        });
    }

    /// The last report names what outlives the step: an administrator is to look at it.
    pub(super) fn naming_left(&self, report: Report) -> Report {
        match report {
            Report::Final(mut verdict) if self.claim.is_handed_over() && !self.left.borrow().is_empty() => {
                let left = self.left.borrow().join("; ");
                let before = if verdict.reason.is_empty() { "" } else { "; " };
                verdict.reason.push_str(&format!("{before}its clean-up goes on: {left}"));
                Report::Final(verdict)
            }
            report => report,
        }
    }
}
