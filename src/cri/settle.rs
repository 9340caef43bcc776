//! What became of a start whose answer did not come.

use crate::cri::api::{ContainerState, ContainerStatusResponse};
use crate::cri::client::{Client, Detail};
use crate::cri::error::{Class, CriError};
use crate::cri::start::state;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);

/// Finds out, and starts what was not started; begins nothing anew after the time a start may take.
///
/// # Errors
/// [`CriError::CutOff`] where the container did not run and cannot any more, else the runtime's own
/// error, or `unsure` as it was.
pub(super) async fn settle(client: &Client, id: &str, unsure: Result<(), CriError>) -> Result<(), CriError> {
    let begun = Instant::now();
    loop {
        match client.status(id, Detail::Brief).await {
            Ok(status) => match (did_run(&status), state(&status)) {
                (Some(true), _) => return Ok(()),
                (Some(false), _) => return unsure.map_err(cut_off),
                (None, ContainerState::ContainerCreated) => match client.start(id).await {
                    Ok(()) => return Ok(()),
                    // Under way still: one made again now would run beside it.
                    Err(error) if error.class() == Class::Unsure || error.names_start_under_way() => {}
                    Err(error) => refused_again(client, id, error).await?,
                },
                (None, _) => {}
            },
            Err(error) if error.class() == Class::Unsure => {}
            // A runtime that could not load it after a restart forgets it, and it may run.
            Err(error) if error.class() == Class::Gone => return unsure,
            Err(error) => return Err(error),
        }
        if begun.elapsed() > client.limits.start {
            break;
        }
        sleep(PAUSE).await;
    }
    // The last try may have been the one that was done, and nobody looked since.
    match client.status(id, Detail::Brief).await.ok().as_ref().and_then(did_run) {
        Some(true) => Ok(()),
        Some(false) => unsure.map_err(cut_off),
        None => unsure,
    }
}

/// The second start was refused: because the first was done by then, or because there can be none any
/// more (containerd 1.6 keeps the container and forgets its pipes).
async fn refused_again(client: &Client, id: &str, refused: CriError) -> Result<(), CriError> {
    match client.status(id, Detail::Brief).await {
        Ok(status) if state(&status) == ContainerState::ContainerCreated => Err(cut_off(refused)),
        Ok(_) | Err(_) => {
            tracing::warn!(error = %refused, "the second start was refused; the next look decides");
            Ok(())
        }
    }
}

/// Whether the container ran, or never will; `None` while neither is said.
fn did_run(status: &ContainerStatusResponse) -> Option<bool> {
    match state(status) {
        ContainerState::ContainerRunning => Some(true),
        // containerd's word for a start that was cut off before the init ran.
        ContainerState::ContainerExited => {
            Some(status.status.as_ref().is_none_or(|status| status.reason != "StartError"))
        }
        ContainerState::ContainerCreated | ContainerState::ContainerUnknown => None,
    }
}

fn cut_off(error: CriError) -> CriError {
    CriError::CutOff(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::api::ContainerStatus;

    #[test]
    fn a_container_that_has_ended_ran_unless_its_start_failed() {
        let said = |state: ContainerState, reason: &str| {
            let status = ContainerStatus { state: state.into(), reason: reason.to_owned(), ..Default::default() };
            did_run(&ContainerStatusResponse { status: Some(status), ..Default::default() })
        };
        assert_eq!(said(ContainerState::ContainerRunning, ""), Some(true));
        assert_eq!(said(ContainerState::ContainerExited, "Error"), Some(true));
        assert_eq!(said(ContainerState::ContainerExited, "StartError"), Some(false));
        assert_eq!(said(ContainerState::ContainerCreated, ""), None);
        assert_eq!(said(ContainerState::ContainerUnknown, ""), None);
        assert_eq!(did_run(&ContainerStatusResponse::default()), None);
    }
}
