//! The mounts of a container, staged before it.

use super::{Learnt, prepared};
use crate::cleanup::perform;
use crate::cri::client::Client;
use crate::cri::{labels, sandbox};
use crate::identity::user::User;
use crate::layout;
use crate::mounts::plan::Ids;
pub use crate::mounts::stage::Places;
use crate::mounts::stage::{self, Staged, Wanted};
use crate::mounts::table;
use crate::spec::{ContainerSpec, StepSpec};
use crate::step::event::Failure;

/// Where the mounts of a step go.
pub fn places(spec: &StepSpec, work: &ContainerSpec) -> Places {
    Places {
        staging: spec.temp_dir.step(spec.id).mounts(),
        bindfs: work.bindfs.as_ref().map(|bindfs| layout::bindfs_dir(&bindfs.base, spec.id)),
        cgroup: work.pod.cgroup_parent.as_ref().map(|job| layout::bindfs_cgroup(job, spec.id)),
    }
}

/// An earlier run of the same step was cut off: first the container that uses its mounts.
async fn clear_left(client: &Client, spec: &StepSpec, places: &Places) -> Result<(), Failure> {
    super::report_left(perform::containers(client, &labels::container_selector(spec.id, spec.uid)).await);
    table::clear(&places.dirs(), places.cgroup.as_deref()).await.map_err(prepared)
}

/// Stages what the container wants mounted.
pub(super) async fn make(
    client: &Client,
    spec: &StepSpec,
    work: &ContainerSpec,
    user: &User,
    pod: &sandbox::Config,
) -> Result<Learnt, Failure> {
    if work.mounts.is_empty() {
        return Ok(Learnt::Mounted(Staged::default()));
    }
    let run_as = (work.pod.run_as_user, work.pod.run_as_group);
    let ids = match super::userns::wanted(&work.pod, pod.ranges())? {
        None => None,
        Some(ranges) => {
            let ids = Ids::new(user, ranges, run_as);
            Some(ids.ok_or_else(|| prepared("pod_meta.run_as_user: not in the user namespace"))?)
        }
    };
    let places = places(spec, work);
    if places.staging.exists() {
        clear_left(client, spec, &places).await?;
    }
    let wanted = Wanted { specs: &work.mounts, user, ids, bindfs: work.bindfs.as_ref() };
    stage::make(wanted, &places).await.map(Learnt::Mounted).map_err(prepared)
}
