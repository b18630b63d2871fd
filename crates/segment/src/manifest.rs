//! The manifest: the list of the store's files.
//!
//! One small file names the live segments with their properties. It is replaced atomically (write a
//! new file, sync it, rename it over the old one, sync the directory). In between, each change is
//! appended as an [edit](crate::manifest_edit). Files that it does not name are not part of the
//! store. The project's `docs/FORMAT.md` describes the bytes.

use hightower_log::{SegmentHeader, SegmentKind};

use crate::commit_history::{CommitHistory, LOST_ROW_LEN_BYTES};
use crate::layout::FIRST_RECORD_AT;
use crate::manifest_reader::{MANIFEST_VERSION, ManifestError, ManifestReader};
use crate::mutants::planted;
use crate::table_list::{self, CoveredPosition, NamedTables};

const MAGIC: [u8; 8] = *b"HTKVMAN\n";
/// Maximum length of a manifest, checked before it is read.
pub(crate) const MAX_LEN_BYTES: usize = 64 << 20;
/// The length of the header, as the header's own field states it.
const HEADER_LEN: u16 = 120;
const FIXED_LEN_BYTES: usize = HEADER_LEN as usize;
/// The feature bit of a write-ahead log.
const FEATURE_WAL: u32 = 1;
pub(crate) const ENTRY_LEN_BYTES: usize = 64;
const CHECK_LEN_BYTES: usize = 4;

/// The content of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The random identity of this store, drawn at its creation.
    pub store_id: [u8; 16],
    /// The content of its segments.
    pub content: Content,
    /// Number of changes of the manifest.
    pub generation: u64,
    /// The next free segment id.
    pub next_segment_id: u32,
    /// The first seq that was never assigned.
    pub next_seq: u64,
    /// The highest version known when the manifest was written.
    pub max_version: u64,
    /// The next free table id.
    pub next_table_id: u32,
    /// The tables. They can be rebuilt from the log.
    pub tables: NamedTables,
    /// The commits that the log holds.
    pub history: CommitHistory,
    /// The live segments, by ascending id.
    pub segments: Vec<SegmentEntry>,
    /// Segments of commits that compaction has removed and that are kept as history, by ascending
    /// id. They are not part of the content.
    pub retained: Vec<SegmentEntry>,
}

/// The kind of content of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// Commands on keys, of a key-value store.
    #[default]
    KeyValue,
    /// Byte strings and bounds, of a [`Wal`](crate::Wal).
    Wal,
}

/// A live segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Its id, which is also the file name.
    pub id: u32,
    /// Its kind of writer.
    pub kind: SegmentKind,
    /// Its salt, as in its header.
    pub salt: u64,
    /// The base seq, as in its header.
    pub base_seq: u64,
    /// The base version, as in its header.
    pub base_version: u64,
    /// The base timestamp, as in its header.
    pub base_timestamp: i64,
    /// The time of its creation, as in its header.
    pub created_ms: i64,
    /// Whether it may still grow.
    pub state: SegmentState,
}

/// Whether a segment may still grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// In use for writes, prepared, or not yet completely durable.
    Open,
    /// Complete and durable.
    Sealed {
        /// The end of its records. Bytes behind it are never read.
        len_bytes: u32,
        /// Number of its commands.
        records: u64,
        /// Number of its commits; 0 in a compacted segment.
        commits: u32,
    },
    /// Removed by compaction, and kept for readers that follow the log.
    Retained {
        /// The end of its records.
        len_bytes: u32,
        /// Number of its commands.
        records: u64,
        /// Number of its commits, 1 or more.
        commits: u32,
    },
}

impl Manifest {
    /// The manifest of an empty store. Seqs start at 1.
    #[must_use]
    pub fn new(store_id: [u8; 16]) -> Self {
        Self {
            store_id,
            content: Content::KeyValue,
            generation: 1,
            next_segment_id: 1,
            next_seq: 1,
            max_version: 0,
            next_table_id: 1,
            tables: NamedTables::default(),
            history: CommitHistory::default(),
            segments: Vec::new(),
            retained: Vec::new(),
        }
    }

    /// The entry of a segment.
    #[must_use]
    pub fn segment(&self, id: u32) -> Option<&SegmentEntry> {
        let index = self.segments.binary_search_by_key(&id, |entry| entry.id).ok()?;
        self.segments.get(index)
    }

