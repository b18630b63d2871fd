//! The store's own keys in use: created once, loaded, and loaded again after a rotation.

use std::sync::Arc;

use hightower_engine::{BatchOutcome, Expect, KeyspaceEngine};
use zeroize::Zeroizing;

use super::AuthService;
use super::records::RecordBatch;
use super::store_keys::{Meta, ProcessKeys, Root, StoreKeys, root_identity};
use crate::api_key_cache::ApiKeyCache;
use crate::audit::{AuditAction, AuditEntry, AuditOutcome, Head, chain_hash};
use crate::crypto::{EncryptedBlob, EnvelopeEncryptor, SecretHasher};
use crate::entropy::random;
use crate::error::{Error, Result};
use crate::id::{NOBODY, UserId};
use crate::record::{StoredUser, UserRecord};
use crate::record_keys;

/// Maximum number of attempts of an operation while the store's keys are rotated concurrently.
const MAX_KEY_REFRESHES: usize = 16;

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    pub(super) fn keys(&self) -> Result<Arc<StoreKeys>> {
        let held = self.shared.keys.read().clone();
        if let Some(keys) = held {
            return Ok(keys);
        }
        // No lock is held during calls of the engine. A second thread may do the same work; both
        // find the same roots.
        if self.load_meta()?.is_none() {
            self.initialise_store()?;
        }
        self.take_keys()
    }

    /// The keys that do not depend on the store.
    pub(super) fn process_keys(&self) -> Result<&ProcessKeys> {
        if let Some(keys) = self.shared.process_keys.get() {
            return Ok(keys);
        }
        let entropy = &*self.options().entropy;
        let unknown = Zeroizing::new(random::<32>(entropy)?);
        let decoy = self.shared.hasher.hash_secret(unknown.as_slice())?;
        let verified = ApiKeyCache::new(self.options().verified_cache_entries, entropy)?;
        Ok(self.shared.process_keys.get_or_init(|| ProcessKeys { decoy, verified }))
    }

    pub(super) fn load_meta(&self) -> Result<Option<Meta>> {
        self.records().get(record_keys::META)?.map(|bytes| Meta::decode(&bytes)).transpose()
    }

    /// Loads the keys of the current `meta` record.
    fn take_keys(&self) -> Result<Arc<StoreKeys>> {
        let meta = self.meta()?;
        let held = self.shared.keys.read().clone();
        let keys = match held.and_then(|held| held.rewrapped(&meta.value, meta.version)) {
            Some(keys) => keys,
            None => StoreKeys::derive(&meta.value, meta.version, &self.shared.crypto)?,
        };
        let keys = Arc::new(keys);
        let mut held = self.shared.keys.write();
        match &*held {
            Some(newer) if newer.meta_version >= keys.meta_version => Ok(Arc::clone(newer)),
            _ => {
                *held = Some(Arc::clone(&keys));
                drop(held);
                // Verifications under replaced keys must be repeated.
                self.process_keys()?.verified.clear();
                Ok(keys)
            }
        }
    }

    /// Whether the current keys differ from `stale`; if so, loads them.
    pub(super) fn refresh_keys(&self, stale: &StoreKeys) -> Result<bool> {
        let now = self.records().get_versioned(record_keys::META)?;
        if now.is_none_or(|(_, version)| version == stale.meta_version) {
            return Ok(false);
        }
        Ok(self.take_keys()?.meta_version != stale.meta_version)
    }

    /// Runs `work` with the store's keys, and again with newer keys if the keys were rotated
    /// meanwhile.
    pub(super) fn with_keys<T>(&self, work: impl Fn(&StoreKeys) -> Result<T>) -> Result<T> {
        let mut refreshes = 0;
        loop {
            let keys = self.keys()?;
            match work(&keys) {
                Err(Error::Crypto(_)) if refreshes < MAX_KEY_REFRESHES && self.refresh_keys(&keys)? => refreshes += 1,
                outcome => return outcome,
            }
        }
    }

    /// A new root, wrapped by the current master key.
    pub(super) fn new_root(&self, store_id: &[u8; 16], root: Root) -> Result<EncryptedBlob> {
        let bytes = Zeroizing::new(random::<32>(&*self.options().entropy)?);
        self.shared.crypto.seal(bytes.as_slice(), &root_identity(store_id, root))
    }

    /// Creates the roots and the records that always exist in one commit. If another service did so
    /// first, its roots and records stay.
    fn initialise_store(&self) -> Result<()> {
        let store_id = random(&*self.options().entropy)?;
        let (sealing, lookup) = (self.new_root(&store_id, Root::Sealing)?, self.new_root(&store_id, Root::Lookup)?);
        let meta = Meta { store_id, sealing, lookup, previous: None };
        let keys = StoreKeys::derive(&meta, 0, &self.shared.crypto)?;
        let (batch, entry) = self.first_records(&keys, &meta)?;
        match self.records().commit(&batch)? {
            BatchOutcome::Committed(_) => {
                self.tell_listener(&[entry]);
                Ok(())
            }
            BatchOutcome::Rejected(_) if self.load_meta()?.is_some() => Ok(()),
            BatchOutcome::Rejected(_) => {
                Err(Error::Crypto("the service's key record is missing although other records are there"))
            }
        }
    }

    fn first_records(&self, keys: &StoreKeys, meta: &Meta) -> Result<(RecordBatch<'_>, AuditEntry)> {
        let nobody = StoredUser {
            public: UserRecord {
                user_id: UserId::from_bytes(NOBODY),
                username: String::new(),
                disabled: true,
                roles: Vec::new(),
                has_metadata: false,
                created_at_ms: self.now_ms(),
                password_changed_at_ms: self.now_ms(),
                last_login_ms: None,
            },
            normal_name: String::new(),
            epoch: 0,
            guess_epoch: 0,
            code_epoch: 0,
            password_hash: self.process_keys()?.decoy.clone(),
            trusted: Vec::new(),
        };
        let entry = AuditEntry {
            seq: 0,
            at_ms: self.now_ms(),
            actor: self.caller.actor.clone(),
            action: AuditAction::StoreInitialised,
            target: "store".into(),
            user_id: None,
            source: self.caller.source.clone(),
            outcome: AuditOutcome::Done,
            suppressed: 0,
        };
        let entry_body = entry.encode(&Head::EMPTY.last)?;
        let head = Head { next_seq: 1, last: chain_hash(&keys.audit, &entry_body), ..Head::EMPTY };
        let mut batch = self.records().batch();
        let records = [
            (record_keys::META.to_vec(), meta.encode()?),
            sealed(keys, record_keys::user(&NOBODY), &nobody.encode()?),
            sealed(keys, record_keys::name(&record_keys::LAST_NAME), &NOBODY),
            sealed(keys, record_keys::GENERATION.to_vec(), &[]),
            sealed(keys, record_keys::audit(0), &entry_body),
            sealed(keys, record_keys::AUDIT_HEAD.to_vec(), &head.encode()),
        ];
        for (key, value) in records {
            batch.require(&key, Expect::Absent);
            batch.put(&key, value);
        }
        Ok((batch, entry))
    }
}

fn sealed(keys: &StoreKeys, key: Vec<u8>, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let value = keys.sealer.seal(&key, body);
    (key, value)
}
