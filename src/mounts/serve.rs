//! bindfs, started with no privilege at all: the helper's side.
//!
//! The helper gets an open /dev/fuse, the source and a user namespace in which 0 is
//! the user. It prepares a mount namespace of its own, becomes the user and turns into
//! bindfs, so that the kernel judges whatever bindfs does as it judges the user: groups,
//! access lists, root squash and quotas included. bindfs thinks it must mount, which it
//! cannot; it asks `fusermount` then, which is this program again and hands back the
//! descriptor of a file system that was made before (libfuse's `_FUSE_COMMFD` protocol).

use crate::sys::fd_passing;
use crate::sys::helper::OURSELVES;
use crate::sys::mount_api::Tree;
use crate::sys::privileges;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, chroot, dup2_stdin, execve, pivot_root, setgroups, setresgid, setresuid, setsid};
use serde::{Deserialize, Serialize};
use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The hidden command of the helper.
pub const COMMAND: &str = "serve-bindfs";
/// Tells `fusermount` which descriptor to hand back.
const DEVICE: &str = "CRANE_FUSE_FD";
/// Names under which libfuse looks for its mount program.
const FUSERMOUNT: [&str; 2] = ["fusermount", "fusermount3"];
/// Where a node's programs and libraries are.
const SYSTEM: [&str; 10] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "nix", "gnu"];
/// In no mapping of ours: 0 is the only id there.
const NOBODYS_GROUP: u32 = 65_534;
/// An order names at most some thousands of groups.
pub const ORDER_MAX: usize = 128 * 1024;

/// What a helper is to serve.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// bindfs.
    pub program: PathBuf,
    /// The user's supplementary groups.
    pub groups: Vec<u32>,
    /// The name of the one file to show; `None` shows the directory.
    pub file: Option<Vec<u8>>,
    /// The node's id the user is shown as.
    pub shown_user: u32,
    /// The node's id the user's group is shown as.
    pub shown_group: u32,
}

/// What failed on the way to bindfs.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb}: {source}")]
pub struct ServeError {
    verb: &'static str,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(verb: &'static str) -> impl Fn(E) -> ServeError {
    move |source| ServeError { verb, source: source.into() }
}

/// Takes the order from standard input and becomes bindfs.
pub fn become_bindfs() -> ServeError {
    let Err(error) = try_become_bindfs();
    error
}

fn try_become_bindfs() -> Result<std::convert::Infallible, ServeError> {
    let (bytes, fds) = fd_passing::receive(io::stdin(), ORDER_MAX).map_err(failed("take the order"))?;
    let order: Order = serde_json::from_slice(&bytes).map_err(failed("read the order"))?;
    let Ok([device, source, namespace]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(failed("take the descriptors")(io::Error::from(io::ErrorKind::InvalidData)));
    };
    setsid().map_err(failed("leave the session"))?;
    umask(Mode::empty());
    drop(privileges::ordinary_oom_score());
    prepare_mounts(&order, source.into())?;
    let null = File::open("/dev/null").map_err(failed("open /dev/null"))?;
    dup2_stdin(null).map_err(failed("let go of standard input"))?;
    become_user(&order.groups, namespace)?;
    fcntl(&device, FcntlArg::F_SETFD(FdFlag::empty())).map_err(failed("keep the device open"))?;
    execute(&order, &device)
}

