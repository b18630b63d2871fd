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
    /// All changes, if every requirement holds.
    Batch {
        require: Vec<(usize, Required)>,
        changes: Vec<(usize, Option<Value>)>,
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
    Saw([Option<Value>; KEYS]),
    Committed,
    Rejected,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Store([Option<Value>; KEYS]);

impl Model for Store {
    type Operation = Operation;
    type Outcome = Outcome;

    fn apply(&mut self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Put(key, value) => {
                self.0[*key] = Some(*value);
                Outcome::Done
            }
            Operation::Delete(key) => {
                self.0[*key] = None;
                Outcome::Done
            }
            Operation::Get(key) => Outcome::Got(self.0[*key]),
            Operation::Scan => Outcome::Saw(self.0),
            Operation::Batch { require, changes } => {
                let holds = |(key, required): &(usize, Required)| match required {
                    Required::Absent => self.0[*key].is_none(),
                    Required::Present => self.0[*key].is_some(),
                    Required::Is(value) => self.0[*key] == Some(*value),
                };
                if !require.iter().all(holds) {
                    return Outcome::Rejected;
                }
                changes.iter().for_each(|(key, value)| self.0[*key] = *value);
                Outcome::Committed
            }
        }
    }
}

impl Store {
    /// A store with this initial content.
    #[allow(dead_code, reason = "only programs that do not begin with an empty store need it")]
    pub(crate) fn holding(content: [Option<Value>; KEYS]) -> Self {
        Self(content)
    }
}
