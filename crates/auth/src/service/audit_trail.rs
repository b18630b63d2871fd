//! Reading, verifying and pruning the audit trail.

use std::ops::Bound;

use hightower_engine::KeyspaceEngine;

use super::AuthService;
use super::change::Decision;
use crate::audit::{AuditAction, AuditAnchor, AuditEntry, AuditHash, AuditVerdict, Head, chain_hash};
use crate::crypto::{EnvelopeEncryptor, SecretHasher};
use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::permission::prefix_end;
use crate::record_keys;

/// Maximum number of audit entries in one page.
pub const MAX_AUDIT_PAGE: usize = 1000;
const VERIFY_PAGE: u64 = 256;

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Up to `limit` (at most [`MAX_AUDIT_PAGE`]) entries from number `from_seq` on. The MAC of
    /// each entry is checked; [`AuthService::verify_audit`] checks the chain.
    ///
    /// # Errors
    /// [`Error::Crypto`] if an entry is not authentic, or the engine's.
    pub fn audit_entries(&self, from_seq: u64, limit: usize) -> Result<Vec<AuditEntry>> {
        let end = prefix_end(record_keys::AUDIT);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let from = record_keys::audit(from_seq);
        self.with_keys(|keys| {
            let page = self.records().scan(Bound::Included(&from), to, limit.min(MAX_AUDIT_PAGE))?;
            page.iter().map(|(key, value)| Ok(AuditEntry::decode(keys.sealer.open(key, value)?.rest())?.0)).collect()
        })
    }

    /// The current end of the trail, to be kept outside the store.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the head is missing or not authentic.
    pub fn audit_anchor(&self) -> Result<AuditAnchor> {
        let head = self.audit_head()?.value;
        Ok(AuditAnchor { store_id: self.keys()?.store_id, next_seq: head.next_seq, hash: head.last })
    }

    /// Verifies the whole trail: no entry is missing, changed, moved or added. With an earlier
    /// anchor it also verifies that the trail continues from the anchor. Without one, a trail that
    /// was rolled back as a whole or started again counts as intact.
    ///
    /// It reads all entries once, with memory for one page.
    ///
    /// # Errors
    /// The engine's. A broken trail is a verdict, not an error.
    pub fn verify_audit(&self, since: Option<&AuditAnchor>) -> Result<AuditVerdict> {
        if let Some(since) = since {
            // Verification must not initialise the service's records.
            if !self.is_initialised()? {
                return Ok(AuditVerdict::Broken { seq: 0, problem: "the service's records are gone" });
            }
            if since.store_id != self.keys()?.store_id {
                let problem = "the trail belongs to another store, or the records were erased and started again";
                return Ok(AuditVerdict::Broken { seq: 0, problem });
            }
        }
        loop {
            let head = match self.audit_head() {
                Ok(head) => head.value,
                Err(Error::Crypto(problem)) => return Ok(AuditVerdict::Broken { seq: 0, problem }),
                Err(error) => return Err(error),
            };
            let keys = self.keys()?;
            let verdict = self.verify_from(&head, since)?;
            if matches!(verdict, AuditVerdict::Broken { .. }) && self.refresh_keys(&keys)? {
                continue;
            }
            // A concurrent pruning has removed entries: read again.
            let pruned = matches!(verdict, AuditVerdict::Broken { .. })
                && self.audit_head().is_ok_and(|now| now.value.first_seq != head.first_seq);
            if !pruned {
                return Ok(verdict);
            }
        }
    }

    fn verify_from(&self, head: &Head, since: Option<&AuditAnchor>) -> Result<AuditVerdict> {
        if since.is_some_and(|since| since.next_seq > head.next_seq) {
            return Ok(AuditVerdict::Broken { seq: head.next_seq, problem: "the trail is shorter than at the anchor" });
        }
        let mut last = head.anchor;
        let mut seq = head.first_seq;
        while seq < head.next_seq {
            let page_end = head.next_seq.min(seq + VERIFY_PAGE);
            if let Some(broken) = self.verify_page(seq, page_end, &mut last, since)? {
                return Ok(broken);
            }
            seq = page_end;
        }
        self.verify_ends(head, last, since)
    }

    fn verify_page(
        &self,
        from_seq: u64,
        to_seq: u64,
        last: &mut AuditHash,
        since: Option<&AuditAnchor>,
    ) -> Result<Option<AuditVerdict>> {
        let keys = self.keys()?;
        let (from, to) = (record_keys::audit(from_seq), record_keys::audit(to_seq));
        let limit = MAX_AUDIT_PAGE;
        let page = self.records().scan(Bound::Included(&from), Bound::Excluded(&to), limit)?;
        let mut found = page.iter();
        for seq in from_seq..to_seq {
            let broken = |problem| Ok(Some(AuditVerdict::Broken { seq, problem }));
            let Some((key, value)) = found.next().filter(|(key, _)| *key == record_keys::audit(seq)) else {
                return broken("the entry is missing, or a foreign entry is before it");
            };
            let Ok(mut body) = keys.sealer.open(key, value) else {
                return broken("the entry was not written by the service, or was changed");
            };
            let body = body.rest();
            match AuditEntry::decode(body) {
                Ok((entry, previous)) if entry.seq == seq && previous == *last => {}
                _ => return broken("the entry does not contain the hash of its predecessor"),
            }
            *last = chain_hash(&keys.audit, body);
            if since.is_some_and(|since| since.next_seq == seq + 1 && since.hash != *last) {
                return broken("the trail differs from the one at the anchor");
            }
        }
        match found.next() {
            Some(_) => Ok(Some(AuditVerdict::Broken { seq: to_seq, problem: "a foreign entry is in the trail" })),
            None => Ok(None),
        }
    }

    fn verify_ends(&self, head: &Head, last: AuditHash, since: Option<&AuditAnchor>) -> Result<AuditVerdict> {
        let broken = |seq, problem| Ok(AuditVerdict::Broken { seq, problem });
        if last != head.last {
            return broken(head.next_seq, "the last entry is not the one that the head names");
        }
        if since.is_some_and(|since| since.next_seq == head.first_seq && since.hash != head.anchor) {
            return broken(head.first_seq, "the trail differs from the one at the anchor");
        }
        let (first, next) = (record_keys::audit(head.first_seq), record_keys::audit(head.next_seq));
        let before = self.records().scan(Bound::Included(record_keys::AUDIT), Bound::Excluded(&first), 1)?;
        let end = prefix_end(record_keys::AUDIT);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.records().scan(Bound::Included(&next), to, 1)?;
        // Appended during the verification: the head has moved, which is no fault.
        let moved_on = self.audit_head()?.value != *head;
        if !before.is_empty() || (!behind.is_empty() && !moved_on) {
            return broken(head.next_seq, "an entry is outside the trail");
        }
        let entries = head.next_seq - head.first_seq;
        if since.is_some_and(|since| since.next_seq < head.first_seq) && !planted("auth_anchor_pruned_past") {
            return Ok(AuditVerdict::PrunedPast { first_seq: head.first_seq });
        }
        let anchor = AuditAnchor { store_id: self.keys()?.store_id, next_seq: head.next_seq, hash: head.last };
        Ok(AuditVerdict::Intact { entries, anchor })
    }

    /// Removes entries before number `before_seq`, at most [`MAX_AUDIT_PAGE`] per call, and returns
    /// the number of removed entries. The rest of the chain stays verifiable. Each removal adds an
    /// entry, so a loop with a `before_seq` beyond the end never stops: use at most
    /// `audit_anchor().next_seq`.
    ///
    /// # Errors
    /// [`Error::Crypto`] if an entry is not authentic: a broken trail is not pruned.
    pub fn prune_audit(&self, before_seq: u64) -> Result<u64> {
        self.change(|change| {
            let head = self.audit_head()?.value;
            let end = before_seq.min(head.next_seq).min(head.first_seq + MAX_AUDIT_PAGE as u64);
            if end <= head.first_seq {
                return Ok(Decision::Stop(0));
            }
            let keys = self.keys()?;
            let Some(anchor) =
                self.load(&record_keys::audit(end - 1), |mut entry| Ok(chain_hash(&keys.audit, entry.rest())))?
            else {
                return Err(Error::Crypto("an audit entry is missing; verify the trail"));
            };
            for seq in head.first_seq..end {
                change.batch.delete(record_keys::audit(seq));
            }
            change.audit_begins_at(end, anchor.value);
            change.audit(AuditAction::AuditPruned, format!("before {end}"));
            Ok(Decision::Commit(end - head.first_seq))
        })
    }
}
