//! Checks of a store, at three levels, and the visit of its raw records.

use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hightower_log::{CommandRef, SegmentKind};
use hightower_segment::{
    Dir, Finding, NamedTables, ReadOnlyStore, Segment, SegmentError, SegmentOutcome, SegmentReport, SegmentState,
    Tolerance,
};
use hightower_state::EntryRecord;

use crate::components::Components;
use crate::error::{Error, Result};
use crate::keyspace::{KeyspaceId, UserKey, of_user, user_part};
use crate::load::{Fold, TablesUse};
use crate::place::Place;
use crate::read_path::ReadingLock;
use crate::repair::{Meter, RepairProgress};
use crate::tables::open_tables;

/// The level of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CheckLevel {
    /// The manifest, the segments' headers and lengths, and the end of the log.
    Structure,
    /// Also the checksum of every record.
    Checksums,
    /// Also every byte of the tables, and the equality of the tables and the log.
    Tables,
}

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedPlace {
    /// The file.
    pub path: PathBuf,
    /// The offset of its first byte.
    pub offset: u64,
    /// Its length in bytes, if known.
    pub len_bytes: Option<u64>,
    /// A description of the damage.
    pub detail: String,
    /// The keys around the lost records, if the keys of the file are in order.
    pub keys: Option<KeysBetween>,
}

/// Intact keys beside a damaged place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysBetween {
    /// The last key before the damage; `None`: the damage is at the start of the file.
    pub after: Option<Vec<u8>>,
    /// The first key behind the damage; `None`: the damage reaches to the end of the file.
    pub before: Option<Vec<u8>>,
}

/// The report of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Number of segments.
    pub segments: u64,
    /// Number of verified records.
    pub records: u64,
    /// Number of examined bytes.
    pub bytes: u64,
    /// Bytes of unfinished commits after a crash; the next open drops them. They are not damage.
    pub unfinished_bytes: u64,
    /// The result of reading the tables (level [`CheckLevel::Tables`]). A bad table is not damage,
    /// because the store rebuilds it.
    pub tables: Option<TablesUse>,
    /// The damaged places.
    pub damage: Vec<DamagedPlace>,
}

impl CheckReport {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty()
    }
}

impl DamagedPlace {
    pub(crate) fn of(error: &SegmentError, dir: &Path) -> Self {
        let (path, offset) = match error {
            SegmentError::Corrupt { path, offset, .. } => (path.clone(), *offset),
            SegmentError::MissingSegment { path } | SegmentError::MissingManifest { path } => (path.clone(), 0),
            _ => (dir.to_owned(), 0),
        };
        Self { path, offset, len_bytes: None, detail: error.to_string(), keys: None }
    }
}

/// Looks for damage, and continues behind each damaged place. Changes nothing. `watch` receives the
/// progress and may abort.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use std::ops::ControlFlow;
/// use hightower_engine::{CheckLevel, Components, SingleNodeEngine, StoreConfig, check};
///
/// # let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path()))?;
/// engine.put("key", "value")?;
/// engine.close()?;
/// let mut watch = |_| ControlFlow::Continue(());
/// let report = check(&Components::default(), dir.path(), CheckLevel::Tables, &mut watch)?;
/// assert!(report.is_whole() && report.records == 1);
/// # Ok::<(), hightower_engine::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::NotFound`] if there is no store, [`Error::Locked`] if it is in use, [`Error::Aborted`]
/// if `watch` aborted it, [`Error::Io`]. Damage is in the report, not an error.
pub fn check(
    components: &Components,
    dir: impl AsRef<Path>,
    level: CheckLevel,
    watch: &mut dyn FnMut(RepairProgress) -> ControlFlow<()>,
) -> Result<CheckReport> {
    let dir = dir.as_ref();
    let components = &components.guarded_once();
    let store = ReadOnlyStore::open(&components.fs, dir, Tolerance::Salvage)?;
    let found = store.report();
    let mut report = CheckReport {
        segments: store.segments().len() as u64,
        unfinished_bytes: found.dropped_bytes(),
        damage: found.damage.iter().map(|error| DamagedPlace::of(error, dir)).collect(),
        ..CheckReport::default()
    };
    note_lengths(&store, &mut report.damage);
    let history = note_refusal(components, dir, &mut report.damage)?;
    if level >= CheckLevel::Checksums {
        let all = store.segments().iter().chain(&history);
        let mut meter = Meter::new(all.map(|segment| u64::from(segment.len_bytes())).sum(), watch);
        for segment in store.segments() {
            let outcome = found.segment(segment.id());
            check_segment(segment, outcome, &mut report, &mut meter)?;
        }
        // It is not part of the content, so its records do not count.
        let mut of_history = CheckReport::default();
        history.iter().try_for_each(|segment| check_segment(segment, None, &mut of_history, &mut meter))?;
        report.damage.append(&mut of_history.damage);
    }
    drop(history);
    drop(store);
    if level >= CheckLevel::Tables && report.is_whole() {
        check_tables(components, dir, &mut report)?;
    }
    Ok(report)
}

