//! The store's own keys: two random roots, wrapped by the master key, from which a key for each
//! purpose is derived.
//!
//! The **sealing root** authenticates records. [`AuthService::rotate_root`] replaces it; afterwards
//! the old root cannot forge records. The **lookup root** derives lookup tags from random secrets,
//! names and addresses, and chains the audit trail. It stays, so that tokens and anchors outlive
//! every rotation. It cannot forge records without the sealing root.

use std::collections::BTreeSet;
use std::sync::Arc;

use hightower_engine::{Batch, BatchOutcome, Expect, KvEngine};
use zeroize::Zeroizing;

use super::AuthService;
use super::change::Loaded;
use crate::api_key_cache::ApiKeyCache;
use crate::audit::{AuditAction, AuditEntry, AuditOutcome, Head, chain_hash};
use crate::codec::{FieldReader, FieldWriter};
use crate::crypto::{EncryptedBlob, EnvelopeEncryptor, MacKey, MasterKeyId, SecretHash, SecretHasher};
use crate::entropy::random;
use crate::error::{Error, Result};
use crate::id::{NOBODY, UserId};
use crate::record::{StoredUser, UserRecord};
use crate::record_keys;
use crate::record_mac::{RecordSealer, identity};

const FORMAT: u8 = 1;

/// The keys derived from the roots, as of one version of the `meta` record.
#[derive(Clone, Debug)]
pub(super) struct StoreKeys {
    pub(super) store_id: [u8; 16],
    /// The version of the `meta` record. Every commit requires it, so that no commit uses replaced
    /// keys.
    pub(super) meta_version: u64,
    /// The ciphertexts of the roots. They identify the roots, because a re-wrap changes only the
    /// wrapped data keys.
    roots: Vec<Vec<u8>>,
    /// The id of the master key that wraps the roots.
    pub(super) master_key_id: MasterKeyId,
    pub(super) sealer: RecordSealer,
    pub(super) api_key: MacKey,
    pub(super) session: MacKey,
    pub(super) single_use: MacKey,
    pub(super) recovery: MacKey,
    pub(super) guess: MacKey,
    pub(super) names: MacKey,
    pub(super) audit: MacKey,
}

impl StoreKeys {
    /// The key of a name's entry in the index of names.
    pub(super) fn name_key(&self, normal: &str) -> Vec<u8> {
        record_keys::name(&self.names.tag(&[normal.as_bytes()]))
    }
}

/// The keys of the process.
#[derive(Debug)]
pub(super) struct ProcessKeys {
    /// A hash of a random secret, verified where no password hash exists.
    pub(super) decoy: SecretHash,
    pub(super) verified: ApiKeyCache,
}

/// The `meta` record: the store id and the wrapped roots.
pub(crate) struct Meta {
    pub(super) store_id: [u8; 16],
    pub(super) sealing: EncryptedBlob,
    pub(super) lookup: EncryptedBlob,
    /// The previous sealing root, wrapped by an older master key, during a rotation. It is never
    /// wrapped by a newer master key, because an attacker with the old root could then restore it.
    pub(super) previous: Option<EncryptedBlob>,
}

