//! The rebuild of damaged or missing tables from the log: one table of the newest record of each
//! key up to the covered position.
//!
//! The records are collected in a buffer of bounded length. When it is full, it is sorted and
//! written to a file, a run. The runs are tables too, but the manifest never names them: after a
//! crash they are garbage. The merge of the runs decides by the versions, not by the order of the
//! runs, because compaction moves old records into new segments.
//!
//! The result replaces all tables. It covers exactly what they covered, so the memtables above them
//! stay as they are.

use std::convert::Infallible;
use std::ops::{Bound, ControlFlow, Range};
use std::sync::Arc;

use hightower_log::SegmentHeader;
use hightower_seams::Entropy;
use hightower_segment::{CoveredPosition, Dir, NamedTable, NamedTables, Segment, SegmentError, SegmentRecord};
use hightower_table::{
    EntryKind, LevelMerge, MergeSource, RecordPointer, ScanDirection, TableEntry, TableError, TableRange, TableReader,
    TableWriter,
};

use crate::error::{Error, Result};
use crate::files::io_error;
use crate::load::{ABORTED, OpenPhase, OpenProgress, Watch};
use crate::mutants::planted;
use crate::table_files::{LIKELY_BYTES_PER_KEY, TakeId, WrittenTable, begin_table, open_written, remove_unnamed};

/// Memory for the records of a run, in bytes.
pub(crate) const RUN_BYTES: usize = 32 << 20;
/// Runs of one size that become one longer run. So the number of open files grows with the
/// logarithm of the log's length.
const RUNS_TOGETHER: usize = 16;
/// Number of records between two reports of progress.
const RECORDS_PER_REPORT: u64 = 16 << 10;

/// The parts of a store from which its tables are rebuilt.
pub(crate) struct TableRebuild<'a> {
    pub(crate) dir: &'a Arc<dyn Dir>,
    pub(crate) entropy: &'a dyn Entropy,
    /// All segments that the manifest names.
    pub(crate) segments: &'a [Arc<Segment>],
    /// The unusable tables, and the position that they cover.
    pub(crate) list: &'a NamedTables,
    /// Number of their records.
    pub(crate) records: u64,
    pub(crate) take_id: TakeId<'a>,
    /// The seed of the hash of keys, if it is known.
    pub(crate) hash_seed: Option<u64>,
    /// Memory for the records of a run, in bytes.
    pub(crate) run_bytes: usize,
}

impl TableRebuild<'_> {
    /// Writes the table, and opens it. The manifest does not name it yet.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if a record of the log is damaged, [`Error::Full`] without room for the
    /// table, [`Error::Aborted`] if `watch` breaks. No file is left.
    pub(crate) fn run(&self, watch: Watch<'_>) -> Result<WrittenTable> {
        self.check_room()?;
        let mut runs = Runs { job: self, rows: Rows::default(), spilled: Vec::new() };
        let total = self.segments.iter().map(|segment| u64::from(self.covered_len(segment))).sum();
        let mut meter = RebuildMeter { done: 0, total, records: 0, watch };
        for segment in self.segments {
            self.collect(segment, &mut runs, &mut meter)?;
        }
        runs.finish(&mut meter)
    }

    /// A table that filled the device would briefly take the room that the manifest may need. The
    /// runs have all records, and exist beside the table.
    fn check_room(&self) -> Result<()> {
        let room = self.dir.room().map_err(|source| io_error("ask for the free room of", self.dir.path(), source))?;
        if room.available_bytes < self.records.saturating_mul(LIKELY_BYTES_PER_KEY) && !planted("rebuild_fills_device")
        {
            return Err(Error::Full { detail: "there is no room for a table of the log".to_owned() });
        }
        Ok(())
    }

    /// The end of the records of a segment that the tables cover.
    fn covered_end(&self, segment: &Segment) -> u32 {
        let CoveredPosition { segment: last, .. } = self.list.covered;
        if planted("rebuild_reads_beyond_covered") {
            return u32::MAX;
        }
        if planted("rebuild_misses_the_last_segment") && segment.id() == last {
            return 0;
        }
        self.list.covered.end_in(segment.id(), segment.kind())
    }

    fn covered_len(&self, segment: &Segment) -> u32 {
        self.covered_end(segment).min(segment.len_bytes())
    }

    /// Adds the records of a segment that the tables cover.
    fn collect(&self, segment: &Segment, runs: &mut Runs<'_>, meter: &mut RebuildMeter<'_>) -> Result<()> {
        let end = self.covered_end(segment);
        if u64::from(end) <= SegmentHeader::LEN as u64 {
            return Ok(());
        }
        let done = meter.done;
        for record in segment.entries() {
            let record = match record {
                Ok(record) if record.offset < end => record,
                // What follows may be a commit that is being written.
                Ok(_) => break,
                Err(SegmentError::Corrupt { offset, .. }) if offset >= u64::from(end) => break,
                Err(failure) => return Err(failure.into()),
            };
            runs.add(segment.id(), &record, meter)?;
            meter.advance_to(done + u64::from(record.offset))?;
        }
        meter.done = done + u64::from(self.covered_len(segment));
        meter.report()
    }
}

