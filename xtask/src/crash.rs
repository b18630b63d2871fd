//! Real crashes: a writer process with several threads is killed repeatedly at random moments, on
//! one store.
//!
//! The writer reports each acknowledged write over a pipe. After SIGKILL the store is opened and
//! compared with the reports: every acknowledged write exists (or a later one to the same key),
//! batches are complete, no other content exists, and neither seq nor version has gone back. The
//! cycles alternate between both append paths and all durability levels; opens are killed too.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hightower_engine::{AppendMode, Durability, SingleNodeEngine, StoreConfig};

/// Number of writer threads that put single keys; another one writes batches.
const PUTTERS: usize = 3;
/// Number of keys per writer. They are overwritten repeatedly, so that compaction has work.
const KEYS: u64 = 500;
/// Number of keys in a batch, all with the same number.
const BATCH_KEYS: u64 = 5;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Number of kills
    #[arg(long, default_value_t = 50)]
    pub(crate) cycles: u64,
    /// Seed of the moments of the kills
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Directory of the store; by default a temporary one
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { cycles: 50, seed: 1, dir: None }
    }
}

#[derive(clap::Args)]
pub(crate) struct WriterOptions {
    dir: PathBuf,
    cycle: u64,
}

fn config(dir: &Path, cycle: u64) -> StoreConfig {
    let interval = Duration::from_millis(2);
    StoreConfig::at(dir)
        .with_max_segment_size(256 << 10)
        .with_append_mode(if cycle.is_multiple_of(2) { AppendMode::Mapped } else { AppendMode::Positioned })
        .with_durability(
            [Durability::Os, Durability::Interval(interval), Durability::Sync]
                [usize::try_from(cycle / 2 % 3).unwrap_or(0)],
        )
        .with_compaction_interval(Duration::from_millis(20))
}

fn slot_key(putter: usize, number: u64) -> String {
    format!("putter/{putter}/{:04}", number % KEYS)
}

fn batch_key(at: u64) -> String {
    format!("batch/{at}")
}

/// The value for a number: long enough to sometimes span pages, and comparable byte for byte.
fn value(number: u64) -> Vec<u8> {
    let len = 20 + usize::try_from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54).unwrap_or(0);
    let mut value = vec![number.to_le_bytes()[0]; len];
    value[..8].copy_from_slice(&number.to_le_bytes());
    value
}

fn number_of(bytes: &[u8]) -> Result<u64> {
    let number = u64::from_le_bytes(bytes.first_chunk().copied().context("a value shorter than any written one")?);
    ensure!(bytes == value(number), "the value of {number} differs from the written one");
    Ok(number)
}

/// The writer: continues from the content of the store, and runs until it is killed.
pub(crate) fn write(options: &WriterOptions) -> Result<()> {
    let engine = SingleNodeEngine::with_config(config(&options.dir, options.cycle))?;
    let seen = survey(&engine)?;
    report(&format!("open {} {}", engine.latest_seq(), engine.latest_version()))?;
    thread::scope(|scope| {
        let engine = &engine;
        let mut threads = Vec::new();
        for putter in 0..PUTTERS {
            let start = seen.putters[putter] + 1;
            threads.push(scope.spawn(move || -> Result<()> {
                for number in start.. {
                    engine.put(slot_key(putter, number), value(number))?;
                    report(&format!("put {putter} {number}"))?;
                }
                Ok(())
            }));
        }
        let start = seen.batch + 1;
        threads.push(scope.spawn(move || -> Result<()> {
            for number in start.. {
                let batch = (0..BATCH_KEYS).map(|at| (batch_key(at), value(number))).collect();
                ensure!(engine.commit(&batch)?.is_committed(), "a batch without requirements was rejected");
                report(&format!("batch 0 {number}"))?;
            }
            Ok(())
        }));
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a writer panicked")))
    })
}

/// One line to the parent, in one write, so that each received line is complete.
fn report(line: &str) -> Result<()> {
    Ok(std::io::stdout().lock().write_all(format!("{line}\n").as_bytes())?)
}

/// The highest known number of each writer.
#[derive(Clone, Debug, Default)]
struct Numbers {
    putters: [u64; PUTTERS],
    batch: u64,
    seq: u64,
    version: u64,
}

