//! Whose job it is, and as whom its container runs.
//!
//! The job's user is who `--as` names, else who called, also through sudo. The
//! user data base is asked for what was left out; nothing is changed.

use crate::local::plan::{Ids, RunAs};
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, getgid, getuid};

/// Why the job has no user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// SUDO_UID or SUDO_GID is nonsense.
    #[error("cannot tell the job's user: {name} is {value:?}, not a number; unset it or correct it")]
    Sudo {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// Nobody has that name.
    #[error("cannot tell the job's user: --as {0:?}: this node knows no such user; see getent passwd")]
    UnknownName(String),
    /// The user data base does not answer.
    #[error("cannot look up the job's user --as {name:?}: {source}")]
    LookUp {
        /// The name.
        name: String,
        /// The cause.
        source: Errno,
    },
}

/// The value of `-u`: a uid and, where given, a gid.
pub type NumericIds = (u32, Option<u32>);

/// The value of `--as`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobUser {
    /// A number, or a login name.
    pub user: UidOrName,
    /// Primary group; the user's own without.
    pub gid: Option<u32>,
}

/// How a user is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UidOrName {
    /// By number.
    Uid(u32),
    /// By login name.
    Name(String),
}

/// Reads the value of `-u`.
pub fn parse_ids(text: &str) -> Result<NumericIds, String> {
    let (uid, gid) = split(text)?;
    Ok((number(uid, "UID[:GID]")?, gid))
}

/// Reads the value of `--as`; what is no number is a name.
pub fn parse_job_user(text: &str) -> Result<JobUser, String> {
    let (user, gid) = split(text)?;
    let looks_like_name = user.starts_with(|first: char| first.is_alphabetic() || first == '_');
    let user = if looks_like_name {
        UidOrName::Name(user.to_owned())
    } else {
        UidOrName::Uid(number(user, "UID[:GID] or a login name")?)
    };
    Ok(JobUser { user, gid })
}

fn split(text: &str) -> Result<(&str, Option<u32>), String> {
    match text.split_once(':') {
        Some((user, gid)) => Ok((user, Some(number(gid, "a number after the colon")?))),
        None => Ok((text, None)),
    }
}

fn number(text: &str, expected: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a numeric id: expected {expected}"))
}

/// Who `asked` names, else who called, also through sudo.
pub fn job_user(asked: Option<JobUser>) -> Result<Ids, UserError> {
    match asked {
        Some(JobUser { user: UidOrName::Uid(uid), gid }) => Ok(Ids { uid, gid: gid.unwrap_or_else(|| group_of(uid)) }),
        Some(JobUser { user: UidOrName::Name(name), gid }) => by_name(name, gid),
        None => caller(),
    }
}

fn by_name(name: String, gid: Option<u32>) -> Result<Ids, UserError> {
    match User::from_name(&name) {
        Ok(Some(user)) => Ok(Ids { uid: user.uid.as_raw(), gid: gid.unwrap_or(user.gid.as_raw()) }),
        Ok(None) => Err(UserError::UnknownName(name)),
        Err(source) => Err(UserError::LookUp { name, source }),
    }
}

fn caller() -> Result<Ids, UserError> {
    let own = Ids { uid: getuid().as_raw(), gid: getgid().as_raw() };
    Ok(Ids { uid: sudo_id("SUDO_UID")?.unwrap_or(own.uid), gid: sudo_id("SUDO_GID")?.unwrap_or(own.gid) })
}

fn sudo_id(name: &'static str) -> Result<Option<u32>, UserError> {
    let Some(value) = std::env::var_os(name) else {
        return Ok(None);
    };
    let value = value.to_string_lossy().into_owned();
    value.parse().map(Some).map_err(|_| UserError::Sudo { name, value })
}

