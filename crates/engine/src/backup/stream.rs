//! The export stream of a store, described in `docs/FORMAT.md`.
//!
//! The stream has frames of several records, each with a number, a length and checksums, so that
//! missing, duplicate, misplaced and damaged frames are detected. The last frame has the totals, so
//! that a truncated stream is detected.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::path::Path;

use hightower_index::pin;
use hightower_log::limits::{MAX_KEY_LEN_BYTES, MAX_VALUE_LEN_BYTES};
use hightower_log::{Command, MAX_HEAD_LEN_BYTES, Placement, RecordContext, decode, encode};
use hightower_seams::Entropy;

use crate::backup::destination::Destination;
use crate::batch::Batch;
use crate::commit_log::CommitLock;
use crate::components::Components;
use crate::engine::SingleNodeEngine;
use crate::error::{Error, Result};
use crate::open_store::OpenStore;
use crate::read_path::ReadPath;
use crate::table::SequentialReads;
use crate::time::StoreTime;

const MAGIC: [u8; 8] = *b"HTKVEXP\n";
/// The version of streams, equal to that of their records.
const VERSION: u16 = hightower_log::FORMAT_VERSION;
const HEADER_LEN: usize = 64;
const FRAME_HEADER_LEN: usize = 24;
/// The length at which a frame ends, in bytes; the last record may exceed it.
const FRAME_BYTES: usize = 256 << 10;
/// The maximum length of a frame: one byte less than this length, and the largest record.
const MAX_FRAME_BYTES: usize = FRAME_BYTES + MAX_HEAD_LEN_BYTES + MAX_KEY_LEN_BYTES + MAX_VALUE_LEN_BYTES;
/// The offset of the first record in a frame, as in a segment.
const FIRST_OFFSET: u32 = 64;
/// The flag of the last frame in its number of records. The last frame has no records.
const LAST: u32 = 1 << 31;

/// The report of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportReport {
    /// The last commit in the stream; it has all earlier ones.
    pub seq: u64,
    /// Number of its keys, tombstones included.
    pub records: u64,
    /// Its length, in bytes.
    pub bytes: u64,
}

/// The report of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportReport {
    /// The seq of the export in the source store.
    pub seq: u64,
    /// Number of its keys, tombstones included.
    pub records: u64,
}

/// The base version and base timestamp, and the random salt of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StreamHeader {
    store_id: [u8; 16],
    seq: u64,
    max_version: u64,
    salt: u64,
    timestamp: i64,
}

impl StreamHeader {
    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..28].copy_from_slice(&self.store_id);
        bytes[28..36].copy_from_slice(&self.seq.to_le_bytes());
        bytes[36..44].copy_from_slice(&self.max_version.to_le_bytes());
        bytes[44..52].copy_from_slice(&self.salt.to_le_bytes());
        bytes[52..60].copy_from_slice(&self.timestamp.to_le_bytes());
        let check = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        if bytes.first_chunk() != Some(&MAGIC) {
            return Err(damaged(0, "it does not have the magic of an export"));
        }
        if crc32fast::hash(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(damaged(60, "wrong checksum of the header"));
        }
        let found = u32_at(bytes, 8);
        if found != u32::from(VERSION) {
            let detail =
                format!("the export has version {found:#x}, and this build reads version {VERSION}; use another build");
            return Err(Error::VersionUnsupported { path: "the stream".into(), detail });
        }
        let mut store_id = [0; 16];
        store_id.copy_from_slice(&bytes[12..28]);
        Ok(Self {
            store_id,
            seq: u64_at(bytes, 28),
            max_version: u64_at(bytes, 36),
            salt: u64_at(bytes, 44),
            timestamp: u64_at(bytes, 52).cast_signed(),
        })
    }

    /// The context for encoding the records of a frame; each frame has another one.
    fn context(&self, frame: u64) -> RecordContext {
        RecordContext::new(self.salt.wrapping_add(frame), self.max_version, self.timestamp)
    }
}

