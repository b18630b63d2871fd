//! The limits of the machine: the speed of memory, page cache and disk for records like those of
//! stores.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hightower_segment::{Access, MapPermit, Mapping};
use rustix::fs::{FallocateFlags, fallocate};
use serde::Serialize;

use crate::data::Random;
use crate::machine::Machine;
use crate::wrap::wrapped;

/// Bytes of a record: a key of 16, a value of 100, and a header.
const RECORD_LEN_BYTES: usize = 136;
/// Length of the file for appends.
const FILE_LEN_BYTES: u64 = 64 << 20;
/// Length of the file for reads.
const READ_FILE_LEN_BYTES: u64 = 200 << 20;
/// Length of one read.
const READ_LEN_BYTES: usize = 100;
/// Number of appends with a sync each.
const SYNCS: u64 = 1000;
/// Number of rounds.
const ROUNDS: usize = 5;

/// One limit.
#[derive(Serialize)]
struct Limit {
    what: &'static str,
    unit: &'static str,
    median: f64,
    least: f64,
    most: f64,
}

/// Measures all limits in `dir`, and writes `physical.md` and `physical.json` to `out`.
pub(crate) fn measure(dir: &Path, out: &Path) -> Result<()> {
    let machine = Machine::here(dir)?;
    let path = dir.join("physical.bin");
    let limits = [
        limit("copy of a 136-byte record into a mapped, preallocated file, first touch of its pages", "ns", || {
            map_writes(&path, 1)
        })?,
        limit("the same, pages touched before", "ns", || map_writes(&path, 2))?,
        limit("write(2) of a 136-byte record at the end of a file", "ns", || appends(&path))?,
        limit("pwrite(2) of a 136-byte record into a preallocated file", "ns", || positioned_writes(&path))?,
        limit("read of 100 random bytes of a cached file, mapped", "ns", || mapped_reads(&path))?,
        limit("the same by pread(2)", "ns", || positioned_reads(&path))?,
        limit("fdatasync(2) after an append of 136 bytes to a growing file", "µs", || {
            syncs(&path, Tail::Growing, SYNCS)
        })?,
        limit("the same into a preallocated file", "µs", || syncs(&path, Tail::Preallocated, SYNCS))?,
        limit("the same into a file that was written before", "µs", || syncs(&path, Tail::Overwritten, SYNCS))?,
    ];
    remove(&path)?;
    fs::create_dir_all(out)?;
    fs::write(out.join("physical.md"), markdown(&machine, &limits))?;
    let json = serde_json::json!({ "machine": machine, "rounds": ROUNDS, "limits": limits });
    fs::write(out.join("physical.json"), format!("{json:#}\n"))?;
    Ok(())
}

fn markdown(machine: &Machine, limits: &[Limit]) -> String {
    let mut text = format!(
        "# Limits of the machine\n\nWritten by `cargo xtask peers --physical`: median, minimum and maximum of {ROUNDS} \
         rounds. {}, {} processors, {}, {}.\n\n| | median | minimum | maximum |\n| --- | --- | --- | --- |\n",
        machine.processor, machine.processors, machine.kernel, machine.file_system
    );
    for Limit { what, unit, median, least, most } in limits {
        text += &format!("| {what} | {median:.1} {unit} | {least:.1} | {most:.1} |\n");
    }
    wrapped(&text)
}

