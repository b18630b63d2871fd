//! Memory that is a file's: the only module of this crate with `unsafe`.
//!
//! A mapping is a run of bytes of which a prefix is *published*. One writer (whoever holds the
//! [`MappingWriter`]; there is never a second one) copies bytes behind the prefix and then moves
//! the prefix's end over them; any number of readers borrow from the prefix, without locks. Since
//! published bytes are never written again, and unpublished ones never lent, a borrowed slice never
//! changes: that is what makes the interface safe.
//!
//! A file that is appended to is mapped twice, since what is wished of its pages differs: by the
//! writer, which touches them ahead, in ever more or as few at once as suits it; and by readers, to
//! whom a page comes back after the system has given it up, and who cannot write. Both see the same
//! bytes: they are the page cache's.
//!
//! Behind it is either a file's pages ([`Mapping::of_file`]) or plain shared memory
//! ([`Mapping::of_memory`]), which a file system without maps, for one the simulated one, uses as
//! the image of the file.

mod fork_guard;

use std::cell::UnsafeCell;
use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;

use crate::fs::Access;
use crate::mutants::planted;
pub(crate) use fork_guard::FORKED;
pub use fork_guard::ForkGuard;
#[cfg(feature = "sim")]
pub use fork_guard::run_in_fork;

/// How many bytes one step of [`Mapping::prefault`] touches: small enough that no step holds the
/// kernel's map lock for long.
const PREFAULT_STEP_BYTES: usize = 256 << 10;

/// A huge page: as much as the last level of the processor's page tables covers.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// In what pages the system is to keep a file in memory: [`Mapping::keep_in`].
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

/// The promise that a map of a file needs, and that no type can make: that nobody cuts the file or
/// writes to what is lent. One is used up by each map, and only who writes `unsafe` makes one;
/// whoever implements [`File`](crate::File) passes it on to the file that it stands for, and to no
/// other.
///
/// Without it none of these compiles. A write under a borrowed slice:
///
/// ```compile_fail,E0133
/// use hightower_segment::{Access, MapPermit, Mapping};
/// # let path = "file";
/// let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
/// let map = Mapping::of_file(&file, 4096, Access::Read, MapPermit::new()).unwrap();
/// map.publish(&mut map.writer().unwrap(), 4096).unwrap();
/// let lent = map.slice(0..1).unwrap();
/// std::os::unix::fs::FileExt::write_at(&file, b"x", 0).unwrap();
/// println!("{lent:?}");
/// ```
///
/// A second map of the same file, through the seam:
///
/// ```compile_fail,E0133
/// use hightower_segment::{Access, Fs, MapPermit, RealFs};
/// let dir = RealFs.open_dir(std::path::Path::new("dir")).unwrap();
/// let file = dir.open("file", Access::Write).unwrap();
/// let (first, second) = (file.map(4096, Access::Read, MapPermit::new()), file.map(4096, Access::Write, MapPermit::new()));
/// ```
///
/// A file that is cut to nothing while it is mapped, which would end the process by a signal:
///
/// ```compile_fail,E0133
/// use hightower_segment::{Access, Fs, MapPermit, RealFs};
/// let dir = RealFs.open_dir(std::path::Path::new("dir")).unwrap();
/// let file = dir.open("file", Access::Write).unwrap();
/// let map = file.map(4096, Access::Read, MapPermit::new()).unwrap();
/// map.publish(&mut map.writer().unwrap(), 4096).unwrap();
/// file.set_len(0).unwrap();
/// println!("{:?}", map.slice(0..1));
/// ```
///
/// Nor can one be made up, or used twice:
///
/// ```compile_fail,E0423
/// let permit = hightower_segment::MapPermit(());
/// ```
///
/// ```compile_fail,E0382
/// fn twice(file: &dyn hightower_segment::File, permit: hightower_segment::MapPermit) {
///     let first = file.map(1, hightower_segment::Access::Read, permit);
///     let second = file.map(1, hightower_segment::Access::Read, permit);
/// }
/// ```
#[derive(Debug)]
pub struct MapPermit(());

