//! `stats`: the store in numbers, once or again and again.

use std::thread;
use std::time::{Duration, Instant};

use hightower_kv::{AppendPath, ErrorKind, Stats};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::session::Session;
use crate::table::pairs;
use crate::units::{self, bytes, count};

/// How often a wait looks for Ctrl-C.
const NAP: Duration = Duration::from_millis(50);

const EXAMPLES: &str = "\
Examples:
  htkvctl stats
  htkvctl stats --every 1s             until Ctrl-C, with what has changed per second
  htkvctl stats --every 5s --json      one object per line

With --every, each look opens the store for reading and closes it again; while another process writes to it, the look
says so and the next one comes all the same. In the shell, whose store stays open, a look costs nothing.

What the numbers are:
  live, dead   bytes of records that are the latest of their key, and of those that compaction can free
  index        memory that the keys take while the store is open
  disk         what the store's segments take on disk, room that is kept free for new records included
  seq          the number of the latest commit, rising but not without gaps; durable: up to which commit
               power loss can take nothing";

/// Show the store in numbers
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Look again this often: 500ms, 1s, 2m
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    every: Option<Duration>,
}

/// What programs get.
#[derive(Serialize)]
struct Answer {
    keys: u64,
    tombstones: u64,
    live_bytes: u64,
    dead_bytes: u64,
    disk_bytes: u64,
    index_bytes: u64,
    segments: u64,
    latest_seq: u64,
    durable_seq: u64,
    latest_version: u64,
    syncs: u64,
    snapshots: u64,
    retained_versions: u64,
    append_path: &'static str,
    poisoned: Option<String>,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let Some(every) = self.every else {
            let answer = look(session)?;
            session.screen.answer(&answer, || answer.describe())?;
            return Ok(Exit::Done);
        };
        let mut before: Option<(Instant, Answer)> = None;
        loop {
            let now = Instant::now();
            match look(session) {
                Ok(answer) => {
                    session
                        .screen
                        .answer(&answer, || answer.line(before.as_ref().map(|(then, old)| (now - *then, old))))?;
                    before = Some((now, answer));
                }
                Err(Failure::Store(error)) if error.kind() == ErrorKind::Locked => {
                    session.screen.failure(&Failure::Store(error));
                }
                Err(other) => return Err(other),
            }
            nap_until(now + every)?;
        }
    }
}

fn look(session: &Session) -> Result<Answer, Failure> {
    session.reader()?.finish(|store| Ok(Answer::of(store.stats())))
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

impl Answer {
    fn of(stats: Stats) -> Self {
        Self {
            keys: stats.keys,
            tombstones: stats.tombstones,
            live_bytes: stats.live_bytes,
            dead_bytes: stats.dead_bytes,
            disk_bytes: stats.disk_bytes,
            index_bytes: stats.index_bytes,
            segments: stats.segments.len() as u64,
            latest_seq: stats.latest_seq,
            durable_seq: stats.durable_seq,
            latest_version: stats.latest_version,
            syncs: stats.syncs,
            snapshots: stats.snapshots,
            retained_versions: stats.retained_versions,
            append_path: match stats.append_path {
                AppendPath::Mapped => "mapped",
                AppendPath::Positioned => "positioned",
                AppendPath::None => "none",
            },
            poisoned: stats.poisoned,
        }
    }

    fn describe(&self) -> String {
        let mut rows = vec![
            ("keys", count(self.keys)),
            ("tombstones", count(self.tombstones)),
            ("live", bytes(self.live_bytes)),
            ("dead", bytes(self.dead_bytes)),
            ("disk", bytes(self.disk_bytes)),
            ("index", bytes(self.index_bytes)),
            ("segments", count(self.segments)),
            ("seq", format!("{}, durable {}", count(self.latest_seq), count(self.durable_seq))),
            ("version", count(self.latest_version)),
        ];
        if let Some(reason) = &self.poisoned {
            rows.push(("refuses writes", reason.clone()));
        }
        pairs(rows)
    }

    /// One line, with rates since `before`.
    fn line(&self, before: Option<(Duration, &Self)>) -> String {
        let numbers = format!(
            "{} keys  {} live  {} dead  {} disk  seq {}",
            count(self.keys),
            bytes(self.live_bytes),
            bytes(self.dead_bytes),
            bytes(self.disk_bytes),
            count(self.latest_seq)
        );
        let Some((elapsed, old)) = before else { return numbers };
        let commits = units::per_second(self.latest_seq.saturating_sub(old.latest_seq), elapsed);
        let grown = units::per_second(
            (self.live_bytes + self.dead_bytes).saturating_sub(old.live_bytes + old.dead_bytes),
            elapsed,
        );
        format!("{numbers}  {} commits/s  {}/s", count(commits), bytes(grown))
    }
}
