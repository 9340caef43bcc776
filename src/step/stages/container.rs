//! The container: created and started, so that it is what was asked for.

use super::{ATTEMPTS, Learnt, devices, granted, limits, not_started, prepared, report_left};
use crate::cleanup::perform;
use crate::cri::client::Client;
use crate::cri::container::{self, Given};
use crate::cri::error::Class;
use crate::cri::exits::Exits;
use crate::cri::labels;
use crate::cri::start::{self, Held, Naming};
use crate::exit_code;
use crate::identity::user::User;
use crate::logs::resume;
use crate::spec::{ContainerSpec, PodSpec, StepSpec};
use crate::step::event::Failure;
use crate::step::pod_record::Pod;
use crate::sys::exit_events::ExitEvents;
use crate::sys::{cgroup, process};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How long a container found outside its job's cgroup may take to turn out to be ending.
const ENDING: Duration = Duration::from_secs(1);
/// How long containerd 1.7 may copy an image for the ids of a user namespace, and how
/// often a second container of the same ids, which it refuses meanwhile, is tried.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(600);
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(250);
/// The runtime that names no pid before a container runs.
const CONTAINERD: &str = "containerd";

/// A container on its way.
pub(super) struct Making<'a> {
    pub(super) client: &'a Client,
    pub(super) spec: &'a StepSpec,
    pub(super) work: &'a ContainerSpec,
    pub(super) pod: &'a Pod,
    pub(super) given: Given<'a>,
    /// No container of an earlier run is there.
    pub(super) none_left: bool,
    /// Where pidfds cannot tell how a process ended.
    pub(super) exits: Option<Rc<ExitEvents>>,
}

/// Creates the container; one of an earlier try is removed first, since craned's
/// attach and exec want exactly one.
pub(super) async fn create(making: &Making<'_>) -> Result<String, Failure> {
    let Making { client, spec, work, pod, given, none_left, .. } = making;
    if given.ranges.is_none() {
        check_group(given.user, work.pod.run_as_group)?;
    }
    devices::check(client, work).await?;
    let selector = labels::container_selector(spec.id, spec.uid);
    let begun = Instant::now();
    let mut attempt = 0;
    loop {
        if attempt > 0 || !*none_left {
            clear_left(client, &selector).await?;
        }
        // Nobody writes to it any more, and ours does not yet write to the same user's file.
        resume::finish_before(&spec.temp_dir.step(spec.id).copy_before(), resume::SHORT_LIMIT).await;
        let config = container::config(spec.id, work, given, attempt);
        let error = match client.create(&pod.id, config, &pod.config).await {
            Ok(id) => return Ok(id),
            Err(error) => error,
        };
        if error.names_snapshot_in_the_making() && begun.elapsed() < SNAPSHOT_LIMIT {
            tracing::info!("another container's root file system for the same ids is being made; waiting for it");
            sleep(SNAPSHOT_PAUSE).await;
            continue;
        }
        attempt += 1;
        if attempt == ATTEMPTS || !matches!(error.class(), Class::Unsure | Class::NameTaken) {
            return Err(not_started(&error, exit_code::PREPARATION_FAILED));
        }
        tracing::warn!(%error, attempt, "creating the container again under a new name");
    }
}

async fn clear_left(client: &Client, selector: &HashMap<String, String>) -> Result<(), Failure> {
    let left = client.when_there(|| client.list(selector)).await.map_err(prepared)?;
    if !left.is_empty() {
        report_left(perform::containers(client, selector).await);
    }
    Ok(())
}

/// craned sends no groups on steps added later: then the node's word decides.
fn check_group(user: &User, group: u32) -> Result<(), Failure> {
    let allowed = user.uid == 0 || user.gid == group || user.groups.contains(&group);
    let denied = || {
        let reason = format!("pod_meta.run_as_group: {group} is none of the groups of user {}", user.name);
        Failure::new(exit_code::PERMISSION_DENIED, reason)
    };
    allowed.then_some(()).ok_or_else(denied)
}

/// Starts the container, holds its init and checks that the job's limits reach it.
pub(super) async fn start(making: Making<'_>, id: String) -> Result<Learnt, Failure> {
    let held = started(&making, &id).await?;
    let Making { client, work, given, .. } = making;
    let init = held.init().map(|(process, _)| process.pid);
    if let (Some(parent), Some((process, _))) = (&work.pod.cgroup_parent, held.init())
        && let Err(failure) = check_membership(process.pid, parent)
    {
        // v1 shows an ending process at the root: only one that goes on is outside.
        match timeout(ENDING, process.ended()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(failure),
        }
    }
    if let Some(pid) = init {
        limits::settle(pid, &held.id, work).await?;
    }
    granted::after(client, &held.id, &given).await?;
    if let Some(pid) = init.filter(|_| given.ranges.is_none()) {
        warn_of_groups(pid, &work.pod, given.user);
    }
    tracing::info!(container = held.id, pid = init, "container started");
    Ok(Learnt::Started(held))
}

/// Where the OCI runtime cannot say "read-only" to a mount whose flags are locked (runc before 1.2), the
/// container is made again without: by way of the machine, so that it is written down too.
async fn started(making: &Making<'_>, id: &str) -> Result<Held, Failure> {
    let Making { client, work, pod, given, exits, .. } = making;
    let naming = if pod.runtime == CONTAINERD { Naming::AfterStart } else { Naming::FromCreate };
    granted::before(client, id, work, given).await?;
    let exits = exits.as_ref().map(|events| Exits::of(Rc::clone(events)));
    let started = start::start(client, id, work.pod.cgroup_parent.as_deref(), naming, exits).await;
    let told = given.mounts.iter().any(|mount| mount.read_only);
    started.map_err(|error| {
        let untold = told && error.names_locked_mount();
        let failure = not_started(&error, exit_code::SPAWN_FAILED);
        Failure { again: failure.again || untold, untold, ..failure }
    })
}

/// A container outside its job's cgroup escapes the job's limits, freeze and kill.
fn check_membership(pid: i32, parent: &str) -> Result<(), Failure> {
    // Already ended: then no limit is missed.
    let Ok(groups) = cgroup::groups_of(pid) else { return Ok(()) };
    let below = |path: &str| path.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'));
    // The hierarchies that carry limits; in others a runtime may do as it likes.
    let limiting = |controllers: &[String]| controllers.iter().any(|name| name == "memory" || name == "cpu");
    let unified = groups.iter().all(|(controllers, _)| controllers.is_empty());
    let outside = groups.iter().find(|(controllers, path)| (unified || limiting(controllers)) && !below(path));
    match outside {
        None => Ok(()),
        Some((_, path)) => Err(Failure::new(
            exit_code::CGROUP_ERROR,
            format!(
                "the container is in cgroup {path}, outside the job's {parent}: \
                 check the runtime's cgroup driver (cgroupfs is needed)"
            ),
        )),
    }
}

/// Runtimes that do not know the strict policy add the groups that the image's
/// own /etc/group gives the user; nothing of the node is in reach of them yet.
fn warn_of_groups(pid: i32, pod: &PodSpec, user: &User) {
    let held = process::groups_of(pid).unwrap_or_default();
    let foreign: Vec<u32> =
        held.into_iter().filter(|group| *group != pod.run_as_group && !user.groups.contains(group)).collect();
    if !foreign.is_empty() {
        tracing::warn!(?foreign, "the image gave the container groups its user does not have");
    }
}
