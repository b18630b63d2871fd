//! The store of the verbs: opened for one verb, or once for all verbs of a shell.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hightower_kv::{Components, Error, Follower, SingleNodeEngine, Snapshot, StoreConfig, TablesUse};

use crate::failure::Failure;
use crate::interrupt;
use crate::progress::OpenBar;
use crate::screen::Screen;
use crate::units::bytes;

/// The place of the store, and the screen.
#[derive(Debug)]
pub(crate) struct Session {
    data_dir: PathBuf,
    pub(crate) screen: Screen,
    /// The store of a shell, open while the shell runs.
    shared: Option<Arc<SingleNodeEngine>>,
}

impl Session {
    pub(crate) fn new(data_dir: PathBuf, screen: Screen) -> Self {
        Self { data_dir, screen, shared: None }
    }

    /// A session whose verbs all use one open store.
    pub(crate) fn with_store(&self, store: &Store) -> Self {
        Self { data_dir: self.data_dir.clone(), screen: self.screen, shared: Some(Arc::clone(&store.engine)) }
    }

    /// The same store, with JSON output.
    pub(crate) fn for_programs(&self) -> Self {
        let (data_dir, shared) = (self.data_dir.clone(), self.shared.clone());
        Self { data_dir, screen: Screen::new(true), shared }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The store, for reading. Creates and changes nothing.
    pub(crate) fn reader(&self) -> Result<Store, Failure> {
        self.open(StoreConfig::at(&self.data_dir).with_read_only(true))
    }

    /// Runs `work` with a snapshot of the store. While another process has the store open for
    /// writing, it is the snapshot of a follower.
    pub(crate) fn look<T>(&self, work: impl FnOnce(&Snapshot) -> Result<T, Failure>) -> Result<T, Failure> {
        match self.reader() {
            Ok(store) => store.finish(|store| work(&store.snapshot()?)),
            Err(locked) => work(&self.beside(locked)?.snapshot()?),
        }
    }

    /// A follower of the store, if an open has failed because another process has the store.
    pub(crate) fn beside(&self, failure: Failure) -> Result<Follower, Failure> {
        match failure {
            Failure::Store(Error::Locked { .. }) => Ok(Follower::open(&self.data_dir)?),
            other => Err(other),
        }
    }

    /// The store, for reading and writing. Creates it if it does not exist.
    pub(crate) fn writer(&self) -> Result<Store, Failure> {
        self.open(StoreConfig::at(&self.data_dir))
    }

    /// The store, for reading and writing. Fails if it does not exist.
    pub(crate) fn existing_writer(&self) -> Result<Store, Failure> {
        let is_empty = || std::fs::read_dir(&self.data_dir).is_ok_and(|mut files| files.next().is_none());
        if self.shared.is_none() && (!self.data_dir.exists() || is_empty()) {
            return Err(self.no_store());
        }
        self.writer()
    }

    /// Fails if the directory contains no store; the message names the directory and the verbs that
    /// create one.
    pub(crate) fn unless_missing(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Store(Error::NotFound(_)) => self.no_store(),
            other => other,
        }
    }

    fn no_store(&self) -> Failure {
        Failure::NoStore(self.data_dir.clone())
    }

    /// Fails in a shell, because it has the store open.
    pub(crate) fn needs_the_store_for_itself(&self, verb: &str) -> Result<(), Failure> {
        match self.shared {
            Some(_) => Err(Failure::Usage(format!("{verb} needs the files of a closed store: leave the shell first"))),
            None => Ok(()),
        }
    }

    fn open(&self, config: StoreConfig) -> Result<Store, Failure> {
        match &self.shared {
            Some(engine) => Ok(Store { engine: Arc::clone(engine), owned: false }),
            None if self.data_dir.is_file() => {
                Err(Failure::Usage(format!("{} is a file, not the directory of a store", self.data_dir.display())))
            }
            None => Store::open_visibly(config, self.screen).map_err(|failure| self.unless_missing(failure)),
        }
    }
}

/// An open store. [`close`](Store::close) it, to get the error of closing.
#[derive(Debug)]
pub(crate) struct Store {
    engine: Arc<SingleNodeEngine>,
    /// Whether closing this handle closes the store.
    owned: bool,
}

impl Store {
    /// Opens a store and registers it with the handler of Ctrl-C, which closes it if the verb does
    /// not react.
    pub(crate) fn open(config: StoreConfig) -> Result<Self, Failure> {
        Self::open_visibly(config, Screen::new(true))
    }

    /// As [`open`](Self::open), with a progress bar for slow openings, and notes on writes that a
    /// crash dropped and on unusable tables.
    fn open_visibly(config: StoreConfig, screen: Screen) -> Result<Self, Failure> {
        let mut bar = OpenBar::new(screen);
        let opened =
            SingleNodeEngine::open_with_progress(config, Components::default(), |progress| bar.show(&progress));
        drop(bar);
        let engine = Arc::new(opened.map_err(Failure::or_interrupted)?);
        let dropped_bytes = engine.open_report().dropped_bytes();
        if dropped_bytes > 0 {
            let dropped = bytes(dropped_bytes);
            screen
                .note(&format!("the last writer did not close the store: {dropped} of unfinished writes were dropped"));
        }
        if let Some(damage) = &engine.open_report().recovery.history_damage {
            screen.note(&format!("a part of the history is lost: {damage}"));
        }
        if let TablesUse::Rebuilt { reason } = &engine.open_report().tables {
            let done = match engine.stats().tables.is_empty() {
                false => "the tables were rebuilt from the log",
                true => "the whole log was read into memory",
            };
            screen.note(&format!("a table could not be used, so {done}: {reason}"));
        }
        interrupt::close_on_interrupt(&engine);
        Ok(Self { engine, owned: true })
    }

    /// The engine, for callers that must own it. Closing this handle closes it too.
    pub(crate) fn engine(&self) -> Arc<SingleNodeEngine> {
        Arc::clone(&self.engine)
    }

    /// Makes all writes durable and closes the store, except in a shell.
    pub(crate) fn close(self) -> Result<(), Failure> {
        if self.owned {
            self.engine.close()?;
        }
        Ok(())
    }

    /// Runs `work` with the store and closes the store afterwards, also after an error. Returns the
    /// first error.
    pub(crate) fn finish<T>(self, work: impl FnOnce(&Self) -> Result<T, Failure>) -> Result<T, Failure> {
        let result = work(&self);
        let closed = self.close();
        let value = result?;
        closed?;
        Ok(value)
    }
}

impl Deref for Store {
    type Target = SingleNodeEngine;

    fn deref(&self) -> &SingleNodeEngine {
        &self.engine
    }
}
