//! From runs to what is read: medians, the table with its bars, the numbers as JSON, and the plots.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::machine::{Machine, version_of};
use crate::plot;
use crate::rounds::{BARE, Run, read_runs};
use crate::rows::{Access, BARE_SYNC, BARE_SYNC_SHARE, Bar, ROWS, Row, Unit};
use crate::stores::{Entry, OWN, entries};
use crate::wrap::wrapped;

/// The numbers of all rows and stores.
pub(crate) struct Table {
    /// The stores that ran, the own one first.
    pub(crate) stores: Vec<Entry>,
    /// Row and store to the values of all rounds, sorted.
    values: BTreeMap<(String, String), Vec<f64>>,
    /// Rows and stores that did not do all work in the row's time, in any round.
    stopped: BTreeSet<(String, String)>,
    keys: BTreeSet<u64>,
    row_seconds: Vec<f64>,
    failures: Vec<String>,
}

impl Table {
    fn new(runs: &[Run]) -> Self {
        let stores = entries().into_iter().filter(|entry| runs.iter().any(|run| run.store == entry.id)).collect();
        let mut row_seconds: Vec<f64> = runs.iter().map(|run| run.row_seconds).collect();
        row_seconds.sort_unstable_by(f64::total_cmp);
        row_seconds.dedup();
        let (values, stopped, keys) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let mut table = Self { stores, values, stopped, keys, row_seconds, failures: Vec::new() };
        let mut checks: BTreeMap<(&str, u64), (u64, &str)> = BTreeMap::new();
        for run in runs {
            table.keys.insert(run.keys);
            let measurements = match &run.result {
                Ok(measurements) => measurements,
                Err(error) => {
                    table.failures.push(format!("{} did not finish {:?}: {error}", run.store, run.group));
                    continue;
                }
            };
            for measurement in measurements {
                let place = (measurement.row.clone(), run.store.clone());
                if measurement.stopped {
                    table.stopped.insert(place.clone());
                }
                table.values.entry(place).or_default().push(measurement.value);
                let Some(check) = measurement.check else { continue };
                let first = *checks.entry((&measurement.row, run.keys)).or_insert((check, &run.store));
                if first.0 != check {
                    table
                        .failures
                        .push(format!("{} and {} did different work in {}", first.1, run.store, measurement.row));
                }
            }
        }
        table.values.values_mut().for_each(|values| values.sort_unstable_by(f64::total_cmp));
        table
    }

    /// The median of a row and a store.
    pub(crate) fn median(&self, row: &str, store: &str) -> Option<f64> {
        let values = self.values.get(&(row.to_owned(), store.to_owned()))?;
        let middle = values.len() / 2;
        Some(if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) })
    }

    /// The mark of a number that counts from a part of the work.
    pub(crate) fn stopped_mark(&self, row: &str, store: &str) -> &'static str {
        if self.stopped.contains(&(row.to_owned(), store.to_owned())) { " ‡" } else { "" }
    }

    /// The best peer of a row that counts, and its median.
    fn best(&self, row: &Row) -> Option<(&Entry, f64)> {
        let is_equal = matches!(row.access, Access::Reads | Access::SyncedWrites);
        let counts = |entry: &&Entry| entry.id != OWN && (entry.survives_kill || is_equal);
        let peers = self.stores.iter().filter(counts).filter_map(|entry| Some((entry, self.median(row.id, entry.id)?)));
        let order = |a: &(_, f64), b: &(_, f64)| a.1.total_cmp(&b.1);
        if row.unit.more_is_better() { peers.max_by(order) } else { peers.min_by(order) }
    }

    /// How many times better the own store is than the best peer.
    fn ratio(&self, row: &Row) -> Option<f64> {
        let (own, best) = (self.median(row.id, OWN)?, self.best(row)?.1);
        Some(if row.unit.more_is_better() { own / best } else { best / own })
    }

    /// The bar of a row in words, and whether it is reached.
    fn verdict(&self, row: &Row) -> (String, Option<bool>) {
        match row.bar {
            Bar::TimesBest(times) => (format!("≥ {times} ×"), self.ratio(row).map(|ratio| ratio >= times)),
            Bar::AtMost(most) => {
                (format!("≤ {} {}", number(most), row.unit.name()), self.median(row.id, OWN).map(|own| own <= most))
            }
            Bar::None => (String::new(), None),
        }
    }
}

