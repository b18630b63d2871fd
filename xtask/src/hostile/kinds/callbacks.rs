//! Calls from within every callback, and callbacks that panic: progress, visitors, streams, the
//! caller's own keys and iterators, policies, clocks.
//!
//! A callback may call the store. Calls that cannot work there are refused, and none waits forever.
//! After a panic of a callback the store is unchanged and still works.

use std::cell::Cell;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hightower_engine::{
    Batch, CheckLevel, Clock, Command, CompactionConfig, CompactionPolicy, Components, CostBenefit, Goal, SegmentUsage,
    SingleNodeEngine, check, dump, import_snapshot, restore_with_progress, salvage,
};

use crate::hostile::model::{Change, Effect};
use crate::hostile::random::Random;
use crate::hostile::round::Round;
use crate::hostile::store::{Called, Handle, Store};
use crate::hostile::storm::{config, effect_of, key, model};
use crate::hostile::watch::{Planned, check_panics, doing, lock};

/// Length of the longest value: long enough that copies report progress, which they do after each
/// mebibyte.
const LONGEST: u64 = 800_000;

/// What a callback does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Nothing,
    Put,
    Get,
    Batch,
    Range,
    Stats,
    Flush,
    Checkpoint,
    Compact,
    Backup,
    Close,
    Panic,
}

const ACTS: &[Act] = &[
    Act::Nothing,
    Act::Put,
    Act::Get,
    Act::Batch,
    Act::Range,
    Act::Stats,
    Act::Flush,
    Act::Checkpoint,
    Act::Compact,
    Act::Backup,
    Act::Close,
    Act::Panic,
    Act::Panic,
];

thread_local! {
    /// Callbacks within callbacks do nothing.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Acts from within a callback. The round reports wrong results.
fn act(store: &Store, act: Act, findings: &Mutex<Vec<String>>) {
    if INSIDE.replace(true) {
        return;
    }
    let result = catch_unwind(AssertUnwindSafe(|| try_act(store, act)));
    INSIDE.set(false);
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => lock(findings).push(format!("{act:?} from within a callback: {error:#}")),
        Err(payload) => resume_unwind(payload),
    }
}

/// The errors that a callback may get, because it would have to wait for its own caller.
const REFUSED: &[&str] = &["validation"];

fn try_act(store: &Store, act: Act) -> Result<()> {
    let Some(handle) = store.handle() else { return Ok(()) };
    match act {
        Act::Nothing => Ok(()),
        Act::Put => put(store, &handle),
        Act::Get => store.call(&handle, "get", "within", |engine| engine.get(key(1))).map(drop),
        Act::Batch => store.call(&handle, "batch", "within", |engine| engine.commit(&Batch::new())).map(drop),
        Act::Range => store.call(&handle, "range", "within", |engine| Ok(engine.range(..)?.count())).map(drop),
        Act::Stats => {
            let _doing = doing("stats", "within");
            let _stats = handle.engine.stats();
            Ok(())
        }
        Act::Flush => store.call(&handle, "flush", "within", SingleNodeEngine::flush).map(drop),
        Act::Checkpoint => {
            store.call_with(&handle, "checkpoint", "within", REFUSED, SingleNodeEngine::checkpoint).map(drop)
        }
        Act::Compact => {
            store.call_with(&handle, "compact", "within", REFUSED, SingleNodeEngine::run_compaction_now).map(drop)
        }
        Act::Backup => {
            let dir = store.scratch.join("backup-within");
            store.call_with(&handle, "backup", "within", REFUSED, |engine| engine.backup_to(&dir)).map(drop)
        }
        Act::Close => {
            drop(handle);
            store.allow(REFUSED);
            store.close(1).map(drop)
        }
        Act::Panic => resume_unwind(Box::new(Planned)),
    }
}

fn put(store: &Store, handle: &Handle) -> Result<()> {
    let key = key(7);
    let pending = store.model.begin(vec![key.clone()], Change { is_set: true, given: None })?;
    let value = store.model.value(pending.number);
    match store.call(handle, "put", "within", |engine| engine.put(&key, &value))? {
        Called::Done(outcome) => store.model.end_with(&pending, &[outcome], &[]),
        Called::Failed(kind) => store.model.end(&pending, &[(effect_of(kind), None)]),
    }
}

/// A component of the caller that acts once in a number of calls.
#[derive(Debug)]
struct Component {
    store: OnceLock<Weak<Store>>,
    act: Act,
    each: u64,
    asked: AtomicU64,
    is_on: AtomicBool,
    /// Number of its panics since the store was opened.
    panics: AtomicU64,
    findings: Arc<Mutex<Vec<String>>>,
    started: Instant,
}

