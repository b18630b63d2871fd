//! A caller of the engine that runs random transactions on lists, and records them.

use hightower_engine::{Error, Result, SingleNodeEngine, Transaction};

use crate::history::{List, Step, Transacted};
use crate::random::Random;

pub(crate) const LISTS: usize = 4;
const STEPS_MAX: u64 = 4;

pub(crate) struct Client<'a> {
    engine: &'a SingleNodeEngine,
    random: Random,
    /// Of the values that this client appends.
    next_value: u64,
}

fn key(list: List) -> String {
    format!("list/{list}")
}

fn decode(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap_or_default())).collect()
}

fn encode(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl<'a> Client<'a> {
    pub(crate) fn new(engine: &'a SingleNodeEngine, number: u64, seed: u64) -> Self {
        Self { engine, random: Random(seed ^ (number << 32)), next_value: number << 32 | 1 }
    }

    /// Runs transactions; returns their records.
    pub(crate) fn run(&mut self, count: u32) -> Vec<Transacted> {
        (0..count).map(|_| self.transact().unwrap_or_else(|failure| panic!("{failure}"))).collect()
    }

    fn transact(&mut self) -> Result<Transacted> {
        let mut transaction = self.engine.transaction()?;
        let mut steps = Vec::new();
        for _ in 0..=self.random.below(STEPS_MAX) {
            let list = self.random.below(LISTS as u64) as List;
            match self.random.below(8) {
                0..=2 => steps.push(self.append(&mut transaction, list)?),
                3..=5 => steps.push(Step::Read(list, read(&transaction, list)?)),
                6 => steps.push(Step::ReadRange(read_range(&transaction, self.random.below(2) == 0)?)),
                _ => {
                    // What a rolled back part has read counts, what it has written doesn't.
                    let before = transaction.savepoint();
                    let seen = read(&transaction, list)?;
                    self.append(&mut transaction, (list + 1) % LISTS)?;
                    transaction.rollback_to(&before)?;
                    steps.push(Step::Read(list, seen));
                }
            }
        }
        let snapshot = transaction.seq();
        let is_read_only = transaction.writes() == 0;
        let committed = if self.random.below(4) == 0 {
            transaction.commit_async().and_then(|ticket| ticket.wait())
        } else {
            transaction.commit()
        };
        match committed {
            Ok(committed) => Ok(Transacted { steps, is_committed: true, seqno: committed.seq }),
            Err(Error::TransactionConflict(conflict)) => {
                assert!(!is_read_only, "one without writes: {conflict}");
                Ok(Transacted { steps, is_committed: false, seqno: snapshot })
            }
            Err(failure) => Err(failure),
        }
    }

    /// An append reads its list, so it depends on it.
    fn append(&mut self, transaction: &mut Transaction<'_>, list: List) -> Result<Step> {
        let mut values = read(transaction, list)?;
        let value = self.next_value;
        self.next_value += 1;
        values.push(value);
        transaction.put(key(list), encode(&values))?;
        Ok(Step::Append(list, value))
    }
}

fn read(transaction: &Transaction<'_>, list: List) -> Result<Vec<u64>> {
    Ok(decode(&transaction.get(key(list))?.unwrap_or_default()))
}

fn read_range(transaction: &Transaction<'_>, is_forwards: bool) -> Result<Vec<Vec<u64>>> {
    let mut all = vec![Vec::new(); LISTS];
    let range = transaction.prefix("list/")?;
    let pairs: Vec<_> = if is_forwards { range.collect::<Result<_>>()? } else { range.rev().collect::<Result<_>>()? };
    for entry in pairs {
        let list: List = std::str::from_utf8(&entry.key()[5..]).unwrap_or_default().parse().unwrap_or_default();
        all[list] = decode(&entry.value()?);
    }
    Ok(all)
}
