//! The kinds of hostility, by name.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result};

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
