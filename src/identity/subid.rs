//! The subordinate ids of a job's user: what the pod's user namespace is made of.
//!
//! Managed ranges are computed and recorded in the node's files; unmanaged ones
//! are read there. Blocks on locks and disks, so it runs in the look-up's helper
//! process. Never gives a range that holds root, the user, or an account or
//! group of the node's own files; accounts of LDAP or SSSD it cannot list.

pub mod compute;
pub mod edit;
pub mod file;
pub mod lock;

use crate::identity::idmap::{Range, RangeError, Ranges};
use crate::spec::SubIdPolicy;
use compute::{ComputeError, List};
use edit::{EditError, Lines};
use file::{Account, Entry, FileError, Files};
use lock::{LockError, Locks};
use std::path::{Path, PathBuf};

/// Overlaps with other users' ranges that are told of one file.
const WARNINGS_MAX: usize = 5;

/// No range for a user.
#[derive(Debug, thiserror::Error)]
pub enum SubIdError {
    /// The configuration gives none.
    #[error(transparent)]
    Computed(#[from] ComputeError),
    /// A file cannot be used.
    #[error("no subordinate ids for user {user}: {source}")]
    File {
        /// Login name.
        user: String,
        /// Why.
        source: FileError,
    },
    /// Unmanaged, and the user has none.
    #[error(
        "user {user} has no range in {}: ask your administrator for one (usermod --add-subuids FIRST-LAST \
         --add-subgids FIRST-LAST {user}, or lines {user}:FIRST:COUNT in /etc/subuid and /etc/subgid)",
        path.display()
    )]
    Missing {
        /// Login name.
        user: String,
        /// Where there is none.
        path: PathBuf,
    },
    /// Unmanaged, and no container can have it.
    #[error("the range {start}:{count} of user {user} in {} {source}: ask your administrator for another", path.display())]
    Unusable {
        /// Login name.
        user: String,
        /// Where it is.
        path: PathBuf,
        /// First id.
        start: u64,
        /// How many.
        count: u64,
        /// What is wrong with it.
        source: RangeError,
    },
    /// Managed, and the file says otherwise.
    #[error(
        "{} gives user {user} {there}, but Container.SubId computes {computed}: ask your administrator \
         to correct one of them",
        path.display()
    )]
    Mismatch {
        /// Login name.
        user: String,
        /// The file.
        path: PathBuf,
        /// All of the user's ranges there.
        there: String,
        /// What the configuration gives.
        computed: Range,
    },
    /// An id of the node would be an id of the container.
    #[error(
        "the range {range} of user {user} holds {kind} {id} of {account} ({}): ask your administrator for another",
        path.display()
    )]
    Taken {
        /// Login name.
        user: String,
        /// The range.
        range: Range,
        /// uid or gid.
        kind: &'static str,
        /// The id.
        id: u32,
        /// Whose it is.
        account: String,
        /// Where that is written.
        path: PathBuf,
    },
    /// Managed, and the files are being edited.
    #[error("cannot add the range of user {user}: {source}")]
    Lock {
        /// Login name.
        user: String,
        /// Why.
        source: LockError,
    },
    /// Managed, and the files cannot be changed.
    #[error("cannot add the range of user {user}: {source}")]
    Edit {
        /// Login name.
        user: String,
        /// Why.
        source: EditError,
    },
}

/// Whose ranges.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Login name.
    pub name: &'a str,
    /// User id.
    pub uid: u32,
    /// Primary group in the node's user database: `GidMappings` goes by it, whatever group the job
    /// has, so that a user's range is always the same. The C++ supervisor goes by it too.
    pub gid: u32,
    /// Primary group of the job.
    pub job_gid: u32,
}

impl Owner<'_> {
    /// A name of digits only would be somebody's uid.
    fn has_plain_name(&self) -> bool {
        let odd = |c: char| c == ':' || c.is_control() || c.is_whitespace();
        !self.name.is_empty()
            && !self.name.starts_with(['#', '+', '-'])
            && !self.name.contains(odd)
            && !self.name.bytes().all(|byte| byte.is_ascii_digit())
    }

    fn has(&self, entry: &Entry<'_>) -> bool {
        entry.owner == self.uid.to_string().as_bytes() || (self.has_plain_name() && entry.owner == self.name.as_bytes())
    }

    fn line(&self, range: Range) -> String {
        if self.has_plain_name() { format!("{}:{range}\n", self.name) } else { format!("{}:{range}\n", self.uid) }
    }
}

/// A user's ranges.
#[derive(Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The ranges.
    pub ranges: Ranges,
    /// What an administrator should know, a line each.
    pub warnings: Vec<String>,
}

