//! Writing a checkpoint, while writes go on.
//!
//! Under the commit lock, for a moment: a snapshot of the state, and how far each segment reaches.
//! Then the log is synced, so that what the checkpoint points to is durable, and the snapshot is
//! written out in key order to a file that counts only once it is whole, synced, renamed, and named
//! in the manifest.

use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use hightower_index::pin;
use hightower_seams::Entropy;
use hightower_segment::{CHECKPOINT_SUFFIX, File, SegmentStore};
use hightower_state::CommandKind;

use crate::checkpoint::block::{BlockEntry, BlockWriter, EntryValue};
use crate::checkpoint::codec::{BLOCK_ENTRIES, BLOCK_INDEX_LEN, CheckpointHeader, Covered, HEADER_LEN};
use crate::commit_log::CommitLock;
use crate::components::Components;
use crate::error::{Error, Result};
use crate::files::{io_error, remove_if_there, sync_data, sync_dir, write_at};
use crate::maintenance::{Maintenance, NamedCheckpoint, Turn};
use crate::observe::{Operation, observe};
use crate::open_store::OpenStore;
use crate::place::Place;
use crate::quota::DiskQuota;
use crate::read_path::ReadPath;
use crate::sync_path::SyncPath;

/// Bytes are written in pieces of about this many.
const BUFFER_LEN_BYTES: usize = 256 << 10;

/// What a checkpoint is to hold.
pub(crate) struct Moment {
    pub(crate) state: hightower_state::StateSnapshot<Place>,
    pub(crate) max_version: u64,
    pub(crate) covered: Vec<Covered>,
}

/// Writes index checkpoints: its methods take the data of the turn's holder.
#[derive(Debug)]
pub(crate) struct CheckpointWriter {
    entropy: Arc<dyn Entropy>,
    read: Arc<ReadPath>,
    log: Arc<CommitLock>,
    store: Arc<OpenStore>,
    sync: Arc<SyncPath>,
    quota: Arc<DiskQuota>,
    maintenance: Arc<Maintenance>,
}

/// The parts of a store that [`CheckpointWriter`] works with.
#[derive(Debug)]
pub(crate) struct CheckpointParts<'a> {
    pub(crate) read: &'a Arc<ReadPath>,
    pub(crate) log: &'a Arc<CommitLock>,
    pub(crate) store: &'a Arc<OpenStore>,
    pub(crate) sync: &'a Arc<SyncPath>,
    pub(crate) quota: &'a Arc<DiskQuota>,
    pub(crate) maintenance: &'a Arc<Maintenance>,
}

impl CheckpointWriter {
    pub(crate) fn new(components: &Components, parts: &CheckpointParts<'_>) -> Self {
        Self {
            entropy: Arc::clone(&components.entropy),
            read: Arc::clone(parts.read),
            log: Arc::clone(parts.log),
            store: Arc::clone(parts.store),
            sync: Arc::clone(parts.sync),
            quota: Arc::clone(parts.quota),
            maintenance: Arc::clone(parts.maintenance),
        }
    }

    /// Writes a checkpoint, unless the newest one holds the same already.
    pub(crate) fn write(&self, turn: &mut Turn) -> Result<()> {
        observe(Operation::Checkpoint, || self.write_unobserved(turn))
    }

    fn write_unobserved(&self, turn: &mut Turn) -> Result<()> {
        let store = self.store.in_use()?;
        let runs = self.maintenance.stats().runs;
        let seq = self.read.index.visible_seq();
        if turn.checkpoint.as_ref().is_some_and(|newest| (newest.seq, newest.runs) == (seq, runs)) {
            return Ok(());
        }
        // What is left of a full device is for compaction first.
        if !store.refill_reserves()? {
            let detail = "there is no room for an index checkpoint beside what deletes and compaction need".to_owned();
            return Err(Error::Full { detail });
        }
        let moment = self.moment()?;
        let seq = moment.state.seq();
        self.sync.sync_to(seq)?;
        let random = self
            .entropy
            .next_u64()
            .map_err(|source| io_error("draw a random number for", store.dir().path(), source))?;
        let name = format!("index-{seq:020}-{:08x}{CHECKPOINT_SUFFIX}", random >> 32);
        let len_bytes = self.write_file(&store, &name, moment)?;
        if let Err(failure) = store.set_checkpoint(Some(&name)) {
            if !store.is_poisoned() {
                // Certainly not named: it goes at once, since room may be short. The first failure
                // is the one to report.
                let _removed = store.dir().remove_file(&name);
            }
            return Err(failure.into());
        }
        self.quota.set_checkpoint_bytes(len_bytes);
        self.maintenance.note(|stats| stats.checkpoints += 1);
        if let Some(old) = turn.checkpoint.replace(NamedCheckpoint { name, seq, runs }) {
            remove_if_there(store.dir().as_ref(), &old.name)?;
        }
        Ok(())
    }

    /// As [`write`](Self::write), where the store is as whole without it: if there is no room for
    /// it, gives the reason instead of an error.
    pub(crate) fn try_write(&self, turn: &mut Turn) -> Result<Option<String>> {
        match self.write(turn) {
            Ok(()) => Ok(None),
            Err(Error::Full { detail }) => Ok(Some(detail)),
            Err(failure) => Err(failure),
        }
    }

