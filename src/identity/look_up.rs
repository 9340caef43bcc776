//! The job's user as the node knows it, through NSS.
//!
//! Clusters keep users in LDAP or SSSD: a look-up may block, and loads
//! libraries. So it is made by a helper process (`crane-supervisor
//! lookup-user`), and a supervisor only reads the helper's answer.

use crate::identity::user::User;
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
    Found(User),
    Unknown,
    Failed(String),
}

/// The command of our own binary that makes a look-up.
const COMMAND: &str = "lookup-user";
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
    /// Begins a look-up. `gids` are craned's: primary group first.
    pub fn begin(uid: u32, gids: &[u32]) -> Self {
        let mut args = vec![COMMAND.to_owned(), uid.to_string()];
        args.extend(gids.iter().map(u32::to_string));
        Self { uid, helper: helper::start(Path::new(helper::OURSELVES), &args) }
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// [`UserError`].
    pub async fn answer(self) -> Result<User, UserError> {
        let uid = self.uid;
        let failed = |source| UserError::Helper { uid, source };
        let output = self.helper.map_err(failed)?.output(LOOK_UP_LIMIT, ANSWER_MAX).await.map_err(failed)?;
        match serde_json::from_slice(&output.stdout) {
            Ok(Answer::Found(user)) => Ok(user),
            Ok(Answer::Unknown) => Err(UserError::Unknown { uid }),
            Ok(Answer::Failed(reason)) => Err(UserError::LookUp { uid, reason }),
            Err(_) => {
                Err(UserError::LookUp { uid, reason: format!("the look-up helper ended with {}", output.status) })
            }
        }
    }
}

/// The helper's own work: asks NSS, answers in JSON.
pub fn answer(uid: u32, gids: &[u32]) -> String {
    let answer = match ask(uid, gids) {
        Ok(Some(user)) => Answer::Found(user),
        Ok(None) => Answer::Unknown,
        Err(errno) => Answer::Failed(errno.desc().to_owned()),
    };
    serde_json::to_string(&answer).unwrap_or_default()
}

fn ask(uid: u32, gids: &[u32]) -> nix::Result<Option<User>> {
    let Some(entry) = Passwd::from_uid(Uid::from_raw(uid))? else {
        return Ok(None);
    };
    let gid = gids.first().copied().unwrap_or(entry.gid.as_raw());
    let name = CString::new(entry.name.as_bytes()).map_err(|_| nix::Error::EINVAL)?;
    let listed = getgrouplist(&name, Gid::from_raw(gid))?.into_iter().map(Gid::as_raw);
    let mut groups: Vec<u32> = gids.iter().skip(1).copied().chain(listed).filter(|&group| group != gid).collect();
    groups.sort_unstable();
    groups.dedup();
    Ok(Some(User { name: entry.name, uid, gid, groups, home: path(&entry.dir), shell: path(&entry.shell) }))
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_answers_for_root_and_for_nobody_known() {
        assert!(
            matches!(serde_json::from_str(&answer(0, &[])), Ok(Answer::Found(user)) if user.name == "root" && user.gid == 0)
        );
        assert!(matches!(serde_json::from_str(&answer(3_999_999_999, &[])), Ok(Answer::Unknown)));
    }

    #[test]
    fn craneds_groups_come_first_and_once() {
        let Ok(Answer::Found(user)) = serde_json::from_str(&answer(0, &[7, 9, 9, 8])) else { panic!("root not found") };
        assert_eq!(user.gid, 7);
        assert!(user.groups.contains(&8) && user.groups.contains(&9) && !user.groups.contains(&7));
        assert!(user.groups.is_sorted());
    }
}
