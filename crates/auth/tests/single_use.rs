//! Single-use tokens: valid for one purpose, once, for a limited time, and while their subject is
//! unchanged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use hightower_auth::{Login, MAX_TOKENS_PER_PURPOSE, ResetRequest, Token, TokenPurpose};
use support::{OTHER, PASSWORD, Service, check, service};

mod support;

/// A change that ends a user's tokens.
type Change = fn(&Service, &str);

const ADDRESS: &str = "alice@example.org";

fn alice(auth: &Service) -> String {
    auth.create_user("alice", PASSWORD).unwrap().user_id.to_string()
}

fn reset(auth: &Service, id: &str) -> Token {
    auth.issue_password_reset(id).unwrap().1
}

#[test]
fn a_reset_sets_a_password_once_and_ends_sessions() {
    let (engine, _, auth) = service();
    let id = alice(&auth);
    let Login::Accepted { token: session, .. } = auth.login("alice", PASSWORD).unwrap() else { panic!() };
    let (record, token) = auth.issue_password_reset(&id).unwrap();
    assert_eq!((record.purpose, record.user_id.as_str()), (TokenPurpose::PasswordReset, &*id));
    let other = reset(&auth, &id);
    assert_eq!(auth.list_tokens(&id).unwrap().len(), 2);
    assert_eq!(auth.reset_password_with(&token, "short").unwrap_err().code(), "validation");
    assert_eq!(auth.reset_password_with(&token, "alice alice alice").unwrap_err().code(), "validation");
    assert!(auth.authenticate_session(&session).unwrap().is_some(), "a bad password changes nothing");
    assert_eq!(auth.reset_password_with(&token, OTHER).unwrap().unwrap().user_id.as_str(), id);
    assert!(auth.authenticate_session(&session).unwrap().is_none());
    assert!(auth.verify_password("alice", OTHER).unwrap() && !auth.verify_password("alice", PASSWORD).unwrap());
    for spent in [&token, &other] {
        assert!(auth.reset_password_with(spent, PASSWORD).unwrap().is_none(), "by use, or with the password");
    }
    assert!(auth.reset_password_with("hto_nonsense", PASSWORD).unwrap().is_none());
    assert!(auth.list_tokens(&id).unwrap().is_empty());
    for (value, _) in engine.image().entries.values() {
        assert!(!String::from_utf8_lossy(value).contains(&token[4..68]), "the token in the clear");
    }
    check(&engine.image());
}

#[test]
fn a_token_ends_with_what_it_is_for() {
    let changes: [(&str, Change); 7] = [
        ("password", |auth, _| assert!(auth.change_password("alice", PASSWORD, OTHER).unwrap())),
        ("reset", |auth, id| auth.reset_password(id, OTHER).unwrap()),
        ("disabled", |auth, id| assert!(auth.disable_user(id).unwrap().disabled)),
        ("disabled and enabled", |auth, id| {
            auth.disable_user(id).unwrap();
            auth.enable_user(id).unwrap();
        }),
        ("renamed", |auth, id| drop(auth.rename_user(id, "malice").unwrap())),
        ("deleted", |auth, id| assert!(auth.delete_user(id).unwrap())),
        ("revoked", |auth, id| assert_eq!(auth.revoke_tokens(id).unwrap(), 3)),
    ];
    for (name, change) in changes {
        let (engine, _, auth) = service();
        let id = alice(&auth);
        let (_, verification) = auth.issue_verification(&id, ADDRESS).unwrap();
        let (_, invitation) = auth.issue_invitation(&id).unwrap();
        let token = reset(&auth, &id);
        change(&auth, &id);
        assert!(auth.reset_password_with(&token, "one more good password").unwrap().is_none(), "{name}");
        assert!(auth.accept_invitation(&invitation, "one more good password").unwrap().is_none(), "{name}");
        assert!(auth.verify_with(&verification, ADDRESS).unwrap().is_none(), "{name}");
        check(&engine.image());
    }
}

#[test]
fn a_token_is_for_one_purpose_and_one_subject() {
    let (_, clock, auth) = service();
    let id = alice(&auth);
    let (_, verification) = auth.issue_verification(&id, ADDRESS).unwrap();
    let (_, invitation) = auth.issue_invitation(&id).unwrap();
    let token = reset(&auth, &id);
    assert!(auth.reset_password_with(&verification, OTHER).unwrap().is_none());
    assert!(auth.reset_password_with(&invitation, OTHER).unwrap().is_none());
    assert!(auth.accept_invitation(&token, OTHER).unwrap().is_none());
    assert!(auth.verify_with(&token, "").unwrap().is_none());
    assert!(matches!(auth.complete_login(&token, "123456").unwrap(), Login::Refused));
    assert!(auth.authenticate(&token).unwrap().is_none());
    assert!(auth.verify_with(&verification, "mallory@example.org").unwrap().is_none(), "another address");
    assert_eq!(auth.verify_with(&verification, ADDRESS).unwrap().unwrap().user_id.as_str(), id);
    assert!(auth.verify_with(&verification, ADDRESS).unwrap().is_none(), "used");
    assert_eq!(auth.issue_verification(&id, "a\nb").unwrap_err().code(), "validation");
    clock.shift_ms(30 * 60_000 - 1);
    let late = reset(&auth, &id);
    clock.shift_ms(1);
    assert!(auth.reset_password_with(&token, OTHER).unwrap().is_none(), "expired");
    assert!(auth.accept_invitation(&invitation, OTHER).unwrap().is_some(), "an invitation counts longer");
    assert!(auth.reset_password_with(&late, OTHER).unwrap().is_none());
}

