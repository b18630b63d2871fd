//! Verify, change and reset passwords, and log in.
//!
//! A check does the same work for a wrong password, an unknown user, a disabled user and a delayed
//! user. A name is looked up by a keyed tag, as the first entry of the index at or after it. For an
//! unknown name this entry belongs to another user, which the caller cannot predict. The check
//! continues with that user's record and password hash. So an unknown name takes the time of a
//! random user, which includes old hash parameters and long records. An attempt at an unknown name
//! is charged to the name and never accepted.

use std::ops::Bound;
use std::sync::atomic::Ordering;

use hightower_engine::{BatchOutcome, Expect, KeyspaceEngine};
use subtle::ConstantTimeEq;

use super::AuthService;
use super::change::{ConditionalCommit, Decision, Loaded};
use crate::audit::AuditAction;
use crate::codec::{FieldReader, FieldWriter};
use crate::crypto::{EnvelopeEncryptor, SecretHash, SecretHasher};
use crate::error::{Error, Result};
use crate::factor::{Factor, FactorUse};
use crate::id::{NOBODY, UserId};
use crate::login_delays::{Charge, Counter, slot};
use crate::mutants::planted;
use crate::password::PreparedPassword;
use crate::permission::prefix_end;
use crate::record::{MAX_TRUSTED_SOURCES, SessionRecord, SourceTag, StoredUser, UserRecord, check_label};
use crate::record_keys;
use crate::single_use::TokenPurpose;
use crate::token::Token;
use crate::username::{NormalUsername, normal_form};

/// Maximum number of attempts to write counters of wrong passwords against concurrent writes.
const MAX_PERSIST_TRIES: u32 = 1000;

/// The outcome of a password check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum PasswordCheck {
    /// The password is right.
    Accepted(Box<UserRecord>),
    /// Wrong password, unknown user or disabled user. The answer does not reveal which.
    Refused,
    /// Too many failures: the password was not checked.
    Delayed {
        /// The remaining delay, in ms.
        retry_after_ms: i64,
    },
}

/// The outcome of a login.
#[derive(Debug)]
#[must_use]
pub enum Login {
    /// The password is right. A session has started.
    Accepted {
        /// The user.
        user: Box<UserRecord>,
        /// The session.
        session: Box<SessionRecord>,
        /// The session's token, for the client. The store does not keep it.
        token: Token,
    },
    /// The password is right, and the login requires a second factor.
    /// [`AuthService::complete_login`] starts the session. The token is valid for that call only.
    FactorRequired {
        /// The token, which the client presents with the code.
        token: Token,
        /// When the token expires, in Unix ms.
        expires_at_ms: i64,
        /// Whether the user has a second factor. If not, call [`AuthService::enrol_at_login`]
        /// first.
        enrolled: bool,
    },
    /// As [`PasswordCheck::Refused`].
    Refused,
    /// As [`PasswordCheck::Delayed`].
    Delayed {
        /// The remaining delay, in ms.
        retry_after_ms: i64,
    },
}

/// A right password, and the record that it was checked against.
pub(super) struct Accepted {
    pub(super) user: StoredUser,
    password: PreparedPassword,
    source: Option<SourceTag>,
}