impl MapPermit {
    /// The promise for one map.
    ///
    /// # Safety
    ///
    /// As long as the mapping lives, nobody makes the file shorter than what is mapped of it, but
    /// for the part behind all that is ever published; and nobody writes to a byte of it that
    /// this mapping, or another one of the file, has published: neither through a file nor through
    /// a mapping, in no process.
    #[must_use]
    pub unsafe fn new() -> Self {
        Self(())
    }

    /// The promise for a file of a store, by the rules of this crate: the store's lock keeps other
    /// stores and other processes of this kind away; a file is appended to by one writer,
    /// behind what it has published; it is cut only where nobody has published and nobody will
    /// append; it is used again only when its mapping is nobody's any more. What the rules cannot
    /// rule out is somebody who does not know them: a program that writes to the store's files,
    /// or this one, by their paths.
    pub(crate) fn of_store() -> Self {
        // SAFETY: the rules above.
        unsafe { Self::new() }
    }
}

/// A file's bytes in memory, up to a published end: one writer appends behind it, any number of
/// readers borrow before it.
pub struct Mapping {
    /// Where readers find the bytes.
    base: *const u8,
    /// Where the writer puts them.
    target: *mut u8,
    len: usize,
    published: AtomicUsize,
    /// Pairs the mapping with its writer; no two mappings of a process share one.
    id: u64,
    writer_taken: AtomicBool,
    access: Access,
    backing: Backing,
}

enum Backing {
    File(FileMaps),
    Memory { memory: Arc<SharedMemory>, observer: Arc<dyn MemoryObserver> },
}

/// The maps of one file.
struct FileMaps {
    reading: MmapRaw,
    /// How many read all of it from front to back.
    in_order: Mutex<u32>,
    /// If it is appended to.
    writing: Option<MmapRaw>,
}

/// The right to append to one [`Mapping`]; there is one per mapping, and it cannot be cloned.
#[derive(Debug)]
pub struct MappingWriter {
    id: u64,
}

/// Why a mapped append did not happen. Nothing was written.
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
    /// The observer of plain memory panicked. It may have heard of bytes that do not count.
    #[error("the observer of the memory panicked")]
    ObserverPanicked,
}

