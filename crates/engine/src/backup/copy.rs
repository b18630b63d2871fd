//! Backup and restore.
//!
//! A backup is a store: sealed segments and a manifest. The manifest is written last and replaced
//! as a whole, so a backup directory always holds the old backup or the new one. A repeated backup
//! keeps the files of the earlier one, and replaces a shorter copy of a segment by a longer one
//! with the same prefix.
//!
//! A complete segment never changes, and its file is never reused, so a hard link is as good as a
//! copy.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use hightower_index::pin;
use hightower_log::SegmentKind;
use hightower_segment::{
    Dir, Fs, LockKind, MANIFEST, Manifest, NamedTables, ReadOnlyStore, Segment, SegmentEntry, SegmentState, Tolerance,
    is_garbage_when_unnamed, segment_name,
};

use crate::backup::destination::Destination;
use crate::commit_log::CommitLock;
use crate::components::Components;
use crate::error::{Error, Result};
use crate::files::{io_error, list, read_file, read_manifest, remove_if_there, sync_dir, write_file};
use crate::maintenance::Maintenance;
use crate::mutants::planted;
use crate::open_store::OpenStore;
use crate::read_path::ReadPath;
use crate::repair::{Meter, RepairProgress};
use crate::sync_path::SyncPath;

/// Names the manifests that backups have written into the directory. Any other manifest is from a
/// store that was opened there for writing.
const BACKUP: &str = "BACKUP";
const BACKUP_TMP: &str = "BACKUP.tmp";

/// The report of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The last commit in the backup; it has all earlier ones.
    pub seq: u64,
    /// Number of its segments.
    pub segments: u64,
    /// Number of segments that the directory already had.
    pub kept_segments: u64,
    /// Number of hard-linked segments.
    pub linked_segments: u64,
    /// Number of copied segments.
    pub copied_segments: u64,
    /// Number of copied bytes.
    pub copied_bytes: u64,
    /// Number of removed files of an earlier backup.
    pub removed_files: u64,
}

/// The report of a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Number of copied segments.
    pub segments: u64,
    /// Number of their commands; each was verified.
    pub records: u64,
    /// How many bytes were copied.
    pub bytes: u64,
}

/// A segment of a backup. It is complete, even if it is still the active one of the store.
struct BackupPart {
    segment: Arc<Segment>,
    len_bytes: u32,
    records: u64,
    commits: u32,
}

/// The number of commits in a segment of a store whose latest commit is `last_seq`.
fn commits_of(segment: &Segment, last_seq: u64) -> u32 {
    match segment.kind() {
        SegmentKind::Compacted => 0,
        SegmentKind::Append => segment.commits().unwrap_or_else(|| {
            let commits = (last_seq + 1).saturating_sub(segment.header().base_seq);
            u32::try_from(commits).unwrap_or(u32::MAX)
        }),
    }
}

impl BackupPart {
    fn entry(&self) -> SegmentEntry {
        let state = SegmentState::Sealed { len_bytes: self.len_bytes, records: self.records, commits: self.commits };
        SegmentEntry::of(self.segment.header(), state)
    }

    /// Writes its bytes to a file; see [`write_file`].
    fn write_to(&self, dir: &dyn Dir, tmp: &str, name: &str) -> Result<()> {
        let bytes = self.segment.bytes_from(0);
        let bytes = bytes.get(..self.len_bytes as usize).unwrap_or(bytes);
        let _order = self.segment.read_in_order();
        write_file(dir, tmp, name, bytes)
    }
}

/// The parts of a store that a backup reads.
pub(crate) struct BackupSource<'a> {
    pub(crate) fs: &'a dyn Fs,
    pub(crate) data_dir: &'a Path,
    pub(crate) read: &'a ReadPath,
    pub(crate) log: &'a CommitLock,
    pub(crate) store: &'a OpenStore,
    pub(crate) sync: &'a SyncPath,
    pub(crate) maintenance: &'a Maintenance,
}

