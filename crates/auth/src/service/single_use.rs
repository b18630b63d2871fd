//! Single-use tokens: issue, use, list and revoke. Each is valid once: the commit of its purpose
//! removes it.

use hightower_engine::{KeyspaceEngine, Value};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::AuthService;
use super::change::{ConditionalCommit, Decision, Loaded};
use crate::audit::AuditAction;
use crate::crypto::{EnvelopeEncryptor, SecretHasher, TAG_LEN_BYTES};
use crate::error::{Error, Result};
use crate::id::UserId;
use crate::login_delays::Charge;
use crate::mutants::planted;
use crate::record::{StoredUser, UserRecord, check_label};
use crate::record_keys;
use crate::single_use::{MAX_TOKENS_PER_PURPOSE, StoredToken, TokenPurpose, TokenRecord};
use crate::token::{Token, parse_single_use, random_secret, single_use_token};
use crate::username::normal_form;

/// Number of password resets for one user before delays begin. For one source it is three times
/// this number.
const FREE_RESETS: u32 = 3;

/// The outcome of a request for a password reset.
#[derive(Debug)]
#[must_use]
pub enum ResetRequest {
    /// Send this token to the user, and to nobody else.
    Issued {
        /// The user.
        user: Box<UserRecord>,
        /// The token to send.
        token: Token,
        /// When the token expires, in Unix ms.
        expires_at_ms: i64,
    },
    /// No user has this name, or the user is disabled. Give the client the same answer as for
    /// `Issued`.
    Nobody,
    /// Too many requests.
    Delayed {
        /// The remaining delay, in ms.
        retry_after_ms: i64,
    },
}

/// A valid token, and its user.
pub(super) struct Live {
    hash: [u8; TAG_LEN_BYTES],
    pub(super) token: Loaded<StoredToken>,
    pub(super) user: Loaded<StoredUser>,
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Issues a token that sets the user's password without the old one, once, within
    /// [`crate::TokenLifetimes::password_reset_ms`].
    ///
    /// The token becomes invalid when it is used, when the password is changed, when the user is
    /// renamed, disabled or deleted, and when all sessions of the user are ended. This call is for
    /// operators; [`AuthService::request_password_reset`] is for unauthenticated callers.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user, [`Error::Denied`] if it is disabled.
    pub fn issue_password_reset(&self, user_id: &str) -> Result<(TokenRecord, Token)> {
        self.issue(user_id, TokenPurpose::PasswordReset, "")
    }

