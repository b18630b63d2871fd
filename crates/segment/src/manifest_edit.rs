//! Edits: changes appended to the manifest.
//!
//! The manifest has an entry per segment, and a change affects one or two of them. A change is
//! therefore appended as an *edit*; the manifest is rewritten only when its edits are as long as
//! the manifest itself. An edit takes effect when it is synced, and the next one is written only
//! after that. Invalid bytes at the end were therefore never part of the store; invalid bytes
//! before an edit are damage.

use crate::commit_history::{LOST_ROW_LEN_BYTES, LostCommits};
use crate::manifest::{ENTRY_LEN_BYTES, Manifest, SegmentEntry};
use crate::manifest_reader::{ManifestError, ManifestReader};
use crate::mutants::planted;
use crate::table_list::{COVERED_LEN_BYTES, NamedTables};

const MAGIC: [u8; 8] = *b"HTKVEDT\n";
const FIXED_LEN_BYTES: usize = 56;
const CHECK_LEN_BYTES: usize = 4;
/// Maximum length of an edit; for a longer change, the manifest is rewritten. The maximum bounds
/// the bytes that a reader checks at each offset where an edit may begin.
pub(crate) const MAX_LEN_BYTES: usize = 64 << 10;
/// The flag of an edit that replaces the list of tables.
const SETS_TABLES: u16 = 1;

/// An atomic change of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ManifestEdit {
    /// The next seq, if it changes.
    pub(crate) next_seq: Option<u64>,
    /// A version that the store has seen.
    pub(crate) max_version: u64,
    /// The log no longer has all commits up to this seq. A lower one than before has no effect.
    pub(crate) complete_after: u64,
    /// Seqs that a crash may have taken. Only a whole manifest can record them.
    pub(crate) lost: Option<LostCommits>,
    /// The new list of all tables, if it changes.
    pub(crate) tables: Option<NamedTables>,
    /// Ids of removed segments; unknown ids have no effect.
    pub(crate) remove: Vec<u32>,
    /// Entries to add. An entry replaces an earlier one with its id.
    pub(crate) put: Vec<SegmentEntry>,
}

/// The fields of the whole manifest after an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heading {
    generation: u64,
    next_segment_id: u32,
    next_seq: u64,
    max_version: u64,
    complete_after: u64,
}

