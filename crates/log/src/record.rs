//! Records: the encoding of one command, or of the end of a segment.
//!
//! ```text
//! check u32 | kind+flags u8 | widths u8 | key_len u8/u16 | value_len | version | timestamp | durable u32 | head check u16 | key | value
//!                                                         └ as wide as `widths` says ┘     └ not in relocated records ┘
//! ```
//!
//! A put of a 16-byte key and a 100-byte value costs 20 bytes; a fixed layout would take 36. A
//! command has exactly one encoding at a given place: numbers have the smallest width, and decoding
//! refuses any other.

mod decode;
mod encode;
mod value;

pub use decode::{Probe, decode, probe};
pub use encode::{RecordHead, encode, encode_head, encode_seal, encoded_len};
pub use value::{SetValue, decode_value};

use crate::command::CommandRef;

/// The longest head of a record (the fields before the key), in bytes.
pub const MAX_HEAD_LEN_BYTES: usize = 34;

const KIND_SET: u8 = 1;
const KIND_DELETE: u8 = 2;
const KIND_SEAL: u8 = 3;

const KIND_MASK: u8 = 0x0f;
/// More records of the same commit follow.
const FLAG_CONTINUES: u8 = 0x10;
/// Written by compaction: no durable offset, no head check.
const FLAG_RELOCATED: u8 = 0x20;
/// The key's length takes two bytes.
const FLAG_LONG_KEY: u8 = 0x40;
/// Must be zero in this format version.
const FLAG_RESERVED: u8 = 0x80;

const KIND_AT: usize = 4;
const WIDTHS_AT: usize = 5;
const KEY_LEN_AT: usize = 6;
/// The durable offset and the head check at the end of an appended record's head.
const APPENDED_TAIL_LEN_BYTES: usize = 6;

/// The kind of writer of a record, with its facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A commit, at the tail of the active segment.
    Appended {
        /// The offset in this segment up to which the writer knew all bytes to be durable; 0 while
        /// the previous segment was not known to be durable. At most the record's own offset.
        durable: u32,
        /// Whether more records of the same commit follow.
        continues: bool,
    },
    /// Compaction, into a segment that takes effect when it is complete and synced.
    Relocated,
}

/// The content of a record. The layers match it exhaustively, so that none of them can forget a new
/// kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordBody<'a> {
    /// A committed command.
    Command(CommandRef<'a>),
    /// The end of the segment. The next commit is in the next segment.
    Seal {
        /// The highest version seen by the store.
        max_version: u64,
        /// The time of the seal: Unix time in milliseconds.
        timestamp: i64,
    },
}

/// A decoded record, which borrows from the decoded bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The content of the record.
    pub body: RecordBody<'a>,
    /// Its kind of writer, and for an appended record the durable offset.
    pub placement: Placement,
    /// The length of the record, in bytes; the next record starts behind it.
    pub len: u32,
}

impl<'a> Record<'a> {
    /// The command, unless the record is a seal.
    #[must_use]
    pub fn command(&self) -> Option<CommandRef<'a>> {
        match self.body {
            RecordBody::Command(command) => Some(command),
            RecordBody::Seal { .. } => None,
        }
    }

    /// Whether more records of the same commit follow.
    #[must_use]
    pub fn continues(&self) -> bool {
        matches!(self.placement, Placement::Appended { continues: true, .. })
    }

    /// The durable offset of the segment at the write of the record; `None` for relocated records.
    #[must_use]
    pub fn durable(&self) -> Option<u32> {
        match self.placement {
            Placement::Appended { durable, .. } => Some(durable),
            Placement::Relocated => None,
        }
    }
}

/// The number of bytes that `number` needs, at least one.
fn width(number: u64) -> usize {
    let bits = 64 - number.leading_zeros() as usize;
    bits.div_ceil(8).max(1)
}
