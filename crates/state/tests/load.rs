//! Loading runs and mixed changes, against replaying each change alone.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::ops::Bound;

use hightower_state::{Change, CommandKind, ConcurrentKvState, EntryRecord, LoadRun, StateError, pin};
use proptest::prelude::*;

type Key = Vec<u8>;

/// A change without its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    version: u64,
    is_set: bool,
    location: u32,
    len_bytes: u32,
}

impl Said {
    fn change<'a>(&self, key: &'a [u8]) -> Change<'a, u32> {
        let kind = if self.is_set { CommandKind::Set } else { CommandKind::Delete };
        Change { key, version: self.version, kind, location: self.location, len_bytes: self.len_bytes }
    }
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        prop::collection::vec(prop::sample::select(&b"ab\0\xff"[..]), 1..6),
        prop::collection::vec(any::<u8>(), 1..20),
        any::<u16>().prop_map(|number| format!("/registry/pods/{number:05}").into_bytes()),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    (prop_oneof![0_u64..9, any::<u64>()], any::<bool>(), any::<u32>(), any::<u32>())
        .prop_map(|(version, is_set, location, len_bytes)| Said { version, is_set, location, len_bytes })
}

/// All that readers and the writer can read of a state.
#[derive(Debug, PartialEq)]
struct Seen {
    entries: Vec<(Key, EntryRecord<u32>)>,
    ranges: Vec<Vec<(Key, u32)>>,
    counts: (usize, usize, u64, u64),
}

fn seen(state: &ConcurrentKvState<u32>, keys: &[Key]) -> Seen {
    let found = |range: hightower_state::StateRange<u32>| range.map(|(key, found)| (key, found.location)).collect();
    let ranges = vec![
        found(state.prefix(b"")),
        found(state.prefix(b"/registry/pods/")),
        found(state.range(Bound::Excluded(b"a"), Bound::Included(b"b"))),
    ];
    let writer = state.writer();
    let entries = keys.iter().filter_map(|key| Some((key.clone(), writer.entry(key)?))).collect();
    let stats = writer.stats();
    Seen { entries, ranges, counts: (stats.live_keys, stats.tombstones, stats.max_version, stats.visible_seq) }
}

fn replayed<'a>(changes: impl IntoIterator<Item = (&'a Key, &'a Said)>) -> (ConcurrentKvState<u32>, usize) {
    let state = ConcurrentKvState::<u32>::new();
    let won =
        changes.into_iter().filter(|(key, said)| state.writer().replay(&said.change(key)).outcome.changed()).count();
    (state, won)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn runs_load_what_single_replays_would(
        model in prop::collection::btree_map(key(), said(), 0..300),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        threads in 0_usize..3,
        later in prop::collection::vec((key(), said()), 0..60),
    ) {
        let state = ConcurrentKvState::<u32>::new();
        let before = state.snapshot();
        let mut runs: Vec<_> = (0..=cuts.len()).map(|_| state.load_run()).collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(model.len() + 1)).collect();
        cuts.sort_unstable();
        for (at, (key, said)) in model.iter().enumerate() {
            runs[cuts.partition_point(|cut| *cut <= at)].push(&said.change(key)).unwrap();
        }
        prop_assert_eq!(state.writer().load_runs(runs, threads), Ok(model.len()));
        let (other, _) = replayed(&model);
        let mut keys: Vec<Key> = model.keys().chain(later.iter().map(|(key, _)| key)).cloned().collect();
        keys.sort_unstable();
        prop_assert_eq!(seen(&state, &keys), seen(&other, &keys));
        prop_assert_eq!(before.get(keys.first().map_or(b"-", |key| key)), other.get(keys.first().map_or(b"-", |key| key)));
        drop(before);
        for (key, said) in &later {
            prop_assert_eq!(state.apply(&said.change(key)), other.apply(&said.change(key)));
        }
        prop_assert_eq!(seen(&state, &keys), seen(&other, &keys));
        for key in &keys {
            let version = state.version_of(key).unwrap_or(0);
            prop_assert_eq!(
                state.writer().remove_tombstone(key, version),
                other.writer().remove_tombstone(key, version)
            );
        }
        prop_assert_eq!(seen(&state, &keys), seen(&other, &keys));
    }

    #[test]
    fn changes_in_any_order_load_what_single_replays_would(
        rising in prop::collection::btree_map(key(), said(), 0..60),
        rest in prop::collection::vec((key(), said()), 0..30),
        twice in any::<bool>(),
    ) {
        let changes: Vec<(&Key, &Said)> = rising.iter().chain(rest.iter().map(|(key, said)| (key, said))).collect();
        let state = ConcurrentKvState::<u32>::new();
        let (other, won) = replayed(changes.iter().copied());
        prop_assert_eq!(state.writer().load(changes.iter().map(|(key, said)| said.change(key))), won);
        if twice {
            prop_assert_eq!(state.writer().load(changes.iter().map(|(key, said)| said.change(key))), 0);
        }
        let keys: BTreeSet<Key> = changes.iter().map(|(key, _)| (*key).clone()).collect();
        let keys: Vec<Key> = keys.into_iter().collect();
        prop_assert_eq!(seen(&state, &keys), seen(&other, &keys));
    }
}

#[test]
fn runs_that_do_not_fit_are_refused_and_change_nothing() {
    let (state, other) = (ConcurrentKvState::<u32>::new(), ConcurrentKvState::<u32>::new());
    let said = Said { version: 9, is_set: true, location: 1, len_bytes: 2 };
    let run = |state: &ConcurrentKvState<u32>, keys: &[&str]| {
        let mut run: LoadRun<u32> = state.load_run();
        keys.iter().for_each(|key| run.push(&said.change(key.as_bytes())).unwrap());
        run
    };
    let mut low = run(&state, &["b"]);
    assert_eq!(low.push(&said.change(b"a")), Err(StateError::KeysOutOfOrder));
    assert_eq!(low.len(), 1);
    let writer = &mut state.writer();
    assert_eq!(writer.load_runs([run(&other, &["a"])], 1), Err(StateError::OtherState));
    assert_eq!(writer.load_runs([run(&state, &["a", "c"]), low], 1), Err(StateError::KeysOutOfOrder));
    assert_eq!((state.len(), state.max_version(), state.get_pinned(b"a", &pin())), (0, 0, None));
    assert_eq!(writer.load_runs([run(&state, &["a", "c"])], 1), Ok(2));
    assert_eq!(writer.load_runs([run(&state, &["d"])], 1), Err(StateError::NotEmpty));
    assert_eq!((state.len(), state.max_version()), (2, 9));
}
