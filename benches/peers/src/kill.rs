//! The check behind the mark †: kills a writer of a store by SIGKILL, opens the store again, and
//! counts the lost returned writes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::data::{Values, key};
use crate::store::Guarantee;
use crate::stores::Entry;
use crate::workload::VALUE_LEN_BYTES;

/// Number of returned writes after which the writer is killed.
const WRITES: u64 = 2000;

/// Writes keys, and prints the number of each returned write, until it is killed.
pub(crate) fn write(entry: &Entry, dir: &Path) -> Result<()> {
    let store = (entry.open)(dir, Guarantee::Process)?;
    let (mut values, mut out) = (Values::new(VALUE_LEN_BYTES), std::io::stdout().lock());
    for index in 0.. {
        store.put(&key(index), values.make(&key(index), 0))?;
        writeln!(out, "{index}")?;
        out.flush()?;
    }
    Ok(())
}

/// Kills a writer of each store, and prints the number of lost returned writes. An error if a store
/// without the mark loses any.
pub(crate) fn check(stores: &[Entry], dir: &Path) -> Result<()> {
    for entry in stores {
        let dir = dir.join(entry.id);
        let (returned, lost) = lose(entry, &dir).with_context(|| entry.id)?;
        println!("{}: {lost} of {returned} returned writes lost by kill -9", entry.id);
        // A store with the mark may lose none by chance, if its buffer was flushed just before.
        ensure!(
            !entry.survives_kill || lost == 0,
            "{} is listed as a store that loses nothing when it is killed",
            entry.id
        );
    }
    Ok(())
}

/// The number of returned writes at the kill, and the number of lost ones among them.
fn lose(entry: &Entry, dir: &Path) -> Result<(u64, u64)> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    let mut writer = Command::new(std::env::current_exe()?)
        .args(["--stores", entry.id, "--kill-writer", "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(writer.stdout.take().context("the writer has no output")?).lines();
    let mut returned = 0;
    while returned < WRITES && lines.next().transpose()?.is_some() {
        returned += 1;
    }
    writer.kill()?;
    writer.wait()?;
    // The last line may be incomplete, but its write had returned.
    returned += lines.map_while(Result::ok).count() as u64;
    ensure!(returned >= WRITES, "the writer ended by itself after {returned} writes");
    let store = (entry.open)(dir, Guarantee::Process)?;
    let values = Values::new(VALUE_LEN_BYTES);
    let mut lost = 0;
    for index in 0..returned {
        let key = key(index);
        if !store.get(&key, &mut |value| values.check(&key, value))? {
            lost += 1;
        }
    }
    store.close()?;
    fs::remove_dir_all(dir)?;
    Ok((returned, lost))
}
