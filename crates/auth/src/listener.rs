//! The hook for notices: the embedding program receives the audit trail's entries and notifies
//! users.

use std::fmt::Debug;

use crate::audit::AuditEntry;

/// Receives each entry of the audit trail after its commit: a login from a new source, a changed
/// password, a revocation, a refused attempt.
///
/// The service calls it on the caller's thread, after the commit and without a lock. It may call
/// the service. Its panics are caught and counted in [`crate::AuthStats::listener_panics`]. It does
/// not receive refusals that the rate limiter suppresses; the next entry has their number.
///
/// # Examples
/// ```
/// use hightower_auth::{AuditAction, AuditEntry, AuditListener};
///
/// #[derive(Debug)]
/// struct Mail;
///
/// impl AuditListener for Mail {
///     fn committed(&self, entry: &AuditEntry) {
///         match entry.action {
///             AuditAction::NewSource => {} // "Somebody logged in from ..."
///             AuditAction::PasswordChanged | AuditAction::PasswordReset => {} // "Your password was changed"
///             _ => {}
///         }
///     }
/// }
/// ```
pub trait AuditListener: Debug + Send + Sync {
    /// Receives an entry that is in the trail. Return soon, because the caller waits.
    fn committed(&self, entry: &AuditEntry);
}
