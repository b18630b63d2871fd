//! Advice to the system about the pages of a map.

use std::io;

use memmap2::MmapRaw;

/// In what pages the system is to keep a file in memory:
/// [`Mapping::keep_in`](super::Mapping::keep_in).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// As small as they come: a sync writes little more than what has changed.
    #[default]
    Small,
    /// As the system likes: it reads around what is touched, ever more together, and later writes
    /// as much together.
    Mixed,
    /// Huge where that is possible. Touching them takes half of the time that mixed ones take, and
    /// reading from them a little less; but a sync writes each that has changed as a
    /// whole, 2 MiB. For what is written much faster than it is synced.
    Huge,
}

/// Whether the system knows how to touch pages ahead (Linux 5.14 and later).
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

/// Asks the system not to read around what is touched, because then it would keep ever more pages
/// together, and write them together: a sync of one record takes 90 µs at the start of a segment,
/// and behind 40 MiB 360 (Linux 6.18). A wish: if it is not granted, nothing changes but speed.
pub(super) fn keep_pages_small(raw: &MmapRaw) {
    let _wish = raw.advise(memmap2::Advice::Random);
}

/// Takes the wish for huge pages back.
#[cfg(target_os = "linux")]
pub(super) fn forget_huge_pages(raw: &MmapRaw) -> io::Result<()> {
    raw.advise(memmap2::Advice::NoHugePage)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn forget_huge_pages(_raw: &MmapRaw) -> io::Result<()> {
    Ok(())
}

/// Asks the system for huge pages. It may know none, or have none for this file.
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
    // SAFETY: the advice would lose the content of private or anonymous memory; this is a shared
    // map of a file (those in `FileMaps` are made by `map_raw` and `map_raw_read_only` alone),
    // whose content is the page cache's: the next access, a reader's or the writer's, finds the
    // same bytes there.
    unsafe { raw.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, len) }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn forget_pages(_raw: &MmapRaw, _at: usize, _len: usize) -> io::Result<()> {
    Ok(())
}
