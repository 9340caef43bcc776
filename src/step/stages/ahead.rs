//! Questions of later stages, asked while an earlier one waits for its own answer.
//!
//! Only looks, and only hints: what is not known from here is asked in its own stage,
//! where a failure has its own words. Called by the container step's Pod stage.

use crate::cri::client::Client;
use crate::cri::labels;
use crate::identity::user::ImageRules;
use crate::spec::{ContainerSpec, PullPolicy, StepSpec};

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// The runtime's id of the image, where it is present and need not be pulled.
    pub image: Option<String>,
    /// No container of an earlier try is there; with the step's lock held, none can come.
    pub no_container: bool,
}

/// Looks once; errors are no answer.
pub(super) async fn look(client: &Client, spec: &StepSpec, work: &ContainerSpec, rules: ImageRules) -> Ahead {
    let selector = labels::container_selector(spec.id, spec.uid);
    let image = async {
        match work.image.policy {
            PullPolicy::Always => None,
            PullPolicy::IfNotPresent | PullPolicy::Never if rules.reauthorize => None,
            PullPolicy::IfNotPresent | PullPolicy::Never => client.image(&work.image.reference).await.ok().flatten(),
        }
    };
    let (image, containers) = tokio::join!(image, client.list(&selector));
    Ahead { image: image.map(|image| image.id), no_container: containers.is_ok_and(|found| found.is_empty()) }
}
