//! Backup, restore, export, import, check and salvage.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hightower_engine::{
    CheckLevel, Components, RepairProgress, SingleNodeEngine, SnapshotEngine, StoreConfig, check, dump,
    import_snapshot, restore, salvage,
};
use tempfile::TempDir;

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::at(dir).with_max_segment_size(16 << 10).with_compaction_interval(Duration::ZERO)
}

fn open(dir: &Path) -> SingleNodeEngine {
    SingleNodeEngine::with_config(config(dir)).unwrap()
}

/// Whether a failed copy has left no files.
fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |entries| entries.count() == 0)
}

fn go_on(_: RepairProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A store with overwritten and deleted keys, partly compacted.
fn filled(dir: &Path) -> SingleNodeEngine {
    let engine = open(dir);
    for round in 0..3 {
        for number in 0..400 {
            engine.put(format!("key/{number:04}"), format!("value {round} {number}").repeat(4)).unwrap();
        }
    }
    engine.run_compaction_now().unwrap();
    for number in 0..100 {
        engine.delete(format!("key/{number:04}")).unwrap();
        engine.put(format!("new/{number}"), [9; 300]).unwrap();
    }
    engine
}

fn digest(dir: &Path) -> u64 {
    SingleNodeEngine::open_read_only(dir).unwrap().snapshot_state().unwrap().digest()
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    segments.sort();
    segments
}

#[test]
fn a_backup_is_a_store_and_an_incremental_one_copies_only_what_is_new() {
    let dir = TempDir::new().unwrap();
    let (kv, backup) = (dir.path().join("kv"), dir.path().join("backup"));
    let engine = filled(&kv);
    let first = engine.backup_to(&backup).unwrap();
    assert!(first.linked_segments > 0 && first.copied_segments > 0 && first.kept_segments == 0, "{first:?}");
    assert_eq!(digest(&backup), engine.snapshot_state().unwrap().digest());

    engine.put("after", "the first").unwrap();
    let second = engine.backup_to(&backup).unwrap();
    assert!(second.kept_segments > 0 && second.copied_segments == 1 && second.seq > first.seq, "{second:?}");
    assert_eq!(digest(&backup), engine.snapshot_state().unwrap().digest());
    let third = engine.backup_to(&backup).unwrap();
    assert_eq!((third.kept_segments, third.copied_bytes), (third.segments, 0));

    // Later changes of the store's files do not change the backup.
    let state = engine.snapshot_state().unwrap().digest();
    for round in 0..5 {
        for number in 0..400 {
            engine.put(format!("key/{number:04}"), format!("later {round}")).unwrap();
        }
        engine.run_compaction_now().unwrap();
    }
    assert_eq!(digest(&backup), state);
    let fourth = engine.backup_to(&backup).unwrap();
    assert!(fourth.removed_files > 0);
    assert_eq!(digest(&backup), engine.snapshot_state().unwrap().digest());
}

#[test]
fn a_backup_refuses_directories_of_others_and_its_own() {
    let dir = TempDir::new().unwrap();
    let (kv, other) = (dir.path().join("kv"), dir.path().join("other"));
    let engine = filled(&kv);
    assert_eq!(engine.backup_to(&kv).unwrap_err().code(), "validation");
    let second = open(&other);
    assert_eq!(engine.backup_to(&other).unwrap_err().code(), "locked");
    drop(second);
    assert_eq!(engine.backup_to(&other).unwrap_err().code(), "conflict");
    let documents = dir.path().join("documents");
    fs::create_dir(&documents).unwrap();
    fs::write(documents.join("letter.txt"), "dear").unwrap();
    assert_eq!(engine.backup_to(&documents).unwrap_err().code(), "conflict");
}

#[test]
fn a_backup_is_of_one_moment_while_writes_and_compactions_go_on() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir.path().join("kv"));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0_u64.. {
                // Two keys that always change in one commit.
                let mut batch = hightower_engine::Batch::new();
                batch.put("a", round.to_string()).put("b", round.to_string());
                assert!(matches!(engine.commit(&batch).unwrap(), hightower_engine::BatchOutcome::Committed(_)));
                if round % 500 == 0 {
                    engine.run_compaction_now().unwrap();
                }
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        while engine.get("a").unwrap().is_none() {
            thread::yield_now();
        }
        let mut rounds = Vec::new();
        for backup in 0..8 {
            let backup = dir.path().join(format!("backup-{}", backup % 2));
            engine.backup_to(&backup).unwrap();
            let copy = SingleNodeEngine::open_read_only(&backup).unwrap();
            let round = copy.get("a").unwrap().expect("the backup began after the first round");
            assert_eq!(copy.get("b").unwrap().as_deref(), Some(&round[..]));
            rounds.push(round.to_vec());
            assert!(!copy.open_report().was_unclean());
            // The next backup must be of a later round.
            while engine.get("a").unwrap().unwrap() == round {
                thread::yield_now();
            }
        }
        rounds.dedup();
        assert_eq!(rounds.len(), 8, "each backup is of a moment of its own");
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_restored_store_goes_on_and_a_failed_restore_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let (kv, backup, restored) = (dir.path().join("kv"), dir.path().join("backup"), dir.path().join("restored"));
    let engine = filled(&kv);
    engine.backup_to(&backup).unwrap();
    let (state, version) = (engine.snapshot_state().unwrap().digest(), engine.latest_version());
    drop(engine);
    let components = Components::default();
    let report = restore(&components, &backup, &restored).unwrap();
    assert!(report.records > 400);
    assert_eq!(restore(&components, &backup, &restored).unwrap_err().code(), "conflict");
    let engine = open(&restored);
    assert_eq!(engine.snapshot_state().unwrap().digest(), state);
    engine.put("more", "x").unwrap();
    assert_eq!(engine.latest_version(), version + 1);
    drop(engine);

    // A damaged byte in a record: the destination stays empty.
    let victim = &segments(&backup)[0];
    let mut bytes = fs::read(victim).unwrap();
    bytes[200] ^= 1;
    fs::write(victim, bytes).unwrap();
    let second = dir.path().join("second");
    assert_eq!(restore(&components, &backup, &second).unwrap_err().code(), "corrupt");
    assert!(is_empty(&second));
}

