//! Advice to the system about the pages of a map.

use std::fs::Metadata;
use std::io;
use std::ops::Range;

use memmap2::MmapRaw;

/// The kind of pages for a file's memory: [`Mapping::keep_in`](super::Mapping::keep_in).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Small pages: a sync writes little more than the changes.
    #[default]
    Small,
    /// The system's choice: it reads around touched pages, in ever larger groups, and later writes
    /// in groups of that size.
    Mixed,
    /// Huge pages if possible. Touching them takes half of the time of mixed ones, and reading a
    /// little less; but a sync writes each changed one as a whole, 2 MiB. For data that is written
    /// much faster than it is synced.
    Huge,
}

/// Touches pages ahead; `false` if the system does not support it (before Linux 5.14).
#[cfg(target_os = "linux")]
pub(super) fn populate(raw: &MmapRaw, at: usize, len: usize) -> io::Result<bool> {
    match raw.advise_range(memmap2::Advice::PopulateWrite, at, len) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn populate(_raw: &MmapRaw, _at: usize, _len: usize) -> io::Result<bool> {
    Ok(false)
}

/// Advises the system not to read around touched pages, because it would then group ever more
/// pages, and write each group as a whole: a sync of one record takes 90 µs at the start of a
/// segment, and 360 µs behind 40 MiB (Linux 6.18). If the system ignores it, only speed changes.
pub(super) fn keep_pages_small(raw: &MmapRaw) {
    let _wish = raw.advise(memmap2::Advice::Random);
}

/// Withdraws the advice for huge pages.
#[cfg(target_os = "linux")]
pub(super) fn forget_huge_pages(raw: &MmapRaw) -> io::Result<()> {
    raw.advise(memmap2::Advice::NoHugePage)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn forget_huge_pages(_raw: &MmapRaw) -> io::Result<()> {
    Ok(())
}

/// Advises the system to use huge pages. It may not support them, or not for this file.
#[cfg(target_os = "linux")]
pub(super) fn wish_for_huge_pages(raw: &MmapRaw) -> io::Result<()> {
    raw.advise(memmap2::Advice::HugePage)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn wish_for_huge_pages(_raw: &MmapRaw) -> io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
pub(super) fn forget_pages(raw: &MmapRaw, at: usize, len: usize) -> io::Result<()> {
    // SAFETY: the advice discards the content of private or anonymous memory. This is a shared map
    // of a file (only `map_raw` and `map_raw_read_only` create those in `FileMaps`), whose content
    // is in the page cache: the next access of a reader or the writer finds the same bytes there.
    unsafe { raw.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, len) }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn forget_pages(_raw: &MmapRaw, _at: usize, _len: usize) -> io::Result<()> {
    Ok(())
}

/// Whether [`are_in_memory`] answers for a file: the system tells only those who own it. To others
/// it says that all pages are in memory.
#[cfg(target_os = "linux")]
pub(super) fn tells_pages(metadata: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::uid(metadata) == rustix::process::geteuid().as_raw()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn tells_pages(_metadata: &Metadata) -> bool {
    false
}

/// Whether all pages of a range are in memory. The range lies in the map and begins with a page.
#[cfg(target_os = "linux")]
pub(super) fn are_in_memory(raw: &MmapRaw, range: Range<usize>) -> bool {
    const PAGES: usize = 64;
    let (mut pages, page_bytes) = ([0; PAGES], rustix::param::page_size());
    range.clone().step_by(PAGES * page_bytes).all(|at| {
        let len = (PAGES * page_bytes).min(range.end - at);
        // SAFETY: the addresses lie in the map, so the call reads only page tables. It writes a
        // byte for each of at most `PAGES` pages.
        let answer = unsafe { libc::mincore(raw.as_mut_ptr().add(at).cast(), len, pages.as_mut_ptr()) };
        let asked = pages.get(..len.div_ceil(page_bytes)).unwrap_or_default();
        answer == 0 && asked.iter().all(|page| page & 1 == 1)
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn are_in_memory(_raw: &MmapRaw, _range: Range<usize>) -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::FileExt;

    use crate::access::Access;
    use crate::mapping::{MapPermit, Mapping};

    #[test]
    fn only_pages_that_are_not_in_memory_are_read_ahead() {
        let file = tempfile::tempfile().unwrap();
        // Written bytes are in memory on each file system, a hole is not.
        file.write_all_at(&[7; 256 << 10], 0).unwrap();
        file.set_len(1 << 20).unwrap();
        // SAFETY: the file has no name, and this test does not change it any more.
        let permit = unsafe { MapPermit::new() };
        let mapping = Mapping::of_file(&file, 1 << 20, Access::Read, permit).unwrap();
        assert!(!mapping.will_need(0..128 << 10).unwrap());
        assert!(!mapping.will_need(100..256 << 10).unwrap());
        assert!(mapping.will_need(200 << 10..300 << 10).unwrap(), "a part is not there");
        assert!(mapping.will_need(512 << 10..1 << 20).unwrap());
        assert!(!mapping.will_need(1 << 20..2 << 20).unwrap(), "behind the end");
    }
}
