//! An open engine in hostile surroundings: the directory renamed and replaced, another working
//! directory, children of fork, and a system without free threads.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends here, and says what it saw")]

use std::path::{Path, PathBuf};
use std::process::Command as Program;

use hightower_engine::{
    Batch, CheckLevel, Command, Components, Durability, Error, SingleNodeEngine, StoreConfig, check,
};
use hightower_segment::sim::run_in_fork;

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::at(dir).with_max_segment_size(64 << 10).with_min_segment_size(4096)
}

fn open(dir: &Path) -> Result<SingleNodeEngine, Error> {
    SingleNodeEngine::with_config(config(dir))
}

fn fill(engine: &SingleNodeEngine, keys: std::ops::Range<u32>) {
    for key in keys {
        engine.put(format!("key {key:05}"), [7; 200]).unwrap();
    }
}

fn is_whole(dir: &Path) -> bool {
    let report = check(&Components::default(), dir, CheckLevel::Tables, &mut |_| std::ops::ControlFlow::Continue(()));
    report.unwrap().is_whole()
}

#[test]
fn an_engine_stays_with_its_directory() {
    let temp = tempfile::tempdir().unwrap();
    let (here, there) = (temp.path().join("store"), temp.path().join("moved"));
    let engine = open(&here).unwrap();
    fill(&engine, 0..500);
    std::fs::rename(&here, &there).unwrap();
    let other = open(&here).unwrap();
    fill(&other, 0..300);
    fill(&engine, 500..1500);
    for key in 0..1000 {
        engine.delete(format!("key {key:05}")).unwrap();
    }
    engine.run_compaction_now().unwrap();
    engine.checkpoint().unwrap();
    let backup = temp.path().join("backup");
    let report = engine.backup_to(&backup).unwrap();
    assert!(report.linked_segments > 0, "{report:?}");
    engine.put_with("last", "one", Durability::Sync).unwrap();
    let error = open(&there).unwrap_err();
    assert!(matches!(error, Error::Locked { by_this_process: true, .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("{} is in use by this process", there.display())), "{error}");
    engine.close().unwrap();
    other.close().unwrap();
    drop((engine, other));
    assert!([&here, &there, &backup].iter().all(|dir| is_whole(dir)));
    assert_eq!([&here, &there, &backup].map(|dir| open(dir).unwrap().len()), [300, 501, 500]);
}

/// In a child process, because the working directory belongs to the whole process.
#[test]
fn a_relative_data_dir_is_resolved_once() {
    let temp = tempfile::tempdir().unwrap();
    let dirs = ["one", "two"].map(|name| temp.path().join(name));
    dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let done = run_in_fork(|| {
        let relative = PathBuf::from("store");
        for (dir, keys) in dirs.iter().rev().zip([0..300, 0..400]) {
            std::env::set_current_dir(dir).unwrap();
            let engine = open(&relative).unwrap();
            std::env::set_current_dir(&dirs[1]).unwrap();
            fill(&engine, keys);
            engine.run_compaction_now().unwrap();
            engine.checkpoint().unwrap();
            engine.close().unwrap();
        }
        true
    });
    assert!(done.unwrap());
    assert_eq!(dirs.map(|dir| open(&dir.join("store")).unwrap().len()), [400, 300]);
}

#[test]
fn a_child_of_fork_is_refused_everything_and_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    for worker_threads in [0, 1] {
        let dir = temp.path().join(worker_threads.to_string());
        let dir = dir.as_path();
        let engine = SingleNodeEngine::with_config(config(dir).with_commit_queue_depth(1024 * worker_threads)).unwrap();
        fill(&engine, 0..200);
        let engine = std::cell::RefCell::new(Some(engine));
        let refused = run_in_fork(|| {
            let engine = engine.borrow_mut().take().unwrap();
            let command = Command::Delete { key: b"key 00000".into(), version: 1 << 40, timestamp: 0 };
            let outcomes: Vec<Result<(), Error>> = vec![
                engine.put("key 00000", "child").map(drop),
                engine.put_with("a", "b", Durability::Sync).map(drop),
                engine.delete("key 00000").map(drop),
                engine.submit(command.clone()).map(drop),
                engine.submit_async(command).map(drop),
                engine.commit(Batch::new().put("a", "b")).map(drop),
                engine.flush(),
                engine.checkpoint(),
                engine.run_compaction_now().map(drop),
                engine.backup_to(dir.join("../backup")).map(drop),
                engine.get("key 00000").map(drop),
                engine.snapshot().map(drop),
                engine.close(),
            ];
            for (number, outcome) in outcomes.iter().enumerate() {
                let is_refused = outcome.as_ref().is_err_and(|error| error.code() == "forked");
                assert!(is_refused, "call {number}: {outcome:?}");
            }
            drop(engine);
            let error = open(dir).unwrap_err();
            matches!(error, Error::Locked { by_this_process: false, .. })
        });
        assert!(refused.unwrap());
        let engine = engine.into_inner().unwrap();
        assert_eq!(open(dir).unwrap_err().code(), "locked", "the child has unlocked it");
        fill(&engine, 200..1000);
        engine.run_compaction_now().unwrap();
        assert_eq!(engine.get("key 00000").unwrap().unwrap(), [7; 200]);
        engine.close().unwrap();
        drop(engine);
        assert!(is_whole(dir));
        assert_eq!(open(dir).unwrap().len(), 1000);
    }
}

/// Runs the test `name` of this file in a separate process.
fn run_alone(name: &str, dir: &Path, stack_bytes: u64) -> bool {
    let program = std::env::current_exe().unwrap();
    let mut program = Program::new(program);
    program.args(["--exact", name, "--ignored", "--test-threads=1", "--nocapture"]);
    program.env("RUST_MIN_STACK", stack_bytes.to_string()).env("SURROUNDINGS_DIR", dir);
    program.status().unwrap().success()
}

/// Stack size of threads, too large for every system.
const NO_STACK_BYTES: u64 = 1 << 50;

#[test]
#[cfg(target_pointer_width = "64")]
fn without_threads_opening_fails_and_leaves_the_store_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let engine = open(temp.path()).unwrap();
    fill(&engine, 0..200);
    engine.close().unwrap();
    drop(engine);
    assert!(run_alone("in_a_process_without_threads", temp.path(), NO_STACK_BYTES));
    assert!(is_whole(temp.path()));
    assert_eq!(open(temp.path()).unwrap().len(), 200);
}

#[test]
#[ignore = "the other test runs it, in a process that can start no threads"]
fn in_a_process_without_threads() {
    let Some(dir) = std::env::var_os("SURROUNDINGS_DIR") else { return };
    assert!(std::thread::Builder::new().spawn(|| ()).is_err());
    for worker_threads in [0, 1] {
        let opened =
            SingleNodeEngine::with_config(config(Path::new(&dir)).with_commit_queue_depth(1024 * worker_threads));
        let error = opened.unwrap_err();
        assert!(error.code() == "io" && error.to_string().contains("cannot start the thread"), "{error}");
    }
    // The lock is released, and nothing is missing.
    let engine = SingleNodeEngine::open_read_only(Path::new(&dir)).unwrap();
    assert_eq!(engine.len(), 200);
}