// SAFETY: `base` and `target` point into `backing`, which lives as long as the mapping and is
// itself free to move between threads. All access through them follows the protocol of the module's
// story, which needs no particular thread.
unsafe impl Send for Mapping {}
// SAFETY: shared references give out slices of published bytes, which nobody writes, and let one
// `&mut MappingWriter` write unpublished bytes, which nobody reads. The published end moves by
// release stores and is read by acquire loads.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len_bytes` of a file.
    ///
    /// The file must be as long as that and stay so, and nobody else may write to it: who makes the
    /// [`MapPermit`] promises it. (A process that cuts a mapped file makes its readers die by a
    /// signal; no program that maps files can prevent that.)
    ///
    /// # Errors
    ///
    /// Those of the system; [`io::ErrorKind::UnexpectedEof`] if the file is shorter.
    pub fn of_file(file: &std::fs::File, len_bytes: usize, access: Access, _permit: MapPermit) -> io::Result<Self> {
        if file.metadata()?.len() < len_bytes as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut options = MmapOptions::new();
        options.len(len_bytes);
        let reading = options.map_raw_read_only(file)?;
        // Or a page that is not in memory would bring as much as the system reads ahead of a file, up to
        // many megabytes, of which a lookup needs a page or two.
        if !planted("lookups_read_ahead") {
            let _wish = reading.advise(memmap2::Advice::Random);
        }
        let writing = match access {
            Access::Read => None,
            Access::Write => Some(options.map_raw(file)?),
        };
        writing.iter().for_each(keep_pages_small);
        let (base, target) = (reading.as_ptr(), writing.as_ref().map_or(std::ptr::null_mut(), MmapRaw::as_mut_ptr));
        let maps = FileMaps { reading, in_order: Mutex::new(0), writing };
        Ok(Self::new((base, target), len_bytes, access, Backing::File(maps)))
    }

    /// A mapping over the first `len_bytes` of plain memory, or all of it if it is shorter;
    /// `observer` learns of each append and serves [`sync`](Self::sync).
    #[must_use]
    pub fn of_memory(
        memory: Arc<SharedMemory>,
        len_bytes: usize,
        access: Access,
        observer: Arc<dyn MemoryObserver>,
    ) -> Self {
        memory.mappings.fetch_add(1, Ordering::AcqRel);
        let (base, len) = (memory.base(), memory.len().min(len_bytes));
        Self::new((base, base), len, access, Backing::Memory { memory, observer })
    }

    fn new((base, target): (*const u8, *mut u8), len: usize, access: Access, backing: Backing) -> Self {
        Self {
            base,
            target,
            len,
            published: AtomicUsize::new(0),
            id: next_id(),
            writer_taken: AtomicBool::new(false),
            access,
            backing,
        }
    }

    /// How many bytes are mapped, published or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it takes memory maps of the process.
    pub(crate) fn takes_maps(&self) -> bool {
        matches!(self.backing, Backing::File(_))
    }

    /// Whether it can be appended to.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.access == Access::Write
    }

    /// Where the published bytes end.
    #[must_use]
    #[inline]
    pub fn published(&self) -> usize {
        self.published.load(Ordering::Acquire)
    }

    /// The published bytes of a range; `None` where it is not published as a whole. Costs an atomic
    /// load.
    #[must_use]
    #[inline]
    pub fn slice(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.published() {
            return None;
        }
        // SAFETY: the range lies within the published bytes, which lie within `len` bytes from `base`. They
        // are initialised (a file's bytes always are, memory starts as zeros) and are never written
        // again while `self` is borrowed, through this map or the writer's: writers write behind
        // the published end only, and `reset` needs `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(self.base.add(range.start), range.end - range.start) })
    }

    /// All published bytes from `start` on; `None` if none are.
    #[must_use]
    #[inline]
    pub fn published_from(&self, start: usize) -> Option<&[u8]> {
        let end = self.published();
        if start >= end {
            return None;
        }
        // SAFETY: as in `slice`: `start < end`, and the bytes up to `end` are published.
        Some(unsafe { std::slice::from_raw_parts(self.base.add(start), end - start) })
    }

    /// The writer, the first time; `None` from then on.
    #[must_use]
    pub fn writer(&self) -> Option<MappingWriter> {
        let taken = self.writer_taken.swap(true, Ordering::AcqRel);
        (!taken).then_some(MappingWriter { id: self.id })
    }

    /// Copies `parts` one after the other behind the published bytes and publishes them, all at
    /// once. Gives the new published end.
    ///
    /// # Errors
    ///
    /// [`MappingError`]; then nothing was written.
    #[inline]
    pub fn append(&self, writer: &mut MappingWriter, parts: &[&[u8]]) -> Result<usize, MappingError> {
        if writer.id != self.id {
            return Err(MappingError::WrongWriter);
        }
        if self.access != Access::Write {
            return Err(MappingError::ReadOnly);
        }
        // Only this writer moves the end, so a relaxed load sees its own last store.
        let start = self.published.load(Ordering::Relaxed);
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
        self.published.store(end, Ordering::Release);
        Ok(end)
    }

    #[inline]
    fn copy(&self, start: usize, parts: &[&[u8]]) {
        let mut at = start;
        for part in parts {
            // SAFETY: `append` has checked that all parts together fit between `start` and `len`, that the
            // pages are writable, and that the caller holds the one writer. No reader sees
            // unpublished bytes, and a part that borrows from this mapping lies before `start`, so
            // source and target do not overlap, neither by their addresses nor in the file.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), self.target.add(at), part.len()) };
            at += part.len();
        }
    }

    /// Publishes bytes that came into the file by another way than [`append`](Self::append):
    /// positioned writes, or an earlier process. They must not be written again.
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
        self.published.fetch_max(end, Ordering::Release);
        Ok(())
    }

    /// Takes back all published bytes, so that the memory can be written from the start again, with
    /// a new writer. Tells whether that was possible: not while another mapping of the same
    /// memory lives.
    #[must_use]
    pub fn reset(&mut self) -> bool {
        if let Backing::Memory { memory, .. } = &self.backing
            && !memory.thaw()
        {
            return false;
        }
        self.keep_in(Pages::Small);
        // No reader is left that could take it back.
        self.count_in_order(|_| 0);
        // An old writer's id fits no longer.
        self.id = next_id();
        self.writer_taken = AtomicBool::new(false);
        self.published = AtomicUsize::new(0);
        true
    }

    /// The map that a file is appended to through.
    fn writing(&self) -> Option<&MmapRaw> {
        match &self.backing {
            Backing::File(maps) => maps.writing.as_ref(),
            Backing::Memory { .. } => None,
        }
    }

    /// Says in what pages what will be appended is to be kept, whoever touches them first. A wish:
    /// if it is not granted, nothing changes but speed.
    pub fn keep_in(&self, pages: Pages) {
        let Some(raw) = self.writing() else { return };
        let _wishes = match pages {
            Pages::Small => [forget_huge_pages(raw), raw.advise(memmap2::Advice::Random)],
            Pages::Mixed => [forget_huge_pages(raw), raw.advise(memmap2::Advice::Normal)],
            // At random, or the system would bring the next one too.
            Pages::Huge => [wish_for_huge_pages(raw), raw.advise(memmap2::Advice::Random)],
        };
    }

    /// Touches the pages of a range for writing, so that later appends meet no page fault; makes
    /// them dirty. A range beyond the end is cut. Gives how many bytes were touched: 0 where
    /// the system cannot do it, which only costs time later.
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

    /// Takes the pages of a range out of the writer's page tables, all at once; its next access
    /// maps them again. Neither what they hold nor what is dirty of them changes, and readers
    /// have them still. Before several pages are synced it pays: the system would else visit the
    /// page tables page by page, and interrupt every other processor that runs this process for
    /// each.
    ///
    /// # Errors
    ///
    /// Those of the system. Nothing depends on success but speed.
    pub fn unmap_pages(&self, range: Range<usize>) -> io::Result<()> {
        let Some(raw) = self.writing() else { return Ok(()) };
        let page_bytes = rustix::param::page_size();
        let start = range.start / page_bytes * page_bytes;
        let end = range.end.min(self.len);
        if start >= end { Ok(()) } else { forget_pages(raw, start, end - start) }
    }

    /// Tells the system that the whole mapping is read from front to back: it then reads ahead of
    /// the reader, in large pages, which cost a third of what small ones do. Until as many ends
    /// as beginnings were told; lookups meanwhile read more than they need. A wish: if it is
    /// not granted, reading takes longer.
    ///
    /// The advice is "normal". With "sequential", Linux 6.18 reads piece by piece in small pages,
    /// and only when the reader waits, unless the first page that is missing is the file's
    /// first.
    pub(crate) fn begin_in_order(&self) {
        self.count_in_order(|readers| readers + 1);
    }

    /// The other end of [`begin_in_order`](Self::begin_in_order).
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

    /// Tells the system once and for all that the mapping is read from front to back, by one reader
    /// or few.
    pub fn read_in_order(&self) {
        if let Backing::File(maps) = &self.backing {
            *maps.in_order.lock() = 1;
            // A wish: if it is not granted, reading takes longer.
            let _wish = maps.reading.advise(memmap2::Advice::Normal);
        }
    }

    /// Has the device begin to read a range, which will be needed soon. A range beyond the end is
    /// cut.
    ///
    /// # Errors
    ///
    /// Those of the system. Nothing depends on success but speed.
    pub fn will_need(&self, range: Range<usize>) -> io::Result<()> {
        let Backing::File(maps) = &self.backing else { return Ok(()) };
        let page_bytes = rustix::param::page_size();
        let start = range.start / page_bytes * page_bytes;
        let end = range.end.min(self.len);
        if start >= end { Ok(()) } else { maps.reading.advise_range(memmap2::Advice::WillNeed, start, end - start) }
    }

    /// Makes a range of the file durable, as far as it was written when the call began, whole pages
    /// at a time. The file's length must have been synced before.
    ///
    /// # Errors
    ///
    /// Those of the system. After an error nothing is known of what was written since the last
    /// success.
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