pub(super) enum CheckedPassword {
    Accepted(Box<Accepted>),
    Refused,
    Delayed(i64),
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Whether the password is right; `false` also for a delayed attempt.
    ///
    /// A hash with weaker parameters than the current ones, or with an older pepper, is replaced.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn verify_password(&self, username: &str, password: &str) -> Result<bool> {
        Ok(matches!(self.check_password(username, password)?, PasswordCheck::Accepted(_)))
    }

    /// As [`AuthService::verify_password`], but returns the user or the delay.
    ///
    /// # Errors
    /// As [`AuthService::verify_password`].
    pub fn check_password(&self, username: &str, password: &str) -> Result<PasswordCheck> {
        let accepted = match self.check(username, password)? {
            CheckedPassword::Refused => return Ok(PasswordCheck::Refused),
            CheckedPassword::Delayed(retry_after_ms) => return Ok(PasswordCheck::Delayed { retry_after_ms }),
            CheckedPassword::Accepted(accepted) => accepted,
        };
        let stronger = self.rehashed(&accepted)?;
        let user = self.change(|change| {
            let Some(mut user) = self.same_password(&accepted)? else {
                return Ok(Decision::Stop(None));
            };
            self.note_login(change, &mut user, accepted.source, stronger.as_ref());
            self.replace_user(change, &user)?;
            change.audit(AuditAction::PasswordVerified, user.value.public.user_id.as_str());
            Ok(Decision::Commit(Some(user.value.public)))
        })?;
        Ok(user.map_or(PasswordCheck::Refused, |user| PasswordCheck::Accepted(Box::new(user))))
    }

    /// Checks the password and starts a session. If the login requires a second factor, returns a
    /// token for the second step instead.
    ///
    /// # Errors
    /// As [`AuthService::verify_password`].
    pub fn login(&self, username: &str, password: &str) -> Result<Login> {
        let accepted = match self.check(username, password)? {
            CheckedPassword::Refused => return Ok(Login::Refused),
            CheckedPassword::Delayed(retry_after_ms) => return Ok(Login::Delayed { retry_after_ms }),
            CheckedPassword::Accepted(accepted) => accepted,
        };
        let stronger = self.rehashed(&accepted)?;
        let started = self.change(|change| {
            let Some(mut user) = self.same_password(&accepted)? else {
                return Ok(Decision::Stop(None));
            };
            let factors = self.factors_of(&user.value.public.user_id)?.value;
            if self.asks_for_second(&user.value.public, &factors)? {
                if let Some(hash) = &stronger {
                    user.value.password_hash = hash.clone();
                }
                self.replace_user(change, &user)?;
                let (record, token) = self.add_token(change, &user.value, TokenPurpose::Login, "")?;
                change.audit(AuditAction::PasswordVerified, user.value.public.user_id.as_str());
                let (expires_at_ms, enrolled) = (record.expires_at_ms, factors.active.is_some());
                return Ok(Decision::Commit(Some(Login::FactorRequired { token, expires_at_ms, enrolled })));
            }
            self.note_login(change, &mut user, accepted.source, stronger.as_ref());
            self.replace_user(change, &user)?;
            let uses = vec![FactorUse { factor: Factor::Password, at_ms: self.now_ms() }];
            let (session, token) = self.start_session(change, &user.value, uses)?;
            change.audit(AuditAction::SessionStarted, user.value.public.user_id.as_str());
            let (user, session) = (Box::new(user.value.public), Box::new(session));
            Ok(Decision::Commit(Some(Login::Accepted { user, session, token })))
        })?;
        Ok(started.unwrap_or(Login::Refused))
    }

    /// Changes a password; `false` if the old password is wrong. Ends all sessions of the user.
    ///
    /// # Errors
    /// [`Error::Validation`] if the new password violates a rule (and the old one is right).
    pub fn change_password(&self, username: &str, old_password: &str, new_password: &str) -> Result<bool> {
        let CheckedPassword::Accepted(accepted) = self.check(username, old_password)? else {
            return Ok(false);
        };
        let name = normal_form(&accepted.user.normal_name)?;
        let new_password = match self.options().password_policy.accept(new_password, &name) {
            Ok(password) => password,
            Err(refused) => {
                let user_id = &accepted.user.public.user_id;
                self.audit_refusal(AuditAction::PasswordChanged, user_id, user_id);
                return Err(refused);
            }
        };
        let hash = self.shared.hasher.hash_secret(new_password.as_bytes())?;
        let may_use_reserve = self.may_use_reserve(&accepted.user.public.user_id);
        self.change(|change| {
            let Some(mut user) = self.same_password(&accepted)? else {
                return Ok(Decision::Stop(false));
            };
            user.value.trusted = accepted.source.into_iter().collect();
            self.put_password(change, user, &hash, AuditAction::PasswordChanged)?;
            if !may_use_reserve {
                change.leaves_reserve();
            }
            Ok(Decision::Commit(true))
        })
    }

    /// Sets a password without the old one, for operators. Ends all sessions of the user, removes
    /// its known sources, and clears its delays.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Validation`].
    pub fn reset_password(&self, user_id: &str, new_password: &str) -> Result<()> {
        let name = normal_form(&self.user_by_id(user_id)?.value.normal_name)?;
        let new_password = self.options().password_policy.accept(new_password, &name)?;
        let hash = self.shared.hasher.hash_secret(new_password.as_bytes())?;
        self.change(|change| {
            let mut user = self.user_by_id(user_id)?;
            // An attacker with the old password may have added a known source. The delays are
            // cleared.
            if !planted("auth_trust_survives_reset") {
                user.value.trusted.clear();
            }
            user.value.guess_epoch += 1;
            user.value.code_epoch += 1;
            self.put_password(change, user, &hash, AuditAction::PasswordReset)?;
            Ok(Decision::Commit(()))
        })
    }

    pub(super) fn put_password(
        &self,
        change: &mut ConditionalCommit<'_>,
        mut user: Loaded<StoredUser>,
        hash: &SecretHash,
        action: AuditAction,
    ) -> Result<()> {
        user.value.password_hash = hash.clone();
        user.value.public.password_changed_at_ms = self.now_ms();
        user.value.epoch += 1;
        self.replace_user(change, &user)?;
        change.takes_access();
        change.audit(action, user.value.public.user_id.as_str());
        Ok(())
    }

    pub(super) fn check(&self, username: &str, password: &str) -> Result<CheckedPassword> {
        let Ok(password) = PreparedPassword::new(password) else {
            return Ok(CheckedPassword::Refused); // no user can have such a password, so the answer reveals nothing
        };
        // An invalid name is looked up as that of nobody, so that it takes the same time.
        let name = normal_form(username).ok();
        let (user, name_tag) = self.user_or_other(name.as_ref())?;
        let known = name_tag.is_none() || planted("auth_unknown_name_opens");
        let decoy = &self.process_keys()?.decoy;
        let source = self.source_tag()?;
        let charges = self.charges(&user, name_tag, source)?;
        let wait_ms = self.shared.guesses.begin(&charges, self.now_ms());
        let open = known && !user.public.disabled && wait_ms == 0;
        let is_nobody = *user.public.user_id.as_bytes() == NOBODY;
        // The answer reveals a delay anyway, so a delayed attempt may take the time of the decoy:
        // an account with an expensive hash must not cost that time for each delayed attempt.
        let is_decoy = is_nobody || wait_ms > 0 && !planted("auth_delayed_costs_the_hash");
        let hash = if is_decoy { decoy } else { &user.password_hash };
        let (right, action) = match self.shared.hasher.verify_secret(password.as_bytes(), hash) {
            Ok(right) => (right && open, AuditAction::PasswordVerified),
            // An error would reveal that the user exists.
            Err(Error::Crypto(_)) => {
                let _same_time = self.shared.hasher.verify_secret(password.as_bytes(), decoy)?;
                self.shared.counts.uncheckable.fetch_add(open.into(), Ordering::Relaxed);
                (false, if open { AuditAction::PasswordUncheckable } else { AuditAction::PasswordVerified })
            }
            Err(error) => return Err(error),
        };
        if right {
            self.shared.guesses.refund(&charges);
            return Ok(CheckedPassword::Accepted(Box::new(Accepted { user, password, source })));
        }
        // The trail shows the id of nobody as an unknown user.
        let target = UserId::from_bytes(if known { *user.public.user_id.as_bytes() } else { NOBODY });
        // Limits per account and per source: noise from one source does not hide other refusals.
        let account = charges.last().map(|charge| charge.tag);
        let limits = |action| account.into_iter().chain(source).map(|tag| (action, tag)).collect::<Vec<_>>();
        if wait_ms > 0 {
            self.audit_limited(&limits(AuditAction::LoginDelayed), AuditAction::LoginDelayed, &target);
            return Ok(CheckedPassword::Delayed(wait_ms));
        }
        self.persist_counters(&charges)?;
        self.audit_limited(&limits(action), action, &target);
        Ok(CheckedPassword::Refused)
    }

    /// The user with this name and `None`; or, with the same work, another user and the tag of the
    /// unknown name. The caller cannot predict which user, because names are ordered by their tags.
    fn user_or_other(&self, name: Option<&NormalUsername>) -> Result<(StoredUser, Option<SourceTag>)> {
        const MISSING: Error = Error::Crypto("a record that always exists is missing");
        let tag = self.keys()?.names.tag(&[name.map_or("", NormalUsername::as_str).as_bytes()]);
        let key = record_keys::name(&tag);
        let end = prefix_end(record_keys::NAMES);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = |from: &[u8]| -> Result<_> {
            self.records().scan(Bound::Included(from), end, 1)?.into_iter().next().ok_or(MISSING)
        };
        let (id, is_known) = self.with_keys(|keys| {
            let found = next(&key)?;
            // Behind the last user the order wraps to the first.
            let first = next(&record_keys::name(&record_keys::FIRST_NAME))?;
            let is_last = found.0 == record_keys::name(&record_keys::LAST_NAME);
            let (key_found, value) = if is_last { &first } else { &found };
            let id = keys.sealer.open(key_found, value)?.array()?;
            Ok((id, bool::from(found.0.ct_eq(&key))))
        })?;
        let mut short = SourceTag::default();
        short.copy_from_slice(&tag[..16]);
        match self.load_user(&id)? {
            Some(user) => Ok((user.value, Some(short).filter(|_| !is_known))),
            // The user was deleted between the two look-ups.
            None => match self.load_user(&NOBODY)? {
                Some(nobody) => Ok((nobody.value, Some(short))),
                None => Err(MISSING),
            },
        }
    }

    /// The current record of the user, if the checked password is still valid.
    fn same_password(&self, accepted: &Accepted) -> Result<Option<Loaded<StoredUser>>> {
        let user = self.load_user(accepted.user.public.user_id.as_bytes())?;
        // Each new password raises the epoch. A login may replace the hash by a stronger one of the
        // same password.
        let is_same = |user: &StoredUser| user.epoch == accepted.user.epoch || planted("auth_epoch_ignored");
        Ok(user.filter(|user| is_same(&user.value) && !user.value.public.disabled))
    }

    fn rehashed(&self, accepted: &Accepted) -> Result<Option<SecretHash>> {
        if !self.shared.hasher.needs_rehash(&accepted.user.password_hash) {
            return Ok(None);
        }
        self.shared.hasher.rehash_secret(accepted.password.as_bytes(), &accepted.user.password_hash).map(Some)
    }

    pub(super) fn note_login(
        &self,
        change: &mut ConditionalCommit<'_>,
        user: &mut Loaded<StoredUser>,
        source: Option<SourceTag>,
        stronger: Option<&SecretHash>,
    ) {
        user.value.public.last_login_ms = Some(self.now_ms());
        if let Some(hash) = stronger {
            user.value.password_hash = hash.clone();
        }
        if let Some(source) = source {
            if !user.value.trusted.contains(&source) {
                change.audit(AuditAction::NewSource, user.value.public.user_id.as_str());
            }
            user.value.trusted.retain(|known| *known != source);
            user.value.trusted.insert(0, source);
            user.value.trusted.truncate(MAX_TRUSTED_SOURCES);
        }
    }

    /// The counters of an attempt, the account-and-source counter first, the account counter last.
    /// An unknown name counts as an account.
    fn charges(&self, user: &StoredUser, unknown: Option<SourceTag>, source: Option<SourceTag>) -> Result<Vec<Charge>> {
        let policy = self.options().guess_policy;
        let who = unknown.unwrap_or(*user.public.user_id.as_bytes());
        let epoch = if unknown.is_some() { 0 } else { user.guess_epoch }.to_le_bytes();
        let account = self.short_tag(&[b"account\0", &who, &epoch])?;
        let mut charges = Vec::with_capacity(3);
        match (source, &self.caller.source) {
            (Some(tag), Some(source)) => {
                let pair = self.short_tag(&[b"pair\0", &who, &epoch, source.as_bytes()])?;
                let max_delay_ms = policy.max_source_delay_ms;
                charges.push(Charge { tag: pair, free: policy.free_per_account_and_source, max_delay_ms });
                charges.push(Charge { tag, free: policy.free_per_source, max_delay_ms });
                let is_trusted = user.trusted.contains(&tag) && unknown.is_none();
                let free = if is_trusted { u32::MAX } else { policy.free_per_account };
                charges.push(Charge { tag: account, free, max_delay_ms: policy.max_account_delay_ms });
            }
            _ => charges.push(Charge {
                tag: account,
                free: policy.free_per_account_and_source,
                max_delay_ms: policy.max_account_delay_ms,
            }),
        }
        for charge in &charges {
            self.restore_counter(&charge.tag)?;
        }
        Ok(charges)
    }

    pub(super) fn source_tag(&self) -> Result<Option<SourceTag>> {
        self.caller.source.as_deref().map(|source| self.guess_tag("source", "", source)).transpose()
    }

    pub(super) fn guess_tag(&self, kind: &str, name: &str, source: &str) -> Result<SourceTag> {
        self.short_tag(&[kind.as_bytes(), b"\0", name.as_bytes(), b"\0", source.as_bytes()])
    }

    fn short_tag(&self, parts: &[&[u8]]) -> Result<SourceTag> {
        let tag = self.keys()?.guess.tag(parts);
        let mut short = SourceTag::default();
        short.copy_from_slice(&tag[..16]);
        Ok(short)
    }

    pub(super) fn restore_counter(&self, tag: &SourceTag) -> Result<()> {
        if let Some(Loaded { value: (stored, counter), .. }) = self.load_counter(tag)?
            && stored == *tag
        {
            self.shared.guesses.restore(*tag, counter, self.now_ms());
        }
        Ok(())
    }

    fn load_counter(&self, tag: &SourceTag) -> Result<Option<Loaded<(SourceTag, Counter)>>> {
        let read = |mut reader: FieldReader<'_>| {
            let stored = (reader.array()?, Counter { failures: reader.u32()?, last_ms: reader.i64()? });
            reader.end()?;
            Ok(stored)
        };
        self.load(&record_keys::guess_slot(slot(tag)), read)
    }

    /// Persists the counters of a failure, so that other services on this store continue them, also
    /// after a restart.
    pub(super) fn persist_counters(&self, charges: &[Charge]) -> Result<()> {
        let (Some(account), now_ms) = (charges.last(), self.now_ms()) else { return Ok(()) };
        if planted("auth_counters_in_memory") || self.shared.persists.pass(account.tag, now_ms).is_none() {
            return Ok(());
        }
        for _ in 0..MAX_PERSIST_TRIES {
            let mut stored = Vec::with_capacity(charges.len());
            let outcome = self.try_persist(charges, now_ms, &mut stored);
            if matches!(outcome, Ok(true)) {
                return Ok(());
            }
            for (tag, counter, before) in stored {
                self.shared.guesses.not_stored(&tag, counter, before);
            }
            outcome?;
            std::thread::yield_now();
        }
        Ok(()) // the counters in memory still count; the next failure writes them again
    }

    /// Adds the counters to the stored ones of other services; `false` after a conflict with one of
    /// them.
    fn try_persist(
        &self,
        charges: &[Charge],
        now_ms: i64,
        stored: &mut Vec<(SourceTag, Counter, u32)>,
    ) -> Result<bool> {
        let half_life_ms = self.options().guess_policy.half_life_ms;
        let keys = self.keys()?;
        let mut batch = self.records().batch();
        batch.require(record_keys::META, Expect::Version(keys.meta_version));
        for Charge { tag, .. } in charges {
            let held = self.load_counter(tag)?;
            let expected = held.as_ref().map_or(Expect::Absent, |held| Expect::Version(held.version));
            let own = held.as_ref().filter(|held| held.value.0 == *tag);
            if let Some(own) = own.filter(|_| !planted("auth_counters_overwritten")) {
                self.shared.guesses.restore(*tag, own.value.1, now_ms);
            }
            let Some((counter, before)) = self.shared.guesses.store(tag) else { continue };
            stored.push((*tag, counter, before));
            if let Some(Loaded { value: (_, other), .. }) = held.filter(|held| held.value.0 != *tag)
                && other.last_ms <= now_ms
                && other.remaining(now_ms, half_life_ms) > counter.failures
            {
                continue; // the slot has a counter with more failures
            }
            let mut writer = FieldWriter::default();
            writer.raw(tag).u32(counter.failures).i64(counter.last_ms);
            let key = record_keys::guess_slot(slot(tag));
            if !planted("auth_counters_overwritten") {
                batch.require(&key, expected);
            }
            batch.put(&key, keys.sealer.seal(&key, &writer.finish()));
        }
        match self.records().commit(&batch)? {
            BatchOutcome::Committed(_) => Ok(true),
            BatchOutcome::Rejected(_) => {
                // The store's keys may have been rotated meanwhile.
                self.refresh_keys(&keys)?;
                Ok(false)
            }
        }
    }

    /// Clears the delays of a user after wrong passwords and codes, for all sources.
    ///
    /// The delay of a source that has tried many users stays: see
    /// [`AuthService::clear_source_delays`].
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn clear_delays(&self, user_id: &str) -> Result<()> {
        self.change(|change| {
            let mut user = self.user_by_id(user_id)?;
            user.value.guess_epoch += 1;
            user.value.code_epoch += 1;
            self.replace_user(change, &user)?;
            change.audit(AuditAction::DelaysCleared, user_id);
            Ok(Decision::Commit(()))
        })
    }

    /// Clears the delay of a source after wrong passwords at many users, in the store and in this
    /// service's memory.
    ///
    /// # Errors
    /// [`Error::Validation`] for an invalid source.
    pub fn clear_source_delays(&self, source: &str) -> Result<()> {
        check_label(Some(source))?;
        let tag = self.guess_tag("source", "", source)?;
        self.shared.guesses.forget(&tag);
        let key = record_keys::guess_slot(slot(&tag));
        self.change(|change| {
            let stored = self.load(&key, |mut reader| reader.array::<16>())?;
            if let Some(stored) = stored.filter(|stored| stored.value == tag) {
                change.remove(&key, stored.version);
            }
            change.audit(AuditAction::DelaysCleared, source);
            Ok(Decision::Commit(()))
        })
    }

    /// Adds a refusal to the audit trail, unless the rate limiter of this action and principal
    /// `who` suppresses it. Suppressed refusals are counted in the next entry of their kind and in
    /// [`super::AuthStats::refusals_suppressed`]. A failure to write the entry does not change the
    /// answer.
    pub(super) fn audit_refusal(&self, action: AuditAction, who: &str, target: &str) {
        // Without the store's keys no entry can be written.
        let limit = self.guess_tag("refused", who, "").map(|tag| (action, tag)).ok();
        self.audit_limited(limit.as_slice(), action, target);
    }

    /// As [`AuthService::audit_refusal`], with several limits.
    fn audit_limited(&self, limits: &[(AuditAction, SourceTag)], action: AuditAction, target: &str) {
        let written = self.shared.refusals.pass_all(limits, self.now_ms()).is_some_and(|suppressed| {
            let outcome = self.change(|change| {
                change.audit_refusal(action, target, suppressed);
                Ok(Decision::Commit(()))
            });
            outcome.is_ok()
        });
        if !written {
            self.shared.counts.refusals_suppressed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
