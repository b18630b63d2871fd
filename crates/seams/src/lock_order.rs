//! The order of a store's locks, checked in tests.
//!
//! Threads that take two locks in different orders can deadlock. A test rarely meets that moment,
//! but it easily meets both orders. So each lock that is held together with others has a [`Rank`],
//! and a thread may take only locks of ascending ranks.
//!
//! The check runs in builds with debug assertions while the environment variable
//! `HIGHTOWER_LOCK_ORDER` is set, as this workspace's `.cargo/config.toml` does. It must not run
//! elsewhere: ranks do not distinguish two stores, and a program may use one store within another's
//! file system.

/// The locks of a store that are held together, in the order of their acquisition.
///
/// Locks without a rank are leaves: they are held for a few instructions, without taking another
/// lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The outcome of closing a store.
    Closing,
    /// The catalogue of keyspaces: one change at a time.
    Keyspaces,
    /// The lock of compaction, flushes and backups, one at a time.
    Turn,
    /// The followers of the log: which feeds get which commits.
    Feeds,
    /// The count of a keyspace with a quota: one at a time.
    Counting,
    /// The commit log: one commit at a time.
    Commit,
    /// The replica of a follower.
    Pursuit,
    /// The writer of the state.
    StateWriter,
    /// The creation of files under a quota.
    Growing,
    /// The thread of a write-ahead log that calls back.
    WalCaller,
    /// The files of a write-ahead log.
    WalUpkeep,
    /// The preparation of segment files.
    Preparing,
    /// The sync of the log: one at a time.
    Syncing,
    /// The manifest.
    Manifest,
    /// The length of the manifest, for its reserve.
    ManifestLength,
    /// The reserve files.
    Reserves,
    /// The memory maps that are kept for compaction.
    KeptMaps,
    /// The end of the log: the active segment, and earlier segments that are not sealed yet.
    Tail,
}

/// The record of a held lock. Dropping it releases the record.
#[derive(Debug)]
#[must_use = "the lock counts as held while this lives"]
pub struct HeldRank {
    #[cfg(all(debug_assertions, not(shuttle)))]
    rank: Rank,
    /// It belongs to its thread.
    thread: std::marker::PhantomData<*const ()>,
}

/// Records that this thread is about to take the lock of this rank.
///
/// # Panics
///
/// If locks are [checked](is_checked) and the thread holds one of the same or a later rank.
#[inline]
pub fn take(rank: Rank) -> HeldRank {
    let thread = std::marker::PhantomData;
    #[cfg(all(debug_assertions, not(shuttle)))]
    {
        checked::push(rank);
        HeldRank { rank, thread }
    }
    #[cfg(not(all(debug_assertions, not(shuttle))))]
    {
        let _unchecked = rank;
        HeldRank { thread }
    }
}

/// Whether the order of locks is checked.
#[must_use]
pub fn is_checked() -> bool {
    #[cfg(all(debug_assertions, not(shuttle)))]
    let is_checked = checked::is_on();
    #[cfg(not(all(debug_assertions, not(shuttle))))]
    let is_checked = false;
    is_checked
}

/// Shuttle runs the threads of a schedule on one system thread, so the check is off there.
#[cfg(all(debug_assertions, not(shuttle)))]
mod checked {
    use std::cell::RefCell;
    use std::sync::OnceLock;

    use super::{HeldRank, Rank};

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn is_on() -> bool {
        static IS_ON: OnceLock<bool> = OnceLock::new();
        *IS_ON.get_or_init(|| std::env::var_os("HIGHTOWER_LOCK_ORDER").is_some())
    }

    #[allow(clippy::panic, reason = "builds with debug assertions alone, and only for a bug in the order of locks")]
    pub(super) fn push(rank: Rank) {
        if !is_on() {
            return;
        }
        // A thread that is ending has no list any more, so it is not checked.
        let _ending = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(later) = held.iter().find(|held| **held >= rank) {
                panic!("the lock {rank:?} is taken under {later:?}, against the order of locks");
            }
            held.push(rank);
        });
    }

    impl Drop for HeldRank {
        fn drop(&mut self) {
            let _ending = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                if let Some(at) = held.iter().rposition(|rank| *rank == self.rank) {
                    held.remove(at);
                }
            });
        }
    }
}

#[cfg(all(test, debug_assertions, not(shuttle)))]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn ranks_must_rise() {
        if !is_checked() {
            return;
        }
        let commit = take(Rank::Commit);
        let tail = take(Rank::Tail);
        assert!(catch_unwind(|| drop(take(Rank::Manifest))).is_err(), "an earlier rank");
        assert!(catch_unwind(|| drop(take(Rank::Tail))).is_err(), "the same rank");
        drop(tail);
        drop(take(Rank::Manifest));
        drop(commit);
        drop(take(Rank::Closing));
    }

    #[test]
    fn locks_may_be_released_in_any_order_and_each_thread_has_its_own() {
        if !is_checked() {
            return;
        }
        let commit = take(Rank::Commit);
        let growing = take(Rank::Growing);
        drop(commit);
        assert!(catch_unwind(|| drop(take(Rank::Turn))).is_err(), "one is still held");
        std::thread::scope(|scope| scope.spawn(|| drop(take(Rank::Turn))).join()).unwrap();
        drop(growing);
        drop(take(Rank::Turn));
    }
}