/// The head of a frame: its number, its length and its number of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FrameHeader {
    number: u64,
    len_bytes: u32,
    records: u32,
    check: u32,
}

impl FrameHeader {
    fn encode(&self, salt: u64) -> [u8; FRAME_HEADER_LEN] {
        let mut bytes = [0; FRAME_HEADER_LEN];
        bytes[0..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.records.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.check.to_le_bytes());
        let check = seeded(salt, &bytes[..20]);
        bytes[20..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; FRAME_HEADER_LEN], salt: u64, number: u64, at: u64) -> Result<Self> {
        if seeded(salt, &bytes[..20]) != u32_at(bytes, 20) {
            return Err(damaged(at, "wrong checksum of a frame's head"));
        }
        let found = Self {
            number: u64_at(bytes, 0),
            len_bytes: u32_at(bytes, 8),
            records: u32_at(bytes, 12),
            check: u32_at(bytes, 16),
        };
        if found.number != number {
            return Err(damaged(at, "a frame out of order"));
        }
        if found.len_bytes as usize > MAX_FRAME_BYTES {
            return Err(damaged(at, "a frame above the maximum length"));
        }
        Ok(found)
    }
}

fn seeded(salt: u64, bytes: &[u8]) -> u32 {
    let mut check = crc32fast::Hasher::new();
    check.update(&salt.to_le_bytes());
    check.update(bytes);
    check.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |found| u32::from_le_bytes(*found))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |found| u64::from_le_bytes(*found))
}

fn damaged(at: u64, what: &str) -> Error {
    let detail = format!("{what}; export it again");
    Error::Corrupt { path: "the stream".into(), offset: at, detail }
}

/// Collects records in frames and writes them.
struct FrameWriter<'a> {
    stream: &'a mut dyn Write,
    header: StreamHeader,
    number: u64,
    /// Room for the first offset, then records.
    frame: Vec<u8>,
    in_frame: u32,
    records: u64,
    bytes: u64,
}

impl FrameWriter<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.stream
            .write_all(bytes)
            .map_err(|source| Error::Io { action: "cannot write the export".into(), source: source.into() })
    }

    fn add(&mut self, command: hightower_log::CommandRef<'_>) -> Result<()> {
        let offset = FIRST_OFFSET + u32::try_from(self.frame.len()).unwrap_or(u32::MAX - FIRST_OFFSET);
        let context = self.header.context(self.number);
        encode(&mut self.frame, &context, offset, &command, Placement::Relocated)
            .map_err(|error| Error::Internal(error.to_string().into()))?;
        self.in_frame += 1;
        self.records += 1;
        if self.frame.len() >= FRAME_BYTES { self.end_frame() } else { Ok(()) }
    }

    fn end_frame(&mut self) -> Result<()> {
        if self.in_frame == 0 {
            return Ok(());
        }
        let frame = std::mem::take(&mut self.frame);
        let len_bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let head =
            FrameHeader { number: self.number, len_bytes, records: self.in_frame, check: crc32fast::hash(&frame) };
        self.put(&head.encode(self.header.salt))?;
        self.put(&frame)?;
        self.number += 1;
        self.in_frame = 0;
        self.frame = frame;
        self.frame.clear();
        self.frame.shrink_to(2 * FRAME_BYTES);
        Ok(())
    }

    fn finish(mut self) -> Result<u64> {
        self.end_frame()?;
        let total = self.records.to_le_bytes();
        let head = FrameHeader { number: self.number, len_bytes: 8, records: LAST, check: crc32fast::hash(&total) };
        self.put(&head.encode(self.header.salt))?;
        self.put(&total)?;
        self.stream
            .flush()
            .map_err(|source| Error::Io { action: "cannot write the export".into(), source: source.into() })?;
        Ok(self.bytes)
    }
}