#[test]
fn a_stream_carries_everything_and_notices_everything() {
    let dir = TempDir::new().unwrap();
    let engine = filled(&dir.path().join("kv"));
    engine.put("large", vec![7; 600_000]).unwrap();
    let mut stream = Vec::new();
    let exported = engine.export_snapshot(&mut stream).unwrap();
    assert_eq!((exported.bytes, exported.records), (stream.len() as u64, 501));
    let components = Components::default();
    let moved = dir.path().join("moved");
    let imported = import_snapshot(&components, &mut &stream[..], &moved).unwrap();
    assert_eq!((imported.records, imported.seq), (exported.records, engine.latest_seq()));
    assert_eq!(digest(&moved), engine.snapshot_state().unwrap().digest());

    let refused = |stream: &[u8]| {
        let broken = dir.path().join("broken");
        let result = import_snapshot(&components, &mut &stream[..], &broken);
        assert!(is_empty(&broken));
        result.unwrap_err().code()
    };
    for at in (0..stream.len()).step_by(stream.len() / 40) {
        let mut damaged = stream.clone();
        damaged[at] ^= 0x04;
        assert!(matches!(refused(&damaged), "corrupt" | "version_unsupported"), "at {at}");
        assert_eq!(refused(&stream[..at]), "corrupt", "cut at {at}");
    }
}

