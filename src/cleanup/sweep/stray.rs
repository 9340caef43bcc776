//! Mounts below `MountBaseDir` of steps that have no directory any more.

use crate::cleanup::entry::Entry;
use crate::cleanup::sweep::{Sweep, is_older, names_in, numbers_in, owed};
use crate::ids::StepId;
use crate::layout;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub(super) async fn clear(sweep: &mut Sweep<'_>) {
    let base = &sweep.order.mount_base;
    let names = match names_in(base) {
        Ok(names) => names,
        Err(error) => return sweep.found.push(owed::unreadable(base, &error)),
    };
    let steps: Vec<StepId> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let mut debts = Vec::new();
    for id in steps {
        let dir = layout::bindfs_dir(base, id);
        if !sweep.wants(id.job) || sweep.settled.contains(&id.job) {
            continue;
        }
        if !is_made_by_us(&dir) || !is_older(&dir, sweep.order.older_than) || owed::has_directory(sweep, id) {
            continue;
        }
        let Some(home) = sweep.new_dir(id) else { continue };
        match owed::adopt(sweep, home, id, &[Entry::Mounts { dirs: vec![dir], cgroup: None }]) {
            Ok(debt) => debts.extend(debt),
            Err(finding) => sweep.found.push(finding),
        }
    }
    owed::settle(sweep, debts).await;
}

/// Root's alone, with nothing but numbers in it: an administrator's directory may have such a name too.
fn is_made_by_us(dir: &Path) -> bool {
    let private =
        fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir() && found.uid() == 0 && found.mode() & 0o077 == 0);
    let numbers = || Some(names_in(dir).ok()?.len() == numbers_in(dir).ok()?.len());
    private && numbers().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_that_may_be_an_administrators_is_none_of_ours() {
        let dir = std::env::temp_dir().join(format!("stray-{}", std::process::id()));
        fs::create_dir_all(dir.join("0")).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        assert!(!is_made_by_us(&dir));
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        assert!(is_made_by_us(&dir));
        fs::write(dir.join("notes"), "").unwrap();
        assert!(!is_made_by_us(&dir));
        fs::remove_dir_all(dir).unwrap();
    }
}