/// Files that are shorter than the manifest requires.
fn note_lengths(store: &ReadOnlyStore, damage: &mut Vec<DamagedPlace>) {
    for segment in store.segments() {
        let entry = store.manifest().segment(segment.id());
        let Some(SegmentState::Sealed { len_bytes, .. }) = entry.map(|entry| entry.state) else { continue };
        if segment.len_bytes() < len_bytes {
            damage.push(DamagedPlace {
                path: segment.path().to_owned(),
                offset: segment.len_bytes().into(),
                len_bytes: Some((len_bytes - segment.len_bytes()).into()),
                detail: format!("truncated: {len_bytes} bytes expected, {} found", segment.len_bytes()),
                keys: None,
            });
        }
    }
}

/// Adds the error of an open, unless the report already has it, and what an open tells of the
/// history. Returns the segments of the history.
fn note_refusal(components: &Components, dir: &Path, damage: &mut Vec<DamagedPlace>) -> Result<Vec<Arc<Segment>>> {
    let error = match ReadOnlyStore::open(&components.fs, dir, Tolerance::Strict) {
        Ok(store) => {
            let of_history = store.report().history_damage.as_ref();
            damage.extend(of_history.map(|error| DamagedPlace::of(error, dir)));
            return Ok(store.retained().to_vec());
        }
        Err(error @ (SegmentError::Io { .. } | SegmentError::OutOfMaps { .. } | SegmentError::Locked { .. })) => {
            return Err(error.into());
        }
        Err(error) => DamagedPlace::of(&error, dir),
    };
    if !damage.iter().any(|known| known.path == error.path && known.offset == error.offset) {
        damage.push(error);
    }
    Ok(Vec::new())
}

/// The end of a segment's records. In an unsealed segment, bytes behind the end of the log are not
/// damage.
pub(crate) fn counted_end(segment: &Segment, outcome: Option<&SegmentReport>) -> u32 {
    match outcome.filter(|outcome| outcome.outcome != SegmentOutcome::Sealed) {
        Some(outcome) => outcome.len_bytes,
        None => segment.len_bytes(),
    }
}

fn check_segment(
    segment: &Arc<Segment>,
    outcome: Option<&SegmentReport>,
    report: &mut CheckReport,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let end = counted_end(segment, outcome);
    let first_damage = report.damage.len();
    let mut last_key: Option<Vec<u8>> = None;
    let is_ordered = segment.kind() == SegmentKind::Compacted;
    for finding in segment.scan() {
        match finding {
            Finding::Entry(entry) if entry.offset < end => {
                report.records += 1;
                if is_ordered {
                    let key = user_part(entry.command.key());
                    name_the_key_after(&mut report.damage[first_damage..], key);
                    last_key = Some(key.to_vec());
                }
                meter.add(entry.len_bytes.into())?;
            }
            Finding::Damaged { offset, len_bytes, error } if offset < end => {
                report.damage.push(DamagedPlace {
                    path: segment.path().to_owned(),
                    offset: offset.into(),
                    len_bytes: Some(len_bytes.into()),
                    detail: error.to_string(),
                    keys: is_ordered.then(|| KeysBetween { after: last_key.take(), before: None }),
                });
                meter.add(len_bytes.into())?;
            }
            Finding::Entry(_) | Finding::Damaged { .. } => break,
        }
    }
    report.bytes += u64::from(end);
    Ok(())
}

/// The first key behind a damaged place.
fn name_the_key_after(damage: &mut [DamagedPlace], key: &[u8]) {
    if let Some(keys) = damage.last_mut().and_then(|place| place.keys.as_mut()) {
        keys.before.get_or_insert_with(|| key.to_vec());
    }
}

