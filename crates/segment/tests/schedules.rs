//! The reserves of a full device in thousands of orders of threads: a roll of the tail, a
//! compaction and edits of the manifest take them concurrently. None is taken twice, and none
//! is lost.
//!
//! Only with `--cfg shuttle`: `cargo xtask schedules`. `HIGHTOWER_TEST_CASES` sets the number of
//! orders (default 100), `HIGHTOWER_TEST_SEED` their source.

#![cfg(shuttle)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod common;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use common::sweep::setting;
use common::{DIR, command, encode_commit, options};
use hightower_log::{Placement, encode};
use hightower_segment::sim::SimFs;
use hightower_segment::{
    AppendMode, Appender, CompactedWriter, CoveredPosition, Edit, Fs, NamedTable, NamedTables, Purpose, Segment,
    SegmentError, SegmentStore, Stamp,
};
use shuttle::rand::Rng as _;
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, MaxSteps, Runner, thread};

const STAMP: Stamp = Stamp { max_version: 1_000, timestamp: 1_700_000_000_000 };

/// One thread's part ends early if the device is full; nothing else may fail.
fn until_full(outcome: Result<(), SegmentError>) {
    if let Err(error) = outcome {
        assert!(error.is_full(), "{error}");
    }
}

fn put(appender: &mut Appender, version: u64, purpose: Purpose) -> Result<(), SegmentError> {
    appender.make_room(200, purpose, STAMP)?;
    let bytes = encode_commit(appender, &[command(version, 90)]).unwrap();
    appender.append(&[&bytes], 1).map(drop)
}

/// Rewrites a segment.
fn compact(store: &SegmentStore, input: Arc<Segment>) -> Result<(), SegmentError> {
    let mut output: CompactedWriter = store.create_compacted(1024, 900, Purpose::Reclaim, STAMP)?;
    for entry in input.entries() {
        let mut bytes = Vec::new();
        encode(&mut bytes, output.context(), output.position(), &entry?.command, Placement::Relocated).unwrap();
        output.append(&[&bytes])?;
    }
    let output = output.finish()?;
    let edit = Edit { add: vec![output], remove: vec![input.id()], ..Edit::default() };
    if let Err(error) = store.install(&edit) {
        assert!(error.is_full(), "{error}");
        return edit.add.into_iter().try_for_each(|output| store.abandon(output));
    }
    store.release(input).map(drop)
}

fn commands_in(segments: &[Arc<Segment>]) -> Vec<u64> {
    let entries = segments.iter().flat_map(|segment| segment.entries());
    let mut versions: Vec<u64> = entries.map(|entry| entry.unwrap().command.version()).collect();
    versions.sort_unstable();
    versions
}

/// A list of tables with these ids. What they cover is of the first segment.
fn list_of(ids: RangeInclusive<u32>) -> NamedTables {
    let covered = CoveredPosition { segment: 1, offset: 64, next_seq: 1, compacted_below: 1 };
    NamedTables { newest_first: ids.map(|id| NamedTable { id, salt: 1, len_bytes: 1000 }).collect(), covered }
}

fn program() {
    let seed: u64 = shuttle::rand::thread_rng().r#gen();
    let mode = if seed.is_multiple_of(2) { AppendMode::Mapped } else { AppendMode::Positioned };
    let fs = SimFs::new();
    let open =
        |fs: &SimFs| SegmentStore::open(Arc::new(fs.clone()) as Arc<dyn Fs>, Path::new(DIR), options(mode, 1024, seed));
    let (store, recovery) = open(&fs).unwrap();
    let (mut appender, _) = recovery.finish(STAMP).unwrap();
    let mut ended = Vec::new();
    for version in 1..=18 {
        put(&mut appender, version, Purpose::Grow).unwrap();
        if version % 6 == 0 {
            ended.push(appender.roll(0, Purpose::Grow, STAMP).unwrap());
        }
    }
    store.sync_predecessors().unwrap();
    store.prepare_next(STAMP).unwrap();
    fs.set_capacity_bytes(Some(fs.used_bytes() + seed / 2 % 3 * 300));
    let last = thread::scope(|scope| {
        let rolls = scope.spawn(|| {
            let mut last = 18;
            for version in 19..40 {
                match put(&mut appender, version, Purpose::Reclaim) {
                    Ok(()) => last = version,
                    Err(error) => {
                        until_full(Err(error));
                        break;
                    }
                }
            }
            last
        });
        scope.spawn(|| ended.drain(..).for_each(|input| until_full(compact(&store, input))));
        scope.spawn(|| {
            (1..=10).for_each(|id| assert_eq!(store.take_table_id().unwrap(), id));
            for tables in [1..=9, 10..=10] {
                until_full(store.set_tables(list_of(tables), 1));
                until_full(store.sync_predecessors().map(drop));
            }
            until_full(store.set_tables(NamedTables::default(), 1));
        });
        scope.spawn(|| {
            until_full(store.prepare_next(STAMP).map(drop));
            until_full(store.refill_reserves().map(drop));
        });
        rolls.join().unwrap()
    });
    assert!(!store.is_poisoned());
    fs.set_capacity_bytes(None);
    store.sync_predecessors().unwrap();
    assert!(store.refill_reserves().unwrap(), "none is lost");
    assert_eq!(store.tail_stats().reserves, 3);
    // Each file has one use.
    let names = fs.names_in(Path::new(DIR)).unwrap();
    let manifest = store.manifest();
    let is_unnamed = |name: &&String| {
        name.ends_with(".seg")
            && !manifest.segments.iter().any(|entry| **name == hightower_segment::segment_name(entry.id))
    };
    assert_eq!(names.iter().filter(is_unnamed).collect::<Vec<_>>(), Vec::<&String>::new(), "{names:?}");
    assert_eq!(names.iter().filter(|name| name.ends_with(".spare")).count(), 4, "{names:?}");
    drop((appender, store));
    let (_store, recovery) = open(&fs.after_kill()).unwrap();
    assert_eq!(commands_in(recovery.segments()), (1..=last).collect::<Vec<_>>());
}

#[test]
fn reserves_are_given_once() {
    let (seed, cases) = (setting("HIGHTOWER_TEST_SEED", 1), setting("HIGHTOWER_TEST_CASES", 100));
    let mut settings = Config::new();
    settings.stack_size = 1 << 20;
    settings.max_steps = MaxSteps::FailAfter(2_000_000);
    let scheduler = RandomScheduler::new_from_seed(seed, usize::try_from(cases).unwrap());
    Runner::new(scheduler, settings).run(program);
    println!("schedules, reserves_are_given_once: {cases} orders from seed {seed}, 0 violations");
}
