//! Named histories of the levels: each broke an earlier draft of the rules.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod levels_common;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hightower_segment::Fs;
use hightower_state::{
    ApplyOutcome, ChangeSince, CommandKind, LeveledKvState, Lookup, StateError, TableError, ViewChanged, pin,
};
use hightower_table::TableReader;
use levels_common::{Place, World};

/// A flipped bit in a record or in a line of the point table must not let an older value answer.
#[test]
fn what_does_not_verify_never_lets_an_older_value_answer() {
    let mut world = World::new();
    world.put(b"k", 1);
    world.freeze_and_flush();
    world.put(b"k", 2);
    world.freeze_and_flush();
    assert_eq!(world.get(b"k"), Some((2, 2)));

    // The newer record does not verify.
    let (state, guard) = (world.state.clone(), pin());
    let Lookup::Below(search) = state.get(b"k", &guard) else { panic!("all is in tables") };
    let newest = state.entry(b"k", &guard).unwrap().unwrap().location;
    let read = |place: Place| if place == newest { Err(TableError::Canceled) } else { Ok(Some(place)) };
    let found = search.find(read);
    assert!(found.is_err(), "{found:?}");

    // The newer table's line does not verify. Whichever byte it is that is flipped, the answer is
    // right or an error.
    let tables = state.tables();
    let path = Path::new("/db/0000000002.tbl");
    let (whole, mut errors) = (world.fs.read_file(path).unwrap(), 0);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        let fs = hightower_segment::sim::SimFs::new();
        fs.create_dir_all(Path::new("/db")).unwrap();
        fs.plant(path, &bytes);
        let dir = fs.open_dir(Path::new("/db")).unwrap();
        let Ok(damaged) = TableReader::open(dir.as_ref(), "0000000002.tbl") else { continue };
        let again = LeveledKvState::<Place>::new();
        let levels = vec![Arc::new(damaged), Arc::clone(&tables[1])];
        again.writer().replace_all_tables(levels, world.set()).unwrap();
        match world.answer(b"k", again.get(b"k", &guard)) {
            Ok(answer) => assert_eq!(answer, Some((2, 2)), "byte {at}"),
            Err(error) => {
                assert!(error.is_corrupt());
                errors += 1;
            }
        }
        match again.entry(b"k", &guard) {
            Ok(entry) => assert_eq!(entry.map(|entry| entry.version), Some(2), "byte {at}"),
            Err(error) => assert!(error.is_corrupt()),
        }
        match again.snapshot().prefix(b"").next() {
            Some(Ok((key, entry))) => assert_eq!((key, entry.version), (b"k".to_vec(), 2), "byte {at}"),
            Some(Err(error)) => assert!(error.is_corrupt()),
            None => panic!("byte {at}: the range is empty"),
        }
    }
    assert!(errors > 60, "only {errors}");
}

/// A slot may lead to an intact record of another key. The search then goes on in the same table.
#[test]
fn a_slot_of_another_key_does_not_end_the_search_in_its_table() {
    let mut world = World::new();
    let keys: Vec<_> = (0..20_000_u32).map(u32::to_be_bytes).collect();
    let commands: Vec<_> = keys
        .iter()
        .zip(1..)
        .map(|(key, at)| (key.to_vec(), at, CommandKind::Set, u32::try_from(at).unwrap()))
        .collect();
    world.commit(&commands);
    world.freeze_and_flush();
    let (guard, mut others) = (pin(), 0);
    for (key, at) in keys.iter().zip(1..) {
        let Lookup::Below(search) = world.state.get(key, &guard) else { panic!("all is in tables") };
        let mut reads = 0;
        let found = search.find(|place| {
            reads += 1;
            Ok::<_, TableError>(world.record_of(key, place))
        });
        assert_eq!(found.unwrap().map(|record| record.version), Some(at));
        others += reads - 1;
    }
    assert!(others > 0, "no two keys of this table share a fingerprint");
}

