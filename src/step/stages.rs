//! The stages of a step as work: each asks the node or the runtime for one
//! thing and says what it learnt.
//!
//! A stage changes no state of the step; it may be dropped at any await. What
//! it acquires was written down before it began.

mod pod;

use crate::cleanup::perform;
use crate::cri::client::Client;
use crate::cri::error::{Class, CriError};
use crate::cri::start::{self, Held, Naming};
use crate::cri::{container, labels, sandbox};
use crate::exit_code;
use crate::identity::look_up::LookUp;
use crate::identity::user::User;
use crate::spec::{ContainerSpec, ImageSource, PodSpec, PullPolicy, StepSpec, Work};
use crate::step::event::Failure;
use crate::step::pod_record::Pod;
use crate::step::state::Stage;
use crate::sys::{cgroup, process};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a container found outside its job's cgroup may take to turn out to be ending.
const ENDING: Duration = Duration::from_secs(1);
/// How often a name taken by an earlier try is stepped over.
const ATTEMPTS: u32 = 3;

/// The runtime that names no pid before a container runs.
const CONTAINERD: &str = "containerd";

/// What a stage found out.
#[derive(Debug)]
pub enum Learnt {
    /// Who the job's user is.
    User(User),
    /// The pod the container goes into.
    Pod(Box<Pod>),
    /// The runtime's id of the image.
    Image(String),
    /// The runtime's id of the container.
    Created(String),
    /// The container was started.
    Started(Held),
}

/// What the stages have found so far.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// By [`Stage::User`].
    pub user: Option<User>,
    /// By [`Stage::Pod`].
    pub pod: Option<Rc<Pod>>,
    /// By [`Stage::Image`].
    pub image: Option<String>,
    /// By [`Stage::Create`].
    pub container: Option<String>,
    /// By [`Stage::Start`].
    pub held: Option<Rc<Held>>,
}

impl Found {
    /// Adds what a stage learnt.
    pub fn add(&mut self, learnt: Learnt) {
        match learnt {
            Learnt::User(user) => self.user = Some(user),
            Learnt::Pod(pod) => self.pod = Some(Rc::from(pod)),
            Learnt::Image(image) => self.image = Some(image),
            Learnt::Created(container) => self.container = Some(container),
            Learnt::Started(held) => self.held = Some(Rc::new(held)),
        }
    }
}

/// What a stage works with.
#[derive(Debug)]
pub struct Context {
    /// The runtime.
    pub client: Client,
    /// What is wanted.
    pub spec: Rc<StepSpec>,
    /// What the stages before found.
    pub found: Found,
    /// The user's look-up, for the first stage: begun before it was needed.
    pub look_up: Option<LookUp>,
}

/// Performs one stage.
///
/// # Errors
/// The [`Failure`] craned is told.
pub async fn perform(stage: Stage, context: Context) -> Result<Learnt, Failure> {
    let Context { client, spec, found, look_up } = context;
    let (client, spec) = (&client, &*spec);
    let work = spec.work.as_ref().map_err(|rejection| Failure::from(rejection.clone()))?;
    if stage == Stage::User {
        return user(look_up.unwrap_or_else(|| LookUp::begin(spec.uid, &spec.gids))).await;
    }
    let work = match work {
        Work::Pod(pod) => return pod::run(client, spec, pod).await,
        Work::Container(work) => work,
    };
    match (stage, found) {
        (Stage::Pod, _) => pod::find(client, spec, &work.pod).await,
        (Stage::Image, Found { pod: Some(pod), .. }) => image(client, &work.image, &pod.config).await,
        (Stage::Create, Found { user: Some(user), pod: Some(pod), image: Some(image), .. }) => {
            create(client, spec, work, &user, &pod, &image).await
        }
        (Stage::Start, Found { user: Some(user), pod: Some(pod), container: Some(container), .. }) => {
            let naming = if pod.runtime == CONTAINERD { Naming::AfterStart } else { Naming::FromCreate };
            start(client, &work.pod, &user, &container, naming).await
        }
        (Stage::User | Stage::Image | Stage::Create | Stage::Start, _) => {
            Err(prepared(format!("internal error: stage {stage:?} began out of order")))
        }
    }
}