    /// The entry of a retained segment.
    #[must_use]
    pub fn retained(&self, id: u32) -> Option<&SegmentEntry> {
        let index = self.retained.binary_search_by_key(&id, |entry| entry.id).ok()?;
        self.retained.get(index)
    }

    /// Whether the file of the segment with this id belongs to the store.
    pub(crate) fn names_segment(&self, id: u32) -> bool {
        self.segment(id).is_some() || self.retained(id).is_some() && !planted("history_is_garbage")
    }

    /// The seq above which the live segments have every commit, without the retained ones.
    pub(crate) fn live_after(&self) -> u64 {
        let of_retained = self.retained.iter().filter_map(SegmentEntry::last_seq).max().unwrap_or(0);
        self.history.complete_after.max(of_retained)
    }

    /// The history of the live segments alone, without the retained ones.
    #[must_use]
    pub fn history_of_content(&self) -> CommitHistory {
        let mut history = self.history.clone();
        if !planted("copies_promise_history") {
            history.raise(self.live_after());
        }
        history
    }

    /// Adds an entry at its place.
    pub(crate) fn insert(&mut self, entry: SegmentEntry) {
        let index = self.segments.partition_point(|other| other.id < entry.id);
        self.segments.insert(index, entry);
    }

    /// The length of the encoding, in bytes.
    pub(crate) fn encoded_len(&self) -> usize {
        let rows_len = self.tables.rows_len() + self.history.rows_len();
        let entries = self.segments.len() + self.retained.len();
        FIXED_LEN_BYTES + rows_len + entries * ENTRY_LEN_BYTES + CHECK_LEN_BYTES
    }

