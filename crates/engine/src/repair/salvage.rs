//! Salvage: copying the intact records of a damaged store.

use std::ops::ControlFlow;
use std::path::Path;

use hightower_segment::{ReadOnlyStore, SegmentError, Tolerance};

use crate::backup::{Destination, commit};
use crate::components::Components;
use crate::engine::SingleNodeEngine;
use crate::error::Result;
use crate::load::TablesUse;
use crate::repair::check::{CheckLevel, CheckReport, check, counted_end};
use crate::repair::{DamagedPlace, Meter, RepairProgress};

/// The report of a salvage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvageReport {
    /// Number of valid records; each key has its newest valid one.
    pub records: u64,
    /// Number of keys with a value in the new store.
    pub keys: u64,
    /// The unreadable places, with their neighbouring keys if known. A key whose newest record was
    /// there has an older value now, or none; a key that was deleted there may reappear.
    pub damage: Vec<DamagedPlace>,
    /// The manifest could not be read, so all segment files were used: keys that compaction had
    /// removed may reappear.
    pub without_manifest: bool,
}

/// Creates a new store in `destination` from all valid records in `source`, without changing
/// `source`. `watch` receives the progress and may abort; then the destination is empty.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let (broken, saved) = (dir.path().join("kv"), dir.path().join("saved"));
/// use std::ops::ControlFlow;
/// use hightower_engine::{Components, SingleNodeEngine, StoreConfig, salvage};
///
/// # let engine = SingleNodeEngine::with_config(StoreConfig::at(&broken))?;
/// # engine.put("key", "value")?;
/// # engine.close()?;
/// let mut watch = |_| ControlFlow::Continue(());
/// let report = salvage(&Components::default(), &broken, &saved, &mut watch)?;
/// assert_eq!((report.records, report.damage.len()), (1, 0));
/// assert_eq!(SingleNodeEngine::open_read_only(&saved)?.get("key")?.unwrap(), b"value");
/// # Ok::<(), hightower_engine::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::NotFound`](crate::Error::NotFound) if there is no store,
/// [`Error::Locked`](crate::Error::Locked) if the store is in use,
/// [`Error::Conflict`](crate::Error::Conflict) if the destination is not empty,
/// [`Error::Aborted`](crate::Error::Aborted), [`Error::Full`](crate::Error::Full),
/// [`Error::Io`](crate::Error::Io).
pub fn salvage(
    components: &Components,
    source: impl AsRef<Path>,
    destination: impl AsRef<Path>,
    watch: &mut dyn FnMut(RepairProgress) -> ControlFlow<()>,
) -> Result<SalvageReport> {
    let source = source.as_ref();
    let components = &components.guarded_once();
    let CheckReport { damage, tables, .. } = check(components, source, CheckLevel::Checksums, watch)?;
    debug_assert_eq!(tables, None::<TablesUse>, "salvage reads the log only, not the tables");
    let mut copy = Destination::begin(components, destination.as_ref())?;
    let store = ReadOnlyStore::open(&components.fs, source, Tolerance::Salvage)?;
    let without_manifest = store.report().damage.iter().any(is_about_manifest);
    let engine = copy.open(components)?;
    let total = store.segments().iter().map(|segment| u64::from(segment.len_bytes())).sum();
    let mut meter = Meter::new(total, watch);
    let mut records = 0;
    for segment in store.segments() {
        let outcome = store.report().segment(segment.id());
        // An unfinished tail after a crash is not salvaged, unless the end of the log is itself in
        // doubt.
        let is_damaged = damage.iter().any(|place| place.path == segment.path());
        let end = if is_damaged { segment.len_bytes() } else { counted_end(segment, outcome) };
        records += copy_segment(segment, end, &engine, &mut meter)?;
    }
    let keys = engine.len() as u64;
    engine.close()?;
    drop(engine);
    copy.finish()?;
    Ok(SalvageReport { records, keys, damage, without_manifest })
}

fn is_about_manifest(error: &SegmentError) -> bool {
    match error {
        SegmentError::MissingManifest { .. } | SegmentError::VersionUnsupported { .. } => true,
        SegmentError::Corrupt { path, .. } => path.ends_with(hightower_segment::MANIFEST),
        _ => false,
    }
}

/// Commits all valid records of a segment up to `end`; returns their number.
fn copy_segment(
    segment: &hightower_segment::Segment,
    end: u32,
    engine: &SingleNodeEngine,
    meter: &mut Meter<'_>,
) -> Result<u64> {
    let mut commands = Vec::new();
    let mut records = 0;
    for finding in segment.scan() {
        let hightower_segment::Finding::Entry(entry) = finding else { continue };
        if entry.offset >= end {
            break;
        }
        commands.push(entry.command.to_owned());
        records += 1;
        if commands.len() == 256 {
            commit(engine, std::mem::take(&mut commands))?;
        }
        meter.add(entry.len_bytes.into())?;
    }
    commit(engine, commands)?;
    Ok(records)
}
