//! Keyspaces of the layers above the engine: always there, with a fixed id each, so that neither a
//! lost catalogue nor a read-only store hides them.

use std::borrow::Borrow;
use std::ops::Bound;
use std::sync::Arc;

use crate::engine::SingleNodeEngine;
use crate::error::Result;
use crate::keyspace::living::EVERY_STORE;
use crate::keyspace::{Keyspace, KeyspaceId, KeyspaceOptions, LivingKeyspace, SharedKeyspace};
use crate::mutants::planted;
use crate::traits::KeyspaceEngine;
use crate::value::Value;

/// The ids of reserved keyspaces.
const FIRST_ID: u64 = 2;
const LAST_ID: u64 = 15;

/// A keyspace of a layer above the engine. Each store has it. It is not in the catalogue:
/// [`keyspaces`](SingleNodeEngine::keyspaces) does not show it, and it cannot be renamed, cleared or
/// dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReservedKeyspace {
    /// The records of the authentication service.
    Auth,
}

impl ReservedKeyspace {
    /// The id, the same in every store.
    ///
    /// ```
    /// use hightower_engine::{KeyspaceId, ReservedKeyspace};
    ///
    /// assert!(ReservedKeyspace::Auth.id().is_reserved());
    /// assert!(!KeyspaceId::DEFAULT.is_reserved());
    /// ```
    #[must_use]
    pub const fn id(self) -> KeyspaceId {
        match self {
            Self::Auth => KeyspaceId::new(FIRST_ID),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Auth => "$auth",
        }
    }

    fn living(self) -> Arc<LivingKeyspace> {
        let id = if planted("reserved_keyspace_is_the_default_one") { KeyspaceId::DEFAULT } else { self.id() };
        Arc::new(LivingKeyspace::new(self.name(), id, KeyspaceOptions::default(), EVERY_STORE))
    }
}

impl KeyspaceId {
    /// Whether it is the id of a keyspace of a layer above the engine, known or not: see
    /// [`ReservedKeyspace`].
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        FIRST_ID <= self.get() && self.get() <= LAST_ID
    }
}

impl Keyspace<()> {
    /// A reserved keyspace, without a store: for batches, and for the calls of a
    /// [`KeyspaceEngine`]. It is valid in every store.
    ///
    /// ```
    /// use hightower_engine::{Batch, KeyspaceEngine, Keyspace, ReservedKeyspace, SingleNodeEngine};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// let engine = SingleNodeEngine::open(dir.path())?;
    /// let records = Keyspace::reserved(ReservedKeyspace::Auth);
    /// engine.commit(Batch::new().put_in(&records, "key", "of the layer"))?.committed()?;
    /// assert_eq!(engine.get_versioned_in(&records, b"key")?.unwrap().0, "of the layer");
    /// assert!(engine.is_empty());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn reserved(keyspace: ReservedKeyspace) -> Self {
        Self::new((), keyspace.living())
    }
}

impl SharedKeyspace {
    /// As [`SingleNodeEngine::reserved_keyspace`], but shares the store.
    #[must_use]
    pub fn reserved_of(engine: &Arc<SingleNodeEngine>, keyspace: ReservedKeyspace) -> Self {
        Self::new(Arc::clone(engine), keyspace.living())
    }
}

impl SingleNodeEngine {
    /// A keyspace of a layer above the engine. Costs nothing: it is always there.
    ///
    /// ```
    /// # use hightower_engine::{ReservedKeyspace, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// assert_eq!(engine.reserved_keyspace(ReservedKeyspace::Auth).len()?, 0);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn reserved_keyspace(&self, keyspace: ReservedKeyspace) -> Keyspace<&Self> {
        Keyspace::new(self, keyspace.living())
    }

    /// Reads a key of a keyspace of this store.
    pub(crate) fn read_in<R>(
        &self,
        living: &LivingKeyspace,
        key: &[u8],
        use_value: impl FnOnce(&[u8], u64) -> R,
    ) -> Result<Option<R>> {
        let found = self.read.read_latest(living.id.stored(key).as_bytes(), use_value);
        // After the read: a drop may have deleted the key just before it.
        living.check()?;
        found
    }
}

impl KeyspaceEngine for SingleNodeEngine {
    fn get_versioned_in<K>(&self, keyspace: &Keyspace<K>, key: &[u8]) -> Result<Option<(Value, u64)>> {
        keyspace.living().check_store(self.read.store_number)?;
        self.read_in(keyspace.living(), key, |value, version| (Value::from(value), version))
    }

    fn scan_in<K>(
        &self,
        keyspace: &Keyspace<K>,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>> {
        let snapshot = self.snapshot()?.keyspace(keyspace)?;
        keyspace.living().check()?;
        snapshot.range((from, to)).collect_pairs(limit)
    }
}

impl<E: Borrow<SingleNodeEngine>> Keyspace<E> {
    pub(crate) fn read<R>(&self, key: &[u8], use_value: impl FnOnce(&[u8], u64) -> R) -> Result<Option<R>> {
        self.engine().read_in(self.living(), key, use_value)
    }
}
