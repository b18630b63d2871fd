//! Management of users and roles with the rights of one principal.
//!
//! [`AuthService`] trusts its caller, the embedding program. [`AdminService`] is the view for
//! principals that manage users and roles: it checks the principal's rights at each call.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

use hightower_engine::KeyspaceEngine;

use super::AuthService;
use super::api_keys::ApiKeyOptions;
use super::audit_search::{AuditFilter, AuditPage};
use super::change::AUTHORITY_MOVED;
use super::permissions::{AccessRights, Principal};
use super::users::MAX_PAGE;
use crate::audit::{AuditAction, AuditAnchor, AuditVerdict};
use crate::crypto::{EnvelopeEncryptor, SecretHasher};
use crate::error::{Error, Result};
use crate::factor::{Factor, FactorPolicy, FactorStatus};
use crate::id::{ApiKeyId, UserId};
use crate::mutants::planted;
use crate::permission::{Action, Grant, KeyRange, PermissionSet};
use crate::record::{ApiKeyRecord, RoleRecord, SessionRecord, UserRecord};
use crate::role_names::check_role_name;
use crate::single_use::TokenRecord;
use crate::token::Token;
use crate::username::{disturbs, normal_form};

/// Maximum number of attempts of a call while access rights change concurrently.
const MAX_TRIES: u32 = 1000;

/// The management calls of a service, with the rights of one principal.
///
/// | call | needs |
/// | --- | --- |
/// | create, invite | `ManageUsers` on the name |
/// | change a user, its sessions, API keys, tokens or factors | `ManageUsers` on the user's name, and every right that the user has |
/// | rename | the same, and `ManageUsers` on the new name |
/// | give and remove roles | the same, `ManageRoles` on each role, and every right of each role that is given |
/// | define, delete a role | `ManageRoles` on its name, and every right of its old and new grants |
/// | read users, sessions, API keys, factors | `ViewUsers` on the user's name |
/// | read roles | `ManageRoles` on the name |
/// | read and verify the audit trail | `ReadAudit` on all |
/// | set the policy of second factors | `ManageUsers` and `ManageRoles` on all |
///
/// So a principal can neither get nor give more rights than it has. Usernames are in their normal
/// form ([`crate::normalize_username`]). The rights must still hold at the commit. The audit trail
/// has an entry for each call, reads included, with the principal as its actor, whether the call
/// was done, refused or failed.
///
/// # Examples
/// ```
/// use hightower_auth::{Action, AdminService, AuthService, Grant, KeyRange, Login};
/// use hightower_engine::{SingleNodeEngine, StoreConfig};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let auth = AuthService::open(SingleNodeEngine::with_config(StoreConfig::at(directory.path()))?, [7; 32])?;
/// let team = |actions: &[Action]| Grant::new(actions.iter().copied(), KeyRange::prefix("team-a."));
/// auth.set_role("lead", &[team(&[Action::ViewUsers, Action::ManageUsers])?])?;
/// let lead = auth.create_user("lead", "violet teapot orbit 9")?;
/// auth.set_user_roles(&lead.user_id, &["lead".into()])?;
/// let Login::Accepted { token, .. } = auth.login("lead", "violet teapot orbit 9")? else { panic!() };
///
/// let principal = auth.authenticate(&token)?.ok_or("the session has just begun")?;
/// let admin = AdminService::new(&auth, principal);
/// admin.create_user("team-a.alice", "four more random words")?;
/// assert!(admin.create_user("team-b.bob", "four more random words").is_err());
/// # Ok(())
/// # }
/// ```
pub struct AdminService<E, H, C> {
    service: AuthService<E, H, C>,
    principal: Arc<Principal>,
    recent: Option<(Vec<Factor>, i64)>,
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AdminService<E, H, C> {
    /// The management calls of `service` with the rights of `principal`.
    pub fn new(service: &AuthService<E, H, C>, principal: Principal) -> Self {
        let service = service.acting_as(principal.actor());
        Self { service, principal: Arc::new(principal), recent: None }
    }

    /// The same view, but each call fails with [`Error::StepUpRequired`] unless the session was
    /// authenticated by one of these factors at most `max_age_ms` ago.
    #[must_use]
    pub fn require_recent(mut self, any_of: &[Factor], max_age_ms: i64) -> Self {
        self.recent = Some((any_of.to_vec(), max_age_ms));
        self
    }

    /// The principal of the view.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// As [`AuthService::create_user`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn create_user(&self, username: &str, password: &str) -> Result<UserRecord> {
        let name = normal_form(username)?;
        let allowed = |access: &AccessRights| Ok(self.may(access, Action::ManageUsers, name.as_str()));
        self.run("create user", username, allowed, |service| service.create_user(username, password))
    }

