//! A lookup gets the hint of the newest version first, for every way in which a version is stored.

#![allow(clippy::unwrap_used)]

use hightower_state::{Change, CommandKind, ConcurrentKvState, HINT_BITS, Location, LocationBits, Relocated, pin};

/// A location that is its own hint.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Slot(u32);

impl Location for Slot {
    fn to_bits(self) -> LocationBits {
        self.0.into()
    }

    fn from_bits(bits: LocationBits) -> Self {
        Self(u32::from_bits(bits))
    }

    fn hint(self) -> u32 {
        self.0
    }
}

/// The found location and the last hint of a lookup, both in the state and in a snapshot.
fn told(state: &ConcurrentKvState<Slot>, key: &[u8]) -> [Option<(Slot, u32)>; 2] {
    let (guard, snapshot, mut hint) = (pin(), state.snapshot(), 0);
    let latest = state.get_hinted(key, &guard, |told| hint = told).map(|found| (found.location, hint));
    let seen = snapshot.get_hinted(key, &guard, |told| hint = told).map(|found| (found.location, hint));
    [latest, seen]
}

fn is_right(location: u32) -> [Option<(Slot, u32)>; 2] {
    [Some((Slot(location), location % (1 << HINT_BITS))); 2]
}

fn change(key: &[u8], version: u64, location: u32) -> Change<'_, Slot> {
    Change { key, version, kind: CommandKind::Set, location: Slot(location), len_bytes: 0 }
}

#[test]
fn hints_follow_the_newest_location() {
    let state = ConcurrentKvState::new();
    state.set(b"a", 1, Slot(77)).unwrap();
    assert_eq!(told(&state, b"a"), is_right(77));
    // All bits of a hint, and some more.
    for (version, location) in [(2, u32::MAX), (3, 0), (4, 1 << 26), (5, 1 << 19), (6, 0x0555_5555), (7, 0x02aa_aaaa)] {
        state.set(b"a", version, Slot(location)).unwrap();
        assert_eq!(told(&state, b"a"), is_right(location));
    }
    state.set(b"a", 1, Slot(1)).unwrap();
    assert_eq!(told(&state, b"a"), is_right(0x02aa_aaaa), "a stale command leaves nothing behind");
    state.delete(b"a", 8, Slot(5)).unwrap();
    assert_eq!(told(&state, b"a"), [None, None]);
    state.set(b"a", 9, Slot(6)).unwrap();
    assert_eq!(told(&state, b"a"), is_right(6));
}

#[test]
fn hints_follow_a_record_that_is_moved() {
    let state = ConcurrentKvState::new();
    state.set(b"a", 1, Slot(1)).unwrap();
    let moved = Relocated { newest_len_bytes: Some(0), retained: false };
    assert_eq!(state.writer().relocate(b"a", Slot(1), Slot(2), 10), moved);
    assert_eq!(told(&state, b"a"), is_right(2));
    assert_eq!(state.writer().relocate(b"a", Slot(1), Slot(3), 10), Relocated::default());
    assert_eq!(told(&state, b"a"), is_right(2));
    // A version for a snapshot only does not change the hint of the newest.
    let before = state.snapshot();
    state.set(b"a", 2, Slot(20)).unwrap();
    let retained = Relocated { newest_len_bytes: None, retained: true };
    assert_eq!(state.writer().relocate(b"a", Slot(2), Slot(4), 10), retained);
    assert_eq!(told(&state, b"a"), is_right(20));
    assert_eq!(before.get(b"a").map(|found| found.location), Some(Slot(4)));
}

#[test]
fn hints_are_there_after_a_load() {
    let state = ConcurrentKvState::new();
    let keys: Vec<[u8; 4]> = (0..5000_u32).map(u32::to_be_bytes).collect();
    let mut run = state.load_run();
    keys.iter().zip(0..).for_each(|(key, at)| run.push(&change(key, 1, at)).unwrap());
    state.writer().load_runs([run], 2).unwrap();
    for (key, at) in keys.iter().zip(0..) {
        assert_eq!(told(&state, key), is_right(at));
    }
    state.writer().replay(&change(&keys[7], 2, 9000));
    assert_eq!(told(&state, &keys[7]), is_right(9000));
}
