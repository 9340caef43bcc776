//! The stages of a step as work: each asks the node or the runtime for one
//! thing and says what it learnt.
//!
//! A stage changes no state of the step; it may be dropped at any await. What
//! it acquires was written down before it began.

mod ahead;
mod container;
mod devices;
mod granted;
mod image;
mod limits;
pub mod mounts;
mod pod;
mod ports;
mod target;
mod userns;

use crate::cleanup::perform;
use crate::cri::client::Client;
use crate::cri::container::Given;
use crate::cri::error::{Class, CriError};
use crate::cri::start::Held;
use crate::exit_code;
use crate::identity::idmap::Ranges;
use crate::identity::look_up::{LookUp, UserError};
use crate::identity::user::{Identity, ImageRules, User};
use crate::mounts::stage::Staged;
use crate::spec::{StepSpec, Work};
use crate::step::effects::Effects;
use crate::step::event::Failure;
use crate::step::hooks::Hooks;
use crate::step::pod_record::Pod;
use crate::step::stages::ahead::Ahead;
use crate::step::stages::container::Making;
use crate::step::state::Stage;
use crate::sys::exit_events::ExitEvents;
use std::rc::Rc;

/// How often a name taken by an earlier try is stepped over.
const ATTEMPTS: u32 = 3;

/// What a stage found out.
#[derive(Debug)]
pub enum Learnt {
    /// Who the job's user is, and what was seen for later stages meanwhile.
    User(Identity, Ahead),
    /// The job's pod.
    Pod(Rc<Pod>),
    /// The container's mounts are staged.
    Mounted(Staged),
    /// The runtime's id of the image.
    Image(String),
    /// What the prologs asked for.
    Prologs(Effects),
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
    /// What the administrator lets a container keep, by [`Stage::User`].
    pub capabilities: Rc<[String]>,
    /// How much of its output the user keeps, by [`Stage::User`].
    pub output_cap: Option<u64>,
    /// What the administrator wants of pulls, by [`Stage::User`].
    pub rules: ImageRules,
    /// By [`Stage::User`], where a user namespace was asked for.
    pub ranges: Option<Ranges>,
    /// By [`Stage::Pod`].
    pub pod: Option<Rc<Pod>>,
    /// By [`Stage::User`], for later ones.
    pub ahead: Ahead,
    /// By [`Stage::Mounts`].
    pub mounts: Option<Rc<Staged>>,
    /// By [`Stage::Image`].
    pub image: Option<String>,
    /// By [`Stage::Prologs`].
    pub effects: Rc<Effects>,
    /// The runtime cannot say "read-only" to a mount whose flags are locked, by [`Stage::Start`].
    pub untold: bool,
    /// By [`Stage::Create`].
    pub container: Option<String>,
    /// By [`Stage::Start`].
    pub held: Option<Rc<Held>>,
}

impl Found {
    /// A container that cannot be started is made anew.
    pub fn forget_container(&mut self) {
        self.container = None;
        self.ahead.no_container = false;
    }

