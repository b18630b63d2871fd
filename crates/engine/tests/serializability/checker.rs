//! The checker of histories: it infers who depends on whom, and names what no serial order
//! explains.
//!
//! | edge | from → to |
//! | --- | --- |
//! | ww | who appended a value → who appended the next one |
//! | wr | who appended the last value that was read → the reader |
//! | rw | the reader → who appended the next value |
//!
//! The names of the anomalies are those of Adya ("Weak consistency", 1999). A history without one
//! is serializable: every order along the edges explains all reads.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{List, Step, Transacted};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Anomaly {
    /// A transaction does not see its own writes, or sees two states of one list.
    Internal,
    /// G1a: a value of a transaction that was not committed, or of none, was read.
    AbortedRead,
    /// G1b: a list was read between two writes of one transaction.
    IntermediateRead,
    /// Two reads of a list do not agree about the order of its values.
    NoOrder,
    /// G0: a cycle of writes.
    WriteCycle,
    /// G1c: a cycle of writes and reads.
    CircularFlow,
    /// G-single: a cycle with one read that missed a write: a lost update, or read skew.
    SingleMiss,
    /// G2-item: a cycle with several reads of single lists that missed a write: write skew.
    WriteSkew,
    /// G2: the same, where a range missed a write: a phantom.
    Phantom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    WriteWrite,
    WriteRead,
    /// Of a single read, or of a range.
    ReadWrite {
        is_range: bool,
    },
}

/// What one transaction has read of a list before its own writes.
struct Seen<'a> {
    reader: usize,
    list: List,
    values: &'a [u64],
    is_range: bool,
}

struct Graph<'a> {
    history: &'a [Transacted],
    /// Who appended a value of a list, and whether it is the last of that transaction.
    writers: BTreeMap<(List, u64), (usize, bool)>,
    edges: BTreeSet<(usize, usize, Edge)>,
}

/// The worst anomaly that is found, if there is one.
pub(crate) fn anomaly(history: &[Transacted], lists: usize) -> Option<Anomaly> {
    let mut graph = Graph { history, writers: BTreeMap::new(), edges: BTreeSet::new() };
    graph.find_writers();
    let seen = match graph.reads(lists) {
        Ok(seen) => seen,
        Err(anomaly) => return Some(anomaly),
    };
    for list in 0..lists {
        let of_list: Vec<_> = seen.iter().filter(|seen| seen.list == list).collect();
        if let Err(anomaly) = graph.add_edges(list, &of_list) {
            return Some(anomaly);
        }
    }
    graph.cycle()
}

impl<'a> Graph<'a> {
    fn find_writers(&mut self) {
        for (number, transacted) in self.history.iter().enumerate() {
            let mut last = BTreeMap::new();
            for step in &transacted.steps {
                if let Step::Append(list, value) = step {
                    if let Some(before) = last.insert(*list, *value) {
                        self.writers.insert((*list, before), (number, false));
                    }
                    self.writers.insert((*list, *value), (number, true));
                }
            }
        }
    }

