//! Device room kept for operations that free room.
//!
//! Deletes and compaction need room before they free any. Four files reserve it, with room on the
//! device and content that nobody reads:
//!
//! - for the *manifest*: its replacement is written beside it;
//! - for *compaction*: its output is written before its inputs are removed;
//! - for *opening*: the segment that an open begins with. No commit goes into it, so its whole room
//!   returns, however often a store is opened;
//! - for the *tail*: the next segment, for the records of deletes.
//!
//! The store creates them before any file for new data, in this order. While one is missing or too
//! short, it creates no file for new data: that file might take the room for good. A used-up
//! reserve is created again from the first room that comes free. The files survive a close and the
//! death of the process, so that an open on a full device finds them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hightower_log::SegmentKind;
use hightower_seams::lock_order::Rank;

use crate::error::{SegmentError, is_full, is_shortage};
use crate::fs::{Access, DeviceRoom, File, remove_if_there, retry_interrupted};
use crate::lock::{Mutex, RankedMutex};
use crate::manifest::ENTRY_LEN_BYTES;
use crate::mutants::planted;
use crate::names::{FIRST_FREE_SPARE, spare_name};
use crate::shared::Shared;
use crate::spares::Spare;

/// File systems hand out room in blocks.
pub(crate) const BLOCK_LEN_BYTES: u64 = 4096;
/// Room for a manifest to grow by deletes and compaction: the entries of 16 segments.
const GROWTH_BYTES: u64 = 16 * ENTRY_LEN_BYTES as u64;
/// Enough for a segment that takes no commit.
const OPENING_LEN_BYTES: u32 = 4096;
/// A segment takes at most 1/`DEVICE_SHARE` of the device, so that the reserves take a small part
/// of it, and at most 1/`FREE_SHARE` of the free room.
const DEVICE_SHARE: u64 = 64;
const FREE_SHARE: u64 = 8;
/// The lower limit of a segment's length, on the smallest device too.
pub(crate) const SHORT_LEN_BYTES: u32 = 16 << 10;
/// While the device has room for many segments, the reserves for the tail and for compaction are no
/// longer than this each.
const AMPLE_RESERVE_LEN_BYTES: u32 = 1 << 20;
/// And no longer than this, unless a segment is longer.
const FIRST_RESERVE_LEN_BYTES: u32 = 256 << 10;

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
    states: RankedMutex<[ReserveState; ALL.len()]>,
    /// Whether each of them has its needed length.
    is_enough: AtomicBool,
    /// The bytes available, and the length of the file, when the device last refused one.
    refused: Mutex<Option<(u64, u32)>>,
}

impl Default for Reserves {
    fn default() -> Self {
        let missing = || ReserveState { file: None, needed_bytes: 1 };
        Self {
            states: RankedMutex::new(Rank::Reserves, [missing(), missing(), missing(), missing()]),
            is_enough: AtomicBool::new(false),
            refused: Mutex::default(),
        }
    }
}

impl Reserves {
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
}

/// The lengths of new files for the current state of the device, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    /// A segment for commits, unless one commit needs more.
    pub(crate) segment: u32,
    /// A segment of compaction, unless one record needs more.
    pub(crate) output: u32,
    /// The reserves for the tail and for compaction.
    pub(crate) reserve: u32,
    /// The reserve for opening.
    opening: u32,
    available_bytes: u64,
}

impl Lengths {
    /// `least` is the length of the next file, `next` that of files created ahead of use, `longest`
    /// that of the store's longest segment.
    fn of(room: DeviceRoom, least: u32, next: u32, longest: u32) -> Self {
        let share = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX).max(SHORT_LEN_BYTES);
        let output = share(room.total_bytes / DEVICE_SHARE);
        let segment = output.min(share(room.available_bytes / FREE_SHARE));
        if planted("segments_ignore_the_device") {
            let opening = OPENING_LEN_BYTES.min(next);
            return Self { segment: u32::MAX, output: u32::MAX, reserve: longest, opening, available_bytes: u64::MAX };
        }
        let longest = longest.min(output);
        let taken_next = u64::from(least.max(segment.min(longest)));
        let is_scarce = room.available_bytes < taken_next + FREE_SHARE * u64::from(longest);
        let wanted = if is_scarce {
            longest
        } else {
            longest.max(next.min(FIRST_RESERVE_LEN_BYTES)).min(AMPLE_RESERVE_LEN_BYTES)
        };
        let opening = OPENING_LEN_BYTES.min(next);
        Self { segment, output, reserve: wanted.min(output), opening, available_bytes: room.available_bytes }
    }
}