#[test]
fn the_number_of_tokens_is_limited_and_expired_ones_are_removed() {
    let (engine, clock, auth) = service();
    let id = alice(&auth);
    let invitation = auth.issue_invitation(&id).unwrap().1;
    let tokens: Vec<Token> = (0..MAX_TOKENS_PER_PURPOSE + 2)
        .map(|_| {
            clock.shift_ms(1);
            reset(&auth, &id)
        })
        .collect();
    assert_eq!(auth.list_tokens(&id).unwrap().len(), MAX_TOKENS_PER_PURPOSE + 1);
    assert!(auth.reset_password_with(&tokens[1], OTHER).unwrap().is_none(), "the oldest went");
    check(&engine.image());
    clock.shift_ms(60 * 60_000);
    assert_eq!(auth.purge_expired().unwrap().tokens, MAX_TOKENS_PER_PURPOSE as u64);
    assert!(auth.accept_invitation(&invitation, OTHER).unwrap().is_some());
    reset(&auth, &id);
    assert_eq!(auth.revoke_tokens(&id).unwrap(), 1);
    assert_eq!(auth.revoke_tokens(&id).unwrap(), 0);
    check(&engine.image());
}

#[test]
fn an_invited_user_sets_the_first_password() {
    let (_, _, auth) = service();
    let (user, token) = auth.invite_user("Alice").unwrap();
    assert_eq!(auth.invite_user("ALICE").unwrap_err().code(), "conflict");
    assert!(!auth.verify_password("alice", PASSWORD).unwrap());
    assert_eq!(auth.list_tokens(&user.user_id).unwrap()[0].purpose, TokenPurpose::Invitation);
    assert_eq!(auth.accept_invitation(&token, PASSWORD).unwrap().unwrap().user_id, user.user_id);
    assert!(auth.verify_password("alice", PASSWORD).unwrap());
    assert!(auth.accept_invitation(&token, OTHER).unwrap().is_none());
    auth.disable_user(&user.user_id).unwrap();
    assert_eq!(auth.issue_invitation(&user.user_id).unwrap_err().code(), "denied");
}

#[test]
fn requests_by_strangers_are_delayed_and_tell_nothing() {
    let (_, clock, auth) = service();
    let id = alice(&auth);
    let ask = |name: &str| auth.request_password_reset(name).unwrap();
    for _ in 0..3 {
        let ResetRequest::Issued { user, token, .. } = ask("ALICE") else { panic!() };
        assert_eq!(user.user_id.as_str(), id);
        assert!(token.starts_with("hto_"));
        assert!(matches!(ask("nobody"), ResetRequest::Nobody));
        assert!(matches!(ask("two words"), ResetRequest::Nobody));
    }
    let ResetRequest::Delayed { retry_after_ms } = ask("alice") else { panic!() };
    assert!(matches!(ask("nobody"), ResetRequest::Delayed { .. }), "an unknown name is delayed alike");
    assert!(reset(&auth, &id).starts_with("hto_"), "an operator is not held up");
    clock.shift_ms(retry_after_ms);
    assert!(matches!(ask("alice"), ResetRequest::Issued { .. }));
    auth.disable_user(&id).unwrap();
    clock.shift_ms(24 * 60 * 60_000);
    assert!(matches!(ask("alice"), ResetRequest::Nobody));
    // One source, many names.
    let source = auth.from_source("192.0.2.7").unwrap();
    let asked = (0..50).filter(|n| {
        let answer = source.request_password_reset(&format!("user{n}")).unwrap();
        matches!(answer, ResetRequest::Nobody)
    });
    assert!(asked.count() < 12);
}

#[test]
fn a_reset_leaves_the_second_factor_where_it_is() {
    let (_, clock, auth) = service();
    let id = alice(&auth);
    support::with_totp(&auth, &clock, &id);
    let token = reset(&auth, &id);
    assert!(auth.reset_password_with(&token, OTHER).unwrap().is_some());
    assert!(matches!(auth.login("alice", OTHER).unwrap(), Login::FactorRequired { enrolled: true, .. }));
}
