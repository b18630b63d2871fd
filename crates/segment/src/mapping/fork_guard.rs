//! Detection of forked children at the cost of a load.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Number of forks between this process and the one that started the program.
static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Identifies the process that created it, and detects its use in a forked child.
///
/// A child has copies of its parent's descriptors, and shares the files, their locks and their
/// maps. Writes by both would destroy a store, so every write checks this first. The check costs
/// one relaxed load; the system call for the process's id would cost more than a short write to a
/// store.
///
/// It relies on `pthread_atfork`: a child created by the bare system call, without the C library,
/// is not detected. A child that executes another program at once, such as those of
/// [`std::process::Command`], never uses the store.
///
/// ```
/// let guard = hightower_segment::ForkGuard::new()?;
/// assert!(!guard.is_forked());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkGuard {
    forks: u32,
}

impl ForkGuard {
    /// A guard of this process.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::OutOfMemory`] if the system cannot register the handler of forks.
    pub fn new() -> io::Result<Self> {
        static REGISTERED: OnceLock<()> = OnceLock::new();
        if REGISTERED.get().is_none() {
            register()?;
            // Two concurrent threads may register twice; forks are then counted twice, which is
            // harmless.
            let _first = REGISTERED.set(());
        }
        Ok(Self { forks: FORKS.load(Ordering::Relaxed) })
    }

    /// Whether this is a child of the process that created the guard.
    #[must_use]
    #[inline]
    pub fn is_forked(self) -> bool {
        FORKS.load(Ordering::Relaxed) != self.forks && !crate::mutants::planted("forks_unnoticed")
    }

    /// Whether this process was forked from one that had created a guard.
    pub(crate) fn is_in_child() -> bool {
        FORKS.load(Ordering::Relaxed) != 0
    }

    /// # Errors
    ///
    /// [`io::ErrorKind::PermissionDenied`] if this is a child of the process that created the
    /// guard.
    pub(crate) fn check(self) -> io::Result<()> {
        if self.is_forked() { Err(io::Error::new(io::ErrorKind::PermissionDenied, FORKED)) } else { Ok(()) }
    }
}

pub(crate) const FORKED: &str = "it belongs to the process that opened it, and this one was forked since";

#[cfg(not(miri))]
fn register() -> io::Result<()> {
    // SAFETY: the handler lives as long as the program, and does nothing but count in an atomic,
    // which is allowed in the child of a process with threads.
    let failed = unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
    if failed == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(failed)) }
}

/// Miri does not fork.
#[cfg(miri)]
fn register() -> io::Result<()> {
    let _handler: extern "C" fn() = count_fork;
    Ok(())
}

/// Forks, runs `run` in the child, and returns its result. A child that panics, crashes or takes
/// longer than a minute returns `false`. For tests only: only this thread exists in the child, and
/// locks of other threads stay locked forever.
///
/// # Errors
///
/// Those of the system.
#[cfg(feature = "sim")]
pub fn run_in_fork(run: impl FnOnce() -> bool) -> io::Result<bool> {
    const LONGEST_S: libc::c_uint = 60;
    // SAFETY: the call takes nothing; the child runs on with a copy of this thread alone.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: both take plain numbers. `_exit` ends the child here: nothing that the
            // parent's frames own is dropped twice.
            unsafe {
                libc::alarm(LONGEST_S);
                let holds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(false);
                libc::_exit(i32::from(!holds))
            }
        }
        child => loop {
            let mut status = 0;
            // SAFETY: the pointer is to a number of this frame.
            if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
                return Ok(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        },
    }
}