/// As whom the container of `job_user` runs when `-u` says `asked`.
///
/// The node's user data base says nothing about users inside a namespace: without a number it is root's.
pub fn run_as(asked: Option<NumericIds>, job_user: Ids) -> RunAs {
    let (uid, gid) = asked.unwrap_or((0, None));
    RunAs {
        on_node: asked.map_or(job_user, |(uid, gid)| on_node(uid, gid, job_user)),
        in_namespace: Ids { uid, gid: gid.unwrap_or(0) },
    }
}

fn on_node(uid: u32, gid: Option<u32>, job_user: Ids) -> Ids {
    let own = || if uid == job_user.uid { job_user.gid } else { group_of(uid) };
    Ids { uid, gid: gid.unwrap_or_else(own) }
}

/// The user's primary group on this node, else that of the same number.
fn group_of(uid: u32) -> u32 {
    let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    known.map_or(uid, |user| Gid::as_raw(user.gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB_USER: Ids = Ids { uid: 4_000_000, gid: 77 };

    #[test]
    fn ids_are_one_or_two_numbers() {
        assert_eq!(parse_ids("1000"), Ok((1000, None)));
        assert_eq!(parse_ids("1000:100"), Ok((1000, Some(100))));
        for text in ["", "root", "1000:", ":1", "-1", "1:2:3", "4294967296"] {
            assert!(parse_ids(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_jobs_user_is_a_number_or_a_name() {
        let by_uid = |uid, gid| Ok(JobUser { user: UidOrName::Uid(uid), gid });
        let by_name = |name: &str, gid| Ok(JobUser { user: UidOrName::Name(name.into()), gid });
        assert_eq!(parse_job_user("1000"), by_uid(1000, None));
        assert_eq!(parse_job_user("1000:100"), by_uid(1000, Some(100)));
        assert_eq!(parse_job_user("alice"), by_name("alice", None));
        assert_eq!(parse_job_user("_svc:5"), by_name("_svc", Some(5)));
        for text in ["", ":1", "alice:", "alice:users", "1000:users", "-1", "4294967296", "1x", "1:2:3"] {
            assert!(parse_job_user(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_name_is_looked_up_on_the_node() {
        let root = |gid| Some(JobUser { user: UidOrName::Name("root".into()), gid });
        assert_eq!(job_user(root(None)).unwrap(), Ids { uid: 0, gid: 0 });
        assert_eq!(job_user(root(Some(7))).unwrap(), Ids { uid: 0, gid: 7 });
        let nobody = Some(JobUser { user: UidOrName::Name("no_such_user_here".into()), gid: None });
        assert!(job_user(nobody).unwrap_err().to_string().contains("--as \"no_such_user_here\""));
    }

    #[test]
    fn a_number_without_group_gets_one_that_fits() {
        let number = |uid, gid| job_user(Some(JobUser { user: UidOrName::Uid(uid), gid })).unwrap();
        assert_eq!(number(0, None), Ids { uid: 0, gid: 0 });
        assert_eq!(number(4_000_000, None).gid, 4_000_000);
        assert_eq!(number(4_000_000, Some(5)).gid, 5);
    }

    #[test]
    fn on_the_node_a_user_without_group_gets_one_that_fits() {
        let on_node = |uid, gid| run_as(Some((uid, gid)), JOB_USER).on_node;
        assert_eq!(run_as(None, JOB_USER).on_node, JOB_USER);
        assert_eq!(on_node(4_000_000, None).gid, 77);
        assert_eq!(on_node(0, None).gid, 0);
        assert_eq!(on_node(3_999_999, None).gid, 3_999_999);
        assert_eq!(on_node(0, Some(5)).gid, 5);
    }

    #[test]
    fn in_a_namespace_what_is_not_said_is_0() {
        let inside = |asked| run_as(asked, JOB_USER).in_namespace;
        assert_eq!(inside(None), Ids { uid: 0, gid: 0 });
        assert_eq!(inside(Some((1000, None))), Ids { uid: 1000, gid: 0 });
        assert_eq!(inside(Some((1000, Some(5)))), Ids { uid: 1000, gid: 5 });
    }
}
