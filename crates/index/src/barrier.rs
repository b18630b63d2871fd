//! A pair of asymmetric fences: the frequent one costs nothing.
//!
//! If two sides each store and then load, each needs a full fence in between. If one side is
//! frequent and the other rare, Linux's `membarrier` helps: it makes every running thread of the
//! process execute a full fence. So the rare side, [`heavy`], fences for both, and the frequent
//! side, [`light`], needs only a compiler fence. Without this system call, both are full fences.

#[cfg(all(target_os = "linux", not(miri), not(loom)))]
mod imp {
    use core::sync::atomic::compiler_fence;
    use std::sync::Once;

    use crate::sync::{AtomicBool, Ordering, fence};

    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    static REGISTERED: Once = Once::new();
    /// Decided once, before the first fence.
    static IS_ONE_SIDED: AtomicBool = AtomicBool::new(false);

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: the call takes three numbers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    pub(crate) fn prepare() {
        REGISTERED.call_once(|| IS_ONE_SIDED.store(membarrier(REGISTER_PRIVATE_EXPEDITED), Ordering::Relaxed));
    }

    #[inline(always)]
    pub(crate) fn light() {
        if IS_ONE_SIDED.load(Ordering::Relaxed) {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    pub(crate) fn heavy() -> bool {
        fence(Ordering::SeqCst);
        !IS_ONE_SIDED.load(Ordering::Relaxed) || membarrier(PRIVATE_EXPEDITED)
    }
}

#[cfg(not(all(target_os = "linux", not(miri), not(loom))))]
mod imp {
    use crate::sync::{Ordering, fence};

    pub(crate) fn prepare() {}

    #[inline(always)]
    pub(crate) fn light() {
        fence(Ordering::SeqCst);
    }

    pub(crate) fn heavy() -> bool {
        fence(Ordering::SeqCst);
        true
    }
}

/// Detects the system call. Every thread calls it before its first [`light`] or [`heavy`].
pub(crate) fn prepare() {
    imp::prepare();
}

/// The frequent side's fence.
#[inline(always)]
pub(crate) fn light() {
    imp::light();
}

/// The rare side's fence, which fences every thread. `false` if the system lacks memory for it;
/// then it had no effect.
pub(crate) fn heavy() -> bool {
    imp::heavy()
}
