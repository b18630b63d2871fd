//! The child process of the demo: puts keys in an endless loop, and acknowledges each completed
//! put.
//!
//! An acknowledgement is a line with the number of the put. It is one write to the pipe after the
//! put, so the parent has read at most the completed puts.

use std::io::{self, Write};

use hightower_kv::StoreConfig;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::session::{Session, Store};

/// The prefix of the writer's keys.
pub(crate) const PREFIX: &str = "stream/";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// The key of a put.
pub(crate) fn key(number: u64) -> String {
    format!("{PREFIX}{number:012}")
}

/// The value of a put: different for every number, so that a comparison detects a wrong value.
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
                // Standard output is line-buffered.
                writeln!(acknowledgements, "{number}")?;
                interrupt::check()?;
            }
            Ok(Exit::Done)
        })
    }
}
