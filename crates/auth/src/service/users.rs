//! Users: create, find, list, rename, disable, enable, delete, roles and metadata.

use std::ops::Bound;

use hightower_engine::KeyspaceEngine;

use super::AuthService;
use super::change::{ConditionalCommit, Decision, Loaded};
use super::single_use::drop_token;
use crate::audit::AuditAction;
use crate::crypto::{EncryptedBlob, EnvelopeEncryptor, SecretHash, SecretHasher};
use crate::entropy::random;
use crate::error::{Error, Result};
use crate::id::{NOBODY, UserId};
use crate::mutants::planted;
use crate::permission::prefix_end;
use crate::record::{StoredUser, UserRecord};
use crate::record_keys::{self, MetadataOf};
use crate::record_mac::identity;
use crate::role_names::checked_role_names;
use crate::username::{NormalUsername, normal_form};

/// Maximum number of records in one page of a list.
pub const MAX_PAGE: usize = 1000;

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Creates a user.
    ///
    /// Takes the time of one password hash.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a user has a name with the same normal form; [`Error::Validation`] if
    /// the name or the password violates a rule.
    pub fn create_user(&self, username: &str, password: &str) -> Result<UserRecord> {
        self.create_user_with_metadata(username, password, None)
    }

    /// Creates a user with metadata. The store keeps the metadata encrypted.
    ///
    /// # Errors
    /// As [`AuthService::create_user`], and [`Error::LimitExceeded`] for metadata over 64 KiB.
    pub fn create_user_with_metadata(
        &self,
        username: &str,
        password: &str,
        metadata: Option<&[u8]>,
    ) -> Result<UserRecord> {
        let name = normal_form(username)?;
        if self.load_name(name.as_str())?.is_some() {
            return Err(Error::Conflict("the username is taken"));
        }
        let password = self.options().password_policy.accept(password, &name)?;
        let password_hash = self.shared.hasher.hash_secret(password.as_bytes())?;
        let mut user = self.new_user(username, &name, password_hash)?;
        self.change(|change| {
            self.add_user(change, &mut user, metadata)?;
            change.audit(AuditAction::UserCreated, user.public.user_id.as_str());
            Ok(Decision::Commit(user.public.clone()))
        })
    }

    /// A new user, not yet stored.
    pub(super) fn new_user(
        &self,
        username: &str,
        name: &NormalUsername,
        password_hash: SecretHash,
    ) -> Result<StoredUser> {
        let now_ms = self.now_ms();
        let public = UserRecord {
            user_id: UserId::from_bytes(random(&*self.options().entropy)?),
            username: username.trim().to_owned(),
            disabled: false,
            roles: Vec::new(),
            has_metadata: false,
            created_at_ms: now_ms,
            password_changed_at_ms: now_ms,
            last_login_ms: None,
        };
        let normal_name = name.as_str().to_owned();
        let (epoch, guess_epoch, code_epoch) = (0, 0, 0);
        Ok(StoredUser { public, normal_name, epoch, guess_epoch, code_epoch, password_hash, trusted: Vec::new() })
    }

    /// Adds a new user to a change, if no user has its name.
    pub(super) fn add_user(
        &self,
        change: &mut ConditionalCommit<'_>,
        user: &mut StoredUser,
        metadata: Option<&[u8]>,
    ) -> Result<()> {
        if self.load_name(&user.normal_name)?.is_some() {
            return Err(Error::Conflict("the username is taken"));
        }
        let id = *user.public.user_id.as_bytes();
        user.public.has_metadata = self.put_metadata(change, MetadataOf::User, &id, metadata)?;
        self.enter_looks(change, &user.looks()?, &user.public.user_id)?;
        let id = user.public.user_id.as_bytes();
        change.create(&record_keys::user(id), &user.encode()?);
        if planted("auth_name_apart") {
            let name = change.keys.name_key(&user.normal_name);
            let mut apart = self.records().batch();
            apart.put(&name, self.keys()?.sealer.seal(&name, id));
            let _outcome = self.records().commit(&apart)?;
        } else {
            change.create(&change.keys.name_key(&user.normal_name), id);
        }
        Ok(())
    }

    /// The user with this id.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the record is not authentic, or the engine's.
    pub fn get_user(&self, user_id: &str) -> Result<Option<UserRecord>> {
        match self.user_by_id(user_id) {
            Ok(user) => Ok(Some(user.value.public)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The user with this name, in any spelling.
    ///
    /// # Errors
    /// As [`AuthService::get_user`], and [`Error::Validation`] for an invalid name.
    pub fn find_user(&self, username: &str) -> Result<Option<UserRecord>> {
        let name = normal_form(username)?;
        let Some(id) = self.load_name(name.as_str())? else {
            return Ok(None);
        };
        Ok(self.load_user(&id.value)?.map(|user| user.value.public))
    }

    /// Up to `limit` (at most [`MAX_PAGE`]) users in the order of their ids, after the id `after`.
    ///
    /// # Errors
    /// As [`AuthService::get_user`].
    pub fn list_users(&self, after: Option<&UserId>, limit: usize) -> Result<Vec<UserRecord>> {
        let after = record_keys::user(after.map_or(&NOBODY, |id| id.as_bytes()));
        let end = prefix_end(record_keys::USERS);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.with_keys(|keys| {
            let page = self.records().scan(Bound::Excluded(&after), to, limit.min(MAX_PAGE))?;
            let decode = |(key, value): &(Vec<u8>, hightower_engine::Value)| {
                let Ok(id) = key[record_keys::USERS.len()..].try_into() else {
                    return Err(Error::Crypto("a stored record is not what the service wrote"));
                };
                Ok(StoredUser::decode(id, keys.sealer.open(key, value)?)?.public)
            };
            page.iter().map(decode).collect()
        })
    }

    /// Renames a user.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] if the name is taken, [`Error::Validation`].
    pub fn rename_user(&self, user_id: &str, username: &str) -> Result<UserRecord> {
        let name = normal_form(username)?;
        self.change_user(user_id, AuditAction::UserRenamed, |service, change, user| {
            if user.value.normal_name != name.as_str() {
                if service.load_name(name.as_str())?.is_some() {
                    return Err(Error::Conflict("the username is taken"));
                }
                let Some(old) = service.name_of(user)? else {
                    return Ok(false);
                };
                change.remove(&change.keys.name_key(&user.value.normal_name), old.version);
                change.create(&change.keys.name_key(name.as_str()), user.value.public.user_id.as_bytes());
            }
            let (before, after) = (user.value.looks()?, name.skeletons(username));
            service.change_looks(change, &before, &after, &user.value.public.user_id)?;
            user.value.normal_name = name.as_str().to_owned();
            user.value.public.username = username.trim().to_owned();
            // The name decides which principals may manage the user.
            change.access_changes();
            Ok(true)
        })
    }

    /// Disables a user: logins and API keys are refused, and all sessions end.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn disable_user(&self, user_id: &str) -> Result<UserRecord> {
        self.change_user(user_id, AuditAction::UserDisabled, |_, change, user| {
            user.value.public.disabled = true;
            user.value.epoch += 1;
            change.takes_access();
            Ok(true)
        })
    }

    /// Enables a disabled user. Its API keys are valid again; its sessions stay ended.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn enable_user(&self, user_id: &str) -> Result<UserRecord> {
        self.change_user(user_id, AuditAction::UserEnabled, |_, change, user| {
            user.value.public.disabled = false;
            change.access_changes();
            Ok(true)
        })
    }

    /// Replaces a user's roles. The roles must exist. A role that is deleted later gives no rights
    /// any more.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user or a role, [`Error::Validation`] for a name,
    /// [`Error::LimitExceeded`] for more than 64 roles.
    pub fn set_user_roles(&self, user_id: &str, roles: &[String]) -> Result<UserRecord> {
        let roles = checked_role_names(roles)?;
        self.change_user(user_id, AuditAction::UserRolesSet, |service, change, user| {
            service.require_roles(change, &roles)?;
            user.value.public.roles.clone_from(&roles);
            change.takes_access();
            Ok(true)
        })
    }

    /// Adds and removes roles of a user in one commit.
    ///
    /// # Errors
    /// As [`AuthService::set_user_roles`].
    pub fn change_user_roles(&self, user_id: &str, add: &[String], remove: &[String]) -> Result<UserRecord> {
        let (add, remove) = (checked_role_names(add)?, checked_role_names(remove)?);
        self.change_user(user_id, AuditAction::UserRolesSet, |service, change, user| {
            service.require_roles(change, &add)?;
            let mut roles = [&user.value.public.roles[..], &add].concat();
            roles.retain(|role| !remove.contains(role));
            user.value.public.roles = checked_role_names(&roles)?;
            change.takes_access();
            Ok(true)
        })
    }

    /// Replaces a user's metadata; `None` removes it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::LimitExceeded`] for metadata over 64 KiB.
    pub fn set_user_metadata(&self, user_id: &str, metadata: Option<&[u8]>) -> Result<UserRecord> {
        self.change_user(user_id, AuditAction::UserMetadataSet, |service, change, user| {
            let id = *user.value.public.user_id.as_bytes();
            user.value.public.has_metadata = service.put_metadata(change, MetadataOf::User, &id, metadata)?;
            Ok(true)
        })
    }

    /// Deletes a user with all its sessions, API keys, single-use tokens and factors, in one
    /// commit; `false` if no such user exists.
    ///
    /// # Errors
    /// [`Error::Crypto`], or the engine's.
    pub fn delete_user(&self, user_id: &str) -> Result<bool> {
        self.change(|change| {
            let user = match self.user_by_id(user_id) {
                Ok(user) => user,
                Err(Error::NotFound(_)) => return Ok(Decision::Stop(false)),
                Err(error) => return Err(error),
            };
            let id = user.value.public.user_id.as_bytes();
            change.remove(&record_keys::user(id), user.version);
            let Some(name) = self.name_of(&user)? else {
                return Ok(Decision::Again);
            };
            change.remove(&change.keys.name_key(&user.value.normal_name), name.version);
            self.leave_looks(change, &user.value.looks()?, &user.value.public.user_id)?;
            // New keys and sessions also replace the user's record, so these lists are complete.
            for key in self.api_key_ids_of(id)? {
                if planted("auth_delete_in_two_commits") {
                    let mut apart = self.records().batch();
                    apart.delete(record_keys::api_key(&key));
                    let _outcome = self.records().commit(&apart)?;
                }
                change.batch.delete(record_keys::api_key(&key));
                change.batch.delete(record_keys::api_key_of(id, &key));
                change.batch.delete(record_keys::metadata(MetadataOf::ApiKey, &key));
            }
            change.batch.delete(record_keys::metadata(MetadataOf::User, id));
            for session in self.session_index_of(id)? {
                change.batch.delete(record_keys::session(&session.token_hash));
                change.batch.delete(record_keys::session_of(id, &session.id));
            }
            for hash in self.token_hashes_of(id)? {
                drop_token(change, id, &hash);
            }
            // A write of factors also requires the user's record.
            change.batch.delete(record_keys::factors(id));
            change.takes_access();
            change.audit(AuditAction::UserDeleted, user_id);
            Ok(Decision::Commit(true))
        })
    }

    /// The current metadata of a user, decrypted; `None` if the user has none or does not exist.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the metadata was changed or moved, or its master key is missing.
    pub fn decrypt_user_metadata(&self, user: &UserRecord) -> Result<Option<Vec<u8>>> {
        self.get_metadata(MetadataOf::User, user.user_id.as_bytes())
    }

    /// Reads a user, applies `edit`, and writes the user back with an audit entry. `edit` returns
    /// `false` if its reads are inconsistent.
    fn change_user(
        &self,
        user_id: &str,
        action: AuditAction,
        edit: impl Fn(&Self, &mut ConditionalCommit<'_>, &mut Loaded<StoredUser>) -> Result<bool>,
    ) -> Result<UserRecord> {
        self.change(|change| {
            let mut user = self.user_by_id(user_id)?;
            if !edit(self, change, &mut user)? {
                return Ok(Decision::Again);
            }
            self.replace_user(change, &user)?;
            change.audit(action, user_id);
            Ok(Decision::Commit(user.value.public))
        })
    }

    /// Encrypts a field for the commit of `change`.
    ///
    /// A rotation re-wraps the roots before it reads the records, and every commit requires
    /// unchanged roots. So a field under an older master key is either committed before the
    /// rotation reads it, or its commit fails and is tried again with the newer key.
    pub(super) fn encrypt_field(
        &self,
        change: &ConditionalCommit<'_>,
        kind: &str,
        id: &[u8],
        metadata: Option<&[u8]>,
    ) -> Result<Option<EncryptedBlob>> {
        let Some(metadata) = metadata.filter(|bytes| !bytes.is_empty()) else {
            return Ok(None);
        };
        let blob = self.shared.crypto.seal(metadata, &identity(&change.keys.store_id, kind, id, "metadata"))?;
        if blob.key_id() < change.keys.master_key_id {
            return Err(Error::Crypto(
                "the store was rotated to a newer master key than this key ring has: load it again",
            ));
        }
        Ok(Some(blob))
    }

    /// Puts, replaces or removes metadata in the commit of `change`; returns whether the record has
    /// metadata afterwards.
    pub(super) fn put_metadata(
        &self,
        change: &mut ConditionalCommit<'_>,
        of: MetadataOf,
        id: &[u8; 16],
        metadata: Option<&[u8]>,
    ) -> Result<bool> {
        let key = record_keys::metadata(of, id);
        let held = self.load(&key, |mut reader| EncryptedBlob::from_bytes(reader.rest()))?;
        let blob = self.encrypt_field(change, of.name(), id, metadata)?;
        match (&blob, held) {
            (Some(blob), Some(held)) => change.replace(&key, held.version, &blob.to_bytes()),
            (Some(blob), None) => change.create(&key, &blob.to_bytes()),
            (None, Some(held)) => change.remove(&key, held.version),
            (None, None) => {}
        }
        Ok(blob.is_some())
    }

    pub(super) fn get_metadata(&self, of: MetadataOf, id: &[u8; 16]) -> Result<Option<Vec<u8>>> {
        let held = self.load(&record_keys::metadata(of, id), |mut reader| EncryptedBlob::from_bytes(reader.rest()))?;
        self.decrypt_field(of.name(), id, held.map(|held| held.value).as_ref())
    }

    pub(super) fn decrypt_field(&self, kind: &str, id: &[u8], blob: Option<&EncryptedBlob>) -> Result<Option<Vec<u8>>> {
        let identity = identity(&self.keys()?.store_id, kind, id, "metadata");
        blob.map(|blob| Ok(self.shared.crypto.open(blob, &identity)?.to_vec())).transpose()
    }
}
