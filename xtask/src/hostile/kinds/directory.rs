//! The store's directory is moved, replaced by another store, linked to, or removed; its lock is
//! removed; the working directory changes under a relative name. Acknowledged writes are in the
//! directory at its new place, and the store that took its name is unchanged.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use hightower_engine::{Components, SingleNodeEngine, StoreConfig};

use crate::hostile::operations::Mix;
use crate::hostile::plan::Plan;
use crate::hostile::random::Random;
use crate::hostile::round::Round;
use crate::hostile::store::Store;
use crate::hostile::storm::{config, model, run as storm};
use crate::hostile::watch::doing;

/// The calls on the store while its directory has changed.
const MIX: Mix = &[
    ("put", 100),
    ("delete", 20),
    ("batch", 20),
    ("get", 40),
    ("range", 4),
    ("snapshot", 4),
    ("held", 10),
    ("flush", 5),
    ("checkpoint", 5),
    ("compact", 10),
];

/// The errors of a store whose directory was removed.
const REMOVED: &[&str] = &["io", "poisoned", "not_found"];

const EVENTS: &[&str] = &["chdir", "moved", "swapped", "lock", "removed", "linked"];

pub(super) fn run(round: &Round) -> Result<()> {
    let mut random = Random::new(round.plan.seed);
    let events: Vec<_> = EVENTS.iter().copied().filter(|event| !round.plan.without.contains(*event)).collect();
    let event = random.pick(&events);
    println!("event {event}");
    let mut attack = Attack { round, plan: round.plan.clone(), random };
    match event {
        "chdir" => attack.change_directory(),
        "moved" => attack.move_away(false),
        "swapped" => attack.move_away(true),
        "lock" => attack.remove_lock(),
        "removed" => attack.remove_all(),
        _ => attack.link(),
    }
    .with_context(|| format!("the event is {event}"))
}

struct Attack<'a> {
    round: &'a Round,
    plan: Plan,
    random: Random,
}

impl Attack<'_> {
    fn config(&mut self, dir: &Path) -> StoreConfig {
        let mut config = config(&mut self.random, dir);
        // Many files are created.
        config.max_segment_size = self.random.pick(&[4 << 10, 16 << 10]);
        config.min_segment_size = 4 << 10;
        config
    }

    fn open(&mut self, dir: &Path, scratch: &str) -> Result<Store> {
        let config = self.config(dir);
        Store::open(config, Components::default(), &self.round.dir.join(scratch), model(600), &self.plan)
    }

    fn storm(&mut self, store: &Store) -> Result<()> {
        storm(store, &self.plan, &mut self.random, MIX)
    }

    /// Checks that the directory's current content is the store that its model describes.
    fn expect(&mut self, store: &Store, dir: &Path) -> Result<()> {
        let _doing = doing("expect", &dir.display().to_string());
        let engine =
            SingleNodeEngine::with_config(self.config(dir)).with_context(|| format!("open {}", dir.display()))?;
        store.model.settle();
        store.verify(&engine, &store.model.read()).with_context(|| format!("in {}", dir.display()))?;
        Ok(engine.close()?)
    }

    /// A relative name, and another store with the same name below the process's new working
    /// directory.
    fn change_directory(&mut self) -> Result<()> {
        let (here, there) = (self.round.dir.join("here"), self.round.dir.join("there"));
        fs::create_dir_all(&here)?;
        fs::create_dir_all(&there)?;
        let other = self.open(&there.join("kv"), "scratch-other")?;
        self.storm(&other)?;
        ensure!(other.close(1)? == Some(None), "a close among friends");
        std::env::set_current_dir(&here)?;
        let store = self.open(Path::new("kv"), "scratch")?;
        self.storm(&store)?;
        std::env::set_current_dir(&there)?;
        self.storm(&store)?;
        ensure!(store.close(1)? == Some(None), "a close in another working directory");
        self.expect(&store, &here.join("kv"))?;
        self.expect(&other, &there.join("kv"))
    }

    /// The directory is renamed while the store is open; another store may take its old name.
    fn move_away(&mut self, is_replaced: bool) -> Result<()> {
        let (dir, moved) = (self.round.store_dir(), self.round.dir.join("moved"));
        let store = self.open(&dir, "scratch")?;
        self.storm(&store)?;
        fs::rename(&dir, &moved)?;
        let other = if is_replaced { Some(self.open(&dir, "scratch-other")?) } else { None };
        for _ in 0..2 {
            self.storm(&store)?;
            if let Some(other) = &other {
                self.storm(other)?;
            }
        }
        ensure!(store.close(1)? == Some(None), "a close in a directory that was moved");
        if let Some(other) = &other {
            self.storm(other)?;
            ensure!(other.close(1)? == Some(None), "a close among friends");
            self.expect(other, &dir)?;
        }
        self.expect(&store, &moved)
    }

    /// Without its lock file the store still admits only one writer.
    fn remove_lock(&mut self) -> Result<()> {
        let dir = self.round.store_dir();
        let store = self.open(&dir, "scratch")?;
        self.storm(&store)?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_none() && !path.ends_with("MANIFEST") {
                fs::remove_file(path)?;
            }
        }
        for read_only in [false, true] {
            match SingleNodeEngine::with_config(self.config(&dir).with_read_only(read_only)) {
                Err(error) if error.code() == "locked" => {}
                Err(error) => bail!("a second opening of a store without LOCK fails with {error}"),
                Ok(_) => bail!("a second one is admitted once LOCK was removed (read-only: {read_only})"),
            }
        }
        self.storm(&store)?;
        ensure!(store.close(1)? == Some(None), "a close without LOCK");
        self.expect(&store, &dir)
    }

    /// All files are removed: reads continue, writes fail or have no effect, and nothing crashes or
    /// waits forever.
    fn remove_all(&mut self) -> Result<()> {
        let dir = self.round.store_dir();
        let store = self.open(&dir, "scratch")?;
        self.storm(&store)?;
        store.allow(REMOVED);
        // Its own threads may create files meanwhile.
        while let Err(error) = fs::remove_dir_all(&dir) {
            ensure!(error.kind() == std::io::ErrorKind::DirectoryNotEmpty, "remove the directory: {error}");
        }
        self.storm(&store)?;
        store.close(1)?;
        ensure!(!dir.join("MANIFEST").exists(), "a store that was removed is back");
        // A new store can take its name.
        let next = self.open(&dir, "scratch-next")?;
        self.storm(&next)?;
        next.finish(1)
    }

    /// The directory is opened through a link, which then changes its target.
    fn link(&mut self) -> Result<()> {
        let (real, link): (PathBuf, PathBuf) = (self.round.dir.join("real"), self.round.dir.join("link"));
        let elsewhere = self.round.dir.join("elsewhere");
        fs::create_dir_all(&real)?;
        std::os::unix::fs::symlink(&real, &link)?;
        let other = self.open(&elsewhere, "scratch-other")?;
        self.storm(&other)?;
        ensure!(other.close(1)? == Some(None), "a close among friends");
        let store = self.open(&link, "scratch")?;
        self.storm(&store)?;
        fs::remove_file(&link)?;
        std::os::unix::fs::symlink(&elsewhere, &link)?;
        self.storm(&store)?;
        ensure!(store.close(1)? == Some(None), "a close behind a link that points elsewhere");
        self.expect(&store, &real)?;
        self.expect(&other, &elsewhere)
    }
}