#[test]
fn check_finds_each_damaged_place_and_salvage_saves_the_rest() {
    let dir = TempDir::new().unwrap();
    let kv = dir.path().join("kv");
    let engine = filled(&kv);
    let (records, state) = (
        engine.stats().segments.iter().map(|s| s.live_records + s.dead_records).sum(),
        engine.snapshot_state().unwrap(),
    );
    engine.close().unwrap();
    let components = Components::default();
    for level in [CheckLevel::Structure, CheckLevel::Checksums, CheckLevel::Tables] {
        let report = check(&components, &kv, level, &mut go_on).unwrap();
        assert!(report.is_whole(), "{report:?}");
        if level > CheckLevel::Structure {
            assert_eq!(report.records, records);
        }
    }
    let mut dumped = 0;
    let mut count = |_: hightower_engine::RawRecord<'_>| {
        dumped += 1;
        ControlFlow::Continue(())
    };
    assert_eq!(dump(&components, &kv, &mut count).unwrap(), 0);
    assert_eq!(dumped, records);

    // One damaged byte in the middle of a compacted segment: the report names the neighbouring
    // keys.
    let path = segments(&kv).into_iter().find(|path| fs::read(path).unwrap()[10] == 2).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x80;
    fs::write(&path, &bytes).unwrap();
    assert!(check(&components, &kv, CheckLevel::Structure, &mut go_on).unwrap().is_whole());
    let report = check(&components, &kv, CheckLevel::Checksums, &mut go_on).unwrap();
    let [place] = &report.damage[..] else { panic!("{report:?}") };
    assert_eq!((&place.path, report.records), (&path, records - 1));
    let (Some(keys), Some(len)) = (&place.keys, place.len_bytes) else { panic!("{place:?}") };
    let (Some(before), Some(after)) = (&keys.after, &keys.before) else { panic!("{place:?}") };
    assert!(place.offset <= middle as u64 && place.offset + len > middle as u64);

    let saved = dir.path().join("saved");
    let salvaged = salvage(&components, &kv, &saved, &mut go_on).unwrap();
    assert_eq!((salvaged.records, salvaged.damage.len(), salvaged.without_manifest), (records - 1, 1, false));
    let saved = open(&saved);
    let lost: Vec<_> = state.iter().filter(|(key, value)| saved.get(key).unwrap().as_deref() != Some(value)).collect();
    assert!(lost.len() <= 1 && lost.iter().all(|(key, _)| key > &&before[..] && key < &&after[..]), "{lost:?}");

    // Without the manifest, salvage uses all segment files.
    fs::remove_file(kv.join("MANIFEST")).unwrap();
    assert!(!check(&components, &kv, CheckLevel::Structure, &mut go_on).unwrap().is_whole());
    let again = dir.path().join("again");
    let salvaged = salvage(&components, &kv, &again, &mut go_on).unwrap();
    assert!(salvaged.without_manifest && salvaged.records >= records - 1, "{salvaged:?}");
}

#[test]
fn no_damage_makes_check_or_salvage_fail() {
    let dir = TempDir::new().unwrap();
    let kv = dir.path().join("kv");
    filled(&kv).close().unwrap();
    let files: Vec<_> = fs::read_dir(&kv).unwrap().map(|file| file.unwrap().path()).collect();
    let components = Components::default();
    let mut seed = 7_u64;
    for round in 0..60 {
        let path = &files[round % files.len()];
        let whole = fs::read(path).unwrap();
        let mut damaged = whole.clone();
        for _ in 0..=round % 5 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(seed >> 33).unwrap() % damaged.len().max(1);
            match round % 3 {
                0 => damaged.truncate(at),
                1 => damaged.iter_mut().skip(at).take(300).for_each(|byte| *byte = 0xff),
                _ => damaged.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1),
            }
        }
        fs::write(path, &damaged).unwrap();
        check(&components, &kv, CheckLevel::Tables, &mut go_on).unwrap();
        let saved = dir.path().join(format!("saved-{round}"));
        salvage(&components, &kv, &saved, &mut go_on).unwrap();
        fs::remove_dir_all(saved).unwrap();
        fs::write(path, &whole).unwrap();
    }
    assert!(check(&components, &kv, CheckLevel::Tables, &mut go_on).unwrap().is_whole());
}

#[test]
fn a_quota_refuses_growth_but_not_deletes_and_compaction_makes_room() {
    let dir = TempDir::new().unwrap();
    let config = config(dir.path()).with_max_disk_bytes(1 << 20);
    let engine = SingleNodeEngine::with_config(config).unwrap();
    let mut keys = 0;
    let error = loop {
        match engine.put(format!("key/{keys:05}"), [1; 200]) {
            Ok(_) => keys += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "full");
    assert!(error.to_string().contains("max_disk_bytes"), "{error}");
    assert!(keys > 3000, "{keys}");
    assert!(engine.stats().disk_bytes <= 1 << 20);
    for number in 0..keys / 2 {
        engine.delete(format!("key/{number:05}")).unwrap();
    }
    assert_eq!(engine.len(), keys - keys / 2);
    engine.run_compaction_now().unwrap();
    for number in 0..keys / 4 {
        engine.put(format!("new/{number:05}"), [1; 200]).unwrap();
    }
    drop(engine);
    assert_eq!(open(dir.path()).len(), keys - keys / 2 + keys / 4);
}
