//! The end of a table: the offsets of its parts, its counts, its least and its greatest key.

use std::ops::Range;

use crate::checksum::Salt;
use crate::entry::SegmentCounts;
use crate::error::{Damaged, damaged};
use crate::header::HEADER_LEN;
use crate::line::{LINE_LEN, LineShape};
use crate::list_line;

const MAGIC: [u8; 8] = *b"HTKVTBF\n";
/// The length of the trailer: the last bytes of the file, after the keys and the rows of segments.
pub(crate) const TRAILER_LEN: usize = 128;
const ROW_LEN: usize = 32;
/// The maximum number of node levels above the leaves: enough for all leaves of the longest file,
/// even with two children per node.
pub(crate) const MAX_LEVEL: u8 = 48;

/// The footer, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) keys: u64,
    pub(crate) tombstones: u64,
    pub(crate) max_version: u64,
    /// The end of the leaves, which begin after the header.
    pub(crate) leaves_end: u64,
    pub(crate) last_leaf: u64,
    pub(crate) root: u64,
    pub(crate) root_level: u8,
    pub(crate) points_at: u64,
    pub(crate) list_at: u64,
    pub(crate) listed: u64,
    pub(crate) shape: LineShape,
    pub(crate) min_key: Vec<u8>,
    pub(crate) max_key: Vec<u8>,
    /// In ascending order of their numbers.
    pub(crate) segments: Vec<SegmentCounts>,
    /// The offset of the footer.
    pub(crate) at: u64,
}

