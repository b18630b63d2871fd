//! Locations as the pointers of tables: the segment above the lowest 32 bits, the offset in them.

use hightower_table::{EntryKind, RecordPointer, TableEntry};

use crate::change::EntryRecord;
use crate::location::{Location, LocationBits};
use crate::outcome::CommandKind;

/// The location of a pointer; `None` if its segment is none of a location, 2^30 or more.
pub(crate) fn location_of<L: Location>(pointer: RecordPointer) -> Option<L> {
    LocationBits::new(u64::from(pointer.segment) << 32 | u64::from(pointer.offset)).map(L::from_bits)
}

/// The pointer of a location.
pub(crate) fn pointer_of<L: Location>(location: L) -> RecordPointer {
    let bits = location.to_bits().get();
    #[allow(clippy::cast_possible_truncation, reason = "the halves of a 62-bit number")]
    RecordPointer { segment: (bits >> 32) as u32, offset: bits as u32 }
}

/// The entry of a record, for a table.
pub(crate) fn entry_of<L: Location>(record: &EntryRecord<L>) -> TableEntry {
    let kind = match record.kind {
        CommandKind::Set => EntryKind::Set,
        CommandKind::Delete => EntryKind::Tombstone,
    };
    TableEntry { version: record.version, kind, pointer: pointer_of(record.location), len_bytes: record.len_bytes }
}

/// The record of a table's entry; `None` if its pointer is none of a location.
pub(crate) fn record_of<L: Location>(entry: &TableEntry) -> Option<EntryRecord<L>> {
    let kind = if entry.is_tombstone() { CommandKind::Delete } else { CommandKind::Set };
    let location = location_of(entry.pointer)?;
    Some(EntryRecord { location, version: entry.version, kind, len_bytes: entry.len_bytes })
}
