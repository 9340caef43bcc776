//! The job's user as the node knows it, through NSS, and the user's subordinate ids.
//!
//! Clusters keep users in LDAP or SSSD: a look-up may block, and loads
//! libraries; the files of subordinate ids have locks. So it is made by a helper
//! process (`crane-supervisor lookup-user`), and a supervisor only reads the
//! helper's answer.

use crate::config;
use crate::identity::images;
use crate::identity::privilege;
use crate::identity::subid::file::Files;
use crate::identity::subid::{self, Owner, Resolved};
use crate::identity::user::{Identity, User};
use crate::spec::SubIdPolicy;
use crate::sys::helper::{self, HelperError, Started};
use nix::unistd::{Gid, Uid, User as Passwd, getgrouplist};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::path::Path;
use std::time::Duration;

/// A user could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user.
    #[error("user {uid} is unknown on this node: check passwd, LDAP or SSSD there (getent passwd {uid})")]
    Unknown {
        /// The user id.
        uid: u32,
    },
    /// NSS failed.
    #[error("cannot look up user {uid}: {reason}")]
    LookUp {
        /// The user id.
        uid: u32,
        /// What the name service said.
        reason: String,
    },
    /// No ranges for a user namespace; the text says which, and of whom.
    #[error("{reason}")]
    SubIds {
        /// What the helper found wrong.
        reason: String,
    },
    /// The helper failed.
    #[error("cannot look up user {uid}: {source}")]
    Helper {
        /// The user id.
        uid: u32,
        /// Why.
        #[source]
        source: HelperError,
    },
}

/// What the helper prints.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Found { identity: Identity, warnings: Vec<String> },
    Unknown,
    Failed(String),
    NoSubIds(String),
}

/// The command of our own binary that makes a look-up.
pub const COMMAND: &str = "lookup-user";
/// Its option for a [`SubIdPolicy`] in JSON.
const SUBIDS: &str = "--subids";
/// How long a name service may take.
pub const LOOK_UP_LIMIT: Duration = Duration::from_secs(30);
/// 65 536 group ids of ten digits.
const ANSWER_MAX: u64 = 1 << 20;

/// A look-up under way in a helper; dropped, it is given up.
#[derive(Debug)]
pub struct LookUp {
    uid: u32,
    helper: Result<Started, HelperError>,
}

impl LookUp {
    /// Begins a look-up. `gids` are craned's: primary group first. With a policy, ranges are found
    /// too, and managed ones recorded in the node's files.
    pub fn begin(uid: u32, gids: &[u32], subids: Option<&SubIdPolicy>) -> Self {
        let mut args = vec![COMMAND.to_owned()];
        if let Some(policy) = subids {
            args.extend([SUBIDS.to_owned(), serde_json::to_string(policy).unwrap_or_default()]);
        }
        args.push(uid.to_string());
        args.extend(gids.iter().map(u32::to_string));
        Self { uid, helper: helper::start(Path::new(helper::OURSELVES), &args) }
    }

    /// Waits for the answer; its warnings go to the log.
    ///
    /// # Errors
    /// [`UserError`].
    pub async fn answer(self) -> Result<Identity, UserError> {
        let uid = self.uid;
        let failed = |source| UserError::Helper { uid, source };
        let said = self.helper.map_err(failed)?.line(LOOK_UP_LIMIT, ANSWER_MAX).await.map_err(failed)?;
        let without = |how: &str| UserError::LookUp { uid, reason: format!("the look-up helper {how}") };
        let line = said.map_err(|output| without(&format!("ended with {}", output.status)))?;
        match serde_json::from_slice(&line) {
            Ok(Answer::Found { identity, warnings }) => {
                for problem in warnings {
                    tracing::warn!(%problem, "found while looking the user up");
                }
                Ok(identity)
            }
            Ok(Answer::NoSubIds(reason)) => Err(UserError::SubIds { reason }),
            Ok(Answer::Unknown) => Err(UserError::Unknown { uid }),
            Ok(Answer::Failed(reason)) => Err(UserError::LookUp { uid, reason }),
            Err(_) => Err(without("gave no answer that can be read")),
        }
    }
}

