//! Other processes: a writer that is killed at any moment, stopped and continued many times before,
//! or whose device turns read-only; children that are started while the store is opened and closed;
//! a fork that continues with a copy of the store.

use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hightower_engine::{Components, Durability, SingleNodeEngine, StoreConfig};
use rustix::process::{Pid, Signal, kill_process};

use crate::hostile::model::Model;
use crate::hostile::mounts::{Mount, abort, mount, mount_point, repair};
use crate::hostile::operations::{ALL, Mix, UNSYNCED};
use crate::hostile::random::Random;
use crate::hostile::round::Round;
use crate::hostile::store::Store;
use crate::hostile::storm::{config, key, model, run as storm};
use crate::hostile::watch::doing;

const EVENTS: &[&str] = &["kill", "stop", "read-only", "spawn", "fork"];

/// Room for all that a writer writes before its device turns read-only.
const DEVICE_BYTES: u64 = 64 << 20;

/// Opens and closes while children are started.
const LIFE: Mix = &[("put", 20), ("get", 10), ("batch", 5), ("compact", 1), ("close", 40), ("drop", 10)];

pub(super) fn run(round: &Round) -> Result<()> {
    let mut random = Random::new(round.plan.seed);
    if let Some(role) = &round.role {
        let (event, cycle) = role.split_once('/').context("a role is EVENT/CYCLE")?;
        return writer(round, event, cycle.parse().context("a cycle is a number")?);
    }
    let events: Vec<_> = EVENTS.iter().copied().filter(|event| !round.plan.without.contains(*event)).collect();
    let event = random.pick(&events);
    println!("event {event}");
    match event {
        "kill" | "stop" => kill(round, event, &mut random),
        "read-only" => turn_read_only(round, &mut random),
        "spawn" => spawn(round, &mut random),
        _ => fork(round, &mut random),
    }
    .with_context(|| format!("the event is {event}"))
}

fn config_of(cycle: u64, round: &Round) -> StoreConfig {
    config(&mut Random::new(round.plan.seed ^ cycle), &round.store_dir())
}

/// The settings of a writer for an event: on the event's own file system if it has one.
fn config_for(event: &str, cycle: u64, round: &Round) -> StoreConfig {
    let mut config = config_of(cycle, round);
    if let Some(mounted) = file_system_of(event).map(|kind| mount_point(kind, &round.dir)).filter(|dir| dir.exists()) {
        config.data_dir = mounted.join("store");
    }
    if event == "read-only" {
        config.durability = Some(Durability::Sync);
    }
    config
}

/// The file system on which an event takes place. Only tmpfs ends a call early when a stopped
/// process continues; only ext4 can be made read-only under an open file.
fn file_system_of(event: &str) -> Option<&'static str> {
    match event {
        "stop" => Some("tmpfs"),
        "read-only" => Some("ext4"),
        _ => None,
    }
}

fn journaled(round: &Round) -> Result<Model> {
    model(1000).with_journal(&round.dir.join("journal"))
}

/// The writer that is killed: it calls every operation until then.
fn writer(round: &Round, event: &str, cycle: u64) -> Result<()> {
    let config = config_for(event, cycle, round);
    let mut plan = round.plan.clone();
    plan.operations = u64::MAX;
    if event == "read-only" {
        plan.without.insert(UNSYNCED.to_owned());
    }
    let store = Store::unopened(config, Components::default(), &round.scratch(), journaled(round)?, &plan)?;
    if event == "read-only" {
        store.allow(&["io", "poisoned"]);
    }
    store.open_again(None)?;
    storm(&store, &plan, &mut Random::new(round.plan.seed.rotate_left(32) ^ cycle), ALL)
}

/// Lets a writer run for a time, and kills it. Before that, it may be stopped and continued many
/// times.
fn run_and_kill(mut child: Child, time: Duration, is_stopped: bool) -> Result<()> {
    if is_stopped {
        let pid = Pid::from_child(&child);
        let started = Instant::now();
        while started.elapsed() < time {
            for signal in [Signal::STOP, Signal::CONT] {
                kill_process(pid, signal)?;
                thread::sleep(Duration::from_micros(300));
            }
        }
    } else {
        thread::sleep(time);
    }
    child.kill()?;
    let status = child.wait()?;
    ensure!(status.signal() == Some(9), "the writer has found something: {status}");
    Ok(())
}