/// Finds a user's ranges; managed ones are recorded if they are not yet.
///
/// # Errors
/// [`SubIdError`]; the files are then as before.
pub fn resolve(policy: &SubIdPolicy, owner: &Owner<'_>, files: &Files) -> Result<Resolved, SubIdError> {
    let ranges = ranges(policy, owner, files)?;
    match policy {
        SubIdPolicy::Managed { .. } => record(files, owner, ranges)?,
        SubIdPolicy::Unmanaged => {}
    }
    Ok(Resolved { ranges, warnings: all_overlaps(files, owner, ranges)? })
}

fn ranges(policy: &SubIdPolicy, owner: &Owner<'_>, files: &Files) -> Result<Ranges, SubIdError> {
    let ranges = match policy {
        SubIdPolicy::Managed { uids, gids } => Ranges {
            uids: compute::range(uids, List::Uid, owner.name, owner.uid)?,
            gids: compute::range(gids, List::Gid, owner.name, owner.gid)?,
        },
        SubIdPolicy::Unmanaged => {
            Ranges { uids: first_range(&files.subuid, owner)?, gids: first_range(&files.subgid, owner)? }
        }
    };
    check_free(files, owner, ranges)?;
    Ok(ranges)
}

fn all_overlaps(files: &Files, owner: &Owner<'_>, ranges: Ranges) -> Result<Vec<String>, SubIdError> {
    let mut warnings = overlaps(&files.subuid, owner, ranges.uids)?;
    warnings.extend(overlaps(&files.subgid, owner, ranges.gids)?);
    Ok(warnings)
}

/// What a user's ranges are or would be.
#[derive(Debug, PartialEq, Eq)]
pub struct Looked {
    /// The ranges.
    pub ranges: Ranges,
    /// Whether the node's files have them already; managed ones are added at the first use.
    pub recorded: bool,
    /// What an administrator should know, a line each.
    pub warnings: Vec<String>,
}

/// As [`resolve`], and changes nothing.
///
/// # Errors
/// [`SubIdError`].
pub fn look(policy: &SubIdPolicy, owner: &Owner<'_>, files: &Files) -> Result<Looked, SubIdError> {
    let ranges = ranges(policy, owner, files)?;
    let recorded = match policy {
        SubIdPolicy::Unmanaged => true,
        SubIdPolicy::Managed { .. } => match recorded(files, owner, ranges)? {
            Recorded::InBoth => true,
            Recorded::InNone => false,
            Recorded::Uids if edit::was_cut_off(files, owner.uid) => false,
            Recorded::Uids => return Err(mismatch(&files.subgid, owner, NOTHING, ranges.gids)),
            Recorded::Gids => return Err(mismatch(&files.subuid, owner, NOTHING, ranges.uids)),
        },
    };
    Ok(Looked { ranges, recorded, warnings: all_overlaps(files, owner, ranges)? })
}

/// The first range of the user; the others are of no use to a runtime, which takes one.
fn first_range(path: &Path, owner: &Owner<'_>) -> Result<Range, SubIdError> {
    let bytes = read_if_there(path, owner)?;
    let Some(Entry { start, count, .. }) = file::entries(&bytes).find(|entry| owner.has(entry)) else {
        return Err(SubIdError::Missing { user: owner.name.to_owned(), path: path.to_owned() });
    };
    Range::new(start, count).map_err(|source| SubIdError::Unusable {
        user: owner.name.to_owned(),
        path: path.to_owned(),
        start,
        count,
        source,
    })
}

fn read_if_there(path: &Path, owner: &Owner<'_>) -> Result<Vec<u8>, SubIdError> {
    let content = file::read_if_there(path).map_err(|source| of_file(owner, source))?;
    Ok(content.map(|content| content.bytes).unwrap_or_default())
}

fn of_file(owner: &Owner<'_>, source: FileError) -> SubIdError {
    SubIdError::File { user: owner.name.to_owned(), source }
}

/// No id of the node's own may become one of a container.
fn check_free(files: &Files, owner: &Owner<'_>, ranges: Ranges) -> Result<(), SubIdError> {
    let itself = |id| Account { name: owner.name.as_bytes(), id };
    let own_uid = [itself(owner.uid)];
    let own_gids = [itself(owner.gid), itself(owner.job_gid)];
    check_free_of("uid", ranges.uids, &files.passwd, &own_uid, owner)?;
    check_free_of("gid", ranges.gids, &files.group, &own_gids, owner)
}

