//! What a journal holds: each acquired thing by what was known beforehand.

use crate::ids::StepId;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;

/// Version of the journal's format; readers take older ones too, and refuse newer ones.
///
/// 2 added `processes` and `job_cgroup`.
pub const VERSION: u32 = 2;

/// The first line of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub version: u32,
    /// Job number.
    pub job: u32,
    /// Step number.
    pub step: u32,
    /// The boot it was written in (/proc/sys/kernel/random/boot_id).
    pub boot: String,
    /// The runtime's socket.
    pub runtime: PathBuf,
    /// Where our log goes.
    pub log: PathBuf,
    /// Whose step it is, for people.
    #[serde(flatten)]
    pub about: About,
}

/// What people ask about a step whose supervisor does not answer; older journals have none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The job's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The container's image, as asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

impl Header {
    /// The step it belongs to.
    pub fn id(&self) -> StepId {
        StepId { job: self.job, step: self.step }
    }
}

impl Entry {
    /// What is left of it after a reboot: a cgroup of that name is another's now.
    pub fn after_reboot(self) -> Self {
        match self {
            Self::Mounts { dirs, cgroup: _ } => Self::Mounts { dirs, cgroup: None },
            Self::Processes { container, cgroups: _ } => Self::Processes { container, cgroups: Vec::new() },
            Self::JobCgroup { group: _ } => Self::JobCgroup { group: None },
            same @ (Self::Socket { .. } | Self::Pod { .. } | Self::PodRecord { .. } | Self::Container { .. }) => same,
        }
    }
}

/// One acquired thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "acquired")]
pub enum Entry {
    /// The control socket.
    Socket {
        /// Where.
        path: PathBuf,
    },
    /// The job's pod sandbox.
    Pod {
        /// The labels that single it out.
        labels: HashMap<String, String>,
    },
    /// What a runtime makes of the job's cgroup where craned has none.
    JobCgroup {
        /// Relative to the cgroup root.
        group: Option<String>,
    },
    /// The pod's record, for the job's container steps.
    PodRecord {
        /// Its files.
        files: Vec<PathBuf>,
    },
    /// The step's mounts.
    Mounts {
        /// The directories of root's below which they are.
        dirs: Vec<PathBuf>,
        /// The cgroup of its bindfs processes.
        cgroup: Option<String>,
    },
    /// The processes of the step's container, written down before it is started.
    Processes {
        /// The runtime's id of the container.
        container: String,
        /// Where runtimes put them, below a hierarchy's mount; one or none is there.
        cgroups: Vec<String>,
    },
    /// The step's container.
    Container {
        /// The labels that single it out.
        labels: HashMap<String, String>,
    },
}
