//! What a step is made of once it is taken.

use crate::cleanup::claim::Claim;
use crate::control::{Request, Snapshot};
use crate::cri::client::Client;
use crate::identity::look_up::LookUp;
use crate::spec::StepSpec;
use crate::step::hooks::Hooks;
use crate::sys::exit_events::ExitEvents;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Everything the driver begins with.
pub struct Parts {
    /// What is wanted.
    pub spec: StepSpec,
    /// The runtime.
    pub client: Client,
    /// The step's directory, lock and journal.
    pub claim: Claim,
    /// What craned's calls are answered from.
    pub snapshot: Arc<Snapshot>,
    /// What they ask for.
    pub requests: mpsc::Receiver<Request>,
    /// The programs around it.
    pub hooks: Hooks,
    /// The user's look-up, begun before it is needed.
    pub look_up: LookUp,
    /// The kernel's report of ends, where its pidfds cannot tell them.
    pub exits: Option<ExitEvents>,
}
