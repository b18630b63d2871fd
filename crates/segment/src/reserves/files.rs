//! The files of the reserves: how they are created, lengthened, taken and given back.

use std::io;
use std::sync::Arc;

use hightower_log::SegmentKind;

use crate::error::{SegmentError, is_full, is_shortage};
use crate::fs::{Access, File, remove_if_there, retry_interrupted};
use crate::layout::BLOCK_LEN_BYTES;
use crate::lengths::{FileLengths, Lengths, OPENING_LEN_BYTES};
use crate::manifest::ENTRY_LEN_BYTES;
use crate::mutants::planted;
use crate::names::{FIRST_FREE_SPARE, spare_name};
use crate::spares::{Spare, SpareFiles};
use crate::store_dir::StoreDir;

/// Room for a manifest to grow by deletes and compaction: the entries of 16 segments.
const GROWTH_BYTES: u64 = 16 * ENTRY_LEN_BYTES as u64;

/// The manifest's reserve exceeds the room for a name by this share of that room, because each name
/// takes a part of it.
const LENT_SHARE: u64 = 4;
/// An allocation may need more free room than it takes: more by this share of the room for a name.
const ALLOCATION_SHARE: u64 = 24;

/// The use of a reserve, in the order of their creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReserveKind {
    Manifest = 0,
    Compaction = 1,
    Opening = 2,
    Tail = 3,
}

const ALL: [ReserveKind; FIRST_FREE_SPARE as usize] =
    [ReserveKind::Manifest, ReserveKind::Compaction, ReserveKind::Opening, ReserveKind::Tail];

impl ReserveKind {
    /// The name of its file, unless a foreign directory has that name.
    fn name(self) -> String {
        spare_name(self as u32)
    }
}

#[derive(Clone, Debug)]
struct ReserveFile {
    name: String,
    len_bytes: u64,
}

/// The state of one reserve.
#[derive(Debug)]
struct ReserveState {
    file: Option<ReserveFile>,
    /// New data may take room if the file has at least this length.
    needed_bytes: u64,
}

impl ReserveState {
    fn is_at_least(&self, len_bytes: u64) -> bool {
        self.file.as_ref().is_some_and(|file| file.len_bytes >= len_bytes)
    }

    fn is_enough(&self) -> bool {
        self.is_at_least(self.needed_bytes)
    }
}

/// The files of the reserves that the store has.
#[derive(Debug)]
pub(super) struct ReserveFiles {
    store: Arc<StoreDir>,
    lengths: Arc<FileLengths>,
    spares: Arc<SpareFiles>,
    states: [ReserveState; ALL.len()],
}

impl ReserveFiles {
    /// No reserve exists yet.
    pub(super) fn new(store: Arc<StoreDir>, lengths: Arc<FileLengths>, spares: Arc<SpareFiles>) -> Self {
        let missing = || ReserveState { file: None, needed_bytes: 1 };
        Self { store, lengths, spares, states: [missing(), missing(), missing(), missing()] }
    }

    /// Whether each reserve has its needed length.
    pub(super) fn is_enough(&self) -> bool {
        self.states.iter().all(ReserveState::is_enough)
    }

    pub(super) fn len_bytes(&self, reserve: ReserveKind) -> u64 {
        self.states[reserve as usize].file.as_ref().map_or(0, |file| file.len_bytes)
    }

    /// The number of segment reserves, and the sum of their lengths in bytes.
    pub(super) fn of_segments(&self) -> (usize, u64) {
        let files = || self.states[ReserveKind::Compaction as usize..].iter().filter_map(|state| state.file.as_ref());
        (files().count(), files().map(|file| file.len_bytes).sum())
    }

