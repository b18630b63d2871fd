//! The management view: the rights of a principal, never more, and an audit entry for each call.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hightower_auth::{
    Action, Actor, AdminService, ApiKeyAccess, ApiKeyOptions, AuditAction, AuditFilter, AuditOutcome, AuditVerdict,
    Error, Factor, FactorPolicy, Grant, KeyRange, Login, Principal, Result, Token, UserId,
};
use parking_lot::Mutex;
use support::{MemEngine, OTHER, PASSWORD, Service, service, service_on};

mod support;

type Admin = AdminService<Arc<MemEngine>, hightower_auth::Argon2SecretHasher, Arc<hightower_auth::AesGcmEncryptor>>;

fn grant(actions: &[Action], prefix: &str) -> Grant {
    Grant::new(actions.iter().copied(), KeyRange::prefix(prefix)).unwrap()
}

/// A user with one role that has these grants.
fn user_with(auth: &Service, name: &str, grants: &[Grant]) -> UserId {
    let role = format!("role-of-{name}");
    auth.set_role(&role, grants).unwrap();
    let user = auth.create_user(name, PASSWORD).unwrap().user_id;
    auth.set_user_roles(&user, &[role]).unwrap();
    user
}

fn log_in(auth: &Service, name: &str) -> Token {
    let Login::Accepted { token, .. } = auth.login(name, PASSWORD).unwrap() else { panic!("{name} is refused") };
    token
}

fn principal(auth: &Service, name: &str) -> Principal {
    auth.authenticate(&log_in(auth, name)).unwrap().unwrap()
}

fn admin(auth: &Service, name: &str) -> Admin {
    AdminService::new(auth, principal(auth, name))
}

fn denied<T: std::fmt::Debug>(outcome: Result<T>) {
    assert_eq!(outcome.unwrap_err().code(), "denied");
}

/// The lead of a team, with read and write rights on its jobs.
fn lead(auth: &Service) -> UserId {
    let grants = [
        grant(&[Action::ViewUsers, Action::ManageUsers], "team-a."),
        grant(&[Action::ManageRoles], "team-a:"),
        grant(&[Action::Read, Action::Write], "jobs/a/"),
    ];
    user_with(auth, "lead", &grants)
}