/// The parts of a store that an export reads.
pub(crate) struct ExportSource<'a> {
    pub(crate) entropy: &'a dyn Entropy,
    pub(crate) time: &'a StoreTime,
    pub(crate) read: &'a ReadPath,
    pub(crate) log: &'a CommitLock,
    pub(crate) store: &'a OpenStore,
}

impl ExportSource<'_> {
    /// The identity of the store; zeros if it is open read-only.
    fn store_id(&self) -> Result<[u8; 16]> {
        match self.store.in_use() {
            Ok(store) => Ok(store.manifest().store_id),
            Err(Error::ReadOnly) => Ok([0; 16]),
            Err(error) => Err(error),
        }
    }

    /// Writes all current keys, tombstones included.
    pub(crate) fn export(&self, stream: &mut dyn Write) -> Result<ExportReport> {
        self.store.check_open()?;
        let snapshot = self.read.index.handle()?.snapshot();
        let salt = self.entropy.next_u64();
        let header = StreamHeader {
            store_id: self.store_id()?,
            seq: snapshot.seq(),
            max_version: self.log.max_version().max(self.read.index.max_version()),
            salt: salt
                .map_err(|source| Error::Io { action: "cannot draw a random number".into(), source: source.into() })?,
            timestamp: self.time.now_ms(),
        };
        let mut writer =
            FrameWriter { stream, header, number: 0, frame: Vec::new(), in_frame: 0, records: 0, bytes: 0 };
        writer.put(&header.encode())?;
        let mut entries = snapshot.entries(Bound::Unbounded, Bound::Unbounded);
        let mut order = SequentialReads::default();
        let order = RefCell::new(&mut order);
        loop {
            let guard = pin();
            let ahead = |place| self.read.prefetch_in_order(place, &order, &guard);
            let Some((_, entry)) = entries.next_pinned(&guard, ahead).map_err(|failure| self.read.noted(failure))?
            else {
                break;
            };
            self.read.read_record(entry.location, &guard, |command| writer.add(command))??;
        }
        let records = writer.records;
        Ok(ExportReport { seq: header.seq, records, bytes: writer.finish()? })
    }
}

/// Creates a store in `destination`, a new or empty directory, from an exported stream. A damaged
/// or truncated stream leaves the directory empty. Except for the index, the memory does not depend
/// on the number of keys.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use hightower_engine::{Components, SingleNodeEngine, StoreConfig, import_snapshot};
///
/// # let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path().join("kv")))?;
/// engine.put("key", "value")?;
/// let mut stream = Vec::new();
/// engine.export_snapshot(&mut stream)?;
/// let moved = dir.path().join("moved");
/// import_snapshot(&Components::default(), &mut &stream[..], &moved)?;
/// assert_eq!(SingleNodeEngine::open(&moved)?.get("key")?.unwrap(), b"value");
/// # Ok::<(), hightower_engine::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Corrupt`] with the place in the stream, [`Error::VersionUnsupported`],
/// [`Error::Conflict`] if the destination is not empty, [`Error::Full`], [`Error::Io`].
pub fn import_snapshot(
    components: &Components,
    stream: &mut dyn Read,
    destination: impl AsRef<Path>,
) -> Result<ImportReport> {
    let components = &components.guarded_once();
    let mut copy = Destination::begin(components, destination.as_ref())?;
    let engine = copy.open(components)?;
    let mut reader = FrameReader { stream, at: 0 };
    let report = reader.read_into(&engine)?;
    engine.close()?;
    drop(engine);
    copy.finish()?;
    Ok(report)
}

struct FrameReader<'a> {
    stream: &'a mut dyn Read,
    at: u64,
}