impl Manifest {
    /// Reads a manifest with its edits. Allocates at most a small multiple of the input's length.
    ///
    /// # Errors
    ///
    /// [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        Ok(Self::decode_to_end(bytes)?.0)
    }

    /// The same, with the end of the last edit. Bytes behind it are an edit that is not complete.
    pub(crate) fn decode_to_end(bytes: &[u8]) -> Result<(Self, usize), ManifestError> {
        let (mut manifest, edits_at, check) = Self::decode_whole(bytes)?;
        let end = manifest.replay(bytes, edits_at, check)?;
        Ok((manifest, end))
    }

    /// The manifest's numbers after [`apply`](Self::apply).
    pub(crate) fn heading_after(&self, edit: &ManifestEdit) -> Heading {
        Heading {
            generation: self.generation + 1,
            next_segment_id: self.next_segment_id,
            next_seq: edit.next_seq.unwrap_or(self.next_seq),
            max_version: self.max_version.max(edit.max_version),
            complete_after: self.history.complete_after.max(edit.complete_after),
        }
    }

    /// An upper bound of the length after an edit, in bytes.
    pub(crate) fn encoded_len_after(&self, edit: &ManifestEdit) -> u64 {
        let rows_len = edit.tables.as_ref().map_or(0, NamedTables::rows_len);
        (self.encoded_len() + rows_len + LOST_ROW_LEN_BYTES + edit.put.len() * ENTRY_LEN_BYTES) as u64
    }

    /// Applies an edit to the manifest and raises its generation.
    pub(crate) fn apply(&mut self, edit: &ManifestEdit) {
        self.generation += 1;
        self.next_seq = edit.next_seq.unwrap_or(self.next_seq);
        self.max_version = self.max_version.max(edit.max_version);
        self.history.raise(edit.complete_after);
        if let Some(lost) = edit.lost {
            self.history.note_lost(lost);
        }
        if let Some(tables) = &edit.tables {
            self.next_table_id = self.next_table_id.max(tables.next_id());
            self.tables.clone_from(tables);
        }
        match edit.remove.as_slice() {
            [] => {}
            [id] => {
                remove_entry(&mut self.segments, *id);
                remove_entry(&mut self.retained, *id);
            }
            many => {
                let mut many = many.to_vec();
                many.sort_unstable();
                let stays = |entry: &SegmentEntry| many.binary_search(&entry.id).is_err();
                self.segments.retain(stays);
                self.retained.retain(stays);
            }
        }
        for entry in &edit.put {
            let list = if entry.is_retained() {
                remove_entry(&mut self.segments, entry.id);
                &mut self.retained
            } else {
                &mut self.segments
            };
            match list.binary_search_by_key(&entry.id, |other| other.id) {
                Ok(at) => list[at] = *entry,
                Err(at) => list.insert(at, *entry),
            }
        }
    }

    /// Applies the edits in `bytes` from offset `at` on, and returns the end of the last one.
    /// `check` is the check of the manifest before them.
    fn replay(&mut self, bytes: &[u8], mut at: usize, check: u32) -> Result<usize, ManifestError> {
        while let Some(edit) = edit_at(bytes, at, check) {
            self.apply_encoded(edit, at)?;
            at += edit.len();
        }
        let is_magic = |place: &usize| bytes.get(*place..).is_some_and(|rest| rest.starts_with(&MAGIC));
        let later = (at + 1..bytes.len()).filter(is_magic).find_map(|place| edit_at(bytes, place, check));
        if later.is_some() && !planted("damaged_edit_is_an_end") {
            return Err(ManifestError::Damaged { offset: at as u64, reason: "a damaged edit before others" });
        }
        Ok(at)
    }

    /// Applies the edit at offset `at` of the file.
    fn apply_encoded(&mut self, bytes: &[u8], at: usize) -> Result<(), ManifestError> {
        let damaged = |reason| ManifestError::Damaged { offset: at as u64, reason };
        let mut reader =
            ManifestReader { bytes: bytes.get(..bytes.len() - CHECK_LEN_BYTES).unwrap_or_default(), at: 12 };
        let next_segment_id = reader.u32()?;
        let (generation, next_seq, max_version) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (removed, put) = (reader.u16()?, reader.u16()?);
        let (flags, tables) = (reader.u16()?, usize::from(reader.u16()?));
        let complete_after = reader.u64()?;
        if flags & !SETS_TABLES != 0 || flags == 0 && tables > 0 {
            return Err(damaged("an edit with unknown flags"));
        }
        let mut edit =
            ManifestEdit { next_seq: Some(next_seq), max_version, complete_after, ..ManifestEdit::default() };
        if flags & SETS_TABLES != 0 {
            edit.tables = Some(NamedTables::decode(&mut reader, tables)?);
        }
        for _ in 0..removed {
            edit.remove.push(reader.u32()?);
        }
        for _ in 0..put {
            edit.put.push(SegmentEntry::decode(&mut reader)?);
        }
        let goes_on = self.generation.checked_add(1) == Some(generation)
            && next_segment_id >= self.next_segment_id
            && next_seq >= self.next_seq
            && max_version >= self.max_version
            && (self.history.complete_after..next_seq).contains(&complete_after);
        if reader.at != reader.bytes.len() || !goes_on {
            return Err(damaged("an edit that contradicts the manifest before it"));
        }
        self.next_segment_id = next_segment_id;
        self.apply(&edit);
        edit.put.iter().try_for_each(|entry| self.check_entry(entry)).map_err(damaged)?;
        if edit.tables.is_some() { self.check_tables().map_err(damaged) } else { Ok(()) }
    }
}

impl ManifestEdit {
    /// Removes a segment.
    pub(crate) fn removing(id: u32) -> Self {
        Self { remove: vec![id], ..Self::default() }
    }