impl Footer {
    /// The bytes from `at` to the end of the file.
    pub(crate) fn encode(&self, salt: Salt) -> Vec<u8> {
        let mut bytes = [&self.min_key[..], &self.max_key[..]].concat();
        for row in &self.segments {
            bytes.extend_from_slice(&row.segment.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            for number in [row.entries, row.len_bytes, row.tombstones] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        let file_len = self.at + (bytes.len() + TRAILER_LEN) as u64;
        bytes.extend_from_slice(&MAGIC);
        let places = [file_len, self.at, self.keys, self.tombstones, self.max_version, self.leaves_end, self.last_leaf];
        let more = [self.root, self.points_at, self.shape.lines, self.list_at, self.listed];
        for number in places.iter().chain(&more) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&u32::try_from(self.segments.len()).unwrap_or(u32::MAX).to_le_bytes());
        for key in [&self.min_key, &self.max_key] {
            bytes.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
        }
        let shape = &self.shape;
        bytes.extend([self.root_level, shape.slots, shape.fingerprint_bits, shape.segment_bits, shape.offset_bits]);
        bytes.extend([0; 3]);
        let check = salt.long_check(self.at, &bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads and checks the end of a whole file.
    pub(crate) fn decode(file: &[u8], salt: Salt) -> Result<Self, Damaged> {
        let end = file.len() as u64;
        let Some(trailer) = file.get(HEADER_LEN..).and_then(|rest| rest.last_chunk::<TRAILER_LEN>()) else {
            return Err(damaged(end, "a truncated file"));
        };
        let trailer_at = end - TRAILER_LEN as u64;
        let (words, _) = trailer.as_chunks::<8>();
        let word = |place: usize| words.get(place).map_or(0, |word| u64::from_le_bytes(*word));
        if trailer.first_chunk() != Some(&MAGIC) {
            return Err(damaged(trailer_at, "it does not end as a table does"));
        }
        let [s0, s1, s2, s3, min0, min1, max0, max1] = word(13).to_le_bytes();
        let (min_len, max_len) = (u16::from_le_bytes([min0, min1]), u16::from_le_bytes([max0, max1]));
        let (min_len, max_len) = (usize::from(min_len), usize::from(max_len));
        let rows = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
        let (file_len, at) = (word(1), word(2));
        let parts_len = rows.checked_mul(ROW_LEN).and_then(|len| len.checked_add(min_len + max_len));
        let Some(bytes) = usize::try_from(at).ok().and_then(|at| file.get(at..)) else {
            return Err(damaged(trailer_at, "a footer that begins beyond the end"));
        };
        if file_len != end || parts_len.and_then(|len| len.checked_add(TRAILER_LEN)) != Some(bytes.len()) {
            return Err(damaged(trailer_at, "a length that differs from the stated one"));
        }
        let (checked, check) = bytes.split_at(bytes.len() - 8);
        if salt.long_check(at, checked) != word(15) || check.len() != 8 {
            return Err(damaged(trailer_at, "wrong checksum of the footer"));
        }
        let (min_key, rest) = bytes.split_at(min_len);
        let (max_key, rest) = rest.split_at(max_len);
        let segments = rest.as_chunks::<ROW_LEN>().0.iter().take(rows).map(row).collect::<Option<Vec<_>>>();
        let [root_level, slots, fingerprint_bits, segment_bits, offset_bits, zeros @ ..] = word(14).to_le_bytes();
        let shape = LineShape { lines: word(10), slots, fingerprint_bits, segment_bits, offset_bits };
        let footer = Self {
            keys: word(3),
            tombstones: word(4),
            max_version: word(5),
            leaves_end: word(6),
            last_leaf: word(7),
            root: word(8),
            root_level,
            points_at: word(9),
            list_at: word(11),
            listed: word(12),
            shape,
            min_key: min_key.to_vec(),
            max_key: max_key.to_vec(),
            segments: segments.ok_or_else(|| damaged(at, "a row of a segment with bytes that are not zero"))?,
            at,
        };
        if zeros != [0; 3] || !footer.is_possible() {
            return Err(damaged(trailer_at, "parts that do not fit together"));
        }
        Ok(footer)
    }

    /// Whether the offsets of all parts are possible, and the counts agree.
    fn is_possible(&self) -> bool {
        let line = LINE_LEN as u64;
        let lines_len = self.shape.lines.checked_add(1).and_then(|lines| lines.checked_mul(line));
        let list_len = self.listed.div_ceil(list_line::ENTRIES as u64).checked_mul(line);
        let in_order = self.leaves_end >= HEADER_LEN as u64
            && self.leaves_end <= self.points_at
            && self.points_at.is_multiple_of(line)
            && lines_len.and_then(|len| len.checked_add(self.points_at)) == Some(self.list_at)
            && list_len.and_then(|len| len.checked_add(self.list_at)) == Some(self.at);
        let sum = |count: fn(&SegmentCounts) -> u64| {
            self.segments.iter().try_fold(0_u64, |sum, segment| sum.checked_add(count(segment)))
        };
        let counts = sum(|segment| segment.entries) == Some(self.keys)
            && sum(|segment| segment.tombstones) == Some(self.tombstones)
            && self.segments.is_sorted_by(|before, after| before.segment < after.segment)
            && self.segments.iter().all(|segment| segment.entries > 0 && segment.tombstones <= segment.entries);
        let blocks = if self.keys == 0 {
            self.root_level == 0 && self.leaves_end == HEADER_LEN as u64 && self.listed == 0
        } else {
            let last_leaf = self.leaves().contains(&self.last_leaf);
            last_leaf && self.root_level <= MAX_LEVEL && self.area(self.root_level).contains(&self.root)
        };
        in_order && counts && blocks && self.min_key <= self.max_key && self.shape.is_possible(self.segments.len())
    }

    /// The offsets of the leaves.
    pub(crate) fn leaves(&self) -> Range<u64> {
        HEADER_LEN as u64..self.leaves_end
    }

    /// The offsets of the blocks of this level.
    pub(crate) fn area(&self, level: u8) -> Range<u64> {
        if level == 0 { self.leaves() } else { self.leaves_end..self.points_at }
    }

    /// Whether these bytes, from between the index and the lines, are valid padding: zeros, fewer
    /// than a line.
    pub(crate) fn is_padding(bytes: &[u8]) -> bool {
        bytes.len() < LINE_LEN && bytes.iter().all(|byte| *byte == 0)
    }
}

fn row(bytes: &[u8; ROW_LEN]) -> Option<SegmentCounts> {
    let (words, _) = bytes.as_chunks::<8>();
    let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
    let segment = u32::try_from(words.next()?).ok()?;
    Some(SegmentCounts { segment, entries: words.next()?, len_bytes: words.next()?, tombstones: words.next()? })
}
