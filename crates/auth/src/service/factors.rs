//! Second factors: enrol, confirm, verify, disable, and require by policy.

use hightower_engine::KeyspaceEngine;

use super::AuthService;
use super::change::{ConditionalCommit, Decision, Loaded};
use crate::audit::AuditAction;
use crate::crypto::{EnvelopeEncryptor, SecretHasher};
use crate::error::{Error, Result};
use crate::factor::{
    Active, Code, Enrolment, Factor, FactorPolicy, FactorStatus, PendingFactor, RecoveryMacs, StoredFactors,
    TotpSecret, new_recovery_codes, new_totp_secret, recovery_mac, totp_step, totp_texts,
};
use crate::id::UserId;
use crate::login_delays::Charge;
use crate::mutants::planted;
use crate::record::{StoredUser, UserRecord};
use crate::record_keys;
use crate::token::Token;

/// The name of the encrypted field in the associated data.
const TOTP: &str = "totp";

/// The answer to a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum FactorCheck {
    /// The code is right. It is used now.
    Accepted(Factor),
    /// The code is wrong or was used before, or the user has no second factor.
    Refused,
    /// Too many failures: the code was not checked.
    Delayed {
        /// The remaining delay, in ms.
        retry_after_ms: i64,
    },
}

/// A user's factors, with the version of the record; default factors if no record exists.
pub(super) struct Factors {
    pub(super) value: StoredFactors,
    version: Option<u64>,
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Creates a one-time password's secret and recovery codes for a user. Show them once. They
    /// have no effect until [`AuthService::confirm_totp`] confirms them by a code. A new enrolment
    /// replaces an unconfirmed one.
    ///
    /// Before a user does this, require a recent password ([`AuthService::require_recent`]).
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user.
    pub fn enrol_totp(&self, user_id: &str) -> Result<Enrolment> {
        self.change(|change| {
            let user = self.user_by_id(user_id)?;
            let enrolment = self.enrol(change, &user.value)?;
            self.require_user(change, &user);
            Ok(Decision::Commit(enrolment))
        })
    }

    /// Confirms the enrolment by a code. From now on each login requires a second factor, and the
    /// user's sessions without one are refused. `Refused` if the code is wrong or no enrolment is
    /// pending.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user.
    pub fn confirm_totp(&self, user_id: &str, code: &str) -> Result<FactorCheck> {
        self.checked(user_id, code, |service, change, user, code| {
            let mut factors = service.factors_of(&user.public.user_id)?;
            if !service.confirm(change, user, &mut factors.value, code)? {
                return Ok(None);
            }
            service.put_factors(change, &user.public.user_id, &factors)?;
            Ok(Some(Factor::Totp))
        })
    }

    /// Verifies a one-time password or a recovery code of a user. Each code is accepted once, also
    /// by concurrent attempts and after a restart. Wrong codes are counted and delayed like wrong
    /// passwords.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user.
    pub fn verify_second_factor(&self, user_id: &str, code: &str) -> Result<FactorCheck> {
        self.checked(user_id, code, |service, change, user, code| service.accept_code(change, user, code))
    }

    /// Removes all second factors of a user, and ends all sessions; `false` if the user has no
    /// second factor. A requirement for this user stays.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user.
    pub fn disable_second_factor(&self, user_id: &str) -> Result<bool> {
        self.change(|change| {
            let mut user = self.user_by_id(user_id)?;
            let mut factors = self.factors_of(&user.value.public.user_id)?;
            let StoredFactors { pending, active, recovery, .. } = &factors.value;
            if pending.is_none() && active.is_none() && recovery.is_empty() {
                return Ok(Decision::Stop(false));
            }
            factors.value = StoredFactors { required: factors.value.required, ..StoredFactors::default() };
            self.put_factors(change, &user.value.public.user_id, &factors)?;
            user.value.epoch += 1;
            self.replace_user(change, &user)?;
            change.takes_access();
            change.audit(AuditAction::FactorDisabled, user_id);
            Ok(Decision::Commit(true))
        })
    }

