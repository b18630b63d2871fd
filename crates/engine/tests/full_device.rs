//! A full real device under real maps: calls return errors and never cause a signal, and deletes
//! and compaction still work.
//!
//! The device is a small tmpfs or ext4 in a separate mount namespace, which ends with the test's
//! child process. If mounts are not allowed, the test prints this and is skipped.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that says what it skips")]

use std::io::Write;
use std::process::Command;

use hightower_engine::{AppendMode, SingleNodeEngine, StoreConfig};

const DEVICE: &str = "HIGHTOWER_TEST_DEVICE";
const SMALL: &str = r#"mount -t tmpfs -o size=6m none "$1""#;
const TMPFS: &str = r#"mount -t tmpfs -o size=16m none "$1""#;
const TMPFS_48: &str = r#"mount -t tmpfs -o size=48m none "$1""#;
/// On a loop device in a tmpfs, so that both end together.
const EXT4: &str = r#"mount -t tmpfs -o size=80m none "$1" && truncate -s 64M "$1/image" && mkfs.ext4 -q "$1/image" \
    && mkdir "$1/of-loop" && mount -o loop "$1/image" "$1/of-loop" && mount --move "$1/of-loop" "$1""#;

/// The same, so small that little room remains beside the store's own files.
const EXT4_1: &str = r#"mount -t tmpfs -o size=8m none "$1" && truncate -s 1M "$1/image" && mkfs.ext4 -q "$1/image" \
    && mkdir "$1/of-loop" && mount -o loop "$1/image" "$1/of-loop" && mount --move "$1/of-loop" "$1""#;
const EXT4_2: &str = r#"mount -t tmpfs -o size=8m none "$1" && truncate -s 2M "$1/image" && mkfs.ext4 -q "$1/image" \
    && mkdir "$1/of-loop" && mount -o loop "$1/image" "$1/of-loop" && mount --move "$1/of-loop" "$1""#;
const TMPFS_1: &str = r#"mount -t tmpfs -o size=1m none "$1""#;

/// The smallest xfs. Others take all of it but 4 MiB.
const XFS: &str = r#"mount -t tmpfs -o size=330m none "$1" && truncate -s 300M "$1/image" && mkfs.xfs -q "$1/image" \
    && mkdir "$1/of-loop" && mount -o loop "$1/image" "$1/of-loop" && mount --move "$1/of-loop" "$1" \
    && fallocate -l $(($(df -B1 --output=avail "$1" | tail -1) - (4 << 20))) "$1/ballast""#;

/// A command in a separate mount namespace.
fn apart(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", script, "sh"]).args(arguments);
    command
}