impl BackupSource<'_> {
    pub(crate) fn back_up(
        &self,
        dir: &Path,
        watch: &mut dyn FnMut(RepairProgress) -> ControlFlow<()>,
    ) -> Result<BackupReport> {
        self.store.check_writable()?;
        if dir == self.data_dir {
            return Err(Error::Validation("a store cannot be backed up into its own directory".into()));
        }
        let fs = self.fs;
        // The turn makes the segments and the manifest consistent. The copy takes long and needs no
        // turn: close and compaction do not wait for it. Held segments are not changed and their
        // files not removed.
        let turn = self.maintenance.turn.lock()?;
        let (seq, max_version, parts) = self.parts()?;
        self.sync.sync_to(seq)?;
        let of_store = self.store.in_use()?.manifest();
        let _turn = planted("backup_keeps_the_turn").then_some(turn);
        fs.create_dir_all(dir).map_err(|source| io_error("create", dir, source))?;
        let target = fs.open_dir(dir).map_err(|source| io_error("open", dir, source))?;
        let target = target.as_ref();
        let lock = target.try_lock(LockKind::Exclusive).map_err(|source| io_error("lock", dir, source))?;
        let by_this_process = target.is_locked_by_this_process();
        let _lock = lock.ok_or_else(|| Error::Locked { path: dir.to_owned(), by_this_process })?;
        let (before_bytes, before) = earlier(target, &of_store)?.unzip();

        if before.is_none() {
            write_file(target, BACKUP_TMP, BACKUP, &[])?;
            sync_dir(target)?;
        }
        let mut report = BackupReport { seq, segments: parts.len() as u64, ..BackupReport::default() };
        let mut meter = Meter::new(parts.iter().map(|part| u64::from(part.len_bytes)).sum(), watch);
        for part in &parts {
            self.add_part(target, part, before.as_ref(), &mut report)?;
            meter.add(part.len_bytes.into())?;
        }
        let manifest = Manifest {
            generation: before.map_or(1, |before| before.generation.saturating_add(1)),
            next_segment_id: of_store.next_segment_id,
            next_seq: of_store.next_seq.max(seq.saturating_add(1)),
            max_version,
            history: of_store.history_of_content().as_of(seq, of_store.next_seq),
            next_table_id: of_store.next_table_id,
            tables: NamedTables::default(),
            segments: parts.iter().map(BackupPart::entry).collect(),
            retained: Vec::new(),
            store_id: of_store.store_id,
            content: of_store.content,
        };
        // `BACKUP` names the old manifest and the new one, so it matches the manifest after any
        // crash.
        let manifest = manifest.encode();
        let digests = before_bytes.iter().map(Vec::as_slice).chain([&manifest[..]]).map(digest).collect::<String>();
        write_file(target, BACKUP_TMP, BACKUP, digests.as_bytes())?;
        if !planted("backup_names_not_synced") {
            sync_dir(target)?;
        }
        write_file(target, "MANIFEST.tmp", MANIFEST, &manifest)?;
        sync_dir(target)?;
        report.removed_files = remove_stale(target, &parts)?;
        Ok(report)
    }

    /// The store as of one commit: its seq, the highest version, and the length of each segment.
    fn parts(&self) -> Result<(u64, u64, Vec<BackupPart>)> {
        let guard = pin();
        let _early = if planted("locks_out_of_order") { Some(self.read.index.state(&guard)?.writer()) } else { None };
        let log = self.log.lock()?;
        let parts = self.read.segments.all().into_iter().filter(|tracked| !tracked.segment.is_empty()).map(|tracked| {
            BackupPart {
                len_bytes: tracked.segment.len_bytes(),
                records: tracked.records(),
                commits: commits_of(&tracked.segment, log.last_seq),
                segment: Arc::clone(&tracked.segment),
            }
        });
        Ok((log.last_seq, log.max_version, parts.collect()))
    }

    fn add_part(
        &self,
        dir: &dyn Dir,
        part: &BackupPart,
        before: Option<&Manifest>,
        report: &mut BackupReport,
    ) -> Result<()> {
        let name = segment_name(part.segment.id());
        let known = before.and_then(|before| before.segment(part.segment.id())).filter(|known| **known == part.entry());
        let is_there = dir.metadata(&name).is_ok_and(|found| found.len_bytes >= part.len_bytes.into());
        if known.is_some() && is_there {
            report.kept_segments += 1;
            return Ok(());
        }
        // An open of the backup removes a file of this name as garbage. It is not a reserve:
        // reserves have the lowest numbers. Segments are copied one at a time, so one name is
        // enough.
        let tmp = "0000000004.spare".to_owned();
        if part.segment.is_sealed() {
            remove_if_there(dir, &tmp)?;
            // A closed store has released its directory: the mapped segment is then copied.
            let own = self.store.in_use().map(|store| Arc::clone(store.dir()));
            if own.is_ok_and(|own| own.hard_link(&name, dir, &tmp).is_ok()) {
                dir.rename(&tmp, &name).map_err(|source| io_error("rename", &dir.path().join(&tmp), source))?;
                // Renaming does nothing if both names are links to one file, so the first one may
                // remain.
                remove_if_there(dir, &tmp)?;
                report.linked_segments += 1;
                return Ok(());
            }
        }
        part.write_to(dir, &tmp, &name)?;
        report.copied_segments += 1;
        report.copied_bytes += u64::from(part.len_bytes);
        Ok(())
    }
}

/// The line of text that identifies a manifest in `BACKUP`: its length and its checksum.
fn digest(manifest: &[u8]) -> String {
    format!("{} {:08x}\n", manifest.len(), crc32fast::hash(manifest))
}

