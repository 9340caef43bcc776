//! Staging a step's mounts below directories of root's.

use crate::cleanup::claim::make_dir;
use crate::cri::container::HostMount;
use crate::failpoint;
use crate::identity::user::User;
use crate::mounts::bindfs::{self, Daemon};
use crate::mounts::error::{MountError, staging};
use crate::mounts::idmapped::Namespaces;
use crate::mounts::lock;
use crate::mounts::plan::Ids;
use crate::mounts::source::{self, Kind, Source};
use crate::mounts::table;
use crate::spec::{BindfsSpec, MountSpec};
use crate::sys::as_user;
use crate::sys::mount_api::{Access, Tree};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long the file systems of all sources may take; network file systems mount on demand.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// bindfs (1.18 and before) takes larger ids for errors.
const BINDFS_ID_MAX: u32 = i32::MAX as u32;
/// How long a bindfs that serves may take to show its file.
const PIN_LIMIT: Duration = Duration::from_secs(15);

/// Where mounts are staged.
#[derive(Clone, Debug)]
pub struct Places {
    /// `<TempDir>/<job>/steps/<step>/mounts`.
    pub staging: PathBuf,
    /// `<MountBaseDir>/<job>.<step>`, where bindfs is configured.
    pub bindfs: Option<PathBuf>,
    /// The cgroup for bindfs, where craned made one for the job.
    pub cgroup: Option<String>,
}

/// What a step wants mounted, and for whom.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The mounts.
    pub specs: &'a [MountSpec],
    /// The job's user.
    pub user: &'a User,
    /// The mapping, in a user namespace.
    pub ids: Option<Ids>,
    /// bindfs, where the administrator wants it.
    pub bindfs: Option<&'a BindfsSpec>,
}

/// Every path of ours one mount is at; the last is the runtime's.
type Points = Vec<PathBuf>;

/// All mounts of a step.
#[derive(Debug, Default)]
pub struct Staged {
    /// For the runtime, parents first.
    pub mounts: Vec<HostMount>,
    points: Vec<Points>,
    /// Each bindfs, with the number of its mount.
    daemons: Vec<(usize, Daemon)>,
}

impl Places {
    /// The directories below which all of it is.
    pub fn dirs(&self) -> Vec<PathBuf> {
        std::iter::once(&self.staging).chain(&self.bindfs).cloned().collect()
    }
}

impl Staged {
    /// Whether any mount depends on a process.
    pub fn has_daemons(&self) -> bool {
        !self.daemons.is_empty()
    }