    /// The manifest's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let total = self.encoded_len();
        // Ids are `u32`, and the rows of lost commits are bounded, so all counts fit.
        #[allow(clippy::cast_possible_truncation, reason = "bounded, see above")]
        let entries = (self.segments.len() + self.retained.len()) as u32;
        #[allow(clippy::cast_possible_truncation, reason = "bounded, see above")]
        let (tables, lost) = (self.tables.newest_first.len() as u32, self.history.lost.len() as u32);
        let mut bytes = Vec::with_capacity(total);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&MANIFEST_VERSION.to_le_bytes());
        bytes.extend_from_slice(&HEADER_LEN.to_le_bytes());
        bytes.extend_from_slice(&self.content.features().to_le_bytes());
        bytes.extend_from_slice(&(total as u64).to_le_bytes());
        bytes.extend_from_slice(&self.store_id);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.next_seq.to_le_bytes());
        bytes.extend_from_slice(&self.max_version.to_le_bytes());
        bytes.extend_from_slice(&self.next_segment_id.to_le_bytes());
        bytes.extend_from_slice(&entries.to_le_bytes());
        bytes.extend_from_slice(&self.next_table_id.to_le_bytes());
        bytes.extend_from_slice(&tables.to_le_bytes());
        bytes.extend_from_slice(&self.history.complete_after.to_le_bytes());
        bytes.extend_from_slice(&lost.to_le_bytes());
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        self.tables.encode(&mut bytes);
        self.history.encode_rows(&mut bytes);
        self.segments.iter().for_each(|entry| entry.encode(&mut bytes));
        self.retained.iter().for_each(|entry| entry.encode(&mut bytes));
        let check = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads a manifest without its edits. Also returns the offset of the edits and the manifest's
    /// check.
    pub(crate) fn decode_whole(bytes: &[u8]) -> Result<(Self, usize, u32), ManifestError> {
        let (body, check) = verify(bytes)?;
        let mut reader = ManifestReader { bytes: body, at: 8 };
        let version = u16::from_le_bytes(reader.array()?);
        if version != MANIFEST_VERSION {
            return Err(ManifestError::UnsupportedVersion { found: version });
        }
        if reader.u16()? != HEADER_LEN {
            return Err(reader.damaged("the header does not have the length of this version"));
        }
        let features = u32::from_le_bytes(reader.array()?);
        let content = match features {
            FEATURE_WAL => Content::Wal,
            _ if features == 0 || planted("features_guessed") => Content::KeyValue,
            _ => return Err(ManifestError::UnsupportedFeatures { found: features & !FEATURE_WAL }),
        };
        reader.u64()?; // The length, which `verify` has checked.
        let mut manifest = Self {
            store_id: reader.array()?,
            content,
            generation: reader.u64()?,
            next_seq: reader.u64()?,
            max_version: reader.u64()?,
            next_segment_id: reader.u32()?,
            next_table_id: 1,
            tables: NamedTables::default(),
            history: CommitHistory::default(),
            segments: Vec::new(),
            retained: Vec::new(),
        };
        let count = reader.u32()? as usize;
        manifest.next_table_id = reader.u32()?;
        let tables = reader.u32()? as usize;
        manifest.history.complete_after = reader.u64()?;
        let (lost, reserved) = (reader.u32()? as usize, reader.u32()?);
        let rest = body.len().saturating_sub(FIXED_LEN_BYTES);
        let parts = [(tables, table_list::ROW_LEN_BYTES), (lost, LOST_ROW_LEN_BYTES), (count, ENTRY_LEN_BYTES)];
        let len = parts.iter().try_fold(0_usize, |len, (count, each)| len.checked_add(count.checked_mul(*each)?));
        if len != Some(rest) || reserved != 0 {
            return Err(reader.damaged("the numbers of tables and segments do not match the length"));
        }
        manifest.tables = NamedTables::decode(&mut reader, tables)?;
        manifest.history.decode_rows(&mut reader, lost)?;
        manifest.segments.reserve_exact(count);
        for _ in 0..count {
            let entry = SegmentEntry::decode(&mut reader)?;
            manifest.check_entry(&entry).map_err(|reason| reader.damaged(reason))?;
            if !manifest.retained.is_empty() && !entry.is_retained() {
                return Err(reader.damaged("a live segment behind the retained ones"));
            }
            let list = if entry.is_retained() { &mut manifest.retained } else { &mut manifest.segments };
            if list.last().is_some_and(|last| last.id >= entry.id) {
                return Err(reader.damaged("segment ids out of order"));
            }
            list.push(entry);
            if entry.is_retained() && manifest.segment(entry.id).is_some() {
                return Err(reader.damaged("a segment that is both live and retained"));
            }
        }
        manifest.check_tables().map_err(|reason| reader.damaged(reason))?;
        manifest.history.check(manifest.next_seq).map_err(|reason| reader.damaged(reason))?;
        Ok((manifest, body.len() + CHECK_LEN_BYTES, check))
    }

    /// Checks that this store can have such a segment; the error is the reason why not.
    pub(crate) fn check_entry(&self, entry: &SegmentEntry) -> Result<(), &'static str> {
        if entry.id == 0 || entry.id >= self.next_segment_id {
            return Err("a segment id that was never assigned");
        }
        if entry.kind == SegmentKind::Compacted && entry.state == SegmentState::Open {
            return Err("a compacted segment that is not sealed");
        }
        let last_seq = entry.last_seq().filter(|_| entry.is_retained()).unwrap_or(entry.base_seq);
        if entry.kind == SegmentKind::Append && last_seq >= self.next_seq {
            return Err("a segment with seqs that were never assigned");
        }
        Ok(())
    }

    /// Checks that this store can have these tables; the error is the reason why not.
    pub(crate) fn check_tables(&self) -> Result<(), &'static str> {
        let NamedTables { newest_first, covered } = &self.tables;
        let mut ids: Vec<u32> = newest_first.iter().map(|table| table.id).collect();
        ids.sort_unstable();
        let is_possible = |id: &u32| (1..self.next_table_id).contains(id);
        if !ids.iter().all(is_possible) || !ids.is_sorted_by(|before, after| before < after) {
            return Err("a table id that was never assigned, or occurs twice");
        }
        if newest_first.is_empty() {
            return if *covered == CoveredPosition::default() {
                Ok(())
            } else {
                Err("a covered position without tables")
            };
        }
        let is_segment = |id: u32| (1..self.next_segment_id).contains(&id);
        if !is_segment(covered.segment) || covered.compacted_below > self.next_segment_id {
            return Err("tables that cover a segment id that was never assigned");
        }
        if covered.offset < FIRST_RECORD_AT || !(1..=self.next_seq).contains(&covered.next_seq) {
            return Err("tables that cover an impossible position");
        }
        Ok(())
    }
}

impl Content {
    fn features(self) -> u32 {
        match self {
            Self::KeyValue => 0,
            Self::Wal => FEATURE_WAL,
        }
    }
}

impl SegmentEntry {
    /// The entry of a segment with this header.
    #[must_use]
    pub fn of(header: &SegmentHeader, state: SegmentState) -> Self {
        Self {
            id: header.id,
            kind: header.kind,
            salt: header.salt,
            base_seq: header.base_seq,
            base_version: header.base_version,
            base_timestamp: header.base_timestamp,
            created_ms: header.created_ms,
            state,
        }
    }

