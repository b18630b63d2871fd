//! Keyspaces: finding, listing, creating, renaming and dropping them.

use crate::engine::SingleNodeEngine;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::keyspace::{Catalogue, Keyspace, KeyspaceInfo, KeyspaceOptions};

/// # Keyspaces
///
/// Named sets of keys, besides the default one that the other calls are about: see [`Keyspace`].
/// Names have 1 to 255 bytes of text, without control characters, and do not begin with `$`. Each
/// change is one commit with the durability of the store.
impl SingleNodeEngine {
    /// The keyspace of this name. Costs a read.
    ///
    /// ```
    /// # use hightower_engine::{Error, KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// assert!(matches!(engine.keyspace("jobs"), Err(Error::KeyspaceNotFound { .. })));
    /// engine.create_keyspace("jobs", KeyspaceOptions::default())?;
    /// engine.keyspace("jobs")?.put("1", "queued")?;
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::KeyspaceNotFound`], [`Error::Closed`]; [`Error::Validation`] in a compaction
    /// policy.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace<&Self>> {
        Ok(Keyspace::new(self, self.catalogue()?.find(name)?))
    }

    /// Creates a keyspace.
    ///
    /// ```
    /// # use hightower_engine::{KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let sessions = engine.create_keyspace("sessions", KeyspaceOptions::default())?;
    /// sessions.put("17", "Ada")?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::KeyspaceExists`]; [`Error::Validation`] or [`Error::LimitExceeded`] for the name;
    /// those of [`put`](Self::put).
    pub fn create_keyspace(&self, name: &str, options: KeyspaceOptions) -> Result<Keyspace<&Self>> {
        Ok(Keyspace::new(self, self.catalogue()?.create(name, options)?))
    }

    /// The keyspaces, in the order of their names, without the default one and reserved
    /// ones. Costs a read of each.
    ///
    /// ```
    /// # use hightower_engine::{KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.create_keyspace("users", KeyspaceOptions::default())?;
    /// engine.create_keyspace("jobs", KeyspaceOptions::default())?;
    /// let names: Vec<_> = engine.keyspaces()?.into_iter().map(|keyspace| keyspace.name).collect();
    /// assert_eq!(names, ["jobs", "users"]);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`]; [`Error::Corrupt`] if a record does not verify.
    pub fn keyspaces(&self) -> Result<Vec<KeyspaceInfo>> {
        Ok(self.catalogue()?.list()?.into_iter().map(KeyspaceInfo::new).collect())
    }

    /// Gives a keyspace another name. Its handles stay valid.
    ///
    /// ```
    /// # use hightower_engine::{KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let next = engine.create_keyspace("config-next", KeyspaceOptions::default())?;
    /// next.put("a", "1")?;
    /// engine.rename_keyspace("config-next", "config")?;
    /// assert_eq!(engine.keyspace("config")?.get("a")?.unwrap(), "1");
    /// assert_eq!(next.name(), "config");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::KeyspaceNotFound`], [`Error::KeyspaceExists`], and as
    /// [`create_keyspace`](Self::create_keyspace).
    pub fn rename_keyspace(&self, name: &str, new_name: &str) -> Result<()> {
        self.catalogue()?.rename(name, new_name)
    }

    /// Gives a keyspace other options: all of `options` hold from now on, for all its handles. A
    /// lower quota than what is there refuses only commits that add more.
    ///
    /// ```
    /// # use hightower_engine::{Error, KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let jobs = engine.create_keyspace("jobs", KeyspaceOptions::default().with_max_keys(1))?;
    /// jobs.put("1", "queued")?;
    /// assert!(matches!(jobs.put("2", "queued"), Err(Error::KeyspaceFull { limit: 1, next: 2, .. })));
    /// engine.alter_keyspace("jobs", jobs.options().with_max_keys(2))?;
    /// jobs.put("2", "queued")?;
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::KeyspaceNotFound`], and as [`put`](Self::put).
    pub fn alter_keyspace(&self, name: &str, options: KeyspaceOptions) -> Result<()> {
        self.catalogue()?.alter(name, options)
    }

    /// Drops a keyspace: one commit, for any number of keys. Its handles return
    /// [`Error::KeyspaceDropped`] from then on. The background deletes the keys, in commits of up
    /// to 1,024. If the process ends first, the next one deletes the rest. In a store without
    /// threads [`run_compaction_now`](Self::run_compaction_now) deletes them. A drop works on a
    /// full device.
    ///
    /// ```
    /// # use hightower_engine::{Error, KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let jobs = engine.create_keyspace("jobs", KeyspaceOptions::default())?;
    /// engine.drop_keyspace("jobs")?;
    /// assert!(matches!(jobs.put("1", ""), Err(Error::KeyspaceDropped { .. })));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::KeyspaceNotFound`], and as [`put`](Self::put).
    pub fn drop_keyspace(&self, name: &str) -> Result<()> {
        self.catalogue()?.drop_keyspace(name)
    }

    pub(crate) fn catalogue(&self) -> Result<&Catalogue> {
        self.store.check_not_forked()?;
        Ok(&self.keyspaces)
    }
}
