//! Logins in two steps, and the step-up of a session by a second factor or by the password.

use hightower_engine::{Expect, KeyspaceEngine};
use secrecy::ExposeSecret;

use super::AuthService;
use super::change::{ConditionalCommit, Decision, Loaded};
use super::factors::Attempt;
use super::logins::{CheckedPassword, Login};
use super::permissions::Principal;
use crate::audit::AuditAction;
use crate::crypto::{EnvelopeEncryptor, SecretHasher, TAG_LEN_BYTES};
use crate::error::{Error, Result};
use crate::factor::{Code, Enrolment, Factor, FactorUse};
use crate::mutants::planted;
use crate::record::{SessionRecord, StoredSession, StoredUser};
use crate::record_keys;
use crate::single_use::TokenPurpose;
use crate::token::{Token, parse_session, random_secret, session_token};

/// A proof of identity in a session.
#[derive(Clone, Copy)]
pub enum Proof<'a> {
    /// The password.
    Password(&'a str),
    /// A one-time password or a recovery code.
    Code(&'a str),
}

/// The outcome of a step-up.
#[derive(Debug)]
#[must_use]
pub enum StepUp {
    /// The proof is right. The session continues under a new token; the old token is invalid.
    Accepted {
        /// The session.
        session: Box<SessionRecord>,
        /// The new token, for the client.
        token: Token,
    },
    /// The proof is wrong, or the session has ended.
    Refused,
    /// Too many failures: the proof was not checked.
    Delayed {
        /// The remaining delay, in ms.
        retry_after_ms: i64,
    },
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Completes a login after [`Login::FactorRequired`] by a one-time password or a recovery code,
    /// and starts the session. If an enrolment is pending and the user has no second factor yet,
    /// the code confirms the enrolment.
    ///
    /// A wrong code counts as a failure of the user. The token stays valid until it is used or
    /// expires.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn complete_login(&self, token: &str, code: &str) -> Result<Login> {
        let Some(live) = self.live_token(token, TokenPurpose::Login, "")? else {
            self.noted::<()>(TokenPurpose::Login, None)?;
            return Ok(Login::Refused);
        };
        let source = self.source_tag()?;
        let attempt = self.attempt(&live.user.value, code, |code| {
            let Some(code) = code else { return Ok(None) };
            self.change(|change| {
                let Some(mut live) = self.live_token(token, TokenPurpose::Login, "")? else {
                    return Ok(Decision::Stop(None));
                };
                let Some(second) = self.accept_or_confirm(change, &live.user.value, code)? else {
                    return Ok(Decision::Stop(None));
                };
                self.use_token(change, &live);
                let first = FactorUse { factor: Factor::Password, at_ms: live.token.value.public.created_at_ms };
                let uses = vec![first, FactorUse { factor: second, at_ms: self.now_ms() }];
                self.note_login(change, &mut live.user, source, None);
                self.replace_user(change, &live.user)?;
                let (session, token) = self.start_session(change, &live.user.value, uses)?;
                change.audit(AuditAction::SessionStarted, live.user.value.public.user_id.as_str());
                Ok(Decision::Commit(Some((live.user.value.public, session, token))))
            })
        })?;
        Ok(match attempt {
            Attempt::Accepted((user, session, token)) => {
                Login::Accepted { user: Box::new(user), session: Box::new(session), token }
            }
            Attempt::Refused => Login::Refused,
            Attempt::Delayed(retry_after_ms) => Login::Delayed { retry_after_ms },
        })
    }

    /// Enrols a second factor after [`Login::FactorRequired`], for a user who needs one and has
    /// none. [`AuthService::complete_login`] confirms the enrolment. `None` if the token is
    /// invalid.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the user has a second factor: a password alone does not replace it.
    pub fn enrol_at_login(&self, token: &str) -> Result<Option<Enrolment>> {
        let done = self.change(|change| {
            let Some(live) = self.live_token(token, TokenPurpose::Login, "")? else {
                return Ok(Decision::Stop(None));
            };
            let user_id = &live.user.value.public.user_id;
            if self.factors_of(user_id)?.value.active.is_some() && !planted("auth_password_replaces_factor") {
                return Err(Error::Conflict("the user has a second factor already"));
            }
            let enrolment = self.enrol(change, &live.user.value)?;
            change.require(&record_keys::user(user_id.as_bytes()), live.user.version);
            Ok(Decision::Commit(Some(enrolment)))
        })?;
        self.noted(TokenPurpose::Login, done)
    }

    /// Checks a proof of identity in a session. The session records the factor with the time
    /// ([`SessionRecord::factors`]), and continues under a new token with the same expiry. A code
    /// also confirms a pending enrolment, if the user has no second factor yet.
    ///
    /// A session that is refused only because it lacks a second factor can be stepped up by one.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn step_up(&self, session_token: &str, proof: Proof<'_>) -> Result<StepUp> {
        let Some(secret) = parse_session(session_token) else {
            return Ok(StepUp::Refused);
        };
        let token_hash = self.keys()?.session.tag(&[secret.expose_secret()]);
        let Some((_, user)) = self.session_and_user(&token_hash)? else {
            return Ok(StepUp::Refused);
        };
        let attempt = match proof {
            Proof::Password(password) => {
                let checked = match self.check(&user.value.normal_name, password)? {
                    CheckedPassword::Accepted(accepted) => accepted.user,
                    CheckedPassword::Refused => return Ok(StepUp::Refused),
                    CheckedPassword::Delayed(retry_after_ms) => return Ok(StepUp::Delayed { retry_after_ms }),
                };
                // Each new password raises the epoch.
                let is_same =
                    |user: &StoredUser| user.epoch == checked.epoch && user.public.user_id == checked.public.user_id;
                let accept =
                    |_: &mut ConditionalCommit<'_>, user: &StoredUser| Ok(is_same(user).then_some(Factor::Password));
                match self.prove(&token_hash, accept)? {
                    Some(done) => Attempt::Accepted(done),
                    None => Attempt::Refused,
                }
            }
            Proof::Code(code) => self.attempt(&user.value, code, |code| {
                let Some(code) = code else { return Ok(None) };
                self.prove(&token_hash, |change, user| self.accept_or_confirm(change, user, code))
            })?,
        };
        Ok(match attempt {
            Attempt::Accepted((session, token)) => StepUp::Accepted { session: Box::new(session), token },
            Attempt::Refused => StepUp::Refused,
            Attempt::Delayed(retry_after_ms) => StepUp::Delayed { retry_after_ms },
        })
    }

    /// Requires that the principal's session was authenticated by one of these factors at most
    /// `max_age_ms` ago.
    ///
    /// # Errors
    /// [`Error::StepUpRequired`] if not: call [`AuthService::step_up`] with a proof of the user,
    /// then continue with the principal of the new token. [`Error::Denied`] for an API key, which
    /// has no factors.
    pub fn require_recent(&self, principal: &Principal, any_of: &[Factor], max_age_ms: i64) -> Result<()> {
        let Some(token_hash) = principal.session() else {
            return Err(Error::Denied("an API key has no factors: use a session"));
        };
        let session = self.load_session(token_hash)?.map(|session| session.value);
        let Some(session) = session else {
            return Err(Error::StepUpRequired);
        };
        if !self.session_is_alive(&session)? {
            return Err(Error::StepUpRequired);
        }
        let now_ms = self.now_ms();
        // If the clock went back by more than the age, no factor counts as recent.
        let is_recent = |used: &FactorUse| {
            any_of.contains(&used.factor)
                && u64::try_from(max_age_ms).is_ok_and(|age_ms| now_ms.abs_diff(used.at_ms) <= age_ms)
        };
        if session.public.factors.iter().any(is_recent) { Ok(()) } else { Err(Error::StepUpRequired) }
    }

    /// Uses a code, or confirms a pending enrolment by it if no second factor is active.
    fn accept_or_confirm(
        &self,
        change: &mut ConditionalCommit<'_>,
        user: &StoredUser,
        code: &Code,
    ) -> Result<Option<Factor>> {
        let mut factors = self.factors_of(&user.public.user_id)?;
        if factors.value.active.is_some() {
            return self.accept_code(change, user, code);
        }
        if !self.confirm(change, user, &mut factors.value, code)? {
            return Ok(None);
        }
        self.put_factors(change, &user.public.user_id, &factors)?;
        Ok(Some(Factor::Totp))
    }

    /// A session that has not ended, and its user, if enabled.
    fn session_and_user(
        &self,
        token_hash: &[u8; TAG_LEN_BYTES],
    ) -> Result<Option<(Loaded<StoredSession>, Loaded<StoredUser>)>> {
        let Some(session) = self.load_session(token_hash)? else {
            return Ok(None);
        };
        let Some(user) = self.load_user(session.value.public.user_id.as_bytes())? else {
            return Ok(None);
        };
        let counts = !user.value.public.disabled && !session.value.is_over(self.now_ms(), user.value.epoch);
        Ok(counts.then_some((session, user)))
    }

    /// Adds the factor that `accept` confirms to a session, and gives the session a new token.
    fn prove(
        &self,
        token_hash: &[u8; TAG_LEN_BYTES],
        accept: impl Fn(&mut ConditionalCommit<'_>, &StoredUser) -> Result<Option<Factor>>,
    ) -> Result<Option<(SessionRecord, Token)>> {
        let Some((_, user)) = self.session_and_user(token_hash)? else {
            return Ok(None);
        };
        let may_use_reserve = self.may_use_reserve(&user.value.public.user_id);
        self.change(|change| {
            let Some((mut session, user)) = self.session_and_user(token_hash)? else {
                return Ok(Decision::Stop(None));
            };
            let Some(factor) = accept(change, &user.value)? else {
                return Ok(Decision::Stop(None));
            };
            let public = &mut session.value.public;
            public.factors.retain(|used| used.factor != factor);
            public.factors.push(FactorUse { factor, at_ms: self.now_ms() });
            public.last_seen_ms = self.now_ms();
            let idle_ms = public.last_seen_ms.saturating_add(self.options().session_idle_ms);
            public.idle_expires_at_ms = idle_ms.min(public.expires_at_ms);
            let (user_id, session_id) = (*public.user_id.as_bytes(), *public.session_id.as_bytes());
            let secret = random_secret(&*self.options().entropy)?;
            let next_hash = self.keys()?.session.tag(&[secret.expose_secret()]);
            let index = record_keys::session_of(&user_id, &session_id);
            change.remove(&record_keys::session(token_hash), session.version);
            change.create(&record_keys::session(&next_hash), &session.value.encode()?);
            change.batch.require(&index, Expect::Present);
            change.batch.put(&index, self.keys()?.sealer.seal(&index, &next_hash));
            change.require(&record_keys::user(&user_id), user.version);
            change.takes_access();
            if !may_use_reserve {
                change.leaves_reserve();
            }
            change.audit(AuditAction::SteppedUp, user.value.public.user_id.as_str());
            Ok(Decision::Commit(Some((session.value.public, session_token(&secret)))))
        })
    }
}