impl Component {
    fn call(&self) {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if !self.is_on.load(Ordering::Relaxed) || !asked.is_multiple_of(self.each) {
            return;
        }
        if let Some(store) = self.store.get().and_then(Weak::upgrade) {
            if self.act == Act::Panic && !INSIDE.get() {
                self.panics.fetch_add(1, Ordering::Relaxed);
            }
            act(&store, self.act, &self.findings);
        }
    }
}

impl CompactionPolicy for Component {
    fn choose(&self, segments: &[SegmentUsage], goal: Goal, config: &CompactionConfig) -> Vec<u32> {
        self.call();
        CostBenefit.choose(segments, goal, config)
    }
}

impl Clock for Component {
    fn now_ms(&self) -> i64 {
        self.call();
        1_700_000_000_000
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A key of the caller's own type. The store calls it for its bytes.
struct Key<'a, F: Fn()> {
    bytes: &'a [u8],
    call: F,
}

impl<F: Fn()> AsRef<[u8]> for Key<'_, F> {
    fn as_ref(&self) -> &[u8] {
        (self.call)();
        self.bytes
    }
}

/// A stream of the caller's own type.
struct Stream<T, F: FnMut()> {
    inner: T,
    call: F,
}

impl<T: Write, F: FnMut()> Write for Stream<T, F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (self.call)();
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read, F: FnMut()> Read for Stream<T, F> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        (self.call)();
        self.inner.read(bytes)
    }
}

/// The place that calls the callback.
const SITES: &[&str] = &[
    "backup",
    "open",
    "check",
    "restore",
    "salvage",
    "dump",
    "visitor",
    "get_with",
    "read_with",
    "export",
    "import",
    "key",
    "commands",
    "policy",
    "clock",
];

struct Site<'a> {
    store: &'a Arc<Store>,
    name: &'static str,
    what: Act,
    findings: Arc<Mutex<Vec<String>>>,
}

impl Site<'_> {
    fn act(&self) {
        act(self.store, self.what, &self.findings);
    }

    fn flow(&self) -> ControlFlow<()> {
        self.act();
        ControlFlow::Continue(())
    }

    fn handle(&self) -> Result<Arc<Handle>> {
        self.store.handle().context("the store is open")
    }

    /// Makes the store call back. If the callback has closed the store, the error of the call is
    /// not a finding.
    fn call(&self, times: u64) -> Result<()> {
        let store = self.store;
        let real = Components::default();
        let backup = store.scratch.join("backup");
        let target = store.scratch.join(format!("target-{}-{times}", self.name));
        let handle = self.handle()?;
        let engine = &handle.engine;
        let allowed = |error: hightower_engine::Error| match error.code() {
            "closed" if self.what == Act::Close => Ok(()),
            "panicked" if self.what == Act::Panic => Ok(()),
            kind => Err(anyhow!("{kind:?}: {error}")),
        };
        let _doing = doing("callback", self.name);
        let result = match self.name {
            "backup" => engine.backup_with_progress(&backup, |_| self.flow()).map(drop),
            "check" => check(&real, &backup, CheckLevel::Tables, &mut |_| self.flow()).map(drop),
            "restore" => restore_with_progress(&real, &backup, &target, &mut |_| self.flow()).map(drop),
            "salvage" => salvage(&real, &backup, &target, &mut |_| self.flow()).map(drop),
            "dump" => dump(&real, &backup, &mut |_| self.flow()).map(drop),
            "visitor" => engine.range(..).and_then(|mut range| range.for_each_pair(|_, _| self.flow())),
            "get_with" => engine.get_with(key(7), |_| self.act()).map(drop),
            "read_with" => engine.read_with(|_| self.act()),
            "export" => {
                let mut stream = Stream { inner: Vec::new(), call: || self.act() };
                engine.export_snapshot(&mut stream).map(drop)
            }
            "import" => {
                let mut bytes = Vec::new();
                engine.export_snapshot(&mut bytes)?;
                let mut stream = Stream { inner: &bytes[..], call: || self.act() };
                import_snapshot(&real, &mut stream, &target).map(drop)
            }
            "key" => {
                let bytes = key(8);
                let pending = store.model.begin(vec![bytes.clone()], Change { is_set: true, given: None })?;
                // Until the call returns, it is unknown whether the panicking key was stored.
                let value = store.model.value(pending.number);
                let called = engine.put(Key { bytes: bytes.as_bytes(), call: || self.act() }, &value);
                let effect = match &called {
                    Ok(_) => Effect::Applied,
                    Err(error) => effect_of(error.code()),
                };
                store.model.end(&pending, &[(effect, None)])?;
                called.map(drop)
            }
            "commands" => {
                let commands = (0..3_u64).map(|_| {
                    self.act();
                    Command::Delete { key: b"key/009".to_vec(), version: 0, timestamp: 0 }
                });
                let pending = store.model.begin(vec![key(9)], Change { is_set: false, given: Some(0) })?;
                let called = engine.submit_batch(commands);
                store.model.end(&pending, &[(Effect::Unknown, None)])?;
                called.map(drop)
            }
            // Their component calls back without another step.
            "policy" | "clock" => {
                put(store, &handle)?;
                engine.run_compaction_now().map(drop)
            }
            // The round opens it.
            _ => Ok(()),
        };
        result.or_else(allowed)
    }
}

