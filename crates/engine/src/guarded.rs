//! Guards against panics of foreign code.
//!
//! The store calls a caller's [`Components`] often under a lock and on its own threads. So each
//! call is guarded: a panic becomes a failure of that call, which the store handles like any other,
//! and is counted. The panic of a file system is an I/O error; a clock returns its previous time; a
//! policy's panic fails its run, a merge operator's its merge.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use hightower_compactor::{CompactionConfig, CompactionPolicy, Goal, SegmentUsage};
use hightower_seams::{Clock, Entropy};
use hightower_segment::{Access, DeviceRoom, Dir, File, Fs, Lock, LockKind, MapPermit, Mapping, Metadata};
use parking_lot::Mutex;

use crate::components::Components;
use crate::error::{Error, Result};
use crate::mutants::planted;

/// The caught panics.
#[derive(Debug, Default)]
pub(crate) struct Panics {
    count: AtomicU64,
    last: Mutex<Option<String>>,
}

impl Panics {
    pub(crate) const fn new() -> Self {
        Self { count: AtomicU64::new(0), last: Mutex::new(None) }
    }

    /// The number of caught panics.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The component of the last panic, with its message.
    pub(crate) fn last(&self) -> Option<String> {
        self.last.lock().clone()
    }

    /// Calls foreign code; records a panic, and returns its message.
    #[inline]
    pub(crate) fn catch<R>(&self, what: &'static str, call: impl FnOnce() -> R) -> Result<R, String> {
        if planted("panics_pass") {
            return Ok(call());
        }
        // The call changes no data of the store, so a panic leaves none half-changed.
        catch_unwind(AssertUnwindSafe(call)).map_err(|payload| self.note(what, payload))
    }

    #[cold]
    fn note(&self, what: &'static str, payload: Box<dyn Any + Send>) -> String {
        let message = payload.downcast::<String>().map(|text| *text);
        let message = message.or_else(|payload| payload.downcast::<&str>().map(|text| (*text).to_owned()));
        let message = message.unwrap_or_else(|payload| {
            // A payload of the caller's own type might panic when it is dropped.
            std::mem::forget(payload);
            "no message".to_owned()
        });
        self.count.fetch_add(1, Ordering::Relaxed);
        *self.last.lock() = Some(format!("{what} panicked: {message}"));
        message
    }

    /// As [`catch`](Self::catch), for fallible calls.
    #[inline]
    fn io<R>(&self, what: &'static str, call: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self.catch(what, call) {
            Ok(result) => result,
            Err(message) => Err(io::Error::other(format!("{what} panicked: {message}"))),
        }
    }
}

impl Components {
    /// The same components, with guards around every call.
    pub(crate) fn guarded(&self, panics: &Arc<Panics>) -> Self {
        Self {
            fs: Arc::new(GuardedFs { inner: Arc::clone(&self.fs), panics: Arc::clone(panics) }),
            clock: Arc::new(GuardedClock {
                inner: Arc::clone(&self.clock),
                panics: Arc::clone(panics),
                last_ms: AtomicI64::new(0),
                last_elapsed_ms: AtomicU64::new(0),
            }),
            entropy: Arc::new(GuardedEntropy { inner: Arc::clone(&self.entropy), panics: Arc::clone(panics) }),
            policy: Arc::clone(&self.policy),
            merge_operators: self.merge_operators.clone(),
            background: self.background,
        }
    }

    /// The same, for work without statistics: a panic is a failure of the work.
    pub(crate) fn guarded_once(&self) -> Self {
        self.guarded(&Arc::default())
    }
}

/// Calls a policy; its panic is an error.
pub(crate) fn choose(
    panics: &Panics,
    policy: &dyn CompactionPolicy,
    usage: &[SegmentUsage],
    goal: Goal,
    config: &CompactionConfig,
) -> Result<Vec<u32>> {
    let what = "the compaction policy";
    panics.catch(what, || policy.choose(usage, goal, config)).map_err(|message| Error::Panicked { what, message })
}

