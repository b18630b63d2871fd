//! A keyspace, for callers: what it is. Its calls are in `handle.rs`.

use std::fmt;
use std::sync::Arc;

use crate::keyspace::{KeyspaceId, KeyspaceOptions, LivingKeyspace};

/// A keyspace of a store: a named set of keys of its own, with the calls of the store. From
/// [`SingleNodeEngine::keyspace`](crate::SingleNodeEngine::keyspace) and
/// [`create_keyspace`](crate::SingleNodeEngine::create_keyspace).
///
/// All keyspaces share one log, one order of commits and one sequence of versions, so a
/// [`Batch`](crate::Batch), a [`Snapshot`](crate::Snapshot) and a
/// [`Transaction`](crate::Transaction) may span them.
///
/// `E` is how it holds the store: `&SingleNodeEngine`, or in a
/// [`SharedKeyspace`](crate::SharedKeyspace) an `Arc`. A clone costs some nanoseconds. After the
/// keyspace was dropped or cleared, calls return
/// [`Error::KeyspaceDropped`](crate::Error::KeyspaceDropped).
///
/// ```
/// use hightower_engine::{KeyspaceOptions, SingleNodeEngine};
///
/// # let dir = tempfile::tempdir().unwrap();
/// let engine = SingleNodeEngine::open(dir.path())?;
/// let sessions = engine.create_keyspace("sessions", KeyspaceOptions::default())?;
/// sessions.put("17", "Ada")?;
/// engine.put("17", "something else")?;
/// assert_eq!(sessions.get("17")?.unwrap(), "Ada");
/// assert_eq!(engine.keyspace("sessions")?.len()?, 1);
/// # Ok::<(), hightower_engine::Error>(())
/// ```
#[derive(Clone)]
pub struct Keyspace<E> {
    pub(crate) engine: E,
    living: Arc<LivingKeyspace>,
}

impl<E> Keyspace<E> {
    pub(crate) fn new(engine: E, living: Arc<LivingKeyspace>) -> Self {
        Self { engine, living }
    }

    pub(crate) fn set_living(&mut self, living: Arc<LivingKeyspace>) {
        self.living = living;
    }

    pub(crate) fn living(&self) -> &Arc<LivingKeyspace> {
        &self.living
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> KeyspaceId {
        self.living.id
    }

    /// The name; after a rename through this store the new one.
    #[must_use]
    pub fn name(&self) -> String {
        self.living.name()
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> KeyspaceOptions {
        self.living.options()
    }
}

impl<E> fmt::Debug for Keyspace<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Keyspace").field("name", &self.name()).field("id", &self.id()).finish_non_exhaustive()
    }
}
