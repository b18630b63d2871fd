//! Each call in a process with few free file descriptors.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends here, and says what it saw")]
#![cfg(unix)]

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use hightower_engine::{
    CheckLevel, Components, Durability, Error, SingleNodeEngine, StoreConfig, check, import_snapshot, restore, salvage,
};
use hightower_segment::sim::run_in_fork;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::at(dir).with_max_segment_size(16 << 10).with_min_segment_size(4096)
}

fn fill(engine: &SingleNodeEngine, keys: std::ops::Range<u32>) {
    keys.for_each(|key| {
        engine.put(format!("key {key:05}"), [7; 200]).unwrap();
    });
}

/// Takes all descriptors except `free` of them.
fn hoard(free: usize) -> Vec<File> {
    setrlimit(Resource::Nofile, Rlimit { current: Some(150), ..getrlimit(Resource::Nofile) }).unwrap();
    let mut hoard: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    hoard.truncate(hoard.len() - free);
    hoard
}

type Call = fn(&SingleNodeEngine, &Path) -> Result<(), Error>;

const CALLS: [(&str, Call); 13] = [
    ("puts", |engine, _| (500..700).try_for_each(|key| engine.put(format!("key {key:05}"), [7; 200]).map(drop))),
    ("synced put", |engine, _| engine.put_with("key 00001", [7; 200], Durability::Sync).map(drop)),
    ("flush", |engine, _| engine.flush()),
    ("checkpoint", |engine, _| engine.checkpoint().map(drop)),
    ("compaction", |engine, _| engine.run_compaction_now().map(drop)),
    ("backup", |engine, dir| engine.backup_to(dir.join("backup")).map(drop)),
    ("second backup", |engine, dir| engine.backup_to(dir.join("source")).map(drop)),
    ("export", |engine, _| engine.export_snapshot(&mut Vec::new()).map(drop)),
    ("close", |engine, _| engine.close()),
    ("restore", |_, dir| restore(&Components::default(), dir.join("other"), dir.join("copy")).map(drop)),
    ("salvage", |_, dir| {
        let mut watch = |_| ControlFlow::Continue(());
        salvage(&Components::default(), dir.join("other"), dir.join("copy"), &mut watch).map(drop)
    }),
    ("import", |_, dir| {
        // Without a free descriptor there is nothing to import.
        let Ok(stream) = std::fs::read(dir.join("stream")) else { return Ok(()) };
        import_snapshot(&Components::default(), &mut &stream[..], dir.join("copy")).map(drop)
    }),
    ("open", |_, dir| SingleNodeEngine::with_config(config(&dir.join("other")))?.close()),
];

fn is_whole(dir: &Path) -> bool {
    let report = check(&Components::default(), dir, CheckLevel::Tables, &mut |_| ControlFlow::Continue(()));
    report.unwrap().is_whole()
}

/// A number of free descriptors with which every call succeeds, with any work of the store's
/// threads.
const ENOUGH: usize = 64;

/// In child processes, because the limit applies to the whole process.
#[test]
fn few_descriptors_at_each_call_do_no_harm() {
    let temp = tempfile::tempdir().unwrap();
    for (name, call) in CALLS {
        for free in (0..=10).chain([ENOUGH]) {
            let dir = temp.path().join(format!("{name} {free}"));
            let done = run_in_fork(|| {
                let [store, source, other, copy] = ["store", "source", "other", "copy"].map(|name| dir.join(name));
                let other_engine = SingleNodeEngine::with_config(config(&other)).unwrap();
                fill(&other_engine, 0..100);
                let mut stream = Vec::new();
                other_engine.export_snapshot(&mut stream).unwrap();
                std::fs::write(dir.join("stream"), stream).unwrap();
                other_engine.close().unwrap();
                drop(other_engine);
                let engine = SingleNodeEngine::with_config(config(&store)).unwrap();
                fill(&engine, 0..200);
                engine.backup_to(&source).unwrap();
                fill(&engine, 100..500);
                let hoard = hoard(free);
                let error = call(&engine, &dir).err();
                drop(hoard);
                let kind = error.as_ref().map(Error::code);
                assert!(matches!(kind, None | Some("io")), "{name} with {free}: {error:?}");
                if free == ENOUGH {
                    assert!(error.is_none(), "{name}: {error:?}");
                }
                if name != "close" {
                    fill(&engine, 500..700);
                    engine.run_compaction_now().unwrap();
                    engine.checkpoint().unwrap();
                    engine.backup_to(&source).unwrap();
                    engine.close().unwrap();
                }
                drop(engine);
                assert!([&store, &source, &other].iter().all(|dir| is_whole(dir)));
                let again = SingleNodeEngine::with_config(config(&store)).unwrap();
                assert!(!again.open_report().was_unclean() || error.is_some(), "{name} {free}: unclean, {error:?}");
                assert_eq!(again.len(), if name == "close" { 500 } else { 700 }, "{name} {free}");
                drop(again);
                if error.is_none() && copy.exists() && std::fs::read_dir(&copy).unwrap().next().is_some() {
                    assert!(is_whole(&copy));
                } else {
                    // What an attempt left without a descriptor, the next one removes.
                    let made = restore(&Components::default(), &other, &copy);
                    made.unwrap();
                }
                true
            });
            assert!(done.unwrap(), "{name} with {free} descriptors");
        }
    }
}