/// Reads everything, and fails for content that no writer has written.
fn survey(engine: &SingleNodeEngine) -> Result<Numbers> {
    let mut seen = Numbers { seq: engine.latest_seq(), version: engine.latest_version(), ..Numbers::default() };
    for putter in 0..PUTTERS {
        for slot in 0..KEYS {
            let Some(found) = engine.get(slot_key(putter, slot))? else { continue };
            let number = number_of(&found)?;
            ensure!(number % KEYS == slot, "putter {putter} wrote {number} elsewhere");
            seen.putters[putter] = seen.putters[putter].max(number);
        }
    }
    let batch = (0..BATCH_KEYS).map(|at| engine.get(batch_key(at))?.map_or(Ok(0), |found| number_of(&found)));
    let batch = batch.collect::<Result<Vec<_>>>()?;
    ensure!(batch.iter().all(|number| *number == batch[0]), "a batch is incomplete: {batch:?}");
    seen.batch = batch[0];
    ensure!(engine.range(..)?.count() == engine.len(), "the number of keys differs from that of the iterated ones");
    Ok(seen)
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let dir = options.dir.clone().unwrap_or_else(|| scratch.path().join("store"));
    let mut random = options.seed;
    let mut acknowledged = Numbers::default();
    let mut writes = 0_u64;
    for cycle in 0..options.cycles {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // A third of the runs are so short that most end during the open.
        let life_ms = if cycle % 3 == 2 { random >> 40 & 7 } else { 20 + (random >> 40) % 180 };
        let mut child = spawn(&dir, cycle)?;
        let reports = child.stdout.take().context("the writer has no pipe")?;
        let reader = thread::spawn(move || BufReader::new(reports).lines().map_while(Result::ok).collect::<Vec<_>>());
        thread::sleep(Duration::from_millis(life_ms));
        child.kill()?;
        child.wait()?;
        let lines = reader.join().map_err(|_| anyhow::anyhow!("reading the reports failed"))?;
        writes += note(&lines, &mut acknowledged)?;
        let told = format!("cycle {cycle} of seed {} after {life_ms} ms", options.seed);
        let replay = format!("replay: cargo xtask crash --cycles {} --seed {}", cycle + 1, options.seed);
        acknowledged = check(&dir, cycle, &acknowledged).with_context(|| format!("{told}; {replay}"))?;
    }
    println!("{} kills, {writes} acknowledged writes, all found", options.cycles);
    println!("{} passed, 0 failed", options.cycles);
    Ok(())
}

fn spawn(dir: &Path, cycle: u64) -> Result<Child> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command.arg("crash-writer").arg(dir).arg(cycle.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().context("start the writer")
}

/// Reads the writer's reports; returns the number of writes.
fn note(lines: &[String], acknowledged: &mut Numbers) -> Result<u64> {
    let mut writes = 0;
    for line in lines {
        let words: Vec<_> = line.split(' ').collect();
        let [verb, first, second] = words[..] else { bail!("the writer said {line:?}") };
        let (first, second): (u64, u64) = (first.parse()?, second.parse()?);
        match verb {
            "open" => {
                ensure!(
                    first >= acknowledged.seq && second >= acknowledged.version,
                    "seq or version went back: {line}"
                );
            }
            "put" => acknowledged.putters[usize::try_from(first)?] = second,
            "batch" => acknowledged.batch = second,
            _ => bail!("the writer said {line:?}"),
        }
        writes += u64::from(verb != "open");
    }
    Ok(writes)
}

/// Opens the store after a kill, and compares it with the acknowledged writes.
fn check(dir: &Path, cycle: u64, acknowledged: &Numbers) -> Result<Numbers> {
    let engine = SingleNodeEngine::with_config(config(dir, cycle + 1))?;
    let seen = survey(&engine)?;
    for (putter, (seen, acknowledged)) in seen.putters.iter().zip(&acknowledged.putters).enumerate() {
        ensure!(seen >= acknowledged, "putter {putter}: {acknowledged} was acknowledged, the store has {seen}");
        ensure!(
            *seen <= acknowledged + 1,
            "putter {putter}: the store has {seen}, only {acknowledged} was acknowledged"
        );
        // The slots before the newest hold the numbers before it.
        for number in acknowledged.saturating_sub(KEYS - 1).max(1)..=*acknowledged {
            let found = engine.get(slot_key(putter, number))?.context("an acknowledged write is lost")?;
            ensure!(number_of(&found)? >= number, "putter {putter}: an older write than {number} is in its place");
        }
    }
    ensure!(
        seen.batch >= acknowledged.batch,
        "batch {} was acknowledged, the store has {}",
        acknowledged.batch,
        seen.batch
    );
    ensure!(seen.seq >= acknowledged.seq && seen.version >= acknowledged.version, "seq or version went back");
    // The next writer starts from the state after the kill, or after a clean close, half of the
    // time each.
    if cycle.is_multiple_of(2) {
        engine.close()?;
    }
    Ok(seen)
}