/// Verifies the tables, folds the log with and without them, and compares the results.
fn check_tables(components: &Components, dir: &Path, report: &mut CheckReport) -> Result<()> {
    // Declared first, to be dropped last: the owners of the segments below are freed at the end of
    // an epoch.
    let _reading;
    let store = ReadOnlyStore::open(&components.fs, dir, Tolerance::Strict)?;
    _reading = ReadingLock(Arc::clone(store.lock()));
    let (opened, list) = (store.dir().as_ref(), &store.manifest().tables);
    if let Err(reason) = verify(opened, list) {
        report.tables = Some(TablesUse::Rebuilt { reason });
        return Ok(());
    }
    let mut go_on = |_| ControlFlow::Continue(());
    let with = Fold::of(opened, list, store.segments(), store.report(), components, &mut go_on)?;
    report.tables = Some(with.tables_use.clone());
    let (TablesUse::Loaded { .. }, Some(newest)) = (&with.tables_use, list.newest_first.first()) else {
        return Ok(());
    };
    let path = dir.join(newest.file_name());
    let mut note = |detail: String| {
        report.damage.push(DamagedPlace { path: path.clone(), offset: 0, len_bytes: None, detail, keys: None });
    };
    let without = Fold::without_tables(store.segments(), store.report(), components, &mut go_on)?;
    let mut expected = without.state.snapshot().entries(Bound::Unbounded, Bound::Unbounded);
    for found in with.state.snapshot().entries(Bound::Unbounded, Bound::Unbounded) {
        let (key, found) = found?;
        // A record that compaction has copied may be twice in the log, until its segment goes.
        let command = |found: &EntryRecord<Place>| (found.version, found.kind);
        let is_same = expected
            .next()
            .transpose()?
            .is_some_and(|(other, expected)| other == key && command(&expected) == command(&found));
        if !is_same {
            note(format!("at the key {}: the tables and the log differ", key.escape_ascii()));
            return Ok(());
        }
    }
    if let Some((key, _)) = expected.next().transpose()? {
        note(format!("the key {} is missing", key.escape_ascii()));
    }
    Ok(())
}

/// Verifies every byte of the named tables; the error is the first that is wrong.
fn verify(dir: &dyn Dir, list: &NamedTables) -> Result<(), String> {
    let tables = open_tables(dir, list, &[])?;
    tables.iter().try_for_each(|table| table.check().map_err(|error| error.to_string()))
}

/// A raw record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawRecord<'a> {
    /// The id of its segment.
    pub segment: u32,
    /// Its offset in the segment.
    pub offset: u32,
    /// Its length.
    pub len_bytes: u32,
    /// The seq of its commit; `None` if compaction wrote it.
    pub seq: Option<u64>,
    /// Whether more records of the same commit follow.
    pub continues: bool,
    /// Its command.
    pub command: CommandRef<'a>,
    /// The keyspace of its key.
    pub keyspace: KeyspaceId,
}

/// Calls `visit` with every valid record of the log, overtaken ones too, in the order of segments
/// and offsets, until `visit` breaks. Skips damaged places, and returns their number.
///
/// # Errors
///
/// [`Error::NotFound`] if there is no store, [`Error::Locked`] if it is in use, [`Error::Io`].
pub fn dump(
    components: &Components,
    dir: impl AsRef<Path>,
    visit: &mut dyn FnMut(RawRecord<'_>) -> ControlFlow<()>,
) -> Result<u64, Error> {
    let components = &components.guarded_once();
    let store = ReadOnlyStore::open(&components.fs, dir.as_ref(), Tolerance::Salvage)?;
    let mut damaged = 0;
    for segment in store.segments() {
        let is_append = segment.kind() == SegmentKind::Append;
        for finding in segment.scan() {
            let Finding::Entry(entry) = finding else {
                damaged += 1;
                continue;
            };
            let record = RawRecord {
                segment: segment.id(),
                offset: entry.offset,
                len_bytes: entry.len_bytes,
                seq: is_append.then_some(entry.seq),
                continues: entry.continues,
                keyspace: UserKey::of(entry.command.key()).keyspace,
                command: of_user(entry.command),
            };
            if visit(record).is_break() {
                return Ok(damaged);
            }
        }
    }
    Ok(damaged)
}