#[test]
fn a_lead_manages_the_team_and_nobody_else() {
    let (_, _, auth) = service();
    lead(&auth);
    let bob = auth.create_user("team-b.bob", PASSWORD).unwrap().user_id;
    let view = admin(&auth, "lead");
    let alice = view.create_user("Team-A.Alice", PASSWORD).unwrap().user_id;
    denied(view.create_user("team-b.eve", PASSWORD));
    assert_eq!(view.create_user("team-a.alice", PASSWORD).unwrap_err().code(), "conflict");
    let (carol, token) = view.invite_user("team-a.carol").unwrap();
    assert!(auth.accept_invitation(&token, PASSWORD).unwrap().is_some());
    denied(view.invite_user("team-b.carol"));
    assert_eq!(view.rename_user(&carol.user_id, "team-a.caroline").unwrap().username, "team-a.caroline");
    denied(view.rename_user(&carol.user_id, "team-b.carol"));
    denied(view.rename_user(&bob, "team-a.bob"));
    view.disable_user(&alice).unwrap();
    view.enable_user(&alice).unwrap();
    view.reset_password(&alice, OTHER).unwrap();
    view.set_user_metadata(&alice, Some(b"hers")).unwrap();
    view.issue_password_reset(&alice).unwrap();
    view.issue_invitation(&alice).unwrap();
    assert_eq!(view.list_tokens(&alice).unwrap().len(), 2);
    assert_eq!(view.revoke_tokens(&alice).unwrap(), 2);
    view.clear_delays(&alice).unwrap();
    view.revoke_all_sessions(&alice).unwrap();
    view.require_second_factor(&alice, true).unwrap();
    assert!(view.factor_status(&alice).unwrap().required);
    assert!(!view.disable_second_factor(&alice).unwrap());
    let (key, _) = view.create_api_key_with(&alice, &ApiKeyOptions::default()).unwrap();
    view.rotate_api_key(&key.key_id, 0).unwrap();
    assert_eq!(view.list_api_keys(&alice).unwrap().len(), 1);
    assert!(view.revoke_api_key(&key.key_id).unwrap());
    let names = |users: Vec<hightower_auth::UserRecord>| -> Vec<String> {
        let mut names: Vec<_> = users.into_iter().map(|user| user.username).collect();
        names.sort();
        names
    };
    assert_eq!(names(view.list_users(None, 100).unwrap()), ["Team-A.Alice", "team-a.caroline"]);
    assert_eq!(view.list_users(None, 1).unwrap().len(), 1);
    assert!(view.get_user(&alice).unwrap().is_some() && view.find_user("team-a.alice").unwrap().is_some());

    let (foreign_key, _) = auth.create_api_key(&bob, None).unwrap();
    denied(view.get_user(&bob));
    denied(view.find_user("team-b.bob"));
    denied(view.list_sessions(&bob));
    denied(view.disable_user(&bob));
    denied(view.delete_user(&bob));
    denied(view.reset_password(&bob, OTHER));
    denied(view.issue_password_reset(&bob));
    denied(view.create_api_key_with(&bob, &ApiKeyOptions::default()));
    denied(view.revoke_api_key(&foreign_key.key_id));
    denied(view.revoke_api_key("htk_nonsense"));
    denied(view.disable_user("usr_00000000000000000000000000000000"));
    denied(view.find_audit(&AuditFilter::default(), 0, 10));
    denied(view.export_audit(&AuditFilter::default(), &mut Vec::new()));
    denied(view.verify_audit(None));
    denied(view.set_factor_policy(&FactorPolicy::default()));
    assert!(auth.verify_password("team-b.bob", PASSWORD).unwrap());
    assert!(view.delete_user(&alice).unwrap());
    // A principal without rights can do nothing.
    let nobody = admin(&auth, "team-b.bob");
    denied(nobody.list_users(None, 10));
    denied(nobody.create_user("team-b.x", PASSWORD));
    denied(nobody.get_role("team-a:x"));
}

#[test]
fn nobody_gives_gets_or_touches_more_than_they_have() {
    let (_, _, auth) = service();
    let own = lead(&auth);
    let view = admin(&auth, "lead");
    let alice = view.create_user("team-a.alice", PASSWORD).unwrap().user_id;
    // Roles: only with rights that the principal has itself.
    let mine = [grant(&[Action::Read], "jobs/a/x"), grant(&[Action::ManageUsers], "team-a.interns.")];
    view.set_role("team-a:worker", &mine).unwrap();
    assert_eq!(view.get_role("team-a:worker").unwrap().unwrap().grants, mine);
    for more in [
        grant(&[Action::Read], "jobs/"),
        grant(&[Action::Admin], "jobs/a/"),
        grant(&[Action::ManageUsers], ""),
        grant(&[Action::ReadAudit], ""),
        grant(&[Action::Write], "\0auth/"),
    ] {
        denied(view.set_role("team-a:worker", std::slice::from_ref(&more)));
        denied(view.set_role("team-a:new", &[more]));
    }
    denied(view.set_role("team-b:worker", &[]));
    denied(view.delete_role("role-of-lead"));
    view.change_user_roles(&alice, &["team-a:worker".to_owned()], &[]).unwrap();
    auth.set_role("team-a:chief", &[grant(&[Action::Admin], "")]).unwrap();
    denied(view.change_user_roles(&alice, &["team-a:chief".to_owned()], &[]));
    denied(view.change_user_roles(&own, &["team-a:chief".to_owned()], &[]));
    denied(view.change_user_roles(&alice, &["team-a:not-yet".to_owned()], &[]));
    denied(view.change_user_roles(&alice, &["root".to_owned()], &[]));
    denied(view.set_role("team-a:chief", &[])); // a user with more rights keeps them
    denied(view.delete_role("team-a:chief"));
    view.change_user_roles(&alice, &[], &["team-a:worker".to_owned()]).unwrap();
    assert!(view.delete_role("team-a:worker").unwrap() && !view.delete_role("team-a:worker").unwrap());
    // Users: one with more rights cannot be managed, although the name is in the range.
    let boss = user_with(&auth, "team-a.boss", &[grant(&[Action::Admin], "")]);
    let (key, _) = auth.create_api_key(&boss, None).unwrap();
    denied(view.reset_password(&boss, OTHER));
    denied(view.issue_password_reset(&boss));
    denied(view.create_api_key_with(&boss, &ApiKeyOptions::default()));
    denied(view.rotate_api_key(&key.key_id, 0));
    denied(view.disable_second_factor(&boss));
    denied(view.disable_user(&boss));
    assert!(view.get_user(&boss).unwrap().is_some(), "to see is another right");

    // An API key with fewer rights than its owner manages less.
    let limited = ApiKeyAccess::Limited { roles: Vec::new(), grants: vec![grant(&[Action::ManageUsers], "team-a.")] };
    let options = ApiKeyOptions { access: limited, ..ApiKeyOptions::default() };
    let (_, token) = auth.create_api_key_with(&own, &options).unwrap();
    let by_key = AdminService::new(&auth, auth.authenticate(&token).unwrap().unwrap());
    by_key.create_user("team-a.dave", PASSWORD).unwrap();
    denied(by_key.get_user(&alice));
    denied(by_key.set_role("team-a:worker", &[]));
}

