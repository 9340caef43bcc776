//! The range that the configuration gives an id. Pure.

use crate::identity::idmap::{Range, RangeError};
use crate::spec::SubIdMapping;

/// Mappings that an error shows.
const SHOWN: usize = 8;

/// Which list of `Container: SubId:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// `UidMappings`, by the user's uid.
    Uid,
    /// `GidMappings`, by the user's own primary group, as the node's user database has it.
    Gid,
}

impl List {
    fn name(self) -> &'static str {
        match self {
            Self::Uid => "UidMappings",
            Self::Gid => "GidMappings",
        }
    }

    fn id(self) -> &'static str {
        match self {
            Self::Uid => "uid",
            Self::Gid => "gid",
        }
    }
}

/// No range for a user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComputeError {
    /// No mapping covers the id.
    #[error(
        "no subordinate ids for user {user}: {} {id} is not covered by Container.SubId.{} ({configured}); \
         ask your administrator to add it there",
        list.id(), list.name()
    )]
    NotCovered {
        /// Login name.
        user: String,
        /// The list.
        list: List,
        /// The user's uid or gid.
        id: u32,
        /// The list's ranges.
        configured: String,
    },
    /// What covers it gives ids that cannot be used.
    #[error(
        "no subordinate ids for user {user}: Container.SubId.{} maps {mapping}, which for {} {id} {source}; \
         ask your administrator to correct it",
        list.name(), list.id()
    )]
    Unusable {
        /// Login name.
        user: String,
        /// The list.
        list: List,
        /// The user's uid or gid.
        id: u32,
        /// What covers it.
        mapping: SubIdMapping,
        /// What is wrong with the range.
        source: RangeError,
    },
}

/// The range of `id`, from the first mapping that covers it.
///
/// # Errors
/// [`ComputeError`].
pub fn range(mappings: &[SubIdMapping], list: List, user: &str, id: u32) -> Result<Range, ComputeError> {
    let covers = |mapping: &&SubIdMapping| u64::from(id).checked_sub(mapping.id).is_some_and(|nth| nth < mapping.count);
    let Some(mapping) = mappings.iter().find(covers) else {
        return Err(ComputeError::NotCovered { user: user.to_owned(), list, id, configured: configured(mappings) });
    };
    of(mapping, id).map_err(|source| ComputeError::Unusable {
        user: user.to_owned(),
        list,
        id,
        mapping: *mapping,
        source,
    })
}

fn of(mapping: &SubIdMapping, id: u32) -> Result<Range, RangeError> {
    let nth = u64::from(id).checked_sub(mapping.id);
    let offset = nth.and_then(|nth| nth.checked_mul(mapping.size));
    let start = offset.and_then(|offset| mapping.start.checked_add(offset)).ok_or(RangeError::Large)?;
    Range::new(start, mapping.size)
}

fn configured(mappings: &[SubIdMapping]) -> String {
    if mappings.is_empty() {
        return "which is empty".to_owned();
    }
    let shown: Vec<String> = mappings.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = mappings.len() - shown.len();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("which maps {}{rest}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIST: [SubIdMapping; 2] = [
        SubIdMapping { id: 1000, count: 1000, start: 100_000, size: 65_536 },
        SubIdMapping { id: 1500, count: 1000, start: 1_000_000, size: 10 },
    ];

    fn at(id: u32) -> Result<Range, ComputeError> {
        range(&LIST, List::Uid, "alice", id)
    }

    #[test]
    fn the_first_mapping_that_covers_an_id_decides() {
        assert_eq!(at(1000), Ok(Range::new(100_000, 65_536).unwrap()));
        assert_eq!(at(1999), Ok(Range::new(100_000 + 999 * 65_536, 65_536).unwrap()));
        assert_eq!(at(2000), Ok(Range::new(1_005_000, 10).unwrap()));
    }

    #[test]
    fn an_id_outside_is_told_what_there_is() {
        for id in [0, 999, 2500] {
            let text = at(id).unwrap_err().to_string();
            assert!(text.contains(&format!("user alice: uid {id} is not covered")), "{text}");
            assert!(
                text.contains("UidMappings (which maps 1000-1999 to 65536 each from 100000, 1500-2499 to"),
                "{text}"
            );
        }
        let text = range(&[], List::Gid, "bob", 7).unwrap_err().to_string();
        assert!(text.contains("gid 7 is not covered by Container.SubId.GidMappings (which is empty)"), "{text}");
    }

    #[test]
    fn nothing_wraps_around_and_root_is_nobodys() {
        let wide = |start, size| [SubIdMapping { id: 0, count: u64::MAX, start, size }];
        let why = |list: [SubIdMapping; 1], id| match range(&list, List::Uid, "alice", id) {
            Err(ComputeError::Unusable { source, .. }) => source,
            other => panic!("{other:?}"),
        };
        assert_eq!(why(wide(100_000, 65_536), u32::MAX - 1), RangeError::Large);
        assert_eq!(why(wide(u64::MAX, 65_536), 1), RangeError::Large);
        assert_eq!(why(wide(1, u64::MAX), 2), RangeError::Large);
        assert_eq!(why(wide(0, 65_536), 0), RangeError::Root);
        assert_eq!(why(wide(100_000, 1), 0), RangeError::Small(1));
    }

    proptest! {
        #[test]
        fn any_configuration_gives_a_sound_range_or_an_error(
            id: u32, fields in prop::collection::vec(any::<(u64, u64, u64, u64)>(), 0..20),
        ) {
            let list: Vec<_> = fields.into_iter()
                .map(|(id, count, start, size)| SubIdMapping { id: id % (1 << 33), count, start, size })
                .collect();
            match range(&list, List::Gid, "u", id) {
                Ok(range) => prop_assert!(!range.contains(0) && !range.contains(u32::MAX)),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