    /// As [`AuthService::invite_user`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn invite_user(&self, username: &str) -> Result<(UserRecord, Token)> {
        let name = normal_form(username)?;
        let allowed = |access: &AccessRights| Ok(self.may(access, Action::ManageUsers, name.as_str()));
        self.run("invite user", username, allowed, |service| service.invite_user(username))
    }

    /// As [`AuthService::rename_user`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn rename_user(&self, user_id: &str, username: &str) -> Result<UserRecord> {
        let name = normal_form(username)?;
        let allowed = |access: &AccessRights| {
            Ok(self.may(access, Action::ManageUsers, name.as_str()) && self.may_manage(access, user_id)?)
        };
        self.run("rename user", user_id, allowed, |service| service.rename_user(user_id, username))
    }

    /// As [`AuthService::disable_user`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn disable_user(&self, user_id: &str) -> Result<UserRecord> {
        self.manage("disable user", user_id, |service| service.disable_user(user_id))
    }

    /// As [`AuthService::enable_user`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn enable_user(&self, user_id: &str) -> Result<UserRecord> {
        self.manage("enable user", user_id, |service| service.enable_user(user_id))
    }

    /// As [`AuthService::delete_user`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn delete_user(&self, user_id: &str) -> Result<bool> {
        let done = self.manage("delete user", user_id, |service| service.delete_user(user_id))?;
        Ok(self.noted_if_nothing(done, "delete user", user_id))
    }

    /// As [`AuthService::set_user_metadata`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn set_user_metadata(&self, user_id: &str, metadata: Option<&[u8]>) -> Result<UserRecord> {
        self.manage("set metadata", user_id, |service| service.set_user_metadata(user_id, metadata))
    }

    /// As [`AuthService::reset_password`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn reset_password(&self, user_id: &str, new_password: &str) -> Result<()> {
        self.manage("reset password", user_id, |service| service.reset_password(user_id, new_password))
    }

    /// As [`AuthService::issue_password_reset`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn issue_password_reset(&self, user_id: &str) -> Result<(TokenRecord, Token)> {
        self.manage("issue a password reset", user_id, |service| service.issue_password_reset(user_id))
    }

    /// As [`AuthService::issue_invitation`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn issue_invitation(&self, user_id: &str) -> Result<(TokenRecord, Token)> {
        self.manage("issue an invitation", user_id, |service| service.issue_invitation(user_id))
    }

    /// As [`AuthService::revoke_tokens`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn revoke_tokens(&self, user_id: &str) -> Result<u64> {
        self.manage("revoke tokens", user_id, |service| service.revoke_tokens(user_id))
    }

    /// As [`AuthService::clear_delays`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn clear_delays(&self, user_id: &str) -> Result<()> {
        self.manage("clear delays", user_id, |service| service.clear_delays(user_id))
    }

    /// As [`AuthService::revoke_all_sessions`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn revoke_all_sessions(&self, user_id: &str) -> Result<()> {
        self.manage("end all sessions", user_id, |service| service.revoke_all_sessions(user_id))
    }

    /// As [`AuthService::revoke_session`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn revoke_session(&self, user_id: &str, session_id: &str) -> Result<bool> {
        let done = self.manage("end a session", user_id, |service| service.revoke_session(user_id, session_id))?;
        Ok(self.noted_if_nothing(done, "end a session", user_id))
    }

    /// As [`AuthService::disable_second_factor`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn disable_second_factor(&self, user_id: &str) -> Result<bool> {
        let done = self.manage("disable second factor", user_id, |service| service.disable_second_factor(user_id))?;
        Ok(self.noted_if_nothing(done, "disable second factor", user_id))
    }

    /// As [`AuthService::require_second_factor`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn require_second_factor(&self, user_id: &str, required: bool) -> Result<()> {
        self.manage("require second factor", user_id, |service| service.require_second_factor(user_id, required))
    }

    /// As [`AuthService::create_api_key_with`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn create_api_key_with(&self, user_id: &str, options: &ApiKeyOptions<'_>) -> Result<(ApiKeyRecord, Token)> {
        self.manage("create API key", user_id, |service| service.create_api_key_with(user_id, options))
    }

    /// As [`AuthService::rotate_api_key`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn rotate_api_key(&self, key_id: &str, overlap_ms: i64) -> Result<(ApiKeyRecord, Token)> {
        let allowed = |access: &AccessRights| self.may_manage_key(access, key_id);
        self.run("rotate API key", key_id, allowed, |service| service.rotate_api_key(key_id, overlap_ms))
    }

    /// As [`AuthService::revoke_api_key`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn revoke_api_key(&self, key_id: &str) -> Result<bool> {
        let allowed = |access: &AccessRights| self.may_manage_key(access, key_id);
        let done = self.run("revoke API key", key_id, allowed, |service| service.revoke_api_key(key_id))?;
        Ok(self.noted_if_nothing(done, "revoke API key", key_id))
    }

    /// As [`AuthService::change_user_roles`]; each role that is given must exist.
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn change_user_roles(&self, user_id: &str, add: &[String], remove: &[String]) -> Result<UserRecord> {
        let allowed = |access: &AccessRights| {
            let names: BTreeSet<&String> = add.iter().chain(remove).collect();
            let may_all = names.iter().all(|name| self.may(access, Action::ManageRoles, name));
            if !may_all || !self.may_manage(access, user_id)? {
                return Ok(false);
            }
            for name in add {
                check_role_name(name)?;
                let role = self.service.load_role(name)?;
                let gives_no_more = role.is_some_and(|role| access.covers(&PermissionSet::new(&role.value.grants)));
                if !gives_no_more && !planted("auth_roles_given_freely") {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        self.run("change roles", user_id, allowed, |service| service.change_user_roles(user_id, add, remove))
    }

    /// As [`AuthService::set_role`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn set_role(&self, name: &str, grants: &[Grant]) -> Result<RoleRecord> {
        check_role_name(name)?;
        let allowed =
            |access: &AccessRights| Ok(self.may_set_role(access, name)? && access.covers(&PermissionSet::new(grants)));
        self.run("set role", name, allowed, |service| service.set_role(name, grants))
    }

    /// As [`AuthService::delete_role`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn delete_role(&self, name: &str) -> Result<bool> {
        check_role_name(name)?;
        let done = self.run(
            "delete role",
            name,
            |access| self.may_set_role(access, name),
            |service| service.delete_role(name),
        )?;
        Ok(self.noted_if_nothing(done, "delete role", name))
    }

    /// As [`AuthService::set_factor_policy`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn set_factor_policy(&self, policy: &FactorPolicy) -> Result<()> {
        let allowed = |access: &AccessRights| {
            Ok(self.may_all(access, Action::ManageUsers) && self.may_all(access, Action::ManageRoles))
        };
        self.run("set factor policy", "factor policy", allowed, |service| service.set_factor_policy(policy))
    }

    /// As [`AuthService::get_user`].
    ///
    /// # Errors
    /// [`Error::Denied`] also for a user who does not exist, and those of the call.
    pub fn get_user(&self, user_id: &str) -> Result<Option<UserRecord>> {
        self.view("user", user_id, |service| service.get_user(user_id))
    }

    /// As [`AuthService::find_user`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn find_user(&self, username: &str) -> Result<Option<UserRecord>> {
        let name = normal_form(username)?;
        let allowed = |access: &AccessRights| Ok(self.may(access, Action::ViewUsers, name.as_str()));
        self.read("user", username, allowed, |service| service.find_user(username))
    }

    /// As [`AuthService::list_users`], but only the users that the principal may view.
    ///
    /// # Errors
    /// [`Error::Denied`] if the principal may view none, and those of the call.
    pub fn list_users(&self, after: Option<&UserId>, limit: usize) -> Result<Vec<UserRecord>> {
        let list = |service: &AuthService<E, H, C>| {
            let access = service.access_of(&self.principal)?;
            let (mut after, mut users) = (after.cloned(), Vec::new());
            let limit = limit.min(MAX_PAGE);
            while users.len() < limit {
                let page = service.list_users(after.as_ref(), MAX_PAGE)?;
                let Some(last) = page.last() else { break };
                after = Some(last.user_id.clone());
                for user in page {
                    let name = normal_form(&user.username)?;
                    if users.len() < limit && self.may(&access, Action::ViewUsers, name.as_str()) {
                        users.push(user);
                    }
                }
            }
            Ok(users)
        };
        self.read("users", "all", |access| Ok(access.allows_any(Action::ViewUsers, self.service.now_ms())), list)
    }

    /// As [`AuthService::list_sessions`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn list_sessions(&self, user_id: &str) -> Result<Vec<SessionRecord>> {
        self.view("sessions", user_id, |service| service.list_sessions(user_id))
    }

    /// As [`AuthService::list_api_keys`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn list_api_keys(&self, user_id: &str) -> Result<Vec<ApiKeyRecord>> {
        self.view("API keys", user_id, |service| service.list_api_keys(user_id))
    }

    /// As [`AuthService::list_tokens`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn list_tokens(&self, user_id: &str) -> Result<Vec<TokenRecord>> {
        self.view("tokens", user_id, |service| service.list_tokens(user_id))
    }

    /// As [`AuthService::factor_status`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn factor_status(&self, user_id: &str) -> Result<FactorStatus> {
        self.view("factors", user_id, |service| service.factor_status(user_id))
    }

    /// As [`AuthService::get_role`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn get_role(&self, name: &str) -> Result<Option<RoleRecord>> {
        let allowed = |access: &AccessRights| Ok(self.may(access, Action::ManageRoles, name));
        self.read("role", name, allowed, |service| service.get_role(name))
    }

    /// As [`AuthService::find_audit`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn find_audit(&self, filter: &AuditFilter, from_seq: u64, limit: usize) -> Result<AuditPage> {
        self.read_audit("audit trail", |service| service.find_audit(filter, from_seq, limit))
    }

    /// As [`AuthService::export_audit`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn export_audit(&self, filter: &AuditFilter, out: &mut dyn Write) -> Result<u64> {
        self.read_audit("audit trail, export", |_| Ok(()))?;
        self.service.export_audit(filter, out)
    }

    /// As [`AuthService::verify_audit`].
    ///
    /// # Errors
    /// [`Error::Denied`], and those of the call.
    pub fn verify_audit(&self, since: Option<&AuditAnchor>) -> Result<AuditVerdict> {
        self.read_audit("audit trail, verification", |service| service.verify_audit(since))
    }

    fn may(&self, access: &AccessRights, action: Action, name: &str) -> bool {
        access.allows(action, name.as_bytes(), self.service.now_ms())
    }

    fn may_all(&self, access: &AccessRights, action: Action) -> bool {
        access.allows_range(action, &KeyRange::all(), self.service.now_ms())
    }

    /// Whether the principal may change this user: it needs a grant on the name, and every right of
    /// the user. The error is the same for an unknown id and for a user that the principal may not
    /// change.
    fn may_manage(&self, access: &AccessRights, user_id: &str) -> Result<bool> {
        let user = match self.service.user_by_id(user_id) {
            Ok(user) => user.value,
            Err(Error::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        let rights = PermissionSet::new(&self.service.grants_of(&user.public.roles)?);
        let has_all = access.covers(&rights) || planted("auth_admin_of_the_mightier");
        Ok(has_all && self.may(access, Action::ManageUsers, &user.normal_name))
    }

    fn may_manage_key(&self, access: &AccessRights, key_id: &str) -> Result<bool> {
        let Some(id) = ApiKeyId::parse(key_id) else {
            return Ok(false);
        };
        match self.service.load_api_key(id.as_bytes())? {
            Some(key) => self.may_manage(access, &key.value.public.owner_id),
            None => Ok(false),
        }
    }

    fn may_set_role(&self, access: &AccessRights, name: &str) -> Result<bool> {
        let old = self.service.load_role(name)?;
        let has_all = old.is_none_or(|old| access.covers(&PermissionSet::new(&old.value.grants)));
        Ok(has_all && self.may(access, Action::ManageRoles, name))
    }

    fn manage<T>(&self, what: &str, user_id: &str, call: impl Fn(&AuthService<E, H, C>) -> Result<T>) -> Result<T> {
        self.run(what, user_id, |access| self.may_manage(access, user_id), call)
    }

    fn view<T>(&self, what: &str, user_id: &str, call: impl Fn(&AuthService<E, H, C>) -> Result<T>) -> Result<T> {
        let allowed = |access: &AccessRights| match self.service.user_by_id(user_id) {
            Ok(user) => Ok(self.may(access, Action::ViewUsers, &user.value.normal_name)),
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        };
        self.read(what, user_id, allowed, call)
    }

    fn read_audit<T>(&self, what: &str, call: impl Fn(&AuthService<E, H, C>) -> Result<T>) -> Result<T> {
        self.read(what, "all", |access| Ok(self.may_all(access, Action::ReadAudit)), call)
    }

    /// Adds an audit entry for a call that found nothing to do.
    fn noted_if_nothing(&self, done: bool, what: &str, target: &str) -> bool {
        if !done {
            let who = self.principal.user_id();
            self.service.audit_refusal(AuditAction::ManagementFailed, who, &said(what, target));
        }
        done
    }

    /// A read: its audit entry is written before its result is returned.
    fn read<T>(
        &self,
        what: &str,
        target: &str,
        allowed: impl Fn(&AccessRights) -> Result<bool>,
        call: impl Fn(&AuthService<E, H, C>) -> Result<T>,
    ) -> Result<T> {
        self.run(&format!("read {what}"), target, allowed, |service| {
            service.note(AuditAction::ManagementRead, &said(what, target))?;
            call(&self.service)
        })
    }

    /// Checks the principal's rights and runs the call. The call commits only if no access rights
    /// have changed since the check.
    fn run<T>(
        &self,
        what: &str,
        target: &str,
        allowed: impl Fn(&AccessRights) -> Result<bool>,
        call: impl Fn(&AuthService<E, H, C>) -> Result<T>,
    ) -> Result<T> {
        let said = said(what, target);
        for _ in 0..MAX_TRIES {
            let access = self.service.access_of(&self.principal)?;
            if !allowed(&access)? {
                self.service.audit_denial(&self.principal, &said);
                return Err(Error::Denied("the principal may not manage this"));
            }
            if let Some((any_of, max_age_ms)) = &self.recent
                && let Err(error) = self.service.require_recent(&self.principal, any_of, *max_age_ms)
            {
                self.service.audit_denial(&self.principal, &said);
                return Err(error);
            }
            match call(&self.service.guarded_by(access.generation)) {
                Err(Error::Conflict(AUTHORITY_MOVED)) => {}
                Err(error) => {
                    let who = self.principal.user_id();
                    self.service.audit_refusal(AuditAction::ManagementFailed, who, &said);
                    return Err(error);
                }
                done => return done,
            }
        }
        Err(Error::Conflict("permissions keep changing; try again"))
    }
}

/// The target in the audit entry of a call. The caller's text may be anything.
fn said(what: &str, target: &str) -> String {
    let target: String = target.chars().filter(|c| !disturbs(*c)).take(128).collect();
    format!("{what}: {target}")
}

impl<E, H, C> Clone for AdminService<E, H, C> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), principal: Arc::clone(&self.principal), recent: self.recent.clone() }
    }
}

impl<E, H, C> fmt::Debug for AdminService<E, H, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminService").field("principal", &self.principal).finish_non_exhaustive()
    }
}
