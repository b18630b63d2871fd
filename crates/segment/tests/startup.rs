//! The table "What open does" of docs/DURABILITY.md: each row is a test here, named by the row's
//! number.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{DIR, Step, World, options};
use hightower_segment::sim::{Fault, FaultKind, SimFs};
use hightower_segment::{
    AppendMode, CoveredPosition, Damage, Fs, MANIFEST, NamedTable, NamedTables, ReadOnlyStore, RecoveryReport,
    SegmentError, SegmentOutcome, SegmentState, SegmentStore, Stamp, StoreOptions, Tolerance, segment_name,
};

const STAMP: Stamp = Stamp { max_version: 1_000_000, timestamp: 1_700_000_000_000 };
const PUT: Step = Step::Commit { commands: 1, value_len: 50 };

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn segment_path(id: u32) -> PathBuf {
    path(&segment_name(id))
}

/// A store with `puts` commits of about 80 bytes in segments of 1 KiB, closed or killed.
fn store(puts: usize, close: bool) -> (SimFs, World) {
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 1024, 1));
    world.run(&vec![PUT; puts]).unwrap();
    let open = world.open.take().unwrap();
    if close {
        open.appender.close(STAMP).unwrap();
    } else {
        open.store.sync_point().sync().unwrap();
    }
    fs.settle();
    (fs, world)
}

fn sealed_store() -> (SimFs, u32) {
    let (fs, _) = store(30, true);
    let manifest = read_only(&fs, Tolerance::Strict).unwrap().manifest().clone();
    assert!(manifest.segments.len() >= 3);
    assert!(manifest.segments.iter().all(|entry| matches!(entry.state, SegmentState::Sealed { .. })));
    (fs, manifest.segments[1].id)
}

fn open(fs: &SimFs) -> Result<(usize, RecoveryReport), SegmentError> {
    open_with(fs, options(AppendMode::Mapped, 1024, 2))
}

fn open_with(fs: &SimFs, options: StoreOptions) -> Result<(usize, RecoveryReport), SegmentError> {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    let (_store, recovery) = SegmentStore::open(fs, Path::new(DIR), options)?;
    let mut count = 0;
    for segment in recovery.segments() {
        for entry in segment.entries() {
            entry?;
            count += 1;
        }
    }
    let (appender, report) = recovery.finish(STAMP)?;
    drop(appender);
    Ok((count, report))
}

fn read_only(fs: &SimFs, tolerance: Tolerance) -> Result<ReadOnlyStore, SegmentError> {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    ReadOnlyStore::open(&fs, Path::new(DIR), tolerance)
}

/// A failed read for lack of descriptors or memory is not damage, in a store with a manifest and in
/// one without.
#[test]
fn a_shortage_is_no_damage() {
    for has_manifest in [true, false] {
        let (fs, _) = store(40, true);
        if !has_manifest {
            fs.unplant(&path("MANIFEST"));
        }
        let count =
            |store: &ReadOnlyStore| store.segments().iter().map(|segment| segment.scan().count()).sum::<usize>();
        let before = fs.call_count();
        let whole = count(&read_only(&fs, Tolerance::Salvage).unwrap());
        let calls = fs.call_count() - before;
        let mut refused = 0;
        for (kind, lasting) in
            [(FaultKind::NoDescriptors, false), (FaultKind::NoMemory, false), (FaultKind::NoMemory, true)]
        {
            for at in 0..calls {
                fs.inject(Fault { kind, at_call: fs.call_count() + at, lasting });
                let opened = read_only(&fs, Tolerance::Salvage);
                fs.heal();
                match opened {
                    Err(error) => {
                        assert!(
                            matches!(error, SegmentError::Io { .. } | SegmentError::OutOfMaps { .. }),
                            "{kind:?} at {at}: {error}"
                        );
                        refused += 1;
                    }
                    Ok(store) => {
                        assert_eq!(store.report().damage.len(), usize::from(!has_manifest), "{kind:?} at {at}");
                        assert_eq!(count(&store), whole, "{kind:?} at {at}");
                    }
                }
            }
        }
        assert!(refused > 10, "{refused}");
    }
}

fn edit(fs: &SimFs, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs.read_file(path).unwrap();
    change(&mut bytes);
    fs.plant(path, &bytes);
}