    /// Creates new recovery codes. Show them once. The old codes become invalid.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user, or if it has no one-time password.
    pub fn regenerate_recovery_codes(&self, user_id: &str) -> Result<Vec<Token>> {
        self.change(|change| {
            let user = self.user_by_id(user_id)?;
            let mut factors = self.factors_of(&user.value.public.user_id)?;
            if factors.value.active.is_none() {
                return Err(Error::NotFound("the user has no second factor"));
            }
            let (codes, macs) = self.new_recovery_codes(&user.value)?;
            factors.value.recovery = macs;
            self.put_factors(change, &user.value.public.user_id, &factors)?;
            self.require_user(change, &user);
            change.audit(AuditAction::RecoveryCodesMade, user_id);
            Ok(Decision::Commit(codes))
        })
    }

    /// The second factors of a user, and whether a login requires one.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user.
    pub fn factor_status(&self, user_id: &str) -> Result<FactorStatus> {
        let user = self.user_by_id(user_id)?.value;
        let factors = self.factors_of(&user.public.user_id)?.value;
        Ok(FactorStatus {
            totp_since_ms: factors.active.as_ref().map(|active| active.secret.since_ms),
            pending: factors.pending.is_some(),
            recovery_codes_left: factors.recovery.len(),
            required: factors.required,
            asked: self.asks_for_second(&user.public, &factors)?,
        })
    }

    /// Sets or removes the requirement of a second factor for one user. While it is set, sessions
    /// without a second factor are refused, and the next login enrols one.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user.
    pub fn require_second_factor(&self, user_id: &str, required: bool) -> Result<()> {
        self.change(|change| {
            let user = self.user_by_id(user_id)?;
            let mut factors = self.factors_of(&user.value.public.user_id)?;
            if factors.value.required == required {
                return Ok(Decision::Stop(()));
            }
            factors.value.required = required;
            self.put_factors(change, &user.value.public.user_id, &factors)?;
            self.require_user(change, &user);
            change.takes_access();
            change.audit(AuditAction::FactorRequired, user_id);
            Ok(Decision::Commit(()))
        })
    }

    /// Sets the policy of required second factors. It takes effect at once, also for existing
    /// sessions.
    ///
    /// # Errors
    /// [`Error::Validation`] for the name of a role, [`Error::LimitExceeded`] past 64 roles.
    pub fn set_factor_policy(&self, policy: &FactorPolicy) -> Result<()> {
        let body = policy.checked()?.encode()?;
        self.change(|change| {
            match self.load(record_keys::FACTOR_POLICY, FactorPolicy::decode)? {
                Some(old) => change.replace(record_keys::FACTOR_POLICY, old.version, &body),
                None => change.create(record_keys::FACTOR_POLICY, &body),
            }
            change.takes_access();
            change.audit(AuditAction::FactorPolicySet, "factor policy");
            Ok(Decision::Commit(()))
        })
    }

    /// The policy of required second factors. By default nobody needs one.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the record is not authentic, or the engine's.
    pub fn factor_policy(&self) -> Result<FactorPolicy> {
        Ok(self.load(record_keys::FACTOR_POLICY, FactorPolicy::decode)?.map(|policy| policy.value).unwrap_or_default())
    }

    /// Whether a login of this user requires a second factor.
    pub(super) fn asks_for_second(&self, user: &UserRecord, factors: &StoredFactors) -> Result<bool> {
        Ok(factors.active.is_some() || factors.required || self.factor_policy()?.requires(&user.roles))
    }

    pub(super) fn factors_of(&self, user_id: &UserId) -> Result<Factors> {
        let held = self.load(&record_keys::factors(user_id.as_bytes()), StoredFactors::decode)?;
        Ok(match held {
            Some(Loaded { value, version }) => Factors { value, version: Some(version) },
            None => Factors { value: StoredFactors::default(), version: None },
        })
    }

