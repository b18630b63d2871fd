//! Device room kept for operations that free room.
//!
//! Deletes and compaction need room before they free any. Four files reserve this room. They have
//! room on the device, and their content is never read:
//!
//! - for the *manifest*: its replacement is written beside it;
//! - for *compaction*: its output is written before its inputs are removed;
//! - for *opening*: the segment that an open begins with. No commit goes into it, so its whole room
//!   becomes free again after each open;
//! - for the *tail*: the next segment, for the records of deletes.
//!
//! The store creates them before any file for new data, in this order. While one is missing or too
//! short, it creates no file for new data, because that file might take the room permanently. A
//! used-up reserve is created again as soon as room becomes free. The files survive a close and the
//! death of the process, so that an open on a full device finds them.
//!
//! xfs creates a file only while some room is free. The manifest's reserve includes this room, and
//! lends it to the creation of the other reserves.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hightower_log::SegmentKind;
use hightower_seams::lock_order::Rank;

use crate::error::{SegmentError, is_full, is_shortage};
use crate::fs::{Access, File, remove_if_there, retry_interrupted};
use crate::layout::BLOCK_LEN_BYTES;
use crate::lengths::{FileLengths, Lengths, OPENING_LEN_BYTES};
use crate::lock::{Mutex, RankedGuard, RankedMutex, step};
use crate::manifest::ENTRY_LEN_BYTES;
use crate::mutants::planted;
use crate::names::{FIRST_FREE_SPARE, segment_name, spare_name};
use crate::options::{MIN_SEGMENT_LEN_BYTES, Purpose};
use crate::segment::Segment;
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

/// The reserves of an open store.
#[derive(Debug)]
pub(crate) struct Reserves {
    store: Arc<StoreDir>,
    lengths: Arc<FileLengths>,
    spares: Arc<SpareFiles>,
    /// Held while files are created ahead of their use, and while a reserve that was taken does not
    /// have a segment's name yet.
    preparing: RankedMutex<()>,
    states: RankedMutex<[ReserveState; ALL.len()]>,
    /// Whether each reserve has its needed length.
    is_enough: AtomicBool,
    /// The device's last refusal of a file: the bytes available at that time, and the length of the
    /// file.
    refused: Mutex<Option<(u64, u32)>>,
    /// The length of the manifest in bytes. Held while the manifest changes, so that no other
    /// reserve takes the room that it needs.
    manifest_len_bytes: RankedMutex<u64>,
}

impl Reserves {
    pub(crate) fn new(store: Arc<StoreDir>, lengths: Arc<FileLengths>, spares: Arc<SpareFiles>) -> Self {
        let missing = || ReserveState { file: None, needed_bytes: 1 };
        Self {
            store,
            lengths,
            spares,
            preparing: RankedMutex::new(Rank::Preparing, ()),
            states: RankedMutex::new(Rank::Reserves, [missing(), missing(), missing(), missing()]),
            is_enough: AtomicBool::new(false),
            refused: Mutex::default(),
            manifest_len_bytes: RankedMutex::new(Rank::ManifestLength, 0),
        }
    }

