//! Memory maps of files: the only module of this crate with `unsafe`.
//!
//! A mapping is a range of bytes with a *published* prefix. One writer (the holder of the only
//! [`MappingWriter`]) copies bytes behind the prefix and then extends the prefix over them; any
//! number of readers borrow from the prefix, without locks. Published bytes are never written
//! again, and unpublished bytes are never lent. So a borrowed slice never changes, which makes the
//! interface safe.
//!
//! A file open for appends is mapped twice, with different advice: a writable map for the writer,
//! which touches pages ahead of the end and chooses their size, and a read-only map for readers,
//! which may load evicted pages again. Both show the bytes of the page cache.
//!
//! The memory is either the pages of a file ([`Mapping::of_file`]), or plain shared memory
//! ([`Mapping::of_memory`]) that a file system without maps, such as the simulated one, uses as the
//! content of the file.

mod advice;
mod file_use;
mod fork_guard;
mod memory;
mod permit;

use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;

use crate::access::Access;
use crate::mutants::planted;
pub use advice::Pages;
use advice::{
    are_in_memory, forget_huge_pages, forget_pages, keep_pages_small, populate, tells_pages, wish_for_huge_pages,
};
use file_use::MapUse;
pub(crate) use file_use::WriterUse;
pub(crate) use fork_guard::FORKED;
pub use fork_guard::ForkGuard;
#[cfg(feature = "sim")]
pub use fork_guard::run_in_fork;
pub use memory::{Frozen, MemoryObserver, SharedMemory};
pub use permit::MapPermit;

/// The number of bytes that one step of [`Mapping::prefault`] touches: small enough that no step
/// holds the kernel's map lock for long.
const PREFAULT_STEP_BYTES: usize = 256 << 10;

/// The size of a huge page: the range of a last-level page table of the processor.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A file's bytes in memory, up to a published end. One writer appends behind the end, any number
/// of readers borrow the bytes before it.
pub struct Mapping {
    /// The address of the bytes for readers.
    base: *const u8,
    /// Their address for the writer.
    target: *mut u8,
    len: usize,
    /// A published end that readers have seen.
    seen: AtomicUsize,
    published: PublishedEnd,
    /// Pairs the mapping with its writer; no two mappings of a process share one.
    id: u64,
    writer_taken: AtomicBool,
    access: Access,
    backing: Backing,
}

/// The end of the published bytes, which each append moves.
///
/// It has cache lines of its own (two, because processors fetch pairs of them). A reader of what
/// lies before the `seen` end does not read it. Otherwise a reader that follows the writer would
/// take these lines from it at each record, and the writer would wait for them at each append.
#[repr(align(128))]
#[derive(Default)]
struct PublishedEnd(AtomicUsize);

enum Backing {
    File(FileMaps),
    Memory { memory: Arc<SharedMemory>, observer: Arc<dyn MemoryObserver> },
}

/// The maps of one file.
struct FileMaps {
    /// For a complete file, such as a table. The first field, so that it ends before the maps: a
    /// new file may get the inode of a removed one as soon as they end, and nobody reads them any
    /// more.
    _mapped: Option<MapUse>,
    reading: MmapRaw,
    /// Whether the system tells this process which pages of the file are in memory.
    tells_pages: bool,
    /// The number of readers that read the whole file from front to back.
    in_order: Mutex<u32>,
    /// The writer's map, for a file open for appends.
    writing: Option<MmapRaw>,
}

/// The right to append to one [`Mapping`]; there is one per mapping, and it cannot be cloned.
#[derive(Debug)]
pub struct MappingWriter {
    id: u64,
}

/// The error of a mapped append, which wrote nothing that readers can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// The bytes do not fit behind the published ones.
    #[error("the bytes reach beyond the end of the mapping")]
    DoesNotFit,
    /// The writer belongs to another mapping.
    #[error("the writer belongs to another mapping")]
    WrongWriter,
    /// The mapping is for reading.
    #[error("the mapping is read-only")]
    ReadOnly,
    /// The observer of plain memory panicked. It may have seen bytes that will not be published.
    #[error("the observer of the memory panicked")]
    ObserverPanicked,
}

