//! A container's task and record in containerd, for where CRI has lost sight of them.
//!
//! A StartContainer that is cut off between the task's creation and the question for its pid (seen
//! on containerd 1.6.20 and 2.1.9: `failed to get task pid: context canceled`) leaves a container
//! that CRI calls exited and cannot remove: `cannot delete running task`. Its pod cannot be removed
//! either. containerd's own API, on the same socket, can end and forget the task.
//!
//! A RunPodSandbox that is cut off may leave a record of the pod's pause container, and its shim,
//! of which CRI says nothing any more. It is removed once it can be nothing in the making.

use crate::cri::api::records::{DeleteContainerRequest, ListContainersRequest, Record};
use crate::cri::api::tasks::{DeleteTaskRequest, KillRequest};
use crate::cri::call::call;
use crate::cri::client::{Client, Detail};
use crate::cri::error::{Class, CriError};
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;
use tonic::Request;
use tonic::metadata::MetadataValue;

/// That of all containers made over CRI.
const NAMESPACE: &str = "k8s.io";
/// How often a task that was killed is tried again, and how long after the last time.
const DELETE_TRIES: u32 = 20;
const DELETE_PAUSE: Duration = Duration::from_millis(50);
/// After this long nothing is in the making that nobody waits for: containerd gives its own
/// clean-up after a call that was cut off 10 s.
const SETTLED: Duration = Duration::from_secs(15);

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

    /// Ends and forgets what containerd keeps under these labels and CRI does not know. Tells the ids of
    /// what stays: younger than 15 s, so it may be in the making, or being undone by containerd.
    /// Another runtime keeps nothing of the kind.
    ///
    /// # Errors
    /// The runtime is away, or of the first record that cannot be removed.
    pub async fn forget_records(&self, labels: &HashMap<String, String>) -> Result<Vec<String>, CriError> {
        let mut young = Vec::new();
        for Record { id, created_at } in self.records(labels).await? {
            // The labels alone prove nothing: containerd adds those of the image.
            if self.is_known(&id).await? {
                continue;
            }
            let made = UNIX_EPOCH + Duration::from_secs(created_at.map_or(0, |at| at.seconds).try_into().unwrap_or(0));
            // A clock that was set back makes a record younger, never older.
            if SystemTime::now().duration_since(made).is_ok_and(|age| age >= SETTLED) {
                self.forget_record(&id).await?;
                tracing::warn!(id, "the runtime kept what CRI did not know any more; it is removed");
            } else {
                young.push(id);
            }
        }
        Ok(young)
    }

    async fn records(&self, labels: &HashMap<String, String>) -> Result<Vec<Record>, CriError> {
        let mut client = self.records.clone();
        let request = ListContainersRequest { filters: vec![filter(labels)] };
        let send = |request| async move { client.list(named(request)).await };
        match call("Containers/List", Some(self.limits.look), request, send).await {
            Err(error) if error.class() == Class::Unsure => Err(error),
            // Mostly no containerd. One that will not tell must not keep a clean-up from its end.
            Err(_logged) => Ok(Vec::new()),
            Ok(answer) => Ok(answer.containers),
        }
    }

    /// Whether CRI has a pod or a container of this id.
    async fn is_known(&self, id: &str) -> Result<bool, CriError> {
        let known = |answer: Result<(), CriError>| match answer {
            Err(error) if error.class() == Class::Gone => Ok(false),
            answer => answer.map(|()| true),
        };
        Ok(known(self.pod_status(id, Detail::Brief).await.map(drop))?
            || known(self.status(id, Detail::Brief).await.map(drop))?)
    }

    async fn forget_record(&self, id: &str) -> Result<(), CriError> {
        // Mostly it has no task any more.
        let _ended = self.forget_task(id).await;
        let mut client = self.records.clone();
        let request = DeleteContainerRequest { id: id.to_owned() };
        let send = |request| async move { client.delete(named(request)).await };
        match call("Containers/Delete", Some(self.limits.look), request, send).await {
            Err(error) if error.class() == Class::Gone => Ok(()),
            answer => answer.map(drop),
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

/// Of what CRI made with all of `labels`, in containerd's own language.
fn filter(labels: &HashMap<String, String>) -> String {
    let parts = labels.iter().map(|(key, value)| format!(r#"labels."{key}"=="{value}""#));
    parts.chain([r#"labels."io.cri-containerd.kind""#.to_owned()]).collect::<Vec<_>>().join(",")
}

fn named<T>(mut request: Request<T>) -> Request<T> {
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}