    /// The encoding of the edit for offset `at` of the file; `None` if it is too long or has lost
    /// commits. `after` has
    /// the manifest's numbers after the edit, `check` is the manifest's check.
    pub(crate) fn encode(&self, after: Heading, check: u32, at: u64) -> Option<Vec<u8>> {
        let tables = self.tables.as_ref();
        let tables_len = tables.map_or(0, |tables| COVERED_LEN_BYTES + tables.rows_len());
        let lists_len = self.remove.len().checked_mul(4)?.checked_add(self.put.len().checked_mul(ENTRY_LEN_BYTES)?)?;
        let total = FIXED_LEN_BYTES + tables_len + lists_len + CHECK_LEN_BYTES;
        if total > MAX_LEN_BYTES || self.lost.is_some() {
            return None;
        }
        let short = |len: usize| u32::try_from(len).ok();
        let mut bytes = Vec::with_capacity(total);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&short(total)?.to_le_bytes());
        bytes.extend_from_slice(&after.next_segment_id.to_le_bytes());
        bytes.extend_from_slice(&after.generation.to_le_bytes());
        bytes.extend_from_slice(&after.next_seq.to_le_bytes());
        bytes.extend_from_slice(&after.max_version.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(self.remove.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(self.put.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(&if tables.is_some() { SETS_TABLES } else { 0 }.to_le_bytes());
        let tables_count = tables.map_or(0, |tables| tables.newest_first.len());
        bytes.extend_from_slice(&u16::try_from(tables_count).ok()?.to_le_bytes());
        bytes.extend_from_slice(&after.complete_after.to_le_bytes());
        if let Some(tables) = tables {
            tables.encode(&mut bytes);
        }
        self.remove.iter().for_each(|id| bytes.extend_from_slice(&id.to_le_bytes()));
        self.put.iter().for_each(|entry| entry.encode(&mut bytes));
        let check = check_of(&bytes, check, at);
        bytes.extend_from_slice(&check.to_le_bytes());
        Some(bytes)
    }
}

fn remove_entry(list: &mut Vec<SegmentEntry>, id: u32) {
    if let Ok(at) = list.binary_search_by_key(&id, |entry| entry.id) {
        list.remove(at);
    }
}

/// The bytes of the edit at an offset, if valid.
fn edit_at(bytes: &[u8], at: usize, check: u32) -> Option<&[u8]> {
    let rest = bytes.get(at..).filter(|rest| rest.starts_with(&MAGIC))?;
    let len = u32::from_le_bytes(*rest.get(8..)?.first_chunk()?) as usize;
    let edit = rest.get(..len).filter(|_| (FIXED_LEN_BYTES + CHECK_LEN_BYTES..=MAX_LEN_BYTES).contains(&len))?;
    let (body, found) = edit.split_last_chunk::<CHECK_LEN_BYTES>()?;
    (check_of(body, check, at as u64) == u32::from_le_bytes(*found)).then_some(edit)
}

/// The check of an edit covers its bytes, the check of its manifest and its offset.
fn check_of(body: &[u8], check: u32, at: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&check.to_le_bytes());
    hasher.update(&at.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use hightower_log::SegmentKind;

    use super::ManifestEdit;
    use crate::commit_history::LostCommits;
    use crate::manifest::{Manifest, SegmentEntry, SegmentState};
    use crate::manifest_reader::ManifestError;
    use crate::table_list::{CoveredPosition, NamedTable, NamedTables};

    const ENTRY: SegmentEntry = SegmentEntry {
        id: 1,
        kind: SegmentKind::Append,
        salt: 0x0807_0605_0403_0201,
        base_seq: 1,
        base_version: 5,
        base_timestamp: 1_700_000_000_000,
        created_ms: 1_700_000_000_001,
        state: SegmentState::Open,
    };

    const RETAINED: SegmentState = SegmentState::Retained { len_bytes: 100, records: 2, commits: 1 };

    fn tables() -> NamedTables {
        let table = |id| NamedTable { id, salt: 0x1817_1615_1413_1200 + u64::from(id), len_bytes: 5000 };
        let covered = CoveredPosition { segment: 2, offset: 100, next_seq: 9, compacted_below: 3 };
        NamedTables { newest_first: vec![table(5), table(3)], covered }
    }

    /// A manifest with two edits, and the bytes of its file.
    fn edited() -> (Manifest, Vec<u8>) {
        let mut manifest = Manifest::new([0xab; 16]);
        manifest.next_segment_id = 3;
        let mut bytes = manifest.encode();
        let check = u32::from_le_bytes(*bytes.last_chunk().unwrap());
        let sealed = SegmentState::Sealed { len_bytes: 100, records: 2, commits: 1 };
        let first = ManifestEdit { next_seq: Some(66), put: vec![ENTRY], ..ManifestEdit::default() };
        let second = ManifestEdit {
            max_version: 7,
            complete_after: 3,
            tables: Some(tables()),
            remove: vec![1],
            put: vec![SegmentEntry { id: 2, state: sealed, ..ENTRY }],
            ..ManifestEdit::default()
        };
        for edit in [first, second] {
            let encoded = edit.encode(manifest.heading_after(&edit), check, bytes.len() as u64).unwrap();
            bytes.extend_from_slice(&encoded);
            manifest.apply(&edit);
        }
        (manifest, bytes)
    }

    #[test]
    fn the_bytes_are_the_golden_ones() {
        let hex: String = edited().1.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = include_str!("../tests/golden/manifest.txt").replace('\n', "");
        assert_eq!(hex, golden);
    }

    /// The same with lost commits, which only a whole manifest can record, and a retained segment.
    #[test]
    fn the_bytes_of_a_whole_manifest_are_the_golden_ones() {
        let (mut manifest, _) = edited();
        let put = vec![SegmentEntry { state: RETAINED, ..ENTRY }];
        manifest.apply(&ManifestEdit { lost: Some(LostCommits { from: 4, to: 60 }), put, ..ManifestEdit::default() });
        let bytes = manifest.encode();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = include_str!("../tests/golden/manifest_whole.txt").replace('\n', "");
        assert_eq!(hex, golden);
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
    }

    /// A retained segment is not a live one, in a whole manifest as with edits.
    #[test]
    fn a_segment_is_live_then_retained_then_gone() {
        let (mut manifest, mut bytes) = edited();
        let (_, _, check) = Manifest::decode_whole(&bytes).unwrap();
        let ids = |list: &[SegmentEntry]| list.iter().map(|entry| entry.id).collect::<Vec<_>>();
        let retained = manifest.segments[0].to_retained().unwrap();
        let steps = [
            (ManifestEdit { put: vec![retained], ..ManifestEdit::default() }, vec![2]),
            (
                ManifestEdit { put: vec![SegmentEntry { state: RETAINED, ..ENTRY }], ..ManifestEdit::default() },
                vec![1, 2],
            ),
            (ManifestEdit { complete_after: 4, remove: vec![1], ..ManifestEdit::default() }, vec![2]),
            (ManifestEdit { remove: vec![1, 2], ..ManifestEdit::default() }, vec![]),
        ];
        for (edit, expected) in steps {
            let encoded = edit.encode(manifest.heading_after(&edit), check, bytes.len() as u64).unwrap();
            bytes.extend_from_slice(&encoded);
            manifest.apply(&edit);
            assert_eq!((ids(&manifest.segments), ids(&manifest.retained)), (vec![], expected));
            assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
            assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));
        }
        is_damaged(|manifest| manifest.retained.push(SegmentEntry { id: 2, state: RETAINED, ..ENTRY }));
        let beyond = SegmentState::Retained { len_bytes: 100, records: 90, commits: 66 };
        assert!(manifest.check_entry(&SegmentEntry { id: 2, state: beyond, ..ENTRY }).is_err(), "seqs that come later");
        is_damaged(|manifest| manifest.segments.insert(0, SegmentEntry { state: RETAINED, ..ENTRY }));
    }