pub(super) fn run(round: &Round) -> Result<()> {
    let mut random = Random::new(round.plan.seed);
    let sites: Vec<_> = SITES.iter().copied().filter(|site| !round.plan.without.contains(*site)).collect();
    let findings = Arc::<Mutex<Vec<String>>>::default();
    let at_component = random.pick(&["policy", "clock", "none", "none"]);
    // A clock may not call the store: the store calls it while it holds locks.
    let acts = match at_component {
        "clock" => [Act::Nothing, Act::Panic].as_slice(),
        "policy" => &[Act::Checkpoint, Act::Compact, Act::Close, Act::Backup, Act::Put, Act::Stats, Act::Panic],
        _ => ACTS,
    };
    let what = random.pick(acts);
    let component = Arc::new(Component {
        store: OnceLock::new(),
        act: what,
        each: random.pick(&[1, 3, 10]),
        asked: AtomicU64::new(0),
        is_on: AtomicBool::new(false),
        panics: AtomicU64::new(0),
        findings: Arc::clone(&findings),
        started: Instant::now(),
    });
    let mut components = Components::default();
    match at_component {
        "policy" => components.policy = Arc::clone(&component) as Arc<_>,
        "clock" => components.clock = Arc::clone(&component) as Arc<_>,
        _ => {}
    }
    let mut config = config(&mut random, &round.store_dir());
    config.max_segment_size = 2 << 20;
    let store = Arc::new(Store::open(config, components, &round.scratch(), model(LONGEST), &round.plan)?);
    let _set = component.store.set(Arc::downgrade(&store));
    fill(&store)?;
    component.is_on.store(true, Ordering::Relaxed);
    for turn in 0..round.plan.operations {
        let (name, what) = match at_component {
            "none" => (random.pick(&sites), random.pick(ACTS)),
            name => (name, what),
        };
        let site = Site { store: &store, name, what, findings: Arc::clone(&findings) };
        let told = || format!("{what:?} within {name}");
        match catch_unwind(AssertUnwindSafe(|| site.call(turn))) {
            Ok(result) => result.with_context(told)?,
            Err(payload) if payload.is::<Planned>() => {}
            Err(_) => bail!("{}: a panic of the store's own", told()),
        }
        if let Some(finding) = lock(&findings).first() {
            bail!("{finding} ({})", told());
        }
        check_panics()?;
        works_on(&store, &component, &round.plan.without).with_context(|| format!("after {}", told()))?;
        store.allow_nothing();
    }
    component.is_on.store(false, Ordering::Relaxed);
    store.finish(1)
}

/// Sets a value for every key, and makes a backup.
fn fill(store: &Store) -> Result<()> {
    let handle = store.handle().context("the store is open")?;
    for number in 0..60 {
        let pending = store.model.begin(vec![key(number)], Change { is_set: true, given: None })?;
        let outcome = handle.engine.put(key(number), store.model.value(pending.number))?;
        store.model.end_with(&pending, &[outcome], &[])?;
    }
    handle.engine.backup_to(store.scratch.join("backup")).map(drop)?;
    Ok(())
}

/// After any act of a callback, the store can be opened if it was closed, written, read in full and
/// compacted.
fn works_on(store: &Arc<Store>, component: &Component, without: &std::collections::BTreeSet<String>) -> Result<()> {
    let was_on = component.is_on.swap(false, Ordering::Relaxed);
    let mut handle = store.handle().context("the store was opened")?;
    if handle.engine.get(key(1)).is_err_and(|error| error.code() == "closed") {
        if !without.contains("open") {
            store.open_again(None)?;
            component.panics.store(0, Ordering::Relaxed);
        }
        handle = store.handle().context("it was opened")?;
    }
    put(store, &handle)?;
    store.verify(&handle.engine, &store.model.read())?;
    if !without.contains("compact") {
        store.call(&handle, "compact", "after", SingleNodeEngine::run_compaction_now)?;
    }
    let stats = handle.engine.stats();
    let is_counted = component.panics.load(Ordering::Relaxed) == 0 || stats.caught_panics > 0;
    ensure!(is_counted, "panics of a component are counted nowhere");
    ensure!(stats.poisoned.is_none(), "the store refuses writes: {:?}", stats.poisoned);
    component.is_on.store(was_on, Ordering::Relaxed);
    Ok(())
}