/// Maximum elapsed time of a clock, 1,000 years, so that times can be added and multiplied.
const LONGEST_ELAPSED: Duration = Duration::from_secs(1000 * 365 * 24 * 3600);

/// A clock that returns its previous time if the caller's clock panics, and whose
/// [`elapsed`](Clock::elapsed) never goes back.
struct GuardedClock {
    inner: Arc<dyn Clock>,
    panics: Arc<Panics>,
    /// The last returned time, written only when it changes, because many threads read it.
    last_ms: AtomicI64,
    last_elapsed_ms: AtomicU64,
}

impl Clock for GuardedClock {
    fn now_ms(&self) -> i64 {
        let last_ms = self.last_ms.load(Ordering::Relaxed);
        let now_ms = self.panics.catch("the clock", || self.inner.now_ms()).unwrap_or(last_ms);
        if now_ms != last_ms {
            self.last_ms.store(now_ms, Ordering::Relaxed);
        }
        now_ms
    }

    fn elapsed(&self) -> Duration {
        let last_ms = self.last_elapsed_ms.load(Ordering::Relaxed);
        let last = Duration::from_millis(last_ms);
        let elapsed = self.panics.catch("the clock", || self.inner.elapsed()).unwrap_or(last);
        if planted("elapsed_unbounded") {
            return elapsed;
        }
        let elapsed = elapsed.clamp(last, LONGEST_ELAPSED);
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if elapsed_ms > last_ms {
            self.last_elapsed_ms.fetch_max(elapsed_ms, Ordering::Relaxed);
        }
        elapsed
    }

    fn sleep(&self, duration: Duration) {
        let _slept = self.panics.catch("the clock", || self.inner.sleep(duration));
    }
}

struct GuardedEntropy {
    inner: Arc<dyn Entropy>,
    panics: Arc<Panics>,
}

impl Entropy for GuardedEntropy {
    fn fill(&self, out: &mut [u8]) -> io::Result<()> {
        self.panics.io("the source of randomness", || self.inner.fill(out))
    }
}

const FS: &str = "the file system";

struct GuardedFs {
    inner: Arc<dyn Fs>,
    panics: Arc<Panics>,
}

impl Fs for GuardedFs {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let (inner, path) = self.panics.io(FS, || {
            let dir = self.inner.open_dir(path)?;
            let path = dir.path().to_owned();
            Ok((dir, path))
        })?;
        Ok(Arc::new(GuardedDir { inner: Some(inner), path, panics: Arc::clone(&self.panics) }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.panics.io(FS, || self.inner.create_dir_all(path))
    }
}

/// A handle of the caller's type; dropping it is a call too.
struct GuardedDir {
    /// There until it is dropped.
    inner: Option<Arc<dyn Dir>>,
    path: PathBuf,
    panics: Arc<Panics>,
}

impl GuardedDir {
    #[inline]
    fn call<R>(&self, call: impl FnOnce(&(dyn Dir + 'static)) -> io::Result<R>) -> io::Result<R> {
        let inner = self.inner.as_ref().ok_or(io::ErrorKind::NotFound)?;
        self.panics.io(FS, || call(&**inner))
    }

    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(GuardedFile { inner: Some(file), panics: Arc::clone(&self.panics) })
    }
}

impl Dir for GuardedDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn create_new(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.call(|inner| inner.create_new(name)).map(|file| self.file(file))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        self.call(|inner| inner.open(name, access)).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call(|inner| inner.rename(from, to))
    }

    fn remove_file(&self, name: &str) -> io::Result<()> {
        self.call(|inner| inner.remove_file(name))
    }

    fn hard_link(&self, name: &str, target: &dyn Dir, link: &str) -> io::Result<()> {
        // The caller's directory works only with directories of its own type.
        let any: &dyn Any = target;
        let guarded = any.downcast_ref::<Self>().and_then(|guarded| guarded.inner.as_deref());
        self.call(|inner| inner.hard_link(name, guarded.unwrap_or(target), link))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.call(<dyn Dir>::list)
    }

