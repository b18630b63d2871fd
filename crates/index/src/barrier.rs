//! A pair of fences of which the frequent one costs nothing.
//!
//! Where one side stores and then loads, and the other does too, each needs a full fence between
//! them. If one side comes millions of times a second and the other now and then, the system can
//! help: Linux's `membarrier` has every running thread of the process go through a full fence. So
//! the rare side, [`heavy`], fences for both, and for the frequent one, [`light`], it is enough
//! that the compiler keeps the order. Where the system has no such call, both are full fences.

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

/// Finds out what the system can do. Every thread calls it before its first [`light`] or [`heavy`].
pub(crate) fn prepare() {
    imp::prepare();
}

/// The frequent side's fence.
#[inline(always)]
pub(crate) fn light() {
    imp::light();
}

/// The rare side's fence, which fences every thread. False, which counts for nothing, if the system
/// has no memory for it.
pub(crate) fn heavy() -> bool {
    imp::heavy()
}