    /// Turns a file into a reserve, if one is missing that it can be. Returns whether it is one
    /// now.
    pub(super) fn take_back(&mut self, name: &str, kind: SegmentKind) -> bool {
        let len_bytes = self.adopt(name).ok().flatten().unwrap_or(0);
        let which: &[ReserveKind] = match kind {
            _ if len_bytes == 0 => &[],
            SegmentKind::Append if len_bytes <= OPENING_LEN_BYTES.into() => &[ReserveKind::Opening],
            // A shortened reserve grows again later.
            _ => &[ReserveKind::Compaction, ReserveKind::Tail],
        };
        let missing = which.iter().copied().find(|reserve| self.states[*reserve as usize].file.is_none());
        let Some(reserve) = missing else { return false };
        // The rename replaces a file that a failed attempt left; a foreign directory stays.
        let is_taken = self.store.dir.rename(name, &reserve.name()).is_ok();
        if is_taken {
            self.states[reserve as usize].file = Some(ReserveFile { name: reserve.name(), len_bytes });
        }
        is_taken
    }

    /// Takes over the reserves of an earlier open.
    pub(super) fn adopt_all(&mut self) -> Result<(), SegmentError> {
        for reserve in ALL {
            let name = reserve.name();
            self.states[reserve as usize].file = match self.adopt(&name) {
                Ok(Some(len_bytes)) => Some(ReserveFile { name, len_bytes }),
                // Any other file is garbage. A foreign directory stays, and its name is skipped.
                Ok(_) => remove_if_there(self.store.dir.as_ref(), &name).map(|()| None)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) if is_shortage(&error) => {
                    return Err(SegmentError::io("open", &self.store.path_of(&name), error));
                }
                Err(_) => remove_if_there(self.store.dir.as_ref(), &name).map(|()| None)?,
            };
        }
        Ok(())
    }

    /// Creates or lengthens the manifest's reserve and `which`, in this order, as far as there is
    /// room. Returns whether `which` are complete.
    pub(super) fn keep_in_order(
        &mut self,
        lengths: Lengths,
        which: &[ReserveKind],
        manifest_len: u64,
    ) -> Result<bool, SegmentError> {
        let wanted = u64::from(lengths.reserve);
        self.states[ReserveKind::Compaction as usize].needed_bytes = wanted;
        self.states[ReserveKind::Opening as usize].needed_bytes = lengths.opening.into();
        self.states[ReserveKind::Tail as usize].needed_bytes = lengths.least_tail.into();
        self.keep_manifest(manifest_len)?;
        which.iter().try_for_each(|reserve| match reserve {
            ReserveKind::Opening => self.keep(*reserve, lengths.opening.into()),
            ReserveKind::Tail => self.keep_some(*reserve, lengths.tail.into()),
            _ => self.keep_some(*reserve, wanted),
        })?;
        self.keep_manifest(manifest_len)?;
        Ok(which.iter().all(|reserve| self.states[*reserve as usize].is_enough()))
    }

    /// Takes a reserve as a spare if it has room for `least` bytes.
    pub(super) fn take(&mut self, reserve: ReserveKind, least: u32) -> Result<Option<Spare>, SegmentError> {
        let state = &mut self.states[reserve as usize];
        let Some(kept) = state.file.clone().filter(|file| file.len_bytes >= least.into()) else { return Ok(None) };
        let opened = self.store.dir.open(&kept.name, Access::Write);
        // A file with a second name, such as a backup's, must not change.
        let is_own = |file: &Arc<dyn File>| file.metadata().is_ok_and(|found| found.links == 1);
        let opened = opened.and_then(|file| if is_own(&file) { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) });
        let spare = match opened {
            Ok(file) => {
                let capacity = u32::try_from(kept.len_bytes).unwrap_or(u32::MAX);
                Some(self.spares.map_spare(kept.name, file, capacity)?)
            }
            // Another program has removed the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(SegmentError::io("open", &self.store.path_of(&kept.name), error)),
        };
        state.file = None;
        Ok(spare)
    }

    /// Removes a reserve. Returns whether it existed.
    pub(super) fn give_up(&mut self, reserve: ReserveKind) -> bool {
        let given = self.states[reserve as usize].file.take();
        given.is_some_and(|file| self.store.dir.remove_file(&file.name).is_ok())
    }

    /// Shortens the reserves of segments to the wanted length if they are more than twice as long.
    pub(super) fn trim(&mut self, lengths: Lengths) -> Result<(), SegmentError> {
        for (reserve, wanted) in [(ReserveKind::Compaction, lengths.reserve), (ReserveKind::Tail, lengths.tail)] {
            let wanted = u64::from(wanted);
            let Some(kept) = self.states[reserve as usize].file.clone() else { continue };
            if kept.len_bytes / 2 > wanted {
                self.cut(&kept, wanted)?;
                let state = &mut self.states[reserve as usize];
                state.file = Some(ReserveFile { len_bytes: wanted, ..kept });
                state.needed_bytes = state.needed_bytes.min(wanted);
            }
        }
        Ok(())
    }

    /// The length of an existing reserve, after allocating all of its room on the device. `None` if
    /// the file cannot be used: another program may have created it, copied it, or given it a
    /// second name.
    fn adopt(&self, name: &str) -> io::Result<Option<u64>> {
        let file = self.store.dir.open(name, Access::Write)?;
        let found = file.metadata()?;
        // It may be longer than new segments: existing ones may be as long.
        if found.links != 1 || found.len_bytes == 0 || u32::try_from(found.len_bytes).is_err() {
            return Ok(None);
        }
        retry_interrupted(|| file.allocate(found.len_bytes))?;
        Ok(Some(found.len_bytes))
    }

    /// Creates a reserve of `wanted` bytes, or of a large part of that: a file in many extents
    /// takes additional room for their list.
    fn keep_some(&mut self, reserve: ReserveKind, wanted: u64) -> Result<(), SegmentError> {
        self.keep(reserve, wanted)?;
        if self.states[reserve as usize].is_at_least(wanted) {
            return Ok(());
        }
        // The free room is read again, because other reserves have taken a part of it. Some users
        // get more room than the system reports.
        let left = self.lengths.room()?.available_bytes.min(wanted);
        let needed = self.states[reserve as usize].needed_bytes;
        [left / 8 * 7, needed, wanted / 2, wanted / 4].into_iter().try_for_each(|len| self.keep(reserve, len))
    }

    /// Keeps room for a manifest of this length. If the other reserves are complete, it also keeps
    /// room for the manifest's growth and for names. Otherwise they come first: on a full device,
    /// the free room may be room that compaction has just freed. It also keeps that room if the
    /// manifest's reserve was given up for a new manifest, because then the room of the previous
    /// manifest is free.
    pub(super) fn keep_manifest(&mut self, manifest_len: u64) -> Result<(), SegmentError> {
        let for_names = self.lengths.for_names();
        let enough = (manifest_len + GROWTH_BYTES).next_multiple_of(BLOCK_LEN_BYTES) + for_names;
        let may_grow = self.states.iter().skip(1).all(ReserveState::is_enough)
            || self.states[ReserveKind::Manifest as usize].file.is_none();
        let state = &mut self.states[ReserveKind::Manifest as usize];
        state.needed_bytes = enough;
        if planted("no_room_for_manifests") {
            state.needed_bytes = 0;
            state.file = Some(ReserveFile { name: "none".into(), len_bytes: 0 });
            return Ok(());
        }
        if may_grow {
            self.keep_most(enough + for_names / LENT_SHARE, for_names)?;
        }
        self.keep(ReserveKind::Manifest, manifest_len)
    }

    /// Lengthens the manifest's reserve to `wanted` bytes, or as far as there is room: the manifest
    /// may have grown into the reserve that was given up for it, so that only the rest of it is
    /// left.
    fn keep_most(&mut self, wanted: u64, for_names: u64) -> Result<(), SegmentError> {
        let reserve = ReserveKind::Manifest;
        self.keep(reserve, wanted)?;
        let has = self.states[reserve as usize].file.as_ref().map_or(0, |file| file.len_bytes);
        if has >= wanted || (for_names == 0 && planted("manifest_growth_lost")) {
            return Ok(());
        }
        let most = wanted.min(has.saturating_add(self.lengths.room()?.available_bytes));
        let less = for_names / ALLOCATION_SHARE;
        [0, less, 2 * less].into_iter().try_for_each(|less| self.keep(reserve, most.saturating_sub(less)))
    }

    /// Lengthens one reserve to `wanted` bytes if it is shorter and the device has room for that.
    fn keep(&mut self, reserve: ReserveKind, wanted: u64) -> Result<(), SegmentError> {
        if wanted == 0 || self.states[reserve as usize].is_at_least(wanted) {
            return Ok(());
        }
        let kept = self.states[reserve as usize].file.clone();
        let opened = kept.as_ref().map(|file| (file.name.clone(), self.store.dir.open(&file.name, Access::Write)));
        // Another program may have removed the file.
        let opened =
            opened.filter(|(_, made)| !made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
        let (name, made) = match opened {
            Some(opened) => opened,
            None => {
                self.states[reserve as usize].file = None;
                self.create_reserve_by_loan(reserve)?
            }
        };
        let made = made.and_then(|file| retry_interrupted(|| file.allocate(wanted)));
        let Err(error) = made else {
            self.states[reserve as usize].file = Some(ReserveFile { name, len_bytes: wanted });
            return Ok(());
        };
        match &self.states[reserve as usize].file {
            // A short reserve is better than none, because new data would take its room. Only the
            // part that the failed attempt allocated is given back.
            Some(kept) => self.cut(kept, kept.len_bytes)?,
            None => remove_if_there(self.store.dir.as_ref(), &name)?,
        }
        if is_full(&error) { Ok(()) } else { Err(SegmentError::io("make", &self.store.path_of(&name), error)) }
    }

    /// Creates the empty file of a reserve. If the device has no room for its name, the manifest's
    /// reserve lends that room and takes it back at once.
    fn create_reserve_by_loan(
        &mut self,
        reserve: ReserveKind,
    ) -> Result<(String, io::Result<Arc<dyn File>>), SegmentError> {
        let (name, made) = self.create_reserve(reserve)?;
        let for_names = self.lengths.for_names();
        let may_lend = for_names > 0 && made.as_ref().is_err_and(is_full);
        let lender = self.states[ReserveKind::Manifest as usize].file.clone();
        let Some(lender) = lender.filter(|lender| may_lend && lender.len_bytes > for_names) else {
            return Ok((name, made));
        };
        let left = lender.len_bytes - for_names;
        self.cut(&lender, left)?;
        self.states[ReserveKind::Manifest as usize].file = Some(ReserveFile { len_bytes: left, ..lender.clone() });
        let again = self.create_reserve(reserve);
        self.keep_most(lender.len_bytes, for_names)?;
        again
    }

    /// Shortens a reserve to `len_bytes`.
    fn cut(&self, kept: &ReserveFile, len_bytes: u64) -> Result<(), SegmentError> {
        let cut = self.store.dir.open(&kept.name, Access::Write).and_then(|file| file.set_len(len_bytes));
        cut.map_err(|error| SegmentError::io("cut", &self.store.path_of(&kept.name), error))
    }

    fn create_reserve(&self, reserve: ReserveKind) -> Result<(String, io::Result<Arc<dyn File>>), SegmentError> {
        let name = reserve.name();
        // A failed attempt may have left a file.
        remove_if_there(self.store.dir.as_ref(), &name)?;
        match self.store.dir.create_new(&name) {
            // A foreign directory has the name.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(self.spares.create_spare_file()),
            made => Ok((name, made)),
        }
    }
}