impl Shared {
    /// The lengths of new files, if the next one needs `least` bytes.
    pub(crate) fn lengths(&self, least: u32) -> Result<Lengths, SegmentError> {
        let room = self.room()?;
        let next = self.next_len.load(Ordering::Relaxed);
        let longest = self.longest_len.load(Ordering::Relaxed).min(self.options.segment_len_bytes);
        Ok(Lengths::of(room, least, next, longest))
    }

    fn room(&self) -> Result<DeviceRoom, SegmentError> {
        self.dir.room().map_err(|error| SegmentError::io("look at the room for", self.dir.path(), error))
    }

    /// Turns a file that no manifest names and nobody holds into a reserve, if one is missing;
    /// otherwise removes it. The room is never free in between: on a full device others could take
    /// it, and compaction or a later open would lack it.
    pub(crate) fn take_back(&self, name: &str, kind: SegmentKind) -> Result<(), SegmentError> {
        if !self.reserves.is_enough() {
            let mut states = self.reserves.states.lock();
            let len_bytes = self.adopt(name).ok().flatten().unwrap_or(0);
            let which: &[ReserveKind] = match kind {
                _ if len_bytes == 0 => &[],
                SegmentKind::Append if len_bytes <= OPENING_LEN_BYTES.into() => &[ReserveKind::Opening],
                // A reserve that was cut grows again later.
                _ => &[ReserveKind::Compaction, ReserveKind::Tail],
            };
            let missing = which.iter().copied().find(|reserve| states[*reserve as usize].file.is_none());
            // The rename replaces a file that a failed attempt left; a foreign directory stays.
            if let Some(reserve) = missing
                && self.dir.rename(name, &reserve.name()).is_ok()
            {
                states[reserve as usize].file = Some(ReserveFile { name: reserve.name(), len_bytes });
                self.reserves.note(states.as_slice());
                return Ok(());
            }
        }
        remove_if_there(self.dir.as_ref(), name)
    }