    #[test]
    fn what_is_retained_is_not_part_of_the_history_of_a_copy() {
        let (mut manifest, _) = edited();
        assert_eq!(manifest.history_of_content().complete_after, 3);
        manifest.retained.push(SegmentEntry { state: RETAINED, ..ENTRY });
        assert_eq!((manifest.history_of_content().complete_after, manifest.history.complete_after), (3, 3));
        manifest.retained[0].base_seq = 8;
        assert_eq!((manifest.history_of_content().complete_after, manifest.history.complete_after), (8, 3));
    }

    /// A whole manifest with this change is damaged.
    fn is_damaged(change: fn(&mut Manifest)) {
        let (mut manifest, _) = edited();
        change(&mut manifest);
        let found = Manifest::decode(&manifest.encode());
        assert!(matches!(found, Err(ManifestError::Damaged { .. })), "{found:?}");
    }

    #[test]
    fn histories_that_a_store_cannot_have_are_damage() {
        is_damaged(|manifest| manifest.history.complete_after = 66);
        is_damaged(|manifest| manifest.history.lost = vec![LostCommits { from: 0, to: 5 }]);
        is_damaged(|manifest| manifest.history.lost = vec![LostCommits { from: 5, to: 5 }]);
        is_damaged(|manifest| manifest.history.lost = vec![LostCommits { from: 5, to: 67 }]);
        is_damaged(|manifest| manifest.history.lost = [4, 5].map(|from| LostCommits { from, to: 6 }).to_vec());
        is_damaged(|manifest| {
            manifest.segments[0].state = SegmentState::Sealed { len_bytes: 100, records: 2, commits: 3 };
        });
    }

