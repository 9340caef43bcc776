//! Signals a step is sent some time before its end. Pure.
//!
//! Each goes out once, however often the end is moved afterwards. One that is due before
//! the container runs waits for it.

use std::time::Duration;

/// The highest signal number of Linux.
const LAST: i32 = 64;

/// A signal before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// As the kernel counts them; real-time signals too.
    pub number: i32,
    /// Time before the end.
    pub before: Duration,
}

/// Those not sent yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advances(Vec<Advance>);

impl Advances {
    /// All of a step; numbers that are no signals are dropped.
    pub fn new(wanted: impl IntoIterator<Item = Advance>) -> Self {
        Self(wanted.into_iter().filter(|advance| (1..=LAST).contains(&advance.number)).collect())
    }

    /// Takes those that are due with so much time `left`, the earliest first.
    pub fn due(&mut self, left: Duration) -> Vec<i32> {
        let (mut due, later): (Vec<_>, Vec<_>) = self.0.iter().copied().partition(|advance| advance.before >= left);
        self.0 = later;
        due.sort_by_key(|advance| std::cmp::Reverse(advance.before));
        due.into_iter().map(|advance| advance.number).collect()
    }

    /// How long until the next one that is not due yet.
    pub fn next(&self, left: Duration) -> Option<Duration> {
        self.0.iter().filter_map(|advance| left.checked_sub(advance.before)).filter(|wait| !wait.is_zero()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(number: i32, before: u64) -> Advance {
        Advance { number, before: Duration::from_secs(before) }
    }

    #[test]
    fn each_goes_out_once_and_the_earliest_first() {
        let mut advances = Advances::new([seconds(10, 5), seconds(12, 30), seconds(0, 60), seconds(65, 60)]);
        assert_eq!(advances.next(Duration::from_secs(40)), Some(Duration::from_secs(10)));
        assert!(advances.due(Duration::from_secs(31)).is_empty());
        assert_eq!(advances.due(Duration::from_secs(3)), [12, 10]);
        assert!(advances.due(Duration::ZERO).is_empty());
        assert_eq!(advances.next(Duration::from_secs(40)), None);
    }

    proptest! {
        #[test]
        fn none_is_lost_and_none_sent_twice(wanted in prop::collection::vec((1i32..=64, any::<u32>()), 0..8), mut lefts in prop::collection::vec(any::<u32>(), 0..8)) {
            let mut advances = Advances::new(wanted.iter().map(|(number, before)| seconds(*number, u64::from(*before))));
            let mut sent = 0;
            lefts.push(0);
            for left in lefts {
                let left = Duration::from_secs(u64::from(left));
                sent += advances.due(left).len();
                prop_assert!(advances.next(left).is_none_or(|wait| !wait.is_zero() && wait <= left));
            }
            prop_assert_eq!(sent, wanted.len());
        }
    }
}
