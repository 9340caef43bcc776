//! Which engine a step's mounts take, and which ids it maps. Pure.

use crate::identity::idmap::Ranges;
use crate::identity::user::User;

/// The kernel takes 340 lines in a mapping (user_namespaces(7)); one is the primary group's.
const MAX_GROUPS: usize = 339;

/// What the mounts of a step map: the user's ids on disk onto ids of the pod's range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The user on disk, and the node's id of the container's process.
    pub user: (u32, u32),
    /// The same of the primary group.
    pub group: (u32, u32),
    /// The user's other groups that have the same number inside, as (on disk, outside).
    pub groups: Vec<(u32, u32)>,
}

impl Ids {
    /// The mapping of a container process with the ids `run_as` in the pod's ranges;
    /// `None` where these are not in them.
    pub fn new(user: &User, ranges: Ranges, run_as: (u32, u32)) -> Option<Self> {
        let (outside_user, outside_group) = (ranges.uids.outside(run_as.0)?, ranges.gids.outside(run_as.1)?);
        let others = inside_groups(user, ranges).into_iter().filter(|&group| group != run_as.1);
        let groups = others.filter_map(|group| Some((group, ranges.gids.outside(group)?)));
        Some(Self {
            user: (user.uid, outside_user),
            group: (user.gid, outside_group),
            groups: groups.take(MAX_GROUPS).collect(),
        })
    }

    /// For /proc/PID/uid_map of the namespace a mount is mapped through.
    pub fn uid_map(&self) -> String {
        line(self.user)
    }

    /// For its gid_map.
    pub fn gid_map(&self) -> String {
        std::iter::once(self.group).chain(self.groups.iter().copied()).map(line).collect()
    }
}

fn line((inside, outside): (u32, u32)) -> String {
    format!("{inside} {outside} 1\n")
}

/// The user's groups that fit into the pod's range and so keep their numbers inside.
pub fn inside_groups(user: &User, ranges: Ranges) -> Vec<u32> {
    user.groups.iter().copied().filter(|&group| group != 0 && ranges.gids.outside(group).is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::idmap::Range;

    fn user() -> User {
        User {
            name: "u".into(),
            uid: 1000,
            gid: 1001,
            groups: vec![0, 50, 70_000],
            home: String::new(),
            shell: String::new(),
        }
    }

    fn ranges() -> Ranges {
        Ranges { uids: Range::new(100_000, 65_536).unwrap(), gids: Range::new(200_000, 65_536).unwrap() }
    }

    #[test]
    fn one_user_and_the_users_own_groups_are_mapped() {
        let ids = Ids::new(&user(), ranges(), (0, 0)).unwrap();
        assert_eq!(ids.uid_map(), "1000 100000 1\n");
        assert_eq!(ids.gid_map(), "1001 200000 1\n50 200050 1\n");
    }

    #[test]
    fn ids_outside_the_range_are_refused_and_none_is_mapped_twice() {
        assert_eq!(Ids::new(&user(), ranges(), (65_536, 0)), None);
        assert_eq!(Ids::new(&user(), ranges(), (0, u32::MAX)), None);
        let ids = Ids::new(&user(), ranges(), (7, 50)).unwrap();
        assert_eq!((ids.user, ids.group, ids.groups), ((1000, 100_007), (1001, 200_050), vec![]));
    }
}
