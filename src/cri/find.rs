//! A step's container, found by its labels as craned finds it for attach and exec.

use super::client::Client;
use super::error::CriError;
use super::labels;
use crate::cri::api::{Container, ContainerState};
use crate::ids::StepId;
use std::collections::HashMap;

/// There is not exactly one that runs.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The runtime does not answer.
    #[error(transparent)]
    Ask(#[from] CriError),
    /// None at all.
    #[error(
        "step {0} has no container on this node: it has ended, has not come so far, or runs elsewhere; \
         crane-supervisor logs {0} shows what it printed"
    )]
    None(StepId),
    /// One that does not run.
    #[error("the container of step {step} does not run: it {state}")]
    NotRunning {
        /// The step.
        step: StepId,
        /// What it is instead.
        state: &'static str,
    },
    /// Whoever would be chosen might be the wrong one.
    #[error("step {0} has more than one container that runs: {1}")]
    Several(StepId, String),
}

/// What of a listed container tells one from another.
#[derive(Debug)]
pub struct Listed {
    /// The runtime's id.
    pub id: String,
    /// Its sandbox's.
    pub pod: String,
    /// The step in its labels; empty where it has none.
    pub step: String,
    /// Whether it runs.
    pub runs: bool,
}

impl Listed {
    /// Of a container in the runtime's list.
    pub fn of(container: &Container) -> Self {
        Self {
            id: container.id.clone(),
            pod: container.pod_sandbox_id.clone(),
            step: container.labels.get("step_id").cloned().unwrap_or_default(),
            runs: container.state() == ContainerState::ContainerRunning,
        }
    }
}

/// The id of the one container of `step` that runs; of user `uid`, if that is known.
///
/// # Errors
/// [`FindError`] says what there is instead.
pub async fn running(client: &Client, step: StepId, uid: Option<u32>) -> Result<String, FindError> {
    choose(step, client.list(&selector(step, uid)).await?)
}

/// All labels craned looks for, as far as they are known.
fn selector(step: StepId, uid: Option<u32>) -> HashMap<String, String> {
    let mut selector = labels::container_selector(step, uid.unwrap_or_default());
    if uid.is_none() {
        selector.remove("uid");
    }
    selector
}

fn choose(step: StepId, found: Vec<Container>) -> Result<String, FindError> {
    let (running, other): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|container| container.state() == ContainerState::ContainerRunning);
    match (running.as_slice(), other.first()) {
        ([one], _) => Ok(one.id.clone()),
        ([], None) => Err(FindError::None(step)),
        ([], Some(container)) => Err(FindError::NotRunning { step, state: words(container.state()) }),
        (several, _) => {
            let ids: Vec<_> = several.iter().map(|container| container.id.as_str()).collect();
            Err(FindError::Several(step, ids.join(", ")))
        }
    }
}

fn words(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "is created and not started yet; try again",
        ContainerState::ContainerRunning => "runs",
        ContainerState::ContainerExited => "has ended",
        ContainerState::ContainerUnknown => "is in a state that the runtime does not know",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(states: &[ContainerState]) -> Result<String, FindError> {
        let of = |(index, state): (usize, &ContainerState)| Container {
            id: index.to_string(),
            state: (*state).into(),
            ..Container::default()
        };
        choose(StepId { job: 7, step: 1 }, states.iter().enumerate().map(of).collect())
    }

    #[test]
    fn exactly_one_that_runs_is_taken() {
        use ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
        assert_eq!(chosen(&[ContainerExited, ContainerRunning]).unwrap(), "1");
        assert!(matches!(chosen(&[]), Err(FindError::None(_))));
        for (states, word) in [
            (&[ContainerExited][..], "has ended"),
            (&[ContainerCreated], "not started yet"),
            (&[ContainerRunning, ContainerRunning], "more than one container"),
        ] {
            let error = chosen(states).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("7.1"), "{error}");
        }
    }

    #[test]
    fn it_is_cranes_selector() {
        let step = StepId { job: 7, step: 1 };
        assert_eq!(selector(step, Some(5)), labels::container_selector(step, 5));
        assert!(!selector(step, None).contains_key("uid") && selector(step, None).len() == 3);
    }
}
