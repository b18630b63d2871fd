//! `stats`: figures of the store, once or repeatedly.

use std::convert::Infallible;
use std::thread;
use std::time::{Duration, Instant};

use hightower_kv::{AppendPath, Error, Follower, SingleNodeEngine, Stats, TablesUse};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::session::Session;
use crate::table::pairs;
use crate::units::{self, bytes, count};

/// Interval between checks for Ctrl-C.
const NAP: Duration = Duration::from_millis(50);

/// Widths of the columns of `--every`.
const WIDTHS: [usize; 7] = [13, 10, 8, 8, 8, 8, 8];

/// Number of lines per heading, so that a heading stays visible.
const LOOKS_PER_HEADING: u64 = 20;

const EXAMPLES: &str = "\
Examples:
  htkvctl stats
  htkvctl stats --every 1s             a line each second until Ctrl-C
  htkvctl stats --every 5s --json      one object per line

While another process has the store open for writing, it prints what the files tell: keys, index, segments, tables, seq.

With --every, the tool opens the store for reading and closes it again for each line. While another process has it open for \
writing, it prints an error and continues. A process that opens the store for writing during such a read gets an error. \
In the shell the store stays open. Ctrl-C ends it, with exit code 0.

The figures:
  keys         all keys, including those of the authentication service; while some of them are in
               memory and others in tables, each look counts them
  tombstones   deleted keys whose last record is kept until its grace is over; an upper bound
  live, dead   bytes of the latest record of each key, tombstones included, and of all else that
               compaction can free
  index        memory of the latest keys while the store is open, and its budget
  disk         disk space of the segments, including preallocated space
  tables       number of tables, and disk space of them
  history      disk space of what compaction has removed and the log keeps for change feeds, and the
               seq after which a feed can begin
  damaged table, flush failed, refuses writes
               what is wrong, if something is
  seq          the number of the latest commit, ascending with gaps; durable: the last commit that
               survives power loss
  log/s        growth of the log in bytes per second, since the previous line";

/// Show figures of the store
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Print a line at this interval: 500ms, 1s, 2m
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    every: Option<Duration>,
}

/// The output for programs.
#[derive(Serialize)]
struct Answer {
    keys: u64,
    tombstones: u64,
    live_bytes: u64,
    dead_bytes: u64,
    disk_bytes: u64,
    index_bytes: u64,
    index_budget_bytes: u64,
    segments: u64,
    tables: u64,
    table_bytes: u64,
    history_bytes: u64,
    oldest_seq: u64,
    latest_seq: u64,
    durable_seq: u64,
    latest_version: u64,
    syncs: u64,
    snapshots: u64,
    retained_versions: u64,
    append_path: &'static str,
    poisoned: Option<String>,
    table_damage: Option<String>,
    flush_failure: Option<String>,
}

/// The figures of a store that another process has open for writing: those that its files tell.
#[derive(Serialize)]
struct Beside {
    keys: u64,
    index_bytes: u64,
    segments: u64,
    tables: u64,
    table_bytes: u64,
    latest_seq: u64,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let Some(every) = self.every else {
            match session.reader() {
                Ok(store) => {
                    let answer = store.finish(|store| Ok(Answer::of_store(store)))?;
                    session.screen.answer(&answer, || answer.describe())?;
                }
                Err(locked) => {
                    let answer = Beside::of(&session.beside(locked)?)?;
                    session.screen.answer(&answer, || answer.describe())?;
                }
            }
            return Ok(Exit::Done);
        };
        match watch(session, every) {
            // Ctrl-C is the normal end, so it is not an error.
            Err(Failure::Interrupted { .. }) => {
                interrupt::settle();
                Ok(Exit::Done)
            }
            Err(other) => Err(other),
            Ok(never) => match never {},
        }
    }
}

/// Prints lines until an error or Ctrl-C.
fn watch(session: &Session, every: Duration) -> Result<Infallible, Failure> {
    let mut before: Option<(Instant, Answer)> = None;
    let mut looks = 0_u64;
    loop {
        let now = Instant::now();
        if looks.is_multiple_of(LOOKS_PER_HEADING) {
            session.screen.tell(&heading())?;
        }
        looks += 1;
        match look(session) {
            Ok(answer) => {
                let since = before.as_ref().map(|(then, old)| (now - *then, old));
                session.screen.answer(&answer, || answer.line(since))?;
                before = Some((now, answer));
            }
            Err(Failure::Store(error @ Error::Locked { .. })) => {
                session.screen.failure(&Failure::Store(error));
            }
            Err(other) => return Err(other),
        }
        nap_until(now + every)?;
    }
}

/// The headings of the columns of [`Answer::line`].
fn heading() -> String {
    columns(["keys", "tombstones", "live", "dead", "disk", "segments", "log/s"].map(str::to_owned))
}

