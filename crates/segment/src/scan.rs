//! Scans of a segment's records: strict for replay, up to the valid end for recovery, and across
//! damage for checks.

use hightower_log::{CommandRef, DecodeError, Record, RecordBody, RecordContext, SegmentKind, decode, probe};

use crate::error::{Damage, SegmentError};
use crate::layout::{FIRST_RECORD_AT, to_offset};
use crate::mutants::planted;
use crate::read_ahead::InOrder;
use crate::segment::Segment;

/// A command with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRecord<'a> {
    /// The offset of its record.
    pub offset: u32,
    /// The length of its record, in bytes.
    pub len_bytes: u32,
    /// The seq of its commit; all commands of one commit share it. Without meaning in compacted
    /// segments.
    pub seq: u64,
    /// Whether more commands of the same commit follow.
    pub continues: bool,
    /// The command.
    pub command: CommandRef<'a>,
}

/// The commands of a segment in file order, each verified; from [`Segment::entries`]. The first
/// error ends it.
#[derive(Debug)]
pub struct SegmentEntries<'a> {
    segment: &'a Segment,
    bytes: &'a [u8],
    offset: u32,
    seq: u64,
    in_commit: bool,
    done: bool,
    order: InOrder<&'a Segment>,
}

impl<'a> SegmentEntries<'a> {
    pub(crate) fn new(segment: &'a Segment, offset: u32, seq: u64) -> Self {
        let offset = offset.max(FIRST_RECORD_AT);
        let bytes = segment.bytes_from(offset);
        Self { segment, bytes, offset, seq, in_commit: false, done: false, order: InOrder::looking(segment, offset) }
    }

    fn step(&mut self) -> Result<Option<SegmentRecord<'a>>, SegmentError> {
        loop {
            if self.bytes.is_empty() {
                return self.end();
            }
            self.order.go_to(self.offset);
            let record = match decode(self.bytes, self.segment.context(), self.offset) {
                Err(_) if planted("damage_is_an_end") => return Ok(None),
                record => record.map_err(|error| self.segment.damaged(self.offset, error))?,
            };
            check_kind(self.segment, self.offset, &record, self.in_commit)?;
            let offset = self.offset;
            self.bytes = self.bytes.get(record.len as usize..).unwrap_or_default();
            self.offset = offset.saturating_add(record.len);
            let RecordBody::Command(command) = record.body else { continue };
            let (seq, continues) = (self.seq, record.continues());
            self.in_commit = continues;
            if !continues {
                // The base of a compacted segment may be the highest number.
                self.seq = self.seq.saturating_add(1);
            }
            return Ok(Some(SegmentRecord { offset, len_bytes: record.len, seq, continues, command }));
        }
    }

    fn end(&self) -> Result<Option<SegmentRecord<'a>>, SegmentError> {
        if self.in_commit {
            let damage = Damage::Structure("the last commit has no end");
            return Err(SegmentError::corrupt(self.segment.path(), self.offset.into(), damage));
        }
        Ok(None)
    }
}

impl<'a> Iterator for SegmentEntries<'a> {
    type Item = Result<SegmentRecord<'a>, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.step().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

/// Checks that a record is allowed in a segment of this kind, at this place of a commit.
fn check_kind(segment: &Segment, offset: u32, record: &Record<'_>, in_commit: bool) -> Result<(), SegmentError> {
    let damage = match (segment.kind(), record.durable(), record.body) {
        (SegmentKind::Append, None, _) => "a relocated record in a segment of commits",
        (SegmentKind::Compacted, Some(_), _) => "a committed record in a compacted segment",
        (_, _, RecordBody::Seal { .. }) if in_commit => "a seal within a commit",
        _ => return Ok(()),
    };
    Err(SegmentError::corrupt(segment.path(), offset.into(), Damage::Structure(damage)))
}

/// The end of the valid records of an append segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// The end of the last complete commit (or of the seal).
    pub(crate) end: u32,
    /// Number of complete commits before it.
    pub(crate) commits: u64,
    /// Number of their commands.
    pub(crate) records: u64,
    /// The highest version among them.
    pub(crate) max_version: u64,
    /// Whether the segment ends with a seal.
    pub(crate) sealed: bool,
    /// The place where reading stopped, with its error; it may be inside a commit that began at
    /// `end`.
    pub(crate) stop: (u32, DecodeError),
}

/// Reads commits from the start of `bytes`, a whole segment file, up to the first incomplete one.
pub(crate) fn find_tail(bytes: &[u8], context: &RecordContext) -> LogEnd {
    let mut tail = LogEnd::of_empty();
    tail.read_on(bytes.get(FIRST_RECORD_AT as usize..).unwrap_or_default(), context);
    tail
}