#[test]
fn row_01_no_directory() {
    let fs = SimFs::new();
    let error = open_with(&fs, StoreOptions { create_if_missing: false, ..options(AppendMode::Mapped, 1024, 1) });
    assert!(matches!(error, Err(SegmentError::NoStore { .. })), "{error:?}");
    assert!(fs.names_in(Path::new(DIR)).is_err(), "nothing was made");
    assert!(matches!(read_only(&fs, Tolerance::Strict), Err(SegmentError::NoStore { .. })));
    let (count, report) = open(&fs).unwrap();
    assert_eq!((count, report.created, report.unclean), (0, true, false));
}

#[test]
fn row_02_empty_directory() {
    let fs = SimFs::new();
    fs.create_dir_all(Path::new(DIR)).unwrap();
    assert!(open(&fs).unwrap().1.created);
}

#[test]
fn row_03_only_a_half_written_manifest() {
    let fs = SimFs::new();
    fs.create_dir_all(Path::new(DIR)).unwrap();
    fs.plant(&path("MANIFEST.tmp"), b"HTKV");
    assert!(open(&fs).unwrap().1.created);
    assert!(!fs.names_in(Path::new(DIR)).unwrap().contains(&"MANIFEST.tmp".to_owned()));
}

#[test]
fn row_04_segments_without_a_manifest() {
    let (fs, _) = store(30, true);
    fs.unplant(&path(MANIFEST));
    let error = open(&fs).unwrap_err();
    assert!(matches!(&error, SegmentError::MissingManifest { path } if path.ends_with(MANIFEST)), "{error}");
    assert!(matches!(read_only(&fs, Tolerance::Strict), Err(SegmentError::MissingManifest { .. })));
    // Salvage reads the existing segments.
    let salvaged = read_only(&fs, Tolerance::Salvage).unwrap();
    let count: usize = salvaged.segments().iter().map(|segment| segment.scan().count()).sum();
    assert_eq!(count, 30);
    assert!(matches!(salvaged.report().damage[..], [SegmentError::MissingManifest { .. }]));
}

#[test]
fn row_05_damaged_manifest() {
    let (fs, _) = store(3, true);
    let whole = fs.read_file(&path(MANIFEST)).unwrap();
    for len in 0..whole.len() {
        fs.plant(&path(MANIFEST), &whole[..len]);
        assert!(matches!(open(&fs), Err(SegmentError::Corrupt { .. })), "cut at {len}");
    }
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs.plant(&path(MANIFEST), &bytes);
        assert!(matches!(open(&fs), Err(SegmentError::Corrupt { .. })), "bit {bit}");
    }
}

/// A store of a killed writer with edits behind its manifest; the bytes of the manifest, and the
/// offset of each edit.
fn edited(middle: &[Step]) -> (SimFs, Vec<u8>, Vec<usize>) {
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 1024, 1));
    let some = [vec![PUT; 10], vec![Step::Prepare, Step::Sync, Step::SealPredecessors]].concat();
    world.run(&[&some[..], &some, &some, middle, &some, &some].concat()).unwrap();
    world.open = None;
    fs.settle();
    let bytes = fs.read_file(&path(MANIFEST)).unwrap();
    let edits: Vec<usize> =
        (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"HTKVEDT\n")).chain([bytes.len()]).collect();
    assert!(edits.len() >= 7, "{edits:?}");
    (fs, bytes, edits)
}

/// After a compaction, a manifest without its edits names removed segments. Without a compaction,
/// only commits in unnamed segments show that an edit was lost.
#[test]
fn row_05_an_edit_that_was_cut_or_damaged() {
    cut_and_damage(&[Step::Compact], 2);
    cut_and_damage(&[], 3);
}