fn check_free_of(
    kind: &'static str,
    range: Range,
    path: &Path,
    own: &[Account<'_>],
    owner: &Owner<'_>,
) -> Result<(), SubIdError> {
    let content = file::read(path).map_err(|source| of_file(owner, source))?;
    let taken = own.iter().copied().chain(file::accounts(&content.bytes)).find(|account| range.contains(account.id));
    let Some(Account { name, id }) = taken else { return Ok(()) };
    let account = String::from_utf8_lossy(name).into_owned();
    Err(SubIdError::Taken { user: owner.name.to_owned(), range, kind, id, account, path: path.to_owned() })
}

fn record(files: &Files, owner: &Owner<'_>, ranges: Ranges) -> Result<(), SubIdError> {
    if recorded(files, owner, ranges)? == Recorded::InBoth {
        return Ok(());
    }
    let user = || owner.name.to_owned();
    let locks = Locks::take(files, lock::LIMIT).map_err(|source| SubIdError::Lock { user: user(), source })?;
    let lines = Lines { uid: owner.uid, uids: owner.line(ranges.uids), gids: owner.line(ranges.gids) };
    // Another step of the user's may have been faster, or half way when we looked.
    let edited = match recorded(files, owner, ranges)? {
        Recorded::InBoth => Ok(()),
        Recorded::InNone => edit::append(files, &lines, &locks),
        Recorded::Uids if edit::was_cut_off(files, owner.uid) => edit::finish(files, &lines, &locks),
        Recorded::Uids => return Err(mismatch(&files.subgid, owner, NOTHING, ranges.gids)),
        Recorded::Gids => return Err(mismatch(&files.subuid, owner, NOTHING, ranges.uids)),
    };
    edited.map_err(|source| SubIdError::Edit { user: user(), source })
}

/// What an error says of a file without the user where the other one has an entry.
const NOTHING: &str = "no range (the other file has one)";

/// Where the computed ranges are, and no others.
#[derive(Debug, PartialEq, Eq)]
enum Recorded {
    InBoth,
    InNone,
    Uids,
    Gids,
}

fn recorded(files: &Files, owner: &Owner<'_>, ranges: Ranges) -> Result<Recorded, SubIdError> {
    let uids = there(&files.subuid, owner, ranges.uids)?;
    let gids = there(&files.subgid, owner, ranges.gids)?;
    match (uids, gids) {
        (There::None, There::None) => Ok(Recorded::InNone),
        (There::Same, There::Same) => Ok(Recorded::InBoth),
        (There::Same, There::None) => Ok(Recorded::Uids),
        (There::None, There::Same) => Ok(Recorded::Gids),
        (There::Other(there), _) => Err(mismatch(&files.subuid, owner, &there, ranges.uids)),
        (_, There::Other(there)) => Err(mismatch(&files.subgid, owner, &there, ranges.gids)),
    }
}

fn mismatch(path: &Path, owner: &Owner<'_>, there: &str, computed: Range) -> SubIdError {
    let (user, path, there) = (owner.name.to_owned(), path.to_owned(), there.to_owned());
    SubIdError::Mismatch { user, path, there, computed }
}

/// What a file has for a user.
#[derive(Debug)]
enum There {
    None,
    Same,
    Other(String),
}

fn there(path: &Path, owner: &Owner<'_>, computed: Range) -> Result<There, SubIdError> {
    let bytes = read_if_there(path, owner)?;
    let own: Vec<Entry<'_>> = file::entries(&bytes).filter(|entry| owner.has(entry)).collect();
    let same =
        |entry: &Entry<'_>| entry.start == u64::from(computed.start()) && entry.count == u64::from(computed.size());
    if own.is_empty() {
        return Ok(There::None);
    }
    if own.iter().all(same) {
        return Ok(There::Same);
    }
    let ranges: Vec<String> = own.iter().take(WARNINGS_MAX).map(ToString::to_string).collect();
    Ok(There::Other(ranges.join(", ")))
}

/// Existing clusters may have ranges in common; it is told and not refused.
fn overlaps(path: &Path, owner: &Owner<'_>, range: Range) -> Result<Vec<String>, SubIdError> {
    let bytes = read_if_there(path, owner)?;
    let (first, end) = (u64::from(range.start()), u64::from(range.start()) + u64::from(range.size()));
    let shares = |entry: &Entry<'_>| entry.start < end && entry.start.saturating_add(entry.count) > first;
    let foreign = file::entries(&bytes).filter(|entry| !owner.has(entry) && shares(entry)).take(WARNINGS_MAX);
    let told = |entry: Entry<'_>| {
        let (path, other) = (path.display(), String::from_utf8_lossy(entry.owner));
        format!("the range {range} of user {} overlaps {entry} of {other} in {path}", owner.name)
    };
    Ok(foreign.map(told).collect())
}

#[cfg(test)]
mod tests;