    fn moment(&self) -> Result<Moment> {
        let log = self.log.lock()?;
        let state = self.read.index.state(&pin())?.snapshot();
        let max_version = log.max_version;
        let covered = self.read.segments.all().into_iter().map(|tracked| Covered {
            id: tracked.segment.id(),
            len_bytes: tracked.segment.len_bytes(),
            salt: tracked.segment.header().salt,
            live_records: tracked.live_records(),
            live_bytes: tracked.live_bytes(),
            tombstone_bytes: tracked.tombstone_bytes(),
        });
        Ok(Moment { state, max_version, covered: covered.collect() })
    }

    /// Writes the file under its name, durably, and gives its length. A failure leaves nothing
    /// behind that counts.
    fn write_file(&self, store: &SegmentStore, name: &str, moment: Moment) -> Result<u64> {
        let tmp = format!("{name}.tmp");
        let dir = store.dir();
        let path = dir.path().join(&tmp);
        let written = dir
            .create_new(&tmp)
            .map_err(|source| io_error("create", &path, source))
            .and_then(|file| write_all(Sink::new(file, path.clone()), store.manifest().store_id, moment))
            .and_then(|len| dir.rename(&tmp, name).map(|()| len).map_err(|source| io_error("rename", &path, source)))
            .and_then(|len| sync_dir(dir.as_ref()).map(|()| len));
        if written.is_err() {
            // The first failure is the one to tell of; the next open removes what is left.
            let _removed = dir.remove_file(&tmp);
        }
        written
    }
}

/// A file that is written from front to back.
pub(crate) struct Sink {
    file: Arc<dyn File>,
    path: PathBuf,
    buffer: Vec<u8>,
    flushed: u64,
}

impl Sink {
    pub(crate) fn new(file: Arc<dyn File>, path: PathBuf) -> Self {
        Self { file, path, buffer: Vec::with_capacity(BUFFER_LEN_BYTES), flushed: 0 }
    }

    fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER_LEN_BYTES {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        write_at(&*self.file, &self.path, &self.buffer, self.flushed)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// The block that is being filled, and what is known of those before it.
#[derive(Default)]
struct Blocks {
    block: BlockWriter,
    bytes: Vec<u8>,
    index: Vec<u8>,
    count: u64,
}

impl Blocks {
    fn add(&mut self, sink: &mut Sink, entry: &BlockEntry<'_>) -> Result<()> {
        self.block.add(entry);
        self.count += 1;
        if self.block.count() == BLOCK_ENTRIES { self.end_block(sink) } else { Ok(()) }
    }

    fn end_block(&mut self, sink: &mut Sink) -> Result<()> {
        if self.block.count() == 0 {
            return Ok(());
        }
        self.bytes.clear();
        self.block.end_block(&mut self.bytes);
        let bytes = &self.bytes;
        // 128 keys of at most 64 KiB.
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut row = [0; BLOCK_INDEX_LEN];
        row[0..8].copy_from_slice(&sink.position().to_le_bytes());
        row[8..12].copy_from_slice(&len.to_le_bytes());
        row[12..16].copy_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        self.index.extend_from_slice(&row);
        sink.put(bytes)
    }
}

/// Which of the covered segments, in ascending order of their ids, has this id. `guess` is what the
/// answer was last time.
fn covered_by(covered: &[Covered], id: u32, guess: usize) -> Result<usize> {
    if covered.get(guess).is_some_and(|covered| covered.id == id) {
        return Ok(guess);
    }
    let found = covered.binary_search_by_key(&id, |covered| covered.id);
    found.map_err(|_| Error::Internal(format!("checkpoint: segment {id} is not in the table").into()))
}

pub(crate) fn write_all(mut sink: Sink, store_id: [u8; 16], moment: Moment) -> Result<u64> {
    let Moment { state, max_version, covered } = moment;
    sink.put(&[0; HEADER_LEN])?;
    let mut blocks = Blocks::default();
    let mut entries = state.entries(Bound::Unbounded, Bound::Unbounded);
    let mut at = 0;
    loop {
        let guard = pin();
        let Some((key, record)) = entries.next_pinned(&guard) else { break };
        let Place { segment, offset } = record.location;
        at = covered_by(&covered, segment, at)?;
        let is_tombstone = record.kind == CommandKind::Delete;
        let value =
            EntryValue { version: record.version, covered: at, offset, len_bytes: record.len_bytes, is_tombstone };
        blocks.add(&mut sink, &BlockEntry { key, value })?;
    }
    blocks.end_block(&mut sink)?;
    let segments_at = sink.position();
    let segments: Vec<u8> = covered.iter().flat_map(Covered::encode).collect();
    sink.put(&segments)?;
    let index_at = sink.position();
    sink.put(&blocks.index)?;
    let mut index_check = crc32fast::Hasher::new();
    index_check.update(&segments);
    index_check.update(&blocks.index);
    let header = CheckpointHeader {
        store_id,
        seq: state.seq(),
        max_version,
        entries: blocks.count,
        segments: u32::try_from(covered.len()).unwrap_or(u32::MAX),
        segments_at,
        index_at,
        file_len: sink.position(),
        index_check: index_check.finalize(),
    };
    sink.flush()?;
    write_at(&*sink.file, &sink.path, &header.encode(), 0)?;
    sync_data(&*sink.file, &sink.path)?;
    Ok(header.file_len)
}