fn limit(what: &'static str, unit: &'static str, mut once: impl FnMut() -> Result<f64>) -> Result<Limit> {
    let mut values = (0..ROUNDS).map(|_| once()).collect::<Result<Vec<f64>>>()?;
    values.sort_unstable_by(f64::total_cmp);
    eprintln!("{what}: {:.1} {unit}", values[ROUNDS / 2]);
    Ok(Limit { what, unit, median: values[ROUNDS / 2], least: values[0], most: values[ROUNDS - 1] })
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn create(path: &Path) -> Result<File> {
    remove(path)?;
    Ok(OpenOptions::new().read(true).write(true).create_new(true).open(path)?)
}

fn create_allocated(path: &Path, len_bytes: u64) -> Result<File> {
    let file = create(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, len_bytes)?;
    file.sync_all()?;
    Ok(file)
}

fn nanoseconds_each(started: Instant, count: usize) -> f64 {
    started.elapsed().as_nanos() as f64 / count as f64
}

/// For a file of this benchmark's own directory.
#[allow(unsafe_code)]
fn permit() -> MapPermit {
    // SAFETY: nobody else knows the file, and while it is mapped only its mapping writes to it.
    unsafe { MapPermit::new() }
}

/// Fills the mapped file `passes` times; returns the time of a record in the last pass. It includes
/// the copy, a check of the bounds, and the publication of the new end.
fn map_writes(path: &Path, passes: usize) -> Result<f64> {
    let file = create_allocated(path, FILE_LEN_BYTES)?;
    let mut map = Mapping::of_file(&file, FILE_LEN_BYTES as usize, Access::Write, permit())?;
    let count = FILE_LEN_BYTES as usize / RECORD_LEN_BYTES;
    let mut each = 0.0;
    for pass in 0..passes {
        ensure!(map.reset(), "the map could not be begun again");
        let mut writer = map.writer().context("the map has a writer")?;
        let record = [pass as u8 + 1; RECORD_LEN_BYTES];
        let started = Instant::now();
        for _ in 0..count {
            map.append(&mut writer, &[&record])?;
        }
        each = nanoseconds_each(started, count);
    }
    Ok(each)
}

fn appends(path: &Path) -> Result<f64> {
    let (mut file, count) = (create(path)?, 200_000);
    let started = Instant::now();
    for _ in 0..count {
        file.write_all(&[1; RECORD_LEN_BYTES])?;
    }
    Ok(nanoseconds_each(started, count))
}

fn positioned_writes(path: &Path) -> Result<f64> {
    let (file, count) = (create_allocated(path, FILE_LEN_BYTES)?, 200_000);
    let started = Instant::now();
    for place in 0..count {
        file.write_all_at(&[1; RECORD_LEN_BYTES], (place * RECORD_LEN_BYTES) as u64)?;
    }
    Ok(nanoseconds_each(started, count))
}

/// A file of random bytes that is in the page cache.
fn cached_file(path: &Path) -> Result<File> {
    let mut file = create(path)?;
    let mut random = Random::new(9);
    let chunk: Vec<u8> = (0..1 << 20).map(|_| random.next().to_le_bytes()[0]).collect();
    for _ in 0..READ_FILE_LEN_BYTES >> 20 {
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// Where the reads begin.
fn read_places(count: usize) -> Vec<u64> {
    let mut random = Random::new(10);
    (0..count).map(|_| random.below(READ_FILE_LEN_BYTES - READ_LEN_BYTES as u64)).collect()
}

fn mapped_reads(path: &Path) -> Result<f64> {
    let file = cached_file(path)?;
    let mapping = Mapping::of_file(&file, READ_FILE_LEN_BYTES as usize, Access::Read, permit())?;
    let mut writer = mapping.writer().context("the map has a writer")?;
    mapping.publish(&mut writer, mapping.len())?;
    let map = mapping.slice(0..mapping.len()).context("the map is shorter than the file")?;
    let places = read_places(1_000_000);
    black_box(map.iter().step_by(4096).fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
    let mut buffer = [0; READ_LEN_BYTES];
    let started = Instant::now();
    for place in &places {
        let place = *place as usize;
        buffer.copy_from_slice(map.get(place..place + READ_LEN_BYTES).context("a read beyond the file")?);
        black_box(&buffer);
    }
    Ok(nanoseconds_each(started, places.len()))
}

fn positioned_reads(path: &Path) -> Result<f64> {
    let file = cached_file(path)?;
    let places = read_places(500_000);
    let mut buffer = [0; READ_LEN_BYTES];
    let started = Instant::now();
    for &place in &places {
        file.read_exact_at(&mut buffer, place)?;
        black_box(&buffer);
    }
    Ok(nanoseconds_each(started, places.len()))
}

/// The state of a file behind its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// Nothing is allocated.
    Growing,
    /// Its blocks are allocated and were never written.
    Preallocated,
    /// Its blocks were written and synced before.
    Overwritten,
}

/// Microseconds of an append and its sync.
fn syncs(path: &Path, tail: Tail, count: u64) -> Result<f64> {
    let file = if tail == Tail::Growing { create(path)? } else { create_allocated(path, 4 << 20)? };
    if tail == Tail::Overwritten {
        file.write_all_at(&vec![7; 4 << 20], 0)?;
        file.sync_all()?;
    }
    let started = Instant::now();
    for place in 0..count {
        file.write_all_at(&[1; RECORD_LEN_BYTES], place * RECORD_LEN_BYTES as u64)?;
        file.sync_data()?;
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / count as f64)
}

/// The rate of appends of a record to a preallocated file with a sync each: an upper bound for
/// synced commits of one thread.
pub(crate) fn bare_synced_appends(dir: &Path, count: u64) -> Result<f64> {
    Ok(1e6 / syncs(&dir.join("bare.bin"), Tail::Preallocated, count)?)
}
