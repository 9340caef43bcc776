//! Questions of later stages, asked while the user is looked up.
//!
//! Only looks, and only hints: what is not known from here is asked in its own stage,
//! where a failure has its own words. Called by the User stage.

use super::pod;
use crate::cri::client::Client;
use crate::cri::labels;
use crate::spec::{ContainerSpec, PullPolicy, StepSpec, Work};
use crate::step::pod_record::Pod;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::timeout;

/// A runtime that takes longer is asked again in the stage that needs the answer.
const LIMIT: Duration = Duration::from_millis(50);

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Ahead {
    /// The job's pod, where it can be used.
    pub pod: Option<Rc<Pod>>,
    /// The runtime's id of the image, where it is present and its policy lets it be used as it is.
    pub image: Option<String>,
    /// No container of an earlier try is there; with the step's lock held, none can come.
    pub no_container: bool,
}

/// Looks once, for at most [`LIMIT`]; errors are no answer. A pod step has nothing to ask.
pub(super) async fn look(client: &Client, spec: &StepSpec, work: &Work) -> Ahead {
    match work {
        Work::Pod(_) => Ahead::default(),
        Work::Container(work) => timeout(LIMIT, ask(client, spec, work)).await.unwrap_or_default(),
    }
}

async fn ask(client: &Client, spec: &StepSpec, work: &ContainerSpec) -> Ahead {
    let selector = labels::container_selector(spec.id, spec.uid);
    let image = async {
        match work.image.policy {
            PullPolicy::Always => None,
            PullPolicy::IfNotPresent | PullPolicy::Never => client.image(&work.image.reference).await.ok().flatten(),
        }
    };
    let (pod, image, containers) = tokio::join!(pod::find(client, spec, &work.pod), image, client.list(&selector));
    Ahead {
        pod: pod.ok().map(Rc::new),
        image: image.map(|image| image.id),
        no_container: containers.is_ok_and(|found| found.is_empty()),
    }
}
