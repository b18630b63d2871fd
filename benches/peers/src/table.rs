//! The numbers of all rows and stores: their medians, the best peer of a row, and whether its bar
//! is reached.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::machine::{Machine, version_of};
use crate::rounds::Run;
use crate::rows::{Bar, Row};
use crate::stores::{Entry, OWN, entries};

/// The numbers of all rows and stores.
pub(crate) struct Table {
    /// The stores that ran, the own one first.
    pub(crate) stores: Vec<StoreColumn>,
    /// The sorted values of all rounds, by row and store.
    values: BTreeMap<(String, String), Vec<f64>>,
    /// Rows and stores whose work was not done in the row's time, in any round.
    stopped: BTreeSet<(String, String)>,
    pub(crate) keys: BTreeSet<u64>,
    pub(crate) row_seconds: Vec<f64>,
    pub(crate) failures: Vec<String>,
}

/// A store in the table.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct StoreColumn {
    pub(crate) id: String,
    package: String,
    pub(crate) version: String,
    /// Whether a returned write survives `kill -9` in workloads without syncs.
    pub(crate) survives_kill: bool,
    pub(crate) usage: String,
}

impl StoreColumn {
    fn of(entry: &Entry) -> Self {
        Self {
            id: entry.id.into(),
            package: entry.package.into(),
            version: version_of(entry),
            survives_kill: entry.survives_kill,
            usage: entry.usage.into(),
        }
    }

    /// † if the store's guarantee is weaker than the row's.
    pub(crate) fn weaker_mark(&self, row: &Row) -> &'static str {
        if self.survives_kill || row.access.is_equal_for_all() { "" } else { " †" }
    }
}

/// The part of `peers.json` that the table uses.
#[derive(Deserialize)]
struct Published {
    machine: Machine,
    keys: BTreeSet<u64>,
    row_seconds: Vec<f64>,
    stores: Vec<StoreColumn>,
    rows: Vec<PublishedRow>,
}

#[derive(Deserialize)]
struct PublishedRow {
    id: String,
    stores: BTreeMap<String, PublishedCell>,
}

#[derive(Deserialize)]
struct PublishedCell {
    rounds: Vec<f64>,
    stopped: bool,
}

impl Table {
    pub(crate) fn new(runs: &[Run]) -> Self {
        let ran = |entry: &Entry| runs.iter().any(|run| run.store == entry.id);
        let stores = entries().iter().filter(|entry| ran(entry)).map(StoreColumn::of).collect();
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

    /// The table of `peers.json`, and its machine.
    pub(crate) fn published(json: &str) -> Result<(Self, Machine)> {
        let published: Published = serde_json::from_str(json)?;
        let (mut values, mut stopped) = (BTreeMap::new(), BTreeSet::new());
        for row in published.rows {
            for (store, cell) in row.stores {
                let place = (row.id.clone(), store);
                if cell.stopped {
                    stopped.insert(place.clone());
                }
                values.insert(place, cell.rounds);
            }
        }
        let Published { machine, keys, row_seconds, stores, .. } = published;
        Ok((Self { stores, values, stopped, keys, row_seconds, failures: Vec::new() }, machine))
    }

    /// The maximum number of rounds of a row.
    pub(crate) fn rounds(&self) -> usize {
        self.values.values().map(Vec::len).max().unwrap_or(0)
    }

    /// The numbers of all rounds, if any.
    pub(crate) fn values_of(&self, row: &str, store: &str) -> Option<&[f64]> {
        self.values.get(&(row.to_owned(), store.to_owned())).map(Vec::as_slice)
    }

    /// The median of a row and a store.
    pub(crate) fn median(&self, row: &str, store: &str) -> Option<f64> {
        let values = self.values_of(row, store)?;
        let middle = values.len() / 2;
        Some(if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) })
    }

    /// Whether the store's work was not done in the row's time, in any round.
    pub(crate) fn is_stopped(&self, row: &str, store: &str) -> bool {
        self.stopped.contains(&(row.to_owned(), store.to_owned()))
    }

    /// The mark of a number from a part of the work.
    pub(crate) fn stopped_mark(&self, row: &str, store: &str) -> &'static str {
        if self.is_stopped(row, store) { " ‡" } else { "" }
    }

    /// The best peer of a row that counts, and its median.
    pub(crate) fn best(&self, row: &Row) -> Option<(&StoreColumn, f64)> {
        let counts = |store: &&StoreColumn| store.id != OWN && (store.survives_kill || row.access.is_equal_for_all());
        let peers =
            self.stores.iter().filter(counts).filter_map(|store| Some((store, self.median(row.id, &store.id)?)));
        let order = |a: &(_, f64), b: &(_, f64)| a.1.total_cmp(&b.1);
        if row.unit.more_is_better() { peers.max_by(order) } else { peers.min_by(order) }
    }

    /// How many times better the own store is than the best peer.
    pub(crate) fn ratio(&self, row: &Row) -> Option<f64> {
        let (own, best) = (self.median(row.id, OWN)?, self.best(row)?.1);
        Some(if row.unit.more_is_better() { own / best } else { best / own })
    }

    /// The bar of a row in words, and whether it is reached.
    pub(crate) fn verdict(&self, row: &Row) -> (String, Option<bool>) {
        match row.bar {
            Bar::TimesBest(times) => (format!("≥ {times} ×"), self.ratio(row).map(|ratio| ratio >= times)),
            Bar::AtMost(most) => {
                (format!("≤ {} {}", number(most), row.unit.name()), self.median(row.id, OWN).map(|own| own <= most))
            }
            Bar::None => (String::new(), None),
        }
    }
}

/// A number with at least three significant digits, and thousands separators.
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
pub(crate) mod tests {
    use super::*;
    use crate::rows::ROWS;
    use crate::workload::{Group, Measurement};

    pub(crate) fn run(store: &str, row: &str, value: f64, check: Option<u64>) -> Run {
        let result = Ok(vec![Measurement { row: row.into(), value, check, stopped: check.is_none() }]);
        Run { store: store.into(), group: Group::Core, keys: 1000, row_seconds: 10.0, result }
    }

    pub(crate) fn column(id: &str, survives_kill: bool) -> StoreColumn {
        let text = String::new;
        StoreColumn { id: id.into(), package: text(), version: text(), survives_kill, usage: text() }
    }

    pub(crate) fn table(runs: &[Run], stores: Vec<StoreColumn>) -> Table {
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
            let table = table(&runs, vec![column(OWN, true), column("weak", false), column("strong", true)]);
            assert_eq!(table.best(row(id)).map(|(store, _)| &*store.id), Some(best), "{id}");
        }
        // In rows with a guarantee against power loss all stores are equal.
        let runs = [run("weak", "synced_1", 100.0, Some(1)), run("strong", "synced_1", 10.0, Some(1))];
        let table = table(&runs, vec![column("weak", false), column("strong", true)]);
        assert_eq!(table.best(row("synced_1")).map(|(store, _)| &*store.id), Some("weak"));
    }

    #[test]
    fn a_bar_is_met_or_missed() {
        let met = |own: f64, peer: f64, id: &str| {
            let runs = [run(OWN, id, own, Some(1)), run("peer", id, peer, Some(1))];
            table(&runs, vec![column(OWN, true), column("peer", true)]).verdict(row(id)).1
        };
        assert_eq!((met(300.0, 100.0, "delete"), met(299.0, 100.0, "delete")), (Some(true), Some(false)));
        assert_eq!((met(120.0, 1.0, "memory"), met(121.0, 500.0, "memory")), (Some(true), Some(false)));
    }
}
