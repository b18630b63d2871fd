//! Snapshots of keyspaces.

use std::ops::ControlFlow;

use crate::error::Result;
use crate::keyspace::{CatalogueRecord, Keyspace, KeyspaceId, KeyspaceUse};
use crate::snapshot::Snapshot;

impl Snapshot {
    /// What the keyspace of the snapshot holds. Reads all of it.
    pub(crate) fn keyspace_use(&self) -> Result<KeyspaceUse> {
        let mut used = KeyspaceUse::default();
        self.range(..).for_each_pair(|key, value| {
            used = used.and(key.len(), value.len());
            ControlFlow::Continue(())
        })?;
        Ok(used)
    }

    /// The same moment, with reads that are about another keyspace. Also shows a keyspace that was
    /// dropped since.
    ///
    /// ```
    /// # use hightower_engine::{KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let names = engine.create_keyspace("names", KeyspaceOptions::default())?;
    /// names.put("1", "Ada")?;
    /// let snapshot = engine.snapshot()?;
    /// names.put("1", "Grace")?;
    /// assert_eq!(snapshot.keyspace(&names)?.get("1")?.unwrap(), "Ada");
    /// assert_eq!(snapshot.get("1")?, None);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Validation`](crate::Error::Validation) for a keyspace of another store.
    pub fn keyspace<E>(&self, keyspace: &Keyspace<E>) -> Result<Self> {
        keyspace.living().check_store(self.store_number())?;
        Ok(self.clone().of(keyspace.id()))
    }

    /// The same moment, with reads that are about the keyspace that had this name then. Costs a
    /// read.
    ///
    /// ```
    /// # use hightower_engine::{KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.create_keyspace("names", KeyspaceOptions::default())?.put("1", "Ada")?;
    /// let snapshot = engine.snapshot()?;
    /// engine.drop_keyspace("names")?;
    /// assert_eq!(snapshot.keyspace_named("names")?.get("1")?.unwrap(), "Ada");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::KeyspaceNotFound`](crate::Error::KeyspaceNotFound);
    /// [`Error::Corrupt`](crate::Error::Corrupt) if its record does not verify.
    pub fn keyspace_named(&self, name: &str) -> Result<Self> {
        let record = CatalogueRecord::find(name, |key| self.clone().of(KeyspaceId::SYSTEM).get(key))?;
        Ok(self.clone().of(record.id))
    }
}