    /// Takes over the reserves of an earlier open.
    pub(crate) fn adopt_reserves(&self) -> Result<(), SegmentError> {
        let mut states = self.reserves.states.lock();
        for reserve in ALL {
            let name = reserve.name();
            states[reserve as usize].file = match self.adopt(&name) {
                Ok(Some(len_bytes)) => Some(ReserveFile { name, len_bytes }),
                // Any other file is garbage. A foreign directory stays, and its name is skipped.
                Ok(_) => remove_if_there(self.dir.as_ref(), &name).map(|()| None)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) if is_shortage(&error) => {
                    return Err(SegmentError::io("open", &self.path_of(&name), error));
                }
                Err(_) => remove_if_there(self.dir.as_ref(), &name).map(|()| None)?,
            };
        }
        Ok(())
    }

    /// The length of an existing reserve, after making sure that all of it has room on the device.
    /// `None` if the file is of no use: another program may have created it, copied it, or given it
    /// a second name.
    fn adopt(&self, name: &str) -> io::Result<Option<u64>> {
        let file = self.dir.open(name, Access::Write)?;
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
    pub(crate) fn keep_reserves(&self, lengths: Lengths) -> Result<bool, SegmentError> {
        self.keep_in_order(lengths, &[ReserveKind::Compaction, ReserveKind::Opening, ReserveKind::Tail])?;
        Ok(self.reserves.is_enough())
    }

    /// The same without the reserve of the tail; returns whether those for compaction and for
    /// opening are complete.
    pub(crate) fn keep_all_but_the_tail(&self, lengths: Lengths) -> Result<bool, SegmentError> {
        self.keep_in_order(lengths, &[ReserveKind::Compaction, ReserveKind::Opening])
    }

    fn keep_in_order(&self, lengths: Lengths, which: &[ReserveKind]) -> Result<bool, SegmentError> {
        let manifest_len = self.manifest.lock().encoded_len() as u64;
        let mut states = self.reserves.states.lock();
        let wanted = u64::from(lengths.reserve);
        states[ReserveKind::Compaction as usize].needed_bytes = wanted;
        states[ReserveKind::Opening as usize].needed_bytes = lengths.opening.into();
        states[ReserveKind::Tail as usize].needed_bytes = wanted / 2;
        let made = self.keep_manifest(states.as_mut_slice(), manifest_len).and_then(|()| {
            which.iter().try_for_each(|reserve| match reserve {
                ReserveKind::Opening => self.keep(&mut states[*reserve as usize], *reserve, lengths.opening.into()),
                _ => self.keep_some(&mut states[*reserve as usize], *reserve, wanted),
            })
        });
        let made = made.and_then(|()| self.keep_manifest(states.as_mut_slice(), manifest_len));
        self.reserves.note(states.as_slice());
        made.map(|()| which.iter().all(|reserve| states[*reserve as usize].is_enough()))
    }

    /// Creates a reserve of this length, or else of a large part of it: a file in many extents
    /// takes room for their list.
    fn keep_some(&self, state: &mut ReserveState, reserve: ReserveKind, wanted: u64) -> Result<(), SegmentError> {
        self.keep(state, reserve, wanted)?;
        if state.is_at_least(wanted) {
            return Ok(());
        }
        // Read again, since other reserves have taken of it. Some users get more room than the
        // system reports.
        let left = self.room()?.available_bytes.min(wanted);
        [left / 8 * 7, wanted / 2, wanted / 4].into_iter().try_for_each(|len| self.keep(state, reserve, len))
    }

    /// Keeps room for a manifest of this length. The caller may hold the manifest's lock.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`] for other reasons than a full device.
    pub(crate) fn keep_manifest_reserve(&self, manifest_len: u64) -> Result<(), SegmentError> {
        let mut states = self.reserves.states.lock();
        let made = self.keep_manifest(states.as_mut_slice(), manifest_len);
        self.reserves.note(states.as_slice());
        made
    }

    /// Keeps room for a manifest of this length. Keeps room for its growth too if the other
    /// reserves are complete; on a full device the free room may be what compaction has just
    /// returned, and they come first. Also if the reserve was given up for a manifest: then the
    /// room of the previous manifest is free.
    fn keep_manifest(&self, states: &mut [ReserveState], manifest_len: u64) -> Result<(), SegmentError> {
        let enough = (manifest_len + GROWTH_BYTES).next_multiple_of(BLOCK_LEN_BYTES);
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
            self.keep(state, ReserveKind::Manifest, enough)?;
        }
        self.keep(state, ReserveKind::Manifest, manifest_len)
    }

    /// Lengthens one reserve to `wanted` bytes, if it is shorter and the device has room for it.
    fn keep(&self, state: &mut ReserveState, reserve: ReserveKind, wanted: u64) -> Result<(), SegmentError> {
        if wanted == 0 || state.is_at_least(wanted) {
            return Ok(());
        }
        self.lengthen(reserve, &mut state.file, wanted)
    }

    fn lengthen(&self, reserve: ReserveKind, kept: &mut Option<ReserveFile>, wanted: u64) -> Result<(), SegmentError> {
        let opened = kept.as_ref().map(|file| (file.name.clone(), self.dir.open(&file.name, Access::Write)));
        // Another program may have removed it.
        let opened =
            opened.filter(|(_, made)| !made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
        let (name, made) = match opened {
            Some(opened) => opened,
            None => {
                *kept = None;
                self.create_reserve(reserve)?
            }
        };
        let made = made.and_then(|file| retry_interrupted(|| file.allocate(wanted)));
        let Err(error) = made else {
            *kept = Some(ReserveFile { name, len_bytes: wanted });
            return Ok(());
        };
        match kept {
            // A short reserve is better than none: without it, new data would take the room. But
            // the part that the failed attempt allocated is returned.
            Some(kept) => self.cut(kept, kept.len_bytes)?,
            None => remove_if_there(self.dir.as_ref(), &name)?,
        }
        if is_full(&error) { Ok(()) } else { Err(SegmentError::io("make", &self.path_of(&name), error)) }
    }

    /// Gives back a reserve's room past `len_bytes`.
    fn cut(&self, kept: &ReserveFile, len_bytes: u64) -> Result<(), SegmentError> {
        let cut = self.dir.open(&kept.name, Access::Write).and_then(|file| file.set_len(len_bytes));
        cut.map_err(|error| SegmentError::io("cut", &self.path_of(&kept.name), error))
    }

    fn create_reserve(&self, reserve: ReserveKind) -> Result<(String, io::Result<Arc<dyn File>>), SegmentError> {
        let name = reserve.name();
        // A failed attempt may have left one.
        remove_if_there(self.dir.as_ref(), &name)?;
        match self.dir.create_new(&name) {
            // A foreign directory.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(self.create_spare_file()),
            made => Ok((name, made)),
        }
    }

    /// Before new data takes room: makes sure that all reserves are complete, or completes them.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`] if one stays incomplete; deletes and compaction may still run, and
    /// free room. [`SegmentError::Io`] or [`SegmentError::Poisoned`] otherwise.
    fn require_reserves(&self, lengths: Lengths) -> Result<(), SegmentError> {
        self.poison.check()?;
        if self.keep_reserves(lengths)? {
            return Ok(());
        }
        self.full.store(true, Ordering::Release);
        Err(SegmentError::Full { path: self.dir.path().to_owned(), needed_bytes: lengths.reserve.into() })
    }

    /// Creates a file for new data beside the reserves, unless the last attempt has shown that
    /// there is no room for `least` bytes: a full device takes milliseconds to refuse, and every
    /// write would ask it again.
    pub(crate) fn grow<T>(
        &self,
        lengths: Lengths,
        least: u32,
        make: impl FnOnce() -> Result<T, SegmentError>,
    ) -> Result<T, SegmentError> {
        let full = || SegmentError::Full { path: self.dir.path().to_owned(), needed_bytes: least.max(1).into() };
        let refused = *self.reserves.refused.lock();
        if refused.is_some_and(|(available, len)| lengths.available_bytes <= available && least >= len) {
            self.full.store(true, Ordering::Release);
            return Err(full());
        }
        let made = self.require_reserves(lengths).and_then(|()| make());
        let is_refused = made.as_ref().is_err_and(SegmentError::is_full) && lengths.available_bytes != u64::MAX;
        *self.reserves.refused.lock() = is_refused.then_some((lengths.available_bytes, least));
        made
    }

    /// Before new data goes into a segment for which a reserve was used up: as
    /// [`grow`](Self::grow), but creates no file.
    #[cold]
    pub(crate) fn require_reserves_again(&self) -> Result<(), SegmentError> {
        let _preparing = self.preparing.lock();
        self.grow(self.lengths(0)?, 0, || Ok(()))
    }

    /// Room has come free: used-up reserves get it first.
    pub(crate) fn refill_reserves(&self) -> Result<bool, SegmentError> {
        if self.reserves.is_enough() {
            *self.reserves.refused.lock() = None;
            return Ok(true);
        }
        // A reserve in use keeps its name until it gets a segment's: meanwhile nobody may create a
        // new one under that name.
        let _preparing = self.preparing.lock();
        self.refill_reserves_while_preparing()
    }

    /// As [`refill_reserves`](Self::refill_reserves), for a caller that holds `preparing`, or has
    /// the store alone.
    pub(crate) fn refill_reserves_while_preparing(&self) -> Result<bool, SegmentError> {
        *self.reserves.refused.lock() = None;
        if self.reserves.is_enough() || planted("reserve_not_put_back") {
            return Ok(true);
        }
        self.keep_reserves(self.lengths(0)?)
    }

    /// The bytes that [`keep_reserves`](Self::keep_reserves) would take for segment reserves.
    pub(crate) fn missing_reserve_bytes(&self, lengths: Lengths) -> u64 {
        let missing = |reserve| u64::from(lengths.reserve).saturating_sub(self.reserves.len_bytes(reserve));
        let opening = u64::from(lengths.opening).saturating_sub(self.reserves.len_bytes(ReserveKind::Opening));
        missing(ReserveKind::Compaction) + opening + missing(ReserveKind::Tail)
    }

    /// The length of the reserve for compaction.
    pub(crate) fn compaction_reserve_len(&self) -> u32 {
        u32::try_from(self.reserves.len_bytes(ReserveKind::Compaction)).unwrap_or(u32::MAX)
    }

    /// Takes a reserve as a spare with room for `least` bytes, if it is that long.
    pub(crate) fn take_reserve(&self, reserve: ReserveKind, least: u32) -> Result<Option<Spare>, SegmentError> {
        let mut states = self.reserves.states.lock();
        let state = &mut states[reserve as usize];
        let Some(kept) = state.file.clone().filter(|file| file.len_bytes >= least.into()) else { return Ok(None) };
        let opened = self.dir.open(&kept.name, Access::Write);
        // A file with a second name, such as a backup's, must not change.
        let is_own = |file: &Arc<dyn File>| file.metadata().is_ok_and(|found| found.links == 1);
        let opened = opened.and_then(|file| if is_own(&file) { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) });
        let spare = match opened {
            Ok(file) => self.map_spare(kept.name, file, u32::try_from(kept.len_bytes).unwrap_or(u32::MAX))?,
            // Another program has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                state.file = None;
                self.reserves.note(states.as_slice());
                return Ok(None);
            }
            Err(error) => return Err(SegmentError::io("open", &self.path_of(&kept.name), error)),
        };
        state.file = None;
        self.reserves.note(states.as_slice());
        Ok(Some(spare))
    }

    /// Removes a reserve, to make room for a manifest: the manifest's own, or else one of the
    /// others. Returns whether there was any.
    pub(crate) fn give_up_room(&self) -> bool {
        let mut states = self.reserves.states.lock();
        [ReserveKind::Manifest, ReserveKind::Tail, ReserveKind::Opening, ReserveKind::Compaction]
            .into_iter()
            .any(|reserve| self.give_up(states.as_mut_slice(), reserve))
    }

    fn give_up(&self, states: &mut [ReserveState], reserve: ReserveKind) -> bool {
        let given = states[reserve as usize].file.take();
        self.reserves.note(states);
        given.is_some_and(|file| self.dir.remove_file(&file.name).is_ok())
    }

    /// A new name in a directory may need a block of room. Frees it by removing the manifest's
    /// reserve; some file systems hand the room out only once the removal is durable.
    ///
    /// # Errors
    ///
    /// A failed sync; the store is then poisoned.
    pub(crate) fn make_room_for_name(&self) -> Result<bool, SegmentError> {
        if planted("names_need_no_room")
            || !self.give_up(self.reserves.states.lock().as_mut_slice(), ReserveKind::Manifest)
        {
            return Ok(false);
        }
        self.sync_dir().map_err(|error| self.poison.latch_sync(error))?;
        Ok(true)
    }

    /// Cuts reserves to the wanted length if they are more than twice as long.
    pub(crate) fn trim_reserves(&self, lengths: Lengths) -> Result<(), SegmentError> {
        *self.reserves.refused.lock() = None;
        let mut states = self.reserves.states.lock();
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
}

#[cfg(test)]
mod tests {
    use super::{DeviceRoom, Lengths, SHORT_LEN_BYTES};

    #[test]
    fn files_fit_their_device() {
        const MIB: u64 = 1 << 20;
        let of = |total_mib: u64, available_bytes: u64| {
            let room = DeviceRoom { total_bytes: total_mib * MIB, available_bytes };
            let Lengths { segment, output, reserve, .. } = Lengths::of(room, 0, 64 << 20, 64 << 20);
            (segment >> 10, output >> 10, reserve >> 10)
        };
        let most = u32::MAX >> 10;
        assert_eq!(of(1 << 20, 1 << 40), (most, most, 1024), "the reserves are short while there is room");
        assert_eq!(of(1 << 20, 256 * MIB), (32 << 10, most, 64 << 10));
        assert_eq!(of(48, 48 * MIB), (768, 768, 768));
        assert_eq!(of(48, MIB), (128, 768, 768));
        assert_eq!(of(1, 0), (16, 16, 16));
        assert_eq!(SHORT_LEN_BYTES >> 10, 16);
    }
}
