//! Callers of every operation at any time.

mod copies;
mod reads;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use hightower_engine::{
    ApplyOutcome, Batch, BatchOutcome, Command, Committed, Durability, Entry, Error, Expect, KvReader, Range, Rejected,
    SingleNodeEngine, Snapshot, StoreConfig, Ticket, Value, limits,
};

use super::model::{CEILING, Change, Effect, Model, Pending};
use super::operations::{CEILING_VERSIONS, Mix, TOGETHER, UNSYNCED};
use super::plan::Plan;
use super::random::Random;
use super::store::{Called, Handle, Store};
use super::watch::{doing, lock};

/// Number of keys for single writes.
pub(super) const KEYS: u64 = 60;
/// Number of groups of keys that are only written together.
pub(super) const GROUPS: u64 = 6;
/// Number of keys of a group.
pub(super) const GROUP_KEYS: u64 = 4;
/// Maximum number of snapshots, iterators and values that one caller holds.
const HELD: usize = 12;

pub(super) fn key(number: u64) -> String {
    format!("key/{:03}", number % KEYS)
}

fn group(number: u64) -> Vec<String> {
    (0..GROUP_KEYS).map(|at| format!("group/{}/{at}", number % GROUPS)).collect()
}

/// The model of the keys that callers write.
pub(super) fn model(max_value_len: u64) -> Model {
    let keys = (0..KEYS).map(key).chain((0..GROUPS).flat_map(group));
    Model::new(keys, max_value_len)
}

/// Settings drawn for a small, busy store.
pub(super) fn config(random: &mut Random, dir: &std::path::Path) -> StoreConfig {
    let interval = Duration::from_millis(1 + random.below(5));
    let max_segment_size = random.pick(&[4 << 10, 16 << 10, 64 << 10, 256 << 10]);
    StoreConfig::at(dir)
        .with_max_segment_size(max_segment_size)
        .with_min_segment_size(random.pick(&[4 << 10, max_segment_size]))
        .with_compaction_interval(Duration::from_millis(random.pick(&[0, 1, 5, 20])))
        .with_commit_queue_depth(1024 * (usize::try_from(random.pick(&[0, 0, 0, 1, 2])).unwrap_or(0)))
        .with_durability(random.pick(&[
            Durability::Os,
            Durability::Interval(interval),
            Durability::Interval(interval),
            Durability::Sync,
        ]))
        .with_append_mode(random.pick(&[
            hightower_engine::AppendMode::Auto,
            hightower_engine::AppendMode::Mapped,
            hightower_engine::AppendMode::Positioned,
        ]))
        .with_checkpoint_after_compaction(random.once_in(2))
}

/// Runs the callers of a plan to their end; the first finding stops all.
pub(super) fn run(store: &Store, plan: &Plan, random: &mut Random, mix: Mix) -> Result<()> {
    let is_over = AtomicBool::new(false);
    let is_over = &is_over;
    let findings = thread::scope(|scope| {
        let callers: Vec<_> = (0..plan.threads)
            .map(|number| {
                let mut caller = Caller::new(store, plan, number, random.fork(), mix);
                let call = move || {
                    let mut result = Ok(());
                    for _ in 0..plan.operations {
                        if result.is_err() || is_over.load(Ordering::Relaxed) {
                            break;
                        }
                        result = caller.step();
                    }
                    let result = result.and_then(|()| caller.let_all_go());
                    if result.is_err() {
                        is_over.store(true, Ordering::Relaxed);
                    }
                    result
                };
                spawn(scope, number, call)
            })
            .collect::<Result<_>>()?;
        let findings = callers.into_iter().filter_map(|caller| match caller.join() {
            Ok(result) => result.err(),
            Err(_) => Some(anyhow!("a caller panicked")),
        });
        Ok::<_, anyhow::Error>(findings.collect::<Vec<_>>())
    })?;
    findings.into_iter().next().map_or(Ok(()), Err)
}