    pub(crate) fn is_retained(&self) -> bool {
        matches!(self.state, SegmentState::Retained { .. })
    }

    /// The seq of the last commit of a sealed or retained segment, if it has commits.
    #[must_use]
    pub fn last_seq(&self) -> Option<u64> {
        match self.state {
            SegmentState::Sealed { commits: commits @ 1.., .. } | SegmentState::Retained { commits, .. } => {
                Some(self.base_seq.saturating_add(u64::from(commits) - 1))
            }
            _ => None,
        }
    }

    /// The entry after the segment was removed and retained; `None` if it has no commits.
    pub(crate) fn to_retained(self) -> Option<Self> {
        match self.state {
            SegmentState::Sealed { len_bytes, records, commits: commits @ 1.. } => {
                Some(Self { state: SegmentState::Retained { len_bytes, records, commits }, ..self })
            }
            _ => None,
        }
    }

    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        let (state, len_bytes, records, commits) = match self.state {
            SegmentState::Open => (1, 0, 0, 0),
            SegmentState::Sealed { len_bytes, records, commits } => (2, len_bytes, records, commits),
            SegmentState::Retained { len_bytes, records, commits } => (3, len_bytes, records, commits),
        };
        let kind = match self.kind {
            SegmentKind::Append => 1,
            SegmentKind::Compacted => 2,
        };
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&[kind, state, 0, 0]);
        bytes.extend_from_slice(&self.salt.to_le_bytes());
        bytes.extend_from_slice(&self.base_seq.to_le_bytes());
        bytes.extend_from_slice(&self.base_version.to_le_bytes());
        bytes.extend_from_slice(&self.base_timestamp.to_le_bytes());
        bytes.extend_from_slice(&self.created_ms.to_le_bytes());
        bytes.extend_from_slice(&len_bytes.to_le_bytes());
        bytes.extend_from_slice(&commits.to_le_bytes());
        bytes.extend_from_slice(&records.to_le_bytes());
    }

    pub(crate) fn decode(reader: &mut ManifestReader<'_>) -> Result<Self, ManifestError> {
        let id = reader.u32()?;
        let [kind, state, reserved, reserved_too] = reader.array()?;
        let kind = match kind {
            1 => SegmentKind::Append,
            2 => SegmentKind::Compacted,
            _ => return Err(reader.damaged("an unknown kind of segment")),
        };
        let (salt, base_seq, base_version) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (base_timestamp, created_ms) = (i64::from_le_bytes(reader.array()?), i64::from_le_bytes(reader.array()?));
        let (len_bytes, commits, records) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let commits_max = if kind == SegmentKind::Append { records } else { 0 };
        let state = match (state, len_bytes, records, commits) {
            (1, 0, 0, 0) => SegmentState::Open,
            (2, 64.., ..) if u64::from(commits) <= commits_max => SegmentState::Sealed { len_bytes, records, commits },
            (3, 64.., _, 1..) if u64::from(commits) <= commits_max => {
                SegmentState::Retained { len_bytes, records, commits }
            }
            _ => return Err(reader.damaged("an impossible state of a segment")),
        };
        if (reserved, reserved_too) != (0, 0) {
            return Err(reader.damaged("reserved bytes that are not zero"));
        }
        Ok(Self { id, kind, salt, base_seq, base_version, base_timestamp, created_ms, state })
    }
}

/// Checks magic, length and checksum. Returns the manifest's bytes before its check, and the check.
fn verify(bytes: &[u8]) -> Result<(&[u8], u32), ManifestError> {
    let damaged = |offset, reason| ManifestError::Damaged { offset, reason };
    if bytes.first_chunk::<8>() != Some(&MAGIC) {
        return Err(damaged(0, "it does not begin with a manifest's magic bytes"));
    }
    let cut = damaged(bytes.len() as u64, "it is cut short");
    let len = ManifestReader { bytes, at: 16 }.u64().map_err(|_| cut)?;
    let whole = usize::try_from(len).ok().and_then(|len| bytes.get(..len)).ok_or(cut)?;
    let Some((body, check)) =
        whole.split_last_chunk::<CHECK_LEN_BYTES>().filter(|(body, _)| body.len() >= FIXED_LEN_BYTES)
    else {
        return Err(damaged(16, "it states an impossible length"));
    };
    let check = u32::from_le_bytes(*check);
    if crc32fast::hash(body) != check && !planted("manifest_unverified") {
        return Err(damaged(body.len() as u64, "wrong checksum"));
    }
    Ok((body, check))
}
