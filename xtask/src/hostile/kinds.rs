//! The kinds of hostility, each with a file of its own.

mod callbacks;
mod callers;
mod devices;
mod directory;
mod foreign;
mod held;
mod limits;
mod numbers;
mod processes;

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result};

use super::plan::Plan;
use super::random::Random;
use super::round::Round;

/// What is hostile in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Threads that call everything at any time, closing and dropping included.
    Callers,
    /// Calls from within callbacks, and callbacks that panic.
    Callbacks,
    /// Versions, timestamps and clocks of all values.
    Numbers,
    /// Snapshots, iterators and values that outlive what they were taken from.
    Held,
    /// The directory moved, replaced, removed; the working directory changed.
    Directory,
    /// Kills, children started meanwhile, forks.
    Processes,
    /// Descriptors, threads and memory limited for a while.
    Limits,
    /// Small devices, full ones, new life there.
    Devices,
    /// Files and directories of others in every place.
    Foreign,
}

impl Kind {
    pub(super) const ALL: [Self; 9] = [
        Self::Callers,
        Self::Callbacks,
        Self::Numbers,
        Self::Held,
        Self::Directory,
        Self::Processes,
        Self::Limits,
        Self::Devices,
        Self::Foreign,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Callers => "callers",
            Self::Callbacks => "callbacks",
            Self::Numbers => "numbers",
            Self::Held => "held",
            Self::Directory => "directory",
            Self::Processes => "processes",
            Self::Limits => "limits",
            Self::Devices => "devices",
            Self::Foreign => "foreign",
        }
    }

    /// A round of this kind.
    pub(super) fn draw(self, random: &mut Random) -> Plan {
        let (threads, operations): (&[u64], &[u64]) = match self {
            Self::Callers => (&[2, 3, 4, 6], &[100, 300, 600]),
            Self::Numbers => (&[1, 2, 4], &[200, 500]),
            Self::Held => (&[2, 3], &[300, 600]),
            Self::Callbacks => (&[1], &[10, 30]),
            Self::Processes => (&[1, 2, 4], &[50, 150]),
            Self::Limits => (&[1, 2, 4], &[100, 300]),
            Self::Devices => (&[1], &[1]),
            Self::Directory | Self::Foreign => (&[1, 2, 4], &[50, 150]),
        };
        Plan {
            kind: self,
            seed: random.next() >> 32,
            threads: random.pick(threads),
            operations: random.pick(operations),
            without: std::collections::BTreeSet::new(),
        }
    }

    pub(super) fn run(self, round: &Round) -> Result<()> {
        match self {
            Self::Callers => callers::run(round),
            Self::Numbers => numbers::run(round),
            Self::Held => held::run(round),
            Self::Callbacks => callbacks::run(round),
            Self::Directory => directory::run(round),
            Self::Processes => processes::run(round),
            Self::Limits => limits::run(round),
            Self::Devices => devices::run(round),
            Self::Foreign => foreign::run(round),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known
            .with_context(|| format!("there is no kind {text}; the kinds are {}", Self::ALL.map(Self::name).join(", ")))
    }
}