    /// Adds what a stage learnt.
    pub fn add(&mut self, learnt: Learnt) {
        match learnt {
            Learnt::User(Identity { user, ranges, capabilities, output_cap, images }, ahead) => {
                self.output_cap = output_cap;
                self.ahead = ahead;
                self.user = Some(user);
                self.ranges = ranges;
                self.rules = images;
                self.capabilities = capabilities.into();
            }
            Learnt::Mounted(staged) => self.mounts = Some(Rc::new(staged)),
            Learnt::Pod(pod) => {
                self.pod = Some(pod);
                self.ahead.pod = None;
            }
            Learnt::Image(image) => self.image = Some(image),
            Learnt::Prologs(effects) => self.effects = Rc::new(effects),
            Learnt::Created(container) => self.container = Some(container),
            Learnt::Started(held) => {
                // Another than was created, where that one could not start.
                self.container = Some(held.id.clone());
                self.held = Some(Rc::new(held));
            }
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
    /// The programs around the step.
    pub hooks: Rc<Hooks>,
    /// The user's look-up, for the first stage: begun before it was needed.
    pub look_up: Option<LookUp>,
    /// The kernel's report of ends, where its pidfds cannot tell them.
    pub exits: Option<Rc<ExitEvents>>,
}

/// Performs one stage.
///
/// # Errors
/// The [`Failure`] craned is told.
pub async fn perform(stage: Stage, context: Context) -> Result<Learnt, Failure> {
    let Context { client, spec, found, hooks, look_up, exits } = context;
    let (client, spec) = (&client, &*spec);
    let work = spec.work.as_ref().map_err(|rejection| Failure::from(rejection.clone()))?;
    if stage == Stage::User {
        let begun = look_up.unwrap_or_else(|| LookUp::begin(spec.uid, &spec.gids, spec.subids()));
        let (identity, ahead) = tokio::join!(user(begun), ahead::look(client, spec, work));
        return Ok(Learnt::User(identity?, ahead));
    }
    let work = match work {
        // A pod's prologs are root's.
        Work::Pod(_) if stage == Stage::Prologs => return hooks.prologs(spec, None).await.map(Learnt::Prologs),
        Work::Pod(pod) => {
            let pod = pod::run(client, spec, pod, found.ranges).await?;
            return Ok(Learnt::Pod(Rc::new(pod)));
        }
        Work::Container(work) => work,
    };
    match (stage, found) {
        (Stage::Pod, Found { ahead: Ahead { pod: Some(pod), .. }, .. }) => Ok(Learnt::Pod(pod)),
        (Stage::Pod, _) => pod::find(client, spec, &work.pod).await.map(|pod| Learnt::Pod(Rc::new(pod))),
        (Stage::Mounts, Found { user: Some(user), pod: Some(pod), .. }) => {
            mounts::make(client, spec, work, &user, &pod.config).await
        }
        (Stage::Image, Found { pod: Some(pod), rules, ahead, .. }) => {
            let image = match ahead.image {
                Some(image) if !rules.reauthorize => image,
                Some(_) | None => image::bring(client, &work.image, rules, &pod.config).await?,
            };
            Ok(Learnt::Image(image))
        }
        (Stage::Prologs, Found { user: Some(user), .. }) => hooks.prologs(spec, Some(&user)).await.map(Learnt::Prologs),
        (
            Stage::Create | Stage::Start,
            Found {
                user: Some(user),
                pod: Some(pod),
                image: Some(image),
                mounts: Some(mounts),
                untold,
                container,
                capabilities,
                ahead,
                effects,
                ..
            },
        ) => {
            let (ranges, mut mounts) = (pod.config.ranges(), mounts.mounts.clone());
            // The staged mounts are so already.
            mounts.iter_mut().for_each(|mount| mount.read_only &= !untold);
            let target = target::find(client, spec, work, &pod).await?;
            let given = Given {
                user: &user,
                ranges,
                image: &image,
                mounts,
                capabilities: &capabilities,
                effects: &effects,
                pid_target: target.as_ref().map(|target| target.id.as_str()),
            };
            let making = Making { client, spec, work, pod: &pod, given, none_left: ahead.no_container, exits };
            match container {
                None => container::create(&making).await.map(Learnt::Created),
                Some(id) => {
                    let learnt = container::start(making, id).await?;
                    target::check(target.as_ref(), &learnt)?;
                    Ok(learnt)
                }
            }
        }
        (Stage::User | Stage::Mounts | Stage::Image | Stage::Prologs | Stage::Create | Stage::Start, _) => {
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
    let again = matches!(error, CriError::CutOff(_));
    Failure { unsettled: error.class() == Class::Unsure && !again, again, ..Failure::new(code, error) }
}

async fn user(begun: LookUp) -> Result<Identity, Failure> {
    begun.answer().await.map_err(|error| {
        let code = match error {
            UserError::SubIds { .. } => exit_code::PREPARATION_FAILED,
            UserError::Unknown { .. } | UserError::LookUp { .. } | UserError::Helper { .. } => {
                exit_code::PERMISSION_DENIED
            }
        };
        Failure::new(code, error)
    })
}

fn report_left(errors: Vec<perform::UndoError>) {
    for error in errors {
        tracing::warn!(%error, "what an earlier try left is still there");
    }
}