/// A mount namespace whose /dev holds what bindfs needs: the source, a mount point, and us as fusermount.
fn prepare_mounts(order: &Order, source: Tree) -> Result<(), ServeError> {
    let installed = installed_fusermounts();
    let count = installed.len() + FUSERMOUNT.len();
    // Before we leave: our program's mount belongs to the namespace we came from.
    let clones = if ourselves_replaced()? { None } else { Some(clones(Path::new(OURSELVES), count)?) };
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace"))?;
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_SLAVE | MsFlags::MS_REC, nothing)
        .map_err(failed("keep our mounts to ourselves"))?;
    let null = pin("/dev/null").and_then(Tree::of).map_err(failed("keep /dev/null"))?;
    let mut ourselves = clones.map_or_else(|| clones_of_a_copy(count), Ok)?.into_iter();
    for (program, tree) in installed.iter().zip(&mut ourselves) {
        tree.attach(program).map_err(failed("stand in for fusermount"))?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("bindfs"), "/dev", Some("tmpfs"), flags, Some("mode=0755,size=64k,nr_inodes=32"))
        .map_err(failed("mount a private /dev"))?;
    for dir in ["/dev/mnt", "/dev/bin", "/dev/src"] {
        fs::DirBuilder::new().mode(0o755).create(dir).map_err(failed("make a directory in the private /dev"))?;
    }
    // bindfs opens it before it finds out that it may not mount.
    for (path, mode) in [("/dev/fuse", 0o666), ("/dev/null", 0o666)] {
        place_holder(Path::new(path), mode)?;
    }
    null.attach(Path::new("/dev/null")).map_err(failed("show /dev/null"))?;
    for (name, tree) in FUSERMOUNT.iter().zip(&mut ourselves) {
        let path = Path::new("/dev/bin").join(name);
        place_holder(&path, 0o755)?;
        tree.attach(&path).map_err(failed("stand in for fusermount"))?;
    }
    let shown = match &order.file {
        None => PathBuf::from("/dev/src"),
        Some(name) => {
            let path = Path::new("/dev/src").join(OsString::from_vec(name.clone()));
            place_holder(&path, 0o600)?;
            path
        }
    };
    source.attach(&shown).map_err(failed("show the source"))?;
    leave_the_rest(&order.program).map_err(failed("leave the node's other directories"))
}

/// bindfs follows a link that takes a directory's place behind its back; from here none leads
/// to the user's other files. Only the node's programs and the program's own top directory stay.
fn leave_the_rest(program: &Path) -> io::Result<()> {
    let root = Path::new("/dev/root");
    let dev = Tree::of(pin("/dev")?)?;
    fs::DirBuilder::new().mode(0o755).create(root)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("bindfs"), root, Some("tmpfs"), flags, Some("mode=0755,size=64k,nr_inodes=64"))?;
    let real = fs::canonicalize(program)?;
    let tops = [program, &real].map(|path| path.iter().nth(1).unwrap_or_default().to_owned());
    for name in SYSTEM.map(OsString::from).into_iter().chain(tops) {
        let (from, to) = (Path::new("/").join(&name), root.join(&name));
        if fs::symlink_metadata(&to).is_ok() {
            continue;
        }
        if let Ok(link) = fs::read_link(&from) {
            std::os::unix::fs::symlink(link, &to)?;
        } else if from.is_dir() {
            fs::DirBuilder::new().mode(0o755).create(&to)?;
            Tree::of(pin(&from)?)?.attach(&to)?;
        }
    }
    fs::DirBuilder::new().mode(0o755).create(root.join("dev"))?;
    dev.attach(&root.join("dev"))?;
    chdir(root)?;
    match pivot_root(".", ".") {
        // With the old root go our copies of all else that is mounted, which would keep it in use.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        // The first root of a node without disks cannot be put aside, only covered.
        Err(Errno::EINVAL) => {
            let nothing: Option<&str> = None;
            mount(Some("."), "/", nothing, MsFlags::MS_MOVE, nothing)?;
            chroot(".")?;
        }
        Err(errno) => return Err(errno.into()),
    }
    Ok(chdir("/")?)
}

fn installed_fusermounts() -> Vec<PathBuf> {
    let places = ["/bin", "/usr/bin", "/usr/local/bin"].map(Path::new);
    let named = places.into_iter().flat_map(|place| FUSERMOUNT.map(|name| place.join(name)));
    let mut found: Vec<PathBuf> = named.filter_map(|path| fs::canonicalize(path).ok()).collect();
    found.sort();
    found.dedup();
    found
}