#[test]
fn every_call_is_in_the_trail_with_its_actor() {
    let (_, _, auth) = service();
    let grants = [
        grant(&[Action::ViewUsers, Action::ManageUsers, Action::ManageRoles, Action::ReadAudit], ""),
        grant(&[Action::Read], "jobs/"),
    ];
    let root = user_with(&auth, "root", &grants);
    let view = admin(&auth, "root");
    let by_root = AuditFilter { user: Some(root.clone()), ..AuditFilter::default() };
    let mut seen = auth.find_audit(&by_root, 0, 1000).unwrap().entries.len();
    let mut last = || {
        let entries = auth.find_audit(&by_root, 0, 1000).unwrap().entries;
        assert!(entries.len() > seen, "a call without an entry");
        seen = entries.len();
        let entry = entries.last().unwrap().clone();
        assert_eq!(entry.actor, Actor::User(root.clone()));
        (entry.action, entry.outcome, entry.target)
    };
    let alice = view.create_user("alice", PASSWORD).unwrap().user_id;
    assert_eq!(last().0, AuditAction::UserCreated);
    view.list_users(None, 10).unwrap();
    assert_eq!(last(), (AuditAction::ManagementRead, AuditOutcome::Done, "users: all".to_owned()));
    view.get_user(&alice).unwrap();
    assert_eq!(last().0, AuditAction::ManagementRead);
    view.find_audit(&AuditFilter::default(), 0, 10).unwrap();
    assert_eq!(last().2, "audit trail: all");
    assert!(view.export_audit(&AuditFilter::default(), &mut Vec::new()).unwrap() > 5);
    assert_eq!(last().0, AuditAction::ManagementRead);
    assert!(matches!(view.verify_audit(None).unwrap(), AuditVerdict::Intact { .. }));
    assert_eq!(last().0, AuditAction::ManagementRead);
    assert_eq!(view.create_user("alice", PASSWORD).unwrap_err().code(), "conflict");
    assert_eq!(last(), (AuditAction::ManagementFailed, AuditOutcome::Refused, "create user: alice".to_owned()));
    assert!(!view.disable_second_factor(&alice).unwrap());
    assert_eq!(last().0, AuditAction::ManagementFailed);
    denied(view.set_role("admin", &[grant(&[Action::Write], "jobs/")]));
    assert_eq!(last(), (AuditAction::AccessDenied, AuditOutcome::Refused, "set role: admin".to_owned()));
    denied(view.disable_user("\u{202e}usr\u{7}_\u{2028}\u{2066}1"));
    assert_eq!(last().2, "disable user: usr_1", "nothing that changes the text around it");
    view.set_factor_policy(&FactorPolicy::default()).unwrap();
    assert_eq!(last().0, AuditAction::FactorPolicySet);
    assert!(auth.list_users(None, 10).unwrap().len() == 2);
}

