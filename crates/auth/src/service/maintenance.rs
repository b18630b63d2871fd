//! Maintenance, which may run at any time beside other calls: rotation of the master key and of the
//! root key, and removal of expired records.

use std::collections::BTreeMap;
use std::ops::Bound;

use hightower_engine::{KeyspaceEngine, Value};

use super::AuthService;
use super::change::{Decision, Loaded};
use super::sessions::{IndexedSession, drop_session};
use super::store_keys::{Meta, Root, root_identity};
use crate::audit::AuditAction;
use crate::crypto::{EncryptedBlob, EnvelopeEncryptor, MasterKeyId, SecretHasher};
use crate::error::{Error, Result};
use crate::id::UserId;
use crate::mutants::planted;
use crate::permission::prefix_end;
use crate::record::SessionRecord;
use crate::record_keys::{self, MetadataOf};
use crate::record_mac::identity;

const PAGE: usize = 256;
const RESEAL_PAGE: usize = 64;

/// The outcome of a rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotation {
    /// Number of re-wrapped or re-sealed records.
    pub rewrapped: u64,
    /// Number of records read.
    pub examined: u64,
}

/// The number of records that a purge removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purged {
    /// Expired and ended sessions.
    pub sessions: u64,
    /// Expired API keys.
    pub api_keys: u64,
    /// Invalid single-use tokens.
    pub tokens: u64,
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Wraps the root keys and every record's data key with the current master key. The data does
    /// not change, and other calls may run meanwhile. When this returns, older master keys no
    /// longer wrap anything, including data that was encrypted meanwhile, and can be removed.
    ///
    /// An attacker with an older master key and an old copy of the store still knows the root keys,
    /// and with write access to the store can forge records. [`AuthService::rotate_root`] prevents
    /// this.
    ///
    /// After an interruption, run it again: it continues with the remaining records.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic or its master key is missing.
    pub fn rotate_master_key(&self) -> Result<Rotation> {
        let mut rotation = Rotation::default();
        self.rewrap_roots(&mut rotation)?;
        self.rewrap_metadata(&mut rotation)?;
        if rotation.rewrapped > 0 {
            let target = format!("key {}", self.shared.crypto.current_key_id());
            self.change(|change| {
                change.audit(AuditAction::MasterKeyRotated, target.clone());
                Ok(Decision::Commit(()))
            })?;
        }
        Ok(rotation)
    }

    /// Replaces the root key that authenticates records, under a newer master key, and seals every
    /// record again. When this has returned and the older master keys are removed from the ring, an
    /// attacker with a copy of them and an old copy of the store can neither decrypt new data nor
    /// forge records. Tokens, passwords and audit anchors stay valid.
    ///
    /// Other calls may run meanwhile. It reads and writes each record once, with 64 records per
    /// commit. After an interruption, run it again: it continues with the remaining records. It
    /// needs the older master keys until it has returned.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the current master key wraps the root already: add a newer master key
    /// first. Do not call [`AuthService::rotate_master_key`] in between, because it would wrap the
    /// old root with the new key. [`Error::Crypto`] if a record is not authentic or its master key
    /// is missing.
    pub fn rotate_root(&self) -> Result<Rotation> {
        self.prepare()?;
        let mut rotation = Rotation::default();
        self.begin_root()?;
        self.reseal_all(&mut rotation)?;
        self.rewrap_metadata(&mut rotation)?;
        self.change(|change| {
            let Loaded { value: meta, version } = self.meta()?;
            if version != change.keys.meta_version {
                self.refresh_keys(change.keys)?;
                return Ok(Decision::Again);
            }
            if meta.previous.is_none() {
                return Ok(Decision::Stop(()));
            }
            change.batch.put(record_keys::META, Meta { previous: None, ..meta }.encode()?);
            change.audit(AuditAction::RootKeyRotated, format!("key {}", self.shared.crypto.current_key_id()));
            Ok(Decision::Commit(()))
        })?;
        // From now on this service does not open records of the old root either.
        let keys = self.keys()?;
        self.refresh_keys(&keys)?;
        Ok(rotation)
    }

    /// Creates a new sealing root, unless a rotation is in progress.
    fn begin_root(&self) -> Result<()> {
        self.change(|change| {
            let Loaded { value: meta, version } = self.meta()?;
            if version != change.keys.meta_version {
                self.refresh_keys(change.keys)?;
                return Ok(Decision::Again);
            }
            if meta.previous.is_some() {
                return Ok(Decision::Stop(()));
            }
            if meta.sealing.key_id() >= self.shared.crypto.current_key_id() {
                return Err(Error::Conflict(
                    "the current master key wraps the root key already: add a newer one, then rotate the root",
                ));
            }
            let sealing = self.new_root(&meta.store_id, Root::Sealing)?;
            let lookup_identity = root_identity(&meta.store_id, Root::Lookup);
            let lookup = self.shared.crypto.rewrap(&meta.lookup, &lookup_identity)?.unwrap_or(meta.lookup);
            let next = Meta { store_id: meta.store_id, sealing, lookup, previous: Some(meta.sealing) };
            change.batch.put(record_keys::META, next.encode()?);
            Ok(Decision::Commit(()))
        })?;
        let keys = self.keys()?;
        self.refresh_keys(&keys).map(drop)
    }

    /// Seals every existing record with the new root. New records use it already, because every
    /// commit requires the current keys.
    fn reseal_all(&self, rotation: &mut Rotation) -> Result<()> {
        let mut after = Vec::new();
        loop {
            let page = self.records().scan(Bound::Excluded(&after), Bound::Unbounded, RESEAL_PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after.clone_from(last);
            let keys: Vec<Vec<u8>> =
                page.into_iter().map(|(key, _)| key).filter(|key| key != record_keys::META).collect();
            rotation.examined += keys.len() as u64;
            rotation.rewrapped += self.change(|change| {
                let mut resealed = 0;
                for key in &keys {
                    // Removed meanwhile, or sealed again by another change.
                    let Some((bytes, version)) = self.records().get_versioned(key)? else { continue };
                    if change.keys.sealer.is_current(key, &bytes) {
                        continue;
                    }
                    let body = change.keys.sealer.open(key, &bytes)?.rest();
                    change.replace(key, version, body);
                    resealed += 1;
                    if planted("auth_reseal_one_a_page") {
                        break;
                    }
                }
                Ok(if resealed == 0 { Decision::Stop(0) } else { Decision::Commit(resealed) })
            })?;
        }
    }

    /// The number of records that each master key wraps a key of. A master key that is not listed
    /// wraps nothing in this store. It can be removed, unless another store or a backup needs it.
    ///
    /// It reads all metadata once. A record that changes meanwhile is counted as before or after
    /// its change.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn master_key_usage(&self) -> Result<BTreeMap<MasterKeyId, u64>> {
        let mut usage = BTreeMap::new();
        let mut count = |key_id| *usage.entry(key_id).or_insert(0) += 1;
        self.prepare()?;
        self.meta()?.value.master_keys().into_iter().for_each(&mut count);
        self.for_each_key::<17>(record_keys::METADATA, |key, _| {
            let blob = self.load(key, |mut reader| EncryptedBlob::from_bytes(reader.rest()))?;
            blob.iter().for_each(|blob| count(blob.value.key_id()));
            Ok(())
        })?;
        self.for_each_key(record_keys::FACTORS, |_, id| {
            let mut factors = self.factors_of(&UserId::from_bytes(*id))?.value;
            factors.secrets_mut().for_each(|secret| count(secret.blob.key_id()));
            Ok(())
        })?;
        Ok(usage)
    }

    pub(super) fn meta(&self) -> Result<Loaded<Meta>> {
        match self.records().get_versioned(record_keys::META)? {
            Some((bytes, version)) => Ok(Loaded { value: Meta::decode(&bytes)?, version }),
            None => Err(Error::Crypto("the service's key record is missing")),
        }
    }

    fn rewrap_roots(&self, rotation: &mut Rotation) -> Result<()> {
        self.prepare()?;
        rotation.examined += 1;
        rotation.rewrapped += u64::from(self.change(|change| {
            let Loaded { value: meta, version } = self.meta()?;
            if version != change.keys.meta_version {
                self.refresh_keys(change.keys)?;
                return Ok(Decision::Again);
            }
            let rewrap = |blob, root| self.shared.crypto.rewrap(blob, &root_identity(&meta.store_id, root));
            let (sealing, lookup) = (rewrap(&meta.sealing, Root::Sealing)?, rewrap(&meta.lookup, Root::Lookup)?);
            if sealing.is_none() && lookup.is_none() {
                return Ok(Decision::Stop(false));
            }
            let (sealing, lookup) = (sealing.unwrap_or(meta.sealing), lookup.unwrap_or(meta.lookup));
            change.batch.put(record_keys::META, Meta { sealing, lookup, ..meta }.encode()?);
            Ok(Decision::Commit(true))
        })?);
        Ok(())
    }

    /// Wraps the data keys of all metadata and second factors with the current master key.
    fn rewrap_metadata(&self, rotation: &mut Rotation) -> Result<()> {
        self.for_each_key(record_keys::FACTORS, |_, id| {
            rotation.examined += 1;
            rotation.rewrapped += u64::from(self.rewrap_factors(id)?);
            Ok(())
        })?;
        self.for_each_key::<17>(record_keys::METADATA, |key, rest| {
            rotation.examined += 1;
            rotation.rewrapped += u64::from(self.rewrap_one(key, rest)?);
            Ok(())
        })
    }

    fn rewrap_one(&self, key: &[u8], rest: &[u8; 17]) -> Result<bool> {
        let foreign = Error::Crypto("a stored record is not what the service wrote");
        let ([letter, id @ ..], Some(of)) = (rest, MetadataOf::of_letter(rest[0])) else { return Err(foreign) };
        let _letter = letter;
        self.change(|change| {
            let Some(held) = self.load(key, |mut reader| EncryptedBlob::from_bytes(reader.rest()))? else {
                return Ok(Decision::Stop(false));
            };
            let Some(blob) = self.rewrap_field(of.name(), id, Some(&held.value))? else {
                return Ok(Decision::Stop(false));
            };
            change.replace(key, held.version, &blob.to_bytes());
            Ok(Decision::Commit(true))
        })
    }

    pub(super) fn rewrap_field(
        &self,
        kind: &str,
        id: &[u8; 16],
        blob: Option<&EncryptedBlob>,
    ) -> Result<Option<EncryptedBlob>> {
        let identity = identity(&self.keys()?.store_id, kind, id, "metadata");
        match blob {
            Some(blob) => self.shared.crypto.rewrap(blob, &identity),
            None => Ok(None),
        }
    }

    /// Removes ended sessions, expired API keys and invalid single-use tokens. They are refused
    /// anyway; this frees their space.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn purge_expired(&self) -> Result<Purged> {
        let mut purged = Purged::default();
        self.for_each_key::<32>(record_keys::SESSIONS, |_, token_hash| {
            purged.sessions += u64::from(self.purge_session(token_hash)?);
            Ok(())
        })?;
        self.for_each_key(record_keys::API_KEYS, |_, id| {
            let key = self.load_api_key(id)?.map(|key| key.value.public);
            let expired = |at_ms| self.now_ms() >= at_ms;
            if let Some(key) = key.filter(|key| key.expires_at_ms.is_some_and(expired)) {
                purged.api_keys += u64::from(self.revoke_api_key(&key.key_id)?);
            }
            Ok(())
        })?;
        self.for_each_key::<32>(record_keys::SINGLE_USES, |_, hash| {
            purged.tokens += u64::from(self.purge_token(hash)?);
            Ok(())
        })?;
        Ok(purged)
    }

    fn purge_session(&self, token_hash: &[u8; 32]) -> Result<bool> {
        self.change(|change| {
            let Some(session) = self.load_session(token_hash)? else {
                return Ok(Decision::Stop(false));
            };
            let user_id = session.value.public.user_id.as_bytes();
            let epoch = self.load_user(user_id)?.map(|user| user.value.epoch);
            if epoch.is_some_and(|epoch| !session.value.is_over(self.now_ms(), epoch)) {
                return Ok(Decision::Stop(false));
            }
            let SessionRecord { session_id, .. } = &session.value.public;
            change.require(&record_keys::session(token_hash), session.version);
            drop_session(change, user_id, &IndexedSession { id: *session_id.as_bytes(), token_hash: *token_hash });
            change.takes_access();
            Ok(Decision::Commit(true))
        })
    }

    /// Calls `visit` with each key under `prefix` and the key's part after the prefix, page by
    /// page.
    pub(super) fn for_each_key<const N: usize>(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8; N]) -> Result<()>,
    ) -> Result<()> {
        let end = prefix_end(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let from = after.as_deref().map_or(Bound::Included(prefix), Bound::Excluded);
            let page: Vec<(Vec<u8>, Value)> = self.records().scan(from, to, PAGE)?;
            for (key, _) in &page {
                match key[prefix.len()..].try_into() {
                    Ok(rest) => visit(key, rest)?,
                    Err(_) => return Err(Error::Crypto("a stored record is not what the service wrote")),
                }
            }
            match page.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => return Ok(()),
            }
        }
    }
}
