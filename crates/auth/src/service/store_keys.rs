//! The store's own keys: one random root, wrapped by the master key, from which a key for each
//! purpose is derived. Secrets that are stored only as hashes stay checkable through every
//! rotation of master keys, because the root stays and only its wrapping changes.

use hightower_engine::{Batch, BatchOutcome, Expect, KvEngine};
use zeroize::Zeroizing;

use super::AuthService;
use crate::audit::{AuditAction, AuditEntry, AuditOutcome, Head, chain_hash};
use crate::codec::{Reader, Writer};
use crate::crypto::{EncryptedBlob, EnvelopeEncryptor, MacKey, SecretHash, SecretHasher};
use crate::error::{Error, Result};
use crate::id::UserId;
use crate::layout;
use crate::record::{StoredUser, UserRecord};
use crate::sealed::{Sealer, identity};
use crate::seam::random;
use crate::verified::VerifiedCache;

const FORMAT: u8 = 1;
/// The user that is read where there is none, so that both cases do the same work.
pub(super) const NOBODY: [u8; 16] = [0; 16];

/// Everything derived from the root key.
#[derive(Debug)]
pub(super) struct StoreKeys {
    pub(super) store_id: [u8; 16],
    pub(super) sealer: Sealer,
    pub(super) api_key: MacKey,
    pub(super) session: MacKey,
    pub(super) single_use: MacKey,
    pub(super) recovery: MacKey,
    pub(super) guess: MacKey,
    pub(super) audit: MacKey,
    /// A hash of nothing anyone knows, verified where there is no password to verify.
    pub(super) decoy: SecretHash,
    pub(super) verified: VerifiedCache,
}

/// The `meta` record: what is needed to unwrap the root.
pub(crate) struct Meta {
    pub(super) store_id: [u8; 16],
    pub(super) root: EncryptedBlob,
}

impl Meta {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::default();
        writer.u8(FORMAT).raw(&self.store_id).bytes(&self.root.to_bytes())?;
        Ok(writer.finish())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            FORMAT => {}
            found => return Err(Error::VersionUnsupported { what: "the service's key record", found, known: FORMAT }),
        }
        let meta = Self { store_id: reader.array()?, root: EncryptedBlob::from_bytes(reader.bytes()?)? };
        reader.end()?;
        Ok(meta)
    }
}

/// What the wrapped root key belongs to.
pub(super) fn root_identity(store_id: &[u8; 16]) -> Vec<u8> {
    identity(store_id, "store", store_id, "root")
}

impl<E: KvEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    pub(super) fn keys(&self) -> Result<&StoreKeys> {
        if let Some(keys) = self.shared.keys.get() {
            return Ok(keys);
        }
        // Not inside `get_or_init`: no lock is held while the engine works. A second thread may
        // do this work too; both find the same root.
        let meta = match self.load_meta()? {
            Some(meta) => meta,
            None => self.initialise_store()?,
        };
        let root = self.shared.crypto.open(&meta.root, &root_identity(&meta.store_id))?;
        let keys = self.derive_keys(&root, meta.store_id)?;
        Ok(self.shared.keys.get_or_init(|| keys))
    }

    pub(super) fn load_meta(&self) -> Result<Option<Meta>> {
        self.shared.engine.get(layout::META)?.map(|bytes| Meta::decode(&bytes)).transpose()
    }

    fn derive_keys(&self, root: &[u8], store_id: [u8; 16]) -> Result<StoreKeys> {
        let entropy = &*self.options().entropy;
        let root = MacKey::new(root)?;
        let unknown = Zeroizing::new(random::<32>(entropy)?);
        Ok(StoreKeys {
            store_id,
            sealer: Sealer::new(root.derive(b"hightower-auth records v1")?, store_id),
            api_key: root.derive(b"hightower-auth api keys v1")?,
            session: root.derive(b"hightower-auth sessions v1")?,
            single_use: root.derive(b"hightower-auth single-use tokens v1")?,
            recovery: root.derive(b"hightower-auth recovery codes v1")?,
            guess: root.derive(b"hightower-auth guesses v1")?,
            audit: root.derive(b"hightower-auth audit v1")?,
            decoy: self.shared.hasher.hash_secret(unknown.as_slice())?,
            verified: VerifiedCache::new(self.options().verified_cache_entries, entropy)?,
        })
    }

    /// Makes the root key and the records that always exist, in one commit.
    fn initialise_store(&self) -> Result<Meta> {
        let entropy = &*self.options().entropy;
        let (store_id, root) = (random(entropy)?, Zeroizing::new(random::<32>(entropy)?));
        let blob = self.shared.crypto.seal(root.as_slice(), &root_identity(&store_id))?;
        let meta = Meta { store_id, root: blob };
        let keys = self.derive_keys(root.as_slice(), store_id)?;
        let (batch, entry) = self.first_records(&keys, &meta)?;
        match self.shared.engine.commit(batch)? {
            BatchOutcome::Committed { .. } => {
                self.tell_listener(&[entry]);
                Ok(meta)
            }
            BatchOutcome::Rejected { .. } => match self.load_meta()? {
                Some(meta) => Ok(meta),
                None => Err(Error::Crypto("the service's key record is missing although other records are there")),
            },
        }
    }

    fn first_records(&self, keys: &StoreKeys, meta: &Meta) -> Result<(Batch, AuditEntry)> {
        let nobody = StoredUser {
            public: UserRecord {
                user_id: UserId::from_bytes(NOBODY),
                username: String::new(),
                disabled: true,
                roles: Vec::new(),
                metadata: None,
                created_at_ms: self.now_ms(),
                password_changed_at_ms: self.now_ms(),
                last_login_ms: None,
            },
            normal_name: String::new(),
            epoch: 0,
            guess_epoch: 0,
            password_hash: keys.decoy.clone(),
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
            (layout::META.to_vec(), meta.encode()?),
            sealed(keys, layout::user(&NOBODY), &nobody.encode()?),
            sealed(keys, layout::name(""), &NOBODY),
            sealed(keys, layout::GENERATION.to_vec(), &[]),
            sealed(keys, layout::audit(0), &entry_body),
            sealed(keys, layout::AUDIT_HEAD.to_vec(), &head.encode()),
        ];
        for (key, value) in records {
            batch.push_require(&key, Expect::Absent);
            batch.push_put(&key, value);
        }
        Ok((batch, entry))
    }
}

fn sealed(keys: &StoreKeys, key: Vec<u8>, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let value = keys.sealer.seal(&key, body);
    (key, value)
}