/// A slot of another key in a higher table does not make a record dead; one of its own key does.
#[test]
fn a_record_is_the_newest_until_its_own_key_is_in_a_higher_table() {
    let mut world = World::new();
    let commands = |keys: std::ops::Range<u32>, first: u64| -> Vec<_> {
        let versions = keys.clone().zip(first..);
        versions.map(|(key, version)| (key.to_be_bytes().to_vec(), version, CommandKind::Set, key)).collect()
    };
    world.commit(&commands(0..20_000, 1));
    world.freeze_and_flush();
    let place_of = |world: &World, key: u32| world.state.entry(&key.to_be_bytes(), &pin()).unwrap().unwrap().location;
    let before: Vec<_> = (0..20_000).map(|key| place_of(&world, key)).collect();
    world.commit(&commands(19_000..40_000, 20_001));
    world.freeze_and_flush();
    for (key, place) in (0_u32..).zip(before) {
        assert_eq!(world.state.is_newest(&key.to_be_bytes(), place, &pin()).unwrap(), key < 19_000, "{key}");
    }
    let (key, place) = (5_u32.to_be_bytes(), place_of(&world, 5));
    world.delete(&key);
    assert!(!world.state.is_newest(&key, place, &pin()).unwrap(), "a memtable has it");
}

/// An old view with new segments gives an older value: the relocated one is in a table that the old
/// view does not have.
#[test]
fn a_view_goes_with_its_own_segments() {
    let mut world = World::new();
    world.put(b"k", 1);
    world.roll();
    world.freeze_and_flush();
    world.put(b"k", 2);
    let second = world.active;
    world.roll();
    world.freeze_and_flush();

    let before = world.state.snapshot();
    let compaction = world.begin_compaction(|segment| segment == second).unwrap();
    world.end_compaction(compaction);
    let guard = pin();
    assert_eq!(world.answer(b"k", before.get(b"k", &guard)).unwrap(), Some((2, 2)));
    assert_eq!(world.get(b"k"), Some((2, 2)));
    assert_eq!(before.count().unwrap(), 1);

    // Only then may the segment go.
    let (views, dropped) = world.dropped.pop().unwrap();
    assert_eq!(dropped, [second]);
    assert!(views.are_in_use());
    drop((before, guard));
    // Other tests hold guards too.
    assert!(hightower_index::synchronize(60_000) && !views.are_in_use(), "nobody has the old view");
}

/// Merging a table of before a compaction with one that came after it began would let the
/// relocation table shadow a newer write.
#[test]
fn no_merge_crosses_the_mark_of_a_compaction() {
    let mut world = World::new();
    world.put(b"a", 1);
    world.put(b"k", 2);
    world.roll();
    world.freeze_and_flush();
    let compaction = world.begin_compaction(|segment| segment == 1).unwrap();
    world.put(b"k", 3);
    world.freeze_and_flush();
    let (ids, merged) = world.merged(0, 2);
    let replaced = world.state.writer().replace_tables(&ids, Some(merged));
    assert_eq!(replaced, Err(StateError::AcrossMark));
    world.end_compaction(compaction);
    assert_eq!((world.get(b"k"), world.get(b"a")), (Some((3, 3)), Some((1, 1))));
    // Without the mark the merge goes through.
    let (ids, merged) = world.merged(0, 3);
    world.state.writer().replace_tables(&ids, Some(merged)).unwrap();
    assert_eq!((world.get(b"k"), world.get(b"a")), (Some((3, 3)), Some((1, 1))));
    assert_eq!(world.state.tables().len(), 1);
}

/// A relocation table lies below every table that came after its compaction had begun.
#[test]
fn a_relocation_table_lies_below_what_came_meanwhile() {
    let mut world = World::new();
    world.put(b"k", 1);
    world.roll();
    world.freeze_and_flush();
    let compaction = world.begin_compaction(|segment| segment == 1).unwrap();
    world.delete(b"k");
    world.freeze_and_flush();
    world.end_compaction(compaction);
    assert_eq!(world.get(b"k"), None);
    assert_eq!(world.state.len().unwrap(), 0);
}