impl FrameReader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).map_err(|source| self.failed(source))?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// Reads `len` bytes, and allocates as they arrive: a wrong length costs no memory.
    fn bytes(&mut self, len: usize, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.clear();
        let mut limited = (&mut *self.stream).take(len as u64);
        let read = limited.read_to_end(buffer).map_err(|source| self.failed(source))?;
        if read < len {
            return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
        }
        self.at += len as u64;
        Ok(())
    }

    fn failed(&self, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return damaged(self.at, "it is truncated");
        }
        Error::Io { action: "cannot read the export".into(), source: source.into() }
    }

    fn read_into(&mut self, engine: &SingleNodeEngine) -> Result<ImportReport> {
        let header = StreamHeader::decode(&self.array()?)?;
        let mut report = ImportReport { seq: header.seq, records: 0 };
        let mut frame = Vec::new();
        for number in 0.. {
            let start = self.at;
            let head = FrameHeader::decode(&self.array()?, header.salt, number, start)?;
            self.bytes(head.len_bytes as usize, &mut frame)?;
            if crc32fast::hash(&frame) != head.check {
                return Err(damaged(start, "wrong checksum of a frame"));
            }
            if head.records == LAST {
                let total = u64_at(&frame, 0);
                return if total == report.records { Ok(report) } else { Err(damaged(start, "frames are missing")) };
            }
            report.records += commit_frame(engine, &frame, &header.context(number), head.records, start)?;
        }
        Ok(report)
    }
}

/// Commits the records of a frame, in batches.
fn commit_frame(
    engine: &SingleNodeEngine,
    frame: &[u8],
    context: &RecordContext,
    records: u32,
    start: u64,
) -> Result<u64> {
    let mut commands: Vec<Command> = Vec::new();
    let mut rest = frame;
    let mut count = 0;
    while !rest.is_empty() {
        let offset = FIRST_OFFSET + u32::try_from(frame.len() - rest.len()).unwrap_or(0);
        let record = decode(rest, context, offset).map_err(|error| damaged(start, &error.to_string()))?;
        commands.extend(record.command().map(|command| command.to_owned()));
        rest = rest.get(record.len as usize..).unwrap_or_default();
        count += 1;
        if commands.len() == 256 || rest.is_empty() {
            commit(engine, std::mem::take(&mut commands))?;
        }
    }
    if count == u64::from(records) {
        Ok(count)
    } else {
        Err(damaged(start, "the number of records in a frame differs from its head"))
    }
}

/// Commits them as one batch, or one by one if they are too large for one segment.
pub(crate) fn commit(engine: &SingleNodeEngine, commands: Vec<Command>) -> Result<()> {
    let len: u64 = commands.iter().map(|it| (it.key().len() + it.value().map_or(0, <[u8]>::len) + 64) as u64).sum();
    if len * 2 < engine.config().max_segment_size {
        return engine.commit(&Batch::copy_of(&commands)).map(drop);
    }
    commands.iter().try_for_each(|command| engine.commit(&Batch::copy_of([command])).map(drop))
}

#[cfg(test)]
mod tests {
    use super::{StreamHeader, VERSION, import_snapshot};
    use crate::{Components, Error};

    #[test]
    fn a_stream_of_another_version_is_refused() {
        let header =
            StreamHeader { store_id: [7; 16], seq: 9, max_version: 5_000, salt: 5, timestamp: 1_700_000_000_000 }
                .encode();
        assert!(StreamHeader::decode(&header).is_ok());
        let dir = tempfile::tempdir().unwrap();
        for version in [VERSION - 1, VERSION + 1] {
            let mut other = header;
            other[8..10].copy_from_slice(&version.to_le_bytes());
            let check = crc32fast::hash(&other[..60]);
            other[60..].copy_from_slice(&check.to_le_bytes());
            let moved = dir.path().join(version.to_string());
            let refused = import_snapshot(&Components::default(), &mut &other[..], &moved);
            assert!(matches!(refused, Err(Error::VersionUnsupported { .. })), "{refused:?}");
            assert_eq!(std::fs::read_dir(&moved).unwrap().count(), 0);
        }
    }
}