/// Calls an observer, which is code of the caller's; nothing if it panics. Nothing of a mapping is
/// half-changed then.
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

/// Whether the system knows how to touch pages ahead (Linux 5.14 and later).
#[cfg(target_os = "linux")]
fn populate(raw: &MmapRaw, at: usize, len: usize) -> io::Result<bool> {
    match raw.advise_range(memmap2::Advice::PopulateWrite, at, len) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn populate(_raw: &MmapRaw, _at: usize, _len: usize) -> io::Result<bool> {
    Ok(false)
}

/// Asks the system not to read around what is touched, because then it would keep ever more pages
/// together, and write them together: a sync of one record takes 90 µs at the start of a segment,
/// and behind 40 MiB 360 (Linux 6.18). A wish: if it is not granted, nothing changes but speed.
fn keep_pages_small(raw: &MmapRaw) {
    let _wish = raw.advise(memmap2::Advice::Random);
}

/// Takes the wish for huge pages back.
#[cfg(target_os = "linux")]
fn forget_huge_pages(raw: &MmapRaw) -> io::Result<()> {
    raw.advise(memmap2::Advice::NoHugePage)
}

#[cfg(not(target_os = "linux"))]
fn forget_huge_pages(_raw: &MmapRaw) -> io::Result<()> {
    Ok(())
}

/// Asks the system for huge pages. It may know none, or have none for this file.
#[cfg(target_os = "linux")]
fn wish_for_huge_pages(raw: &MmapRaw) -> io::Result<()> {
    raw.advise(memmap2::Advice::HugePage)
}

#[cfg(not(target_os = "linux"))]
fn wish_for_huge_pages(_raw: &MmapRaw) -> io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn forget_pages(raw: &MmapRaw, at: usize, len: usize) -> io::Result<()> {
    // SAFETY: the advice would lose the content of private or anonymous memory; this is a shared map of
    // a file (those in `FileMaps` are made by `map_raw` and `map_raw_read_only` alone), whose
    // content is the page cache's: the next access, a reader's or the writer's, finds the
    // same bytes there.
    unsafe { raw.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, len) }
}

