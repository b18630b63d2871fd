//! Sessions: opaque tokens, stored only as keyed hashes. Raising the epoch in the user's record
//! ends all sessions of the user.

use std::sync::atomic::Ordering;

use hightower_engine::{BatchOutcome, Expect, KeyspaceEngine};
use secrecy::ExposeSecret;

use super::AuthService;
use super::change::{ConditionalCommit, Decision, Loaded};
use crate::audit::AuditAction;
use crate::crypto::{EnvelopeEncryptor, SecretHasher, TAG_LEN_BYTES};
use crate::entropy::random;
use crate::error::{Error, Result};
use crate::factor::FactorUse;
use crate::id::{SessionId, UserId};
use crate::mutants::planted;
use crate::record::{SessionRecord, StoredSession, StoredUser};
use crate::record_keys;
use crate::token::{Token, parse_session, random_secret, session_token};

/// An entry of the index of a user's sessions.
pub(super) struct IndexedSession {
    pub(super) id: [u8; 16],
    pub(super) token_hash: [u8; TAG_LEN_BYTES],
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// The session of this token, if it is alive: not ended, not expired, the user not disabled.
    ///
    /// A use extends the idle expiry. It is written at most once per `last_used_interval_ms`.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn authenticate_session(&self, token: &str) -> Result<Option<SessionRecord>> {
        let Some(secret) = parse_session(token) else {
            return Ok(None);
        };
        let token_hash = self.keys()?.session.tag(&[secret.expose_secret()]);
        match self.live_session(&token_hash)? {
            Some(session) => Ok(Some(session)),
            None => {
                let session = self.load_session(&token_hash)?.map(|session| session.value.public.session_id);
                let target = session.as_ref().map_or("unknown session", |id| id.as_str());
                self.audit_refusal(AuditAction::SessionRefused, target, target);
                Ok(None)
            }
        }
    }

    /// The session with this token hash, if it is alive. This counts as a use.
    pub(super) fn live_session(&self, token_hash: &[u8]) -> Result<Option<SessionRecord>> {
        match self.load_session(token_hash)? {
            Some(session) if self.session_is_alive(&session.value)? => {
                self.touch_session(token_hash, session).map(Some)
            }
            _ => Ok(None),
        }
    }

    pub(super) fn session_is_alive(&self, session: &StoredSession) -> Result<bool> {
        let Some(user) = self.load_user(session.public.user_id.as_bytes())? else {
            return Ok(false);
        };
        let user = user.value;
        Ok(!user.public.disabled
            && !session.is_over(self.now_ms(), user.epoch)
            && self.has_proved_enough(session, &user)?)
    }

    /// Whether a session has a second factor, or its user does not need one.
    fn has_proved_enough(&self, session: &StoredSession, user: &StoredUser) -> Result<bool> {
        if session.public.has_second_factor() || planted("auth_factor_not_asked_of_sessions") {
            return Ok(true);
        }
        Ok(!self.asks_for_second(&user.public, &self.factors_of(&user.public.user_id)?.value)?)
    }

    fn touch_session(&self, token_hash: &[u8], session: Loaded<StoredSession>) -> Result<SessionRecord> {
        let (mut next, now_ms) = (session.value.clone(), self.now_ms());
        // A last use in the future means that the clock was set back.
        if (0..self.options().last_used_interval_ms).contains(&now_ms.saturating_sub(next.public.last_seen_ms)) {
            return Ok(next.public);
        }
        next.public.last_seen_ms = now_ms;
        let idle = now_ms.saturating_add(self.options().session_idle_ms);
        next.public.idle_expires_at_ms = idle.min(next.public.expires_at_ms);
        self.note_use(&record_keys::session(token_hash), session.version, &next.encode()?)?;
        Ok(next.public)
    }

    /// Writes a last use, if the record is unchanged since it was read, so that a revoked one stays
    /// revoked. A failed write is counted and does not refuse the request.
    pub(super) fn note_use(&self, key: &[u8], version: u64, body: &[u8]) -> Result<()> {
        let keys = self.keys()?;
        let mut batch = self.records().batch();
        batch.put(key, keys.sealer.seal(key, body));
        batch.require(record_keys::META, Expect::Version(keys.meta_version));
        if !planted("auth_use_unconditional") {
            batch.require(key, Expect::Version(version));
        }
        if let Ok(BatchOutcome::Committed(_) | BatchOutcome::Rejected(_)) = self.records().commit(&batch) {
            return Ok(());
        }
        self.shared.counts.last_used_failures.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Adds a session to a change that also replaces the user's record.
    pub(super) fn start_session(
        &self,
        change: &mut ConditionalCommit<'_>,
        user: &StoredUser,
        factors: Vec<FactorUse>,
    ) -> Result<(SessionRecord, Token)> {
        let user_id = &user.public.user_id;
        self.make_room_for_session(change, user)?;
        let secret = random_secret(&*self.options().entropy)?;
        let token_hash = self.keys()?.session.tag(&[secret.expose_secret()]);
        let (options, now_ms) = (self.options(), self.now_ms());
        let expires_at_ms = now_ms.saturating_add(options.session_absolute_ms);
        let public = SessionRecord {
            session_id: SessionId::from_bytes(random(&*options.entropy)?),
            user_id: user_id.clone(),
            created_at_ms: now_ms,
            last_seen_ms: now_ms,
            idle_expires_at_ms: now_ms.saturating_add(options.session_idle_ms).min(expires_at_ms),
            expires_at_ms,
            source: self.caller.source.clone(),
            factors,
        };
        let session = StoredSession { public, epoch: user.epoch };
        change.create(&record_keys::session(&token_hash), &session.encode()?);
        change.create(&record_keys::session_of(user_id.as_bytes(), session.public.session_id.as_bytes()), &token_hash);
        Ok((session.public, session_token(&secret)))
    }

    /// Removes ended sessions, and the oldest ones above the limit.
    fn make_room_for_session(&self, change: &mut ConditionalCommit<'_>, user: &StoredUser) -> Result<()> {
        let user_id = user.public.user_id.as_bytes();
        let index = self.session_index_of(user_id)?;
        if index.len() < self.options().max_sessions_per_user {
            return Ok(());
        }
        let mut alive = Vec::new();
        for entry in index {
            let session = self.load_session(&entry.token_hash)?;
            match session.filter(|session| !session.value.is_over(self.now_ms(), user.epoch)) {
                Some(session) => alive.push((session.value.public.created_at_ms, entry)),
                None => drop_session(change, user_id, &entry),
            }
        }
        alive.sort_by_key(|(created_at_ms, _)| *created_at_ms);
        let excess = (alive.len() + 1).saturating_sub(self.options().max_sessions_per_user);
        alive.iter().take(excess).for_each(|(_, entry)| drop_session(change, user_id, entry));
        if excess > 0 {
            change.access_changes();
        }
        Ok(())
    }

    /// The live sessions of a user, oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user.
    pub fn list_sessions(&self, user_id: &str) -> Result<Vec<SessionRecord>> {
        let user = self.user_by_id(user_id)?.value;
        let mut sessions = Vec::new();
        for entry in self.session_index_of(user.public.user_id.as_bytes())? {
            let session = self.load_session(&entry.token_hash)?;
            let Some(session) = session.filter(|session| !session.value.is_over(self.now_ms(), user.epoch)) else {
                continue;
            };
            if self.has_proved_enough(&session.value, &user)? {
                sessions.push(session.value.public);
            }
        }
        sessions.sort_by_key(|session| session.created_at_ms);
        Ok(sessions)
    }

    /// Ends the session of this token; `false` if no such session exists.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn logout(&self, token: &str) -> Result<bool> {
        let Some(secret) = parse_session(token) else {
            return Ok(false);
        };
        let token_hash = self.keys()?.session.tag(&[secret.expose_secret()]);
        self.end_session(&token_hash)
    }

    /// Ends one session of a user; `false` if no such session exists.
    ///
    /// # Errors
    /// As [`AuthService::logout`].
    pub fn revoke_session(&self, user_id: &str, session_id: &str) -> Result<bool> {
        let (Some(user), Some(session)) = (UserId::parse(user_id), SessionId::parse(session_id)) else {
            return Ok(false);
        };
        let index = record_keys::session_of(user.as_bytes(), session.as_bytes());
        match self.load(&index, |mut reader| reader.array::<TAG_LEN_BYTES>())? {
            Some(token_hash) => self.end_session(&token_hash.value),
            None => Ok(false),
        }
    }

    fn end_session(&self, token_hash: &[u8; TAG_LEN_BYTES]) -> Result<bool> {
        self.change(|change| {
            let Some(session) = self.load_session(token_hash)? else {
                return Ok(Decision::Stop(false));
            };
            let SessionRecord { session_id, user_id, .. } = &session.value.public;
            let entry = IndexedSession { id: *session_id.as_bytes(), token_hash: *token_hash };
            change.batch.require(record_keys::session(token_hash), Expect::Version(session.version));
            drop_session(change, user_id.as_bytes(), &entry);
            change.takes_access();
            change.audit_of(user_id, AuditAction::SessionEnded, session_id.as_str());
            Ok(Decision::Commit(true))
        })
    }

    /// Ends all sessions of a user by one small write, independent of their number.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the user.
    pub fn revoke_all_sessions(&self, user_id: &str) -> Result<()> {
        self.change(|change| {
            let mut user = self.user_by_id(user_id)?;
            user.value.epoch += 1;
            self.replace_user(change, &user)?;
            change.takes_access();
            change.audit(AuditAction::AllSessionsEnded, user_id);
            Ok(Decision::Commit(()))
        })
    }

    pub(super) fn session_index_of(&self, user_id: &[u8; 16]) -> Result<Vec<IndexedSession>> {
        let prefix = record_keys::sessions_of(user_id);
        self.with_keys(|keys| {
            let entry = |(key, value): (Vec<u8>, hightower_engine::Value)| {
                let token_hash = keys.sealer.open(&key, &value)?.array()?;
                match key[prefix.len()..].try_into() {
                    Ok(id) => Ok(IndexedSession { id, token_hash }),
                    Err(_) => Err(Error::Crypto("a stored record is not what the service wrote")),
                }
            };
            self.records().get_prefix(&prefix)?.into_iter().map(entry).collect()
        })
    }
}

pub(super) fn drop_session(change: &mut ConditionalCommit<'_>, user_id: &[u8; 16], entry: &IndexedSession) {
    change.batch.delete(record_keys::session(&entry.token_hash));
    change.batch.delete(record_keys::session_of(user_id, &entry.id));
}
