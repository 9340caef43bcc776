//! What a container was asked to be, it is: looked at before its first instruction where
//! the runtime tells, and again once it runs.
//!
//! Only of containers with a user namespace or host mounts: there a runtime that does
//! less than it was told would hand a user what is not theirs.

use super::{prepared, userns};
use crate::cri::client::{Client, Detail};
use crate::cri::container::{Given, HostMount};
use crate::cri::error::Class;
use crate::cri::info;
use crate::mounts::table;
use crate::spec::{ContainerSpec, PodSpec};
use crate::step::event::Failure;
use std::collections::HashMap;
use std::path::Path;

/// Before its start.
pub(super) async fn before(client: &Client, id: &str, work: &ContainerSpec, given: &Given<'_>) -> Result<(), Failure> {
    let Given { user, ranges, .. } = *given;
    let groups_matter = ranges.is_none() && !work.mounts.is_empty() && user.uid != 0;
    if ranges.is_none() && !groups_matter {
        return Ok(());
    }
    let status = client.when_there(|| client.status(id, Detail::WithPid)).await.map_err(prepared)?;
    if ranges.is_some() && info::has_user_namespace(&status.info) == Some(false) {
        return Err(userns::missing("the container"));
    }
    if groups_matter { check_groups(&status.info, &work.pod, &user.groups) } else { Ok(()) }
}

/// Runtimes that do not know the strict policy (containerd before 2.0) add the groups of the
/// image's own /etc/group, which is the user's to write: with them, host files of other groups.
fn check_groups(told: &HashMap<String, String>, pod: &PodSpec, held: &[u32]) -> Result<(), Failure> {
    let granted = info::groups(told)
        .ok_or_else(|| prepared("the runtime does not tell the groups of the container, which has host mounts"))?;
    let foreign: Vec<u32> =
        granted.into_iter().filter(|group| *group != pod.run_as_group && !held.contains(group)).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    Err(prepared(format!(
        "the image's /etc/group gives the container groups {foreign:?}, which the job's user does not have on this \
         node; with host mounts that is refused: use containerd 2.0 or newer, or an image without them"
    )))
}

/// Once it runs; one that has ended already did so under the pod's own namespace.
pub(super) async fn after(client: &Client, id: &str, given: &Given<'_>) -> Result<(), Failure> {
    if given.ranges.is_none() && given.mounts.is_empty() {
        return Ok(());
    }
    // What was seen in its cgroup may be a process of the runtime's; what it names is not.
    let status = match client.when_there(|| client.status(id, Detail::WithPid)).await {
        Err(error) if error.class() == Class::Gone => return Ok(()),
        status => status.map_err(prepared)?,
    };
    let Some(pid) = info::pid(&status.info) else {
        return Ok(());
    };
    if let Some(ranges) = given.ranges {
        userns::check_running("the container", pid, ranges)?;
    }
    check_seen(pid, &given.mounts)
}

/// The kernel's table knows no links; a configured directory may have some.
fn what_we_have_at(host: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
    let dir = host.parent()?.canonicalize().ok()?;
    table::what_is_at("self", &dir.join(host.file_name()?))
}

/// A runtime in another mount namespace that gets none of ours would show empty directories.
fn check_seen(pid: i32, mounts: &[HostMount]) -> Result<(), Failure> {
    for mount in mounts {
        let (Some(ours), Some(theirs)) =
            (what_we_have_at(&mount.host), table::what_is_at(&pid.to_string(), &mount.target))
        else {
            tracing::debug!(target = %mount.target.display(), "cannot compare the mount in the container with ours");
            continue;
        };
        if ours != theirs {
            return Err(prepared(format!(
                "the runtime does not see the mount for {} that was made at {}: it must share the node's mounts \
                 with craned (one mount namespace, or / shared)",
                mount.target.display(),
                mount.host.display()
            )));
        }
    }
    Ok(())
}