/// The helper's own work: asks NSS, finds ranges if there is a policy (JSON) for them, answers in JSON.
pub fn answer(uid: u32, gids: &[u32], subids: Option<&str>) -> String {
    let answer = match ask(uid, gids) {
        Ok(Some((user, own_gid))) => with_ranges(user, own_gid, subids),
        Ok(None) => Answer::Unknown,
        Err(errno) => Answer::Failed(errno.desc().to_owned()),
    };
    serde_json::to_string(&answer).unwrap_or_default()
}

fn with_ranges(user: User, own_gid: u32, subids: Option<&str>) -> Answer {
    let (capabilities, problem) = privilege::kept(Path::new(config::DEFAULT_PATH));
    let (output_cap, about_cap) = privilege::output_cap(Path::new(config::DEFAULT_PATH));
    let (images, about_images) = images::rules(Path::new(config::DEFAULT_PATH));
    let found = |user, ranges, warnings: Vec<String>| Answer::Found {
        identity: Identity { user, ranges, capabilities, output_cap, images },
        warnings: warnings.into_iter().chain(problem).chain(about_cap).chain(about_images).collect(),
    };
    let Some(policy) = subids else { return found(user, None, Vec::new()) };
    let policy = match serde_json::from_str::<SubIdPolicy>(policy) {
        Ok(policy) => policy,
        Err(error) => return Answer::Failed(format!("{SUBIDS}: {error}")),
    };
    let owner = Owner { name: &user.name, uid: user.uid, gid: own_gid, job_gid: user.gid };
    match subid::resolve(&policy, &owner, &Files::default()) {
        Ok(Resolved { ranges, warnings }) => found(user, Some(ranges), warnings),
        Err(error) => Answer::NoSubIds(error.to_string()),
    }
}

/// The user, and the primary group of the user database, which may not be the job's.
fn ask(uid: u32, gids: &[u32]) -> nix::Result<Option<(User, u32)>> {
    let Some(entry) = Passwd::from_uid(Uid::from_raw(uid))? else {
        return Ok(None);
    };
    let own_gid = entry.gid.as_raw();
    let gid = gids.first().copied().unwrap_or(own_gid);
    let name = CString::new(entry.name.as_bytes()).map_err(|_| nix::Error::EINVAL)?;
    let listed = getgrouplist(&name, Gid::from_raw(gid))?.into_iter().map(Gid::as_raw);
    let mut groups: Vec<u32> = gids.iter().skip(1).copied().chain(listed).filter(|&group| group != gid).collect();
    groups.sort_unstable();
    groups.dedup();
    let user = User { name: entry.name, uid, gid, groups, home: path(&entry.dir), shell: path(&entry.shell) };
    Ok(Some((user, own_gid)))
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(uid: u32, gids: &[u32]) -> User {
        match serde_json::from_str(&answer(uid, gids, None)) {
            Ok(Answer::Found { identity: Identity { user, ranges: None, .. }, .. }) => user,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_helper_answers_for_root_and_for_nobody_known() {
        let root = found(0, &[]);
        assert_eq!((root.name.as_str(), root.gid), ("root", 0));
        assert!(matches!(serde_json::from_str(&answer(3_999_999_999, &[], None)), Ok(Answer::Unknown)));
    }

    #[test]
    fn craneds_groups_come_first_and_once() {
        let user = found(0, &[7, 9, 9, 8]);
        assert_eq!(user.gid, 7);
        assert!(user.groups.contains(&8) && user.groups.contains(&9) && !user.groups.contains(&7));
        assert!(user.groups.is_sorted());
    }

    #[test]
    fn a_policy_that_covers_nobody_or_is_none_is_told() {
        let nobody = SubIdPolicy::Managed { uids: Vec::new(), gids: Vec::new() };
        let reason = match serde_json::from_str(&answer(0, &[], Some(&serde_json::to_string(&nobody).unwrap()))) {
            Ok(Answer::NoSubIds(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason.contains("user root: uid 0 is not covered by Container.SubId.UidMappings"), "{reason}");
        let text = answer(0, &[], Some("{"));
        assert!(matches!(serde_json::from_str(&text), Ok(Answer::Failed(reason)) if reason.starts_with("--subids: ")));
    }
}