/// The last `harmless_edits` edits have no information that the segments lack.
fn cut_and_damage(middle: &[Step], harmless_edits: usize) {
    let (fs, whole, edits) = edited(middle);
    let open_with = |bytes: &[u8]| {
        // Each open gets a fresh copy.
        let fs = fs.after_kill();
        fs.plant(&path(MANIFEST), bytes);
        open(&fs)
    };
    let (all, _) = open_with(&whole).unwrap();
    assert_eq!(all, 50);
    let is_damage = |found: &Result<(usize, RecoveryReport), SegmentError>| {
        matches!(found, Err(SegmentError::Corrupt { .. } | SegmentError::MissingSegment { .. }))
    };
    let mut harmless = 0;
    for len in edits[0]..whole.len() {
        let found = open_with(&whole[..len]);
        harmless += usize::from(found.is_ok());
        assert!(is_damage(&found) || matches!(found, Ok((50, _))), "cut at {len}: {found:?}");
    }
    // Only a seal's edit may be lost without detection: the segment has the same information.
    assert!(harmless <= whole.len() - edits[edits.len() - 1 - harmless_edits], "{harmless} cuts do no harm");
    for bit in edits[0] * 8..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let found = open_with(&bytes);
        let is_last = bit / 8 >= edits[edits.len() - harmless_edits];
        assert!(is_damage(&found) || (is_last && matches!(found, Ok((50, _)))), "bit {bit}: {found:?}");
    }
    // Leftovers of an edit that a crashed writer was appending.
    for rest in [&b"HTKVEDT\n"[..], &[0; 300], &whole[edits[1]..]] {
        assert!(matches!(open_with(&[&whole, rest].concat()), Ok((50, _))));
    }
}

#[test]
fn row_06_newer_manifest() {
    let (fs, _) = store(3, true);
    // A later version, and an unknown feature. (Bit 0 is that of a write-ahead log.)
    for (at, more) in [(8, 1), (12, 2)] {
        let whole = fs.read_file(&path(MANIFEST)).unwrap();
        edit(&fs, &path(MANIFEST), |bytes| {
            bytes[at] += more;
            let end = bytes.len() - 4;
            let check = crc32fast::hash(&bytes[..end]);
            bytes[end..].copy_from_slice(&check.to_le_bytes());
        });
        assert!(matches!(open(&fs), Err(SegmentError::VersionUnsupported { .. })));
        fs.plant(&path(MANIFEST), &whole);
    }
}

#[test]
fn row_07_all_sealed() {
    let (fs, _) = store(30, true);
    let (count, report) = open(&fs).unwrap();
    assert_eq!((count, report.unclean, report.created, report.dropped_bytes()), (30, false, false, 0));
    assert_eq!(report.version_floor, report.max_version);
    assert_eq!(report.records(), 30);
    assert!(report.segments.iter().all(|segment| segment.outcome == SegmentOutcome::Sealed));
}

#[test]
fn row_08_open_segment_with_whole_commits() {
    let (fs, _) = store(5, false);
    let (count, report) = open(&fs).unwrap();
    assert_eq!((count, report.unclean, report.dropped_bytes()), (5, true, 0));
    assert!(
        matches!(report.segments[..], [ref only] if only.outcome == SegmentOutcome::Recovered && only.records == 5)
    );
    assert!(report.version_floor > 5);
    // The second open: the recovered segment is sealed, and the new one is empty.
    let (count, report) = open(&fs).unwrap();
    assert_eq!(count, 5);
    assert!(report.segments.iter().any(|segment| segment.outcome == SegmentOutcome::Sealed && segment.records == 5));
}

/// The last segment is cut at every byte of its last three records.
#[test]
fn row_09_torn_tail_every_cut() {
    let (fs, world) = store(8, false);
    let bytes = fs.read_file(&segment_path(1)).unwrap();
    let ends = record_ends(&fs, 1);
    let from = ends[ends.len() - 4];
    for cut in from..*ends.last().unwrap() {
        // No record of the tail states that a part of it is durable, because the only sync came
        // last. Zeros follow the cut.
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        fs.plant(&segment_path(1), &torn);
        let state = fs.after_kill();
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let (count, report) = open(&state).unwrap();
        assert_eq!(count, whole, "cut at {cut}");
        assert_eq!(report.segments[0].records as usize, whole);
        assert!(
            !state.read_file(&segment_path(1)).is_ok_and(|file| file.len() > ends[whole - 1]),
            "cut down to what counts"
        );
        // The same with a file that ends at the cut.
        fs.plant(&segment_path(1), &bytes[..cut]);
        assert_eq!(open(&fs.after_kill()).unwrap().0, whole, "file cut at {cut}");
    }
    assert_eq!(world.commits.len(), 8);
}