/// Runs a test of this file on a separate device.
fn run_on(mount: &str, test: &str) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    if !apart(mount, &[dir]).output().is_ok_and(|tried| tried.status.success()) {
        println!("SKIPPED: this process may not mount a small device: {mount}");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let script = format!(r#"{mount} && exec "$2" --exact --ignored --nocapture "$3""#);
    let ran = apart(&script, &[dir, this.to_str().unwrap(), test]).env(DEVICE, dir).output().unwrap();
    let told = [ran.stdout, ran.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(ran.status.success(), "{mount}: {}: {told}", ran.status);
    assert!(told.contains("1 passed"), "{told}");
}

#[test]
fn a_full_device_is_an_error() {
    run_on(SMALL, "on_a_small_device");
}

#[test]
fn a_full_device_of_half_dead_segments_is_compacted() {
    run_on(TMPFS, "on_a_device_of_half_dead_segments");
    run_on(EXT4, "on_a_device_of_half_dead_segments");
}

#[test]
fn a_full_device_is_compacted_after_any_number_of_openings() {
    run_on(TMPFS_1, "on_a_device_that_is_opened_again_and_again");
    run_on(EXT4_1, "on_a_device_that_is_opened_again_and_again");
    run_on(EXT4_2, "on_a_device_that_is_opened_again_and_again");
    run_on(XFS, "on_a_device_that_is_opened_again_and_again");
}

#[test]
fn keys_longer_than_a_segment_are_deleted_on_a_full_device() {
    run_on(TMPFS_1, "on_a_device_of_long_keys");
    run_on(SMALL, "on_a_device_of_long_keys");
    run_on(EXT4_2, "on_a_device_of_long_keys");
}

#[test]
fn a_small_device_is_of_use_with_default_settings() {
    run_on(TMPFS_48, "on_a_device_of_48_mib");
}

/// A foreign file takes the remaining room of a device.
fn fill_by_others(device: &str) {
    let others = std::fs::OpenOptions::new().create(true).append(true).open(format!("{device}/others"));
    let Ok(mut others) = others else { return };
    for len in [64 << 10, 4096, 512, 1] {
        while others.write_all(&vec![1; len]).is_ok() {}
    }
}

/// Others take the remaining room: deletes and compaction have only the reserves of the store, also
/// after a reopen.
#[test]
#[ignore = "run by another test, on a device of its own"]
fn on_a_device_of_half_dead_segments() {
    let device = std::env::var(DEVICE).unwrap();
    for reopens in [false, true] {
        let mut config = StoreConfig::at(format!("{device}/{reopens}"));
        config.compaction_interval = std::time::Duration::ZERO;
        let mut engine = SingleNodeEngine::with_config(config.clone()).unwrap();
        (0..8000).for_each(|number| assert!(engine.put(key(number), [7; 1000]).unwrap().changed()));
        fill_by_others(&device);
        if reopens {
            engine.close().unwrap();
            fill_by_others(&device);
            engine = SingleNodeEngine::with_config(config.clone()).unwrap();
        }
        (0..8000).step_by(2).for_each(|number| assert!(engine.delete(key(number)).unwrap().changed()));
        let report = engine.run_compaction_now().unwrap();
        assert!(report.freed_bytes > 3_000_000, "{report:?}");
        engine.put("room", [1; 1000]).unwrap();
        assert!((1..8000).step_by(2).all(|number| engine.get(key(number)).unwrap().unwrap() == [7; 1000]));
        assert_eq!(engine.len(), 4001);
        drop(engine);
        std::fs::remove_file(format!("{device}/others")).unwrap();
        std::fs::remove_dir_all(&config.data_dir).unwrap();
    }
}

/// Others take all freed room, and deletes use up their reserve: compaction has its room after each
/// open, and makes room for the deletes.
#[test]
#[ignore = "run by another test, on a device of its own"]
fn on_a_device_that_is_opened_again_and_again() {
    let device = std::env::var(DEVICE).unwrap();
    for closes in [true, false] {
        let mut config = StoreConfig::at(format!("{device}/{closes}"));
        config.compaction_interval = std::time::Duration::ZERO;
        let mut engine = SingleNodeEngine::with_config(config.clone()).unwrap();
        let put = (0..20_000).take_while(|number| engine.put(key(*number), [7; 100]).is_ok()).count();
        let put = u32::try_from(put).unwrap();
        let mut deleted = 0;
        while deleted < put {
            for _ in 0..4 {
                fill_by_others(&device);
                let now = (deleted..put).take_while(|number| engine.delete(key(*number)).is_ok()).count();
                deleted += u32::try_from(now).unwrap();
                if closes {
                    engine.close().unwrap();
                }
                drop(engine);
                fill_by_others(&device);
                engine = SingleNodeEngine::with_config(config.clone()).unwrap();
            }
            let report = engine.run_compaction_now().unwrap();
            assert_eq!(engine.len(), (put - deleted) as usize, "{report:?}");
            if deleted < put {
                assert!(engine.delete(key(deleted)).unwrap().changed(), "{deleted} of {put} are deleted: {report:?}");
                deleted += 1;
            }
        }
        drop(engine);
        std::fs::remove_file(format!("{device}/others")).unwrap();
        std::fs::remove_dir_all(&config.data_dir).unwrap();
    }
}

/// The records of deletes are as long as a segment, or longer: each needs a file of its own.
#[test]
#[ignore = "run by another test, on a device of its own"]
fn on_a_device_of_long_keys() {
    let device = std::env::var(DEVICE).unwrap();
    for (key_len, closes) in [(2500, false), (4000, false), (4000, true), (20_000, true), (65_520, false)] {
        let mut config = StoreConfig::at(format!("{device}/{key_len}-{closes}")).with_max_segment_size(4096);
        config.min_segment_size = 4096;
        config.compaction_interval = std::time::Duration::ZERO;
        let mut engine = SingleNodeEngine::with_config(config.clone()).unwrap();
        let long_key = |number: u32| format!("{number:0>key_len$}");
        let put = (0..20_000).take_while(|number| engine.put(long_key(*number), [7; 10]).is_ok()).count();
        let put = u32::try_from(put).unwrap();
        // While the background seals segments, it may replace the manifest. Others could take that
        // room within an instant: see DURABILITY.md.
        engine.flush().unwrap();
        fill_by_others(&device);
        if closes {
            engine.close().unwrap();
            fill_by_others(&device);
            engine = SingleNodeEngine::with_config(config.clone()).unwrap();
        }
        for number in 0..put {
            if engine.delete(long_key(number)).is_err() {
                let report = engine.run_compaction_now().unwrap();
                let deleted = engine.delete(long_key(number));
                assert!(deleted.is_ok(), "{number} of {put} keys of {key_len} bytes: {deleted:?} after {report:?}");
            }
        }
        assert!(put > 0 && engine.is_empty(), "{put} keys of {key_len} bytes, {} left", engine.len());
        drop(engine);
        std::fs::remove_file(format!("{device}/others")).unwrap();
        std::fs::remove_dir_all(&config.data_dir).unwrap();
    }
}

#[test]
#[ignore = "run by another test, on a device of its own"]
fn on_a_device_of_48_mib() {
    let engine = SingleNodeEngine::with_config(StoreConfig::at(std::env::var(DEVICE).unwrap())).unwrap();
    engine.put("long", vec![1; 300_000]).unwrap();
    let put = (0..5000).take_while(|number| engine.put(key(*number), [1; 10_000]).is_ok()).count();
    assert!(put > 4500, "48 MiB are full with {put} values of 10,000 bytes");
    // A record longer than the remaining room.
    let failure = engine.put("longer", vec![1; 2_000_000]).unwrap_err();
    assert_eq!(failure.code(), "full", "{failure}");
}

fn key(number: u32) -> String {
    format!("key/{number:06}")
}

#[test]
#[ignore = "run by another test, on a device of its own"]
fn on_a_small_device() {
    let device = std::env::var(DEVICE).unwrap();
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        let dir = format!("{device}/{mode:?}");
        let config = StoreConfig::at(&dir).with_max_segment_size(256 << 10).with_append_mode(mode);
        let engine = SingleNodeEngine::with_config(config.clone()).unwrap();
        let written = fill(&engine);
        let held = |engine: &SingleNodeEngine, from: u32| {
            (from..written).all(|number| engine.get(key(number)).unwrap().unwrap() == [number.to_le_bytes()[0]; 1000])
        };
        assert!(held(&engine, 0), "reads go on");
        let deleted = written / 2;
        (0..deleted).for_each(|number| assert!(engine.delete(key(number)).unwrap().changed()));
        engine.run_compaction_now().unwrap();
        engine.put("room", "again").unwrap();
        assert!(held(&engine, deleted));
        drop(engine);
        let again = SingleNodeEngine::with_config(config).unwrap();
        assert_eq!(again.len(), (written - deleted + 1) as usize);
        assert!(held(&again, deleted));
        drop(again);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

/// Puts until the device is full, and returns the number of puts.
fn fill(engine: &SingleNodeEngine) -> u32 {
    let is_refused = |number: &u32| match engine.put(key(*number), [number.to_le_bytes()[0]; 1000]) {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.code(), "full", "{error}");
            true
        }
    };
    let written = (0..6000).find(is_refused).unwrap();
    assert!(written > 2000, "{written}");
    written
}