    fn metadata(&self, name: &str) -> io::Result<Metadata> {
        self.call(|inner| inner.metadata(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.call(<dyn Dir>::sync)
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<Option<Box<dyn Lock>>> {
        let lock = self.call(|inner| inner.try_lock(kind))?;
        Ok(lock
            .map(|lock| Box::new(GuardedLock { inner: Some(lock), panics: Arc::clone(&self.panics) }) as Box<dyn Lock>))
    }

    fn is_locked_by_this_process(&self) -> bool {
        // For messages only; the panic is counted.
        self.call(|inner| Ok(inner.is_locked_by_this_process())).unwrap_or(false)
    }

    fn room(&self) -> io::Result<DeviceRoom> {
        self.call(<dyn Dir>::room)
    }

    fn preallocation_is_promise(&self) -> io::Result<bool> {
        self.call(<dyn Dir>::preallocation_is_promise)
    }
}

struct GuardedFile {
    /// There until it is dropped.
    inner: Option<Arc<dyn File>>,
    panics: Arc<Panics>,
}

impl GuardedFile {
    #[inline]
    fn call<R>(&self, call: impl FnOnce(&(dyn File + 'static)) -> io::Result<R>) -> io::Result<R> {
        let inner = self.inner.as_ref().ok_or(io::ErrorKind::NotFound)?;
        self.panics.io(FS, || call(&**inner))
    }
}

impl File for GuardedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.call(|inner| inner.read_at(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.call(|inner| inner.write_at(bytes, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(<dyn File>::sync_data)
    }

    fn metadata(&self) -> io::Result<Metadata> {
        self.call(<dyn File>::metadata)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.call(|inner| inner.set_len(len_bytes))
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        self.call(|inner| inner.allocate(len_bytes))
    }

    fn release_behind(&self, len_bytes: u64) -> io::Result<()> {
        self.call(|inner| inner.release_behind(len_bytes))
    }

    fn map(&self, len_bytes: usize, access: Access, permit: MapPermit) -> io::Result<Mapping> {
        self.call(|inner| inner.map(len_bytes, access, permit))
    }
}

struct GuardedLock {
    /// There until it is dropped.
    inner: Option<Box<dyn Lock>>,
    panics: Arc<Panics>,
}

impl Lock for GuardedLock {}

/// Dropping a handle of the caller's type calls its code; a panic is recorded under the guarded
/// component.
macro_rules! handles {
    ($($handle:ident),*) => {$(
        impl Drop for $handle {
            fn drop(&mut self) {
                let inner = self.inner.take();
                // Recorded; no caller can receive an error.
                let _dropped = self.panics.catch(FS, || drop(inner));
            }
        }
    )*};
}

handles!(GuardedDir, GuardedFile, GuardedLock);

macro_rules! shown_as_inner {
    ($($guarded:ident),*) => {$(
        impl fmt::Debug for $guarded {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.inner.fmt(formatter)
            }
        }
    )*};
}

shown_as_inner!(GuardedClock, GuardedEntropy, GuardedFs, GuardedDir, GuardedFile, GuardedLock);

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use hightower_seams::Clock;

    use super::LONGEST_ELAPSED;
    use crate::components::Components;

    /// Returns this number of seconds, up to `u64::MAX`.
    #[derive(Debug)]
    struct Said(AtomicU64);

    impl Clock for Said {
        fn now_ms(&self) -> i64 {
            0
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn whatever_a_clock_says_has_elapsed_can_be_added_to() {
        let said = Arc::new(Said(AtomicU64::new(5)));
        let components = Components::default().with_clock(Arc::<Said>::clone(&said)).guarded_once();
        assert_eq!(components.clock.elapsed(), Duration::from_secs(5));
        said.0.store(3, Ordering::Relaxed);
        assert_eq!(components.clock.elapsed(), Duration::from_secs(5), "it has gone back");
        said.0.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(components.clock.elapsed(), LONGEST_ELAPSED);
    }
}