/// Put in segment 1, flush; blind delete in segment 2, flush; not merged: segment 1 counts no dead
/// record, and the tombstone must stay.
#[test]
fn a_tombstone_stays_while_a_lower_level_may_have_its_key() {
    let mut world = World::new();
    world.put(b"k", 1);
    world.roll();
    world.freeze_and_flush();
    world.delete(b"k");
    let counts = world.state.segment_counts();
    assert_eq!((counts[0].segment, counts[0].entries), (1, 1), "the delete has not looked below");
    assert!(!world.state.writer().remove_tombstone(b"k", 2));
    assert_eq!(world.get(b"k"), None);
    world.freeze();
    assert_eq!(world.get(b"k"), None, "a frozen tombstone hides too");
    while world.flush() {}
    assert_eq!((world.get(b"k"), world.state.len().unwrap()), (None, 0));
    assert_eq!(world.state.segment_counts().iter().map(|each| each.entries).sum::<u64>(), 2);
    // The merge makes the count exact.
    let (ids, merged) = world.merged(0, 2);
    world.state.writer().replace_tables(&ids, Some(merged)).unwrap();
    let counts = world.state.segment_counts();
    assert_eq!(counts.iter().map(|each| (each.segment, each.tombstones)).collect::<Vec<_>>(), [(2, 1)]);
    assert_eq!((world.get(b"k"), world.state.len().unwrap()), (None, 0));
}

/// A tombstone in the memtable alone goes as before.
#[test]
fn a_tombstone_of_a_lone_memtable_goes() {
    let mut world = World::new();
    world.put(b"k", 1);
    world.delete(b"k");
    assert!(world.state.writer().remove_tombstone(b"k", 2));
}

/// A look-up below counts only while the levels are the same.
#[test]
fn a_look_up_below_ends_with_its_view() {
    let mut world = World::new();
    world.put(b"k", 1);
    let below = world.look_below(b"k");
    world.freeze();
    let evaluate = |world: &World, below: &_| world.state.writer().evaluate(b"k", 1, CommandKind::Set, Some(below));
    assert_eq!(evaluate(&world, &below), Err(ViewChanged), "the memtable that knew it was frozen");
    let below = world.look_below(b"k");
    assert_eq!(evaluate(&world, &below), Ok(ApplyOutcome::IgnoredStale));
    while world.flush() {}
    assert_eq!(evaluate(&world, &below), Err(ViewChanged));
    let below = world.look_below(b"k");
    assert_eq!(evaluate(&world, &below), Ok(ApplyOutcome::IgnoredStale));
    // What is written in between is seen under the lock.
    world.put(b"k", 2);
    let newest_of = |key, below| world.state.writer().newest_of(key, below).map(|newest| newest.map(|it| it.version));
    assert_eq!(newest_of(b"k", Some(&below)), Ok(Some(2)));
    assert_eq!(newest_of(b"other", Some(&below)), Ok(Some(1)), "the caller's key is the caller's");
    assert_eq!(newest_of(b"other", None), Err(ViewChanged), "there are levels below");
}

/// A memtable without levels below it needs no look-up.
#[test]
fn a_lone_memtable_needs_no_look_up_below() {
    let mut world = World::new();
    let evaluate = |world: &World| world.state.writer().evaluate(b"k", 1, CommandKind::Set, None);
    assert_eq!(evaluate(&world), Ok(ApplyOutcome::Applied));
    world.put(b"k", 1);
    assert_eq!(evaluate(&world), Ok(ApplyOutcome::IgnoredStale));
    assert!(world.state.is_one_level(&pin()));
    world.freeze();
    assert_eq!(evaluate(&world), Err(ViewChanged));
    assert!(!world.state.is_one_level(&pin()));
}

