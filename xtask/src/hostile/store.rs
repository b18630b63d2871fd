//! A store under attack: the open engine, its model, and the errors that calls may have at the
//! moment.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use hightower_engine::{CheckLevel, Components, Error, SingleNodeEngine, StoreConfig, check};

use super::model::{Model, Reading};
use super::operations::{CLOSED_READS, TOGETHER};
use super::plan::Plan;
use super::watch::{count_error, count_reopening, doing, lock};

/// An engine and the state of its life.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) engine: SingleNodeEngine,
    /// A call of `close` has begun.
    closing: AtomicBool,
    /// A call of `close` has returned.
    closed: AtomicBool,
}

/// Maximum number of attempts of an open that may fail.
const OPENINGS: u64 = 2000;

impl Handle {
    /// Whether a call of `close` has begun.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }
}

/// The outcome of a call that may fail.
#[derive(Debug)]
pub(super) enum Called<T> {
    Done(T),
    Failed(&'static str),
}

/// A store that the threads share.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) config: StoreConfig,
    pub(super) components: Components,
    /// The directory for copies of the store.
    pub(super) scratch: PathBuf,
    pub(super) model: Model,
    engine: RwLock<Option<Arc<Handle>>>,
    /// The errors that calls may have while the surroundings are hostile.
    allowed: Mutex<BTreeSet<&'static str>>,
    /// The number of begins and ends of hostile moments: odd during one.
    moments: AtomicU64,
    /// Held by the thread that closes the engine and opens the next one.
    turn: Mutex<()>,
    /// The operations that the plan excludes.
    without: BTreeSet<String>,
    /// The last seen seq and version: neither decreases.
    seen: Mutex<(u64, u64)>,
}

impl Store {
    pub(super) fn open(
        config: StoreConfig,
        components: Components,
        scratch: &Path,
        model: Model,
        plan: &Plan,
    ) -> Result<Self> {
        let store = Self::unopened(config, components, scratch, model, plan)?;
        store.open_again(None)?;
        Ok(store)
    }

    /// A store that is not open yet.
    pub(super) fn unopened(
        config: StoreConfig,
        components: Components,
        scratch: &Path,
        model: Model,
        plan: &Plan,
    ) -> Result<Self> {
        std::fs::create_dir_all(scratch)?;
        Ok(Self {
            config,
            components,
            scratch: scratch.to_owned(),
            model,
            engine: RwLock::default(),
            allowed: Mutex::default(),
            moments: AtomicU64::new(0),
            turn: Mutex::default(),
            without: plan.without.clone(),
            seen: Mutex::default(),
        })
    }