    #[test]
    fn edits_are_replayed_and_a_torn_one_at_the_end_is_not() {
        let (manifest, bytes) = edited();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
        assert_eq!(manifest.segments.iter().map(|entry| entry.id).collect::<Vec<_>>(), [2]);
        assert_eq!((manifest.generation, manifest.next_seq, manifest.max_version), (3, 66, 7));
        let (base, first) = (Manifest::decode(&bytes[..124]).unwrap(), Manifest::decode(&bytes[..248]).unwrap());
        assert_eq!((base.segments.len(), first.segments.as_slice()), (0, &[ENTRY][..]));
        for len in 124..bytes.len() {
            let expected = if len < 248 { &base } else { &first };
            assert_eq!(Manifest::decode(&bytes[..len]).as_ref(), Ok(expected), "cut at {len}");
        }
    }

    #[test]
    fn an_edit_counts_in_its_place_alone() {
        let (_, bytes) = edited();
        let refused = |bytes: Vec<u8>, at: u64| {
            let found = Manifest::decode(&bytes);
            assert!(matches!(found, Err(ManifestError::Damaged { offset, .. }) if offset == at), "{found:?}");
        };
        let mut bent = bytes.clone();
        bent[148] ^= 1;
        refused(bent, 124);
        // At another offset, or after another manifest, the bytes are not an edit.
        let twice = [&bytes[..], &bytes[248..]].concat();
        assert_eq!(Manifest::decode(&twice), Manifest::decode(&bytes));
        let other = [&Manifest::new([0xcd; 16]).encode()[..], &bytes[124..]].concat();
        assert_eq!(Manifest::decode(&other), Ok(Manifest::new([0xcd; 16])));
    }

    #[test]
    fn an_edit_that_is_too_long_is_none() {
        let edit = ManifestEdit { remove: (1..20_000).collect(), ..ManifestEdit::default() };
        let manifest = Manifest::new([0; 16]);
        assert_eq!(edit.encode(manifest.heading_after(&edit), 0, 124), None);
    }

    #[test]
    fn the_list_of_tables_is_read_as_it_was_written() {
        let (manifest, bytes) = edited();
        assert_eq!((&manifest.tables, manifest.next_table_id), (&tables(), 6));
        let whole = manifest.encode();
        assert_eq!(Manifest::decode(&whole), Ok(manifest.clone()));
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
    }

    #[test]
    fn tables_that_a_store_cannot_have_are_damage() {
        is_damaged(|manifest| manifest.tables.newest_first[0].id = 3);
        is_damaged(|manifest| manifest.tables.newest_first[0].id = 0);
        is_damaged(|manifest| manifest.next_table_id = 5);
        is_damaged(|manifest| manifest.tables.newest_first.clear());
        is_damaged(|manifest| manifest.tables.covered = CoveredPosition::default());
        is_damaged(|manifest| manifest.tables.covered.segment = 3);
        is_damaged(|manifest| manifest.tables.covered.compacted_below = 4);
        is_damaged(|manifest| manifest.tables.covered.offset = 63);
        is_damaged(|manifest| manifest.tables.covered.next_seq = 67);
        // An edit with such a list is also refused.
        let mut first = Manifest::new([0xab; 16]);
        first.next_segment_id = 3;
        let mut bytes = first.encode();
        let check = u32::from_le_bytes(*bytes.last_chunk().unwrap());
        let edit = ManifestEdit { tables: Some(tables()), ..ManifestEdit::default() };
        bytes.extend(edit.encode(first.heading_after(&edit), check, bytes.len() as u64).unwrap());
        let found = Manifest::decode(&bytes);
        assert!(matches!(found, Err(ManifestError::Damaged { offset: 124, .. })), "covered past the end: {found:?}");
    }
}
