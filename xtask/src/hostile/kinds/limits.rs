//! Moments without descriptors, without memory to map, without threads, and storms of a process
//! whose files must stay short (`ulimit -f`). Calls that fail then change nothing, and all calls
//! that begin afterwards work. Only a refusal of the device poisons a store, not a call that never
//! reached it.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hightower_engine::{Components, SingleNodeEngine};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::hostile::operations::Mix;
use crate::hostile::random::Random;
use crate::hostile::round::Round;
use crate::hostile::store::Store;
use crate::hostile::storm::{config, model, run as storm};

const MIX: Mix = &[
    ("put", 200),
    ("delete", 40),
    ("batch", 30),
    ("async", 20),
    ("get", 60),
    ("range", 5),
    ("visit", 5),
    ("snapshot", 5),
    ("held", 10),
    ("stats", 10),
    ("flush", 10),
    ("checkpoint", 10),
    ("compact", 15),
    ("backup", 3),
    // An open needs several moments without limits, in which all other calls are refused.
    ("close", 2),
    ("drop", 1),
];

const EVENTS: &[&str] = &["descriptors", "threads", "memory", "lengths"];
/// The messages with which the language and the system end a process that has no memory.
const OUT_OF_MEMORY: &[&str] = &["memory allocation of", "out of memory", "failed to allocate an alternative stack"];
/// A user without rights, because the system's limit of threads does not apply to root.
const NOBODY: u32 = 65_534;

pub(super) fn run(round: &Round) -> Result<()> {
    let mut random = Random::new(round.plan.seed);
    if let Some(role) = &round.role {
        return limited(round, role, &mut random);
    }
    let events: Vec<_> = EVENTS.iter().copied().filter(|event| !round.plan.without.contains(*event)).collect();
    let event = random.pick(&events);
    println!("event {event}");
    if event == "descriptors" {
        return limited(round, event, &mut random).context("the event is descriptors");
    }
    let mut child = round.child(event)?;
    // When the language ends a process for lack of memory, it prints a backtrace. If that needs
    // memory too, the process would wait for itself.
    child.env("RUST_BACKTRACE", "0").env("RUST_LIB_BACKTRACE", "0");
    if event == "threads" && rustix::process::getuid().is_root() {
        std::os::unix::fs::chown(&round.dir, Some(NOBODY), Some(NOBODY))?;
        child.uid(NOBODY);
    }
    if event == "lengths" {
        child = ignoring_length_signals(&child);
    }
    let output = child.stderr(std::process::Stdio::piped()).output().context("start a limited child")?;
    let told = String::from_utf8_lossy(&output.stderr);
    print!("{}", String::from_utf8_lossy(&output.stdout));
    if output.status.success() {
        return Ok(());
    }
    // If the language ends the process for lack of memory, the store is as after any other kill.
    let is_out_of_memory = output.status.signal() == Some(6) && OUT_OF_MEMORY.iter().any(|words| told.contains(words));
    ensure!(event == "memory" && is_out_of_memory, "the event is {event}: {}\n{told}", output.status);
    let model = model(1000).with_journal(&round.dir.join("journal"))?;
    let config = config(&mut Random::new(round.plan.seed), &round.store_dir());
    let store = Store::unopened(config, Components::default(), &round.scratch(), model, &round.plan)?;
    store.open_again(None)?;
    store.finish(1)
}

/// The same command without the signal that a write beyond the limit sends, as servers and shells
/// ignore it. Otherwise the signal ends the process, and no store survives that call.
fn ignoring_length_signals(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    shell.env("RUST_BACKTRACE", "0").stdin(std::process::Stdio::null());
    shell
}