    /// Waits until no other thread creates files ahead of their use, and excludes others until the
    /// guard is dropped.
    pub(crate) fn begin_preparing(&self) -> RankedGuard<'_, ()> {
        self.preparing.lock()
    }

    /// Whether new data may take room. Cheap.
    pub(crate) fn is_enough(&self) -> bool {
        self.is_enough.load(Ordering::Acquire)
    }

    fn note(&self, states: &[ReserveState]) {
        let is_enough = states.iter().all(ReserveState::is_enough);
        self.is_enough.store(is_enough, Ordering::Release);
    }

    fn len_bytes(&self, reserve: ReserveKind) -> u64 {
        self.states.lock()[reserve as usize].file.as_ref().map_or(0, |file| file.len_bytes)
    }

    /// The number of segment reserves, and the sum of their lengths in bytes.
    pub(crate) fn kept(&self) -> (usize, u64) {
        let states = self.states.lock();
        let kept = || states[ReserveKind::Compaction as usize..].iter().filter_map(|state| state.file.as_ref());
        (kept().count(), kept().map(|file| file.len_bytes).sum())
    }

    /// Turns a file that no manifest names and nothing holds into a reserve, if one is missing;
    /// otherwise removes it. The room is never free in between, because on a full device others
    /// could take it, and compaction or a later open would lack it.
    pub(crate) fn take_back(&self, name: &str, kind: SegmentKind) -> Result<(), SegmentError> {
        if !self.is_enough() {
            let mut states = self.states.lock();
            let len_bytes = self.adopt(name).ok().flatten().unwrap_or(0);
            let which: &[ReserveKind] = match kind {
                _ if len_bytes == 0 => &[],
                SegmentKind::Append if len_bytes <= OPENING_LEN_BYTES.into() => &[ReserveKind::Opening],
                // A shortened reserve grows again later.
                _ => &[ReserveKind::Compaction, ReserveKind::Tail],
            };
            let missing = which.iter().copied().find(|reserve| states[*reserve as usize].file.is_none());
            // The rename replaces a file that a failed attempt left; a foreign directory stays.
            if let Some(reserve) = missing
                && self.store.dir.rename(name, &reserve.name()).is_ok()
            {
                states[reserve as usize].file = Some(ReserveFile { name: reserve.name(), len_bytes });
                self.note(states.as_slice());
                return Ok(());
            }
        }
        remove_if_there(self.store.dir.as_ref(), name)
    }

    /// Takes over the reserves of an earlier open.
    pub(crate) fn adopt_all(&self) -> Result<(), SegmentError> {
        let mut states = self.states.lock();
        for reserve in ALL {
            let name = reserve.name();
            states[reserve as usize].file = match self.adopt(&name) {
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

    /// Creates or lengthens the reserves, as far as there is room. Returns whether new data may
    /// take the rest.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`] for other reasons than a full device.
    pub(crate) fn keep_segments(&self, lengths: Lengths) -> Result<bool, SegmentError> {
        self.keep_in_order(lengths, &[ReserveKind::Compaction, ReserveKind::Opening, ReserveKind::Tail])?;
        Ok(self.is_enough())
    }

    /// Like [`keep_segments`](Self::keep_segments), without the reserve for the tail. Returns
    /// whether the reserves for compaction and for opening are complete.
    pub(crate) fn keep_all_but_the_tail(&self, lengths: Lengths) -> Result<bool, SegmentError> {
        self.keep_in_order(lengths, &[ReserveKind::Compaction, ReserveKind::Opening])
    }

    fn keep_in_order(&self, lengths: Lengths, which: &[ReserveKind]) -> Result<bool, SegmentError> {
        let manifest_len = *self.manifest_len_bytes.lock();
        let mut states = self.states.lock();
        let wanted = u64::from(lengths.reserve);
        states[ReserveKind::Compaction as usize].needed_bytes = wanted;
        states[ReserveKind::Opening as usize].needed_bytes = lengths.opening.into();
        states[ReserveKind::Tail as usize].needed_bytes = wanted / 2;
        let made = self.keep_manifest(states.as_mut_slice(), manifest_len).and_then(|()| {
            which.iter().try_for_each(|reserve| match reserve {
                ReserveKind::Opening => self.keep(states.as_mut_slice(), *reserve, lengths.opening.into()),
                _ => self.keep_some(states.as_mut_slice(), *reserve, wanted),
            })
        });
        let made = made.and_then(|()| self.keep_manifest(states.as_mut_slice(), manifest_len));
        self.note(states.as_slice());
        made.map(|()| which.iter().all(|reserve| states[*reserve as usize].is_enough()))
    }

    /// Creates a reserve of `wanted` bytes, or of a large part of that: a file in many extents
    /// takes additional room for their list.
    fn keep_some(&self, states: &mut [ReserveState], reserve: ReserveKind, wanted: u64) -> Result<(), SegmentError> {
        self.keep(states, reserve, wanted)?;
        if states[reserve as usize].is_at_least(wanted) {
            return Ok(());
        }
        // The free room is read again, because other reserves have taken a part of it. Some users
        // get more room than the system reports.
        let left = self.lengths.room()?.available_bytes.min(wanted);
        [left / 8 * 7, wanted / 2, wanted / 4].into_iter().try_for_each(|len| self.keep(states, reserve, len))
    }

    /// Excludes the creation of reserves while the manifest changes. The returned guard holds the
    /// length of the manifest, in bytes.
    pub(crate) fn begin_edit(&self) -> RankedGuard<'_, u64> {
        self.manifest_len_bytes.lock()
    }

    /// Keeps room for a manifest of this length. The caller may hold the manifest's lock.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`] for other reasons than a full device.
    pub(crate) fn keep_manifest_reserve(&self, manifest_len: u64) -> Result<(), SegmentError> {
        let mut states = self.states.lock();
        let made = self.keep_manifest(states.as_mut_slice(), manifest_len);
        self.note(states.as_slice());
        made
    }

    /// Keeps room for a manifest of this length. If the other reserves are complete, it also keeps
    /// room for the manifest's growth and for names. Otherwise they come first: on a full device,
    /// the free room may be room that compaction has just freed. It also keeps that room if the
    /// manifest's reserve was given up for a new manifest, because then the room of the previous
    /// manifest is free.
    fn keep_manifest(&self, states: &mut [ReserveState], manifest_len: u64) -> Result<(), SegmentError> {
        let for_names = self.lengths.for_names();
        let enough = (manifest_len + GROWTH_BYTES).next_multiple_of(BLOCK_LEN_BYTES) + for_names;
        let may_grow =
            states.iter().skip(1).all(ReserveState::is_enough) || states[ReserveKind::Manifest as usize].file.is_none();
        let state = &mut states[ReserveKind::Manifest as usize];
        state.needed_bytes = enough;
        if planted("no_room_for_manifests") {
            state.needed_bytes = 0;
            state.file = Some(ReserveFile { name: "none".into(), len_bytes: 0 });
            return Ok(());
        }
        if may_grow {
            self.keep_most(states, enough + for_names / LENT_SHARE, for_names)?;
        }
        self.keep(states, ReserveKind::Manifest, manifest_len)
    }

    /// Lengthens the manifest's reserve to `wanted` bytes, or as far as there is room: the manifest
    /// may have grown into the reserve that was given up for it, so that only the rest of it is
    /// left.
    fn keep_most(&self, states: &mut [ReserveState], wanted: u64, for_names: u64) -> Result<(), SegmentError> {
        let reserve = ReserveKind::Manifest;
        self.keep(states, reserve, wanted)?;
        let has = states[reserve as usize].file.as_ref().map_or(0, |file| file.len_bytes);
        if has >= wanted || (for_names == 0 && planted("manifest_growth_lost")) {
            return Ok(());
        }
        let most = wanted.min(has.saturating_add(self.lengths.room()?.available_bytes));
        let less = for_names / ALLOCATION_SHARE;
        [0, less, 2 * less].into_iter().try_for_each(|less| self.keep(states, reserve, most.saturating_sub(less)))
    }

    /// Lengthens one reserve to `wanted` bytes if it is shorter and the device has room for that.
    fn keep(&self, states: &mut [ReserveState], reserve: ReserveKind, wanted: u64) -> Result<(), SegmentError> {
        if wanted == 0 || states[reserve as usize].is_at_least(wanted) {
            return Ok(());
        }
        let kept = states[reserve as usize].file.clone();
        let opened = kept.as_ref().map(|file| (file.name.clone(), self.store.dir.open(&file.name, Access::Write)));
        // Another program may have removed the file.
        let opened =
            opened.filter(|(_, made)| !made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
        let (name, made) = match opened {
            Some(opened) => opened,
            None => {
                states[reserve as usize].file = None;
                self.create_reserve_by_loan(states, reserve)?
            }
        };
        let made = made.and_then(|file| retry_interrupted(|| file.allocate(wanted)));
        let Err(error) = made else {
            states[reserve as usize].file = Some(ReserveFile { name, len_bytes: wanted });
            return Ok(());
        };
        match &states[reserve as usize].file {
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
        &self,
        states: &mut [ReserveState],
        reserve: ReserveKind,
    ) -> Result<(String, io::Result<Arc<dyn File>>), SegmentError> {
        let (name, made) = self.create_reserve(reserve)?;
        let for_names = self.lengths.for_names();
        let may_lend = for_names > 0 && made.as_ref().is_err_and(is_full);
        let lender = states[ReserveKind::Manifest as usize].file.clone();
        let Some(lender) = lender.filter(|lender| may_lend && lender.len_bytes > for_names) else {
            return Ok((name, made));
        };
        let left = lender.len_bytes - for_names;
        self.cut(&lender, left)?;
        states[ReserveKind::Manifest as usize].file = Some(ReserveFile { len_bytes: left, ..lender.clone() });
        let again = self.create_reserve(reserve);
        self.keep_most(states, lender.len_bytes, for_names)?;
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

    /// Completes all reserves before new data takes room.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`] if a reserve stays incomplete; deletes and compaction still work, and
    /// free room. [`SegmentError::Io`] or [`SegmentError::Poisoned`] otherwise.
    fn require(&self, lengths: Lengths) -> Result<(), SegmentError> {
        self.store.poison.check()?;
        if self.keep_segments(lengths)? {
            return Ok(());
        }
        self.spares.note_full(true);
        Err(SegmentError::Full { path: self.store.path().to_owned(), needed_bytes: lengths.reserve.into() })
    }

    /// Creates a file for new data, besides the reserves. Refuses without asking the device if the
    /// last attempt has shown that there is no room for `least` bytes: a full device takes
    /// milliseconds to refuse, and each write would wait for that.
    pub(crate) fn grow<T>(
        &self,
        lengths: Lengths,
        least: u32,
        make: impl FnOnce() -> Result<T, SegmentError>,
    ) -> Result<T, SegmentError> {
        let full = || SegmentError::Full { path: self.store.path().to_owned(), needed_bytes: least.max(1).into() };
        let refused = *self.refused.lock();
        if refused.is_some_and(|(available, len)| lengths.available_bytes <= available && least >= len) {
            self.spares.note_full(true);
            return Err(full());
        }
        let made = self.require(lengths).and_then(|()| make());
        let is_refused = made.as_ref().is_err_and(SegmentError::is_full) && lengths.available_bytes != u64::MAX;
        *self.refused.lock() = is_refused.then_some((lengths.available_bytes, least));
        made
    }

    /// Completes the reserves before new data goes into a segment that has used up a reserve. Like
    /// [`grow`](Self::grow), but creates no file.
    #[cold]
    pub(crate) fn require_again(&self) -> Result<(), SegmentError> {
        let _preparing = self.begin_preparing();
        self.grow(self.lengths.now(0)?, 0, || Ok(()))
    }

    /// Creates used-up reserves again. Call it when room has become free, before other files take
    /// it.
    pub(crate) fn refill(&self) -> Result<bool, SegmentError> {
        if self.is_enough() {
            *self.refused.lock() = None;
            return Ok(true);
        }
        // A reserve in use keeps its name until it gets a segment's name. Until then, no thread may
        // create a new reserve under its name.
        let _preparing = self.begin_preparing();
        self.refill_while_preparing()
    }

    /// Like [`refill`](Self::refill), for a caller that holds `preparing` or has exclusive use of
    /// the store.
    pub(crate) fn refill_while_preparing(&self) -> Result<bool, SegmentError> {
        *self.refused.lock() = None;
        if self.is_enough() || planted("reserve_not_put_back") {
            return Ok(true);
        }
        self.keep_segments(self.lengths.now(0)?)
    }

    /// The bytes that [`keep_segments`](Self::keep_segments) would take for segment reserves.
    pub(crate) fn missing_bytes(&self, lengths: Lengths) -> u64 {
        let missing = |reserve| u64::from(lengths.reserve).saturating_sub(self.len_bytes(reserve));
        let opening = u64::from(lengths.opening).saturating_sub(self.len_bytes(ReserveKind::Opening));
        missing(ReserveKind::Compaction) + opening + missing(ReserveKind::Tail)
    }

    /// The length of the reserve for compaction.
    pub(crate) fn compaction_reserve_len(&self) -> u32 {
        u32::try_from(self.len_bytes(ReserveKind::Compaction)).unwrap_or(u32::MAX)
    }

    /// Takes a reserve as a spare if it has room for `least` bytes.
    pub(crate) fn take_reserve(&self, reserve: ReserveKind, least: u32) -> Result<Option<Spare>, SegmentError> {
        let mut states = self.states.lock();
        let state = &mut states[reserve as usize];
        let Some(kept) = state.file.clone().filter(|file| file.len_bytes >= least.into()) else { return Ok(None) };
        let opened = self.store.dir.open(&kept.name, Access::Write);
        // A file with a second name, such as a backup's, must not change.
        let is_own = |file: &Arc<dyn File>| file.metadata().is_ok_and(|found| found.links == 1);
        let opened = opened.and_then(|file| if is_own(&file) { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) });
        let spare = match opened {
            Ok(file) => self.spares.map_spare(kept.name, file, u32::try_from(kept.len_bytes).unwrap_or(u32::MAX))?,
            // Another program has removed the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                state.file = None;
                self.note(states.as_slice());
                return Ok(None);
            }
            Err(error) => return Err(SegmentError::io("open", &self.store.path_of(&kept.name), error)),
        };
        state.file = None;
        self.note(states.as_slice());
        Ok(Some(spare))
    }

    /// Removes a reserve to make room for a manifest: the manifest's own if it exists, otherwise
    /// another one. Returns whether there was one.
    pub(crate) fn give_up_room(&self) -> bool {
        let mut states = self.states.lock();
        [ReserveKind::Manifest, ReserveKind::Tail, ReserveKind::Opening, ReserveKind::Compaction]
            .into_iter()
            .any(|reserve| self.give_up(states.as_mut_slice(), reserve))
    }

    fn give_up(&self, states: &mut [ReserveState], reserve: ReserveKind) -> bool {
        let given = states[reserve as usize].file.take();
        self.note(states);
        given.is_some_and(|file| self.store.dir.remove_file(&file.name).is_ok())
    }

    /// Frees room for a new name in the directory, which may need a block, by removing the
    /// manifest's reserve. Syncs the removal, because some file systems reuse the room only then.
    ///
    /// # Errors
    ///
    /// A failed sync; the store is then poisoned.
    pub(crate) fn make_room_for_name(&self) -> Result<bool, SegmentError> {
        if planted("names_need_no_room") || !self.give_up(self.states.lock().as_mut_slice(), ReserveKind::Manifest) {
            return Ok(false);
        }
        self.store.sync().map_err(|error| self.store.poison.latch_sync(error))?;
        Ok(true)
    }

    /// Shortens reserves to the wanted length if they are more than twice as long.
    pub(crate) fn trim(&self, lengths: Lengths) -> Result<(), SegmentError> {
        *self.refused.lock() = None;
        let mut states = self.states.lock();
        let wanted = u64::from(lengths.reserve);
        for reserve in [ReserveKind::Compaction, ReserveKind::Tail] {
            let state = &mut states[reserve as usize];
            let Some(kept) = state.file.as_mut().filter(|file| file.len_bytes / 2 > wanted) else { continue };
            self.cut(kept, wanted)?;
            kept.len_bytes = wanted;
            state.needed_bytes = state.needed_bytes.min(wanted);
        }
        Ok(())
    }

    /// A file for compaction's output: a new file or the reserve. It has room for at least one
    /// record of `least` bytes.
    pub(crate) fn compaction_file(&self, capacity: u32, least: u32, purpose: Purpose) -> Result<Spare, SegmentError> {
        let lengths = self.lengths.now(least)?;
        let least = least.max(MIN_SEGMENT_LEN_BYTES);
        let capacity = capacity.min(lengths.output).max(least);
        if purpose == Purpose::Grow {
            return self.grow(lengths, least, || self.spares.create_spare(capacity));
        }
        // If a new file would be shorter than the reserve, the reserve is as good.
        let shortest = self.compaction_reserve_len().clamp(least, capacity);
        match self.spares.create_spare_within(capacity, shortest) {
            Err(error) if error.is_full() => {
                // The room that compaction frees refills both reserves.
                match self.take_reserve(ReserveKind::Compaction, least)? {
                    Some(spare) => Ok(spare),
                    None => self.take_reserve(ReserveKind::Tail, least)?.ok_or(error),
                }
            }
            made => made,
        }
    }

    /// Renames a spare to a segment, with the next id whose name no foreign directory has.
    pub(crate) fn name_as_segment(&self, spare: &mut Spare) -> Result<u32, SegmentError> {
        loop {
            let id = self.store.take_id()?;
            let name = segment_name(id);
            step();
            match self.store.dir.rename(&spare.name, &name) {
                Ok(()) => {
                    spare.name = name;
                    return Ok(id);
                }
                Err(error) if is_full(&error) => {
                    if !self.make_room_for_name()? {
                        return Err(SegmentError::io_or_full("rename", &self.store.path_of(&spare.name), 0, error));
                    }
                }
                Err(error)
                    if error.kind() == io::ErrorKind::IsADirectory
                        && !planted("taken_names_refuse")
                        && !planted("strangers_poison") => {}
                Err(error) => {
                    let error = SegmentError::io("rename", &self.store.path_of(&spare.name), error);
                    return Err(self.store.poison.latch_rename(error));
                }
            }
        }
    }

    /// Removes an unused file, and gives its room to the reserves first. If the store is poisoned,
    /// the manifest may name the file, so it stays. The caller holds `preparing`.
    pub(crate) fn discard(&self, spare: Spare) {
        let Spare { name, file, mapping } = spare;
        drop((file, mapping));
        if !self.store.poison.is_set() {
            // If these calls fail, the next open removes the file and refills the reserves.
            let _taken = self.take_back(&name, SegmentKind::Append);
            let _refilled = self.refill_while_preparing();
        }
    }

    /// Removes or reuses the file of a segment that no manifest names any more and that has no
    /// records in use.
    pub(crate) fn end_unnamed(&self, segment: Arc<Segment>) -> Result<(), SegmentError> {
        let (name, kind) = (segment_name(segment.id()), segment.kind());
        // If something else holds the segment, it may read its bytes, so the file must not be
        // reused.
        if Arc::into_inner(segment).is_some() {
            return self.take_back(&name, kind);
        }
        remove_if_there(self.store.dir.as_ref(), &name)
    }
}