// SAFETY: `base` and `target` point into `backing`, which lives as long as the mapping and may
// itself move between threads. All access through them follows the protocol in the module's
// documentation, which does not depend on the thread.
unsafe impl Send for Mapping {}
// SAFETY: shared references lend slices of published bytes, which nobody writes, and let one `&mut
// MappingWriter` write unpublished bytes, which nobody reads. The published end moves by release
// stores and is read by acquire loads.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len_bytes` of a file.
    ///
    /// The file must have and keep that length, and nobody else may write to it: the creator of the
    /// [`MapPermit`] promises this. (If another process truncates a mapped file, a signal kills the
    /// readers; no program that maps files can prevent it.)
    ///
    /// # Errors
    ///
    /// Those of the system; [`io::ErrorKind::UnexpectedEof`] if the file is shorter;
    /// [`io::ErrorKind::ResourceBusy`] for a table that this process has open for writing.
    pub fn of_file(file: &std::fs::File, len_bytes: usize, access: Access, permit: MapPermit) -> io::Result<Self> {
        let mapped = match access {
            Access::Read if permit.is_enforced() => Some(MapUse::begin(&file.metadata()?)?),
            Access::Write if permit.is_enforced() => return Err(io::ErrorKind::InvalidInput.into()),
            _ => None,
        };
        let metadata = file.metadata()?;
        if metadata.len() < len_bytes as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut options = MmapOptions::new();
        options.len(len_bytes);
        let reading = options.map_raw_read_only(file)?;
        // Otherwise each fault would read the whole read-ahead size, up to many megabytes, while a
        // lookup needs one or two pages.
        if !planted("lookups_read_ahead") {
            let _wish = reading.advise(memmap2::Advice::Random);
        }
        let writing = match access {
            Access::Read => None,
            Access::Write => Some(options.map_raw(file)?),
        };
        writing.iter().for_each(keep_pages_small);
        let (base, target) = (reading.as_ptr(), writing.as_ref().map_or(std::ptr::null_mut(), MmapRaw::as_mut_ptr));
        let tells_pages = tells_pages(&metadata);
        let maps = FileMaps { reading, tells_pages, in_order: Mutex::new(0), writing, _mapped: mapped };
        Ok(Self::new((base, target), len_bytes, access, Backing::File(maps)))
    }

    /// A mapping over the first `len_bytes` of plain memory, or all of it if it is shorter;
    /// `observer` gets each append and serves [`sync`](Self::sync).
    #[must_use]
    pub fn of_memory(
        memory: Arc<SharedMemory>,
        len_bytes: usize,
        access: Access,
        observer: Arc<dyn MemoryObserver>,
    ) -> Self {
        memory.note_mapping();
        let (base, len) = (memory.base(), memory.len().min(len_bytes));
        Self::new((base, base), len, access, Backing::Memory { memory, observer })
    }

    fn new((base, target): (*const u8, *mut u8), len: usize, access: Access, backing: Backing) -> Self {
        Self {
            base,
            target,
            len,
            seen: AtomicUsize::new(0),
            published: PublishedEnd::default(),
            id: next_id(),
            writer_taken: AtomicBool::new(false),
            access,
            backing,
        }
    }

    /// The number of mapped bytes, published or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the mapping has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it uses memory maps of the process, whose number is limited.
    pub(crate) fn takes_maps(&self) -> bool {
        matches!(self.backing, Backing::File(_))
    }

    /// Whether the mapping takes appends.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.access == Access::Write
    }

    /// The end of the published bytes.
    #[must_use]
    #[inline]
    pub fn published(&self) -> usize {
        self.published.0.load(Ordering::Acquire)
    }

    /// A published end, not before `wanted` if so much is published.
    #[inline]
    fn end_for(&self, wanted: usize) -> usize {
        let seen = self.seen.load(Ordering::Acquire);
        if wanted <= seen {
            return seen;
        }
        let end = self.published();
        // Another thread may have stored a later end. This one is published too.
        self.seen.store(end, Ordering::Release);
        end
    }

    /// The bytes of a range; `None` unless all of it is published. Costs an atomic load.
    #[must_use]
    #[inline]
    pub fn slice(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.end_for(range.end) {
            return None;
        }
        // SAFETY: the range lies within the published bytes, which lie within `len` bytes from
        // `base`. They are initialised (a file's bytes always are, memory starts as zeros) and are
        // never written again while `self` is borrowed, through this map or the writer's: writers
        // write behind the published end only, and `reset` needs `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(self.base.add(range.start), range.end - range.start) })
    }

    /// All published bytes from `start` on; `None` if none are.
    #[must_use]
    #[inline]
    pub fn published_from(&self, start: usize) -> Option<&[u8]> {
        let end = self.published();
        if start < end { self.slice(start..end) } else { None }
    }

    /// Published bytes from `start` on, at least those of the append that has published this byte;
    /// `None` if it is not published.
    #[must_use]
    #[inline]
    pub fn appended_at(&self, start: usize) -> Option<&[u8]> {
        let end = self.end_for(start.saturating_add(1));
        if start >= end {
            return None;
        }
        // SAFETY: as in `slice`: `start < end`, and the bytes up to `end` are published.
        Some(unsafe { std::slice::from_raw_parts(self.base.add(start), end - start) })
    }

    /// The writer, for the first call; `None` for later calls.
    #[must_use]
    pub fn writer(&self) -> Option<MappingWriter> {
        let taken = self.writer_taken.swap(true, Ordering::AcqRel);
        (!taken).then_some(MappingWriter { id: self.id })
    }

    /// Copies `parts` in order behind the published end, and publishes them together. Returns the
    /// new published end.
    ///
    /// # Errors
    ///
    /// [`MappingError`]; then nothing was published.
    #[inline]
    pub fn append(&self, writer: &mut MappingWriter, parts: &[&[u8]]) -> Result<usize, MappingError> {
        if writer.id != self.id {
            return Err(MappingError::WrongWriter);
        }
        if self.access != Access::Write {
            return Err(MappingError::ReadOnly);
        }
        // Only this writer moves the end, so a relaxed load sees its own last store.
        let start = self.published.0.load(Ordering::Relaxed);
        let mut room = self.len - start;
        for part in parts {
            room = room.checked_sub(part.len()).ok_or(MappingError::DoesNotFit)?;
        }
        let end = self.len - room;
        match &self.backing {
            Backing::File(_) => self.copy(start, parts),
            Backing::Memory { memory, observer } => {
                let mut at = start;
                for part in parts {
                    memory.write_at(at, part).map_err(|Frozen| MappingError::DoesNotFit)?;
                    heard(|| observer.wrote(at, part)).ok_or(MappingError::ObserverPanicked)?;
                    at += part.len();
                }
                memory.freeze(end);
            }
        }
        self.published.0.store(end, Ordering::Release);
        Ok(end)
    }

    #[inline]
    fn copy(&self, start: usize, parts: &[&[u8]]) {
        let mut at = start;
        for part in parts {
            // SAFETY: `append` has checked that all parts together fit between `start` and `len`,
            // that the pages are writable, and that the caller holds the one writer. No reader sees
            // unpublished bytes, and a part that borrows from this mapping lies before `start`, so
            // source and target do not overlap, neither by their addresses nor in the file.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), self.target.add(at), part.len()) };
            at += part.len();
        }
    }

    /// Publishes bytes that reached the file other than by [`append`](Self::append): by positioned
    /// writes, or from an earlier process. They must not be written again.
    ///
    /// # Errors
    ///
    /// [`MappingError::DoesNotFit`] if `end` is beyond the mapping; [`MappingError::WrongWriter`].
    /// An end before the published one changes nothing.
    pub fn publish(&self, writer: &mut MappingWriter, end: usize) -> Result<(), MappingError> {
        if writer.id != self.id {
            return Err(MappingError::WrongWriter);
        }
        if end > self.len {
            return Err(MappingError::DoesNotFit);
        }
        if let Backing::Memory { memory, .. } = &self.backing {
            memory.freeze(end);
        }
        self.published.0.fetch_max(end, Ordering::Release);
        Ok(())
    }

    /// Unpublishes all bytes, so that a new writer can write from the start again. Returns `false`,
    /// without a change, while another mapping of the same memory lives.
    #[must_use]
    pub fn reset(&mut self) -> bool {
        if let Backing::Memory { memory, .. } = &self.backing
            && !memory.thaw()
        {
            return false;
        }
        self.keep_in(Pages::Small);
        // No reader exists that could still end its count.
        self.count_in_order(|_| 0);
        // An old writer's id no longer matches.
        self.id = next_id();
        self.writer_taken = AtomicBool::new(false);
        if !planted("seen_bytes_survive_a_reset") {
            self.seen = AtomicUsize::new(0);
        }
        self.published = PublishedEnd::default();
        true
    }

    /// The writer's map.
    fn writing(&self) -> Option<&MmapRaw> {
        match &self.backing {
            Backing::File(maps) => maps.writing.as_ref(),
            Backing::Memory { .. } => None,
        }
    }

    /// Sets the kind of pages for bytes appended from now on, whichever thread touches the pages
    /// first. Only advice: if the system ignores it, only speed changes.
    pub fn keep_in(&self, pages: Pages) {
        let Some(raw) = self.writing() else { return };
        let _wishes = match pages {
            Pages::Small => [forget_huge_pages(raw), raw.advise(memmap2::Advice::Random)],
            Pages::Mixed => [forget_huge_pages(raw), raw.advise(memmap2::Advice::Normal)],
            // "Random" too, because otherwise the system would also load the next huge page.
            Pages::Huge => [wish_for_huge_pages(raw), raw.advise(memmap2::Advice::Random)],
        };
    }

    /// Touches the pages of a range for writing, so that later appends cause no page fault; the
    /// pages become dirty. A part behind the end is ignored. Returns the number of touched bytes, 0
    /// if the system does not support it, which only costs time later.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn prefault(&self, range: Range<usize>) -> io::Result<usize> {
        let Some(raw) = self.writing() else { return Ok(0) };
        let end = range.end.min(self.len);
        let mut at = range.start;
        while at < end {
            let step = PREFAULT_STEP_BYTES.min(end - at);
            if !populate(raw, at, step)? {
                return Ok(0);
            }
            at += step;
        }
        Ok(end.saturating_sub(range.start))
    }

    /// Removes the pages of a range from the writer's page tables, all at once; its next access
    /// maps them again. Their bytes and dirty state do not change, and readers keep their maps. It
    /// is useful before a sync of several pages: otherwise the kernel visits the page tables page
    /// by page, and for each page interrupts every other processor that runs this process.
    ///
    /// # Errors
    ///
    /// Those of the system. An error affects only speed.
    pub fn unmap_pages(&self, range: Range<usize>) -> io::Result<()> {
        let Some(raw) = self.writing() else { return Ok(()) };
        let page_bytes = rustix::param::page_size();
        let start = range.start / page_bytes * page_bytes;
        let end = range.end.min(self.len);
        if start >= end { Ok(()) } else { forget_pages(raw, start, end - start) }
    }

    /// Advises the system that a reader reads the whole mapping from front to back. The system then
    /// reads ahead in large pages, which cost a third of the processor time of small ones. The
    /// advice holds until every begin has its [`end_in_order`](Self::end_in_order); until then
    /// lookups read more than they need. If the system ignores it, reading takes longer.
    ///
    /// The advice is "normal". With "sequential", Linux 6.18 reads piece by piece in small pages,
    /// and only when the reader waits, unless the first missing page is the file's first.
    pub(crate) fn begin_in_order(&self) {
        self.count_in_order(|readers| readers + 1);
    }

    /// Ends one [`begin_in_order`](Self::begin_in_order).
    pub(crate) fn end_in_order(&self) {
        self.count_in_order(|readers| readers.saturating_sub(1));
    }

    fn count_in_order(&self, change: impl FnOnce(u32) -> u32) {
        let Backing::File(maps) = &self.backing else { return };
        let mut readers = maps.in_order.lock();
        let before = *readers;
        *readers = change(before);
        let _wish = match (before, *readers) {
            (0, 1..) => maps.reading.advise(memmap2::Advice::Normal),
            (1.., 0) => maps.reading.advise(memmap2::Advice::Random),
            _ => Ok(()),
        };
    }

    /// Advises the system, for the life of the mapping, that readers read it from front to back.
    pub fn read_in_order(&self) {
        if let Backing::File(maps) = &self.backing {
            *maps.in_order.lock() = 1;
            // If the system ignores it, reading takes longer.
            let _wish = maps.reading.advise(memmap2::Advice::Normal);
        }
    }

    /// Starts reading a range into memory, without waiting, unless all of it is there. A part
    /// behind the end is ignored. Returns whether it asked the system to read.
    ///
    /// The system takes 20 µs to find that 64 KiB are in memory already, when it is asked to read
    /// them, and half a microsecond, when it is asked only that.
    ///
    /// # Errors
    ///
    /// Those of the system. An error affects only speed.
    pub fn will_need(&self, range: Range<usize>) -> io::Result<bool> {
        let Backing::File(maps) = &self.backing else { return Ok(false) };
        let page_bytes = rustix::param::page_size();
        let start = range.start / page_bytes * page_bytes;
        let end = range.end.min(self.len);
        if start >= end {
            return Ok(false);
        }
        let tells_pages = maps.tells_pages && !planted("pages_in_memory_are_read");
        if tells_pages && (are_in_memory(&maps.reading, start..end) || planted("missing_pages_are_not_read")) {
            return Ok(false);
        }
        maps.reading.advise_range(memmap2::Advice::WillNeed, start, end - start)?;
        Ok(true)
    }

    /// Makes the content of the range at the begin of the call durable, in whole pages. The file's
    /// length must already be synced.
    ///
    /// # Errors
    ///
    /// Those of the system. After an error, writes since the last success may be durable or lost.
    pub fn sync(&self, range: Range<usize>) -> io::Result<()> {
        let end = range.end.min(self.len);
        if range.start >= end {
            return Ok(());
        }
        match &self.backing {
            Backing::File(maps) => {
                maps.writing.as_ref().unwrap_or(&maps.reading).flush_range(range.start, end - range.start)
            }
            Backing::Memory { observer, .. } => {
                let panicked = || Err(io::Error::other(MappingError::ObserverPanicked));
                heard(|| observer.sync(range.start..end)).unwrap_or_else(panicked)
            }
        }
    }
}