    /// As [`AuthService::issue_password_reset`], for an unauthenticated caller. After a few
    /// requests for one account or from one source, further requests are delayed.
    ///
    /// An unknown name takes less time. So answer the client before you send the token, and give
    /// the same answer in each case.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn request_password_reset(&self, username: &str) -> Result<ResetRequest> {
        let name = normal_form(username).ok();
        let normal = name.as_ref().map_or("", |name| name.as_str());
        let mut charges = vec![self.charge("reset", normal, FREE_RESETS)?];
        if let Some(source) = &self.caller.source {
            charges.push(self.charge("reset source", source, 3 * FREE_RESETS)?);
        }
        let wait_ms = self.shared.guesses.begin(&charges, self.now_ms());
        if wait_ms > 0 {
            let who = self.caller.source.as_deref().unwrap_or("unknown source");
            self.audit_refusal(AuditAction::TokenIssued, who, "a password reset, delayed");
            return Ok(ResetRequest::Delayed { retry_after_ms: wait_ms });
        }
        self.persist_counters(&charges)?;
        let found = match name {
            Some(name) => self.load_name(name.as_str())?,
            None => None,
        };
        let issued = match found {
            Some(id) => self.issue(UserId::from_bytes(id.value).as_str(), TokenPurpose::PasswordReset, ""),
            None => Err(Error::NotFound("no user has this name")),
        };
        let (record, token) = match issued {
            Ok(issued) => issued,
            Err(Error::NotFound(_) | Error::Denied(_)) => {
                let who = self.caller.source.as_deref().unwrap_or("unknown source");
                self.audit_refusal(AuditAction::TokenIssued, who, "a password reset for nobody");
                return Ok(ResetRequest::Nobody);
            }
            Err(error) => return Err(error),
        };
        let user = self.user_by_id(&record.user_id)?.value.public;
        Ok(ResetRequest::Issued { user: Box::new(user), token, expires_at_ms: record.expires_at_ms })
    }

    /// Sets a new password by a token of [`AuthService::issue_password_reset`], and ends all
    /// sessions of the user; `None` if the token is invalid. A second factor stays, and the next
    /// login requires it.
    ///
    /// # Errors
    /// [`Error::Validation`] if the new password violates a rule. The token then stays valid.
    pub fn reset_password_with(&self, token: &str, new_password: &str) -> Result<Option<UserRecord>> {
        self.set_password_with(token, TokenPurpose::PasswordReset, new_password)
    }

    /// Creates a user without a password, and a token that sets the first password, once, within
    /// [`crate::TokenLifetimes::invitation_ms`]. Until then nobody can log in as the user.
    ///
    /// # Errors
    /// As [`AuthService::create_user`].
    pub fn invite_user(&self, username: &str) -> Result<(UserRecord, Token)> {
        let name = normal_form(username)?;
        // The hash of a random secret that nobody knows.
        let unknown = random_secret(&*self.options().entropy)?;
        let hash = self.shared.hasher.hash_secret(unknown.expose_secret())?;
        let mut user = self.new_user(username, &name, hash)?;
        self.change(|change| {
            self.add_user(change, &mut user, None)?;
            let (_, token) = self.add_token(change, &user, TokenPurpose::Invitation, "")?;
            change.audit(AuditAction::UserCreated, user.public.user_id.as_str());
            Ok(Decision::Commit((user.public.clone(), token)))
        })
    }

    /// Issues a new invitation for a user, for instance after the first one was lost.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user, [`Error::Denied`] if it is disabled.
    pub fn issue_invitation(&self, user_id: &str) -> Result<(TokenRecord, Token)> {
        self.issue(user_id, TokenPurpose::Invitation, "")
    }

    /// Sets the first password by a token of [`AuthService::invite_user`]; `None` if the token is
    /// invalid.
    ///
    /// # Errors
    /// As [`AuthService::reset_password_with`].
    pub fn accept_invitation(&self, token: &str, password: &str) -> Result<Option<UserRecord>> {
        self.set_password_with(token, TokenPurpose::Invitation, password)
    }

    /// Issues a token that verifies the user's address `subject`: a caller who returns it can read
    /// messages to that address. It is valid for [`crate::TokenLifetimes::verification_ms`].
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user, [`Error::Denied`] if it is disabled, [`Error::Validation`]
    /// for a subject longer than 256 bytes or with control characters.
    pub fn issue_verification(&self, user_id: &str, subject: &str) -> Result<(TokenRecord, Token)> {
        check_label(Some(subject))?;
        self.issue(user_id, TokenPurpose::Verification, subject)
    }

    /// Uses a token of [`AuthService::issue_verification`], and returns the user; `None` if the
    /// token is invalid. `subject` is the user's current address: a token for another address is
    /// invalid.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn verify_with(&self, token: &str, subject: &str) -> Result<Option<UserRecord>> {
        let done = self.change(|change| {
            let Some(live) = self.live_token(token, TokenPurpose::Verification, subject)? else {
                return Ok(Decision::Stop(None));
            };
            self.use_token(change, &live);
            Ok(Decision::Commit(Some(live.user.value.public)))
        })?;
        self.noted(TokenPurpose::Verification, done)
    }

    /// The single-use tokens of a user that have not expired, oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user.
    pub fn list_tokens(&self, user_id: &str) -> Result<Vec<TokenRecord>> {
        let user = self.user_by_id(user_id)?.value;
        let held = self.tokens_of(user.public.user_id.as_bytes())?.into_iter();
        let counts = |token: &StoredToken| token.epoch == user.epoch && self.now_ms() < token.public.expires_at_ms;
        let mut tokens: Vec<_> = held.map(|(_, token)| token).filter(counts).map(|token| token.public).collect();
        tokens.sort_by_key(|token| token.created_at_ms);
        Ok(tokens)
    }

    /// Revokes all single-use tokens of a user, and returns their number.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user.
    pub fn revoke_tokens(&self, user_id: &str) -> Result<u64> {
        self.change(|change| {
            let user = self.user_by_id(user_id)?;
            let id = user.value.public.user_id.as_bytes();
            let held = self.token_hashes_of(id)?;
            if held.is_empty() {
                return Ok(Decision::Stop(0));
            }
            // Issuing a token replaces the user's record, so this list is complete.
            change.require(&record_keys::user(id), user.version);
            held.iter().for_each(|hash| drop_token(change, id, hash));
            change.takes_access();
            change.audit(AuditAction::TokensRevoked, user_id);
            Ok(Decision::Commit(held.len() as u64))
        })
    }

    fn issue(&self, user_id: &str, purpose: TokenPurpose, subject: &str) -> Result<(TokenRecord, Token)> {
        self.change(|change| {
            let user = self.user_by_id(user_id)?;
            if user.value.public.disabled {
                return Err(Error::Denied("the user is disabled"));
            }
            self.replace_user(change, &user)?;
            Ok(Decision::Commit(self.add_token(change, &user.value, purpose, subject)?))
        })
    }

    /// Adds a token to a change that also writes the user's record.
    pub(super) fn add_token(
        &self,
        change: &mut ConditionalCommit<'_>,
        user: &StoredUser,
        purpose: TokenPurpose,
        subject: &str,
    ) -> Result<(TokenRecord, Token)> {
        let (id, now_ms) = (user.public.user_id.as_bytes(), self.now_ms());
        let mut alike = Vec::new();
        for (hash, token) in self.tokens_of(id)? {
            if token.epoch != user.epoch || now_ms >= token.public.expires_at_ms {
                drop_token(change, id, &hash);
            } else if token.public.purpose == purpose {
                alike.push((token.public.created_at_ms, hash));
            }
        }
        alike.sort_unstable();
        let excess = (alike.len() + 1).saturating_sub(MAX_TOKENS_PER_PURPOSE);
        alike.iter().take(excess).for_each(|(_, hash)| drop_token(change, id, hash));
        let secret = random_secret(&*self.options().entropy)?;
        let hash = self.keys()?.single_use.tag(&[secret.expose_secret()]);
        let public = TokenRecord {
            purpose,
            user_id: user.public.user_id.clone(),
            created_at_ms: now_ms,
            expires_at_ms: now_ms.saturating_add(self.options().token_lifetimes.of(purpose)),
        };
        let token = StoredToken { public, epoch: user.epoch, binding: self.binding(user, subject)? };
        change.create(&record_keys::single_use(&hash), &token.encode());
        change.create(&record_keys::single_use_of(id, &hash), &[]);
        if purpose != TokenPurpose::Login {
            change.audit_of(&user.public.user_id, AuditAction::TokenIssued, purpose.to_string());
        }
        Ok((token.public, single_use_token(&secret)))
    }

    /// The binding of a token, besides the user's epoch. The length prefixes separate name and
    /// subject.
    fn binding(&self, user: &StoredUser, subject: &str) -> Result<[u8; TAG_LEN_BYTES]> {
        let name = user.normal_name.as_bytes();
        let name_len = (name.len() as u64).to_le_bytes();
        Ok(self.keys()?.single_use.tag(&[b"binding", &name_len, name, subject.as_bytes()]))
    }

    /// The token and its user, if it is valid for this purpose now.
    pub(super) fn live_token(&self, token: &str, purpose: TokenPurpose, subject: &str) -> Result<Option<Live>> {
        let Some(secret) = parse_single_use(token) else {
            return Ok(None);
        };
        let hash = self.keys()?.single_use.tag(&[secret.expose_secret()]);
        let Some(token) = self.load(&record_keys::single_use(&hash), StoredToken::decode)? else {
            return Ok(None);
        };
        let Some(user) = self.load_user(token.value.public.user_id.as_bytes())? else {
            return Ok(None);
        };
        let TokenRecord { purpose: its_purpose, expires_at_ms, .. } = token.value.public;
        let is_bound = bool::from(token.value.binding.ct_eq(&self.binding(&user.value, subject)?));
        let counts = (its_purpose == purpose || planted("auth_token_purpose_ignored"))
            && self.now_ms() < expires_at_ms
            && (token.value.epoch == user.value.epoch || planted("auth_token_outlives_password"))
            && is_bound
            && !user.value.public.disabled;
        Ok(counts.then_some(Live { hash, token, user }))
    }

    /// Removes a token, which must still exist, in the commit of its purpose.
    pub(super) fn use_token(&self, change: &mut ConditionalCommit<'_>, live: &Live) {
        let id = live.user.value.public.user_id.as_bytes();
        if !planted("auth_token_used_twice") {
            change.require(&record_keys::single_use(&live.hash), live.token.version);
        }
        change.require(&record_keys::user(id), live.user.version);
        drop_token(change, id, &live.hash);
        let TokenRecord { purpose, user_id, .. } = &live.token.value.public;
        change.audit_of(user_id, AuditAction::TokenUsed, purpose.to_string());
    }

    fn set_password_with(&self, token: &str, purpose: TokenPurpose, new_password: &str) -> Result<Option<UserRecord>> {
        let Some(live) = self.live_token(token, purpose, "")? else {
            return self.noted(purpose, None);
        };
        let name = normal_form(&live.user.value.normal_name)?;
        let password = self.options().password_policy.accept(new_password, &name)?;
        let hash = self.shared.hasher.hash_secret(password.as_bytes())?;
        let done = self.change(|change| {
            let Some(mut live) = self.live_token(token, purpose, "")? else {
                return Ok(Decision::Stop(None));
            };
            self.use_token(change, &live);
            // As a reset by an operator: known sources may be those of an attacker, and the delays
            // of passwords are cleared. The delays of codes stay, because an attacker who reads the
            // mail could otherwise guess codes without limit.
            live.user.value.trusted.clear();
            live.user.value.guess_epoch += 1;
            live.user.value.code_epoch += u64::from(planted("auth_reset_clears_code_delays"));
            let public = live.user.value.public.clone();
            self.put_password(change, live.user, &hash, AuditAction::PasswordReset)?;
            Ok(Decision::Commit(Some(public)))
        })?;
        self.noted(purpose, done)
    }

    /// Adds an audit entry for an invalid token.
    pub(super) fn noted<T>(&self, purpose: TokenPurpose, outcome: Option<T>) -> Result<Option<T>> {
        if outcome.is_none() {
            let who = self.caller.source.as_deref().unwrap_or("unknown source");
            self.audit_refusal(AuditAction::TokenUsed, who, &purpose.to_string());
        }
        Ok(outcome)
    }

    pub(super) fn token_hashes_of(&self, user_id: &[u8; 16]) -> Result<Vec<[u8; TAG_LEN_BYTES]>> {
        let prefix = record_keys::single_uses_of(user_id);
        self.with_keys(|keys| {
            let hash = |(key, value): (Vec<u8>, Value)| {
                keys.sealer.open(&key, &value)?.end()?;
                let foreign = |_| Error::Crypto("a stored record is not what the service wrote");
                key[prefix.len()..].try_into().map_err(foreign)
            };
            self.records().get_prefix(&prefix)?.into_iter().map(hash).collect()
        })
    }

    fn tokens_of(&self, user_id: &[u8; 16]) -> Result<Vec<([u8; TAG_LEN_BYTES], StoredToken)>> {
        let mut tokens = Vec::new();
        for hash in self.token_hashes_of(user_id)? {
            let token = self.load(&record_keys::single_use(&hash), StoredToken::decode)?;
            tokens.extend(token.map(|token| (hash, token.value)));
        }
        Ok(tokens)
    }

    /// Removes an invalid token, for any reason.
    pub(super) fn purge_token(&self, hash: &[u8; TAG_LEN_BYTES]) -> Result<bool> {
        self.change(|change| {
            let Some(token) = self.load(&record_keys::single_use(hash), StoredToken::decode)? else {
                return Ok(Decision::Stop(false));
            };
            let user_id = token.value.public.user_id.as_bytes();
            let epoch = self.load_user(user_id)?.map(|user| user.value.epoch);
            if epoch == Some(token.value.epoch) && self.now_ms() < token.value.public.expires_at_ms {
                return Ok(Decision::Stop(false));
            }
            change.require(&record_keys::single_use(hash), token.version);
            drop_token(change, user_id, hash);
            Ok(Decision::Commit(true))
        })
    }

    /// The counter for attempts of this kind, with the longest delay of a source.
    pub(super) fn charge(&self, kind: &str, name: &str, free: u32) -> Result<Charge> {
        let tag = self.guess_tag(kind, name, "")?;
        self.restore_counter(&tag)?;
        Ok(Charge { tag, free, max_delay_ms: self.options().guess_policy.max_source_delay_ms })
    }
}

pub(super) fn drop_token(change: &mut ConditionalCommit<'_>, user_id: &[u8; 16], hash: &[u8; TAG_LEN_BYTES]) {
    change.batch.delete(record_keys::single_use(hash));
    change.batch.delete(record_keys::single_use_of(user_id, hash));
}
