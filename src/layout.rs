//! Every path we make, and nothing else.
//!
//! The tree is drawn in `docs/design.md` and shown by the fixture
//! `supervisor/containers/`. No other file joins these names.

use crate::ids::StepId;
use std::path::{Path, PathBuf};

/// Where control sockets live; a fixed name craned looks for.
pub const SOCKET_DIR: &str = "/tmp/crane";

/// The control socket of `id`, a name fixed by craned.
pub fn socket(id: StepId) -> PathBuf {
    Path::new(SOCKET_DIR).join(format!("step_{id}.sock"))
}

/// The step whose control socket a file of that name is.
pub fn step_of_socket(name: &str) -> Option<StepId> {
    name.strip_prefix("step_")?.strip_suffix(".sock")?.parse().ok()
}

/// The name under which a control socket is made; it gets its own when it can be used.
pub fn socket_in_the_making(socket: &Path) -> PathBuf {
    let name = socket.file_name().unwrap_or_default();
    socket.with_file_name(format!(".{}.new", name.display()))
}

/// Names the container log inside the pod's log directory (CRI `log_path`).
pub fn container_log_name(id: StepId) -> String {
    format!("{id}.container.log")
}

/// File `number` of a log that is rotated: 0 is the one being written, 1 the one before, and so on.
pub fn segment(log: &Path, number: u64) -> PathBuf {
    if number == 0 {
        return log.to_owned();
    }
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Where a container's log of an earlier run is set aside, its older files beside it as of any log.
pub fn log_before(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".before");
    name.into()
}

/// The log directory of one node: `<CraneBaseDir>/supervisor`.
#[derive(Clone, Debug)]
pub struct LogDir(PathBuf);

impl LogDir {
    /// The directory craned named in the init message.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Our own log.
    pub fn supervisor_log(&self, id: StepId) -> PathBuf {
        self.0.join(format!("{id}.log"))
    }

    /// The container's output, written by the runtime.
    pub fn container_log(&self, id: StepId) -> PathBuf {
        self.0.join(container_log_name(id))
    }

    /// The final record.
    pub fn record(&self, id: StepId) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }
}

/// The container feature's directory on one node: `<TempDir>`.
#[derive(Clone, Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// The absolute directory craned named in the init message.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Everything of one job.
    pub fn job(&self, job: u32) -> JobDir {
        JobDir(self.0.join(job.to_string()))
    }

    /// Everything of one step.
    pub fn step(&self, id: StepId) -> StepDir {
        StepDir(self.job(id.job).steps().join(id.step.to_string()))
    }
}

/// `<TempDir>/<job>`: there while the job has a pod or a step is owed something.
#[derive(Clone, Debug)]
pub struct JobDir(PathBuf);

impl JobDir {
    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The pod's id and names.
    pub fn pod_record(&self) -> PathBuf {
        self.0.join("pod.json")
    }

    /// The pod's configuration exactly as sent, protobuf.
    pub fn pod_config(&self) -> PathBuf {
        self.0.join("pod.config")
    }

    /// One directory for each step that is owed something.
    pub fn steps(&self) -> PathBuf {
        self.0.join("steps")
    }
}

/// `<TempDir>/<job>/steps/<step>`: there exactly as long as something is owed.
#[derive(Clone, Debug)]
pub struct StepDir(PathBuf);

impl StepDir {
    /// A step directory by its own path, as a reaper gets it.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Held while a supervisor or reaper owns the step.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// One staged mount each, numbered.
    pub fn mounts(&self) -> PathBuf {
        self.0.join("mounts")
    }

    /// What must be undone.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// What is to be known to finish the user's copy, while there is one.
    pub fn copy(&self) -> PathBuf {
        self.0.join("copy")
    }

    /// The same of an earlier run, whose log is set aside.
    pub fn copy_before(&self) -> PathBuf {
        self.0.join("copy.before")
    }

    /// The final report while craned has not acknowledged it.
    pub fn outbox(&self) -> PathBuf {
        self.0.join("outbox")
    }
}

/// Where bindfs mounts of a step go: `<MountBaseDir>/<job>.<step>`.
pub fn bindfs_dir(base: &Path, id: StepId) -> PathBuf {
    base.join(id.to_string())
}

/// The cgroup of a step's bindfs, beside those craned makes for the job's steps: craned
/// ends what is in the job's or the step's group itself, a container not among it.
pub fn bindfs_cgroup(job: &str, id: StepId) -> String {
    format!("{job}/bindfs_{}", id.step)
}

/// The user's directory for output below the step's working directory, by name.
pub fn user_output_dir_name(job: u32) -> String {
    format!("{job}.out")
}

/// The user's copy of the output in that directory, by name; `ccon logs` builds the same.
pub fn user_output_name(step: u32, node: &str) -> String {
    format!("{step}.{node}.log")
}
