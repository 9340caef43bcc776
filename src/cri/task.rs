//! A container's task in containerd, for where CRI has lost sight of it.
//!
//! A StartContainer that is cut off between the task's creation and the question for its pid (seen
//! on containerd 1.6.20 and 2.1.9: `failed to get task pid: context canceled`) leaves a container
//! that CRI calls exited and cannot remove: `cannot delete running task`. Its pod cannot be removed
//! either. containerd's own API, on the same socket, can end and forget the task.

use crate::cri::api::tasks::{DeleteTaskRequest, KillRequest};
use crate::cri::call::call;
use crate::cri::client::Client;
use crate::cri::error::{Class, CriError};
use std::time::Duration;
use tokio::time::sleep;
use tonic::Request;
use tonic::metadata::MetadataValue;

/// That of all containers made over CRI.
const NAMESPACE: &str = "k8s.io";
/// How often a task that was killed is tried again, and how long after the last time.
const DELETE_TRIES: u32 = 20;
const DELETE_PAUSE: Duration = Duration::from_millis(50);

impl Client {
    /// Removes a container, where CRI refuses by way of its task.
    ///
    /// # Errors
    /// RemoveContainer's.
    pub async fn remove_anyway(&self, id: &str) -> Result<(), CriError> {
        let refused = match self.remove(id).await {
            Err(error) if error.class() == Class::Permanent => error,
            result => return result,
        };
        match self.forget_task(id).await {
            Ok(()) => self.remove(id).await,
            // No containerd, or no task: what it said first is what is wrong.
            Err(_logged) => Err(refused),
        }
    }

    async fn forget_task(&self, id: &str) -> Result<(), CriError> {
        let limit = Some(self.limits.look);
        let mut client = self.tasks.clone();
        let request = KillRequest { container_id: id.to_owned(), signal: libc::SIGKILL as u32, all: true };
        // Whether it still ran, Delete will tell.
        let _ended = call("Tasks/Kill", limit, request, |r| async move { client.kill(named(r)).await }).await;
        let mut tries = DELETE_TRIES;
        loop {
            let mut client = self.tasks.clone();
            let request = DeleteTaskRequest { container_id: id.to_owned() };
            match call("Tasks/Delete", limit, request, |r| async move { client.delete(named(r)).await }).await {
                // Its processes take a moment to end.
                Err(error) if error.class() == Class::Permanent && tries > 0 => tries -= 1,
                result => return result.map(drop),
            }
            sleep(DELETE_PAUSE).await;
        }
    }
}

fn named<T>(mut request: Request<T>) -> Request<T> {
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}