fn record_ends(fs: &SimFs, id: u32) -> Vec<usize> {
    let store = read_only(fs, Tolerance::Strict).unwrap();
    let segment = store.segments().iter().find(|segment| segment.id() == id).unwrap();
    segment.entries().map(|entry| entry.unwrap()).map(|entry| (entry.offset + entry.len_bytes) as usize).collect()
}

#[test]
fn row_10_unsynced_sectors_missing_in_the_middle() {
    let (fs, _) = store(8, false);
    let ends = record_ends(&fs, 1);
    edit(&fs, &segment_path(1), |bytes| bytes[ends[2]..ends[4]].fill(0));
    let (count, report) = open(&fs).unwrap();
    assert_eq!(count, 3, "the log ends at the hole, though good records follow");
    assert!(report.dropped_bytes() > 0);
    assert!(report.segments[0].reason.is_some());
}

#[test]
fn row_11_durable_commit_damaged() {
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 4096, 1));
    world.run(&[PUT, PUT, Step::Sync, PUT, PUT, Step::Sync, PUT]).unwrap();
    world.open = None;
    fs.settle();
    let ends = record_ends(&fs, 1);
    // The last record states that four are durable, so damage in one of those is not a torn tail.
    for (at, expected) in [(70, 64), (ends[0] + 20, ends[0]), (ends[2] + 20, ends[2])] {
        let state = fs.after_kill();
        edit(&state, &segment_path(1), |bytes| bytes[at] ^= 4);
        let error = open(&state).unwrap_err();
        let named = matches!(&error, SegmentError::Corrupt { path, offset, reason: Damage::DurableLost { .. } }
            if *path == segment_path(1) && *offset == expected as u64);
        assert!(named, "{error}");
        // Salvage skips it.
        let salvaged = read_only(&state, Tolerance::Salvage).unwrap();
        let entries =
            salvaged.segments()[0].scan().filter(|found| matches!(found, hightower_segment::Finding::Entry(_)));
        assert_eq!(entries.count(), 4);
        assert_eq!(salvaged.report().damage.len(), 1);
    }
    // In the fifth record it is a torn tail: no record states that it is durable.
    edit(&fs, &segment_path(1), |bytes| bytes[ends[3] + 10] ^= 4);
    assert_eq!(open(&fs).unwrap().0, 4);
}

#[test]
fn row_12_predecessor_torn_before_its_seal() {
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 1024, 1));
    world.run(&[PUT; 16]).unwrap();
    world.open = None;
    fs.settle();
    let ends = record_ends(&fs, 1);
    let state = fs.after_kill();
    edit(&state, &segment_path(1), |bytes| bytes[ends[3]..].fill(0));
    let (count, report) = open(&state).unwrap();
    assert_eq!(count, 4, "later segments hold commits behind a lost one");
    assert!(
        report.segments.iter().any(|segment| segment.outcome == SegmentOutcome::Dropped && segment.dropped_bytes > 0)
    );
    // The same with a sync in between: a record of the later segment states that the earlier one is
    // durable.
    world.open = None;
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 1024, 1));
    world.run(&[PUT; 16]).unwrap();
    world.run(&[Step::Sync, PUT]).unwrap();
    world.open = None;
    fs.settle();
    edit(&fs, &segment_path(1), |bytes| bytes[ends[3]..].fill(0));
    let error = open(&fs).unwrap_err();
    assert!(matches!(&error, SegmentError::Corrupt { reason: Damage::DurableLost { .. }, .. }), "{error}");
}

#[test]
fn row_13_sealed_segment_damaged() {
    let (fs, id) = sealed_store();
    let file = segment_path(id);
    let whole = fs.read_file(&file).unwrap();
    let len = {
        let store = read_only(&fs, Tolerance::Strict).unwrap();
        store.segments().iter().find(|segment| segment.id() == id).unwrap().len_bytes() as usize
    };
    // Bytes behind the sealed length are never read.
    let mut bytes = whole.clone();
    bytes[len..].fill(0xff);
    fs.plant(&file, &bytes);
    assert_eq!(read_all(&fs).unwrap(), 30);
    for bit in 0..len * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs.plant(&file, &bytes);
        let error = read_all(&fs).unwrap_err();
        assert!(matches!(&error, SegmentError::Corrupt { path, .. } if *path == file), "bit {bit}: {error}");
    }
    for len in 0..len {
        fs.plant(&file, &whole[..len]);
        assert!(matches!(read_all(&fs), Err(SegmentError::Corrupt { .. })), "cut at {len}");
    }
    assert!(matches!(open(&fs), Err(SegmentError::Corrupt { .. })));
}

