//! A table compared with a `BTreeMap`: lookups, scans, seeks, ranges and merges have the same
//! results.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use common::{Model, cases, disk, is_pointed, options, table, write_as};
use hightower_table::{
    EntryKind, LevelMerge, MergeSource, RecordPointer, ScanDirection, SeekTo, TableEntry, TableReader,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// Keys with common prefixes, some of them long.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0), Just(255)], 0..8),
        4 => (0..1000_u32).prop_map(|number| format!("pods/default/web-{number}").into_bytes()),
        2 => vec(any::<u8>(), 0..40),
        1 => (1..6000_usize, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

fn entries() -> impl Strategy<Value = TableEntry> {
    let segments = prop_oneof![4 => 1..4_u32, 1 => any::<u32>()];
    let offsets = prop_oneof![4 => 64..5000_u32, 1 => any::<u32>()];
    let lens = prop_oneof![4 => 20..40_u32, 1 => any::<u32>()];
    (any::<u64>(), any::<bool>(), segments, offsets, lens).prop_map(|(version, is_set, segment, offset, len_bytes)| {
        let kind = if is_set { EntryKind::Set } else { EntryKind::Tombstone };
        TableEntry { version, kind, pointer: RecordPointer { segment, offset }, len_bytes }
    })
}

/// Adjacent records, as compaction writes them, with some gaps.
fn in_sequence(mut model: Model, leaps: &[u8]) -> Model {
    let mut ends = [64_u32; 3];
    for ((place, entry), leap) in model.values_mut().enumerate().zip(leaps.iter().cycle()) {
        let segment = usize::from(*leap) % 3 * usize::from(place % 7 == 0);
        entry.len_bytes %= 1000;
        entry.pointer = RecordPointer { segment: u32::try_from(segment).unwrap() * 40, offset: ends[segment] };
        ends[segment] += entry.len_bytes + u32::from(*leap > 250) * 13;
    }
    model
}

fn models() -> impl Strategy<Value = Model> {
    (btree_map(keys(), entries(), 0..200), any::<bool>(), vec(any::<u8>(), 1..50))
        .prop_map(|(model, is_compacted, leaps)| if is_compacted { in_sequence(model, &leaps) } else { model })
}

fn below<'m>(model: &'m Model, key: &[u8], with: bool) -> Option<(&'m Vec<u8>, &'m TableEntry)> {
    let end = if with { Bound::Included(key) } else { Bound::Excluded(key) };
    model.range::<[u8], _>((Bound::Unbounded, end)).next_back()
}

fn above<'m>(model: &'m Model, key: &[u8], with: bool) -> Option<(&'m Vec<u8>, &'m TableEntry)> {
    let start = if with { Bound::Included(key) } else { Bound::Excluded(key) };
    model.range::<[u8], _>((start, Bound::Unbounded)).next()
}

/// All keys of a source by its runs, and whether each run begins with its current key.
fn by_runs<S: MergeSource>(mut source: S) -> Vec<(Vec<u8>, TableEntry)>
where
    S::Error: std::fmt::Debug,
{
    let mut found = Vec::new();
    while source.advance().unwrap() {
        let run = source.run().unwrap();
        assert_eq!(run.iter().next(), Some((source.key(), &source.entry())));
        found.extend(run.iter().map(|(key, entry)| (key.to_vec(), *entry)));
        let skipped = run.len() - 1;
        source.skip_in_run(skipped);
        assert_eq!(found.last().unwrap(), &(source.key().to_vec(), source.entry()));
    }
    found
}