    /// Waits for the end of any bindfs, takes its mount out of sight and says which it was.
    pub async fn lost(&self) -> String {
        let mut ends: Vec<_> = self.daemons.iter().map(|(_, daemon)| Box::pin(daemon.ended())).collect();
        let first = std::future::poll_fn(|context| {
            let ended = ends.iter_mut().position(|end| end.as_mut().poll(context).is_ready());
            ended.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await;
        let (number, daemon) = &self.daemons[first];
        for point in self.points[*number].iter().rev() {
            table::detach_lazily(point);
        }
        format!("mount {} is lost: {}", self.mounts[*number].target.display(), daemon.obituary().await)
    }

    /// Ends every bindfs, whatever it is doing: one that its user stopped holds up the runtime.
    pub fn kill(&self) {
        self.daemons.iter().for_each(|(_, daemon)| daemon.kill());
    }
}

/// Stages all mounts, or fails before the first is made where a source is at fault.
/// May be dropped at any await: what is mounted then is below the journaled directories.
///
/// # Errors
/// [`MountError`].
pub async fn make(wanted: Wanted<'_>, places: &Places) -> Result<Staged, MountError> {
    let sources = open(&wanted).await?;
    let bindfs = wanted.bindfs.map(Program::configured).transpose()?;
    failpoint::pass(|| "sources opened".into());
    make_private(&places.staging).map_err(staging("create", &places.staging))?;
    let mut staged = Staged::default();
    let mut spaces = Namespaces::default();
    for (number, (spec, source)) in wanted.specs.iter().zip(&sources).enumerate() {
        let access = if spec.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let one = One { number, source, access, places, groups: &wanted.user.groups };
        let (points, daemon) = match (&wanted.ids, &bindfs) {
            (None, _) => (vec![one.bind()?], None),
            (Some(ids), Some(program)) if ids.user.1.max(ids.group.1) <= BINDFS_ID_MAX => {
                one.bindfs(program, ids, &mut spaces).await?
            }
            (Some(ids), _) => one.mapped(ids, &mut spaces).await?,
        };
        staged.daemons.extend(daemon.map(|daemon| (number, daemon)));
        let host = points.last().cloned().unwrap_or_default();
        let mount = HostMount { host, target: spec.target.clone(), read_only: spec.read_only };
        tracing::info!(source = %source.path.display(), target = %mount.target.display(), at = %mount.host.display(), "mounted");
        staged.mounts.push(mount);
        staged.points.push(points);
        failpoint::pass(|| format!("mounted {number}"));
    }
    if wanted.ids.is_none() {
        lock::lock(&staged.mounts.iter().map(|mount| mount.host.clone()).collect::<Vec<_>>()).await?;
    }
    Ok(staged)
}

async fn open(wanted: &Wanted<'_>) -> Result<Vec<Source>, MountError> {
    let paths: Vec<PathBuf> = wanted.specs.iter().map(|spec| spec.source.clone()).collect();
    let first = paths.first().cloned().unwrap_or_default();
    let User { uid, gid, groups, name, .. } = wanted.user.clone();
    let user = as_user::User { uid, gid, groups };
    // On a thread: a file system may hang, and calls must be answered meanwhile.
    let opened = spawn_blocking(move || source::open_all(&paths, &user, &name));
    match timeout(OPEN_LIMIT, opened).await {
        Ok(Ok(sources)) => sources,
        Ok(Err(_)) | Err(_) => Err(MountError::Slow { path: first, limit: OPEN_LIMIT }),
    }
}

/// A bindfs that can be started, and where its mounts go.
struct Program {
    program: PathBuf,
    base: Option<PathBuf>,
}

impl Program {
    fn configured(spec: &BindfsSpec) -> Result<Self, MountError> {
        let program = bindfs::find_program("BindfsBinary", &spec.program)?;
        bindfs::find_program("FusermountBinary", &spec.fusermount)?;
        Ok(Self { program, base: Some(spec.base.clone()) })
    }

    /// One that nobody configured, for file systems that map no ids.
    fn found() -> Option<Self> {
        bindfs::find_program("BindfsBinary", "bindfs").ok().map(|program| Self { program, base: None })
    }
}

/// One mount on its way.
struct One<'a> {
    number: usize,
    source: &'a Source,
    access: Access,
    places: &'a Places,
    groups: &'a [u32],
}

type Made = (Points, Option<Daemon>);

impl One<'_> {
    fn bind(&self) -> Result<PathBuf, MountError> {
        self.attach(&self.tree()?)
    }

