//! Why a mount could not be made, in words for the step's report.

use crate::sys::as_user::AsUserError;
use crate::sys::helper::HelperError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A mount that was not made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Nothing is there.
    #[error("mount source {}: user {user} finds nothing there", path.display())]
    Missing {
        /// The source.
        path: PathBuf,
        /// Login name.
        user: String,
    },
    /// A file stands where the path goes on.
    #[error("mount source {}: a file is where a directory should be", .0.display())]
    NotDirectory(PathBuf),
    /// A directory on the way is closed to the user.
    #[error("mount source {}: user {user} cannot get there; a directory above it denies search permission", path.display())]
    Unreachable {
        /// The source.
        path: PathBuf,
        /// Login name.
        user: String,
    },
    /// The user may not read it.
    #[error("mount source {}: user {user} may not read it", path.display())]
    Unreadable {
        /// The source.
        path: PathBuf,
        /// Login name.
        user: String,
    },
    /// A device, socket, fifo.
    #[error("mount source {}: neither a directory nor a regular file", .0.display())]
    Kind(PathBuf),
    /// The node's processes.
    #[error("mount source {}: it is of the node's /proc, which no container is shown", .0.display())]
    Proc(PathBuf),
    /// The node's cgroups.
    #[error("mount source {}: it is a part of the node's cgroups, which no container is shown", .0.display())]
    Cgroup(PathBuf),
    /// Anything else the kernel said.
    #[error("cannot open mount source {} as user {user}: {source}", path.display())]
    Open {
        /// The source.
        path: PathBuf,
        /// Login name.
        user: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file system does not answer.
    #[error("mount source {}: its file system did not answer within {limit:?}", path.display())]
    Slow {
        /// The source.
        path: PathBuf,
        /// How long it had.
        limit: Duration,
    },
    /// The thread could not act as the user.
    #[error(transparent)]
    AsUser(#[from] AsUserError),
    /// A kernel call of the staging failed.
    #[error("cannot {verb} {}: {source}", path.display())]
    Stage {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file system, or one below, takes no mapping (again), and there is no bindfs.
    #[error(
        "mount source {}: file system {filesystem}, or one mounted below it, cannot map ids for a user namespace; \
         install bindfs on this node, or use another file system",
        path.display()
    )]
    NotMappable {
        /// The source.
        path: PathBuf,
        /// Its type, as /proc/self/mountinfo has it.
        filesystem: String,
    },
    /// The namespace that holds a mapping could not be made.
    #[error("cannot make a user namespace for the mounts: {0}; see user.max_user_namespaces (sysctl)")]
    Namespace(#[source] io::Error),
    /// Its helper failed.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// A program of the configuration is not there.
    #[error("bindfs mount failed: {key} {} is not an executable program: verify that bindfs and fusermount3 are installed on this node", program.display())]
    Program {
        /// The configuration key.
        key: &'static str,
        /// What it names.
        program: PathBuf,
    },
    /// No FUSE.
    #[error("bindfs mount failed: cannot open /dev/fuse: {0}; verify that the FUSE module is loaded (modprobe fuse)")]
    Device(#[source] io::Error),
    /// The directory for bindfs mounts.
    #[error("bindfs mount failed: MountBaseDir: cannot {verb} {}: {source}; verify that it can be written", path.display())]
    BaseDir {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It ended before it served.
    #[error("bindfs mount failed: bindfs for {} ended early with {status}: {words}", path.display())]
    Early {
        /// The source.
        path: PathBuf,
        /// How it ended.
        status: String,
        /// Its last words.
        words: String,
    },
    /// It serves errors.
    #[error("bindfs mount failed: bindfs for {} answers with an error: {source}: {words}", path.display())]
    Answer {
        /// The source.
        path: PathBuf,
        /// What the file system answers.
        #[source]
        source: io::Error,
        /// Its last words.
        words: String,
    },
    /// Ids bindfs cannot show.
    #[error(
        "bindfs mount failed: bindfs cannot show ids above 2147483647, and the container's are {ids:?}; choose lower \
         subordinate ids for mount source {}",
        path.display()
    )]
    BigIds {
        /// The source.
        path: PathBuf,
        /// The node's ids of the container's user and group.
        ids: (u32, u32),
    },
    /// It does not serve.
    #[error("bindfs mount failed: bindfs for {} did not answer within {limit:?}: {words}", path.display())]
    Silent {
        /// The source.
        path: PathBuf,
        /// How long it had.
        limit: Duration,
        /// Its last words.
        words: String,
    },
}

/// For `map_err` on the staging's own kernel calls.
pub(super) fn staging<'a>(verb: &'static str, path: &'a std::path::Path) -> impl Fn(io::Error) -> MountError + use<'a> {
    move |source| MountError::Stage { verb, path: path.to_owned(), source }
}
