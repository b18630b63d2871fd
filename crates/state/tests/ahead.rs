//! A scan announces each location once before it returns it, early enough for a prefetch, and never
//! many at once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::cell::RefCell;
use std::ops::Bound;

use hightower_state::{ConcurrentKvState, StateRange, pin};

const KEYS: u32 = 500;
/// A record has three cache lines, and some processors drop prefetches while 24 are pending.
const MOST_ON_THEIR_WAY: usize = 8;

/// Scans from the ends chosen by `from_back`; returns the locations in order, and checks the
/// announcements.
fn walk(mut range: StateRange<u32>, mut from_back: impl FnMut(usize) -> bool) -> Vec<u32> {
    let told = RefCell::new(Vec::new());
    let mut handed = Vec::new();
    loop {
        let guard = pin();
        let ahead = |location| told.borrow_mut().push(location);
        let next = if from_back(handed.len()) {
            range.next_back_pinned_with(&guard, ahead)
        } else {
            range.next_pinned_with(&guard, ahead)
        };
        let Some((_, found)) = next else { break };
        assert!(told.borrow().contains(&found.location), "{} came as a surprise", found.location);
        handed.push(found.location);
        let on_their_way = told.borrow().len() - handed.len();
        assert!(on_their_way <= MOST_ON_THEIR_WAY, "{on_their_way} at once");
    }
    let mut told = told.into_inner();
    told.sort_unstable();
    assert_eq!(told, (0..KEYS).collect::<Vec<_>>(), "each key is reported once");
    handed
}

#[test]
fn locations_are_told_of_a_few_items_ahead() {
    let state = ConcurrentKvState::<u32>::new();
    for number in 0..KEYS {
        state.set(&number.to_be_bytes(), 1, number).unwrap();
    }
    let all = || state.range(Bound::Unbounded, Bound::Unbounded);
    assert_eq!(walk(all(), |_| false), (0..KEYS).collect::<Vec<_>>());
    assert_eq!(walk(all(), |_| true), (0..KEYS).rev().collect::<Vec<_>>());
}
