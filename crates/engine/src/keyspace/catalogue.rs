//! The catalogue of keyspaces: records of the system keyspace, and the keyspaces in use.
//!
//! One change of the catalogue at a time: the lock is held from reading the records to the end of
//! the commit, and also while a handle is made. So a keyspace that is dropped is either not in use,
//! or the commit that drops it finds it here and marks it, under the commit lock.
//!
//! An id is free if it is neither below the counter nor in a key: the counter is written in the
//! commit that creates a keyspace and is never deleted, and a store that has lost it, such as a
//! salvaged one, still has the keys.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use hightower_seams::lock_order::Rank;

use crate::batch::{Batch, BatchOutcome};
use crate::commit::WritePath;
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::keyspace::record::{CatalogueRecord, FIRST_ID, NAMES, NEXT_ID, dropped_key, name_key, next_id};
use crate::keyspace::{KeyspaceId, KeyspaceOptions, KeyspaceRemoval, LivingKeyspace, UserKey};
use crate::maintenance::Maintenance;
use crate::mutants::planted;
use crate::read_path::ReadPath;
use crate::snapshot::Snapshot;
use crate::sync::step;
use crate::turn::{CheckedGuard, CheckedMutex, HasRank};

/// Maximum length of a name.
const MAX_NAME_LEN_BYTES: usize = 255;

/// Names that begin with this are for the layers above the engine.
const RESERVED: char = '$';

/// The keyspaces in use, by their ids.
#[derive(Debug, Default)]
pub(crate) struct KeyspacesInUse(HashMap<KeyspaceId, Weak<LivingKeyspace>>);

impl HasRank for KeyspacesInUse {
    const RANK: Rank = Rank::Keyspaces;
}

/// The keyspaces of a store.
#[derive(Debug)]
pub(crate) struct Catalogue {
    read: Arc<ReadPath>,
    write: Arc<WritePath>,
    maintenance: Arc<Maintenance>,
    removal: Arc<KeyspaceRemoval>,
    durability: Durability,
    living: CheckedMutex<KeyspacesInUse>,
}

/// The parts of a store that the catalogue uses.
pub(crate) struct CatalogueParts<'a> {
    pub(crate) read: &'a Arc<ReadPath>,
    pub(crate) write: &'a Arc<WritePath>,
    pub(crate) maintenance: &'a Arc<Maintenance>,
    pub(crate) removal: &'a Arc<KeyspaceRemoval>,
}

impl KeyspacesInUse {
    fn in_use(&mut self, name: &str, record: CatalogueRecord, store: u64) -> Arc<LivingKeyspace> {
        let CatalogueRecord { id, options } = record;
        if let Some(living) = self.0.get(&id).and_then(Weak::upgrade) {
            return living;
        }
        self.0.retain(|_, living| living.strong_count() > 0);
        let living = Arc::new(LivingKeyspace::new(name, id, options, store));
        self.0.insert(id, Arc::downgrade(&living));
        living
    }
}

impl Catalogue {
    pub(crate) fn new(parts: &CatalogueParts<'_>, durability: Durability) -> Self {
        Self {
            read: Arc::clone(parts.read),
            write: Arc::clone(parts.write),
            maintenance: Arc::clone(parts.maintenance),
            removal: Arc::clone(parts.removal),
            durability,
            living: CheckedMutex::default(),
        }
    }