impl LogEnd {
    /// The end of a segment without commits.
    pub(crate) fn of_empty() -> Self {
        let start = FIRST_RECORD_AT;
        Self {
            end: start,
            commits: 0,
            records: 0,
            max_version: 0,
            sealed: false,
            stop: (start, DecodeError::NoRecord { offset: start }),
        }
    }

    /// Reads on up to the first incomplete commit. `bytes` begin at the end.
    pub(crate) fn read_on(&mut self, bytes: &[u8], context: &RecordContext) {
        // Of the current commit.
        let (mut at, mut pending_records, mut pending_version) = (self.end, 0, 0);
        let start = self.end;
        while !self.sealed {
            let rest = bytes.get((at - start) as usize..).unwrap_or_default();
            let record = match decode(rest, context, at) {
                Ok(record) if record.durable().is_some() => record,
                Ok(_) => return self.stop = (at, DecodeError::NoRecord { offset: at }),
                Err(error) => return self.stop = (at, error),
            };
            if matches!(record.body, RecordBody::Seal { .. }) && pending_records > 0 {
                return self.stop = (at, DecodeError::NoRecord { offset: at });
            }
            at = at.saturating_add(record.len);
            match record.body {
                RecordBody::Seal { max_version, .. } => {
                    self.max_version = self.max_version.max(max_version);
                    (self.end, self.sealed) = (at, true);
                    self.stop = (at, DecodeError::NoRecord { offset: at });
                    return;
                }
                RecordBody::Command(command) => {
                    pending_records += 1;
                    pending_version = pending_version.max(command.version());
                }
            }
            if !record.continues() || planted("batch_marker_ignored") {
                self.end = at;
                self.commits += 1;
                self.records += pending_records;
                self.max_version = self.max_version.max(pending_version);
                (pending_records, pending_version) = (0, 0);
            }
        }
    }
}

/// The bytes behind the place where reading stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beyond {
    /// The end of the last bytes that look like a record; 0 if none do.
    pub(crate) end: u32,
    /// The largest `durable` of a valid record there, if it is greater than the known one.
    pub(crate) witness: Option<u32>,
}

/// Searches records at any place from `from` on, and a valid one with a `durable` above `known`.
pub(crate) fn look_beyond(bytes: &[u8], context: &RecordContext, from: u32, known: u32) -> Beyond {
    let mut beyond = Beyond::default();
    let mut at = from as usize;
    // The end of the found records so far.
    let mut behind = at;
    while let Some(next) = next_candidate(bytes, at) {
        at = next;
        let rest = bytes.get(at..).unwrap_or_default();
        let offset = to_offset(at);
        let Some(found) = probe(rest, context, offset) else {
            at += 1;
            continue;
        };
        // The head is valid. Only a completely valid record is a witness, or is skipped. An
        // incomplete one counts as the rest of a commit only right behind the found records: among
        // arbitrary bytes some heads are valid by chance.
        let Ok(record) = decode(rest, context, offset) else {
            if at == behind || planted("leftovers_count_as_lost") {
                let claimed =
                    usize::try_from(found.len).map_or(bytes.len(), |len| at.saturating_add(len).min(bytes.len()));
                behind = claimed.max(at + 1);
                beyond.end = beyond.end.max(to_offset(behind));
            }
            at += 1;
            continue;
        };
        at += record.len as usize;
        behind = at;
        beyond.end = beyond.end.max(to_offset(at));
        if found.durable > known {
            beyond.witness = beyond.witness.max(Some(found.durable));
        }
    }
    beyond
}

/// The next place at or after `at` where a record may start: its fifth byte, the kind, is not zero.
/// Runs of zeros, which are most of a preallocated file, are skipped by words.
fn next_candidate(bytes: &[u8], at: usize) -> Option<usize> {
    const KIND_AT: usize = 4;
    let mut kind_at = at + KIND_AT;
    while bytes.get(kind_at..).and_then(|rest| rest.first_chunk::<8>()) == Some(&[0; 8]) {
        kind_at += 8;
    }
    let skipped = bytes.get(kind_at..)?.iter().position(|byte| *byte != 0)?;
    Some(kind_at + skipped - KIND_AT)
}

/// One finding of [`Segment::scan`].
#[derive(Clone, Debug)]
pub enum Finding<'a> {
    /// A valid command.
    Entry(SegmentRecord<'a>),
    /// Bytes without a valid record, up to the next one.
    Damaged {
        /// Their offset.
        offset: u32,
        /// Their number, up to the next valid record or the end.
        len_bytes: u32,
        /// Their error.
        error: DecodeError,
    },
}

/// The content of a segment, damaged places included; from [`Segment::scan`].
#[derive(Debug)]
pub struct Scan<'a> {
    segment: &'a Segment,
    bytes: &'a [u8],
    at: usize,
    seq: u64,
    order: InOrder<&'a Segment>,
}