    /// What committed transactions have read of others.
    fn reads(&self, lists: usize) -> Result<Vec<Seen<'a>>, Anomaly> {
        let mut seen = Vec::new();
        for (reader, transacted) in self.history.iter().enumerate().filter(|(_, read)| read.is_committed) {
            let mut own = vec![Vec::new(); lists];
            let mut first: BTreeMap<List, &[u64]> = BTreeMap::new();
            for step in &transacted.steps {
                let read: Vec<(List, &[u64], bool)> = match step {
                    Step::Append(list, value) => {
                        own[*list].push(*value);
                        continue;
                    }
                    Step::Read(list, values) => vec![(*list, values, false)],
                    Step::ReadRange(all) => {
                        all.iter().enumerate().map(|(list, values)| (list, values.as_slice(), true)).collect()
                    }
                };
                for (list, values, is_range) in read {
                    let values = values.strip_suffix(own[list].as_slice()).ok_or(Anomaly::Internal)?;
                    if *first.entry(list).or_insert(values) != values {
                        return Err(Anomaly::Internal);
                    }
                    seen.push(Seen { reader, list, values, is_range });
                }
            }
        }
        Ok(seen)
    }

    fn add_edges(&mut self, list: List, seen: &[&Seen<'_>]) -> Result<(), Anomaly> {
        let longest = seen.iter().map(|seen| seen.values).max_by_key(|values| values.len()).unwrap_or_default();
        let mut order = Vec::new();
        for value in longest {
            let (writer, _) = *self.writers.get(&(list, *value)).ok_or(Anomaly::AbortedRead)?;
            if !self.history[writer].is_committed {
                return Err(Anomaly::AbortedRead);
            }
            order.push(writer);
        }
        if longest.iter().collect::<BTreeSet<_>>().len() != longest.len() {
            return Err(Anomaly::NoOrder);
        }
        // The values of one transaction come in its order, and none without those before it.
        for transacted in self.history {
            let values = transacted.steps.iter().filter_map(|step| match step {
                Step::Append(of, value) if *of == list => Some(value),
                _ => None,
            });
            let places = values.map(|value| longest.iter().position(|read| read == value).unwrap_or(usize::MAX));
            if !places.is_sorted() {
                return Err(Anomaly::NoOrder);
            }
        }
        for pair in order.windows(2) {
            self.add(pair[0], pair[1], Edge::WriteWrite);
        }
        // What nobody has read comes after everything that was.
        let is_unread = |(of, value): &(List, u64)| *of == list && !longest.contains(value);
        let unread = self.writers.iter().filter(|(key, _)| is_unread(key)).map(|(_, (writer, _))| *writer);
        let unread: BTreeSet<_> = unread.filter(|writer| self.history[*writer].is_committed).collect();
        for writer in &unread {
            if let Some(last) = order.last() {
                self.add(*last, *writer, Edge::WriteWrite);
            }
        }
        for Seen { reader, values, is_range, .. } in seen {
            if !longest.starts_with(values) {
                let is_foreign = |value: &u64| {
                    let writer = self.writers.get(&(list, *value));
                    writer.is_none_or(|(writer, _)| !self.history[*writer].is_committed)
                };
                let is_aborted = values.iter().any(is_foreign);
                return Err(if is_aborted { Anomaly::AbortedRead } else { Anomaly::NoOrder });
            }
            if let Some(last) = values.last() {
                let (writer, is_last) = self.writers[&(list, *last)];
                if !is_last && writer != *reader {
                    return Err(Anomaly::IntermediateRead);
                }
                self.add(writer, *reader, Edge::WriteRead);
            }
            let next = order.get(values.len()).copied();
            for writer in next.into_iter().chain(unread.iter().copied()) {
                self.add(*reader, writer, Edge::ReadWrite { is_range: *is_range });
            }
        }
        Ok(())
    }

    fn add(&mut self, from: usize, to: usize, edge: Edge) {
        if from != to {
            self.edges.insert((from, to, edge));
        }
    }

    /// The kind of a cycle: the strongest that there is.
    fn cycle(&self) -> Option<Anomaly> {
        let is_write = |edge: Edge| edge == Edge::WriteWrite;
        let is_flow = |edge: Edge| matches!(edge, Edge::WriteWrite | Edge::WriteRead);
        let is_item = |edge: Edge| edge != Edge::ReadWrite { is_range: true };
        let closes = |kind: fn(Edge) -> bool, along: fn(Edge) -> bool| {
            self.edges.iter().any(|(from, to, edge)| kind(*edge) && self.reaches(*to, *from, along))
        };
        if closes(is_write, is_write) {
            return Some(Anomaly::WriteCycle);
        }
        if closes(is_flow, is_flow) {
            return Some(Anomaly::CircularFlow);
        }
        if closes(|edge| matches!(edge, Edge::ReadWrite { .. }), is_flow) {
            return Some(Anomaly::SingleMiss);
        }
        if closes(is_item, is_item) {
            return Some(Anomaly::WriteSkew);
        }
        closes(|_| true, |_| true).then_some(Anomaly::Phantom)
    }

    fn reaches(&self, from: usize, to: usize, along: fn(Edge) -> bool) -> bool {
        let (mut reached, mut left) = (BTreeSet::from([from]), vec![from]);
        while let Some(at) = left.pop() {
            if at == to {
                return true;
            }
            let first = (at, 0, Edge::WriteWrite);
            let next = self.edges.range(first..).take_while(|(from, ..)| *from == at);
            for (_, next, _) in next.filter(|(.., edge)| along(*edge)) {
                if reached.insert(*next) {
                    left.push(*next);
                }
            }
        }
        false
    }
}