/// Reads all commands by the rules of an open for writing, without writing.
fn read_all(fs: &SimFs) -> Result<usize, SegmentError> {
    let store = read_only(fs, Tolerance::Strict)?;
    let mut entries = store.segments().iter().flat_map(|segment| segment.entries());
    entries.try_fold(0, |count, entry| entry.map(|_| count + 1))
}

#[test]
fn row_14_segment_missing() {
    let (fs, id) = sealed_store();
    fs.unplant(&segment_path(id));
    let error = open(&fs).unwrap_err();
    assert!(matches!(&error, SegmentError::MissingSegment { path } if *path == segment_path(id)), "{error}");
    let salvaged = read_only(&fs, Tolerance::Salvage).unwrap();
    assert!(!salvaged.segments().is_empty());
    assert!(matches!(salvaged.report().damage[..], [SegmentError::MissingSegment { .. }]));
}

#[test]
fn row_15_segments_swapped() {
    let (fs, id) = sealed_store();
    let (one, other) = (fs.read_file(&segment_path(id)).unwrap(), fs.read_file(&segment_path(id + 1)).unwrap());
    fs.plant(&segment_path(id), &other);
    fs.plant(&segment_path(id + 1), &one);
    assert!(matches!(open(&fs), Err(SegmentError::Corrupt { .. })));
    // A segment of another store with its name.
    let elsewhere = SimFs::new();
    let mut world = World::new(elsewhere.clone(), options(AppendMode::Mapped, 1024, 99));
    world.run(&[PUT; 30]).unwrap();
    fs.plant(&segment_path(id + 1), &other);
    let mut foreign = elsewhere.read_file(&segment_path(id)).unwrap();
    foreign.truncate(one.len());
    fs.plant(&segment_path(id), &foreign);
    let error = open(&fs).unwrap_err();
    assert!(matches!(error, SegmentError::Corrupt { reason: Damage::Misplaced { .. }, .. }), "{error}");
}

#[test]
fn row_16_unnamed_files() {
    let (fs, _) = store(5, true);
    for name in [
        "0000000077.seg",
        "0000000078.spare",
        "MANIFEST.tmp",
        "0000000007.tbl",
        "0000000009.tbl.tmp",
        "0000000009.tbl.spill.tmp",
    ] {
        fs.plant(&path(name), b"anything");
    }
    fs.plant(&path("notes.txt"), b"mine");
    fs.plant(&path("7.tbl"), b"mine");
    let listed = read_only(&fs, Tolerance::Strict).unwrap().report().garbage.len();
    assert_eq!(listed, 6);
    assert_eq!(fs.read_file(&path("0000000077.seg")).unwrap(), b"anything", "a read-only open changes nothing");
    let (count, report) = open(&fs).unwrap();
    assert_eq!((count, report.garbage.len()), (5, 6));
    let names = fs.names_in(Path::new(DIR)).unwrap();
    assert!(!names.iter().any(|name| report.garbage.contains(name)));
    for other in ["notes.txt", "7.tbl"] {
        assert!(names.contains(&other.to_owned()), "what is not the store's is left alone");
    }
}

/// A list of one table, which covers the log up to its end.
fn tables_of(open: &common::Open, id: u32) -> NamedTables {
    let (segment, offset) = open.store.end().unwrap();
    let covered = CoveredPosition { segment, offset, next_seq: open.appender.next_seq(), compacted_below: segment + 1 };
    NamedTables { newest_first: vec![NamedTable { id, salt: 5, len_bytes: 1000 }], covered }
}

