//! The container's output as the driver sees it: one copy, begun, finished, told of.

use crate::cri::client::Client;
use crate::identity::user::User;
use crate::layout;
use crate::logs::copy::{Copier, CopyPlan, CopySummary};
use crate::logs::resume::{self, Owed};
use crate::logs::rotation::{Bounds, Reopen};
use crate::logs::spill::Fifos;
use crate::spec::{ContainerSpec, StepSpec};
use crate::step::action::Report;
use crate::step::stages::Found;
use crate::sys::as_user;
use std::cell::RefCell;
use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The output of one step's container.
#[derive(Debug, Default)]
pub struct Output {
    copier: Option<Copier>,
    /// Says to a reaper that a copy is under way.
    owed: PathBuf,
    /// Whose log the runtime is to reopen.
    container: Arc<Mutex<String>>,
    summary: Rc<RefCell<Option<CopySummary>>>,
}

impl Output {
    /// Begins the user's copy, before the container does: not a byte is late.
    pub fn start(&mut self, spec: &StepSpec, work: &ContainerSpec, user: &User, found: &Found, client: &Client) {
        let owed = Owed {
            log: spec.log_dir.container_log(spec.id),
            cwd: work.cwd.clone(),
            dir_name: layout::user_output_dir_name(spec.id.job),
            file_name: layout::user_output_name(spec.id.step, &spec.node),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
            cap: found.output_cap,
        };
        self.owed = spec.temp_dir.step(spec.id).copy();
        if let Err(error) = owed.keep(&self.owed) {
            tracing::warn!(%error, "a kill of the supervisor would cut off the user's copy");
        }
        self.copier = Some(Copier::start(CopyPlan {
            source: owed.log,
            bounds: Bounds { max_bytes: spec.log.max_bytes, max_files: spec.log.max_files },
            reopen: self.reopen(client),
            fifos: fifos(found),
            cwd: owed.cwd,
            dir_name: owed.dir_name,
            file_name: owed.file_name,
            user: as_user::User { uid: owed.uid, gid: owed.gid, groups: owed.groups },
            cap: owed.cap,
        }));
    }

    /// Another container than was created may have been started.
    pub fn note_container(&self, id: &str) {
        id.clone_into(&mut self.container.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn reopen(&self, client: &Client) -> Reopen {
        let (client, container) = (client.clone(), Arc::clone(&self.container));
        Box::new(move || {
            let client = client.clone();
            let container = container.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Box::pin(async move { client.reopen_log(&container).await.map_err(|error| error.to_string()) })
        })
    }

    /// Copies what is left, within `limit`.
    pub fn finish(&mut self, limit: Duration) -> impl Future<Output = ()> + use<> {
        let (copier, kept, owed) = (self.copier.take(), Rc::clone(&self.summary), self.owed.clone());
        async move {
            let Some(copier) = copier else { return };
            let summary = copier.drain(limit).await;
            let CopySummary { written, copied, left, removed, rotations, spilled: _, warning } = &summary;
            tracing::info!(written, copied, left, removed, rotations, warning, "output copied");
            kept.replace(Some(summary));
            resume::forget(&owed);
        }
    }

    /// Says in the last report what was not copied: the step's outcome stays as it is.
    pub fn remark_on(&self, report: Report) -> Report {
        match (report, self.summary().and_then(|summary| summary.warning)) {
            (Report::Final(verdict), Some(warning)) => Report::Final(verdict.with_remark(&warning)),
            (report, _) => report,
        }
    }

    /// What became of the copy, once it is finished.
    pub fn summary(&self) -> Option<CopySummary> {
        self.summary.borrow().clone()
    }
}

fn fifos(found: &Found) -> Fifos {
    let state_dir = found.pod.as_ref().and_then(|pod| pod.state_dir.as_deref());
    let found = state_dir.zip(found.container.as_deref());
    found.map_or_else(Fifos::default, |(state_dir, container)| Fifos::open(state_dir, container))
}