/// Calls an observer, which is the caller's code; `None` if it panics. The mapping is then
/// unchanged.
fn heard<R>(call: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Backing::Memory { memory, .. } = &self.backing {
            memory.forget_mapping();
        }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Mapping")
            .field("len", &self.len)
            .field("published", &self.published())
            .finish_non_exhaustive()
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::ops::Range;
    use std::sync::Arc;

    use super::{Access, Mapping, MemoryObserver, SharedMemory};

    struct Ignores;

    impl MemoryObserver for Ignores {
        fn wrote(&self, _offset: usize, _bytes: &[u8]) {}

        fn sync(&self, _range: Range<usize>) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn readers_see_each_append_at_once_and_nothing_after_a_reset() {
        let memory = Arc::new(SharedMemory::new(&[0; 16]));
        let mut mapping = Mapping::of_memory(memory, 16, Access::Write, Arc::new(Ignores));
        let mut writer = mapping.writer().unwrap();
        for appended in [&b"ab"[..], b"cde"] {
            let start = mapping.published();
            assert_eq!(mapping.appended_at(start), None);
            mapping.append(&mut writer, &[appended]).unwrap();
            assert_eq!(mapping.appended_at(start), Some(appended));
            assert_eq!(mapping.published_from(start), Some(appended));
            assert_eq!(mapping.slice(start..start + 1), Some(&appended[..1]));
        }
        assert_eq!(mapping.published_from(1), Some(&b"bcde"[..]));
        assert!(mapping.slice(4..6).is_none());
        assert!(mapping.reset());
        assert_eq!((mapping.appended_at(0), mapping.slice(0..1)), (None, None));
    }
}
