//! The kernel's mount calls on descriptors: a tree of mounts is cloned from a pinned
//! file, restricted, mapped and only then attached, so no path of a user's is
//! ever followed (open_tree(2), mount_setattr(2), move_mount(2); Linux 5.12 or newer).
//!
//! Used by `mounts` and by the helper that prepares bindfs. A tree that is never
//! attached vanishes with its descriptor.
#![allow(unsafe_code)]

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// Whether a mount may be written through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// As the files' own permissions say.
    ReadWrite,
    /// Not at all.
    ReadOnly,
}

/// How much is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The one mount, for a look at its file system alone.
    One,
    /// What is mounted below it too.
    All,
}

/// A tree of mounts that is attached nowhere yet.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl AsFd for Tree {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Tree {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Tree> for OwnedFd {
    fn from(tree: Tree) -> Self {
        tree.0
    }
}

impl Tree {
    /// A copy of what is mounted at a pinned file or directory and below.
    ///
    /// With what is mounted below: left out, files that a mount hides would come to light.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(pinned: impl AsFd) -> io::Result<Self> {
        Self::copy(pinned, Depth::All)
    }

    /// As [`Tree::of`], with or without what is mounted below.
    ///
    /// # Errors
    /// The kernel's.
    pub fn copy(pinned: impl AsFd, depth: Depth) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let flags = match depth {
            Depth::One => flags,
            Depth::All => flags | OpenTreeFlags::AT_RECURSIVE,
        };
        Ok(Self(open_tree(pinned, c"", flags)?))
    }

    /// A FUSE file system served through `device`, an open /dev/fuse.
    ///
    /// Everybody who reaches the mount may use it, and the kernel leaves every decision to
    /// the server: it must be attached where only root and its user's container get to.
    ///
    /// # Errors
    /// The kernel's.
    pub fn fuse(device: impl AsFd, subtype: &CStr) -> io::Result<Self> {
        let fs = fsopen(c"fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let number = device.as_fd().as_raw_fd().to_string();
        for (key, value) in [
            (c"source", subtype.to_string_lossy().as_ref()),
            (c"subtype", subtype.to_string_lossy().as_ref()),
            (c"fd", &number),
            (c"rootmode", "40000"),
            (c"user_id", "0"),
            (c"group_id", "0"),
        ] {
            fsconfig_set_string(&fs, key, value)?;
        }
        fsconfig_set_flag(&fs, c"allow_other")?;
        fsconfig_create(&fs)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        Ok(Self(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?))
    }

    /// No set-uid, no devices, and no writing where asked; the tree also leaves its
    /// peer groups, or unmounting it would unmount what it was cloned from.
    ///
    /// # Errors
    /// The kernel's.
    pub fn restrict(&self, access: Access) -> io::Result<()> {
        let read_only = match access {
            Access::ReadWrite => 0,
            Access::ReadOnly => libc::MOUNT_ATTR_RDONLY,
        };
        self.set(&attributes(libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | read_only, None))
    }

    /// Shows ids through the mapping of a user namespace (inside: on disk; outside: as seen).
    ///
    /// # Errors
    /// EINVAL where a file system of the tree cannot do it (mount_setattr(2)).
    pub fn map_ids(&self, namespace: impl AsFd) -> io::Result<()> {
        self.set(&attributes(libc::MOUNT_ATTR_IDMAP, Some(namespace.as_fd().as_raw_fd())))
    }

    fn set(&self, attributes: &libc::mount_attr) -> io::Result<()> {
        let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
        // SAFETY: the path is a NUL-terminated empty string, and the structure lives through the
        // call and has the size told; the kernel only reads both.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                flags,
                std::ptr::from_ref(attributes),
                size_of::<libc::mount_attr>(),
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Puts the tree at a path of ours.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attach(&self, at: &Path) -> io::Result<()> {
        Ok(move_mount(&self.0, c"", rustix::fs::CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
    }
}

fn attributes(set: u64, namespace: Option<i32>) -> libc::mount_attr {
    libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: namespace.and_then(|fd| u64::try_from(fd).ok()).unwrap_or(0),
    }
}

/// How a mount point is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Fails while anybody uses it.
    Now,
    /// Out of sight at once, gone with its last user.
    Lazily,
}

/// Unmounts what is mounted last at `path`; never follows a link there.
///
/// # Errors
/// The kernel's; EINVAL where nothing is mounted.
pub fn detach(path: &Path, how: Unmount) -> io::Result<()> {
    let flags = match how {
        Unmount::Now => UnmountFlags::NOFOLLOW,
        Unmount::Lazily => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    Ok(unmount(path, flags)?)
}