/// Two snapshots differ in a range at the first key with another version, wherever its record is.
#[test]
fn the_first_difference_of_two_snapshots_is_found_in_any_level() {
    use std::ops::Bound::{Excluded, Unbounded};
    let mut world = World::new();
    for key in [b"a", b"c", b"e"] {
        world.put(key, 1);
    }
    while world.flush() {}
    let before = world.state.snapshot();
    let first = |world: &World, from| match before.first_difference(&world.state.snapshot(), from, Unbounded).unwrap() {
        ChangeSince::Changed { key, version } => Some((key, version)),
        ChangeSince::None => None,
        ChangeSince::Forgotten { .. } => panic!("snapshots forget nothing"),
    };
    assert_eq!(first(&world, Unbounded), None);
    world.delete(b"d");
    assert_eq!(first(&world, Unbounded), None, "it was absent, and still is");
    world.delete(b"e");
    assert_eq!(first(&world, Unbounded), Some((b"e".to_vec(), None)));
    world.put(b"c", 2);
    world.freeze();
    assert_eq!(first(&world, Unbounded), Some((b"c".to_vec(), Some(6))));
    while world.flush() {}
    assert_eq!(first(&world, Unbounded), Some((b"c".to_vec(), Some(6))));
    assert_eq!(first(&world, Excluded(b"c")), Some((b"e".to_vec(), None)));
    world.put(b"b", 1);
    assert_eq!(first(&world, Unbounded), Some((b"b".to_vec(), Some(7))));
    world.delete(b"a");
    assert_eq!(first(&world, Unbounded), Some((b"a".to_vec(), None)));
}

/// A commit that is not published hides nothing of the levels below.
#[test]
fn an_unpublished_commit_hides_nothing() {
    let mut world = World::new();
    world.put(b"frozen", 1);
    world.freeze_and_flush();
    world.put(b"other", 2);
    world.freeze();
    let snapshot = world.state.snapshot();
    let (state, guard) = (world.state.clone(), pin());
    let mut writer = state.writer();
    let mut commit = writer.begin(3, &guard).unwrap();
    for key in [&b"frozen"[..], b"other"] {
        let location = Place { segment: 1, offset: 4000 };
        commit.apply(&hightower_state::Change { key, version: 3, kind: CommandKind::Delete, location, len_bytes: 0 });
    }
    assert_eq!((world.get(b"frozen"), world.get(b"other")), (Some((1, 1)), Some((2, 2))));
    assert_eq!(world.answer(b"frozen", snapshot.get(b"frozen", &guard)).unwrap(), Some((1, 1)));
    assert_eq!(snapshot.count().unwrap(), 2);
    commit.publish();
    assert_eq!((world.get(b"frozen"), world.get(b"other")), (None, None));
    assert_eq!(snapshot.count().unwrap(), 2, "the snapshot is older");
}

/// Memtables become tables in the order of their commits.
#[test]
fn the_oldest_memtable_is_flushed_first() {
    let mut world = World::new();
    world.put(b"k", 1);
    world.freeze();
    world.put(b"k", 2);
    world.freeze();
    let newer = world.frozen.pop().unwrap();
    let (table, set) = (world.table(&mut newer.source()), world.set());
    let installed = world.state.writer().install_flushed(&newer, Some(table), set);
    assert_eq!(installed, Err(StateError::NotLowestMemtable));
    assert_eq!(world.get(b"k"), Some((2, 2)));
    world.frozen.push(newer);
    while world.flush() {}
    assert_eq!(world.get(b"k"), Some((2, 2)));
}