fn limited(round: &Round, what: &str, random: &mut Random) -> Result<()> {
    let config = config(&mut Random::new(round.plan.seed), &round.store_dir());
    let model = model(1000);
    let model = if what == "memory" { model.with_journal(&round.dir.join("journal"))? } else { model };
    // This limit is one of the whole process, from before it opens the store.
    let length_limit = if what == "lengths" { Some(Limit::set(what, random)?) } else { None };
    let store = Store::open(config, Components::default(), &round.scratch(), model, &round.plan)?;
    store.allow(&["io"]);
    if length_limit.is_some() {
        store.allow(&["full"]);
    }
    let is_over = AtomicBool::new(false);
    let mut own = random.fork();
    let result = thread::scope(|scope| -> Result<()> {
        let limiter = scope.spawn(|| -> Result<()> {
            while length_limit.is_none() && !is_over.load(Ordering::Relaxed) {
                store.begin_or_end_moment();
                let limit = Limit::set(what, &mut own);
                thread::sleep(Duration::from_micros(100 + own.below(8000)));
                drop(limit?);
                store.begin_or_end_moment();
                thread::sleep(Duration::from_micros(100 + own.below(8000)));
            }
            Ok(())
        });
        let result = storm(&store, &round.plan, random, MIX);
        is_over.store(true, Ordering::Relaxed);
        limiter.join().unwrap_or_else(|_| bail!("the limiter panicked"))?;
        result
    });
    drop(length_limit);
    result.with_context(|| format!("with limited {what}"))?;
    // The limits are lifted: all calls must work, and nothing is poisoned.
    store.allow_nothing();
    let handle = store.handle().context("it is open")?;
    let stats = handle.engine.stats();
    ensure!(stats.poisoned.is_none(), "the store refuses writes after a moment without {what}: {:?}", stats.poisoned);
    let after = "after";
    store.call(&handle, "compact", after, SingleNodeEngine::run_compaction_now)?;
    store.call(&handle, "checkpoint", after, SingleNodeEngine::checkpoint)?;
    store.call(&handle, "flush", after, SingleNodeEngine::flush)?;
    let mut plan = round.plan.clone();
    plan.operations = 30;
    storm(&store, &plan, random, &[("put", 10), ("delete", 3), ("compact", 1), ("checkpoint", 1), ("get", 5)])
        .with_context(|| format!("after a moment without {what}"))?;
    drop(handle);
    store.finish(1).with_context(|| format!("after a moment without {what}"))
}

/// While it lives, a resource is scarce.
enum Limit {
    Descriptors { old: Rlimit, held: Vec<File> },
    Other { resource: Resource, old: Rlimit },
}

impl Limit {
    fn set(what: &str, random: &mut Random) -> Result<Self> {
        match what {
            "descriptors" => {
                let old = getrlimit(Resource::Nofile);
                let highest = File::open("/dev/null")?;
                let limit = u64::try_from(highest.as_raw_fd()).unwrap_or(0) + 1;
                // Takes free numbers below the limit, so that only a few are left.
                setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: old.maximum })?;
                let mut held = vec![highest];
                while let Ok(file) = File::open("/dev/null") {
                    held.push(file);
                }
                for _ in 0..random.below(4) {
                    held.pop();
                }
                Ok(Self::Descriptors { old, held })
            }
            "threads" => {
                let old = getrlimit(Resource::Nproc);
                let now = std::fs::read_dir("/proc/self/task")?.count() as u64;
                let current = Some(now + random.below(4));
                setrlimit(Resource::Nproc, Rlimit { current, maximum: old.maximum })?;
                Ok(Self::Other { resource: Resource::Nproc, old })
            }
            "lengths" => {
                let old = getrlimit(Resource::Fsize);
                let current = Some(random.pick(&[64 << 10, 100_000, 1 << 20]));
                setrlimit(Resource::Fsize, Rlimit { current, maximum: old.maximum })?;
                Ok(Self::Other { resource: Resource::Fsize, old })
            }
            _ => {
                let old = getrlimit(Resource::As);
                let status = std::fs::read_to_string("/proc/self/statm")?;
                let pages: u64 = status.split(' ').next().unwrap_or_default().parse()?;
                let current = Some(pages * 4096 + random.pick(&[0, 16 << 10, 256 << 10, 1 << 20, 8 << 20]));
                setrlimit(Resource::As, Rlimit { current, maximum: old.maximum })?;
                Ok(Self::Other { resource: Resource::As, old })
            }
        }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let (resource, old) = match self {
            Self::Descriptors { old, held } => {
                held.clear();
                (Resource::Nofile, *old)
            }
            Self::Other { resource, old } => (*resource, *old),
        };
        if let Err(error) = setrlimit(resource, old) {
            eprintln!("a limit stays: {error}");
        }
    }
}