#[cfg(not(target_os = "linux"))]
fn forget_pages(_raw: &MmapRaw, _at: usize, _len: usize) -> io::Result<()> {
    Ok(())
}

/// Has the device begin with the changed pages of a range. No crate that wraps the system's calls
/// has this one.
#[cfg(target_os = "linux")]
pub(crate) fn start_writing(file: &std::fs::File, offset: u64, len_bytes: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(offset), Ok(len_bytes)) = (i64::try_from(offset), i64::try_from(len_bytes)) else { return };
    // SAFETY: the descriptor is that of an open file, which is borrowed; the call is given no memory of
    // this process.
    let _told_by_the_sync =
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len_bytes, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn start_writing(_file: &std::fs::File, _offset: u64, _len_bytes: u64) {}

/// Hears of what happens to a [`SharedMemory`] through its mappings.
pub trait MemoryObserver: Send + Sync {
    /// `bytes` were written at `offset`.
    fn wrote(&self, offset: usize, bytes: &[u8]);

    /// Makes a range durable.
    ///
    /// # Errors
    ///
    /// As [`Mapping::sync`].
    fn sync(&self, range: Range<usize>) -> io::Result<()>;
}

/// Plain memory that stands for a file's pages: of fixed size, shared by the file and its mappings.
///
/// Bytes that a mapping has published are *frozen*; writes to them are refused.
pub struct SharedMemory {
    bytes: Box<[UnsafeCell<u8>]>,
    frozen: AtomicUsize,
    mappings: AtomicUsize,
    /// Held by everyone who touches bytes that are not frozen, and by whoever thaws.
    unfrozen: Mutex<()>,
}

