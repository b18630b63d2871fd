//! Nobody waits for a sync but those who asked for it: readers and other writers go on while one is stuck, in a commit or in a compaction.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use common::config;
use hightower_engine::{AppendMode, Components, Durability, SingleNodeEngine};
use hightower_segment::sim::SimFs;
use hightower_segment::{Access, Dir, File, Fs, Lock, LockKind, MapPermit, Mapping, Metadata};

/// Where syncs wait while it is shut.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_shut: bool,
    waiting: usize,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        state = self.changed.wait_while(state, |state| state.is_shut).unwrap();
        state.waiting -= 1;
    }

    /// Shut until the guard goes, also by a panic: else those who wait would wait for ever.
    fn shut(&self) -> Shut<'_> {
        self.state.lock().unwrap().is_shut = true;
        Shut(self)
    }

    fn wait_for(&self, waiting: usize) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| state.waiting < waiting).unwrap());
    }
}

struct Shut<'a>(&'a Gate);

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().is_shut = false;
        self.0.changed.notify_all();
    }
}

/// A file system on which the syncs of files pass the gate, and what begins to write for one.
#[derive(Debug)]
struct GatedFs(SimFs, Arc<Gate>);

#[derive(Debug)]
struct GatedDir(Arc<dyn Dir>, Arc<Gate>);

#[derive(Debug)]
struct GatedFile(Arc<dyn File>, Arc<Gate>);

impl GatedDir {
    fn gated(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(GatedFile(file, Arc::clone(&self.1)))
    }
}

impl Fs for GatedFs {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(GatedDir(self.0.open_dir(path)?, Arc::clone(&self.1))))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }
}

impl Dir for GatedDir {
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn create_new(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.0.create_new(name).map(|file| self.gated(file))
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        self.0.open(name, access).map(|file| self.gated(file))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, name: &str) -> io::Result<()> {
        self.0.remove_file(name)
    }
    fn hard_link(&self, name: &str, target: &dyn Dir, link: &str) -> io::Result<()> {
        self.0.hard_link(name, target, link)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn metadata(&self, name: &str) -> io::Result<Metadata> {
        self.0.metadata(name)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn try_lock(&self, kind: LockKind) -> io::Result<Option<Box<dyn Lock>>> {
        self.0.try_lock(kind)
    }
    fn is_locked_by_this_process(&self) -> bool {
        self.0.is_locked_by_this_process()
    }
    fn preallocation_is_promise(&self) -> io::Result<bool> {
        self.0.preallocation_is_promise()
    }
}

impl File for GatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync_data()
    }
    fn start_writing(&self, offset: u64, len_bytes: u64) {
        self.1.pass();
        self.0.start_writing(offset, len_bytes);
    }
    fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }
    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        self.0.allocate(len_bytes)
    }
    fn map(&self, len_bytes: usize, access: Access, permit: MapPermit) -> io::Result<Mapping> {
        self.0.map(len_bytes, access, permit)
    }
}

/// A store whose records go out by positioned writes, so that each sync is one of a file.
fn open() -> (SingleNodeEngine, Arc<Gate>) {
    let gate = Arc::<Gate>::default();
    let fs = Arc::new(GatedFs(SimFs::new(), Arc::clone(&gate)));
    let engine = SingleNodeEngine::with_components(
        config(AppendMode::Positioned).with_max_segment_size(1 << 20),
        Components::default().with_fs(fs),
    );
    (engine.unwrap(), gate)
}

/// Everything that should wait for nobody.
fn read_and_write(engine: &SingleNodeEngine) {
    let snapshot = engine.snapshot().unwrap();
    let before = snapshot.get("a").unwrap();
    assert_eq!(engine.get("a").unwrap(), before);
    let pairs: Vec<_> = engine.range(..).unwrap().map(|entry| entry.into_pair().unwrap()).collect();
    assert_eq!(pairs.len(), engine.len());
    engine.put_with("beside", "it", Durability::Os).unwrap();
    engine.put_with("beside", "it", Durability::Interval(Duration::from_secs(3600))).unwrap();
    assert_eq!(engine.get("beside").unwrap().unwrap(), b"it");
    engine.delete_with("beside", Durability::Os).unwrap();
    assert!(!engine.contains_key("beside").unwrap());
    assert_eq!(snapshot.get("a").unwrap(), before);
}

/// Lets `stuck` run into the shut gate, until so many wait there, and then others work.
fn nobody_waits_for(
    engine: &SingleNodeEngine,
    gate: &Gate,
    waiting: usize,
    stuck: impl FnOnce(&SingleNodeEngine) + Send,
) {
    thread::scope(|scope| {
        let shut = gate.shut();
        let stuck = scope.spawn(|| stuck(engine));
        gate.wait_for(waiting);
        let others = scope.spawn(|| read_and_write(engine));
        // Many short waits, not one moment: a machine that stands still for a while must not end it.
        let have_ended = (0..20_000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            others.is_finished()
        });
        assert!(have_ended, "they wait for a sync that none of them asked for");
        assert!(!stuck.is_finished(), "it did not wait for its sync");
        drop(shut);
        others.join().unwrap();
        stuck.join().unwrap();
    });
}

#[test]
fn readers_and_other_writers_wait_for_no_commit_that_waits_for_its_sync() {
    let (engine, gate) = open();
    engine.put("a", "1").unwrap();
    nobody_waits_for(&engine, &gate, 1, |engine| {
        engine.put_with("a", "2", Durability::Sync).unwrap();
    });
    assert_eq!(engine.get("a").unwrap().unwrap(), b"2");
}

/// The device begins with a long batch before its sync, on a thread that nobody waits for.
#[test]
fn readers_and_other_writers_wait_for_no_batch_that_is_on_its_way() {
    let (engine, gate) = open();
    engine.put("a", "1").unwrap();
    nobody_waits_for(&engine, &gate, 2, |engine| {
        let batch = (0..200).map(|number| (format!("{number}"), [1; 100])).collect();
        assert!(engine.commit_with(&batch, Durability::Sync).unwrap().is_committed());
    });
}

#[test]
fn readers_and_writers_wait_for_no_compaction() {
    let (engine, gate) = open();
    for number in 0..2_000 {
        engine.put(format!("{}", number % 300), [1; 1000]).unwrap();
    }
    engine.put("a", "1").unwrap();
    nobody_waits_for(&engine, &gate, 1, |engine| {
        assert!(engine.run_compaction_now().unwrap().moved_records > 0);
    });
}
