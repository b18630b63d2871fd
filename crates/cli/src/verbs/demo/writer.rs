//! The child process of the demo: puts keys for ever, and says after each put that it has returned.
//!
//! An acknowledgement is a line with the number of the put. Each is one write to the pipe, after
//! the put, so that what the parent has read is a lower bound of what the store has promised.

use std::io::{self, Write};

use hightower_kv::StoreConfig;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::session::{Session, Store};

/// What the writer's keys start with.
pub(crate) const PREFIX: &str = "stream/";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// The key of a put.
pub(crate) fn key(number: u64) -> String {
    format!("{PREFIX}{number:012}")
}

/// The value of a put: different for every number, so that no other value can pass for it.
pub(crate) fn value(number: u64) -> Vec<u8> {
    let check = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    format!("{{\"number\":{number},\"check\":\"{check:016x}\",\"state\":\"running\"}}").into_bytes()
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        Store::open(StoreConfig::at(session.data_dir()))?.finish(|store| {
            let mut acknowledgements = io::stdout().lock();
            for number in 1.. {
                store.put(key(number), value(number))?;
                // Standard output passes on whole lines at once.
                writeln!(acknowledgements, "{number}")?;
                interrupt::check()?;
            }
            Ok(Exit::Done)
        })
    }
}
