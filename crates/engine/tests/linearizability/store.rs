//! The sequential model of the store: a few keys with numbers as values, a different number for
//! each write.

use super::checker::Model;

pub(crate) const KEYS: usize = 3;

/// A value: the number of its write.
pub(crate) type Value = u32;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    Put(usize, Value),
    Delete(usize),
    Get(usize),
    /// All keys as of one moment.
    Scan,
    /// Adds to the counter.
    Add(i64),
    /// All changes, if every requirement holds.
    Batch {
        require: Vec<(usize, Required)>,
        changes: Vec<(usize, Option<Value>)>,
        /// Added to the counter.
        added: i64,
    },
}

/// The requirement of a batch on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Required {
    Absent,
    Present,
    /// Each write has another value, so a version identifies a value.
    Is(Value),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Done,
    Got(Option<Value>),
    Saw(Store),
    /// The counter after an addition.
    Counted(i64),
    Committed,
    Rejected,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) values: [Option<Value>; KEYS],
    pub(crate) counter: i64,
}

impl Model for Store {
    type Operation = Operation;
    type Outcome = Outcome;

    fn apply(&mut self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Put(key, value) => {
                self.values[*key] = Some(*value);
                Outcome::Done
            }
            Operation::Delete(key) => {
                self.values[*key] = None;
                Outcome::Done
            }
            Operation::Get(key) => Outcome::Got(self.values[*key]),
            Operation::Scan => Outcome::Saw(self.clone()),
            Operation::Add(added) => {
                self.counter += added;
                Outcome::Counted(self.counter)
            }
            Operation::Batch { require, changes, added } => {
                let holds = |(key, required): &(usize, Required)| match required {
                    Required::Absent => self.values[*key].is_none(),
                    Required::Present => self.values[*key].is_some(),
                    Required::Is(value) => self.values[*key] == Some(*value),
                };
                if !require.iter().all(holds) {
                    return Outcome::Rejected;
                }
                changes.iter().for_each(|(key, value)| self.values[*key] = *value);
                self.counter += added;
                Outcome::Committed
            }
        }
    }
}
