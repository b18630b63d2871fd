//! The hook for notices: who embeds the service hears of what happens to accounts, and tells their
//! owners.

use std::fmt::Debug;

use crate::audit::AuditEntry;

/// Hears of each entry of the audit trail once it is committed: a login from a new source, a
/// changed password, a
/// revocation, an attempt that was refused.
///
/// It is called on the thread of the call that made the entry, with no lock held, after the commit.
/// It may call the
/// service. A panic in it is contained and counted in [`crate::AuthStats::listener_panics`].
/// Refusals that the rate limiter leaves
/// out of the trail are not heard of either; the next entry tells their number.
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
    /// This entry is in the trail. Hand it on and return: the caller waits.
    fn committed(&self, entry: &AuditEntry);
}
