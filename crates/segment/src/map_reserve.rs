//! Memory maps reserved for compaction.
//!
//! Linux allows a process a limited number of memory maps (`vm.max_map_count`, about 65,000 by
//! default), and a segment takes one or two. When all are in use, only compaction frees some, and
//! it needs a few for its outputs first. So a store reserves some from its open on. New segments
//! for data are created only while the reserve exists; it is released when compaction reaches the
//! limit.

use std::io;

use hightower_seams::lock_order::Rank;
use memmap2::{Advice, MmapMut, MmapOptions};

use crate::error::SegmentError;
use crate::lock::RankedMutex;
use crate::mutants::planted;

/// Enough for the outputs of one compaction in all but extreme cases: two maps for the output being
/// written, and one for each complete output, 62 of up to 64 MiB. The number is odd: see
/// [`kept_apart`].
const KEPT_MAPS: usize = 65;

/// The reserved maps of one store.
#[derive(Debug)]
pub(crate) struct MapReserve {
    state: RankedMutex<KeptMaps>,
}

impl Default for MapReserve {
    fn default() -> Self {
        Self { state: RankedMutex::new(Rank::KeptMaps, KeptMaps::default()) }
    }
}

#[derive(Debug, Default)]
struct KeptMaps {
    kept: Option<MmapMut>,
    /// Compaction has reached the limit and is creating an output.
    is_lent: bool,
}

/// While this lives, files may be mapped without a reserve.
#[derive(Debug)]
struct Lent<'a>(&'a MapReserve);

impl MapReserve {
    /// Creates the reserve if it is missing.
    ///
    /// # Errors
    ///
    /// Out of memory, if the process has too few maps left.
    pub(crate) fn keep(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.kept.is_none() && !state.is_lent && !planted("no_maps_are_kept") {
            state.kept = Some(kept_apart(KEPT_MAPS)?);
        }
        Ok(())
    }

    /// Maps a file for compaction. If the process has no map left, it releases the reserve and
    /// tries again. Another thread may take the last maps for a moment, to check the reserve.
    pub(crate) fn or_lend<T>(&self, map: impl Fn() -> Result<T, SegmentError>) -> Result<T, SegmentError> {
        match map() {
            Err(error) if error.is_out_of_maps() => {
                let _lent = self.lend();
                map()
            }
            made => made,
        }
    }

    /// Releases the maps for an output of compaction.
    fn lend(&self) -> Lent<'_> {
        *self.state.lock() = KeptMaps { kept: None, is_lent: true };
        Lent(self)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_lent = false;
    }
}

/// Memory of `count` pages that counts as `count` maps: the system merges neighbours only if they
/// have the same advice. The first and the last page have an advice that adjacent maps do not have.
fn kept_apart(count: usize) -> io::Result<MmapMut> {
    let page_bytes = rustix::param::page_size();
    let pages = MmapOptions::new().len(count * page_bytes).map_anon()?;
    for page in (0..count).step_by(2) {
        // The system returns "try again" when no map is left.
        let split = pages.advise_range(Advice::Random, page * page_bytes, page_bytes);
        split.map_err(|_| io::Error::from(rustix::io::Errno::NOMEM))?;
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::{KEPT_MAPS, MapReserve};

    #[cfg(target_os = "linux")]
    fn maps() -> usize {
        std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
    }

    /// Other threads of the test process may map or unmap some memory meanwhile.
    #[test]
    #[cfg(target_os = "linux")]
    #[cfg_attr(miri, ignore = "looks at the process's maps")]
    fn kept_maps_count_and_come_free() {
        let reserve = MapReserve::default();
        let few = KEPT_MAPS / 2;
        let before = maps();
        reserve.keep().unwrap();
        reserve.keep().unwrap();
        let kept = maps();
        assert!((before + few..before + 2 * KEPT_MAPS - few).contains(&kept), "{before}, then {kept}");
        let lent = reserve.lend();
        reserve.keep().unwrap();
        assert!(maps() < before + few, "kept while they are lent");
        drop(lent);
        reserve.keep().unwrap();
        assert!(maps() > before + few);
    }
}
