//! The plan of one round: these few words determine all of it, and replay it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};

use super::kind::Kind;
use super::operations::OPERATIONS;
use super::random::Random;

/// One round, written as `callers:17:4:300` or `callers:17:4:300:put,close`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(super) kind: Kind,
    pub(super) seed: u64,
    pub(super) threads: u64,
    /// Number of calls of each thread.
    pub(super) operations: u64,
    /// Excluded operations.
    pub(super) without: BTreeSet<String>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, seed, threads, operations, without } = self;
        write!(f, "{kind}:{seed}:{threads}:{operations}")?;
        if !without.is_empty() {
            write!(f, ":{}", without.iter().cloned().collect::<Vec<_>>().join(","))?;
        }
        Ok(())
    }
}

impl FromStr for Plan {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (kind, seed, threads, operations, without) = match parts[..] {
            [kind, seed, threads, operations] => (kind, seed, threads, operations, ""),
            [kind, seed, threads, operations, without] => (kind, seed, threads, operations, without),
            _ => bail!("a round is written KIND:SEED:THREADS:OPERATIONS or KIND:SEED:THREADS:OPERATIONS:WITHOUT"),
        };
        Ok(Self {
            kind: kind.parse()?,
            seed: seed.parse().context("the seed")?,
            threads: threads.parse().context("the threads")?,
            operations: operations.parse().context("the operations")?,
            without: without.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
        })
    }
}

impl Plan {
    /// A round of a kind, drawn from a generator.
    pub(super) fn draw(kind: Kind, random: &mut Random) -> Plan {
        let (threads, operations): (&[u64], &[u64]) = match kind {
            Kind::Callers => (&[2, 3, 4, 6], &[100, 300, 600]),
            Kind::Numbers => (&[1, 2, 4], &[200, 500]),
            Kind::Held => (&[2, 3], &[300, 600]),
            Kind::Callbacks => (&[1], &[10, 30]),
            Kind::Processes => (&[1, 2, 4], &[50, 150]),
            Kind::Limits => (&[1, 2, 4], &[100, 300]),
            Kind::Devices => (&[1], &[1]),
            Kind::Directory | Kind::Foreign => (&[1, 2, 4], &[50, 150]),
        };
        Self {
            kind,
            seed: random.next() >> 32,
            threads: random.pick(threads),
            operations: random.pick(operations),
            without: BTreeSet::new(),
        }
    }

    /// Smaller rounds that may have the same finding, the smallest one first.
    pub(super) fn smaller(&self) -> Vec<Self> {
        let mut plans = Vec::new();
        for operations in [self.operations / 8, self.operations / 2, self.operations * 3 / 4] {
            if operations > 0 && operations < self.operations {
                plans.push(Self { operations, ..self.clone() });
            }
        }
        for threads in [1, self.threads / 2, self.threads - 1] {
            if threads > 0 && threads < self.threads {
                plans.push(Self { threads, ..self.clone() });
            }
        }
        for operation in OPERATIONS {
            if !self.without.contains(*operation) {
                let mut without = self.without.clone();
                without.insert((*operation).to_owned());
                plans.push(Self { without, ..self.clone() });
            }
        }
        plans
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_written_and_read_the_same() {
        for text in ["callers:17:4:300", "numbers:1:1:1:close,put"] {
            assert_eq!(text.parse::<Plan>().unwrap().to_string(), text);
        }
        assert!("callers".parse::<Plan>().is_err());
        assert!("nobody:1:1:1".parse::<Plan>().is_err());
    }
}