impl Segment {
    /// All commands of the segment, in file order, each verified.
    #[must_use]
    pub fn entries(&self) -> SegmentEntries<'_> {
        self.entries_from(FIRST_RECORD_AT, self.header().base_seq)
    }

    /// The commands from `offset` on, where the commit with `seq` begins. (In a compacted segment
    /// the seq has no meaning.)
    #[must_use]
    pub fn entries_from(&self, offset: u32, seq: u64) -> SegmentEntries<'_> {
        SegmentEntries::new(self, offset, seq)
    }

    /// Scans the whole segment and continues behind damage, for checks and salvage. Behind a
    /// damaged place seqs are no longer exact, and a batch may be incomplete.
    ///
    /// It costs a checksum of every record, and behind damage a check of every byte until a record
    /// is found.
    #[must_use]
    pub fn scan(&self) -> Scan<'_> {
        let at = FIRST_RECORD_AT as usize;
        let (bytes, seq) = (self.bytes_from(0), self.header().base_seq);
        Scan { segment: self, bytes, at, seq, order: InOrder::looking(self, FIRST_RECORD_AT) }
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Finding<'a>;

    fn next(&mut self) -> Option<Finding<'a>> {
        loop {
            let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
            let offset = to_offset(self.at);
            self.order.go_to(offset);
            let record = match decode(rest, self.segment.context(), offset) {
                Ok(record) => record,
                Err(error) => return self.damaged(offset, error),
            };
            self.at += record.len as usize;
            let RecordBody::Command(command) = record.body else { continue };
            let (seq, continues) = (self.seq, record.continues());
            self.seq += u64::from(!continues);
            return Some(Finding::Entry(SegmentRecord { offset, len_bytes: record.len, seq, continues, command }));
        }
    }
}

impl<'a> Scan<'a> {
    /// Steps to the next valid record, or to the end.
    fn damaged(&mut self, offset: u32, error: DecodeError) -> Option<Finding<'a>> {
        let start = self.at;
        let mut at = start + 1;
        loop {
            let Some(next) = next_candidate(self.bytes, at) else {
                at = self.bytes.len();
                break;
            };
            at = next;
            let rest = self.bytes.get(at..).unwrap_or_default();
            let likely = self.segment.kind() == SegmentKind::Compacted
                || probe(rest, self.segment.context(), to_offset(at)).is_some();
            if likely && decode(rest, self.segment.context(), to_offset(at)).is_ok() {
                break;
            }
            at += 1;
        }
        self.at = at;
        // Zeros up to the end of an unsealed file are not damage.
        let nothing = at == self.bytes.len()
            && matches!(error, DecodeError::NoRecord { .. } | DecodeError::Truncated { .. })
            && self.bytes.get(start..).unwrap_or_default().iter().all(|byte| *byte == 0);
        (!nothing).then(|| Finding::Damaged { offset, len_bytes: to_offset(at - start), error })
    }
}

#[cfg(test)]
mod tests {
    use hightower_log::{Placement, encode};

    use super::*;

    const PLACEMENT: Placement = Placement::Appended { durable: FIRST_RECORD_AT, continues: false };

    fn filled(context: &RecordContext, len_bytes: usize) -> Vec<u8> {
        let mut bytes = vec![0; FIRST_RECORD_AT as usize];
        for version in 0.. {
            let command = CommandRef::Set { key: b"key", value: b"value", version, timestamp: 0 };
            let offset = to_offset(bytes.len());
            encode(&mut bytes, context, offset, &command, PLACEMENT).unwrap();
            if bytes.len() >= len_bytes {
                break;
            }
        }
        bytes
    }

    #[test]
    fn what_a_file_held_before_it_was_used_again_is_nothing_that_was_lost() {
        let stale = filled(&RecordContext::new(1, 0, 0), 8 << 20);
        let context = RecordContext::new(2, 0, 0);
        assert_eq!(find_tail(&stale, &context).end, FIRST_RECORD_AT);
        for from in [FIRST_RECORD_AT, 1000] {
            assert_eq!(look_beyond(&stale, &context, from, 0), Beyond::default());
        }
    }

    #[test]
    fn a_commit_of_which_a_part_is_there_was_lost_as_far_as_its_head_says() {
        let context = RecordContext::new(1, 0, 0);
        let whole = filled(&context, 200);
        let last = find_tail(&whole, &context).end;
        let torn = &whole[..whole.len() - 3];
        let end = find_tail(torn, &context).end;
        assert!(end < last);
        assert_eq!(look_beyond(torn, &context, end, end).end, to_offset(torn.len()));
        // Behind a hole only complete records are known.
        let mut holed = whole.clone();
        holed[end as usize - 1] ^= 1;
        let from = find_tail(&holed, &context).end;
        assert!(from < end);
        assert_eq!(look_beyond(&holed, &context, from, from).end, last);
    }
}