/// Aligns cells to the right, in columns of fixed width.
fn columns(cells: [String; 7]) -> String {
    cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:>width$}")).collect::<Vec<_>>().join("  ")
}

fn look(session: &Session) -> Result<Answer, Failure> {
    session.reader()?.finish(|store| Ok(Answer::of_store(store)))
}

fn nap_until(then: Instant) -> Result<(), Failure> {
    loop {
        interrupt::check()?;
        let left = then.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(NAP));
    }
}

impl Beside {
    fn of(follower: &Follower) -> Result<Self, Failure> {
        let stats = follower.stats();
        Ok(Self {
            keys: follower.len()?,
            index_bytes: stats.index_memory_bytes,
            segments: stats.segments,
            tables: stats.tables.len() as u64,
            table_bytes: stats.tables.iter().map(|table| table.len_bytes).sum(),
            latest_seq: stats.seqno,
        })
    }

    fn describe(&self) -> String {
        pairs(vec![
            ("in use", "by another process: only what its files tell".to_owned()),
            ("keys", count(self.keys)),
            ("index", bytes(self.index_bytes)),
            ("segments", count(self.segments)),
            ("tables", format!("{}, {}", count(self.tables), bytes(self.table_bytes))),
            ("seq", count(self.latest_seq)),
        ])
    }
}

impl Answer {
    fn of(stats: Stats) -> Self {
        Self {
            keys: stats.keys,
            tombstones: stats.tombstones,
            live_bytes: stats.live_bytes,
            dead_bytes: stats.dead_bytes,
            disk_bytes: stats.disk_bytes,
            index_bytes: stats.index_bytes,
            index_budget_bytes: stats.index_memory.budget_bytes,
            segments: stats.segments.len() as u64,
            tables: stats.tables.len() as u64,
            table_bytes: stats.tables.iter().map(|table| table.len_bytes).sum(),
            history_bytes: stats.feeds.history_bytes,
            oldest_seq: stats.feeds.oldest_seqno,
            latest_seq: stats.latest_seq,
            durable_seq: stats.durable_seq,
            latest_version: stats.latest_version,
            syncs: stats.syncs,
            snapshots: stats.snapshots,
            retained_versions: stats.retained_versions,
            append_path: match stats.append_path {
                AppendPath::Mapped => "mapped",
                AppendPath::Positioned => "positioned",
                _ => "none",
            },
            poisoned: stats.poisoned,
            table_damage: stats.table_damage,
            flush_failure: stats.index_memory.flush_failure,
        }
    }

    /// The figures of a store. For a reader that cannot use its tables, these count as damaged.
    fn of_store(store: &SingleNodeEngine) -> Self {
        let answer = Self::of(store.stats());
        let unused = match &store.open_report().tables {
            TablesUse::Rebuilt { reason } if answer.tables == 0 => Some(reason.clone()),
            _ => None,
        };
        Self { keys: store.len() as u64, table_damage: answer.table_damage.or(unused), ..answer }
    }

    fn describe(&self) -> String {
        let mut rows = vec![
            ("keys", count(self.keys)),
            ("tombstones", count(self.tombstones)),
            ("live", bytes(self.live_bytes)),
            ("dead", bytes(self.dead_bytes)),
            ("disk", bytes(self.disk_bytes)),
            ("index", format!("{} of {}", bytes(self.index_bytes), bytes(self.index_budget_bytes))),
            ("segments", count(self.segments)),
            ("tables", format!("{}, {}", count(self.tables), bytes(self.table_bytes))),
            ("seq", format!("{}, durable {}", count(self.latest_seq), count(self.durable_seq))),
            ("version", count(self.latest_version)),
        ];
        if let Some(reason) = &self.poisoned {
            rows.push(("refuses writes", reason.clone()));
        }
        if let Some(reason) = &self.table_damage {
            rows.push(("damaged table", reason.clone()));
        }
        if self.history_bytes > 0 {
            rows.push(("history", format!("{}, after seq {}", bytes(self.history_bytes), self.oldest_seq)));
        }
        if let Some(reason) = &self.flush_failure {
            rows.push(("flush failed", reason.clone()));
        }
        pairs(rows)
    }

    /// One line of columns, with the rate since `before`.
    fn line(&self, before: Option<(Duration, &Self)>) -> String {
        let log_bytes = |answer: &Self| answer.live_bytes + answer.dead_bytes;
        let rate = before.map_or_else(String::new, |(elapsed, old)| {
            bytes(units::per_second(log_bytes(self).saturating_sub(log_bytes(old)), elapsed))
        });
        columns([
            count(self.keys),
            count(self.tombstones),
            bytes(self.live_bytes),
            bytes(self.dead_bytes),
            bytes(self.disk_bytes),
            count(self.segments),
            rate,
        ])
    }
}
