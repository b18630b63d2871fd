//! The report of the runs: the table with its bars, the numbers as JSON, and the plots.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::beyond::{BARE_APPEND, limit_bytes};
use crate::machine::{Machine, version_of};
use crate::plot;
use crate::rounds::{BARE, read_runs};
use crate::rows::{BARE_SYNC, BARE_SYNC_SHARE, ROWS, Unit};
use crate::stores::{OWN, entries};
use crate::table::{StoreColumn, Table, number};
use crate::workload::Group;
use crate::wrap::wrapped;

/// Reads the runs at `runs` and writes `peers.md`, `peers.json` and the plots to `out`; of the
/// group `beyond` the table alone, named after the number of keys. The stores were in `dir`.
pub(crate) fn write(runs: &Path, dir: &Path, out: &Path) -> Result<()> {
    let runs = read_runs(runs)?;
    let table = Table::new(&runs);
    let machine = Machine::here(dir)?;
    fs::create_dir_all(out)?;
    if runs.iter().any(|run| run.group == Group::Beyond) {
        ensure!(table.keys.len() == 1, "runs of `beyond` with several numbers of keys are not one table");
        let keys: u64 = table.keys.iter().sum();
        fs::write(out.join(format!("beyond-{keys}.md")), beyond(&table, &machine, keys)?)?;
        println!("{}{}", rows(&table)?, bare_appends(&table));
        table.failures.iter().for_each(|failure| eprintln!("{failure}"));
        return Ok(());
    }
    let plots = plot::write(&table, &machine, out)?;
    fs::write(out.join("peers.md"), markdown(&table, &machine, &plots)?)?;
    fs::write(out.join("peers.json"), format!("{:#}\n", numbers(&table, &machine)))?;
    println!("{}", rows(&table)?);
    for failure in &table.failures {
        eprintln!("{failure}");
    }
    Ok(())
}

/// Draws the plots again, from the numbers of `peers.json` in `out`.
pub(crate) fn redraw(out: &Path) -> Result<()> {
    let (table, machine) = Table::published(&fs::read_to_string(out.join("peers.json"))?)?;
    for name in plot::write(&table, &machine, out)? {
        println!("{}", out.join(name).with_extension("svg").display());
    }
    Ok(())
}

fn markdown(table: &Table, machine: &Machine, plots: &[String]) -> Result<String> {
    let mut text = String::from(
        "# Comparison with other stores\n\nWritten by `cargo xtask peers`; [peers.json](peers.json) has the numbers of \
         all rounds.\n",
    );
    let keys: Vec<String> = table.keys.iter().map(|keys| number(*keys as f64)).collect();
    writeln!(
        text,
        "\n{}, {} processors, {} MiB, {}, {}, {}. {} keys of 16 bytes with values of 100 bytes unless the row says \
         otherwise. Medians of up to {} rounds, in which the stores alternated. Each run was a separate process with a \
         fresh directory. Every read was checked, and the work of the stores was compared.\n",
        machine.processor,
        machine.processors,
        machine.memory_mib,
        machine.kernel,
        machine.file_system,
        machine.compiler,
        keys.join(" and "),
        table.rounds()
    )?;
    text += "The guarantee is that a returned write survives `kill -9` of the process, and in rows named *synced* also \
             power loss. A store marked † loses returned writes when the process is killed; it can be the best only in \
             rows of reads and in *synced* rows. Numbers are per second unless a row names a unit. *ratio* compares \
             Hightower KV with the best of the other stores that count (bold); above 1 Hightower KV is better.\n\n";
    text += &budget(table)?;
    text += &rows(table)?;
    text += &bare(table)?;
    text += "\n## Usage of each store\n\nThe values are incompressible, and compression is off in stores that have it. \
             Every put, get and delete is a separate operation (a transaction in stores that have them).\n\n\
             | store | version | usage |\n| --- | --- | --- |\n";
    for entry in &table.stores {
        writeln!(text, "| {}{} | {} | {} |", entry.id, mark(entry), entry.version, entry.usage)?;
    }
    if !table.failures.is_empty() {
        text += "\n## Failures\n\n";
        table.failures.iter().try_for_each(|failure| writeln!(text, "- {failure}"))?;
    }
    text += "\n## Plots\n\nThe longest bar of a row is its largest number: the best rate, or the worst time, memory or \
             disk space.\n";
    plots.iter().try_for_each(|plot| writeln!(text, "\n![{plot}]({plot}.svg)"))?;
    text += "\n## Commands\n\n```sh\ncargo xtask peers\n\
             cargo xtask peers -- --stores hightower,lmdb --workloads core --keys 200000 --rounds 1\n\
             cargo xtask peers -- --physical\n```\n";
    Ok(wrapped(&text))
}