    /// Allows these errors from now on.
    pub(super) fn allow(&self, kinds: &[&'static str]) {
        lock(&self.allowed).extend(kinds);
    }

    /// From now on, calls may not fail because of the surroundings.
    pub(super) fn allow_nothing(&self) {
        lock(&self.allowed).clear();
    }

    pub(super) fn allows(&self, kind: &'static str) -> bool {
        lock(&self.allowed).contains(kind)
    }

    /// A hostile moment begins or ends. If a store has such moments, only they explain the errors
    /// of its calls: a call that begins after one works.
    pub(super) fn begin_or_end_moment(&self) {
        self.moments.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether a call that began at the count `since` met a hostile moment.
    fn was_hostile(&self, since: u64) -> bool {
        let now = self.moments.load(Ordering::SeqCst);
        now == 0 || since % 2 == 1 || now != since
    }

    /// The open engine; none between a close and the next open.
    pub(super) fn handle(&self) -> Option<Arc<Handle>> {
        self.engine.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set_handle(&self, handle: Option<Arc<Handle>>) -> Option<Arc<Handle>> {
        let mut place = self.engine.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::replace(&mut *place, handle)
    }

    /// Calls the engine, and checks that an error is an allowed one.
    pub(super) fn call<T>(
        &self,
        handle: &Handle,
        operation: &'static str,
        detail: &str,
        call: impl FnOnce(&SingleNodeEngine) -> Result<T, Error>,
    ) -> Result<Called<T>> {
        self.call_with(handle, operation, detail, &[], call)
    }

    /// As [`call`](Self::call), with these errors allowed as well.
    pub(super) fn call_with<T>(
        &self,
        handle: &Handle,
        operation: &'static str,
        detail: &str,
        also: &[&'static str],
        call: impl FnOnce(&SingleNodeEngine) -> Result<T, Error>,
    ) -> Result<Called<T>> {
        let was_closed = handle.closed.load(Ordering::SeqCst);
        let began_at = self.moments.load(Ordering::SeqCst);
        let _doing = doing(operation, detail);
        match call(&handle.engine) {
            Ok(_) if was_closed && !self.without.contains(CLOSED_READS) => {
                bail!("{operation} {detail} succeeds after a close has returned")
            }
            Ok(done) => Ok(Called::Done(done)),
            Err(error) => {
                let kind = error.code();
                let may_be_closed = kind == "closed" && handle.is_closing();
                let is_allowed =
                    may_be_closed || also.contains(&kind) || (self.allows(kind) && self.was_hostile(began_at));
                if is_allowed {
                    count_error(kind);
                    return Ok(Called::Failed(kind));
                }
                Err(anyhow!("{operation} {detail} fails with {}, which nothing explains: {error}", kind))
            }
        }
    }

    /// The outcome of a call that is not a method of the engine; `None` if it has failed with an
    /// allowed error.
    pub(super) fn allowed<T>(&self, result: Result<T, Error>, what: &str) -> Result<Option<T>> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(error) if self.allows(error.code()) => {
                count_error(error.code());
                Ok(None)
            }
            Err(error) => bail!("{what} fails with {}, which nothing explains: {error}", error.code()),
        }
    }

    /// Opens the store, checks the content that the previous engine has left, and publishes the
    /// engine. It repeats the open until it has succeeded or failed with an allowed error, and
    /// returns which.
    pub(super) fn open_again(&self, last: Option<&Handle>) -> Result<bool> {
        let _doing = doing("open", &self.config.data_dir.display().to_string());
        let opened = SingleNodeEngine::with_components(self.config.clone(), self.components.clone());
        let engine = match opened {
            Ok(engine) => engine,
            Err(error) if self.allows(error.code()) => {
                count_error(error.code());
                return Ok(false);
            }
            Err(error) => bail!("open fails with {}, which nothing explains: {error}", error.code()),
        };
        count_reopening();
        let report = engine.open_report();
        if last.is_some() {
            ensure!(!report.was_unclean(), "the store was closed, and the next open finds it unclean: {report:?}");
            ensure!(report.dropped_bytes() == 0, "a tail is dropped after a clean close: {report:?}");
        }
        let now = (engine.latest_seq(), engine.latest_version());
        let mut seen = lock(&self.seen);
        ensure!(now.0 >= seen.0 && now.1 >= seen.1, "(seq, version) has gone back from {seen:?} to {now:?}");
        *seen = now;
        drop(seen);
        self.model.settle();
        let handle = Handle { engine, closing: AtomicBool::new(false), closed: AtomicBool::new(false) };
        self.set_handle(Some(Arc::new(handle)));
        Ok(true)
    }

    /// Closes the engine, from several threads at once if requested. All get the same outcome, and
    /// none before the store is closed. Returns the outcome: `Some(None)` for success, `None` if no
    /// engine is open or another thread is closing it.
    pub(super) fn close(&self, closers: u64) -> Result<Option<Option<&'static str>>> {
        let Ok(_turn) = self.turn.try_lock() else { return Ok(None) };
        let Some(handle) = self.handle() else { return Ok(None) };
        self.close_handle(&handle, closers).map(Some)
    }

    fn close_handle(&self, handle: &Handle, closers: u64) -> Result<Option<&'static str>> {
        // If threads may be lacking, one thread closes it.
        let is_alone = self.without.contains(TOGETHER) || self.allows("io");
        let closers = if is_alone { 1 } else { closers };
        handle.closing.store(true, Ordering::SeqCst);
        let seq_before = handle.engine.latest_seq();
        let close_one = || -> Result<(Option<&'static str>, u64)> {
            let _doing = doing("close", "");
            let outcome = handle.engine.close();
            let durable_seq = handle.engine.stats().durable_seq;
            // A close that is refused, because it would wait for itself, has closed nothing.
            let is_refused = matches!(&outcome, Err(error) if error.code() == "validation");
            handle.closed.fetch_or(!is_refused, Ordering::SeqCst);
            match outcome {
                Ok(()) => Ok((None, durable_seq)),
                Err(error) if self.allows(error.code()) => Ok((Some(error.code()), durable_seq)),
                Err(error) => bail!("close fails with {}, which nothing explains: {error}", error.code()),
            }
        };
        let outcomes = thread::scope(|scope| -> Result<Vec<_>> {
            let closers: Vec<_> = (1..closers).map(|_| scope.spawn(close_one)).collect();
            let mut outcomes = vec![close_one()?];
            for closer in closers {
                outcomes.push(closer.join().map_err(|_| anyhow!("a closer panicked"))??);
            }
            Ok(outcomes)
        })?;
        let first = outcomes[0].0;
        ensure!(
            outcomes.iter().all(|(outcome, _)| *outcome == first),
            "calls of close at once came to different outcomes: {outcomes:?}"
        );
        if first.is_none() {
            for (_, durable_seq) in &outcomes {
                ensure!(
                    *durable_seq >= seq_before,
                    "close has returned, and seq {durable_seq} is durable of {seq_before}"
                );
            }
        }
        let mut seen = lock(&self.seen);
        *seen = (seen.0.max(handle.engine.latest_seq()), seen.1.max(handle.engine.latest_version()));
        Ok(first)
    }

