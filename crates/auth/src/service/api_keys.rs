//! API keys: create, rotate, revoke and authenticate. Authentication costs two look-ups.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hightower_engine::{KeyspaceEngine, Value};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::AuthService;
use super::change::{Decision, Loaded};
use crate::api_key_cache::CachedApiKey;
use crate::audit::AuditAction;
use crate::crypto::{EnvelopeEncryptor, SecretHasher, TAG_LEN_BYTES};
use crate::entropy::random;
use crate::error::{Error, Result};
use crate::id::ApiKeyId;
use crate::mutants::planted;
use crate::permission::check_grants;
use crate::record::{ApiKeyAccess, ApiKeyRecord, StoredApiKey, StoredUser, check_label};
use crate::record_keys::{self, MetadataOf};
use crate::role_names::checked_role_names;
use crate::timestamp::Timestamp;
use crate::token::{Token, TokenSecret, api_key_token, parse_api_key, random_secret};

/// Options of a new API key.
#[derive(Clone, Debug, Default)]
pub struct ApiKeyOptions<'a> {
    /// A note for people.
    pub label: Option<&'a str>,
    /// The limits of the key's rights.
    pub access: ApiKeyAccess,
    /// When the key expires, in Unix ms.
    pub expires_at_ms: Option<Timestamp>,
    /// Metadata. The store keeps it encrypted.
    pub metadata: Option<&'a [u8]>,
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Creates an API key with all rights of its owner, and returns its token. The store keeps only
    /// a MAC of the secret.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user, [`Error::Validation`], [`Error::LimitExceeded`].
    pub fn create_api_key(&self, user_id: &str, label: Option<&str>) -> Result<(ApiKeyRecord, Token)> {
        self.create_api_key_with(user_id, &ApiKeyOptions { label, ..ApiKeyOptions::default() })
    }

    /// As [`AuthService::create_api_key`], with metadata. The store keeps the metadata encrypted.
    ///
    /// # Errors
    /// As [`AuthService::create_api_key`].
    pub fn create_api_key_with_metadata(
        &self,
        user_id: &str,
        label: Option<&str>,
        metadata: Option<&[u8]>,
    ) -> Result<(ApiKeyRecord, Token)> {
        self.create_api_key_with(user_id, &ApiKeyOptions { label, metadata, ..ApiKeyOptions::default() })
    }

    /// Creates an API key.
    ///
    /// # Errors
    /// As [`AuthService::create_api_key`].
    pub fn create_api_key_with(&self, user_id: &str, options: &ApiKeyOptions<'_>) -> Result<(ApiKeyRecord, Token)> {
        check_label(options.label)?;
        let access = checked_access(&options.access)?;
        let key_id = ApiKeyId::from_bytes(random(&*self.options().entropy)?);
        let secret = random_secret(&*self.options().entropy)?;
        let secret_mac = self.secret_mac(&key_id, &secret)?;
        let record = self.change(|change| {
            let owner = self.user_by_id(user_id)?;
            let owner_id = owner.value.public.user_id.clone();
            if let ApiKeyAccess::Limited { roles, .. } = &access {
                self.require_roles(change, roles)?;
            }
            if self.api_key_ids_of(owner_id.as_bytes())?.len() >= self.options().max_api_keys_per_user {
                return Err(Error::LimitExceeded("the user has as many API keys as allowed; revoke one"));
            }
            let public = ApiKeyRecord {
                key_id: key_id.clone(),
                owner_id,
                label: options.label.map(str::to_owned),
                access: access.clone(),
                has_metadata: self.put_metadata(change, MetadataOf::ApiKey, key_id.as_bytes(), options.metadata)?,
                created_at_ms: self.now_ms(),
                expires_at_ms: options.expires_at_ms,
                last_used_ms: None,
                previous_secret_until_ms: None,
            };
            let key = StoredApiKey { public, secret_mac, previous_mac: [0; 32] };
            // The owner's record is written too, so that a concurrent deletion of the owner sees
            // this key.
            if !planted("auth_owner_not_guarded") {
                self.replace_user(change, &owner)?;
            }
            change.create(&record_keys::api_key(key_id.as_bytes()), &key.encode()?);
            change.create(&record_keys::api_key_of(key.public.owner_id.as_bytes(), key_id.as_bytes()), &[]);
            change.audit_of(&key.public.owner_id, AuditAction::ApiKeyCreated, key_id.as_str());
            Ok(Decision::Commit(key.public))
        })?;
        let token = api_key_token(&record.key_id, &secret);
        Ok((record, token))
    }

    /// The key of this token, if it is valid: neither revoked nor expired, and its owner exists and
    /// is enabled.
    ///
    /// Costs two look-ups and, for keys that the cache does not hold, three MACs. Writes the last
    /// use at most once per `last_used_interval_ms`.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn authenticate_api_key(&self, token: &str) -> Result<Option<ApiKeyRecord>> {
        Ok(self.authenticate_secret(token)?.map(|(key, _)| key))
    }

    /// The key of this token, if it is valid, and the MAC of its secret.
    pub(super) fn authenticate_secret(&self, token: &str) -> Result<Option<(ApiKeyRecord, [u8; TAG_LEN_BYTES])>> {
        let Some((id, secret)) = parse_api_key(token) else {
            return Ok(None);
        };
        let Some((key_bytes, version)) = self.records().get_versioned(record_keys::api_key(&id))? else {
            // An attacker can try any number of random ids: they share one limit. Each existing key
            // has its own.
            self.audit_refusal(AuditAction::ApiKeyRefused, "unknown key", &ApiKeyId::from_bytes(id));
            return Ok(None);
        };
        let now_ms = self.now_ms();
        let verified = self.verify_api_key(id, &secret, key_bytes)?;
        let Some(verified) = verified.filter(|verified| works_at(verified, now_ms)) else {
            let key_id = ApiKeyId::from_bytes(id);
            self.audit_refusal(AuditAction::ApiKeyRefused, &key_id, &key_id);
            return Ok(None);
        };
        let CachedApiKey { key, by_previous_secret, .. } = &*verified;
        let secret_mac = if *by_previous_secret { key.previous_mac } else { key.secret_mac };
        Ok(Some((self.touch_api_key(key, version, now_ms)?, secret_mac)))
    }

    /// Checks the records and the secret, or finds the same check in the cache.
    fn verify_api_key(
        &self,
        id: [u8; 16],
        secret: &TokenSecret,
        key_bytes: Value,
    ) -> Result<Option<Arc<CachedApiKey>>> {
        let cache = self.cache()?;
        let secret_tag = cache.secret_tag(secret.expose_secret());
        if let Some(held) = cache.get(&id).filter(|held| held.key_bytes[..] == key_bytes[..] && held.is_of(&secret_tag))
        {
            let owner = record_keys::user(held.owner.public.user_id.as_bytes());
            let owner_bytes = self.records().get(&owner)?;
            if owner_bytes.is_some_and(|bytes| bytes[..] == held.owner_bytes[..]) {
                return Ok(Some(held));
            }
        }
        self.shared.counts.cold.fetch_add(1, Ordering::Relaxed);
        let key =
            self.with_keys(|keys| StoredApiKey::decode(id, keys.sealer.open(&record_keys::api_key(&id), &key_bytes)?))?;
        let owner_key = record_keys::user(key.public.owner_id.as_bytes());
        let Some(owner_bytes) = self.records().get(&owner_key)? else {
            return Ok(None);
        };
        let owner_id = *key.public.owner_id.as_bytes();
        let owner = self.with_keys(|keys| StoredUser::decode(owner_id, keys.sealer.open(&owner_key, &owner_bytes)?))?;
        let mac = self.secret_mac(&key.public.key_id, secret)?;
        if !key.has_secret(&mac) {
            return Ok(None);
        }
        let by_previous_secret = !bool::from(mac.ct_eq(&key.secret_mac));
        Ok(Some(cache.remember(id, secret_tag, key_bytes, owner_bytes, key, owner, by_previous_secret)))
    }

    fn touch_api_key(&self, key: &StoredApiKey, version: u64, now_ms: Timestamp) -> Result<ApiKeyRecord> {
        let interval_ms = self.options().last_used_interval_ms;
        if key.public.last_used_ms.is_some_and(|last_ms| (0..interval_ms).contains(&now_ms.saturating_sub(last_ms))) {
            return Ok(key.public.clone());
        }
        let mut next = key.clone();
        next.public.last_used_ms = Some(now_ms);
        self.note_use(&record_keys::api_key(next.public.key_id.as_bytes()), version, &next.encode()?)?;
        Ok(next.public)
    }

    /// The key of this id.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the record is not authentic, or the engine's.
    pub fn get_api_key(&self, key_id: &str) -> Result<Option<ApiKeyRecord>> {
        let Some(id) = ApiKeyId::parse(key_id) else {
            return Ok(None);
        };
        Ok(self.load_api_key(id.as_bytes())?.map(|key| key.value.public))
    }

    /// The API keys of a user, in the order of their ids.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user.
    pub fn list_api_keys(&self, user_id: &str) -> Result<Vec<ApiKeyRecord>> {
        let user = self.user_by_id(user_id)?.value.public;
        let mut keys = Vec::new();
        for id in self.api_key_ids_of(user.user_id.as_bytes())? {
            keys.extend(self.load_api_key(&id)?.map(|key| key.value.public));
        }
        Ok(keys)
    }

    /// Gives a key a new secret. The previous secret, and the principals that it authenticated,
    /// stay valid for `overlap_ms` (0: they end at once).
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Validation`] for a negative overlap.
    pub fn rotate_api_key(&self, key_id: &str, overlap_ms: i64) -> Result<(ApiKeyRecord, Token)> {
        if overlap_ms < 0 {
            return Err(Error::Validation("the overlap of a rotation must not be negative"));
        }
        let secret = random_secret(&*self.options().entropy)?;
        let record = self.change(|change| {
            let mut key = self.api_key_by_id(key_id)?;
            key.value.previous_mac = if overlap_ms > 0 { key.value.secret_mac } else { [0; 32] };
            key.value.secret_mac = self.secret_mac(&key.value.public.key_id, &secret)?;
            let until_ms = self.now_ms().saturating_add(overlap_ms);
            key.value.public.previous_secret_until_ms = (overlap_ms > 0).then_some(until_ms);
            self.replace_api_key(change, &key)?;
            change.takes_access();
            change.audit_of(&key.value.public.owner_id, AuditAction::ApiKeyRotated, key_id);
            Ok(Decision::Commit(key.value.public))
        })?;
        let token = api_key_token(&record.key_id, &secret);
        Ok((record, token))
    }

    /// Revokes a key permanently; `false` if no such key exists.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the record is not authentic, or the engine's.
    pub fn revoke_api_key(&self, key_id: &str) -> Result<bool> {
        self.change(|change| {
            let key = match self.api_key_by_id(key_id) {
                Ok(key) => key,
                Err(Error::NotFound(_)) => return Ok(Decision::Stop(false)),
                Err(error) => return Err(error),
            };
            let ApiKeyRecord { key_id: id, owner_id, .. } = &key.value.public;
            change.remove(&record_keys::api_key(id.as_bytes()), key.version);
            change.batch.delete(record_keys::api_key_of(owner_id.as_bytes(), id.as_bytes()));
            change.batch.delete(record_keys::metadata(MetadataOf::ApiKey, id.as_bytes()));
            change.takes_access();
            change.audit_of(owner_id, AuditAction::ApiKeyRevoked, key_id);
            Ok(Decision::Commit(true))
        })
    }

    /// The current metadata of a key, decrypted; `None` if the key has none or is revoked.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the metadata was changed or moved, or its master key is missing.
    pub fn decrypt_api_key_metadata(&self, api_key: &ApiKeyRecord) -> Result<Option<Vec<u8>>> {
        self.get_metadata(MetadataOf::ApiKey, api_key.key_id.as_bytes())
    }

    pub(super) fn api_key_ids_of(&self, user_id: &[u8; 16]) -> Result<Vec<[u8; 16]>> {
        let prefix = record_keys::api_keys_of(user_id);
        self.with_keys(|keys| {
            let id = |(key, value): (Vec<u8>, Value)| {
                keys.sealer.open(&key, &value)?.end()?;
                let foreign = |_| Error::Crypto("a stored record is not what the service wrote");
                key[prefix.len()..].try_into().map_err(foreign)
            };
            self.records().get_prefix(&prefix)?.into_iter().map(id).collect()
        })
    }

    fn api_key_by_id(&self, key_id: &str) -> Result<Loaded<StoredApiKey>> {
        let unknown = Error::NotFound("no API key has this id");
        match ApiKeyId::parse(key_id) {
            Some(id) => self.load_api_key(id.as_bytes())?.ok_or(unknown),
            None => Err(unknown),
        }
    }

    /// The id has a fixed length, so the concatenation of id and secret is unambiguous.
    fn secret_mac(&self, id: &ApiKeyId, secret: &TokenSecret) -> Result<[u8; 32]> {
        Ok(self.keys()?.api_key.tag(&[id.as_bytes(), secret.expose_secret()]))
    }
}

fn works_at(verified: &CachedApiKey, now_ms: Timestamp) -> bool {
    let key = &verified.key.public;
    let expired = key.expires_at_ms.is_some_and(|at_ms| now_ms >= at_ms);
    let secret_over = verified.by_previous_secret && key.previous_secret_until_ms.is_none_or(|at_ms| now_ms >= at_ms);
    !verified.owner.public.disabled && !expired && !secret_over
}

fn checked_access(access: &ApiKeyAccess) -> Result<ApiKeyAccess> {
    match access {
        ApiKeyAccess::LikeOwner => Ok(ApiKeyAccess::LikeOwner),
        ApiKeyAccess::Limited { roles, grants } => {
            check_grants(grants)?;
            Ok(ApiKeyAccess::Limited { roles: checked_role_names(roles)?, grants: grants.clone() })
        }
    }
}