/// The manifest of an earlier backup of this store, encoded and decoded.
fn earlier(dir: &dyn Dir, of_store: &Manifest) -> Result<Option<(Vec<u8>, Manifest)>> {
    let path = dir.path().display();
    match read_manifest(dir)? {
        Some((bytes, manifest)) => {
            if manifest.store_id != of_store.store_id {
                return Err(Error::Conflict(format!("{path} holds another store: use another directory").into()));
            }
            let digests = read_file(dir, BACKUP)?.unwrap_or_default();
            let is_backup = String::from_utf8_lossy(&digests).contains(&digest(&bytes));
            if !is_backup && !planted("backup_over_a_store") {
                let text = format!("{path} was opened for writing after a backup to it: use another directory");
                return Err(Error::Conflict(text.into()));
            }
            Ok(Some((bytes, manifest)))
        }
        None => {
            let names = list(dir)?;
            // A backup creates `BACKUP` first, which distinguishes its directory from a store that
            // has lost its manifest.
            let is_begun = names.iter().any(|name| name == BACKUP) || planted("backup_over_a_store");
            if names.iter().all(|name| is_ours(name) && (is_begun || name == BACKUP_TMP)) {
                return Ok(None);
            }
            Err(Error::Conflict(format!("{path} holds other files: use another directory").into()))
        }
    }
}

/// Removes files of an earlier backup that this one does not need.
fn remove_stale(dir: &dyn Dir, parts: &[BackupPart]) -> Result<u64> {
    let needed: HashSet<String> = parts.iter().map(|part| segment_name(part.segment.id())).collect();
    let names = list(dir)?;
    let is_exact =
        |name: &str| is_garbage_when_unnamed(name) || planted("backup_removes_others") && name.ends_with(".seg");
    let stale = names.iter().filter(|name| is_exact(name) && !needed.contains(*name));
    let mut removed = 0;
    for name in stale {
        remove_if_there(dir, name)?;
        removed += 1;
    }
    if removed > 0 {
        sync_dir(dir)?;
    }
    Ok(removed)
}

/// Whether a file may be in a backup directory without a manifest, as a leftover of an interrupted
/// backup.
fn is_ours(name: &str) -> bool {
    name == BACKUP || name == BACKUP_TMP || is_garbage_when_unnamed(name)
}

/// Creates a store in `destination` from a backup, or from any store that is not in use. Verifies
/// every record.
///
/// The destination is a new or empty directory; it may be a mount point or a link. Until everything
/// is durable, it has a file `UNFINISHED`, and no open accepts it as a store. A failed restore
/// leaves an empty directory. After a crash, repeat the restore.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let (kv, backup) = (dir.path().join("kv"), dir.path().join("backup"));
/// use hightower_engine::{Components, SingleNodeEngine, StoreConfig, restore};
///
/// # let engine = SingleNodeEngine::with_config(StoreConfig::at(&kv))?;
/// # engine.put("key", "value")?;
/// engine.backup_to(&backup)?;
/// let restored = dir.path().join("restored");
/// restore(&Components::default(), &backup, &restored)?;
/// assert_eq!(SingleNodeEngine::open(&restored)?.get("key")?.unwrap(), b"value");
/// # Ok::<(), hightower_engine::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Conflict`] if the destination is not empty, [`Error::NotFound`] if the source has no
/// store, [`Error::Corrupt`] with file and offset, [`Error::Locked`], [`Error::Full`],
/// [`Error::Io`].
pub fn restore(
    components: &Components,
    source: impl AsRef<Path>,
    destination: impl AsRef<Path>,
) -> Result<RestoreReport> {
    restore_with_progress(components, source, destination, &mut |_| ControlFlow::Continue(()))
}

/// As [`restore`]; `watch` receives the progress and may abort the restore: then the destination is
/// empty.
///
/// # Errors
///
/// As [`restore`], and [`Error::Aborted`].
pub fn restore_with_progress(
    components: &Components,
    source: impl AsRef<Path>,
    destination: impl AsRef<Path>,
    watch: &mut dyn FnMut(RepairProgress) -> ControlFlow<()>,
) -> Result<RestoreReport> {
    let (source, destination) = (source.as_ref(), destination.as_ref());
    let components = &components.guarded_once();
    let store = ReadOnlyStore::open(&components.fs, source, Tolerance::Strict)?;
    let copy = Destination::begin(components, destination)?;
    let mut meter = Meter::new(store.segments().iter().map(|segment| u64::from(segment.len_bytes())).sum(), watch);
    let mut report = RestoreReport::default();
    let mut segments = Vec::new();
    for segment in store.segments().iter().filter(|segment| !segment.is_empty()) {
        let mut records = 0;
        for entry in segment.entries() {
            meter.add(entry?.len_bytes.into())?;
            records += 1;
        }
        let commits = commits_of(segment, 0);
        let part = BackupPart { len_bytes: segment.len_bytes(), records, commits, segment: Arc::clone(segment) };
        let name = segment_name(segment.id());
        part.write_to(copy.dir(), &format!("{:010}.spare", segment.id()), &name)?;
        report.segments += 1;
        report.records += records;
        report.bytes += u64::from(part.len_bytes);
        segments.push(part.entry());
    }
    let max_version = store.manifest().max_version.max(store.report().version_floor);
    let manifest = Manifest { segments, tables: NamedTables::default(), max_version, ..store.manifest().clone() };
    write_file(copy.dir(), "MANIFEST.tmp", MANIFEST, &manifest.encode())?;
    copy.finish()?;
    Ok(report)
}