/// Stops a process, and waits until each of its threads has stopped: none is in a system call then.
fn stop(child: &Child) -> Result<()> {
    kill_process(Pid::from_child(child), Signal::STOP)?;
    let tasks = Path::new("/proc").join(child.id().to_string()).join("task");
    let is_stopped = || -> Result<bool> {
        for task in fs::read_dir(&tasks).context("list the threads of a writer")? {
            let stat = fs::read_to_string(task?.path().join("stat")).context("read the state of a thread")?;
            // "PID (NAME) STATE ...", and NAME may contain anything.
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            match state {
                Some('T') => {}
                Some('Z' | 'X') => bail!("the writer has ended by itself"),
                _ => return Ok(false),
            }
        }
        Ok(true)
    };
    while !is_stopped()? {
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

fn kill(round: &Round, event: &str, random: &mut Random) -> Result<()> {
    let _mounted = own_file_system(round, event);
    let mut seen = (0, 0);
    for cycle in 1..=1 + random.below(6) {
        let _doing = doing("kill", &cycle.to_string());
        let child = round.child(&format!("{event}/{cycle}"))?.spawn().context("start a writer")?;
        let time = Duration::from_millis(random.pick(&[3, 20, 60, 150, 400]));
        run_and_kill(child, time, event == "stop")?;
        remove_finished_copies(&round.scratch())?;
        let model = journaled(round)?;
        let config = config_for(event, cycle, round);
        let store = Store::unopened(config, Components::default(), &round.scratch(), model, &round.plan)?;
        if !store.config.data_dir.exists() {
            continue;
        }
        store.open_again(None)?;
        let handle = store.handle().context("it was opened")?;
        store.verify(&handle.engine, &store.model.read())?;
        let now = (handle.engine.latest_seq(), handle.engine.latest_version());
        ensure!(now.0 >= seen.0 && now.1 >= seen.1, "(seq, version) has gone back from {seen:?} to {now:?}");
        seen = now;
        drop(handle);
        if random.once_in(2) {
            store.finish(1)?;
        }
        // In half of the cases the next writer continues after a drop in this process.
    }
    Ok(())
}

/// Mounts the file system of an event. Where that is not possible, the round's directory serves.
fn own_file_system(round: &Round, event: &str) -> Option<Mount> {
    let kind = file_system_of(event)?;
    match mount(kind, &round.dir, DEVICE_BYTES) {
        Ok(mounted) => Some(mounted),
        Err(error) => {
            println!("skipped {kind} cannot be mounted here: {}", format!("{error:#}").replace('\n', " "));
            let _directory = fs::remove_dir(mount_point(kind, &round.dir));
            None
        }
    }
}

/// The device of a writer turns read-only, as after an error of the device, and loses all that was
/// not synced. The writer goes on reading, until it is killed. What it has acknowledged is there
/// once the device is mounted again.
///
/// The writer is stopped meanwhile, so that no sync is in progress: ext4 (Linux 6.18) can report
/// success for an `fdatasync` that overlaps the abort of its journal, and lose the data.
fn turn_read_only(round: &Round, random: &mut Random) -> Result<()> {
    let event = "read-only";
    let Some(mounted) = own_file_system(round, event) else { return Ok(()) };
    for cycle in 1..=1 + random.below(3) {
        let _doing = doing("read-only", &cycle.to_string());
        let child = round.child(&format!("{event}/{cycle}"))?.spawn().context("start a writer")?;
        thread::sleep(Duration::from_millis(random.pick(&[3, 20, 60, 150, 400])));
        stop(&child)?;
        abort(&mounted)?;
        kill_process(Pid::from_child(&child), Signal::CONT)?;
        run_and_kill(child, Duration::from_millis(random.pick(&[0, 20, 100])), false)?;
        remove_finished_copies(&round.scratch())?;
        repair(&mounted, &round.dir)?;
        let model = journaled(round)?;
        let config = config_for(event, cycle, round);
        let store = Store::unopened(config, Components::default(), &round.scratch(), model, &round.plan)?;
        if store.config.data_dir.exists() {
            store.open_again(None)?;
            store.finish(1)?;
        }
    }
    Ok(())
}

/// Removes the copies that a killed writer has finished but not removed. Those that it has not
/// finished stay: the next writer's copies take their place.
fn remove_finished_copies(scratch: &Path) -> Result<()> {
    if !scratch.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(scratch).context("list the copies")? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let is_new_store = ["restored-", "imported-", "salvaged-"]
            .iter()
            .any(|kind| name.as_encoded_bytes().starts_with(kind.as_bytes()));
        if is_new_store && !entry.join("UNFINISHED").exists() {
            fs::remove_dir_all(&entry).with_context(|| format!("remove {}", entry.display()))?;
        }
    }
    Ok(())
}

/// Children are started, by fork and exec, while the store is closed and opened: none of them keeps
/// it locked.
fn spawn(round: &Round, random: &mut Random) -> Result<()> {
    let store = Store::open(config_of(0, round), Components::default(), &round.scratch(), model(1000), &round.plan)?;
    let is_over = AtomicBool::new(false);
    let uid = rustix::process::getuid().as_raw();
    thread::scope(|scope| -> Result<()> {
        let starters: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while !is_over.load(Ordering::Relaxed) {
                        let _doing = doing("spawn", "");
                        // If a user is given, the library forks and then executes, instead of one
                        // combined call.
                        ensure!(Command::new("/bin/true").uid(uid).status()?.success(), "/bin/true has failed");
                    }
                    Ok(())
                })
            })
            .collect();
        let result = storm(&store, &round.plan, random, LIFE);
        is_over.store(true, Ordering::Relaxed);
        starters.into_iter().try_for_each(|starter| starter.join().unwrap_or_else(|_| bail!("a starter panicked")))?;
        result
    })?;
    store.finish(1)
}

