//! Ranges of ids and what they map to. Pure.
//!
//! A user namespace of a pod begins at id 0 inside and is one contiguous range
//! of the node's ids, for users and groups each: runtimes accept no more.

use serde::{Deserialize, Serialize};

/// The kernel's "no id" (user_namespaces(7)); never a user's or group's.
const NO_ID: u32 = u32::MAX;
/// A runtime gives the namespace's terminals to group 5 (devpts `gid=5`), which must be mapped.
pub const SMALLEST: u32 = 6;

/// A range of the node's ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    start: u32,
    size: u32,
}

/// Ids that are no range a container may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// It would make root of the node an id of the container.
    #[error("begins at id 0, root of the node")]
    Root,
    /// Too small for a runtime.
    #[error("has {0} ids; at least {SMALLEST} are needed (a container's terminals belong to group 5)")]
    Small(u64),
    /// Past the largest id.
    #[error("ends past the largest id {}", NO_ID - 1)]
    Large,
}

impl Range {
    /// The ids `start` to `start + size - 1`.
    ///
    /// # Errors
    /// [`RangeError`].
    pub fn new(start: u64, size: u64) -> Result<Self, RangeError> {
        if start == 0 {
            return Err(RangeError::Root);
        }
        if size < u64::from(SMALLEST) {
            return Err(RangeError::Small(size));
        }
        match start.checked_add(size) {
            Some(end) if end <= u64::from(NO_ID) => {}
            _ => return Err(RangeError::Large),
        }
        let (Ok(start), Ok(size)) = (u32::try_from(start), u32::try_from(size)) else { return Err(RangeError::Large) };
        Ok(Self { start, size })
    }

    /// The node's id of the range's id 0.
    pub fn start(self) -> u32 {
        self.start
    }

    /// How many ids it has.
    pub fn size(self) -> u32 {
        self.size
    }

    /// The node's id of an id inside; `None` where it is not in the range.
    pub fn outside(self, inside: u32) -> Option<u32> {
        // Cannot overflow: `new` checked the whole range.
        (inside < self.size).then(|| self.start + inside)
    }

    /// Whether one of the node's ids is in it.
    pub fn contains(self, id: u32) -> bool {
        id >= self.start && id - self.start < self.size
    }

    /// Whether the two have an id in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.start) || other.contains(self.start)
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.start, self.size)
    }
}

/// The ids of a pod's user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    /// Users.
    pub uids: Range,
    /// Groups.
    pub gids: Range,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_never_wraps_and_never_holds_root() {
        assert_eq!(Range::new(0, 65_536), Err(RangeError::Root));
        assert_eq!(Range::new(100_000, 5), Err(RangeError::Small(5)));
        assert_eq!(Range::new(4_294_967_290, 6), Err(RangeError::Large));
        assert!(Range::new(4_294_967_289, 6).is_ok());
        assert_eq!(Range::new(u64::MAX, u64::MAX), Err(RangeError::Large));
    }

    #[test]
    fn ids_inside_map_to_ids_outside_or_to_nothing() {
        let range = Range::new(100_000, 65_536).unwrap();
        assert_eq!(range.outside(0), Some(100_000));
        assert_eq!(range.outside(65_535), Some(165_535));
        assert_eq!(range.outside(65_536), None);
        assert!(range.contains(165_535) && !range.contains(165_536) && !range.contains(99_999));
        assert!(range.overlaps(Range::new(165_535, 6).unwrap()) && !range.overlaps(Range::new(165_536, 6).unwrap()));
    }
}
