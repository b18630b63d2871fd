//! A real device that is full, under a real map: it is told by errors, never by a signal, and what makes room still works.
//!
//! The device is a small tmpfs in a mount namespace of its own, which goes with the process that the test runs in it. Where that is not allowed, the
//! test says so and is skipped.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that says what it skips")]

use std::process::Command;

use hightower_engine::{AppendMode, ErrorKind, SingleNodeEngine, StoreConfig};

const DEVICE: &str = "HIGHTOWER_TEST_DEVICE";
const MOUNT: &str = r#"mount -t tmpfs -o size=6m none "$1""#;

/// Whether a command ends well in a mount namespace of its own.
fn apart(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", script, "sh"]).args(arguments);
    command
}

#[test]
fn a_full_device_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    if !apart(MOUNT, &[dir]).output().is_ok_and(|tried| tried.status.success()) {
        println!("SKIPPED: this process may not mount a small tmpfs");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let script = format!(r#"{MOUNT} && exec "$2" --exact --ignored --nocapture on_a_small_device"#);
    let ran = apart(&script, &[dir, this.to_str().unwrap()]).env(DEVICE, dir).output().unwrap();
    let told = [ran.stdout, ran.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(ran.status.success(), "{}: {told}", ran.status);
    assert!(told.contains("1 passed"), "{told}");
}

fn key(number: u32) -> String {
    format!("key/{number:06}")
}

#[test]
#[ignore = "run by the other test, on a device of its own"]
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

/// Puts until the device is full, and says how many there were.
fn fill(engine: &SingleNodeEngine) -> u32 {
    let is_refused = |number: &u32| match engine.put(key(*number), [number.to_le_bytes()[0]; 1000]) {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Full, "{error}");
            true
        }
    };
    let written = (0..6000).find(is_refused).unwrap();
    assert!(written > 2000, "{written}");
    written
}
