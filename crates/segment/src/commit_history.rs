//! The commits that the log holds, for readers that follow it.
//!
//! Compaction removes segments of commits, and a crash takes commits that were not durable. The
//! manifest records both, so that a reader that resumes behind a commit learns whether the log
//! still has all commits after it.

use crate::manifest_reader::{ManifestError, ManifestReader};
use crate::mutants::planted;

/// The length of a row of lost commits in the manifest.
pub(crate) const LOST_ROW_LEN_BYTES: usize = 16;
/// Maximum number of rows. Beyond it, the oldest two become one.
const LOST_ROWS_MAX: usize = 64;

/// The commits that the log holds.
///
/// ```
/// use hightower_segment::{CommitHistory, LostCommits};
///
/// let lost = LostCommits { from: 8, to: 20 };
/// let history = CommitHistory { complete_after: 5, lost: vec![lost] };
/// assert_eq!(history.lost_at(8), Some(lost));
/// assert_eq!([5, 7, 20].map(|seq| history.lost_at(seq)), [None; 3]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitHistory {
    /// Each commit above this seq is in the log, but for the lost ones.
    pub complete_after: u64,
    /// The seqs that crashes may have taken, ascending.
    pub lost: Vec<LostCommits>,
}

/// The seqs that one crash may have taken: no commit of the log has one of them, but a reader may
/// have seen one.
///
/// Example: [`CommitHistory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostCommits {
    /// The first of them.
    pub from: u64,
    /// The first seq behind them.
    pub to: u64,
}

impl CommitHistory {
    /// The lost commits with this seq among them.
    ///
    /// Example: [`CommitHistory`].
    #[must_use]
    pub fn lost_at(&self, seq: u64) -> Option<LostCommits> {
        self.lost.iter().find(|lost| (lost.from..lost.to).contains(&seq)).copied()
    }

    /// The history of a copy of the log up to the commit `last_seq`. Until seqs are assigned from
    /// `next_seq` on, the original may assign others: for the copy, these are lost.
    #[must_use]
    pub fn as_of(&self, last_seq: u64, next_seq: u64) -> Self {
        let mut history = self.clone();
        let lost = LostCommits { from: last_seq.saturating_add(1), to: next_seq.saturating_sub(1) };
        history.lost.retain(|known| known.from < lost.from);
        if lost.from < lost.to {
            history.note_lost(lost);
        }
        history
    }

    /// The log no longer has all commits up to this seq.
    pub(crate) fn raise(&mut self, complete_after: u64) {
        // A reader may have seen lost commits, however much of the log is gone since.
        self.complete_after = self.complete_after.max(complete_after);
    }

    pub(crate) fn note_lost(&mut self, lost: LostCommits) {
        if self.lost.last() == Some(&lost) || planted("lost_commits_forgotten") {
            return;
        }
        self.lost.push(lost);
        if self.lost.len() > LOST_ROWS_MAX {
            let oldest = self.lost.remove(0);
            if let Some(next) = self.lost.first_mut() {
                next.from = oldest.from;
            }
        }
    }

    pub(crate) fn rows_len(&self) -> usize {
        self.lost.len() * LOST_ROW_LEN_BYTES
    }

    pub(crate) fn encode_rows(&self, bytes: &mut Vec<u8>) {
        for lost in &self.lost {
            bytes.extend_from_slice(&lost.from.to_le_bytes());
            bytes.extend_from_slice(&lost.to.to_le_bytes());
        }
    }

    pub(crate) fn decode_rows(&mut self, reader: &mut ManifestReader<'_>, rows: usize) -> Result<(), ManifestError> {
        for _ in 0..rows {
            self.lost.push(LostCommits { from: reader.u64()?, to: reader.u64()? });
        }
        Ok(())
    }

    /// Checks that a store with this next seq can have such a history; the error is the reason why
    /// not.
    pub(crate) fn check(&self, next_seq: u64) -> Result<(), &'static str> {
        if self.complete_after >= next_seq {
            return Err("a history that begins after all seqs");
        }
        let mut end = 0;
        for lost in &self.lost {
            if lost.from < end.max(1) || lost.from >= lost.to || lost.to > next_seq {
                return Err("impossible seqs of lost commits");
            }
            end = lost.to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{CommitHistory, LOST_ROWS_MAX, LostCommits};

    #[test]
    fn lost_commits_are_bounded_and_none_becomes_kept() {
        let mut history = CommitHistory::default();
        let lost = |at: u64| LostCommits { from: 10 * at, to: 10 * at + 5 };
        (1..=100).for_each(|at| history.note_lost(lost(at)));
        assert_eq!(history.lost.len(), LOST_ROWS_MAX);
        assert!((1..=100).all(|at| (lost(at).from..lost(at).to).all(|seq| history.lost_at(seq).is_some())));
        assert_eq!(history.lost_at(lost(99).to), None);
        assert_eq!(history.check(2000), Ok(()));
        history.raise(lost(100).from);
        assert_eq!((history.lost.len(), history.complete_after), (LOST_ROWS_MAX, 1000));
        history.raise(3);
        assert_eq!(history.complete_after, 1000);
    }
}
