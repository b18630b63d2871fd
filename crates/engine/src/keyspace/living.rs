//! A keyspace that callers or commits use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::config::Durability;
use crate::error::{Error, Result};
use crate::keyspace::{KeyspaceId, KeyspaceOptions};
use crate::mutants::planted;
use crate::sync::Mutex;

/// The number of keyspaces that mean the same in each store.
pub(crate) const EVERY_STORE: u64 = 0;

/// The number of the next store that this process opens.
static NEXT_STORE: AtomicU64 = AtomicU64::new(1);

/// A number for a store that is being opened.
pub(crate) fn next_store_number() -> u64 {
    NEXT_STORE.fetch_add(1, Ordering::Relaxed)
}

/// A keyspace in use: one for all handles of its id.
#[derive(Debug)]
pub(crate) struct LivingKeyspace {
    pub(crate) id: KeyspaceId,
    options: SharedOptions,
    /// The number of the open store that it belongs to, or [`EVERY_STORE`].
    store: u64,
    name: Mutex<String>,
    /// Set under the commit lock, with the commit that drops it.
    is_dropped: AtomicBool,
}

/// Options that handles share, each as a number, so that a call reads one without a lock.
#[derive(Debug)]
struct SharedOptions {
    /// 0 for that of the store, 1 for `Os`, 2 for `Sync`, otherwise 3 more than the nanoseconds of
    /// `Interval`.
    durability: AtomicU64,
    /// [`NO_QUOTA`] for no limit.
    max_keys: AtomicU64,
    max_bytes: AtomicU64,
}

/// No store has so much.
const NO_QUOTA: u64 = u64::MAX;

/// The first number of an interval.
const OF_INTERVAL: u64 = 3;

impl SharedOptions {
    fn new(options: KeyspaceOptions) -> Self {
        let durability = match options.durability {
            None => 0,
            Some(Durability::Os) => 1,
            Some(Durability::Sync) => 2,
            Some(Durability::Interval(interval)) => {
                u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).saturating_add(OF_INTERVAL)
            }
        };
        Self {
            durability: AtomicU64::new(durability),
            max_keys: AtomicU64::new(options.max_keys.unwrap_or(NO_QUOTA)),
            max_bytes: AtomicU64::new(options.max_bytes.unwrap_or(NO_QUOTA)),
        }
    }
}

fn durability_of(number: u64) -> Option<Durability> {
    match number {
        0 => None,
        1 => Some(Durability::Os),
        2 => Some(Durability::Sync),
        interval => Some(Durability::Interval(Duration::from_nanos(interval - OF_INTERVAL))),
    }
}

/// The keyspace that a call is about; `None` for the default one.
pub(crate) type Scope<'a> = Option<&'a Arc<LivingKeyspace>>;

impl LivingKeyspace {
    pub(crate) fn new(name: &str, id: KeyspaceId, options: KeyspaceOptions, store: u64) -> Self {
        let options = SharedOptions::new(options);
        Self { id, options, store, name: Mutex::new(name.to_owned()), is_dropped: AtomicBool::new(false) }
    }

    /// The options.
    pub(crate) fn options(&self) -> KeyspaceOptions {
        let quota = |limit: &AtomicU64| Some(limit.load(Ordering::Relaxed)).filter(|limit| *limit != NO_QUOTA);
        let SharedOptions { durability, max_keys, max_bytes } = &self.options;
        let durability = durability_of(durability.load(Ordering::Relaxed));
        KeyspaceOptions { durability, max_keys: quota(max_keys), max_bytes: quota(max_bytes) }
    }

    /// The durability of calls that name none.
    pub(crate) fn durability(&self) -> Option<Durability> {
        durability_of(self.options.durability.load(Ordering::Relaxed))
    }

    pub(crate) fn set_options(&self, options: KeyspaceOptions) {
        let next = SharedOptions::new(options);
        for (shared, next) in [
            (&self.options.durability, next.durability),
            (&self.options.max_keys, next.max_keys),
            (&self.options.max_bytes, next.max_bytes),
        ] {
            shared.store(next.into_inner(), Ordering::Relaxed);
        }
    }

    pub(crate) fn name(&self) -> String {
        self.name.lock().clone()
    }

    pub(crate) fn rename(&self, name: &str) {
        name.clone_into(&mut self.name.lock());
    }

    /// The caller holds the commit lock.
    pub(crate) fn note_drop(&self) {
        self.is_dropped.store(true, Ordering::Release);
    }

    /// Refuses a keyspace that was dropped. Only under the commit lock the answer lasts.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_dropped.load(Ordering::Acquire) && !planted("writes_to_dropped_keyspaces") {
            return Err(Error::KeyspaceDropped { name: self.name() });
        }
        Ok(())
    }

    /// Also refuses a keyspace of another open store.
    pub(crate) fn check_in(&self, store: u64) -> Result<()> {
        self.check_store(store)?;
        self.check()
    }

    /// Refuses a keyspace of another open store: its id means another one here.
    pub(crate) fn check_store(&self, store: u64) -> Result<()> {
        if self.store != store && self.store != EVERY_STORE && !planted("keyspaces_of_other_stores") {
            let name = self.name();
            return Err(Error::Validation(
                format!("the keyspace {name} was opened in another store: open it in this one").into(),
            ));
        }
        Ok(())
    }
}

/// The id of the keyspace that a call is about.
pub(crate) fn id_of(scope: Scope<'_>) -> KeyspaceId {
    scope.map_or(KeyspaceId::DEFAULT, |keyspace| keyspace.id)
}
