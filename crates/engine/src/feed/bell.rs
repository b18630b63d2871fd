//! The bell that writers ring when the log has moved.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, Weak};

/// What the bell wakes.
pub(crate) trait Sleeper: Debug + Send + Sync {
    /// Lets it look for new commits, and wait for later ones.
    fn wake(&self);
}

/// Writers and syncs ring it when they have moved the end of the log. While nobody waits, that is
/// one relaxed load.
///
/// | the hub | a writer or a sync |
/// | --- | --- |
/// | 1. arms the bell | 1. moves the visible or the durable seqno |
/// | 2. full fence | 2. full fence |
/// | 3. reads both seqnos; if they have moved, looks again | 3. reads whether the bell is armed; if it is, disarms it and wakes the hub |
///
/// Because of the two fences, either the hub sees the new seqno, or the writer sees the armed bell.
#[derive(Debug, Default)]
pub(crate) struct FeedBell {
    is_armed: AtomicBool,
    hub: OnceLock<Weak<dyn Sleeper>>,
}

impl FeedBell {
    pub(crate) fn connect(&self, hub: Weak<dyn Sleeper>) {
        self.hub.get_or_init(|| hub);
    }

    /// The caller has moved a seqno, with a full fence.
    #[inline]
    pub(crate) fn ring(&self) {
        if self.is_armed.load(Ordering::Relaxed) {
            self.ring_hub();
        }
    }

    #[cold]
    fn ring_hub(&self) {
        if self.disarm()
            && let Some(hub) = self.hub.get().and_then(Weak::upgrade)
        {
            hub.wake();
        }
    }

    pub(crate) fn arm(&self) {
        self.is_armed.store(true, Ordering::SeqCst);
    }

    /// Returns whether it was armed.
    pub(crate) fn disarm(&self) -> bool {
        self.is_armed.swap(false, Ordering::SeqCst)
    }
}
