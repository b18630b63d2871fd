//! The current operation of each thread and its start, so that a hang is detected and located. Also
//! collects panics and counts operations.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// The interval of the watchdog's checks.
const TICK: Duration = Duration::from_millis(200);
/// The exit code of a round in which a call did not return.
pub(super) const HUNG: i32 = 3;

/// The payload of a planned panic, for instance in a storm's own callback.
#[derive(Debug)]
pub(super) struct Planned;

#[derive(Debug, Default)]
struct Slot {
    thread: String,
    /// The running operation, and its duration.
    doing: Mutex<Option<(String, Duration)>>,
}

#[derive(Debug, Default)]
struct Watch {
    slots: Mutex<Vec<Arc<Slot>>>,
    operations: Mutex<BTreeMap<&'static str, u64>>,
    errors: Mutex<BTreeMap<String, u64>>,
    panics: Mutex<Vec<String>>,
    reopenings: Mutex<u64>,
}

fn watch() -> &'static Watch {
    static WATCH: OnceLock<Watch> = OnceLock::new();
    WATCH.get_or_init(Watch::default)
}

/// Locks; the data that a panicking thread has left is good enough for a report.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static MINE: RefCell<Option<Arc<Slot>>> = const { RefCell::new(None) };
}

/// While it lives, its thread runs an operation that must end.
pub(super) struct Doing {
    slot: Arc<Slot>,
    /// The enclosing operation: calls from within callbacks are nested.
    outer: Option<(String, Duration)>,
}

impl Drop for Doing {
    fn drop(&mut self) {
        *lock(&self.slot.doing) = self.outer.take();
    }
}

/// Declares the operation of this thread from now on, and counts it under the name `operation`.
pub(super) fn doing(operation: &'static str, detail: &str) -> Doing {
    *lock(&watch().operations).entry(operation).or_default() += 1;
    let slot = MINE.with_borrow_mut(|mine| {
        let new = || {
            let thread = thread::current().name().unwrap_or("caller").to_owned();
            let slot = Arc::new(Slot { thread, ..Slot::default() });
            lock(&watch().slots).push(Arc::clone(&slot));
            slot
        };
        Arc::clone(mine.get_or_insert_with(new))
    });
    let mut doing = lock(&slot.doing);
    let within = doing.as_ref().map_or(String::new(), |(outer, _)| format!(" within {outer}"));
    let outer = doing.replace((format!("{operation} {detail}{within}"), Duration::ZERO));
    drop(doing);
    Doing { slot, outer }
}

/// Counts an error that the promises allow.
pub(super) fn count_error(kind: &str) {
    *lock(&watch().errors).entry(kind.to_owned()).or_default() += 1;
}

/// Counts a store that was opened again.
pub(super) fn count_reopening() {
    *lock(&watch().reopenings) += 1;
}

/// Panics that no storm has planned are findings.
pub(super) fn check_panics() -> Result<()> {
    let panics = lock(&watch().panics);
    ensure!(panics.is_empty(), "{} panics, the first of them: {}", panics.len(), panics[0]);
    Ok(())
}

/// The figures of this process for the parent, one per line.
pub(super) fn figures() -> Vec<String> {
    let operations = lock(&watch().operations);
    let mut lines: Vec<_> = operations.iter().map(|(name, count)| format!("operation {name} {count}")).collect();
    lines.extend(lock(&watch().errors).iter().map(|(name, count)| format!("error {name} {count}")));
    lines.push(format!("reopening all {}", lock(&watch().reopenings)));
    lines
}

/// Collects panics, and starts the watchdog. A call that takes longer than `limit` ends the
/// process.
pub(super) fn start(limit: Duration) -> Result<()> {
    panic::set_hook(Box::new(|info| {
        if info.payload().is::<Planned>() {
            return;
        }
        let thread = thread::current().name().unwrap_or("?").to_owned();
        let told = format!("thread {thread} panicked: {info}");
        if std::env::var_os("RUST_BACKTRACE").is_none_or(|wanted| wanted != "0") {
            eprintln!("{told}\n{}", std::backtrace::Backtrace::force_capture());
        } else {
            eprintln!("{told}");
        }
        lock(&watch().panics).push(told);
    }));
    thread::Builder::new().name("watchdog".into()).spawn(move || guard(limit))?;
    Ok(())
}

/// Time in which this thread did not run, as on a suspended machine, does not count.
fn guard(limit: Duration) {
    loop {
        let looked = Instant::now();
        thread::sleep(TICK);
        let passed = looked.elapsed().min(Duration::from_secs(1));
        let slots: Vec<_> = lock(&watch().slots).clone();
        let mut is_stuck = false;
        for slot in &slots {
            if let Some((_, had)) = &mut *lock(&slot.doing) {
                *had += passed;
                is_stuck |= *had >= limit;
            }
        }
        if is_stuck {
            report(&slots);
            std::process::exit(HUNG);
        }
    }
}

/// What each thread does, according to its own declaration and to the kernel.
fn report(slots: &[Arc<Slot>]) {
    eprintln!("FINDING: a call does not return");
    for slot in slots {
        match &*lock(&slot.doing) {
            Some((doing, had)) => eprintln!("  {:<20} {doing} for {:.0} s", slot.thread, had.as_secs_f64()),
            None => eprintln!("  {:<20} nothing", slot.thread),
        }
    }
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let state = read("status").lines().find_map(|line| line.strip_prefix("State:").map(str::to_owned));
        let state = state.unwrap_or_default();
        eprintln!("  task {:<16} {:<14} {}", read("comm").trim(), state.trim(), read("wchan").trim());
    }
}
