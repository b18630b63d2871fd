//! Backup and restore.
//!
//! A backup is a store: segments that are all sealed, and a manifest. The manifest is written last,
//! and replaced as a whole, so a backup directory holds the old backup or the new one, whatever
//! happens in between. What an earlier backup has already stays; a segment that it has a shorter
//! copy of is replaced by a longer one that begins alike.
//!
//! A segment that is complete never changes again, and its file is never used again while it has a
//! second name: so a hard link is as good as a copy.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use hightower_index::pin;
use hightower_segment::{
    Dir, Fs, LockKind, MANIFEST, Manifest, ReadOnlyStore, Segment, SegmentEntry, SegmentState, Tolerance,
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

/// Says which manifests a backup has written into the directory: any other is of a store that was
/// opened there for writing.
const BACKUP: &str = "BACKUP";
const BACKUP_TMP: &str = "BACKUP.tmp";

/// What a backup did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The backup holds all commits up to this one, and none after.
    pub seq: u64,
    /// How many segments it consists of.
    pub segments: u64,
    /// How many of them the directory had already.
    pub kept_segments: u64,
    /// How many were hard-linked.
    pub linked_segments: u64,
    /// How many were copied.
    pub copied_segments: u64,
    /// How many bytes were copied.
    pub copied_bytes: u64,
    /// How many files of an earlier backup were removed.
    pub removed_files: u64,
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// How many segments were copied.
    pub segments: u64,
    /// How many commands they hold; each was verified.
    pub records: u64,
    /// How many bytes were copied.
    pub bytes: u64,
}

/// A segment as a backup holds it: complete, whatever it is in the store.
struct BackupPart {
    segment: Arc<Segment>,
    len_bytes: u32,
    records: u64,
}

impl BackupPart {
    fn entry(&self) -> SegmentEntry {
        let header = self.segment.header();
        SegmentEntry {
            id: header.id,
            kind: header.kind,
            salt: header.salt,
            base_seq: header.base_seq,
            base_version: header.base_version,
            base_timestamp: header.base_timestamp,
            state: SegmentState::Sealed { len_bytes: self.len_bytes, records: self.records },
        }
    }

    /// Makes a file of its bytes; see [`write_file`].
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
        // With the turn the segments and the manifest are of one moment. What follows takes long
        // and needs no turn: neither closing nor compaction waits for a copy. Segments that are
        // held are neither changed, removed nor used again.
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
            checkpoint: None,
            segments: parts.iter().map(BackupPart::entry).collect(),
            store_id: of_store.store_id,
            content: of_store.content,
        };
        // Whatever a crash leaves of the two files, the one names the other.
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

    /// The store as of one commit: its seq, the highest version, and how far each segment reaches.
    fn parts(&self) -> Result<(u64, u64, Vec<BackupPart>)> {
        let guard = pin();
        let _early = if planted("locks_out_of_order") { Some(self.read.index.state(&guard)?.writer()) } else { None };
        let log = self.log.lock()?;
        let parts = self.read.segments.all().into_iter().filter(|tracked| !tracked.segment.is_empty()).map(|tracked| {
            BackupPart {
                len_bytes: tracked.segment.len_bytes(),
                records: tracked.records(),
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
        // A file of this name is garbage to whoever opens the backup, and no reserve: these have
        // the first numbers. Parts are copied one after the other.
        let tmp = "0000000004.spare".to_owned();
        if part.segment.is_sealed() {
            remove_if_there(dir, &tmp)?;
            // A store that was closed meanwhile has given up its directory. Then the mapped segment
            // is copied.
            let own = self.store.in_use().map(|store| Arc::clone(store.dir()));
            if own.is_ok_and(|own| own.hard_link(&name, dir, &tmp).is_ok()) {
                dir.rename(&tmp, &name).map_err(|source| io_error("rename", &dir.path().join(&tmp), source))?;
                // Renaming one name of a file to another of its names does nothing.
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

/// What tells a manifest that a backup has written from all others: its length and checksum, as a
/// line of text.
fn digest(manifest: &[u8]) -> String {
    format!("{} {:08x}\n", manifest.len(), crc32fast::hash(manifest))
}

/// The manifest of an earlier backup of this store, as it is and decoded.
fn earlier(dir: &dyn Dir, of_store: &Manifest) -> Result<Option<(Vec<u8>, Manifest)>> {
    let path = dir.path().display();
    match read_manifest(dir)? {
        Some((bytes, manifest)) => {
            if manifest.store_id != of_store.store_id {
                return Err(Error::Conflict(format!("{path} holds another store: take another directory").into()));
            }
            let digests = read_file(dir, BACKUP)?.unwrap_or_default();
            let is_backup = String::from_utf8_lossy(&digests).contains(&digest(&bytes));
            if !is_backup && !planted("backup_over_a_store") {
                let text =
                    format!("{path} was opened for writing since a backup was made there: take another directory");
                return Err(Error::Conflict(text.into()));
            }
            Ok(Some((bytes, manifest)))
        }
        None => {
            let names = list(dir)?;
            // The first file that a backup puts into a directory tells it from a store that has
            // lost its manifest.
            let is_begun = names.iter().any(|name| name == BACKUP) || planted("backup_over_a_store");
            if names.iter().all(|name| is_ours(name) && (is_begun || name == BACKUP_TMP)) {
                return Ok(None);
            }
            Err(Error::Conflict(format!("{path} holds other files: take another directory").into()))
        }
    }
}

/// Removes what an earlier backup had and this one does not need.
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

/// Whether a file may be in a backup directory that has no manifest: what is left of a backup that
/// did not come to its end.
fn is_ours(name: &str) -> bool {
    name == BACKUP || name == BACKUP_TMP || is_garbage_when_unnamed(name)
}

/// Makes a store in `destination` out of a backup, or of any store that is not in use. Every record
/// is verified on the way.
///
/// The destination is a new or an empty directory; a mount point or a link will do. Until all of it
/// is durable a file `UNFINISHED` stands in it, and no open takes it for a store: a restore that
/// fails leaves an empty directory, one that a crash ends is made again.
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
/// [`Error::Conflict`] if the destination holds anything, [`Error::NotFound`] if the source holds
/// no store, [`Error::Corrupt`] naming file and offset, [`Error::Locked`], [`Error::Full`],
/// [`Error::Io`].
pub fn restore(
    components: &Components,
    source: impl AsRef<Path>,
    destination: impl AsRef<Path>,
) -> Result<RestoreReport> {
    restore_with_progress(components, source, destination, &mut |_| ControlFlow::Continue(()))
}

/// As [`restore`]; `watch` hears of the progress and may end it: then the destination is empty.
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
        let part = BackupPart { len_bytes: segment.len_bytes(), records, segment: Arc::clone(segment) };
        let name = segment_name(segment.id());
        part.write_to(copy.dir(), &format!("{:010}.spare", segment.id()), &name)?;
        report.segments += 1;
        report.records += records;
        report.bytes += u64::from(part.len_bytes);
        segments.push(part.entry());
    }
    let max_version = store.manifest().max_version.max(store.report().version_floor);
    let manifest = Manifest { segments, checkpoint: None, max_version, ..store.manifest().clone() };
    write_file(copy.dir(), "MANIFEST.tmp", MANIFEST, &manifest.encode())?;
    copy.finish()?;
    Ok(report)
}
