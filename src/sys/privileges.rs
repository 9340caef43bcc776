//! What this process may do: session, limits, capabilities, out-of-memory score.
//!
//! Called once by `cli::supervise`, before any thread exists: capability sets
//! belong to a thread, and later threads inherit them.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getpgid, getppid, setpgid};
use std::fs;
use std::io;

/// What a step still needs: files of users and their own (CHOWN, DAC_*, FOWNER),
/// acting as the user (SETUID, SETGID), mounts and namespaces (SYS_ADMIN, SYS_CHROOT),
/// ending processes (KILL), reading other processes' /proc entries (SYS_PTRACE)
/// and lowering the out-of-memory score of nobody but us (SYS_RESOURCE is left out).
const KEPT: [Capability; 10] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_KILL,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SYS_PTRACE,
];

/// A part of settling in that failed; none of them stops a step.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// setsid(2).
    #[error("cannot start a session of our own: {0}")]
    Session(#[source] nix::Error),
    /// /proc/self/oom_score_adj.
    #[error("cannot set the out-of-memory score to -1000: {0}")]
    OomScore(#[source] io::Error),
    /// setrlimit(2) or prctl(2).
    #[error("cannot switch off core dumps: {0}")]
    CoreDumps(#[source] nix::Error),
    /// capset(2) or prctl(2).
    #[error("cannot drop capabilities: {0}")]
    Capabilities(#[source] caps::errors::CapsError),
    /// prctl(2).
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivs(#[source] nix::Error),
    /// chdir(2).
    #[error("cannot leave the working directory: {0}")]
    WorkingDirectory(#[source] nix::Error),
}

/// Makes the process a supervisor; everything that failed is returned, for the log.
pub fn settle() -> Vec<PrivilegeError> {
    umask(Mode::from_bits_truncate(0o077));
    [own_session(), leave_directory(), no_core_dumps(), spare_from_oom(), drop_capabilities(), no_new_privs()]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

fn own_session() -> Result<(), PrivilegeError> {
    match nix::unistd::setsid() {
        Ok(_) => Ok(()),
        // craned makes us a group leader, who cannot: step back into its group first.
        Err(nix::Error::EPERM) => {
            join_parents_group().and_then(|()| nix::unistd::setsid()).map(drop).map_err(PrivilegeError::Session)
        }
        Err(errno) => Err(PrivilegeError::Session(errno)),
    }
}

fn join_parents_group() -> nix::Result<()> {
    let group = getpgid(Some(getppid()))?;
    setpgid(Pid::from_raw(0), group)
}

/// Keeps no mount busy.
fn leave_directory() -> Result<(), PrivilegeError> {
    nix::unistd::chdir("/").map_err(PrivilegeError::WorkingDirectory)
}

/// A core would hold registry passwords and environment values.
fn no_core_dumps() -> Result<(), PrivilegeError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(PrivilegeError::CoreDumps)?;
    nix::sys::prctl::set_dumpable(false).map_err(PrivilegeError::CoreDumps)
}

fn spare_from_oom() -> Result<(), PrivilegeError> {
    fs::write("/proc/self/oom_score_adj", "-1000").map_err(PrivilegeError::OomScore)
}

/// Undoes [`settle`]'s out-of-memory score in a helper; raising it is always allowed.
///
/// # Errors
/// If /proc is not there.
pub fn ordinary_oom_score() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", "0")
}

fn drop_capabilities() -> Result<(), PrivilegeError> {
    let error = PrivilegeError::Capabilities;
    let held = caps::read(None, CapSet::Permitted).map_err(error)?;
    let wanted: CapsHashSet = KEPT.into_iter().collect();
    let kept: CapsHashSet = held.intersection(&wanted).copied().collect();
    for capability in caps::runtime::thread_all_supported().difference(&kept) {
        // Needs CAP_SETPCAP: before the permitted set shrinks.
        if caps::has_cap(None, CapSet::Bounding, *capability).map_err(error)? {
            caps::drop(None, CapSet::Bounding, *capability).map_err(error)?;
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(error)?;
    caps::clear(None, CapSet::Inheritable).map_err(error)?;
    caps::set(None, CapSet::Effective, &kept).map_err(error)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(error)
}

/// Gives up every capability for good, those a program would gain by being executed included.
///
/// # Errors
/// [`PrivilegeError`].
pub fn renounce() -> Result<(), PrivilegeError> {
    let error = PrivilegeError::Capabilities;
    no_new_privs()?;
    for capability in caps::runtime::thread_all_supported() {
        caps::drop(None, CapSet::Bounding, capability).map_err(error)?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(error)?;
    }
    Ok(())
}

fn no_new_privs() -> Result<(), PrivilegeError> {
    nix::sys::prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivs)
}
