//! Points at which a test's schedule may switch threads. Empty in a normal build; under
//! `--cfg shuttle` each is a step of [shuttle](https://docs.rs/shuttle)'s schedule.

#[cfg(shuttle)]
pub use scheduled::{ScheduledMutex, step};

/// A point where threads meet without a lock. It does nothing in a normal build.
///
/// ```
/// hightower_seams::schedule::step();
/// ```
#[cfg(not(shuttle))]
#[inline(always)]
pub const fn step() {}

#[cfg(shuttle)]
mod scheduled {
    use parking_lot::{Mutex, MutexGuard};

    /// A point at which the schedule may switch threads. Threads that shuttle does not control,
    /// such as those that read ahead during an open, yield to the system.
    pub fn step() {
        if shuttle::current::try_get_current_task().is_some() {
            shuttle::thread::yield_now();
        } else {
            std::thread::yield_now();
        }
    }

    /// A lock of parking_lot. Each attempt to acquire it is a step of the schedule.
    #[derive(Debug, Default)]
    pub struct ScheduledMutex<T>(Mutex<T>);

    impl<T> ScheduledMutex<T> {
        /// A lock with this content.
        pub const fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        /// The content.
        pub fn into_inner(self) -> T {
            self.0.into_inner()
        }

        /// Acquires the lock.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            loop {
                step();
                if let Some(guard) = self.0.try_lock() {
                    return guard;
                }
            }
        }
    }
}
