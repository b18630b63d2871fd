//! Histories of transactions on lists: every write appends a value that nothing else appends, so a
//! read shows which writes it saw, and in which order (the list-append histories of Elle: Kingsbury
//! and Alvaro, "Elle: inferring isolation anomalies from experimental observations", VLDB 2020).

/// The number of a list.
pub(crate) type List = usize;

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Append(List, u64),
    /// One list, with the values that were read.
    Read(List, Vec<u64>),
    /// All lists by one range, with the values that were read of each; missing lists are empty.
    ReadRange(Vec<Vec<u64>>),
}

/// A transaction, and whether it was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transacted {
    pub(crate) steps: Vec<Step>,
    pub(crate) is_committed: bool,
    /// The seqno of the commit, or of the snapshot of one without writes; 0 in made-up histories.
    pub(crate) seqno: u64,
}

impl Transacted {
    pub(crate) fn committed(steps: Vec<Step>) -> Self {
        Self { steps, is_committed: true, seqno: 0 }
    }

    pub(crate) fn has_writes(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Append(..)))
    }
}

/// The first violation of the order of seqnos: each transaction must have read what all those with
/// a lower seqno leave, and no other. (Transactions without writes read at their own seqno.)
pub(crate) fn first_out_of_order(history: &[Transacted], lists: usize) -> Option<(&Transacted, Vec<Vec<u64>>)> {
    let mut committed: Vec<_> = history.iter().filter(|transacted| transacted.is_committed).collect();
    committed.sort_by_key(|transacted| (transacted.seqno, !transacted.has_writes()));
    let mut state = vec![Vec::new(); lists];
    for transacted in committed {
        let before = state.clone();
        if !runs(transacted, &mut state) {
            return Some((transacted, before));
        }
    }
    None
}

/// Runs a transaction on the lists; whether it reads what it has read.
pub(crate) fn runs(transacted: &Transacted, state: &mut [Vec<u64>]) -> bool {
    transacted.steps.iter().all(|step| match step {
        Step::Append(list, value) => {
            state[*list].push(*value);
            true
        }
        Step::Read(list, seen) => state[*list] == *seen,
        Step::ReadRange(seen) => *state == **seen,
    })
}