    /// Closes the store and opens it again during all kinds of calls by others. Returns whether it
    /// was opened.
    pub(super) fn reopen(&self, closers: u64) -> Result<bool> {
        let Ok(_turn) = self.turn.try_lock() else { return Ok(false) };
        let Some(handle) = self.handle() else { return Ok(false) };
        let outcome = self.close_handle(&handle, closers)?;
        // A reader's handle, a snapshot or an unfinished call does not prevent the next open.
        self.begin_life(outcome.is_none().then_some(&handle))?;
        Ok(true)
    }

    /// Drops the engine without a close, once nobody calls it any more, and opens the store again.
    pub(super) fn drop_and_open(&self) -> Result<bool> {
        let Ok(_turn) = self.turn.try_lock() else { return Ok(false) };
        let Some(mut handle) = self.set_handle(None) else { return Ok(false) };
        let handle = loop {
            match Arc::try_unwrap(handle) {
                Ok(handle) => break handle,
                Err(shared) => handle = shared,
            }
            thread::sleep(Duration::from_micros(200));
        };
        let seen_now = (handle.engine.latest_seq(), handle.engine.latest_version());
        {
            let mut seen = lock(&self.seen);
            *seen = (seen.0.max(seen_now.0), seen.1.max(seen_now.1));
        }
        {
            let _doing = doing("drop", "");
            drop(handle.engine);
        }
        self.begin_life(None)?;
        Ok(true)
    }

    fn begin_life(&self, mut last: Option<&Handle>) -> Result<()> {
        // A call that fails because of the surroundings succeeds once they are normal.
        for _ in 0..OPENINGS {
            if self.open_again(last)? {
                return Ok(());
            }
            // It may have begun; then the next open recovers.
            last = None;
            thread::sleep(Duration::from_millis(5));
        }
        bail!("the store cannot be opened, however often it is tried")
    }

    /// The end of a storm: closes the store, checks it for damage, opens it once more, and reads
    /// everything.
    pub(super) fn finish(&self, closers: u64) -> Result<()> {
        self.allow_nothing();
        if let Some(handle) = self.handle() {
            let outcome = self.close_handle(&handle, closers)?;
            ensure!(outcome.is_none(), "close came to {outcome:?}");
            self.set_handle(None);
        }
        self.check_files()?;
        self.open_again(None)?;
        let handle = self.handle().context("it was opened")?;
        self.verify(&handle.engine, &self.model.read()).context("after the last open")?;
        let (least, most) = self.model.counts();
        let len = handle.engine.range(..)?.count();
        ensure!((least..=most).contains(&len), "{len} keys are there, of {least} to {most}");
        ensure!(self.close_handle(&handle, 1)?.is_none(), "the last close");
        self.set_handle(None);
        Ok(())
    }

    /// Checks the files of a closed store for damage.
    pub(super) fn check_files(&self) -> Result<()> {
        let _doing = doing("check", "");
        let report = check(&self.components, &self.config.data_dir, CheckLevel::Tables, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })?;
        ensure!(report.is_whole(), "the store is damaged: {:?}", report.damage);
        Ok(())
    }

    /// Reads everything as of one moment, and compares it with the model.
    pub(super) fn verify(&self, engine: &SingleNodeEngine, reading: &Reading<'_>) -> Result<()> {
        let _doing = doing("verify", "");
        let mut range = engine.range(..)?;
        let mut found = std::collections::BTreeMap::new();
        for entry in &mut range {
            let entry = entry?;
            let key = String::from_utf8(entry.key().to_vec())?;
            let value = entry.value().map_err(|error| anyhow!("{key} cannot be read: {error}"))?;
            ensure!(found.insert(key.clone(), (value, entry.version())).is_none(), "{key} comes twice");
        }
        for key in self.model.keys() {
            match found.remove(key) {
                Some((value, version)) => reading.check(key, Some(&value), Some(version))?,
                None => reading.check(key, None, None)?,
            }
        }
        ensure!(found.is_empty(), "keys that nobody has written: {:?}", found.keys());
        Ok(())
    }
}
