//! Mapped ids: on file systems, and of one user.

use crate::cli::check::line::{LIMIT, Line, answer, fail, ok, untold, warn};
use crate::cli::check::places;
use crate::cli::run::user::{self, JobUser};
use crate::config::Config;
use crate::identity::subid::file::Files;
use crate::identity::subid::{self, Looked, Owner};
use crate::local::plan::sub_id_policy;
use crate::mounts::idmapped;
use crate::sys::mount_api::Depth;
use nix::errno::Errno;
use nix::unistd::{Uid, User, geteuid};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// A mapping to try with: an id that nobody uses.
const TRIED: &str = "0 4000000000 1\n";

/// Whether the kernel maps ids on `CraneBaseDir` and on what a job might mount.
pub async fn file_systems(config: &Config, paths: &[PathBuf]) -> Vec<Line> {
    if !geteuid().is_root() {
        return vec![untold("id-mapped mounts", "which file systems map ids")];
    }
    let namespace = match idmapped::namespace(TRIED, TRIED).await {
        Ok(namespace) => Arc::new(namespace),
        Err(error) => {
            let remedy = "host mounts need user namespaces: see that line";
            return vec![fail("id-mapped mounts", error.to_string(), remedy)];
        }
    };
    // Below it are mounts of live steps, mapped already.
    let dir = config.base_dir.clone();
    let base = answer(LIMIT, "id-mapped mounts", &dir.display().to_string(), move || places::existing(&dir)).await;
    let (mut lines, base) = match base {
        Ok(base) => (Vec::new(), Some((base, Depth::One))),
        Err(line) => (vec![line], None),
    };
    for (path, depth) in base.into_iter().chain(paths.iter().map(|path| (path.clone(), Depth::All))) {
        lines.push(one(path, depth, Arc::clone(&namespace)).await);
    }
    lines
}

async fn one(path: PathBuf, depth: Depth, namespace: Arc<OwnedFd>) -> Line {
    let look = {
        let path = path.clone();
        spawn_blocking(move || idmapped::try_at(&path, depth, &namespace))
    };
    let result = match timeout(LIMIT, look).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    };
    tell(&path, result)
}

fn tell(path: &Path, result: io::Result<()>) -> Line {
    let (check, shown) = ("id-mapped mounts", path.display());
    let error = match result {
        Ok(()) => return ok(check, format!("the file system of {shown} maps ids")),
        Err(error) => error,
    };
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EINVAL) => warn(
            check,
            format!("the file system of {shown} maps no ids"),
            "jobs with a user namespace mount it by bindfs: install that (Container: BindFs:)",
        ),
        Some(Errno::EPERM) => warn(
            check,
            format!("below {shown} is a mount with mapped ids, or a locked one"),
            "bindfs mounts it instead",
        ),
        Some(Errno::ENOENT) => warn(check, format!("{shown} is not there"), "correct --path"),
        _ => warn(check, format!("cannot try {shown}: {error}"), "see whether its file system is well"),
    }
}

/// The subordinate ids of one user, as a supervisor would find them. Changes nothing. Blocks.
pub fn of_user(config: &Config, asked: JobUser) -> Vec<Line> {
    let check = "subordinate ids";
    let ids = match user::job_user(Some(asked)) {
        Ok(ids) => ids,
        Err(error) => return vec![fail(check, error.to_string(), "correct --user")],
    };
    let entry = match User::from_uid(Uid::from_raw(ids.uid)) {
        Ok(Some(entry)) => entry,
        Ok(None) => {
            let remedy = format!("check passwd, LDAP or SSSD here (getent passwd {})", ids.uid);
            return vec![fail(check, format!("user {} is unknown on this node", ids.uid), remedy)];
        }
        Err(error) => {
            return vec![fail(check, format!("cannot look up user {}: {error}", ids.uid), "see the name service")];
        }
    };
    let owner = Owner { name: &entry.name, uid: ids.uid, gid: entry.gid.as_raw(), job_gid: ids.gid };
    let policy = match sub_id_policy(&config.container.sub_id) {
        Ok(policy) => policy,
        Err(reason) => return vec![fail(check, reason, "correct Container: SubId:")],
    };
    match subid::look(&policy, &owner, &Files::default()) {
        Ok(looked) => told(&owner, looked),
        Err(error) => {
            vec![warn(check, error.to_string(), "without it the user's jobs run without a user namespace only")]
        }
    }
}

fn told(owner: &Owner<'_>, looked: Looked) -> Vec<Line> {
    let check = "subordinate ids";
    let (uids, gids) = (looked.ranges.uids, looked.ranges.gids);
    let when = if looked.recorded { "" } else { "; they are added to /etc/subuid and /etc/subgid at the first use" };
    let found = ok(check, format!("user {} has uids {uids} and gids {gids}{when}", owner.name));
    let warning = |text: String| warn(check, text, "ask for ranges that nobody shares");
    std::iter::once(found).chain(looked.warnings.into_iter().map(warning)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::line::Level;

    #[test]
    fn a_file_system_that_maps_no_ids_is_told_with_the_other_way() {
        assert_eq!(tell(Path::new("/x"), Ok(())).level, Level::Ok);
        let line = tell(Path::new("/x"), Err(Errno::EINVAL.into()));
        assert!(line.level == Level::Warn && line.to_string().contains("bindfs"), "{line}");
        assert!(tell(Path::new("/x"), Err(io::ErrorKind::TimedOut.into())).to_string().contains("cannot try /x"));
    }
}
