//! Work that may run at any time beside everything else: re-wrapping after a master key was
//! added, and removing what has expired.

use std::collections::BTreeMap;
use std::ops::Bound;

use hightower_engine::{KvEngine, Value};

use super::AuthService;
use super::change::{Loaded, Step};
use super::sessions::{IndexedSession, drop_session};
use super::store_keys::{Meta, root_identity};
use crate::audit::AuditAction;
use crate::crypto::{EncryptedBlob, EnvelopeEncryptor, MasterKeyId, SecretHasher};
use crate::error::{Error, Result};
use crate::id::UserId;
use crate::layout;
use crate::permission::prefix_end;
use crate::record::SessionRecord;
use crate::sealed::identity;

const PAGE: usize = 256;

/// What a rotation of the master key did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotation {
    /// Records whose data key was wrapped anew.
    pub rewrapped: u64,
    /// Records looked at.
    pub examined: u64,
}

/// What a purge removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purged {
    /// Sessions that were over.
    pub sessions: u64,
    /// API keys that were expired.
    pub api_keys: u64,
    /// Single-use tokens that did not count any more.
    pub tokens: u64,
}

impl<E: KvEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Wraps the root key and every record's data key with the current master key. Data stays as
    /// it is, and everything else may go on meanwhile. When it returns, older master keys wrap
    /// nothing any more, also of what was encrypted while it ran, and can be removed.
    ///
    /// Safe to run again after an interruption: it finds what is left.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic or its master key is missing.
    pub fn rotate_master_key(&self) -> Result<Rotation> {
        let mut rotation = Rotation::default();
        self.rewrap_root(&mut rotation)?;
        self.for_each_key(layout::USERS, |key, id| {
            rotation.examined += 1;
            rotation.rewrapped += u64::from(self.rewrap_user(key, id)?);
            Ok(())
        })?;
        self.for_each_key(layout::API_KEYS, |_, id| {
            rotation.examined += 1;
            rotation.rewrapped += u64::from(self.rewrap_api_key(id)?);
            Ok(())
        })?;
        self.for_each_key(layout::FACTORS, |_, id| {
            rotation.examined += 1;
            rotation.rewrapped += u64::from(self.rewrap_factors(id)?);
            Ok(())
        })?;
        if rotation.rewrapped > 0 {
            let target = format!("key {}", self.shared.crypto.current_key_id());
            self.change(|change| {
                change.audit(AuditAction::MasterKeyRotated, target.clone());
                Ok(Step::Commit(()))
            })?;
        }
        Ok(rotation)
    }

    /// How many records each master key wraps a key of. A key that is not named here wraps nothing in
    /// this store and can be removed, unless another store or a backup needs it.
    ///
    /// Reads every user and API key once; what changes meanwhile may be counted as before or after.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn master_key_usage(&self) -> Result<BTreeMap<MasterKeyId, u64>> {
        let mut usage = BTreeMap::new();
        let mut count = |blob: &EncryptedBlob| *usage.entry(blob.key_id()).or_insert(0) += 1;
        self.prepare()?;
        count(&self.meta()?.value.root);
        self.for_each_key(layout::USERS, |_, id| {
            let user = self.load_user(id)?;
            user.and_then(|user| user.value.public.metadata).iter().for_each(&mut count);
            Ok(())
        })?;
        self.for_each_key(layout::API_KEYS, |_, id| {
            let key = self.load_api_key(id)?;
            key.and_then(|key| key.value.public.metadata).iter().for_each(&mut count);
            Ok(())
        })?;
        self.for_each_key(layout::FACTORS, |_, id| {
            let mut factors = self.factors_of(&UserId::from_bytes(*id))?.value;
            factors.secrets_mut().for_each(|secret| count(&secret.blob));
            Ok(())
        })?;
        Ok(usage)
    }

    pub(super) fn meta(&self) -> Result<Loaded<Meta>> {
        match self.shared.engine.get_versioned(layout::META)? {
            Some((bytes, version)) => Ok(Loaded { value: Meta::decode(&bytes)?, version }),
            None => Err(Error::Crypto("the service's key record is missing")),
        }
    }

    fn rewrap_root(&self, rotation: &mut Rotation) -> Result<()> {
        self.prepare()?;
        rotation.examined += 1;
        rotation.rewrapped += u64::from(self.change(|change| {
            let Loaded { value: meta, version } = self.meta()?;
            let Some(root) = self.shared.crypto.rewrap(&meta.root, &root_identity(&meta.store_id))? else {
                return Ok(Step::Stop(false));
            };
            change.require(layout::META, version);
            change.batch.push_put(layout::META, Meta { root, ..meta }.encode()?);
            Ok(Step::Commit(true))
        })?);
        Ok(())
    }

    fn rewrap_user(&self, key: &[u8], id: &[u8; 16]) -> Result<bool> {
        self.change(|change| {
            let Some(mut user) = self.load_user(id)? else {
                return Ok(Step::Stop(false));
            };
            let Some(blob) = self.rewrap_field("user", id, user.value.public.metadata.as_ref())? else {
                return Ok(Step::Stop(false));
            };
            user.value.public.metadata = Some(blob);
            change.replace(key, user.version, &user.value.encode()?);
            Ok(Step::Commit(true))
        })
    }

    fn rewrap_api_key(&self, id: &[u8; 16]) -> Result<bool> {
        self.change(|change| {
            let Some(mut key) = self.load_api_key(id)? else {
                return Ok(Step::Stop(false));
            };
            let Some(blob) = self.rewrap_field("api key", id, key.value.public.metadata.as_ref())? else {
                return Ok(Step::Stop(false));
            };
            key.value.public.metadata = Some(blob);
            self.replace_api_key(change, &key)?;
            Ok(Step::Commit(true))
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

    /// Removes sessions that are over, API keys that are expired, and single-use tokens that do not count any more. They are refused anyway; this
    /// frees their space.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn purge_expired(&self) -> Result<Purged> {
        let mut purged = Purged::default();
        self.for_each_key::<32>(layout::SESSIONS, |_, token_hash| {
            purged.sessions += u64::from(self.purge_session(token_hash)?);
            Ok(())
        })?;
        self.for_each_key(layout::API_KEYS, |_, id| {
            let key = self.load_api_key(id)?.map(|key| key.value.public);
            let expired = |at_ms| self.now_ms() >= at_ms;
            if let Some(key) = key.filter(|key| key.expires_at_ms.is_some_and(expired)) {
                purged.api_keys += u64::from(self.revoke_api_key(&key.key_id)?);
            }
            Ok(())
        })?;
        self.for_each_key::<32>(layout::SINGLE_USES, |_, hash| {
            purged.tokens += u64::from(self.purge_token(hash)?);
            Ok(())
        })?;
        Ok(purged)
    }

    fn purge_session(&self, token_hash: &[u8; 32]) -> Result<bool> {
        self.change(|change| {
            let Some(session) = self.load_session(token_hash)? else {
                return Ok(Step::Stop(false));
            };
            let user_id = session.value.public.user_id.as_bytes();
            let epoch = self.load_user(user_id)?.map(|user| user.value.epoch);
            if epoch.is_some_and(|epoch| !session.value.is_over(self.now_ms(), epoch)) {
                return Ok(Step::Stop(false));
            }
            let SessionRecord { session_id, .. } = &session.value.public;
            change.require(&layout::session(token_hash), session.version);
            drop_session(change, user_id, &IndexedSession { id: *session_id.as_bytes(), token_hash: *token_hash });
            change.access_changes();
            Ok(Step::Commit(true))
        })
    }

    /// Calls `visit` with each key under `prefix` and what follows the prefix, page by page.
    fn for_each_key<const N: usize>(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8; N]) -> Result<()>,
    ) -> Result<()> {
        let end = prefix_end(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let from = after.as_deref().map_or(Bound::Included(prefix), Bound::Excluded);
            let page: Vec<(Vec<u8>, Value)> = self.shared.engine.scan(from, to, PAGE)?;
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
