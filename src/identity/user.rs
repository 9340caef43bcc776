//! A user as a container needs one.

use crate::identity::idmap::Ranges;
use serde::{Deserialize, Serialize};

/// A user and their groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group of the job.
    pub gid: u32,
    /// Supplementary groups, without the primary one, sorted.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// A user, and what their user namespaces are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user.
    pub user: User,
    /// The user's subordinate ids, where they were asked for.
    pub ranges: Option<Ranges>,
    /// What the administrator lets containers without a user namespace keep.
    pub capabilities: Vec<String>,
    /// Bytes the administrator lets the user's copy of the output have; `None` is no limit.
    pub output_cap: Option<u64>,
    /// What the administrator wants of pulls.
    pub images: ImageRules,
}

/// What a node's administrator wants of pulls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRules {
    /// The registry is asked, with the job's own credentials, also for an image that is present.
    pub reauthorize: bool,
    /// Seconds a pull may do nothing; 0 is no limit, `None` the usual one.
    pub stall_s: Option<u64>,
}
