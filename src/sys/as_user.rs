//! This thread as the job's user towards file systems, for as long as a guard lives.
//!
//! Only the file-system ids, the groups and the effective capabilities change, and
//! only of the calling thread: real, effective and saved ids stay root's, so the
//! user can neither signal nor trace us. (The C library's `setgroups` would change
//! every thread; hence raw system calls.) The kernel drops the file-system
//! capabilities by itself when the fs uid leaves 0; we drop the other ones too, or
//! CAP_SYS_RESOURCE would let us write past the user's quota. A mount the user made
//! by FUSE without `allow_other` refuses us, since it looks at the real ids.
//!
//! Called wherever a path the user can change is opened or written. Never held
//! across an await: the guard cannot leave its thread.
#![allow(unsafe_code)]

use super::crash;
use caps::{CapSet, CapsHashSet};
use std::io;
use std::marker::PhantomData;

/// The user a step belongs to, as file systems see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

impl User {
    /// Makes the calling thread this user; see [`AsUser::enter`].
    ///
    /// # Errors
    /// As [`AsUser::enter`].
    pub fn enter(&self) -> Result<AsUser, AsUserError> {
        AsUser::enter(self.uid, self.gid, &self.groups)
    }
}

/// Why a thread could not become the user.
#[derive(Debug, thiserror::Error)]
pub enum AsUserError {
    /// The thread's present groups could not be read.
    #[error("cannot read the thread's groups: {0}")]
    ReadGroups(#[source] io::Error),
    /// setgroups was refused.
    #[error("cannot take on the groups of uid {uid}: {source}; CAP_SETGID is needed")]
    Groups {
        /// The user.
        uid: u32,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// The kernel did not take over an id: setfsuid and setfsgid report no error themselves.
    #[error("cannot take on {kind} {wanted}: the thread still has {actual}; CAP_SETUID and CAP_SETGID are needed")]
    NotTaken {
        /// Which id.
        kind: &'static str,
        /// The one asked for.
        wanted: u32,
        /// The one the thread has.
        actual: u32,
    },
    /// The groups read back are not those set.
    #[error("cannot take on the groups of uid {uid}: the kernel reports others")]
    GroupsDiffer {
        /// The user.
        uid: u32,
    },
    /// The capabilities could not be read or put aside.
    #[error("cannot put aside the thread's capabilities: {0}")]
    Capabilities(#[source] caps::errors::CapsError),
}

/// The calling thread acts as the user on file systems until this is dropped.
///
/// Also the proof that functions of `sys::files` ask for. If the way back should
/// fail, the process aborts: it must not go on as a mixture of root and user.
#[must_use = "dropping it makes the thread root again"]
#[derive(Debug)]
pub struct AsUser {
    uid: u32,
    before: Before,
    /// The ids are the thread's, so the guard must not leave it.
    _this_thread: PhantomData<*const ()>,
}

#[derive(Debug)]
struct Before {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    effective: CapsHashSet,
}

impl AsUser {
    /// Makes the calling thread act as this user on file systems.
    ///
    /// # Errors
    /// [`AsUserError`] when the kernel refuses or does not take over an id; the
    /// thread is then as before.
    pub fn enter(uid: u32, gid: u32, groups: &[u32]) -> Result<Self, AsUserError> {
        let before = Before {
            uid: fs_uid(),
            gid: fs_gid(),
            groups: thread_groups().map_err(AsUserError::ReadGroups)?,
            effective: caps::read(None, CapSet::Effective).map_err(AsUserError::Capabilities)?,
        };
        set_thread_groups(groups).map_err(|source| AsUserError::Groups { uid, source })?;
        // From here on dropping the guard leads back.
        let guard = Self { uid, before, _this_thread: PhantomData };
        set_fs_gid(gid)?;
        set_fs_uid(uid)?;
        if sorted(thread_groups().map_err(AsUserError::ReadGroups)?) != sorted(groups.to_vec()) {
            return Err(AsUserError::GroupsDiffer { uid });
        }
        caps::clear(None, CapSet::Effective).map_err(AsUserError::Capabilities)?;
        Ok(guard)
    }

    /// The user the thread acts as.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    fn leave(&self) -> Result<(), AsUserError> {
        // Going back to a real id needs no capability; setgroups does, so it comes last.
        set_fs_uid(self.before.uid)?;
        set_fs_gid(self.before.gid)?;
        caps::set(None, CapSet::Effective, &self.before.effective).map_err(AsUserError::Capabilities)?;
        set_thread_groups(&self.before.groups).map_err(|source| AsUserError::Groups { uid: self.before.uid, source })
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            crash::note(&format!("cannot return from uid {} to uid {}: {error}", self.uid, self.before.uid));
            std::process::abort();
        }
    }
}

fn set_fs_uid(uid: u32) -> Result<(), AsUserError> {
    // SAFETY: setfsuid takes one integer and changes only this thread's credentials.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
    expect_taken("fs uid", uid, fs_uid())
}

fn set_fs_gid(gid: u32) -> Result<(), AsUserError> {
    // SAFETY: setfsgid takes one integer and changes only this thread's credentials.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
    expect_taken("fs gid", gid, fs_gid())
}

fn expect_taken(kind: &'static str, wanted: u32, actual: u32) -> Result<(), AsUserError> {
    if wanted == actual { Ok(()) } else { Err(AsUserError::NotTaken { kind, wanted, actual }) }
}

/// An id of -1 is never valid: the kernel changes nothing and tells the present one.
fn fs_uid() -> u32 {
    // SAFETY: as in `set_fs_uid`; with -1 it changes nothing.
    unsafe { libc::syscall(libc::SYS_setfsuid, u32::MAX) as u32 }
}

fn fs_gid() -> u32 {
    // SAFETY: as in `set_fs_gid`; with -1 it changes nothing.
    unsafe { libc::syscall(libc::SYS_setfsgid, u32::MAX) as u32 }
}

fn set_thread_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length describe one live slice, which the kernel only reads.
    match unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn thread_groups() -> io::Result<Vec<u32>> {
    // SAFETY: a size of 0 asks for the number only; the pointer is not used.
    let count = unsafe { libc::syscall(libc::SYS_getgroups, 0, std::ptr::null_mut::<u32>()) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let mut groups = vec![0u32; count];
    // SAFETY: pointer and length describe one live, writable buffer. Only this
    // thread changes its groups, so their number is still the same.
    let read = unsafe { libc::syscall(libc::SYS_getgroups, groups.len(), groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(read).map_err(|_| io::Error::last_os_error())?);
    Ok(groups)
}

/// The kernel keeps groups sorted.
fn sorted(mut groups: Vec<u32>) -> Vec<u32> {
    groups.sort_unstable();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn status_line(path: &str, name: &str) -> Vec<String> {
        let status = fs::read_to_string(path).unwrap();
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn only_this_threads_file_system_ids_change_and_they_come_back() {
        let mine = |name| status_line("/proc/thread-self/status", name);
        let (uids, groups, caps) = (mine("Uid:"), mine("Groups:"), mine("CapEff:"));
        let guard = AsUser::enter(12345, 12346, &[9, 7, 8]).unwrap();
        assert_eq!(mine("Uid:"), ["0", "0", "0", "12345"]);
        assert_eq!(mine("Gid:"), ["0", "0", "0", "12346"]);
        assert_eq!(mine("Groups:"), ["7", "8", "9"]);
        assert_eq!(mine("CapEff:"), ["0000000000000000"]);
        let other = std::thread::scope(|s| s.spawn(|| status_line("/proc/self/status", "Uid:")).join().unwrap());
        assert_eq!(other, uids, "the process's main thread is still root");
        drop(guard);
        assert_eq!((mine("Uid:"), mine("Groups:"), mine("CapEff:")), (uids, groups, caps));
    }

    #[test]
    fn roots_files_are_closed_to_the_user() {
        let dir = crate::sys::files::scratch::Dir::new();
        let path = dir.path().join("secret");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let guard = User { uid: 12345, gid: 12345, groups: vec![] }.enter().unwrap();
        let error = fs::read(&path).unwrap_err();
        drop(guard);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(fs::read(&path).is_ok());
    }

    #[test]
    fn an_invalid_id_is_refused_and_nothing_stays_changed() {
        assert!(matches!(AsUser::enter(u32::MAX, 5, &[]), Err(AsUserError::NotTaken { kind: "fs uid", .. })));
        assert_eq!(status_line("/proc/thread-self/status", "Gid:"), ["0", "0", "0", "0"]);
    }
}