    /// The lock of all changes. A commit under it may wait for the turn, whose holder therefore
    /// must not wait for it.
    fn lock(&self) -> Result<CheckedGuard<'_, KeyspacesInUse>> {
        self.maintenance.turn.refuse_holder()?;
        self.living.lock()
    }

    /// The keyspace of a record; its quota holds from now on.
    fn in_use(&self, living: &mut KeyspacesInUse, name: &str, record: CatalogueRecord) -> Arc<LivingKeyspace> {
        let living = living.in_use(name, record, self.read.store_number);
        if record.options.has_quota() {
            self.write.quotas().note_options(&living);
        }
        living
    }

    /// The keyspace of this name.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<LivingKeyspace>> {
        let mut living = self.lock()?;
        let record = self.record(&self.system()?, name)?;
        Ok(self.in_use(&mut living, name, record))
    }

    /// All keyspaces, in the order of their names.
    pub(crate) fn list(&self) -> Result<Vec<(String, CatalogueRecord)>> {
        let mut found = Vec::new();
        for entry in self.system()?.prefix(NAMES) {
            let (key, value) = entry?.into_pair()?;
            let name = key.strip_prefix(NAMES).unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            found.push((name, CatalogueRecord::decode(&value)?));
        }
        Ok(found)
    }

    /// Creates a keyspace.
    pub(crate) fn create(&self, name: &str, options: KeyspaceOptions) -> Result<Arc<LivingKeyspace>> {
        check_name(name)?;
        let mut living = self.lock()?;
        let system = self.system()?;
        self.check_free(&system, name)?;
        let record = CatalogueRecord { id: self.free_id(&system)?, options };
        let mut batch = Batch::new();
        batch.use_reserve(true);
        put_new(&mut batch, name, record)?;
        self.commit(&batch)?;
        Ok(self.in_use(&mut living, name, record))
    }

    /// Gives a keyspace another name.
    pub(crate) fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        check_name(name)?;
        check_name(new_name)?;
        let mut living = self.lock()?;
        let system = self.system()?;
        let record = self.record(&system, name)?;
        self.check_free(&system, new_name)?;
        let mut batch = Batch::new();
        batch.use_reserve(true).system_delete(&name_key(name)).system_put(&name_key(new_name), &record.encode());
        self.commit(&batch)?;
        self.in_use(&mut living, new_name, record).rename(new_name);
        Ok(())
    }

    /// Gives a keyspace other options.
    pub(crate) fn alter(&self, name: &str, options: KeyspaceOptions) -> Result<()> {
        check_name(name)?;
        let mut living = self.lock()?;
        let record = CatalogueRecord { options, ..self.record(&self.system()?, name)? };
        let mut batch = Batch::new();
        batch.use_reserve(true).system_put(&name_key(name), &record.encode());
        self.commit(&batch)?;
        let altered = self.in_use(&mut living, name, record);
        altered.set_options(options);
        self.write.quotas().note_options(&altered);
        Ok(())
    }

    /// Drops a keyspace; its keys are deleted in the background.
    pub(crate) fn drop_keyspace(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let mut living = self.lock()?;
        let record = self.record(&self.system()?, name)?;
        let dropped = self.in_use(&mut living, name, record);
        let mut batch = Batch::new();
        batch.system_delete(&name_key(name));
        self.drop_with(batch, &dropped, name, &mut living)
    }

    /// Replaces a keyspace by an empty one of the same name and options.
    pub(crate) fn clear(&self, cleared: &Arc<LivingKeyspace>) -> Result<Arc<LivingKeyspace>> {
        if cleared.id.is_reserved() && !planted("reserved_keyspaces_cleared") {
            return Err(Error::Validation("a reserved keyspace cannot be cleared: delete its keys".into()));
        }
        let mut living = self.lock()?;
        cleared.check_in(self.read.store_number)?;
        let system = self.system()?;
        let name = cleared.name();
        let record = CatalogueRecord { id: self.free_id(&system)?, options: cleared.options() };
        let mut batch = Batch::new();
        put_new(&mut batch, &name, record)?;
        self.drop_with(batch, cleared, &name, &mut living)?;
        Ok(self.in_use(&mut living, &name, record))
    }

    fn drop_with(
        &self,
        mut batch: Batch,
        dropped: &Arc<LivingKeyspace>,
        name: &str,
        living: &mut KeyspacesInUse,
    ) -> Result<()> {
        // Dropping makes room, so it works on a full device.
        batch.use_reserve(true).drops(dropped);
        if !planted("dropped_keyspaces_forgotten") {
            batch.system_put(&dropped_key(dropped.id), name.as_bytes());
        }
        self.commit(&batch)?;
        step();
        if planted("drop_noted_after_the_commit") {
            dropped.note_drop();
        }
        living.0.remove(&dropped.id);
        self.write.quotas().forget(dropped.id);
        self.removal.note_drop();
        self.maintenance.wake();
        Ok(())
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        match self.write.commit_batch(batch, self.durability)? {
            BatchOutcome::Committed(_) => Ok(()),
            BatchOutcome::Rejected(rejected) => Err(rejected.into()),
        }
    }

    fn system(&self) -> Result<Snapshot> {
        Ok(Snapshot::new(&self.read)?.of(KeyspaceId::SYSTEM))
    }

    fn record(&self, system: &Snapshot, name: &str) -> Result<CatalogueRecord> {
        CatalogueRecord::find(name, |key| system.get(key))
    }

    fn check_free(&self, system: &Snapshot, name: &str) -> Result<()> {
        if system.contains_key(name_key(name))? {
            return Err(Error::KeyspaceExists { name: name.to_owned() });
        }
        Ok(())
    }

    fn free_id(&self, system: &Snapshot) -> Result<KeyspaceId> {
        let counted = match system.get(NEXT_ID)? {
            Some(value) if !planted("ids_used_again") => next_id(&value)?,
            _ => FIRST_ID,
        };
        let last = system.others().next_back().transpose()?;
        let behind = last.map_or(0, |last| UserKey::of(last.stored_key()).keyspace.get().saturating_add(1));
        Ok(KeyspaceId::new(counted.max(behind).max(FIRST_ID)))
    }
}

/// Puts the record of a new keyspace, and the id behind its own.
fn put_new(batch: &mut Batch, name: &str, record: CatalogueRecord) -> Result<()> {
    let next = record.id.get().checked_add(1);
    let next = next.ok_or_else(|| Error::Validation("all ids of keyspaces are used".into()))?;
    batch.system_put(&name_key(name), &record.encode()).system_put(NEXT_ID, &next.to_le_bytes());
    Ok(())
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.chars().any(char::is_control) {
        let what = "the name of a keyspace has 1 to 255 bytes of text, without control characters";
        return Err(Error::Validation(what.into()));
    }
    if name.len() > MAX_NAME_LEN_BYTES {
        let (found, limit) = (name.len() as u64, MAX_NAME_LEN_BYTES as u64);
        return Err(Error::LimitExceeded { what: "name of a keyspace (bytes)", found, limit });
    }
    if name.starts_with(RESERVED) {
        return Err(Error::Validation(
            format!("the name {name} is reserved: those of users do not begin with {RESERVED}").into(),
        ));
    }
    Ok(())
}