#[test]
fn authority_ends_at_once_and_may_ask_for_a_recent_factor() {
    let (_, clock, auth) = service();
    let own = lead(&auth);
    let view = admin(&auth, "lead");
    let careful = AdminService::new(&auth, principal(&auth, "lead")).require_recent(&[Factor::Password], 60_000);
    careful.create_user("team-a.alice", PASSWORD).unwrap();
    clock.shift_ms(60_001);
    assert_eq!(careful.create_user("team-a.bob", PASSWORD).unwrap_err().code(), "step_up_required");
    view.create_user("team-a.bob", PASSWORD).unwrap();
    auth.set_role("role-of-lead", &[]).unwrap();
    denied(view.create_user("team-a.carol", PASSWORD));
    auth.set_role("role-of-lead", &[grant(&[Action::ManageUsers], "team-a.")]).unwrap();
    view.create_user("team-a.carol", PASSWORD).unwrap();
    auth.disable_user(&own).unwrap();
    denied(view.create_user("team-a.dave", PASSWORD));
}

/// A management call of a lead on a user of the team.
type Call = fn(&Admin, &str) -> Option<Error>;

/// Rights may be revoked at any moment: no call that needs them commits afterwards.
#[test]
fn authority_counts_as_of_the_commit() {
    let calls: [(&str, Call); 3] = [
        ("create", |view, _| view.create_user("team-a.new", PASSWORD).err()),
        ("roles", |view, id| view.change_user_roles(id, &["team-a:worker".to_owned()], &[]).err()),
        ("key", |view, id| view.create_api_key_with(id, &ApiKeyOptions::default()).err()),
    ];
    for (name, call) in calls {
        for at in 0.. {
            let (steps, rival): (Arc<AtomicI64>, Arc<Mutex<Option<Service>>>) =
                (Arc::new(AtomicI64::new(-1)), Arc::default());
            let (left, other) = (Arc::clone(&steps), Arc::clone(&rival));
            let engine = MemEngine::with_hook(Box::new(move || {
                if left.load(Ordering::SeqCst) >= 0
                    && left.fetch_sub(1, Ordering::SeqCst) == 0
                    && let Some(auth) = other.lock().take()
                {
                    auth.set_role("role-of-lead", &[]).unwrap();
                }
            }));
            let auth = service_on(engine, &support::clock());
            lead(&auth);
            auth.set_role("team-a:worker", &[]).unwrap();
            let alice = auth.create_user("team-a.alice", PASSWORD).unwrap().user_id;
            let view = admin(&auth, "lead");
            *rival.lock() = Some(auth.clone());
            let before = auth.audit_entries(0, 1000).unwrap().len();
            steps.store(at, Ordering::SeqCst);
            let refused = call(&view, &alice);
            if rival.lock().is_some() {
                assert!(at > 3 && refused.is_none(), "{name} has {at} operations");
                break;
            }
            let trail = auth.audit_entries(0, 1000).unwrap();
            let took = trail.iter().rposition(|entry| entry.action == AuditAction::RoleSet).unwrap();
            let made = trail[before..].iter().any(|entry| {
                entry.seq > trail[took].seq && entry.outcome == AuditOutcome::Done && entry.actor != Actor::System
            });
            assert!(!made, "{name}: done after authority was taken away before operation {at}");
            if let Some(refused) = refused {
                assert_eq!(refused.code(), "denied", "{name}: {refused}");
            }
        }
    }
}