/// Starts a caller, with a retry after a moment, because threads may be the scarce resource.
fn spawn<'scope, F>(
    scope: &'scope thread::Scope<'scope, '_>,
    number: u64,
    call: F,
) -> Result<thread::ScopedJoinHandle<'scope, Result<()>>>
where
    F: FnOnce() -> Result<()> + Send + 'scope,
{
    let call = Arc::new(Mutex::new(Some(call)));
    for _ in 0..1000 {
        let own = Arc::clone(&call);
        let run = move || {
            let call = lock(&own).take();
            call.map_or(Ok(()), |call| call())
        };
        match thread::Builder::new().name(format!("caller-{number}")).spawn_scoped(scope, run) {
            Ok(caller) => return Ok(caller),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    bail!("no caller can be started")
}

/// An item that a caller holds, to check it again much later.
enum HeldRead {
    Snapshot(Snapshot, Vec<(String, Option<Vec<u8>>)>),
    Range(Box<Range>, Vec<(Vec<u8>, Vec<u8>)>),
    Entry(Entry, Vec<u8>),
    Value(Value, Vec<u8>),
}

/// One thread of the storm.
pub(super) struct Caller<'a> {
    store: &'a Store,
    number: u64,
    random: Random,
    mix: Vec<(&'static str, u64)>,
    held: Vec<HeldRead>,
    without: BTreeSet<String>,
}

/// Commits a batch with one requirement as a transaction that has read its key.
fn transact(
    engine: &SingleNodeEngine,
    batch: &Batch,
    key: &str,
    expect: Expect,
) -> hightower_engine::Result<BatchOutcome> {
    let mut transaction = engine.transaction()?;
    let found = KvReader::get_versioned(&transaction, key.as_bytes())?.map(|(_, version)| version);
    let rejected = |found| Ok(BatchOutcome::Rejected(Rejected::new(key.into(), expect, found)));
    if !expect.holds(found) {
        return rejected(found);
    }
    for change in batch.changes() {
        transaction.put(change.key, change.value.unwrap_or_default())?;
    }
    match transaction.commit() {
        Ok(committed) => Ok(BatchOutcome::Committed(committed)),
        Err(Error::TransactionConflict(conflict)) => rejected(conflict.found),
        Err(failure) => Err(failure),
    }
}

impl<'a> Caller<'a> {
    pub(super) fn new(store: &'a Store, plan: &Plan, number: u64, random: Random, mix: Mix) -> Self {
        let mix = mix.iter().filter(|(name, _)| !plan.without.contains(*name)).copied().collect();
        Self { store, number, random, mix, held: Vec::new(), without: plan.without.clone() }
    }

    /// One call.
    pub(super) fn step(&mut self) -> Result<()> {
        let total: u64 = self.mix.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.below(total);
        let found = self.mix.iter().find(|(_, weight)| {
            let is_here = at < *weight;
            at = at.saturating_sub(*weight);
            is_here
        });
        let Some((operation, _)) = found else { return Ok(()) };
        let Some(handle) = self.store.handle() else {
            thread::sleep(Duration::from_micros(100));
            return Ok(());
        };
        self.call(operation, handle)
    }

    fn call(&mut self, operation: &'static str, handle: Arc<Handle>) -> Result<()> {
        match operation {
            "put" => self.put(&handle),
            "delete" => self.delete(&handle),
            "submit" => self.submit(&handle),
            "batch" => self.batch(&handle),
            "require" => self.require(&handle),
            "async" => self.queued(&handle),
            "get" => self.get(&handle),
            "multi_get" => self.multi_get(&handle),
            "range" => self.range(&handle),
            "visit" => self.visit(&handle),
            "presence" => self.presence(&handle),
            "snapshot" => self.snapshot(&handle),
            "held" => self.look_again(),
            "stats" => self.stats(&handle),
            "flush" => self.store.call(&handle, "flush", "", SingleNodeEngine::flush).map(drop),
            "checkpoint" => self.store.call(&handle, "checkpoint", "", SingleNodeEngine::checkpoint).map(drop),
            "compact" => self.store.call(&handle, "compact", "", SingleNodeEngine::run_compaction_now).map(drop),
            "backup" => self.backup(&handle),
            "restore" => self.restore(&handle),
            "export" => self.export(&handle),
            "salvage" => self.salvage(&handle),
            "limits" => self.limits(&handle),
            "close" => {
                drop(handle);
                let most = if self.without.contains(TOGETHER) { 1 } else { 3 };
                let closers = 1 + self.random.below(most);
                self.store.reopen(closers).map(drop)
            }
            "drop" => {
                drop(handle);
                self.store.drop_and_open().map(drop)
            }
            other => bail!("there is no operation {other}"),
        }
    }

    fn durability(&mut self) -> Durability {
        if self.without.contains(UNSYNCED) {
            return Durability::Sync;
        }
        let interval = Durability::Interval(Duration::from_millis(1));
        self.random.pick(&[Durability::Os, Durability::Os, interval, Durability::Sync])
    }

    fn any_key(&mut self) -> String {
        key(self.random.next())
    }

    /// Records the outcome of a write of one key.
    fn end(&self, pending: &Pending, called: Called<ApplyOutcome>) -> Result<()> {
        match called {
            Called::Done(outcome) => self.store.model.end_with(pending, &[outcome], &[]),
            Called::Failed(kind) => self.store.model.end(pending, &[(effect_of(kind), None)]),
        }
    }

    pub(super) fn put(&mut self, handle: &Handle) -> Result<()> {
        let (key, durability) = (self.any_key(), self.durability());
        let store = self.store;
        let pending = store.model.begin(vec![key.clone()], Change { is_set: true, given: None })?;
        let value = store.model.value(pending.number);
        let called = store.call(handle, "put", &key, |engine| engine.put_with(&key, &value, durability))?;
        self.end(&pending, called)
    }

    fn delete(&mut self, handle: &Handle) -> Result<()> {
        let (key, durability) = (self.any_key(), self.durability());
        let store = self.store;
        let pending = store.model.begin(vec![key.clone()], Change { is_set: false, given: None })?;
        let called = store.call(handle, "delete", &key, |engine| engine.delete_with(&key, durability))?;
        self.end(&pending, called)
    }

    /// A version and a timestamp from their whole ranges.
    fn given(&mut self) -> (u64, i64) {
        let version = match self.random.below(16) {
            0 => self.random.below(3),
            1 => CEILING - 1 - self.random.below(3),
            2 => CEILING + self.random.below(3),
            3 => u64::MAX - self.random.below(3),
            4 => 1 << self.random.below(64),
            5 => self.random.next() >> 1 >> self.random.below(63),
            _ => self.random.below(1_000_000),
        };
        let now = 1_700_000_000_000;
        let timestamp = match self.random.below(8) {
            0 => 0,
            1 => i64::MIN,
            2 => i64::MAX,
            3 => -1,
            4 => self.random.next().cast_signed(),
            _ => now + self.random.below(1000).cast_signed(),
        };
        let version = if self.without.contains(CEILING_VERSIONS) { version % (CEILING - 1000) } else { version };
        (version, timestamp)
    }

    fn submit(&mut self, handle: &Handle) -> Result<()> {
        let (key, (version, timestamp)) = (self.any_key(), self.given());
        let is_set = !self.random.once_in(4);
        let store = self.store;
        let pending = store.model.begin(vec![key.clone()], Change { is_set, given: Some(version) })?;
        let command = command(&key, is_set.then(|| store.model.value(pending.number)), version, timestamp);
        let also: &[&'static str] = if version >= CEILING { REFUSED } else { &[] };
        let called = match self.random.below(3) {
            0 => store.call_with(handle, "submit", &key, also, |engine| {
                engine.submit_async(command.clone()).and_then(Ticket::wait)
            })?,
            1 => store.call_with(handle, "submit", &key, also, |engine| {
                let outcomes = engine.submit_batch([command.clone()])?;
                Ok(outcomes[0])
            })?,
            _ => store.call_with(handle, "submit", &key, also, |engine| engine.submit(command.clone()))?,
        };
        if version >= CEILING {
            ensure!(!matches!(called, Called::Done(_)), "version {version} is taken");
        }
        self.end(&pending, called)
    }

    /// A group of keys that are only written together.
    fn batch(&mut self, handle: &Handle) -> Result<()> {
        let (keys, durability) = (group(self.random.next()), self.durability());
        let is_set = !self.random.once_in(6);
        let store = self.store;
        let pending = store.model.begin(keys.clone(), Change { is_set, given: None })?;
        let value = store.model.value(pending.number);
        let mut batch = Batch::new();
        for key in &keys {
            if is_set {
                batch.put(key, &value)
            } else {
                batch.delete(key)
            };
        }
        let called = store.call(handle, "batch", &keys[0], |engine| engine.commit_with(&batch, durability))?;
        self.end_batch(&pending, keys.len(), called)
    }

    fn end_batch(&self, pending: &Pending, keys: usize, called: Called<BatchOutcome>) -> Result<()> {
        match called {
            Called::Done(BatchOutcome::Committed(Committed { outcomes, versions, .. })) => {
                self.store.model.end_with(pending, &outcomes, &versions)
            }
            Called::Done(BatchOutcome::Rejected(_)) => self.store.model.end(pending, &vec![(Effect::None, None); keys]),
            Called::Failed(kind) => self.store.model.end(pending, &vec![(effect_of(kind), None); keys]),
        }
    }

    /// Reads a key, and writes it only if it is unchanged.
    fn require(&mut self, handle: &Handle) -> Result<()> {
        // Few keys, so that several callers use the same one.
        let key = key(self.random.below(3));
        let store = self.store;
        let reading = store.model.read();
        let Called::Done(found) = store.call(handle, "get", &key, |engine| engine.get_versioned(&key))? else {
            return Ok(());
        };
        let found_version = found.as_ref().map(|(_, version)| *version);
        reading.check(&key, found.as_ref().map(|(value, _)| &value[..]), found_version)?;
        let expect = match found_version {
            Some(version) if self.random.once_in(2) => Expect::Version(version),
            Some(_) => Expect::Present,
            None => Expect::Absent,
        };
        let pending = store.model.begin(vec![key.clone()], Change { is_set: true, given: None })?;
        let mut batch = Batch::new();
        batch.put(&key, store.model.value(pending.number)).require(&key, expect);
        let is_transaction = expect != Expect::Present && self.random.once_in(2);
        let called = store.call(handle, "require", &key, |engine| {
            if is_transaction { transact(engine, &batch, &key, expect) } else { engine.commit(&batch) }
        })?;
        if let Called::Done(BatchOutcome::Rejected(Rejected { key: rejected, expected, found, .. })) = &called {
            ensure!(rejected == key.as_bytes() && *expected == expect, "rejected for something else: {called:?}");
            ensure!(!expect.holds(*found), "rejected, although the requirement holds: {called:?}");
        }
        if let (Called::Done(BatchOutcome::Committed(_)), Expect::Version(version)) = (&called, expect) {
            let is_first = store.model.take_version(&key, version);
            ensure!(is_first, "two batches are committed that both required version {version} of {key}");
        }
        self.end_batch(&pending, 1, called)
    }

    /// Keys and values that are too long or empty are refused, on each path.
    fn limits(&mut self, handle: &Handle) -> Result<()> {
        let key = match self.random.below(2) {
            0 => Vec::new(),
            _ => vec![b'x'; limits::MAX_KEY_LEN_BYTES + 1],
        };
        let expected = if key.is_empty() { "validation" } else { "limit_exceeded" };
        let store = self.store;
        let call = |engine: &SingleNodeEngine| match self.random.below(4) {
            0 => engine.put(&key, "value").map(drop),
            1 => engine.delete(&key).map(drop),
            2 => engine.commit_async(Batch::new().put(&key, "value")).and_then(Ticket::wait).map(drop),
            _ => engine.commit(Batch::new().put("key/000", "value").require(&key, Expect::Absent)).map(drop),
        };
        let called = store.call_with(handle, "limits", &key.len().to_string(), &[expected], call)?;
        ensure!(!matches!(called, Called::Done(())), "a key of {} bytes is taken", key.len());
        Ok(())
    }

    /// Queues several writes before it waits for one.
    fn queued(&mut self, handle: &Handle) -> Result<()> {
        let store = self.store;
        let mut tickets = Vec::new();
        for _ in 0..1 + self.random.below(8) {
            let key = self.any_key();
            let pending = store.model.begin(vec![key.clone()], Change { is_set: true, given: None })?;
            let mut batch = Batch::new();
            batch.put(&key, store.model.value(pending.number));
            match store.call(handle, "async", &key, |engine| engine.commit_async(batch))? {
                Called::Done(ticket) => tickets.push((key, pending, ticket)),
                Called::Failed(kind) => store.model.end(&pending, &[(effect_of(kind), None)])?,
            }
        }
        // Writes that were queued before a close began are committed by it.
        let may_be_closed = handle.is_closing();
        for (key, pending, ticket) in tickets {
            let _doing = doing("wait", &key);
            let called = match ticket.wait() {
                Ok(outcome) => Called::Done(outcome),
                Err(error) if store.allows(error.code()) => Called::Failed(error.code()),
                Err(error) if may_be_closed && error.code() == "closed" => Called::Failed(error.code()),
                Err(error) => bail!("a ticket fails with {}, which nothing explains: {error}", error.code()),
            };
            self.end_batch(&pending, 1, called)?;
        }
        Ok(())
    }

    fn hold(&mut self, held: HeldRead) {
        if self.held.len() == HELD {
            let at = usize::try_from(self.random.below(HELD as u64)).unwrap_or(0);
            self.held.swap_remove(at);
        }
        self.held.push(held);
    }

    /// Checks that held items are unchanged, whatever has happened since.
    fn look_again(&mut self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let at = usize::try_from(self.random.below(self.held.len() as u64)).unwrap_or(0);
        let held = self.held.swap_remove(at);
        if let Some(held) = look(held)? {
            self.held.push(held);
        }
        Ok(())
    }

    /// Checks everything once more.
    pub(super) fn let_all_go(&mut self) -> Result<()> {
        self.held.drain(..).try_for_each(|held| look(held).map(drop))
    }

    fn stats(&mut self, handle: &Handle) -> Result<()> {
        let _doing = doing("stats", "");
        let stats = handle.engine.stats();
        ensure!(stats.durable_seq <= stats.latest_seq.max(handle.engine.latest_seq()), "more is durable than there is");
        ensure!(
            stats.poisoned.is_none() || handle.is_closing() || self.store.allows("poisoned"),
            "the store refuses writes: {:?}",
            stats.poisoned
        );
        ensure!(
            stats.compaction.last_failure.is_none() || self.store.allows("full") || self.store.allows("io"),
            "compaction fails in the background: {:?}",
            stats.compaction.last_failure
        );
        Ok(())
    }
}

/// The error for a caller's version beyond the limit.
const REFUSED: &[&str] = &["limit_exceeded"];

fn command(key: &str, value: Option<Vec<u8>>, version: u64, timestamp: i64) -> Command {
    let key = key.as_bytes().to_vec();
    match value {
        Some(value) => Command::Set { key, value, version, timestamp },
        None => Command::Delete { key, version, timestamp },
    }
}

/// The possible effects of a write that failed with this error.
pub(super) fn effect_of(kind: &'static str) -> Effect {
    match kind {
        // Nothing has changed, as the docs promise.
        "full" | "io" | "limit_exceeded" | "validation" | "read_only" | "conflict" | "denied" => Effect::None,
        // It may have been in progress when the store was closed or a sync failed.
        _ => Effect::Unknown,
    }
}

/// Returns it if it can be checked again.
fn look(held: HeldRead) -> Result<Option<HeldRead>> {
    let _doing = doing("held", "");
    let unreadable = |error: Error| anyhow!("what is held cannot be read any more: {error}");
    match held {
        HeldRead::Snapshot(snapshot, seen) => {
            for (key, before) in &seen {
                let now = snapshot.get(key).map_err(unreadable)?.map(Value::into_vec);
                ensure!(
                    now == *before,
                    "a snapshot has changed at {key}: {}",
                    differ(before.as_deref(), now.as_deref())
                );
            }
            Ok(Some(HeldRead::Snapshot(snapshot, seen)))
        }
        HeldRead::Range(range, rest) => {
            let mut now = Vec::new();
            for entry in *range {
                let (key, value) = entry.and_then(Entry::into_pair).map_err(unreadable)?;
                now.push((key, value.into_vec()));
            }
            ensure!(now == rest, "an iterator that was held has {} of {} pairs, or others", now.len(), rest.len());
            Ok(None)
        }
        HeldRead::Entry(entry, before) => {
            let now = entry.value().map_err(unreadable)?;
            ensure!(*now == before, "an entry has changed: {}", differ(Some(&before), Some(&now)));
            Ok(Some(HeldRead::Entry(entry, before)))
        }
        HeldRead::Value(value, before) => {
            ensure!(*value == before, "a value has changed: {}", differ(Some(&before), Some(&value)));
            Ok(Some(HeldRead::Value(value, before)))
        }
    }
}

fn differ(before: Option<&[u8]>, now: Option<&[u8]>) -> String {
    let number = |value: Option<&[u8]>| value.and_then(|value| value.first_chunk().copied()).map(u64::from_le_bytes);
    format!("it was of write {:?}, it is of write {:?}", number(before), number(now))
}
