//! Maintenance: syncs, compaction, flushes, copies.

use std::ops::ControlFlow;
use std::path::Path;

use crate::backup::{BackupReport, BackupSource, ExportReport, ExportSource};
use crate::compaction::CompactionReport;
use crate::engine::SingleNodeEngine;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::observe::{Operation, observe};
use crate::repair::RepairProgress;

/// # Upkeep
///
/// The store syncs, compacts and flushes its index to tables automatically. These calls do so now,
/// and wait for the device; writes and reads may run meanwhile.
impl SingleNodeEngine {
    /// Waits until all earlier commits are durable.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// engine.flush()?;
    /// assert_eq!(engine.stats().durable_seq, engine.latest_seq());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] if a sync failed, [`Error::Closed`], [`Error::ReadOnly`].
    pub fn flush(&self) -> Result<()> {
        self.store.check_writable()?;
        self.sync.sync_all()
    }

    /// Compacts the store completely: rewrites every segment with dead records, and drops fully
    /// dead segments. Then it rewrites segments in commit order into key order, unless
    /// [`order_when_explicit`](hightower_compactor::CompactionConfig::order_when_explicit) is off.
    /// Writes and reads may run meanwhile. It processes only segments that exist at its begin. The
    /// report has all work of compaction since the call, including that of the background thread
    /// while the call waited for it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = hightower_engine::SingleNodeEngine::open(dir.path())?;
    /// for round in 0..10 {
    ///     engine.put("key", format!("value {round}"))?;
    /// }
    /// let report = engine.run_compaction_now()?;
    /// println!("{} runs have freed {} bytes", report.runs, report.freed_bytes);
    /// assert_eq!(engine.get("key")?.unwrap(), b"value 9");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if a record is damaged, [`Error::Full`], [`Error::Io`],
    /// [`Error::ReadOnly`], [`Error::Closed`], [`Error::Poisoned`], [`Error::Validation`] if it is
    /// called from a compaction policy. After an error, freed space stays free.
    pub fn run_compaction_now(&self) -> Result<CompactionReport> {
        observe(Operation::Compaction, || {
            self.store.check_not_forked()?;
            self.compaction.compact_fully()
        })
    }

    /// Flushes the memtable: writes the keys of the commits since the last flush, and the places of
    /// their records, to a table, so that an open after a crash has nothing to replay before this
    /// moment. The log up to there is durable then. If it makes the tables too many, some become
    /// one. If a read has met a damaged table, all tables are first rebuilt from the log. Writes
    /// may run meanwhile. Costs time in proportion to the keys of the memtable and of merged
    /// tables, and takes disk space for new tables beside the old ones.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// engine.checkpoint()?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the log is damaged from which a damaged table is rebuilt,
    /// [`Error::Full`], [`Error::Io`], [`Error::ReadOnly`], [`Error::Closed`], [`Error::Poisoned`].
    pub fn checkpoint(&self) -> Result<()> {
        self.store.check_writable()?;
        let mut turn = self.maintenance.turn.lock()?;
        self.flusher.flush(&mut turn)
    }

    /// Copies a consistent state of the store into a directory, which can be opened or
    /// [`restore`](crate::restore)d. Writes may run meanwhile. Complete segments are hard-linked if
    /// the file system supports it. A repeated backup copies only new files; the old backup stays
    /// complete until the new one is. A running backup completes also if the store is closed
    /// meanwhile, and close does not wait for it; until then compaction does not free its segments.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = hightower_engine::SingleNodeEngine::open(dir.path().join("kv"))?;
    /// engine.put("key", "value")?;
    /// let backup = dir.path().join("backup");
    /// engine.backup_to(&backup)?;
    /// let copy = hightower_engine::SingleNodeEngine::open_read_only(&backup)?;
    /// assert_eq!(copy.get("key")?.unwrap(), b"value");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the directory has other content, [`Error::Locked`] if it is in use,
    /// [`Error::Full`], [`Error::Io`], [`Error::ReadOnly`], [`Error::Closed`], [`Error::Poisoned`].
    pub fn backup_to(&self, dir: impl AsRef<Path>) -> Result<BackupReport> {
        self.backup_with_progress(dir, |_| ControlFlow::Continue(()))
    }

    /// As [`backup_to`](Self::backup_to); `watch` receives the progress and may abort the backup.
    /// It may call the store, and close it. After an abort the old backup stays complete, and the
    /// next backup reuses the copied files.
    ///
    /// # Errors
    ///
    /// As [`backup_to`](Self::backup_to), and [`Error::Aborted`].
    pub fn backup_with_progress(
        &self,
        dir: impl AsRef<Path>,
        mut watch: impl FnMut(RepairProgress) -> ControlFlow<()>,
    ) -> Result<BackupReport> {
        let source = BackupSource {
            fs: &*self.components.fs,
            data_dir: &self.config.data_dir,
            read: &self.read,
            log: &self.log,
            store: &self.store,
            sync: &self.sync,
            maintenance: &self.maintenance,
        };
        observe(Operation::Backup, || source.back_up(dir.as_ref(), &mut watch))
    }

    /// Writes all keys of one consistent state to a stream, tombstones included, in key order, for
    /// another machine or another version. The memory does not depend on the number of keys.
    /// [`import_snapshot`](crate::import_snapshot) reads the stream.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// let mut stream = Vec::new();
    /// let report = engine.export_snapshot(&mut stream)?;
    /// assert_eq!(report.records, 1);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the stream fails, [`Error::Corrupt`] if a record is damaged,
    /// [`Error::Closed`].
    pub fn export_snapshot(&self, stream: &mut dyn std::io::Write) -> Result<ExportReport> {
        let source = ExportSource {
            entropy: &*self.components.entropy,
            time: &self.time,
            read: &self.read,
            log: &self.log,
            store: &self.store,
        };
        source.export(stream)
    }
}