/// The document of the group `beyond`.
fn beyond(table: &Table, machine: &Machine, keys: u64) -> Result<String> {
    let (count, limit_mib) = (number(keys as f64), limit_bytes(keys) >> 20);
    let mut text = format!(
        "# More than memory: {count} keys\n\nWritten by `cargo xtask peers -- --workloads beyond --keys {keys} --rounds \
         {}`.\n\n{}, {} processors, {} MiB, {}, {}, {}. {count} keys of 16 bytes with values of 100 bytes. *Limited* rows ran in \
         a fresh memory cgroup of {limit_mib} MiB, which counts the page cache too, from an empty page cache on. There, \
         caches have a quarter of the memory and memtables an eighth; Hightower KV's memtables have the same eighth. In \
         the other rows, which have all files in the page cache, others have their large caches of [peers.md](peers.md), \
         and Hightower KV a budget of 64 MiB. Bytes written are those of the whole device.\n\n",
        table.rounds(),
        machine.processor,
        machine.processors,
        machine.memory_mib,
        machine.kernel,
        machine.file_system,
        machine.compiler,
    );
    text += "† and ‡ mean the same as in [peers.md](peers.md).\n\n";
    text += &rows(table)?;
    text += &bare_appends(table);
    if !table.failures.is_empty() {
        text += "\n## Failures\n\n";
        table.failures.iter().try_for_each(|failure| writeln!(text, "- {failure}"))?;
    }
    Ok(wrapped(&text))
}

/// The sentence on bare appends under the limit.
fn bare_appends(table: &Table) -> String {
    table.median(BARE_APPEND, BARE).map_or(String::new(), |p9999_us| {
        format!("\nAppends of 136 bytes by `write`, limited: p99.99 {} µs.\n", number(p9999_us))
    })
}

/// The time limit of a row, and the meaning of numbers at the limit.
fn budget(table: &Table) -> Result<String> {
    let seconds: Vec<String> = table.row_seconds.iter().map(|seconds| format!("{seconds}")).collect();
    let mut text = format!(
        "A store has {} s for the operations of a row. ‡ marks a store that needed longer and was stopped at the end of \
         an operation: rates and latencies are those of the completed operations. The rest is then written in untimed \
         batches of 1,000, so that the next row finds the same content. In rows of disk space, ‡ means that the last \
         changes were written in this way.",
        seconds.join(" or ")
    );
    let left_out = entries().into_iter().filter(|entry| !table.stores.iter().any(|store| store.id == entry.id));
    let left_out: Vec<String> = left_out.map(|entry| format!("{} {}", entry.id, version_of(&entry))).collect();
    if !left_out.is_empty() {
        write!(text, " Not part of these runs: {}.", left_out.join(", "))?;
    }
    if left_out.iter().any(|name| name.starts_with("sled-1.0-alpha")) {
        text += " sled 1.0 is a pre-release; the newest stable version takes part.";
    }
    text += "\n\n";
    Ok(text)
}

fn mark(entry: &StoreColumn) -> &'static str {
    if entry.survives_kill { "" } else { " †" }
}