    /// Writes factors back, if they are unchanged since they were read. The change must also
    /// require or replace the user's record, so that a concurrent deletion of the user sees this
    /// change.
    pub(super) fn put_factors(
        &self,
        change: &mut ConditionalCommit<'_>,
        user_id: &UserId,
        factors: &Factors,
    ) -> Result<()> {
        let (key, body) = (record_keys::factors(user_id.as_bytes()), factors.value.encode()?);
        match factors.version {
            Some(_) if planted("auth_code_used_twice") => {
                change.batch.put(&key, self.keys()?.sealer.seal(&key, &body));
            }
            Some(version) => change.replace(&key, version, &body),
            None => change.create(&key, &body),
        }
        Ok(())
    }

    fn require_user(&self, change: &mut ConditionalCommit<'_>, user: &Loaded<StoredUser>) {
        change.require(&record_keys::user(user.value.public.user_id.as_bytes()), user.version);
    }

    /// A pending enrolment, in a change that also requires or replaces the user's record.
    pub(super) fn enrol(&self, change: &mut ConditionalCommit<'_>, user: &StoredUser) -> Result<Enrolment> {
        let (user_id, options) = (&user.public.user_id, &self.options().totp);
        let mut factors = self.factors_of(user_id)?;
        let secret = new_totp_secret(&*self.options().entropy, options.algorithm)?;
        let (recovery_codes, recovery) = self.new_recovery_codes(user)?;
        let Some(blob) = self.encrypt_field(change, TOTP, user_id.as_bytes(), Some(&secret))? else {
            return Err(Error::Crypto("the secret of a one-time password is empty"));
        };
        let secret_of = TotpSecret { blob, algorithm: options.algorithm, since_ms: self.now_ms() };
        factors.value.pending = Some(PendingFactor { secret: secret_of, recovery });
        self.put_factors(change, user_id, &factors)?;
        change.audit(AuditAction::FactorEnrolled, user_id.as_str());
        let (text, uri) = totp_texts(&secret, options, &user.public.username);
        Ok(Enrolment { secret: text, uri, recovery_codes })
    }

    fn new_recovery_codes(&self, user: &StoredUser) -> Result<(Vec<Token>, RecoveryMacs)> {
        new_recovery_codes(&*self.options().entropy, &self.keys()?.recovery, &user.public.user_id)
    }

    /// The step of a code, if it is a current code of this secret.
    fn step_of(&self, user_id: &UserId, secret: &TotpSecret, code: &Code) -> Result<Option<u64>> {
        let Code::Totp(digits) = code else { return Ok(None) };
        let Some(key) = self.decrypt_field(TOTP, user_id.as_bytes(), Some(&secret.blob))? else {
            return Ok(None);
        };
        let key = zeroize::Zeroizing::new(key);
        totp_step(&key, secret.algorithm, self.options().totp.window_steps, digits, self.now_ms())
    }

    /// Activates the pending enrolment, if the code is one of its secret.
    pub(super) fn confirm(
        &self,
        change: &mut ConditionalCommit<'_>,
        user: &StoredUser,
        factors: &mut StoredFactors,
        code: &Code,
    ) -> Result<bool> {
        let user_id = &user.public.user_id;
        let Some(pending) = factors.pending.take() else {
            return Ok(false);
        };
        let Some(last_step) = self.step_of(user_id, &pending.secret, code)? else {
            return Ok(false);
        };
        let secret = TotpSecret { since_ms: self.now_ms(), ..pending.secret };
        factors.active = Some(Active { secret, last_step });
        factors.recovery = pending.recovery;
        change.takes_access();
        change.audit(AuditAction::FactorConfirmed, user_id.as_str());
        Ok(true)
    }

