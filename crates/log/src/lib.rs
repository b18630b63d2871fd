//! The bytes of the Hightower KV log: commands, records and segment headers.
//!
//! A log is a sequence of *segments*. A segment is a 64-byte [`SegmentHeader`] followed by
//! *records*. A record contains one [`Command`], or ends the segment. This crate encodes and
//! decodes records. It does no I/O, has no state, does not allocate while decoding, and never
//! panics on any input.
//!
//! Tests and golden vectors check three properties:
//!
//! * decoding an encoded record returns the command, and encoding it again returns the same bytes
//!   (each command has one encoding);
//! * a record with a flipped bit or a missing byte, at another offset or in another segment, is an
//!   error, never another record;
//! * lengths are checked against the limits and the available bytes before the content is read.
//!
//! The byte-exact description is in the project's `docs/FORMAT.md`.
//!
//! # Example
//!
//! ```
//! use hightower_log::{Command, Placement, RecordBody, SegmentHeader, SegmentKind, decode, encode};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let header = SegmentHeader {
//!     id: 1,
//!     kind: SegmentKind::Append,
//!     features: 0,
//!     salt: 0x5eed,
//!     base_seq: 1,
//!     base_version: 1,
//!     base_timestamp: 1_700_000_000_000,
//!     created_ms: 1_700_000_000_000,
//! };
//! let context = header.context();
//! let mut segment = header.encode().to_vec();
//!
//! let command = Command::Set {
//!     key: b"pods/default/web-0".to_vec(),
//!     value: b"running".to_vec(),
//!     version: 1,
//!     timestamp: 1_700_000_000_250,
//! };
//! let offset = u32::try_from(segment.len())?;
//! let placement = Placement::Appended { durable: 0, continues: false };
//! encode(&mut segment, &context, offset, &command.borrow(), placement)?;
//!
//! let record = decode(&segment[offset as usize..], &context, offset)?;
//! assert_eq!(record.body, RecordBody::Command(command.borrow()));
//! # Ok(())
//! # }
//! ```
//!
//! # What it is not
//!
//! It reads no files, knows only one bit about commits (more records follow), and does not decide
//! which of two commands wins. `hightower-segment` has the files, `hightower-state` the rules.
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | keys of 1 to 65,535 bytes, values up to 1 GiB, commits of up to 65,536 commands, segments below 4 GiB |
//! | durability | none: it writes into your buffer |
//! | memory | the caller's buffers; decoding borrows |
//! | threads | every function is pure; all types are `Send` and `Sync` |
//! | features | none |
//! | format | version 1. Golden bytes pin it, an unknown version or kind of record is an error, and every released version stays readable |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod checksum;
mod command;
mod error;
mod header;
pub mod limits;
mod record;

use hightower_seams::mutants;

pub use checksum::payload_checksum;
pub use command::{Command, CommandRef};
pub use error::{DecodeError, EncodeError, Field};
pub use header::{FORMAT_VERSION, RecordContext, SegmentHeader, SegmentKind};
pub use record::{
    MAX_HEAD_LEN_BYTES, Placement, Probe, Record, RecordBody, RecordHead, SetValue, decode, decode_value, encode,
    encode_head, encode_seal, encoded_len, probe,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