fn rows(table: &Table) -> Result<String> {
    let mut text = String::from("| workload |");
    table.stores.iter().try_for_each(|entry| write!(text, " {}{} |", entry.id, mark(entry)))?;
    writeln!(text, " ratio | bar | |\n| --- |{} --- | --- | --- |", " --- |".repeat(table.stores.len()))?;
    for row in ROWS {
        if !table.stores.iter().any(|entry| table.median(row.id, &entry.id).is_some()) {
            continue;
        }
        let unit = if row.unit == Unit::PerSecond { String::new() } else { format!(" ({})", row.unit.name()) };
        write!(text, "| {}{unit} |", row.title)?;
        let best = table.best(row).map(|(entry, _)| &entry.id);
        for entry in &table.stores {
            match table.median(row.id, &entry.id) {
                Some(value) => {
                    let bold = if best == Some(&entry.id) { "**" } else { "" };
                    write!(text, " {bold}{}{bold}{} |", number(value), table.stopped_mark(row.id, &entry.id))?;
                }
                None => text += " — |",
            }
        }
        let ratio = table.ratio(row).map_or(String::new(), |ratio| format!("{ratio:.2} ×"));
        let (bar, reached) = table.verdict(row);
        writeln!(text, " {ratio} | {bar} | {} |", reached.map_or("", |reached| if reached { "pass" } else { "miss" }))?;
    }
    Ok(text)
}

/// The sentence on synced commits beside bare synced appends.
fn bare(table: &Table) -> Result<String> {
    let mut text = String::new();
    let Some(bare) = table.median(BARE_SYNC, BARE) else { return Ok(text) };
    write!(text, "\nAppends of 136 bytes to a preallocated file, each with an fdatasync: {}/s.", number(bare))?;
    if let Some(own) = table.median("synced_1", OWN) {
        let (share, verdict) = (own / bare, if own / bare >= BARE_SYNC_SHARE { "pass" } else { "miss" });
        write!(
            text,
            " Synced commits of one thread reach {share:.2} of this rate (bar: ≥ {BARE_SYNC_SHARE}: {verdict})."
        )?;
    }
    text.push('\n');
    Ok(text)
}

fn numbers(table: &Table, machine: &Machine) -> serde_json::Value {
    let rows: Vec<_> = ROWS
        .iter()
        .map(|row| {
            let of = |store: &StoreColumn| {
                let rounds = table.values_of(row.id, &store.id)?;
                let stopped = table.is_stopped(row.id, &store.id);
                let median = table.median(row.id, &store.id);
                Some((store.id.clone(), json!({ "median": median, "rounds": rounds, "stopped": stopped })))
            };
            let stores: serde_json::Map<_, _> = table.stores.iter().filter_map(of).collect();
            let (bar, reached) = table.verdict(row);
            json!({ "id": row.id, "title": row.title, "unit": row.unit.name(), "stores": stores,
                    "best_peer": table.best(row).map(|(entry, _)| &entry.id), "ratio": table.ratio(row), "bar": bar, "reached": reached })
        })
        .collect();
    json!({ "machine": machine, "keys": table.keys, "row_seconds": table.row_seconds, "stores": table.stores, "rows": rows,
            "bare_synced_appends_per_second": table.median(BARE_SYNC, BARE), "failures": table.failures })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{column, run, table};

    #[test]
    fn a_store_that_was_stopped_once_is_marked() {
        let runs = [run("a", "delete", 9.0, Some(7)), run("a", "delete", 1.0, None), run("b", "delete", 5.0, Some(7))];
        let table = table(&runs, vec![column("a", true), column("b", true)]);
        assert!(table.failures.is_empty(), "work that was not done is not compared");
        assert_eq!(rows(&table).unwrap().lines().last(), Some("| delete | 5.00 ‡ | **5.00** |  | ≥ 3 × |  |"));
    }
}