/// A write to bytes that a mapping has published, or beyond the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frozen;

// SAFETY: frozen bytes are only read; all others are touched under the lock `unfrozen` alone (by
// mappings through `write_at`).
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Memory that holds a copy of `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let bytes: *mut [u8] = Box::into_raw(bytes.into());
        // SAFETY: the pointer was just taken out of a box, and `UnsafeCell<u8>` has the layout of `u8`.
        // (Wrapping byte by byte would be safe, and too slow where thousands of crashes are tried.)
        let bytes = unsafe { Box::from_raw(bytes as *mut [UnsafeCell<u8>]) };
        Self { bytes, frozen: AtomicUsize::new(0), mappings: AtomicUsize::new(0), unfrozen: Mutex::new(()) }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many mappings of it live.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.mappings.load(Ordering::Acquire)
    }

    fn base(&self) -> *mut u8 {
        // From the whole slice, so that the pointer may reach all of it.
        self.bytes.as_ptr().cast::<u8>().cast_mut()
    }

    /// Copies bytes out, as many as there are from `offset` on; gives their number.
    pub fn read_at(&self, offset: usize, buffer: &mut [u8]) -> usize {
        let _held = self.unfrozen.lock();
        let count = self.len().saturating_sub(offset).min(buffer.len());
        if count > 0 {
            // SAFETY: `offset + count` is at most `len`; frozen bytes are not written, and the others not while
            // the lock is held. The buffer is exclusively borrowed, so it is not this memory.
            unsafe { std::ptr::copy_nonoverlapping(self.base().add(offset), buffer.as_mut_ptr(), count) };
        }
        count
    }

    /// Copies bytes in.
    ///
    /// # Errors
    ///
    /// [`Frozen`] if they do not all lie between the published bytes and the end; then nothing was
    /// written.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), Frozen> {
        let _held = self.unfrozen.lock();
        let end = offset.checked_add(bytes.len()).ok_or(Frozen)?;
        if offset < self.frozen.load(Ordering::Acquire) || end > self.len() {
            return Err(Frozen);
        }
        // SAFETY: the target lies within the memory and is not frozen, so no slice of it was lent, and the
        // lock keeps others away. `bytes` may borrow from this memory only where it is frozen, so
        // the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base().add(offset), bytes.len()) };
        Ok(())
    }

    /// No byte before `end` changes from now on.
    fn freeze(&self, end: usize) {
        let _held = self.unfrozen.lock();
        self.frozen.fetch_max(end, Ordering::AcqRel);
    }

    /// A mapping is gone. With the last one all bytes may change again, since nobody borrows from
    /// them.
    fn forget_mapping(&self) {
        let _held = self.unfrozen.lock();
        if self.mappings.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.frozen.store(0, Ordering::Release);
        }
    }

    /// Lets all bytes change again, if the one mapping whose owner asks is the only one.
    fn thaw(&self) -> bool {
        let _held = self.unfrozen.lock();
        if self.mappings() != 1 {
            return false;
        }
        self.frozen.store(0, Ordering::Release);
        true
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedMemory").field("len", &self.len()).finish_non_exhaustive()
    }
}
