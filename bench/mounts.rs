//! What mounts cost: plain binds beside id-mapped ones, bindfs, and the peer's bindfs.
//!
//! Every kind shows directories of one tmpfs, so that no disk is measured. Containers with
//! plain binds have no user namespace, all others share the pod of one that has.

mod memory;
mod offset;
mod set_up;
mod work;

use crate::Result;
use crate::args::Args;
use crate::init::Facts;
use crate::node::{LIMIT, Node, as_on_a_node};
use crate::table::Table;
use crate::user::TestUser;
use crane_supervisor::ids::StepId;
use crane_supervisor::local::child::Supervisor;
use crane_supervisor::local::grpc;
use crane_supervisor::wire::crane::JobStatus;
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::supervisor::init_supervisor_request::container_config::BindFsConfig;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use tokio::time::timeout;

/// As many mounts as one step has at most here.
const SOURCES: usize = 8;

/// How a mount is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// No user namespace.
    Plain,
    /// Ids mapped by the kernel.
    Idmapped,
    /// Ids mapped by a bindfs of the user's.
    Bindfs,
}

/// All of them.
pub const ENGINES: [Engine; 3] = [Engine::Plain, Engine::Idmapped, Engine::Bindfs];

impl Engine {
    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain bind",
            Self::Idmapped => "id-mapped",
            Self::Bindfs => "bindfs",
        }
    }
}

/// A user, what they have to mount, and two pods of theirs.
pub struct Scene<'a> {
    /// The node.
    pub node: &'a Node,
    plain: Facts,
    mapped: Facts,
    pods: Vec<Supervisor>,
    next_step: Cell<u32>,
    sources: Sources,
    // Last to go: nothing of theirs may be left then.
    user: TestUser,
}

/// Measures everything about mounts.
pub async fn all(node: &Node, args: &Args, table: &mut Table) -> Result<()> {
    let mut scene = Scene::new(node)?;
    let measured = scene.measure(args, table).await;
    for pod in scene.pods.drain(..) {
        node.end_pod(pod).await?;
    }
    measured
}

impl<'a> Scene<'a> {
    fn new(node: &'a Node) -> Result<Self> {
        let user = TestUser::new();
        let cwd = user.dir(&node.places.root.join("work-with-mounts"), 0o755);
        let job = |userns| {
            let mut job = Facts { uid: user.uid, gids: vec![user.gid], userns, ..node.job() };
            job.places.cwd.clone_from(&cwd);
            job
        };
        let (plain, mapped) = (job(false), job(true));
        let sources = Sources::new(&node.places.root.join("tmpfs"), &user)?;
        Ok(Self { node, plain, mapped, pods: Vec::new(), next_step: Cell::new(1), sources, user })
    }

    async fn measure(&mut self, args: &Args, table: &mut Table) -> Result<()> {
        for job in [&self.plain, &self.mapped] {
            self.pods.push(self.node.pod(job).await?);
        }
        work::rates(self, &args.mounts, table).await?;
        set_up::times(self, args.mounts.steps, table).await?;
        memory::kept(self, args.mounts.at_once, args.window, table).await
    }

    /// A step that nobody had, with so many mounts: `/m0`, `/m1`, …
    pub fn step(&self, engine: Engine, mounts: usize, command: &[&str]) -> InitSupervisorRequest {
        let mut job = if engine == Engine::Plain { self.plain.clone() } else { self.mapped.clone() };
        let paths = self.sources.dirs.iter().take(mounts).enumerate();
        job.mounts = paths.map(|(number, path)| (path.display().to_string(), format!("/m{number}"))).collect();
        job.bindfs = (engine == Engine::Bindfs).then(|| BindFsConfig {
            bindfs_binary: "bindfs".into(),
            fusermount_binary: "fusermount3".into(),
            mount_base_dir: job.places.mount_base.display().to_string(),
        });
        let step = self.next_step.get();
        self.next_step.set(step + 1);
        as_on_a_node(job.container_step(step, command))
    }

    /// Runs a step to its end, which must be a success.
    pub async fn run(&self, init: &InitSupervisorRequest) -> Result<()> {
        let mut supervisor = self.node.start(init).await?;
        grpc::execute(supervisor.step()).await?;
        self.node.reports.wait(supervisor.step(), JobStatus::Completing).await?;
        timeout(LIMIT, supervisor.ended()).await??;
        match self.log(init)?.contains("outcome=Ended(Exited(0))") {
            true => Ok(()),
            false => Err(format!("a step failed; its log: {}", self.log(init)?).into()),
        }
    }

    /// What a step's supervisor has logged.
    pub fn log(&self, init: &InitSupervisorRequest) -> Result<String> {
        self.read(init, "log")
    }

    /// What a step's container has printed, as the runtime wrote it.
    pub fn output(&self, init: &InitSupervisorRequest) -> Result<String> {
        self.read(init, "container.log")
    }

    fn read(&self, init: &InitSupervisorRequest, ending: &str) -> Result<String> {
        let path = self.node.places.logs.join(format!("{}.{ending}", id(init)));
        Ok(std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?)
    }
}

/// The step a message is for.
pub fn id(init: &InitSupervisorRequest) -> StepId {
    StepId { job: init.job_id, step: init.step_id }
}

/// Directories of the user's on a tmpfs, which goes with them.
struct Sources {
    root: PathBuf,
    dirs: Vec<PathBuf>,
}

impl Sources {
    fn new(root: &Path, user: &TestUser) -> Result<Self> {
        std::fs::create_dir_all(root)?;
        let options = "mode=0755,size=2g";
        mount(Some("crane-bench"), root, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))?;
        let mut sources = Self { root: root.to_owned(), dirs: Vec::new() };
        sources.dirs.extend((0..SOURCES).map(|number| user.dir(&root.join(number.to_string()), 0o700)));
        Ok(sources)
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        if let Err(errno) = umount2(&self.root, MntFlags::MNT_DETACH) {
            eprintln!("bench: cannot unmount {}: {errno}", self.root.display());
        }
    }
}