/// What is not in order is refused, and changes nothing.
#[test]
fn tables_are_replaced_in_their_order_alone() {
    let mut world = World::new();
    for value in 1..=3 {
        world.put(b"k", value);
        world.freeze_and_flush();
    }
    let replace = |ids: &[u64]| world.state.writer().replace_tables(ids, None);
    assert_eq!(replace(&[3, 1]), Err(StateError::NotAdjacent));
    assert_eq!(replace(&[1, 2]), Err(StateError::NotAdjacent));
    assert_eq!(replace(&[9]), Err(StateError::NotAdjacent));
    assert_eq!(replace(&[]), Err(StateError::NotAdjacent));
    let top = Arc::clone(&world.state.tables()[0]);
    assert_eq!(world.state.writer().replace_tables(&[2, 1], Some(top)), Err(StateError::TableIdInUse));
    let mark = world.state.writer().mark();
    assert_eq!(world.state.writer().replace_all_tables(Vec::new(), world.current.clone()), Err(StateError::AcrossMark));
    world.state.writer().remove_mark(&mark).unwrap();
    assert_eq!(world.state.writer().remove_mark(&mark), Err(StateError::UnknownMark));
    assert_eq!((world.get(b"k"), world.state.tables().len()), (Some((3, 3)), 3));
    assert_eq!(replace(&[2, 1]), Ok(()));
    assert_eq!((world.get(b"k"), world.state.tables().len()), (Some((3, 3)), 1));
    // One level has everything: no pass is needed, and the bounds meet.
    let keys = world.state.level_stats().keys;
    assert_eq!((keys.at_least, keys.at_most), (1, 1));
    world.state.writer().replace_all_tables(Vec::new(), world.current.clone()).unwrap();
    assert_eq!(world.get(b"k"), None);
}

/// Readers, snapshots and ranges beside a writer, freezes, flushes and merges: no read returns an
/// older value than an earlier read, and a snapshot has every key of its moment.
#[test]
fn readers_beside_changes_of_the_levels_never_go_back() {
    const KEYS: u32 = 8;
    let rounds: u32 = std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150);
    let mut world = World::new();
    let state = world.state.clone();
    let is_done = AtomicBool::new(false);
    // Every record is one of segment 1, and its offset says its round: no reader needs the log.
    let round_of = |place: Place| u64::from(place.offset);
    let commit = |round: u32| {
        let guard = pin();
        let mut writer = state.writer();
        let mut commit = writer.begin(round.into(), &guard).unwrap();
        for key in 0..KEYS {
            let location = Place { segment: key + 1, offset: round };
            let (key, version) = (&key.to_be_bytes(), u64::from(round));
            commit.apply(&hightower_state::Change { key, version, kind: CommandKind::Set, location, len_bytes: 1 });
        }
        commit.publish();
    };
    world.segments.extend(1..=KEYS);
    commit(1);
    std::thread::scope(|scope| {
        let (state, is_done) = (&state, &is_done);
        for reader in 0..3 {
            scope.spawn(move || {
                let mut last = 0;
                while !is_done.load(Ordering::Acquire) {
                    let guard = pin();
                    if reader == 0 {
                        for key in 0..KEYS {
                            let bytes = key.to_be_bytes();
                            let found = match state.get(&bytes, &guard) {
                                Lookup::Found(found) => Some(found.location),
                                Lookup::Absent => None,
                                Lookup::Below(search) => {
                                    let mine =
                                        |place: Place| Ok::<_, TableError>((place.segment == key + 1).then_some(place));
                                    search.find(mine).unwrap()
                                }
                            };
                            let round = round_of(found.expect("the key is there from the start"));
                            assert!(round >= last, "{round} after {last}");
                            last = round;
                        }
                        continue;
                    }
                    let snapshot = state.snapshot();
                    let range = snapshot.prefix(b"");
                    let rounds: Vec<_> = if reader == 1 {
                        range.map(|found| round_of(found.unwrap().1.location)).collect()
                    } else {
                        range.rev().map(|found| round_of(found.unwrap().1.location)).collect()
                    };
                    assert_eq!(rounds.len(), KEYS as usize);
                    assert_eq!(rounds.into_iter().collect::<HashSet<_>>(), HashSet::from([snapshot.seq()]));
                }
            });
        }
        for round in 2..=rounds {
            commit(round);
            match round % 5 {
                0 | 3 => drop(world.freeze()),
                1 => drop(world.flush()),
                4 if world.state.tables().len() > 2 => {
                    let (ids, merged) = world.merged(1, 2);
                    world.state.writer().replace_tables(&ids, Some(merged)).unwrap();
                }
                _ => {}
            }
            world.state.reclaim();
        }
        is_done.store(true, Ordering::Release);
    });
    assert_eq!(world.state.len().unwrap(), u64::from(KEYS));
}
