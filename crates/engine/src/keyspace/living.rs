//! A keyspace that callers or commits use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
    pub(crate) options: KeyspaceOptions,
    /// The number of the open store that it belongs to, or [`EVERY_STORE`].
    store: u64,
    name: Mutex<String>,
    /// Set under the commit lock, with the commit that drops it.
    is_dropped: AtomicBool,
}

/// The keyspace that a call is about; `None` for the default one.
pub(crate) type Scope<'a> = Option<&'a Arc<LivingKeyspace>>;

impl LivingKeyspace {
    pub(crate) fn new(name: &str, id: KeyspaceId, options: KeyspaceOptions, store: u64) -> Self {
        Self { id, options, store, name: Mutex::new(name.to_owned()), is_dropped: AtomicBool::new(false) }
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