/// Has an upgrade taken our file's last name? The kernel mounts no file without one.
fn ourselves_replaced() -> Result<bool, ServeError> {
    Ok(fs::metadata(OURSELVES).map_err(failed("look at our own program"))?.nlink() == 0)
}

fn clones(program: &Path, count: usize) -> Result<Vec<Tree>, ServeError> {
    let clone = |_| pin(program).and_then(Tree::of).map_err(failed("bind our own program"));
    (0..count).map(clone).collect()
}

/// Of a copy in memory, which takes the program's size until this bindfs ends.
fn clones_of_a_copy(count: usize) -> Result<Vec<Tree>, ServeError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("bindfs"), "/dev", Some("tmpfs"), flags, Some("mode=0755,size=64m,nr_inodes=8"))
        .map_err(failed("make room for a copy of our own program"))?;
    let copy = Path::new("/dev/program");
    fs::copy(OURSELVES, copy).map_err(failed("copy our own program"))?;
    let clones = clones(copy, count)?;
    umount2("/dev", MntFlags::MNT_DETACH).map_err(failed("hide the copy of our own program"))?;
    Ok(clones)
}

fn pin(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    Ok(open(path.as_ref(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn place_holder(path: &Path, mode: u32) -> Result<(), ServeError> {
    let created = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let permitted = created.and_then(|_| fs::set_permissions(path, Permissions::from_mode(mode)));
    permitted.map_err(failed("make a file in the private /dev"))
}

/// From here on the node's kernel sees the user: only the user's ids exist in the
/// namespace, and root made it, so that not even the user may trace this process.
fn become_user(groups: &[u32], namespace: OwnedFd) -> Result<(), ServeError> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(failed("take on the user's groups"))?;
    setns(namespace, CloneFlags::CLONE_NEWUSER).map_err(failed("enter the user namespace"))?;
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group).map_err(failed("take on the user's group"))?;
    setresuid(user, user, user).map_err(failed("become the user"))?;
    privileges::renounce().map_err(|error| failed("give up capabilities")(io::Error::other(error)))
}

fn execute(order: &Order, device: &OwnedFd) -> Result<std::convert::Infallible, ServeError> {
    let text = |text: String| CString::new(text).map_err(failed("write the command line"));
    let arguments = [
        order.program.display().to_string(),
        "-f".to_owned(),
        format!("--map=0/{}:@0/@{}", order.shown_user, order.shown_group),
        // New files have their owner from the kernel, and their group too, in a set-gid directory
        // the directory's: a group that is not in the namespace is one bindfs cannot change them to.
        format!("--create-for-group={NOBODYS_GROUP}"),
        "--chown-deny".to_owned(),
        "--chgrp-deny".to_owned(),
        "/dev/src".to_owned(),
        "/dev/mnt".to_owned(),
    ];
    let arguments = arguments.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let environment = [
        "PATH=/dev/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        "LC_ALL=C".to_owned(),
        format!("{DEVICE}={}", device.as_raw_fd()),
    ];
    let environment = environment.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let program = text(order.program.display().to_string())?;
    execve(&program, &arguments, &environment).map_err(failed("execute bindfs"))
}

/// Whether this program was started by libfuse as its mount program.
pub fn is_fusermount(program: &OsString) -> bool {
    let name = Path::new(program).file_name();
    name.is_some_and(|name| FUSERMOUNT.iter().any(|known| name == *known))
}

/// fusermount's part: hands the prepared descriptor to libfuse; unmounting is not ours.
///
/// # Errors
/// Environment variables that are missing or wrong, or the socket's refusal.
pub fn hand_back() -> io::Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let Some(socket) = number("_FUSE_COMMFD") else { return Ok(()) };
    let device = number(DEVICE).ok_or(io::ErrorKind::NotFound)?;
    let (socket, device) = (fd_passing::inherited(socket)?, fd_passing::inherited(device)?);
    fd_passing::send(socket, b"\0", &[device.as_fd()])
}
