//! Creation of files ahead of their use.
//!
//! A *spare* is a file with room on the device and no valid content. Old content of a spare never
//! passes for a record, because a new random salt seeds every checksum.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::error::SegmentError;
use crate::fs::{Access, File, retry_interrupted};
use crate::layout::{SHORT_LEN_BYTES, to_offset};
use crate::map_reserve::MapReserve;
use crate::mapping::{MapPermit, Mapping};
use crate::mutants::planted;
use crate::names::{FIRST_FREE_SPARE, spare_name};
use crate::options::AppendMode;
use crate::store_dir::StoreDir;

/// A file with room on the device and its map. No manifest names it.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
    pub(crate) mapping: Mapping,
}

impl Spare {
    pub(crate) fn capacity_bytes(&self) -> u32 {
        to_offset(self.mapping.len())
    }
}

/// Creates spares.
#[derive(Debug)]
pub(crate) struct SpareFiles {
    store: Arc<StoreDir>,
    /// [`AppendMode::Mapped`] or [`AppendMode::Positioned`].
    pub(crate) mode: AppendMode,
    /// Memory maps kept for compaction, in case the process reaches its limit of maps.
    pub(crate) maps: MapReserve,
    /// The next number of a spare file. Each open removes left-over spares and restarts the
    /// numbers.
    next_number: AtomicU32,
    /// Whether the last attempt to create a file found the device full.
    is_full: AtomicBool,
}

impl SpareFiles {
    pub(crate) fn new(store: Arc<StoreDir>, appends: AppendMode) -> Result<Self, SegmentError> {
        let mode = match appends {
            AppendMode::Auto => {
                let promise = store.dir.preallocation_is_promise();
                let promise =
                    promise.map_err(|error| SegmentError::io("look up the file system of", store.path(), error))?;
                if promise { AppendMode::Mapped } else { AppendMode::Positioned }
            }
            forced => forced,
        };
        Ok(Self {
            store,
            mode,
            maps: MapReserve::default(),
            next_number: AtomicU32::new(FIRST_FREE_SPARE),
            is_full: AtomicBool::new(false),
        })
    }

    /// Whether the last attempt to create a file found the device full.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    pub(crate) fn note_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Release);
    }

    /// Creates a file with room for `len_bytes`.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], or [`SegmentError::Io`] if the process has no more file descriptors
    /// or memory. The store is unchanged, and the caller can try again.
    pub(crate) fn create_spare(&self, len_bytes: u32) -> Result<Spare, SegmentError> {
        self.store.poison.check()?;
        let made = self.try_create_spare(len_bytes);
        self.note_full(matches!(&made, Err(error) if error.is_full()));
        if planted("failed_create_poisons") {
            return made.map_err(|error| self.store.poison.latch_sync(error));
        }
        made
    }

    /// Creates an empty file with the name of a spare. Skips names that other programs have taken
    /// since the open.
    pub(crate) fn create_spare_file(&self) -> (String, io::Result<Arc<dyn File>>) {
        loop {
            let number = self.next_number.fetch_add(1, Ordering::Relaxed);
            let name = spare_name(number);
            match self.store.dir.create_new(&name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < u32::MAX => {}
                made => return (name, made),
            }
        }
    }

    fn try_create_spare(&self, len_bytes: u32) -> Result<Spare, SegmentError> {
        let (name, file) = self.create_spare_file();
        let failed =
            |operation, error| SegmentError::io_or_full(operation, &self.store.path_of(&name), len_bytes.into(), error);
        let file = file.map_err(|error| failed("create", error))?;
        let allocated =
            retry_interrupted(|| file.allocate(len_bytes.into())).map_err(|error| failed("allocate", error));
        allocated.and_then(|()| self.map_spare(name.clone(), file, len_bytes)).inspect_err(|_| {
            // If this also fails, the next open removes the file. The caller gets the first error.
            let _removed = self.store.dir.remove_file(&name);
        })
    }

    /// Maps a file with room for `len_bytes` as a spare.
    pub(crate) fn map_spare(&self, name: String, file: Arc<dyn File>, len_bytes: u32) -> Result<Spare, SegmentError> {
        let access = if self.mode == AppendMode::Mapped { Access::Write } else { Access::Read };
        let mapping = self
            .map_new(&*file, len_bytes, access)
            .map_err(|error| SegmentError::io("map", &self.store.path_of(&name), error))?;
        Ok(Spare { name, file, mapping })
    }

    /// Creates a file of `len_bytes`. If there is no room for that, tries half the length, a
    /// quarter and so on, but no less than `least` bytes.
    pub(crate) fn create_spare_within(&self, len_bytes: u32, least: u32) -> Result<Spare, SegmentError> {
        let least = least.max(len_bytes.min(SHORT_LEN_BYTES));
        let mut len = len_bytes.max(least);
        loop {
            match self.create_spare(len) {
                Err(error) if error.is_full() && len > least => {
                    len = (len / 2).max(least);
                }
                made => return made,
            }
        }
    }

    /// Maps a new file, and keeps memory maps in reserve for compaction.
    fn map_new(&self, file: &dyn File, len_bytes: u32, access: Access) -> io::Result<Mapping> {
        let mapping = file.map(len_bytes as usize, access, MapPermit::of_store())?;
        if mapping.takes_maps() {
            self.maps.keep()?;
        }
        Ok(mapping)
    }
}