/// The progress: the bytes of the log that were read.
struct RebuildMeter<'a> {
    done: u64,
    total: u64,
    records: u64,
    watch: Watch<'a>,
}

impl RebuildMeter<'_> {
    fn advance_to(&mut self, done: u64) -> Result<()> {
        self.records += 1;
        self.done = done;
        if self.records.is_multiple_of(RECORDS_PER_REPORT) { self.report() } else { Ok(()) }
    }

    fn report(&mut self) -> Result<()> {
        if self.flow().is_break() { Err(ABORTED) } else { Ok(()) }
    }

    fn flow(&mut self) -> ControlFlow<()> {
        (self.watch)(OpenProgress { phase: OpenPhase::Rebuild, done: self.done, total: self.total })
    }
}

/// The records that were read: the last of them in memory, the others in files.
struct Runs<'a> {
    job: &'a TableRebuild<'a>,
    rows: Rows,
    spilled: Vec<Run<'a>>,
}

/// Sorted records in a file of its own, which goes with it.
struct Run<'a> {
    dir: &'a dyn Dir,
    named: NamedTable,
    reader: Arc<TableReader>,
    /// How often its records were merged.
    depth: u32,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        remove_unnamed(self.dir, &self.named);
    }
}

impl<'a> Runs<'a> {
    fn add(&mut self, segment: u32, record: &SegmentRecord<'_>, meter: &mut RebuildMeter<'_>) -> Result<()> {
        let kind = if record.command.value().is_some() { EntryKind::Set } else { EntryKind::Tombstone };
        let pointer = RecordPointer { segment, offset: record.offset };
        let version = record.command.version();
        self.rows.push(record.command.key(), TableEntry { version, kind, pointer, len_bytes: record.len_bytes });
        if self.rows.memory_bytes() < self.job.run_bytes {
            return Ok(());
        }
        self.spill(meter)?;
        // A merge of equally long runs, and then perhaps of the longer ones that it makes.
        while let Some(depth) = self.depth_of_equal_runs() {
            let merged = self.spilled.split_off(self.spilled.len().saturating_sub(RUNS_TOGETHER));
            let table = self.write_merged(&merged, meter)?;
            self.note_run(table, depth + 1);
        }
        Ok(())
    }

    /// The depth of the last runs, if enough of one depth are there.
    fn depth_of_equal_runs(&self) -> Option<u32> {
        let first = self.spilled.len().checked_sub(RUNS_TOGETHER)?;
        let last = self.spilled.get(first..)?;
        let depth = last.first()?.depth;
        last.iter().all(|run| run.depth == depth).then_some(depth)
    }

    /// Writes the records in memory to a run.
    fn spill(&mut self, meter: &mut RebuildMeter<'_>) -> Result<()> {
        self.rows.sort();
        let mut rows = std::mem::take(&mut self.rows);
        let table = self.write(&mut rows, meter)?;
        self.note_run(table, 0);
        rows.clear();
        self.rows = rows;
        Ok(())
    }

    fn note_run(&mut self, table: WrittenTable, depth: u32) {
        let WrittenTable { named, reader } = table;
        self.spilled.push(Run { dir: self.job.dir.as_ref(), named, reader, depth });
    }

    /// Writes the table of all records.
    fn finish(mut self, meter: &mut RebuildMeter<'_>) -> Result<WrittenTable> {
        if self.spilled.is_empty() {
            self.rows.sort();
            let mut rows = std::mem::take(&mut self.rows);
            return self.write(&mut rows, meter);
        }
        self.spill(meter)?;
        let runs = std::mem::take(&mut self.spilled);
        self.write_merged(&runs, meter)
    }

