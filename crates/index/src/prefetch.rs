//! Prefetching of memory.

/// Prefetches the cache line at `address`. It never faults. Without a stable intrinsic of the
/// target it does nothing.
#[inline(always)]
pub(crate) fn prefetch_line(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint: it never faults, whatever the address, and SSE is part of
    // x86_64.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a prefetch is a hint: it never faults, whatever the address, and it changes no
    // register and no memory.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = address;
}

/// Prefetches the first three cache lines of `bytes`, without waiting; the processor prefetches
/// longer reads automatically.
///
/// For callers that know their next reads. It never faults and reads nothing. On targets other than
/// x86_64 and aarch64 it does nothing.
///
/// ```
/// let record = [0_u8; 100];
/// hightower_index::prefetch_read(&record);
/// ```
#[inline]
pub fn prefetch_read(bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    prefetch_line(bytes.as_ptr());
    if bytes.len() > 64 {
        prefetch_line(bytes.as_ptr().wrapping_add(64));
    }
    if bytes.len() > 128 {
        prefetch_line(bytes.as_ptr().wrapping_add(128));
    }
}
