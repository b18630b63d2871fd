//! Upkeep: syncing, compaction, checkpoints, copies.

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
/// The store syncs, compacts and writes its index checkpoint by itself. These calls do it now, and
/// wait for the device; writes and reads go on meanwhile.
impl SingleNodeEngine {
    /// Waits until everything that was committed before is durable.
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

    /// Frees what can be freed: rewrites every segment that holds anything overtaken, and drops
    /// those that hold nothing else. Then puts in key order what is still in the order of its
    /// commits, unless
    /// [`order_when_explicit`](hightower_compactor::CompactionConfig::order_when_explicit) says
    /// otherwise. Writes and reads go on meanwhile. Looks at no more than what was there when it
    /// began. The report counts all that compaction has done since the call, also what the
    /// background did while the call waited for it.
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
    /// [`Error::Corrupt`] if a record does not verify, [`Error::Full`], [`Error::Io`],
    /// [`Error::ReadOnly`], [`Error::Closed`], [`Error::Poisoned`], [`Error::Validation`] if it
    /// is called from a compaction policy. What was freed until then stays so.
    pub fn run_compaction_now(&self) -> Result<CompactionReport> {
        observe(Operation::Compaction, || {
            self.store.check_not_forked()?;
            self.compaction.compact_fully()
        })
    }

    /// Writes an index checkpoint, so that the next open is fast even after a crash. Writes go on
    /// meanwhile.
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
    /// [`Error::Full`], [`Error::Io`], [`Error::ReadOnly`], [`Error::Closed`], [`Error::Poisoned`].
    pub fn checkpoint(&self) -> Result<()> {
        self.store.check_writable()?;
        let mut turn = self.maintenance.turn.lock()?;
        self.checkpoints.write(&mut turn)
    }

    /// Copies the store, as of one moment, into a directory from which it can be opened or
    /// [`restore`](crate::restore)d. Writes go on meanwhile. Complete segments are hard-linked
    /// where the file system can, and a backup that is there already gets only what is new; it
    /// stays whole until the new one is. A backup that has begun goes on to its end also when
    /// the store is closed meanwhile, which waits for no copy; until then compaction does not
    /// free what it copies.
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
    /// [`Error::Conflict`] if the directory holds something else, [`Error::Locked`] if it is in
    /// use, [`Error::Full`], [`Error::Io`], [`Error::ReadOnly`], [`Error::Closed`],
    /// [`Error::Poisoned`].
    pub fn backup_to(&self, dir: impl AsRef<Path>) -> Result<BackupReport> {
        self.backup_with_progress(dir, |_| ControlFlow::Continue(()))
    }

    /// As [`backup_to`](Self::backup_to); `watch` hears of the progress and may end it. It may call
    /// the store, and close it. What was in the directory before stays whole then, and the next
    /// backup into it goes on with what was copied.
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

    /// Writes all keys as of one moment to a stream, tombstones included, in key order: for another
    /// machine, or another version. Memory does not depend on the number of keys.
    /// [`import_snapshot`](crate::import_snapshot) takes it back.
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
    /// [`Error::Io`] if the stream refuses, [`Error::Corrupt`] if a record does not verify,
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
