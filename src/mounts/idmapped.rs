//! User namespaces that hold a mapping and nobody.
//!
//! The kernel takes a mapping for a mount as a user namespace. A helper makes one and
//! waits; its maps are written from outside, its descriptor is kept, it is ended.

use crate::mounts::error::MountError;
use crate::mounts::plan::Ids;
use crate::sys::helper;
use crate::sys::mount_api::{Depth, Tree};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// The hidden command of the helper.
pub const COMMAND: &str = "hold-user-namespace";
/// How long the helper may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The namespaces of a step's mounts, each made when it is first needed.
#[derive(Debug, Default)]
pub struct Namespaces {
    mapped: Option<OwnedFd>,
    users: Option<OwnedFd>,
}

impl Namespaces {
    /// The one mounts are mapped through.
    ///
    /// # Errors
    /// [`MountError::Namespace`], [`MountError::Helper`].
    pub async fn mapped(&mut self, ids: &Ids) -> Result<OwnedFd, MountError> {
        once(&mut self.mapped, &ids.uid_map(), &ids.gid_map()).await
    }

    /// The one in which 0 is the user, and nobody else is anybody.
    ///
    /// # Errors
    /// [`MountError::Namespace`], [`MountError::Helper`].
    pub async fn users(&mut self, ids: &Ids) -> Result<OwnedFd, MountError> {
        once(&mut self.users, &format!("0 {} 1\n", ids.user.0), &format!("0 {} 1\n", ids.group.0)).await
    }
}

async fn once(slot: &mut Option<OwnedFd>, uid_map: &str, gid_map: &str) -> Result<OwnedFd, MountError> {
    let made = match slot.take() {
        Some(made) => made,
        None => namespace(uid_map, gid_map).await?,
    };
    slot.insert(made).try_clone().map_err(MountError::Namespace)
}

/// Makes a user namespace with these maps, in the format of /proc/PID/uid_map.
///
/// # Errors
/// [`MountError::Namespace`], [`MountError::Helper`].
pub async fn namespace(uid_map: &str, gid_map: &str) -> Result<OwnedFd, MountError> {
    let holder = helper::waiting(Path::new(helper::OURSELVES), &[COMMAND], LIMIT).await?;
    let of = |file: &str| format!("/proc/{}/{file}", holder.pid);
    let made = write(&of("uid_map"), uid_map)
        .and_then(|()| write(&of("gid_map"), gid_map))
        .and_then(|()| File::open(of("ns/user")));
    made.map(OwnedFd::from).map_err(MountError::Namespace)
}

/// Whether the kernel maps ids on the file system at `path`, tried on a mount that is attached nowhere.
/// Blocks as long as that file system does.
///
/// # Errors
/// The kernel's word: EINVAL where the file system cannot, EPERM where something mounted below is mapped already.
pub fn try_at(path: &Path, depth: Depth, namespace: &OwnedFd) -> io::Result<()> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Tree::copy(openat2(AT_FDCWD, path, how)?, depth)?.map_ids(namespace)
}

/// A map is taken in one write or not at all (user_namespaces(7)).
fn write(path: &str, map: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(map.as_bytes())
}

/// The helper: a new user namespace, one byte, and then nothing until it is killed.
///
/// # Errors
/// The kernel's refusal of the namespace.
pub fn hold() -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
    io::stdout().write_all(b"\n")?;
    io::stdout().flush()?;
    loop {
        nix::unistd::pause();
    }
}