fn prepared<E: std::fmt::Display>(error: E) -> Failure {
    Failure::new(exit_code::PREPARATION_FAILED, error)
}

/// The code of a create or start that failed: 324 where the program is missing.
fn not_started(error: &CriError, otherwise: u32) -> Failure {
    let code = if error.names_missing_program() { exit_code::SPAWN_FAILED } else { otherwise };
    Failure { unsettled: error.class() == Class::Unsure, ..Failure::new(code, error) }
}

async fn user(begun: LookUp) -> Result<Learnt, Failure> {
    let found = begun.answer().await;
    found.map(Learnt::User).map_err(|error| Failure::new(exit_code::PERMISSION_DENIED, error))
}

/// Has the image, pulling it where the policy says so.
async fn image(client: &Client, image: &ImageSource, pod: &sandbox::Config) -> Result<Learnt, Failure> {
    let present = client.when_there(|| client.image(&image.reference)).await.map_err(prepared)?;
    let pull = match image.policy {
        PullPolicy::Always => true,
        PullPolicy::IfNotPresent => present.is_none(),
        PullPolicy::Never => false,
    };
    if !pull {
        let missing =
            || prepared(format!("image {} is not on this node, and the pull policy is Never", image.reference));
        return present.map(|image| Learnt::Image(image.id)).ok_or_else(missing);
    }
    tracing::info!(image = image.reference, "pulling");
    let limit = image.pull_limit.or(client.limits.pull);
    let pulled = client.pull(&image.reference, image.credentials.as_ref(), pod, limit).await;
    pulled.map(Learnt::Image).map_err(prepared)
}

/// Creates the container; one of an earlier try is removed first, since craned's
/// attach and exec want exactly one.
async fn create(
    client: &Client,
    spec: &StepSpec,
    work: &ContainerSpec,
    user: &User,
    pod: &Pod,
    image: &str,
) -> Result<Learnt, Failure> {
    check_group(user, work.pod.run_as_group)?;
    let selector = labels::container_selector(spec.id, spec.uid);
    let mut attempt = 0;
    loop {
        let left = client.when_there(|| client.list(&selector)).await.map_err(prepared)?;
        if !left.is_empty() {
            report_left(perform::containers(client, &selector).await);
        }
        let config = container::config(spec.id, work, user, image, attempt);
        let error = match client.create(&pod.id, config, &pod.config).await {
            Ok(id) => return Ok(Learnt::Created(id)),
            Err(error) => error,
        };
        attempt += 1;
        if attempt == ATTEMPTS || !matches!(error.class(), Class::Unsure | Class::NameTaken) {
            return Err(not_started(&error, exit_code::PREPARATION_FAILED));
        }
        tracing::warn!(%error, attempt, "creating the container again under a new name");
    }
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
async fn start(client: &Client, pod: &PodSpec, user: &User, id: &str, naming: Naming) -> Result<Learnt, Failure> {
    let started = start::start(client, id, pod.cgroup_parent.as_deref(), naming).await;
    let held = started.map_err(|error| not_started(&error, exit_code::SPAWN_FAILED))?;
    let init = held.init().map(|(process, _)| process.pid);
    if let (Some(parent), Some((process, _))) = (&pod.cgroup_parent, held.init())
        && let Err(failure) = check_membership(process.pid, parent)
    {
        // v1 shows an ending process at the root: only one that goes on is outside.
        match timeout(ENDING, process.ended()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(failure),
        }
    }
    if let Some(pid) = init {
        warn_of_groups(pid, pod, user);
    }
    tracing::info!(container = id, pid = init, "container started");
    Ok(Learnt::Started(held))
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

fn report_left(errors: Vec<perform::UndoError>) {
    for error in errors {
        tracing::warn!(%error, "what an earlier try left is still there");
    }
}
