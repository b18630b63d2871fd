//! The parts of an open store. Each owns its fields and knows the parts above it in this list.
//!
//! | part | owns |
//! | --- | --- |
//! | [`StoreDir`] | the directory, its lock, the latch that ends all writing, segment ids |
//! | [`FileLengths`] | the lengths of new files |
//! | [`SpareFiles`] | the creation of files, and memory maps kept for compaction |
//! | [`Reserves`] | files kept for deletes and compaction, which free room |
//! | [`ManifestFile`] | the manifest |
//! | [`LogTail`] | the segments at the tail of the log, and their syncs |
//! | [`Successors`] | the preparation of segments for commits |
//!
//! Lock order: `preparing` of the reserves (held while files are created ahead of use), `sync_turn`
//! of the tail (one sync at a time), the manifest (held while the file is replaced), the tail (held
//! for a few instructions, never across I/O). An append takes none of these locks. A roll with a
//! prepared successor takes only the lock of the tail.

use std::sync::Arc;

use crate::error::SegmentError;
use crate::fs::{Dir, Lock};
use crate::lengths::FileLengths;
use crate::log_tail::LogTail;
use crate::manifest::Manifest;
use crate::manifest_file::ManifestFile;
use crate::options::StoreOptions;
use crate::reserves::Reserves;
use crate::spares::SpareFiles;
use crate::store_dir::StoreDir;
use crate::successor::Successors;

#[derive(Debug)]
pub(crate) struct StoreParts {
    pub(crate) store: Arc<StoreDir>,
    pub(crate) lengths: Arc<FileLengths>,
    pub(crate) spares: Arc<SpareFiles>,
    pub(crate) reserves: Arc<Reserves>,
    pub(crate) manifest: Arc<ManifestFile>,
    pub(crate) tail: Arc<LogTail>,
    pub(crate) successors: Successors,
    /// The option with this name.
    pub(crate) long_record_bytes: u32,
}

impl StoreParts {
    pub(crate) fn new(
        dir: Arc<dyn Dir>,
        options: &StoreOptions,
        manifest: Manifest,
        lock: Box<dyn Lock>,
    ) -> Result<Self, SegmentError> {
        let store = Arc::new(StoreDir::new(
            dir,
            lock,
            Arc::clone(&options.entropy),
            manifest.next_segment_id,
            manifest.next_table_id,
        )?);
        let lengths = Arc::new(FileLengths::new(Arc::clone(&store), options.segment_len_bytes));
        let spares = Arc::new(SpareFiles::new(Arc::clone(&store), options.appends)?);
        let reserves = Arc::new(Reserves::new(Arc::clone(&store), Arc::clone(&lengths), Arc::clone(&spares)));
        let manifest = Arc::new(ManifestFile::new(Arc::clone(&store), Arc::clone(&reserves), manifest));
        let tail = Arc::new(LogTail::new(Arc::clone(&store), Arc::clone(&manifest), spares.mode));
        let successors = Successors {
            store: Arc::clone(&store),
            lengths: Arc::clone(&lengths),
            spares: Arc::clone(&spares),
            reserves: Arc::clone(&reserves),
            manifest: Arc::clone(&manifest),
            tail: Arc::clone(&tail),
        };
        let long_record_bytes = options.long_record_bytes;
        Ok(Self { store, lengths, spares, reserves, manifest, tail, successors, long_record_bytes })
    }
}
