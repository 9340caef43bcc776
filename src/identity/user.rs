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
}