/// The calls of a fork on its copy of the engine.
const FORKED: &[&str] = &["put", "delete", "close", "flush", "compact", "checkpoint", "get"];

/// A fork is not the process that opened the store: all its writes are refused.
fn fork(round: &Round, random: &mut Random) -> Result<()> {
    let mut config = config_of(0, round);
    config.worker_threads = usize::try_from(random.pick(&[0, 0, 1])).unwrap_or(0);
    let store = Store::open(config, Components::default(), &round.scratch(), model(1000), &round.plan)?;
    let calls: Vec<_> = FORKED.iter().copied().filter(|call| !round.plan.without.contains(*call)).collect();
    for _ in 0..3 {
        storm(&store, &round.plan, random, LIFE)?;
        let handle = store.handle().context("it is open")?;
        let call = random.pick(&calls);
        match fork::fork().context("fork")? {
            fork::Fork::Child => {
                drop(store);
                std::process::exit(forked(&handle.engine, call));
            }
            fork::Fork::Parent(child) => {
                // The fork has only this thread, which may wait for a lock that another thread
                // held: that is also a finding.
                let status = wait(child).with_context(|| format!("{call} in a fork"))?;
                ensure!(status != 7, "{call} in a fork succeeds");
                ensure!(status == 0, "{call} in a fork ends with {status}");
            }
        }
        store.verify(&handle.engine, &store.model.read()).with_context(|| format!("after {call} in a fork"))?;
    }
    store.finish(1)
}

/// Returns the fork's exit code: 7 if a forbidden call succeeded.
fn forked(engine: &SingleNodeEngine, call: &str) -> i32 {
    let is_done = match call {
        "put" => engine.put(key(0), "of a fork").is_ok(),
        "delete" => engine.delete(key(0)).is_ok(),
        // These may have any result, if they return and the parent's store is unchanged.
        "close" | "get" | "flush" => {
            let _any = match call {
                "close" => engine.close().is_ok(),
                "get" => engine.get(key(0)).is_ok(),
                _ => engine.flush().is_ok(),
            };
            false
        }
        "compact" => engine.run_compaction_now().is_ok(),
        _ => engine.checkpoint().is_ok(),
    };
    if is_done { 7 } else { 0 }
}

fn wait(child: i32) -> Result<i32> {
    let _doing = doing("fork", "");
    let child = Pid::from_raw(child);
    for _ in 0..1000 {
        if let Some((_, status)) = rustix::process::waitpid(child, rustix::process::WaitOptions::NOHANG)? {
            return status.exit_status().with_context(|| format!("it died: {status:?}"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    if let Some(child) = child {
        kill_process(child, Signal::KILL)?;
    }
    bail!("it does not return")
}
