//! Finding entries of the audit trail by user, action and time, and exporting them as JSON Lines.

use std::io::Write;

use hightower_engine::KeyspaceEngine;
use serde::Serialize;

use super::AuthService;
use super::audit_trail::MAX_AUDIT_PAGE;
use crate::audit::{Actor, AuditAction, AuditEntry, AuditOutcome};
use crate::crypto::{EnvelopeEncryptor, SecretHasher};
use crate::error::{Error, Result};
use crate::id::UserId;
use crate::timestamp::Timestamp;

/// A filter of audit entries. The default selects all.
///
/// # Examples
/// ```
/// use hightower_auth::{AuditAction, AuditFilter};
/// let filter = AuditFilter { actions: vec![AuditAction::PasswordReset], ..AuditFilter::default() };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only entries whose actor is this user, or that concern the user's account. API keys are
    /// separate actors.
    pub user: Option<UserId>,
    /// Only these actions; empty for all.
    pub actions: Vec<AuditAction>,
    /// Only entries of this time or later, in Unix ms.
    pub from_ms: Option<Timestamp>,
    /// Only entries before this time, in Unix ms.
    pub until_ms: Option<Timestamp>,
    /// Only entries with this outcome.
    pub outcome: Option<AuditOutcome>,
}

impl AuditFilter {
    /// Whether the filter selects this entry.
    pub fn matches(&self, entry: &AuditEntry) -> bool {
        let is_of = |user: &UserId| entry.user_id.as_ref() == Some(user) || entry.actor == Actor::User(user.clone());
        self.user.as_ref().is_none_or(is_of)
            && (self.actions.is_empty() || self.actions.contains(&entry.action))
            && self.from_ms.is_none_or(|from_ms| entry.at_ms >= from_ms)
            && self.until_ms.is_none_or(|until_ms| entry.at_ms < until_ms)
            && self.outcome.is_none_or(|outcome| entry.outcome == outcome)
    }
}

/// A page of entries that a filter selects.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditPage {
    /// The entries, oldest first.
    pub entries: Vec<AuditEntry>,
    /// The number from which the next page continues; `None` at the end of the trail.
    pub next_seq: Option<u64>,
}

/// A line of an export.
#[derive(Serialize)]
struct JsonLine<'a> {
    seq: u64,
    at_ms: Timestamp,
    actor: &'a str,
    action: String,
    target: &'a str,
    user_id: Option<&'a str>,
    source: Option<&'a str>,
    outcome: &'a str,
    suppressed: u32,
}

impl AuditEntry {
    /// The entry as one JSON object, without a line feed: `seq`, `at_ms` (Unix ms), `actor`
    /// (`system` or an id), `action`, `target`, `user_id`, `source`, `outcome` (`done` or
    /// `refused`) and `suppressed`.
    ///
    /// # Errors
    /// [`Error::Output`] if the allocation of the text fails.
    pub fn to_json(&self) -> Result<String> {
        let outcome = match self.outcome {
            AuditOutcome::Done => "done",
            AuditOutcome::Refused => "refused",
        };
        let line = JsonLine {
            seq: self.seq,
            at_ms: self.at_ms,
            actor: self.actor.as_str(),
            action: self.action.to_string(),
            target: &self.target,
            user_id: self.user_id.as_ref().map(UserId::as_str),
            source: self.source.as_deref(),
            outcome,
            suppressed: self.suppressed,
        };
        serde_json::to_string(&line).map_err(|error| Error::Output(error.into()))
    }
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Up to `limit` (at most [`MAX_AUDIT_PAGE`]) entries that `filter` selects, from number
    /// `from_seq` on.
    ///
    /// Reads the trail from `from_seq`, with memory for one page, until the limit is reached or the
    /// trail ends. The MAC of each entry is checked; [`AuthService::verify_audit`] checks the
    /// chain.
    ///
    /// # Errors
    /// [`Error::Crypto`] if an entry is not authentic, or the engine's.
    pub fn find_audit(&self, filter: &AuditFilter, from_seq: u64, limit: usize) -> Result<AuditPage> {
        let (limit, mut seq) = (limit.min(MAX_AUDIT_PAGE), from_seq);
        let mut found = Vec::new();
        loop {
            let page = self.audit_entries(seq, MAX_AUDIT_PAGE)?;
            for entry in page.iter().filter(|entry| filter.matches(entry)) {
                if found.len() == limit {
                    return Ok(AuditPage { entries: found, next_seq: Some(entry.seq) });
                }
                found.push(entry.clone());
            }
            match page.last() {
                Some(last) if page.len() == MAX_AUDIT_PAGE => seq = last.seq.saturating_add(1),
                _ => return Ok(AuditPage { entries: found, next_seq: None }),
            }
        }
    }

    /// Writes all entries that `filter` selects to `out`, oldest first, one JSON object per line
    /// (see [`AuditEntry::to_json`]), and returns their number. Entries that are appended meanwhile
    /// may be included.
    ///
    /// # Errors
    /// [`Error::Output`] if `out` fails, [`Error::Crypto`] if an entry is not authentic, or the
    /// engine's. After an error, `out` has a part of the entries.
    pub fn export_audit(&self, filter: &AuditFilter, out: &mut dyn Write) -> Result<u64> {
        let (mut seq, mut written) = (0, 0);
        loop {
            let page = self.find_audit(filter, seq, MAX_AUDIT_PAGE)?;
            for entry in &page.entries {
                writeln!(out, "{}", entry.to_json()?).map_err(Error::Output)?;
                written += 1;
            }
            match page.next_seq {
                Some(next) => seq = next,
                None => break,
            }
        }
        out.flush().map_err(Error::Output)?;
        Ok(written)
    }
}