/// Reads the runs at `runs` and writes `peers.md`, `peers.json` and the plots to `out`. The stores
/// were in `dir`.
pub(crate) fn write(runs: &Path, dir: &Path, out: &Path) -> Result<()> {
    let runs = read_runs(runs)?;
    let table = Table::new(&runs);
    let machine = Machine::here(dir)?;
    fs::create_dir_all(out)?;
    let plots = plot::write(&table, out)?;
    fs::write(out.join("peers.md"), markdown(&table, &machine, &plots)?)?;
    fs::write(out.join("peers.json"), format!("{:#}\n", numbers(&table, &machine)))?;
    println!("{}", rows(&table)?);
    for failure in &table.failures {
        eprintln!("{failure}");
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
        table.values.values().map(Vec::len).max().unwrap_or(0)
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
        writeln!(text, "| {}{} | {} | {} |", entry.id, mark(entry), version_of(entry), entry.usage)?;
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

fn mark(entry: &Entry) -> &'static str {
    if entry.survives_kill { "" } else { " †" }
}

fn rows(table: &Table) -> Result<String> {
    let mut text = String::from("| workload |");
    table.stores.iter().try_for_each(|entry| write!(text, " {}{} |", entry.id, mark(entry)))?;
    writeln!(text, " ratio | bar | |\n| --- |{} --- | --- | --- |", " --- |".repeat(table.stores.len()))?;
    for row in ROWS {
        if !table.stores.iter().any(|entry| table.median(row.id, entry.id).is_some()) {
            continue;
        }
        let unit = if row.unit == Unit::PerSecond { String::new() } else { format!(" ({})", row.unit.name()) };
        write!(text, "| {}{unit} |", row.title)?;
        let best = table.best(row).map(|(entry, _)| entry.id);
        for entry in &table.stores {
            match table.median(row.id, entry.id) {
                Some(value) => {
                    let bold = if best == Some(entry.id) { "**" } else { "" };
                    write!(text, " {bold}{}{bold}{} |", number(value), table.stopped_mark(row.id, entry.id))?;
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
    let stores: Vec<_> = table
        .stores
        .iter()
        .map(|entry| {
            json!({ "id": entry.id, "package": entry.package, "version": version_of(entry), "survives_kill": entry.survives_kill,
                    "usage": entry.usage })
        })
        .collect();
    let rows: Vec<_> = ROWS
        .iter()
        .map(|row| {
            let of = |entry: &Entry| {
                let rounds = table.values.get(&(row.id.to_owned(), entry.id.to_owned()))?;
                let stopped = table.stopped.contains(&(row.id.to_owned(), entry.id.to_owned()));
                let median = table.median(row.id, entry.id);
                Some((entry.id.to_owned(), json!({ "median": median, "rounds": rounds, "stopped": stopped })))
            };
            let stores: serde_json::Map<_, _> = table.stores.iter().filter_map(of).collect();
            let (bar, reached) = table.verdict(row);
            json!({ "id": row.id, "title": row.title, "unit": row.unit.name(), "stores": stores,
                    "best_peer": table.best(row).map(|(entry, _)| entry.id), "ratio": table.ratio(row), "bar": bar, "reached": reached })
        })
        .collect();
    json!({ "machine": machine, "keys": table.keys, "row_seconds": table.row_seconds, "stores": stores, "rows": rows,
            "bare_synced_appends_per_second": table.median(BARE_SYNC, BARE), "failures": table.failures })
}

/// A number with three or more significant digits, and thousands apart.
pub(crate) fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Group, Measurement};

    fn run(store: &str, row: &str, value: f64, check: Option<u64>) -> Run {
        let result = Ok(vec![Measurement { row: row.into(), value, check, stopped: check.is_none() }]);
        Run { store: store.into(), group: Group::Core, keys: 1000, row_seconds: 10.0, result }
    }

    /// A store that cannot be opened: for tables.
    fn entry(id: &'static str, survives_kill: bool) -> Entry {
        let open = |_: &Path, _| anyhow::bail!("not a store");
        Entry { id, package: "none", version: "", survives_kill, by_default: true, usage: "", open }
    }

    fn table(runs: &[Run], stores: Vec<Entry>) -> Table {
        Table { stores, ..Table::new(runs) }
    }

    fn row(id: &str) -> &'static Row {
        ROWS.iter().find(|row| row.id == id).unwrap()
    }

    #[test]
    fn numbers_have_thousands() {
        assert_eq!(number(1_234_567.4), "1,234,567");
        assert_eq!(number(123.4), "123");
        assert_eq!(number(12.34), "12.3");
    }

    #[test]
    fn different_work_is_noticed() {
        let runs = [run("a", "delete", 1.0, Some(7)), run("b", "delete", 1.0, Some(7))];
        assert!(Table::new(&runs).failures.is_empty());
        let runs = [run("a", "delete", 1.0, Some(7)), run("b", "delete", 1.0, Some(8))];
        assert_eq!(Table::new(&runs).failures.len(), 1);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let runs = [9.0, 1.0, 2.0].map(|value| run("a", "delete", value, Some(7)));
        assert_eq!(Table::new(&runs).median("delete", "a"), Some(2.0));
    }

    #[test]
    fn a_store_that_was_stopped_once_is_marked() {
        let runs = [run("a", "delete", 9.0, Some(7)), run("a", "delete", 1.0, None), run("b", "delete", 5.0, Some(7))];
        let table = table(&runs, vec![entry("a", true), entry("b", true)]);
        assert!(table.failures.is_empty(), "work that was not done is not compared");
        assert_eq!(rows(&table).unwrap().lines().last(), Some("| delete | 5.00 ‡ | **5.00** |  | ≥ 3 × |  |"));
    }

    #[test]
    fn a_weaker_peer_does_not_count_where_it_writes() {
        for (id, best) in [
            ("delete", "strong"),
            ("ycsb_a_2", "strong"),
            ("put_p999", "strong"),
            ("memory", "strong"),
            ("get_uniform", "weak"),
        ] {
            let better = if row(id).unit.more_is_better() { 100.0 } else { 1.0 };
            let runs =
                [run(OWN, id, 30.0, Some(1)), run("weak", id, better, Some(1)), run("strong", id, 10.0, Some(1))];
            let table = table(&runs, vec![entry(OWN, true), entry("weak", false), entry("strong", true)]);
            assert_eq!(table.best(row(id)).map(|(entry, _)| entry.id), Some(best), "{id}");
        }
        // With power loss as the guarantee all are equal.
        let runs = [run("weak", "synced_1", 100.0, Some(1)), run("strong", "synced_1", 10.0, Some(1))];
        let table = table(&runs, vec![entry("weak", false), entry("strong", true)]);
        assert_eq!(table.best(row("synced_1")).map(|(entry, _)| entry.id), Some("weak"));
    }

    #[test]
    fn a_bar_is_met_or_missed() {
        let met = |own: f64, peer: f64, id: &str| {
            let runs = [run(OWN, id, own, Some(1)), run("peer", id, peer, Some(1))];
            table(&runs, vec![entry(OWN, true), entry("peer", true)]).verdict(row(id)).1
        };
        assert_eq!((met(300.0, 100.0, "delete"), met(299.0, 100.0, "delete")), (Some(true), Some(false)));
        assert_eq!((met(120.0, 1.0, "memory"), met(121.0, 500.0, "memory")), (Some(true), Some(false)));
    }
}