impl Meta {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = FieldWriter::default();
        writer.u8(FORMAT).raw(&self.store_id);
        writer.bytes(&self.sealing.to_bytes())?.bytes(&self.lookup.to_bytes())?;
        writer.optional_bytes(self.previous.as_ref().map(EncryptedBlob::to_bytes).as_deref())?;
        Ok(writer.finish())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = FieldReader::new(bytes);
        match reader.u8()? {
            FORMAT => {}
            found => return Err(Error::VersionUnsupported { what: "the service's key record", found, known: FORMAT }),
        }
        let meta = Self {
            store_id: reader.array()?,
            sealing: EncryptedBlob::from_bytes(reader.bytes()?)?,
            lookup: EncryptedBlob::from_bytes(reader.bytes()?)?,
            previous: reader.optional_bytes()?.map(EncryptedBlob::from_bytes).transpose()?,
        };
        reader.end()?;
        Ok(meta)
    }

    fn encrypted_roots(&self) -> Vec<Vec<u8>> {
        let roots = [Some(&self.sealing), Some(&self.lookup), self.previous.as_ref()];
        let text = |root: Option<&EncryptedBlob>| root.map(|blob| [&blob.nonce()[..], blob.ciphertext()].concat());
        roots.into_iter().map(|root| text(root).unwrap_or_default()).collect()
    }

    /// The ids of the master keys that wrap the roots.
    pub(super) fn master_keys(&self) -> BTreeSet<MasterKeyId> {
        [&self.sealing, &self.lookup].into_iter().chain(&self.previous).map(EncryptedBlob::key_id).collect()
    }
}

/// The kind of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    Sealing,
    Lookup,
}

/// The associated data of a wrapped root.
pub(super) fn root_identity(store_id: &[u8; 16], root: Root) -> Vec<u8> {
    let name = match root {
        Root::Sealing => "sealing root",
        Root::Lookup => "lookup root",
    };
    identity(store_id, "store", store_id, name)
}

/// Maximum number of attempts of an operation while the store's keys are rotated concurrently.
const MAX_KEY_REFRESHES: usize = 16;

impl<E: KvEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
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
        self.shared.engine.get(record_keys::META)?.map(|bytes| Meta::decode(&bytes)).transpose()
    }

    /// Loads the keys of the current `meta` record.
    fn take_keys(&self) -> Result<Arc<StoreKeys>> {
        let meta = self.meta()?;
        let same = self.shared.keys.read().clone().filter(|held| held.roots == meta.value.encrypted_roots());
        let keys = Arc::new(match same {
            // Only re-wrapped: a ring without the newer master key need not unwrap them again.
            Some(held) => StoreKeys {
                meta_version: meta.version,
                master_key_id: meta.value.sealing.key_id(),
                ..StoreKeys::clone(&held)
            },
            None => self.derive_keys(&meta)?,
        });
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
        let now = self.shared.engine.get_versioned(record_keys::META)?;
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

    fn derive_keys(&self, meta: &Loaded<Meta>) -> Result<StoreKeys> {
        let Loaded { value: meta, version } = meta;
        let open = |blob, root| self.shared.crypto.open(blob, &root_identity(&meta.store_id, root));
        let sealing = |blob| MacKey::new(&open(blob, Root::Sealing)?)?.derive(b"hightower-auth records v1");
        let previous = meta.previous.as_ref().map(sealing).transpose()?;
        let lookup = MacKey::new(&open(&meta.lookup, Root::Lookup)?)?;
        Ok(StoreKeys {
            store_id: meta.store_id,
            meta_version: *version,
            roots: meta.encrypted_roots(),
            master_key_id: meta.sealing.key_id(),
            sealer: RecordSealer::new(sealing(&meta.sealing)?, meta.store_id).with_previous(previous),
            api_key: lookup.derive(b"hightower-auth api keys v1")?,
            session: lookup.derive(b"hightower-auth sessions v1")?,
            single_use: lookup.derive(b"hightower-auth single-use tokens v1")?,
            recovery: lookup.derive(b"hightower-auth recovery codes v1")?,
            guess: lookup.derive(b"hightower-auth guesses v1")?,
            names: lookup.derive(b"hightower-auth names v1")?,
            audit: lookup.derive(b"hightower-auth audit v1")?,
        })
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
        let meta = Loaded { value: meta, version: 0 };
        let (batch, entry) = self.first_records(&self.derive_keys(&meta)?, &meta.value)?;
        match self.shared.engine.commit(&batch)? {
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

    fn first_records(&self, keys: &StoreKeys, meta: &Meta) -> Result<(Batch, AuditEntry)> {
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
        let mut batch = Batch::new();
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
