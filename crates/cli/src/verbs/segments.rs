//! `segments`: the store's files, one by one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hightower_kv::SegmentStats;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::session::Session;
use crate::table::table;
use crate::units::{bytes, count};

const EXAMPLES: &str = "\
Examples:
  htkvctl segments
  htkvctl segments --json        one object per line

State: active (in use for writes), sealed (complete and immutable), compacted (sealed, written by compaction). \
Live records are the latest record of each key, a tombstone if the key was deleted; their sum over all segments is keys \
plus tombstones. Dead bytes are those of records that newer ones have replaced, and of the header; compaction frees them.";

/// Show the segment files, with live and dead bytes and ages
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Answer {
    id: u32,
    state: &'static str,
    len_bytes: u64,
    capacity_bytes: u64,
    live_bytes: u64,
    dead_bytes: u64,
    live_records: u64,
    created_ms: i64,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let segments = session.reader()?.finish(|store| Ok(store.stats().segments))?;
        if session.screen.json {
            for segment in &segments {
                session.screen.answer(&Answer::of(segment), String::new)?;
            }
            return Ok(Exit::Done);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let heading = ["segment", "state", "length", "live", "dead", "live records", "age"];
        session.screen.say(&table(&heading, segments.iter().map(|segment| row(segment, now))))?;
        Ok(Exit::Done)
    }
}

impl Answer {
    fn of(segment: &SegmentStats) -> Self {
        Self {
            id: segment.id,
            state: state(segment),
            len_bytes: segment.len_bytes,
            capacity_bytes: segment.capacity_bytes,
            live_bytes: segment.live_bytes,
            dead_bytes: segment.dead_bytes,
            live_records: segment.live_records,
            created_ms: segment.created_ms,
        }
    }
}

fn row(segment: &SegmentStats, now: Duration) -> Vec<String> {
    vec![
        format!("{:010}", segment.id),
        state(segment).into(),
        bytes(segment.len_bytes),
        bytes(segment.live_bytes),
        bytes(segment.dead_bytes),
        count(segment.live_records),
        age(segment.created_ms, now),
    ]
}

fn state(segment: &SegmentStats) -> &'static str {
    match (segment.is_compacted, segment.is_sealed) {
        (true, _) => "compacted",
        (false, true) => "sealed",
        (false, false) => "active",
    }
}

fn age(created_ms: i64, now: Duration) -> String {
    let created = Duration::from_millis(u64::try_from(created_ms).unwrap_or(0));
    let seconds = now.saturating_sub(created).as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