    /// Merges runs by version.
    fn write_merged(&mut self, runs: &[Run<'_>], meter: &mut RebuildMeter<'_>) -> Result<WrittenTable> {
        let whole = || (Bound::<Vec<u8>>::Unbounded, Bound::<Vec<u8>>::Unbounded);
        let forward = ScanDirection::Forward;
        let sources = runs
            .iter()
            .rev()
            .map(|run| TableRange::new::<Vec<u8>>(Arc::clone(&run.reader), whole(), forward))
            .collect();
        let exists = |_segment| true;
        let mut merge = if planted("rebuild_merges_in_order") {
            LevelMerge::new(sources, forward, exists)
        } else {
            LevelMerge::by_version(sources, forward, exists)
        };
        self.write(&mut merge, meter)
    }

    fn write<S>(&mut self, entries: &mut S, meter: &mut RebuildMeter<'_>) -> Result<WrittenTable>
    where
        S: MergeSource,
        TableError: From<S::Error>,
    {
        let job = self.job;
        let (id, mut writer) = begin_table(job.dir, job.entropy, job.take_id, job.hash_seed)?;
        writer.push_all(entries, &mut |_| meter.flow()).map_err(unless_aborted)?;
        let summary = TableWriter::finish_with(writer, &mut |_| meter.flow()).map_err(unless_aborted)?;
        open_written(job.dir.as_ref(), id, &summary)
    }
}

fn unless_aborted(failure: TableError) -> Error {
    match failure {
        TableError::Canceled => ABORTED,
        other => other.into(),
    }
}

/// Records in memory. After [`sort`](Self::sort) it is a source of the newest of each key, in
/// order.
#[derive(Debug, Default)]
struct Rows {
    keys: Vec<u8>,
    rows: Vec<Row>,
    /// The number of rows that were given out.
    given: usize,
}

#[derive(Clone, Debug)]
struct Row {
    /// The key's place in the keys.
    key: Range<usize>,
    entry: TableEntry,
}

impl Rows {
    fn push(&mut self, key: &[u8], entry: TableEntry) {
        let start = self.keys.len();
        self.keys.extend_from_slice(key);
        self.rows.push(Row { key: start..self.keys.len(), entry });
    }

    fn memory_bytes(&self) -> usize {
        self.keys.len() + self.rows.len() * size_of::<Row>()
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.rows.clear();
        self.given = 0;
    }

    /// Sorts by key, and keeps the record with the highest version of each.
    fn sort(&mut self) {
        let Self { keys, rows, .. } = self;
        let key = |row: &Row| keys.get(row.key.clone()).unwrap_or_default();
        rows.sort_unstable_by(|left, right| {
            let is_in_order = planted("rebuild_merges_in_order");
            let newer = || right.entry.version.cmp(&left.entry.version);
            let later = || right.key.start.cmp(&left.key.start);
            key(left).cmp(key(right)).then_with(|| if is_in_order { later() } else { newer() })
        });
        rows.dedup_by(|next, newest| key(next) == key(newest));
    }

    fn current(&self) -> Option<&Row> {
        self.rows.get(self.given.checked_sub(1)?)
    }
}

impl MergeSource for Rows {
    type Error = Infallible;

    fn advance(&mut self) -> Result<bool, Infallible> {
        self.given += 1;
        Ok(self.given <= self.rows.len())
    }

    fn key(&self) -> &[u8] {
        self.current().and_then(|row| self.keys.get(row.key.clone())).unwrap_or_default()
    }

    fn entry(&self) -> TableEntry {
        self.current().map(|row| row.entry).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::ControlFlow;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use hightower_log::SegmentKind;
    use hightower_seams::OsEntropy;
    use hightower_segment::sim::SimFs;
    use hightower_segment::{Fs, NamedTables, ReadOnlyStore, Tolerance};
    use hightower_table::{LevelMerge, MergeSource, ScanDirection, TableReader};

    use super::{RUN_BYTES, TableRebuild};
    use crate::components::{Background, Components};
    use crate::config::StoreConfig;
    use crate::engine::SingleNodeEngine;
    use crate::error::{Error, Result};
    use crate::load::OpenProgress;
    use crate::tables::open_tables;

    /// Versions, and whether the key is deleted, by key.
    type Content = BTreeMap<Vec<u8>, (u64, bool)>;

    fn key(number: u32) -> String {
        format!("key/{:03}/{}", number % 300, "k".repeat(number as usize % 50))
    }

    /// A store whose tables cover a part of the active segment, with more commits behind that. Some
    /// keys have their newest record in a segment before one with an older record.
    fn store() -> SimFs {
        let fs = SimFs::new();
        let config = StoreConfig {
            max_segment_size: 8 << 10,
            min_segment_size: 8 << 10,
            compaction_interval: Duration::ZERO,
            ..StoreConfig::at("/store")
        };
        let components = Components::default().with_fs(Arc::new(fs.clone())).with_background(Background::Caller);
        let engine = SingleNodeEngine::with_components(config, components).unwrap();
        for number in 0..600_u32 {
            engine.put(key(number * 7), [1; 40]).unwrap();
            if number.is_multiple_of(9) {
                engine.delete(key(number)).unwrap();
            }
        }
        engine.run_compaction_now().unwrap();
        // Nothing in the active segment is dead, so the next compaction leaves it open.
        engine.put("once", "only").unwrap();
        engine.checkpoint().unwrap();
        (0..10).for_each(|number| engine.put(key(number), [2; 40]).map(drop).unwrap());
        engine.checkpoint().unwrap();
        engine.put(key(3), "not covered").unwrap();
        engine.delete("once").unwrap();
        engine.flush().unwrap();
        let killed = fs.after_kill();
        drop(engine);
        killed
    }

    fn content_of(tables: &[Arc<TableReader>], exists: impl Fn(u32) -> bool) -> Content {
        let sources = tables.iter().map(|table| table.range::<&[u8]>(.., ScanDirection::Forward)).collect();
        let mut merge = LevelMerge::new(sources, ScanDirection::Forward, exists);
        let mut content = Content::new();
        while merge.advance().unwrap() {
            content.insert(merge.key().to_vec(), (merge.entry().version, merge.entry().is_tombstone()));
        }
        content
    }

    fn rebuild(
        store: &ReadOnlyStore,
        run_bytes: usize,
        watch: &mut dyn FnMut(OpenProgress) -> ControlFlow<()>,
    ) -> Result<Content> {
        let list = &store.manifest().tables;
        let next_id = AtomicU32::new(store.manifest().next_table_id);
        let rebuild = TableRebuild {
            dir: store.dir(),
            entropy: &OsEntropy,
            segments: store.segments(),
            list,
            records: store.report().records(),
            take_id: &|| Ok(next_id.fetch_add(1, Ordering::Relaxed)),
            hash_seed: None,
            run_bytes,
        };
        let written = rebuild.run(watch)?;
        written.reader.check().unwrap();
        let content = content_of(&[Arc::clone(&written.reader)], |_| true);
        let mut range = written.reader.range::<&[u8]>(.., ScanDirection::Forward);
        while range.advance().unwrap() {
            // Its place is that of its record, within what is covered.
            let pointer = range.entry().pointer;
            let segment = store.segments().iter().find(|segment| segment.id() == pointer.segment).unwrap();
            assert!(pointer.offset < list.covered.end_in(segment.id(), segment.kind()));
            let record = segment.record_at(pointer.offset).unwrap();
            assert_eq!(record.command().map(|command| command.key()), Some(range.key()));
        }
        drop(range);
        store.dir().remove_file(&written.named.file_name()).unwrap();
        Ok(content)
    }

    fn opened(fs: &SimFs) -> ReadOnlyStore {
        let fs: Arc<dyn Fs> = Arc::new(fs.clone());
        ReadOnlyStore::open(&fs, Path::new("/store"), Tolerance::Strict).unwrap()
    }

    #[test]
    fn a_rebuilt_table_has_what_the_tables_have_with_any_memory() {
        let fs = store();
        let store = opened(&fs);
        let list: &NamedTables = &store.manifest().tables;
        let covered = list.covered;
        let last = store.segments().iter().find(|segment| segment.id() == covered.segment).unwrap();
        assert!(covered.offset < last.len_bytes(), "there is a log behind what is covered");
        let is_after = |segment: &Arc<hightower_segment::Segment>| {
            segment.kind() == SegmentKind::Compacted && segment.id() > covered.segment
        };
        assert!(store.segments().iter().any(is_after), "an old record has moved behind newer ones");
        let exists = |id| store.segments().iter().any(|segment| segment.id() == id);
        let expected = content_of(&open_tables(store.dir().as_ref(), list, &[]).unwrap(), exists);
        assert!(expected.contains_key(&b"once"[..]) && expected.values().any(|(_, is_deleted)| *is_deleted));
        let files = fs.names_in(Path::new("/store")).unwrap();
        for run_bytes in [1, 500, 4 << 10, RUN_BYTES] {
            let found = rebuild(&store, run_bytes, &mut |_| ControlFlow::Continue(())).unwrap();
            assert!(found == expected, "runs of {run_bytes} bytes");
            assert_eq!(fs.names_in(Path::new("/store")).unwrap(), files, "a run is left");
        }
    }

    #[test]
    fn a_rebuild_can_be_watched_and_ended_and_leaves_nothing() {
        let fs = store();
        let store = opened(&fs);
        let files = fs.names_in(Path::new("/store")).unwrap();
        for run_bytes in [500, RUN_BYTES] {
            let mut reports = Vec::new();
            let mut go_on = |progress: OpenProgress| {
                reports.push(progress.done);
                ControlFlow::Continue(())
            };
            rebuild(&store, run_bytes, &mut go_on).unwrap();
            assert!(reports.is_sorted() && reports.len() > 5, "{reports:?}");
            for end in [0, reports.len() / 2, reports.len() - 1] {
                let mut left = end;
                let mut stop = |_| {
                    left = left.wrapping_sub(1);
                    if left == usize::MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                let ended = rebuild(&store, run_bytes, &mut stop);
                assert!(matches!(ended, Err(Error::Aborted(_))), "{end}: {ended:?}");
                assert_eq!(fs.names_in(Path::new("/store")).unwrap(), files);
            }
        }
    }
}