    /// Uses a code in a change that also requires or replaces the user's record; `None` if the code
    /// is not accepted.
    pub(super) fn accept_code(
        &self,
        change: &mut ConditionalCommit<'_>,
        user: &StoredUser,
        code: &Code,
    ) -> Result<Option<Factor>> {
        let user_id = &user.public.user_id;
        let mut factors = self.factors_of(user_id)?;
        let (factor, action) = match (&mut factors.value.active, code) {
            (None, _) => return Ok(None),
            (Some(active), Code::Totp(_)) => {
                let (secret, last_step) = (active.secret.clone(), active.last_step);
                match self.step_of(user_id, &secret, code)? {
                    Some(step) if step > last_step || planted("auth_totp_replayed") => active.last_step = step,
                    _ => return Ok(None),
                }
                (Factor::Totp, AuditAction::FactorVerified)
            }
            (Some(_), Code::Recovery(bytes)) => {
                let mac = recovery_mac(&self.keys()?.recovery, user_id, bytes);
                if !factors.value.take_recovery(&mac) {
                    return Ok(None);
                }
                (Factor::RecoveryCode, AuditAction::RecoveryCodeUsed)
            }
        };
        self.put_factors(change, user_id, &factors)?;
        change.audit(action, user_id.as_str());
        Ok(Some(factor))
    }

    /// The counter for attempts at a user's second factor. Such an attempt needs the password or a
    /// session first, so this counter may delay all sources.
    fn factor_charges(&self, user: &StoredUser) -> Result<[Charge; 1]> {
        let free = self.options().guess_policy.free_per_account_and_source;
        let name = format!("{} {}", user.public.user_id, user.code_epoch);
        Ok([self.charge("second factor", &name, free)?])
    }

    /// Charges an attempt, runs it, and refunds the charge if the code was right.
    pub(super) fn attempt<T>(
        &self,
        user: &StoredUser,
        code: &str,
        run: impl FnOnce(Option<&Code>) -> Result<Option<T>>,
    ) -> Result<Attempt<T>> {
        let (user_id, charges) = (&user.public.user_id, self.factor_charges(user)?);
        let wait_ms = self.shared.guesses.begin(&charges, self.now_ms());
        if wait_ms > 0 && !planted("auth_codes_not_delayed") {
            self.audit_refusal(AuditAction::LoginDelayed, user_id, user_id);
            return Ok(Attempt::Delayed(wait_ms));
        }
        if let Some(done) = run(Code::parse(code).as_ref())? {
            self.shared.guesses.refund(&charges);
            return Ok(Attempt::Accepted(done));
        }
        self.persist_counters(&charges)?;
        self.audit_refusal(AuditAction::FactorVerified, user_id, user_id);
        Ok(Attempt::Refused)
    }

    fn checked(
        &self,
        user_id: &str,
        code: &str,
        accept: impl Fn(&Self, &mut ConditionalCommit<'_>, &StoredUser, &Code) -> Result<Option<Factor>>,
    ) -> Result<FactorCheck> {
        let user = self.user_by_id(user_id)?.value;
        let attempt = self.attempt(&user, code, |code| {
            let Some(code) = code else { return Ok(None) };
            self.change(|change| {
                let user = self.user_by_id(user_id)?;
                let accepted = accept(self, change, &user.value, code)?;
                self.require_user(change, &user);
                Ok(if accepted.is_some() { Decision::Commit(accepted) } else { Decision::Stop(None) })
            })
        })?;
        Ok(match attempt {
            Attempt::Accepted(factor) => FactorCheck::Accepted(factor),
            Attempt::Refused => FactorCheck::Refused,
            Attempt::Delayed(retry_after_ms) => FactorCheck::Delayed { retry_after_ms },
        })
    }

    /// Wraps the data keys of a user's secrets with the current master key; `false` if it wraps
    /// them already.
    pub(super) fn rewrap_factors(&self, id: &[u8; 16]) -> Result<bool> {
        let user_id = UserId::from_bytes(*id);
        self.change(|change| {
            let mut factors = self.factors_of(&user_id)?;
            let mut is_rewrapped = false;
            for secret in factors.value.secrets_mut() {
                if let Some(blob) = self.rewrap_field(TOTP, id, Some(&secret.blob))? {
                    secret.blob = blob;
                    is_rewrapped = true;
                }
            }
            if !is_rewrapped {
                return Ok(Decision::Stop(false));
            }
            self.put_factors(change, &user_id, &factors)?;
            Ok(Decision::Commit(true))
        })
    }
}

/// The outcome of an attempt at a second factor.
pub(super) enum Attempt<T> {
    Accepted(T),
    Refused,
    Delayed(i64),
}
