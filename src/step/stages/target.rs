//! The container whose processes another one sees (`pid: TARGET`): one of the same job, in the
//! same pod, that runs; and after the start, whether the runtime has obeyed.

use super::{Learnt, prepared};
use crate::cri::client::{Client, Detail};
use crate::cri::error::Class;
use crate::cri::find::Listed;
use crate::cri::{info, labels};
use crate::spec::{ContainerSpec, StepSpec};
use crate::step::event::Failure;
use crate::step::pod_record::Pod;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A container that was found.
pub(super) struct Target {
    /// The runtime's id of it.
    pub(super) id: String,
    /// Its init, on the node.
    init: i32,
}

/// Asks only where there is one to be.
pub(super) async fn find(
    client: &Client,
    spec: &StepSpec,
    work: &ContainerSpec,
    pod: &Pod,
) -> Result<Option<Target>, Failure> {
    let Some(wanted) = &work.pod.pid_target else { return Ok(None) };
    let refused = |problem: &str| prepared(format!("pod_meta.namespace.target_id: {wanted:?} {problem}"));
    // Of this job and user: nobody else's can be named, whatever its id.
    let selector = labels::pod_selector(spec.id.job, spec.uid);
    let found = client.when_there(|| client.list(&selector)).await.map_err(prepared)?;
    let is_named = |container: &Listed| container.id == *wanted || container.step == *wanted;
    let mut named = found.iter().map(Listed::of).filter(|container| container.pod == pod.id && is_named(container));
    let Some(target) = named.next() else { return Err(refused("is no container or step of this job in its pod")) };
    let status = match client.status(&target.id, Detail::WithPid).await {
        Ok(status) => status,
        Err(error) if error.class() == Class::Gone => return Err(refused("has ended")),
        Err(error) => return Err(prepared(error)),
    };
    match info::pid(&status.info).filter(|_| target.runs) {
        Some(init) => Ok(Some(Target { id: target.id, init })),
        None => Err(refused("does not run")),
    }
}

/// What was asked for is there, or nothing runs.
pub(super) fn check(target: Option<&Target>, learnt: &Learnt) -> Result<(), Failure> {
    let (Some(target), Learnt::Started(held)) = (target, learnt) else { return Ok(()) };
    let Some((process, _)) = held.init() else { return Ok(()) };
    match (namespace(target.init), namespace(process.pid)) {
        (Some(theirs), Some(ours)) if theirs != ours => Err(prepared(format!(
            "pod_meta.namespace.pid: the runtime did not put the container into the process namespace of {}",
            target.id
        ))),
        // One of them has ended: there is nothing to see any more.
        _ => Ok(()),
    }
}

fn namespace(pid: i32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/pid")).ok().map(|meta| meta.ino())
}
