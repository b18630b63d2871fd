//! `tables`: the store's tables, one by one.

use hightower_kv::TableStats;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::screen::{DIM, styled};
use crate::session::Session;
use crate::table::table;
use crate::units::{bytes, count};

const EXAMPLES: &str = "\
Examples:
  htkvctl tables
  htkvctl tables --json        one object per line, the newest table first

A table is a file of keys and of the places of their records. Flushes, compactions and closes write tables; merges join them. \
An open maps them and reads only the log behind what they cover. Of the tables that have a key, the newest counts. Tables are \
disposable: the log holds everything. `htkvctl check --level tables` verifies them.";

/// Show the table files, with their keys
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Answer {
    id: u32,
    len_bytes: u64,
    keys: u64,
    tombstones: u64,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let tables = session.reader()?.finish(|store| Ok(store.stats().tables))?;
        if session.screen.json {
            for table in &tables {
                session.screen.answer(&Answer::of(table), String::new)?;
            }
            return Ok(Exit::Done);
        }
        if tables.is_empty() {
            session.screen.say(&styled(DIM, "no table is in use; the next open reads the log"))?;
        } else {
            let heading = ["table", "length", "keys", "tombstones"];
            session.screen.say(&table(&heading, tables.iter().map(row)))?;
        }
        Ok(Exit::Done)
    }
}

impl Answer {
    fn of(table: &TableStats) -> Self {
        Self { id: table.id, len_bytes: table.len_bytes, keys: table.keys, tombstones: table.tombstones }
    }
}

fn row(table: &TableStats) -> Vec<String> {
    vec![format!("{:010}", table.id), bytes(table.len_bytes), count(table.keys), count(table.tombstones)]
}