#[test]
fn row_17_named_tables() {
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 1024, 1));
    world.run(&[PUT]).unwrap();
    let opened = world.open.take().unwrap();
    let taken: Vec<u32> = (0..3).map(|_| opened.store.take_table_id().unwrap()).collect();
    assert_eq!(taken, [1, 2, 3]);
    fs.plant(&path("0000000001.tbl"), b"the first");
    fs.plant(&path("0000000002.tbl"), b"the second");
    opened.store.set_tables(tables_of(&opened, 1), 1).unwrap();
    opened.store.set_tables(tables_of(&opened, 2), 1).unwrap();
    let is_refused = |tables: NamedTables| {
        let refused = opened.store.set_tables(tables, 1);
        assert!(matches!(refused, Err(SegmentError::Invalid { .. })), "{refused:?}");
    };
    // Its id was not taken, or its position is not in this log.
    is_refused(tables_of(&opened, 4));
    let tables = tables_of(&opened, 3);
    is_refused(NamedTables { covered: CoveredPosition { segment: 9, ..tables.covered }, ..tables.clone() });
    is_refused(NamedTables { covered: CoveredPosition { next_seq: 1 << 40, ..tables.covered }, ..tables.clone() });
    is_refused(NamedTables { newest_first: Vec::new(), ..tables });
    opened.appender.close(STAMP).unwrap();
    drop(opened.store);
    let (count, report) = open(&fs).unwrap();
    assert_eq!((count, report.garbage), (1, vec!["0000000001.tbl".to_owned()]), "the second is named");
    let manifest = read_only(&fs, Tolerance::Strict).unwrap().manifest().clone();
    assert_eq!((manifest.tables.newest_first[0].id, manifest.next_table_id), (2, 3));
    // A missing file is an error only for its reader.
    fs.unplant(&path("0000000002.tbl"));
    assert_eq!(open(&fs).unwrap().0, 1);
}

#[test]
fn row_17_a_log_that_ends_before_what_tables_cover() {
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 4096, 1));
    world.run(&[PUT, PUT, Step::Sync]).unwrap();
    let opened = world.open.take().unwrap();
    assert_eq!(opened.store.take_table_id().unwrap(), 1);
    opened.store.set_tables(tables_of(&opened, 1), 2).unwrap();
    drop(opened);
    fs.settle();
    let ends = record_ends(&fs, 1);
    assert_eq!(open(&fs.after_kill()).unwrap().0, 2);
    // No record states that it is durable, but the tables do.
    edit(&fs, &segment_path(1), |bytes| bytes[ends[0]..].fill(0));
    let error = open(&fs).unwrap_err();
    let is_named = matches!(&error, SegmentError::Corrupt { path, offset, reason: Damage::CoveredLost { .. } }
        if *path == segment_path(1) && *offset == ends[0] as u64);
    assert!(is_named, "{error}");
    assert_eq!(read_only(&fs, Tolerance::Salvage).unwrap().report().damage.len(), 1);
}

#[test]
fn row_18_locked() {
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 1024, 1));
    world.run(&[PUT]).unwrap();
    assert!(matches!(open(&fs), Err(SegmentError::Locked { .. })));
    assert!(matches!(read_only(&fs, Tolerance::Strict), Err(SegmentError::Locked { .. })));
    world.open = None;
    let readers = (read_only(&fs, Tolerance::Strict).unwrap(), read_only(&fs, Tolerance::Strict).unwrap());
    assert!(matches!(open(&fs), Err(SegmentError::Locked { .. })));
    drop(readers);
    assert_eq!(open(&fs).unwrap().0, 1);
}

#[test]
fn row_19_read_only_changes_nothing() {
    let (fs, _) = store(20, false);
    let ends = record_ends(&fs, 1);
    edit(&fs, &segment_path(1), |bytes| bytes[ends[3]..].fill(0));
    let before = fs.op_count();
    let store = read_only(&fs, Tolerance::Strict).unwrap();
    assert_eq!(store.segments()[0].entries().count(), 4);
    assert_eq!(fs.op_count(), before);
}

#[test]
fn row_20_damaged_header() {
    let (fs, id) = sealed_store();
    for at in [0, 10, 16, 24, 40] {
        let state = fs.after_kill();
        edit(&state, &segment_path(id), |bytes| bytes[at] ^= 1);
        assert!(matches!(open(&state), Err(SegmentError::Corrupt { offset: 0, .. })));
        // The manifest has the header's fields.
        let salvaged = read_only(&state, Tolerance::Salvage).unwrap();
        let count: usize = salvaged.segments().iter().map(|segment| segment.scan().count()).sum();
        assert_eq!(count, 30);
    }
}
