//! The kinds of hostility, by name.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result};

/// The hostile part of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Threads that call every operation at any time, including close and drop.
    Callers,
    /// Calls from within callbacks, and callbacks that panic.
    Callbacks,
    /// Versions, timestamps and clocks with any value.
    Numbers,
    /// Snapshots, iterators and values that outlive their source.
    Held,
    /// A directory that is moved, replaced or removed; a changed working directory.
    Directory,
    /// Kills, child processes started at the same time, forks.
    Processes,
    /// Temporary limits on descriptors, threads and memory.
    Limits,
    /// Small devices, full devices, and opens on them.
    Devices,
    /// Foreign files and directories in every place.
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