    async fn mapped(&self, ids: &Ids, spaces: &mut Namespaces) -> Result<Made, MountError> {
        let tree = self.tree()?;
        match tree.map_ids(spaces.mapped(ids).await?) {
            Ok(()) => {
                tracing::info!(
                    source = %self.source.path.display(),
                    uid = ids.user.1,
                    "ids are mapped one to one: any other user of the container cannot create files here (EOVERFLOW)"
                );
                Ok((vec![self.attach(&tree)?], None))
            }
            // EPERM: a mount below has a mapping already, another job's perhaps.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => {
                let path = self.source.path.clone();
                let filesystem = table::filesystem_of(&path);
                tracing::warn!(source = %path.display(), filesystem, "it, or what is mounted below, takes no mapping; trying bindfs");
                let program = Program::found().ok_or(MountError::NotMappable { path, filesystem })?;
                self.bindfs(&program, ids, spaces).await
            }
            Err(error) => Err(staging("map the ids of", &self.source.path)(error)),
        }
    }

    async fn bindfs(&self, program: &Program, ids: &Ids, spaces: &mut Namespaces) -> Result<Made, MountError> {
        if ids.user.1.max(ids.group.1) > BINDFS_ID_MAX {
            return Err(MountError::BigIds { path: self.source.path.clone(), ids: (ids.user.1, ids.group.1) });
        }
        let dir = self.bindfs_dir(program)?;
        let start = bindfs::Start {
            program: &program.program,
            ids,
            namespace: spaces.users(ids).await?,
            groups: self.groups,
            cgroup: self.places.cgroup.as_deref(),
            access: self.access,
        };
        let (daemon, tree) = bindfs::start(self.source, start).await?;
        failpoint::pass(|| "bindfs answers".into());
        fs::create_dir(&dir).map_err(staging("create", &dir))?;
        tree.attach(&dir).map_err(staging("mount", &dir))?;
        let Kind::File(name) = &self.source.kind else { return Ok((vec![dir], Some(daemon))) };
        let inner = dir.join(name);
        let file = pin_inside(dir.clone(), name.clone()).await.map_err(staging("open", &inner))?;
        let tree = Tree::of(&file).map_err(staging("clone", &inner))?;
        tree.restrict(self.access).map_err(staging("restrict", &inner))?;
        Ok((vec![dir, self.attach(&tree)?], Some(daemon)))
    }

    fn bindfs_dir(&self, program: &Program) -> Result<PathBuf, MountError> {
        match (&program.base, &self.places.bindfs) {
            (Some(base), Some(dir)) => {
                let failed = |verb| move |source| MountError::BaseDir { verb, path: base.clone(), source };
                make_dir(base).map_err(failed("create"))?;
                check_owner(base).map_err(failed("use"))?;
                make_private(dir).map_err(failed("write to"))?;
                Ok(dir.join(self.number.to_string()))
            }
            _ => Ok(self.places.staging.join(format!("bindfs.{}", self.number))),
        }
    }

    fn tree(&self) -> Result<Tree, MountError> {
        let tree = Tree::of(&self.source.pinned).map_err(staging("clone", &self.source.path))?;
        tree.restrict(self.access).map_err(staging("restrict", &self.source.path))?;
        Ok(tree)
    }

    fn attach(&self, tree: &Tree) -> Result<PathBuf, MountError> {
        let at = self.places.staging.join(self.number.to_string());
        let made = match self.source.kind {
            Kind::Directory => fs::create_dir(&at),
            Kind::File(_) => OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at).map(drop),
        };
        made.map_err(staging("create", &at))?;
        failpoint::pass(|| format!("place for mount {}", self.number));
        tree.attach(&at).map_err(staging("mount", &at))?;
        Ok(at)
    }
}

/// A directory for root alone; whoever reached a bindfs mount would act as its user.
fn make_private(dir: &Path) -> io::Result<()> {
    make_dir(dir)?;
    let meta = fs::symlink_metadata(dir)?;
    match meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o077 == 0 {
        true => Ok(()),
        false => Err(io::Error::other("it is there already, and not a directory for root alone")),
    }
}

/// Others must not be able to move our directories away.
fn check_owner(base: &Path) -> io::Result<()> {
    let meta = fs::metadata(base)?;
    match meta.is_dir() && meta.uid() == 0 && (meta.mode() & 0o022 == 0 || meta.mode() & 0o1000 != 0) {
        true => Ok(()),
        false => Err(io::Error::other("it must be a directory of root that nobody else can write to")),
    }
}

/// Pins the one file that a bindfs shows. On a thread: the user may have stopped that bindfs.
async fn pin_inside(dir: PathBuf, name: OsString) -> io::Result<OwnedFd> {
    let pin = move || {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let file = openat2(fs::File::open(&dir)?, name.as_os_str(), how)?;
        is_regular(&file)?;
        Ok(file)
    };
    let pinned = timeout(PIN_LIMIT, spawn_blocking(pin)).await.map_err(|_elapsed| io::ErrorKind::TimedOut)?;
    pinned.map_err(io::Error::other)?
}

fn is_regular(file: &OwnedFd) -> io::Result<()> {
    let mode = nix::sys::stat::fstat(file)?.st_mode;
    match mode & libc::S_IFMT == libc::S_IFREG {
        true => Ok(()),
        false => Err(io::Error::other("it is no regular file any more")),
    }
}