fn all(table: &TableReader, direction: ScanDirection) -> Vec<(Vec<u8>, TableEntry)> {
    table.range::<&[u8]>(.., direction).map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(120)))]

    #[test]
    fn a_table_is_the_map_it_was_written_from(model in models(), asked in vec(keys(), 0..40), memory in 0..4000_usize) {
        let (_, dir) = disk();
        let summary = write_as(&dir, common::NAME, &model, options().with_memory_bytes(memory)).unwrap();
        let table = TableReader::open(dir.as_ref(), common::NAME).unwrap();
        prop_assert_eq!((table.len(), summary.keys), (model.len() as u64, model.len() as u64));
        prop_assert_eq!(table.len_bytes(), summary.len_bytes);
        prop_assert_eq!(table.max_version(), model.values().map(|entry| entry.version).max().unwrap_or(0));
        prop_assert_eq!(table.min_key(), model.keys().next().map(Vec::as_slice));
        prop_assert_eq!(table.max_key(), model.keys().next_back().map(Vec::as_slice));
        table.check().unwrap();

        for (key, entry) in &model {
            prop_assert_eq!(table.get(key).unwrap(), Some(*entry));
            prop_assert!(is_pointed(&table, key, entry).unwrap());
        }
        for key in &asked {
            prop_assert_eq!(table.get(key).unwrap(), model.get(key).copied());
        }
        let written: Vec<_> = model.iter().map(|(key, entry)| (key.clone(), *entry)).collect();
        prop_assert_eq!(&all(&table, ScanDirection::Forward), &written);
        let reversed: Vec<_> = written.iter().rev().cloned().collect();
        prop_assert_eq!(&all(&table, ScanDirection::Backward), &reversed);

        for row in table.segments() {
            let of_it: Vec<_> = model.values().filter(|entry| entry.pointer.segment == row.segment).collect();
            prop_assert_eq!(row.entries, of_it.len() as u64);
            prop_assert_eq!(row.len_bytes, of_it.iter().map(|entry| u64::from(entry.len_bytes)).sum::<u64>());
            prop_assert_eq!(row.tombstones, of_it.iter().filter(|entry| entry.is_tombstone()).count() as u64);
        }
        let named: BTreeSet<_> = model.values().map(|entry| entry.pointer.segment).collect();
        prop_assert!(table.segments().iter().map(|row| row.segment).eq(named));
    }

    #[test]
    fn seeks_and_steps_lead_where_the_map_leads(model in models(), asked in vec((keys(), 0..4_u8, vec(any::<bool>(), 0..80)), 1..20)) {
        let (_, dir) = disk();
        let table = table(&dir, &model);
        let mut cursor = table.cursor();
        for (key, to, steps) in &asked {
            let (to, mut expected) = match to {
                0 => (SeekTo::AtOrAfter, above(&model, key, true)),
                1 => (SeekTo::After, above(&model, key, false)),
                2 => (SeekTo::AtOrBefore, below(&model, key, true)),
                _ => (SeekTo::Before, below(&model, key, false)),
            };
            prop_assert_eq!(cursor.seek(key, to).unwrap(), expected.is_some());
            for is_ahead in steps {
                prop_assert_eq!(cursor.key(), expected.map(|(key, _)| key.as_slice()));
                prop_assert_eq!(cursor.entry(), expected.map(|(_, entry)| *entry));
                let Some((key, _)) = expected else { break };
                let (moved, next) = if *is_ahead {
                    (cursor.advance().unwrap(), above(&model, key, false))
                } else {
                    (cursor.retreat().unwrap(), below(&model, key, false))
                };
                prop_assert_eq!(moved, next.is_some());
                expected = next;
            }
        }
    }

    #[test]
    fn ranges_have_the_bounds_that_they_are_given(model in models(), low in (0..3_u8, keys()), high in (0..3_u8, keys())) {
        let (_, dir) = disk();
        let table = table(&dir, &model);
        let bound = |(kind, key): (u8, Vec<u8>)| match kind {
            0 => Bound::Unbounded,
            1 => Bound::Included(key),
            _ => Bound::Excluded(key),
        };
        let bounds = (bound(low), bound(high));
        let is_in = |key: &Vec<u8>| std::ops::RangeBounds::contains(&bounds, key);
        let expected: Vec<_> = model.iter().filter(|(key, _)| is_in(key)).map(|(key, entry)| (key.clone(), *entry)).collect();
        let forward: Vec<_> = table.range(bounds.clone(), ScanDirection::Forward).map(Result::unwrap).collect();
        prop_assert_eq!(&forward, &expected);
        prop_assert_eq!(&by_runs(table.range(bounds.clone(), ScanDirection::Forward)), &expected);
        let mut backward: Vec<_> = table.range(bounds.clone(), ScanDirection::Backward).map(Result::unwrap).collect();
        prop_assert_eq!(&by_runs(table.range(bounds.clone(), ScanDirection::Backward)), &backward);
        backward.reverse();
        prop_assert_eq!(&backward, &expected);
    }

    #[test]
    fn a_run_ends_where_it_is_told(model in models(), end in (0..3_u8, keys()), least in keys(), is_forward: bool) {
        let (_, dir) = disk();
        let table = table(&dir, &model);
        let end = match &end {
            (0, _) => Bound::Unbounded,
            (1, key) => Bound::Included(key.as_slice()),
            (_, key) => Bound::Excluded(key.as_slice()),
        };
        let (direction, bounds) = if is_forward {
            (ScanDirection::Forward, (Bound::Unbounded, end))
        } else {
            (ScanDirection::Backward, (end, Bound::Unbounded))
        };
        let mut range = table.range(least.., direction);
        while range.advance().unwrap() {
            let run = range.run().unwrap();
            let is_in = |key: &[u8]| std::ops::RangeBounds::<[u8]>::contains(&bounds, key);
            let expected: Vec<_> = run.iter().take_while(|(key, _)| is_in(key)).collect();
            prop_assert_eq!(&run.until(end).iter().collect::<Vec<_>>(), &expected);
            let in_bytes = run.until(end).places().map(|(place, entry)| (&run.until(end).bytes()[place], entry));
            prop_assert_eq!(in_bytes.collect::<Vec<_>>(), expected);
            let skipped = run.len() - 1;
            range.skip_in_run(skipped);
        }
    }

    #[test]
    fn runs_of_a_merge_are_its_next_steps(models in vec(models(), 1..4), gone in vec(1..4_u32, 0..2), is_forward: bool, skips in vec(0..40_usize, 1..20)) {
        let (_, dir) = disk();
        let tables: Vec<_> = models.iter().enumerate().map(|(level, model)| {
            let name = format!("{level}.tbl");
            write_as(&dir, &name, model, options()).unwrap();
            TableReader::open(dir.as_ref(), &name).unwrap()
        }).collect();
        let direction = if is_forward { ScanDirection::Forward } else { ScanDirection::Backward };
        let merge = || {
            let sources = tables.iter().map(|table| table.range::<&[u8]>(.., direction)).collect();
            LevelMerge::new(sources, direction, |segment| !gone.contains(&segment))
        };
        let mut steps = merge();
        let mut stepped = Vec::new();
        while steps.advance().unwrap() {
            stepped.push((steps.key().to_vec(), steps.entry()));
        }
        prop_assert_eq!(&by_runs(merge()), &stepped);
        // The same, with a part of each run.
        let (mut runs, mut found) = (merge(), Vec::new());
        for skip in skips.iter().cycle() {
            if !runs.advance().unwrap() {
                break;
            }
            let run = runs.run().unwrap();
            let skipped = *skip.min(&(run.len() - 1));
            found.extend(run.first(skipped + 1).iter().map(|(key, entry)| (key.to_vec(), *entry)));
            runs.skip_in_run(skipped);
        }
        prop_assert_eq!(found, stepped);
    }

    #[test]
    fn a_merge_gives_the_topmost_entry_that_exists(models in vec(models(), 0..5), gone in vec(1..4_u32, 0..2), is_forward: bool) {
        let (_, dir) = disk();
        let exists = |segment: u32| !gone.contains(&segment);
        let mut expected = Model::new();
        for model in models.iter().rev() {
            expected.extend(model.iter().filter(|(_, entry)| exists(entry.pointer.segment)).map(|(key, entry)| (key.clone(), *entry)));
        }
        let tables: Vec<_> = models.iter().enumerate().map(|(level, model)| {
            let name = format!("{level}.tbl");
            write_as(&dir, &name, model, options()).unwrap();
            TableReader::open(dir.as_ref(), &name).unwrap()
        }).collect();
        let direction = if is_forward { ScanDirection::Forward } else { ScanDirection::Backward };
        let sources = tables.iter().map(|table| table.range::<&[u8]>(.., direction)).collect();
        let mut merge = LevelMerge::new(sources, direction, exists);
        let mut found = Vec::new();
        while merge.advance().unwrap() {
            let level = merge.level().unwrap();
            prop_assert_eq!(models[level].get(merge.key()), Some(&merge.entry()));
            found.push((merge.key().to_vec(), merge.entry()));
        }
        prop_assert!(!merge.advance().unwrap());
        if !is_forward {
            found.reverse();
        }
        prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_merge_by_version_gives_the_highest_version_that_exists(models in vec(models(), 0..5), gone in vec(1..4_u32, 0..2), is_forward: bool) {
        let (_, dir) = disk();
        let exists = |segment: u32| !gone.contains(&segment);
        let mut expected = BTreeMap::<Vec<u8>, u64>::new();
        for (key, entry) in models.iter().flatten().filter(|(_, entry)| exists(entry.pointer.segment)) {
            let version = expected.entry(key.clone()).or_default();
            *version = entry.version.max(*version);
        }
        let tables: Vec<_> = models.iter().enumerate().map(|(number, model)| {
            let name = format!("{number}.tbl");
            write_as(&dir, &name, model, options()).unwrap();
            TableReader::open(dir.as_ref(), &name).unwrap()
        }).collect();
        let direction = if is_forward { ScanDirection::Forward } else { ScanDirection::Backward };
        let sources = tables.iter().map(|table| table.range::<&[u8]>(.., direction)).collect();
        let mut merge = LevelMerge::by_version(sources, direction, exists);
        let mut found = BTreeMap::new();
        while merge.advance().unwrap() {
            let source = merge.level().unwrap();
            prop_assert_eq!(models[source].get(merge.key()), Some(&merge.entry()));
            prop_assert!(found.insert(merge.key().to_vec(), merge.entry().version).is_none());
        }
        prop_assert_eq!(found, expected);
    }
}
