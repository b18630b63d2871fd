//! Second factors: enrol, require, use once, delay, and verify again within a session.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::sync::Arc;

use hightower_auth::{
    Action, AuditAction, AuditFilter, AuditOutcome, AuthOptions, AuthService, AuthorizedEngine, Factor, FactorCheck,
    FactorPolicy, Grant, KeyRange, Login, Principal, Proof, RECOVERY_CODES, SessionRecord, StepUp, Token,
};
use support::{
    MemEngine, OTHER, PASSWORD, Service, cheap_hasher, encryptor, options, service, service_on, totp_code, with_totp,
};

mod support;

const STEP_MS: i64 = 30_000;

/// The token of a login that waits for its second factor.
fn half(auth: &Service) -> (Token, bool) {
    match auth.login("alice", PASSWORD).unwrap() {
        Login::FactorRequired { token, enrolled, .. } => (token, enrolled),
        other => panic!("{other:?}"),
    }
}

fn whole(login: Login) -> (SessionRecord, Token) {
    match login {
        Login::Accepted { session, token, .. } => (*session, token),
        other => panic!("{other:?}"),
    }
}

fn alice(auth: &Service) -> String {
    auth.create_user("alice", PASSWORD).unwrap().user_id.to_string()
}

#[test]
fn a_factor_is_enrolled_confirmed_asked_for_and_disabled() {
    let (_, clock, auth) = service();
    let id = alice(&auth);
    let (_, before) = whole(auth.login("alice", PASSWORD).unwrap());
    let enrolment = auth.enrol_totp(&id).unwrap();
    assert!(enrolment.uri.contains(&*enrolment.secret) && enrolment.recovery_codes.len() == RECOVERY_CODES);
    assert!(!format!("{enrolment:?}").contains(&*enrolment.secret), "Debug shows the secret");
    assert!(auth.factor_status(&id).unwrap().pending);
    whole(auth.login("alice", PASSWORD).unwrap()); // an unconfirmed enrolment has no effect
    assert_eq!(auth.confirm_totp(&id, &enrolment.recovery_codes[0]).unwrap(), FactorCheck::Refused);
    let code = totp_code(&enrolment.secret, &clock);
    assert_eq!(auth.confirm_totp(&id, &code).unwrap(), FactorCheck::Accepted(Factor::Totp));
    assert_eq!(auth.confirm_totp(&id, &code).unwrap(), FactorCheck::Refused, "nothing is pending any more");
    let status = auth.factor_status(&id).unwrap();
    assert!(status.asked && !status.pending && !status.required && status.recovery_codes_left == RECOVERY_CODES);
    assert!(auth.authenticate_session(&before).unwrap().is_none(), "begun without a second factor");
    assert!(auth.list_sessions(&id).unwrap().is_empty());

    let (token, enrolled) = half(&auth);
    assert!(enrolled);
    assert!(matches!(auth.complete_login(&token, &code).unwrap(), Login::Refused), "the confirmation used it up");
    clock.shift_ms(STEP_MS);
    let at_ms = [auth.audit_entries(0, 1000).unwrap().last().unwrap().at_ms; 1][0];
    let (session, whole_token) = whole(auth.complete_login(&token, &totp_code(&enrolment.secret, &clock)).unwrap());
    assert!(session.has_second_factor());
    let known: Vec<_> = session.factors.iter().map(|used| (used.factor, used.at_ms)).collect();
    assert_eq!(known, [(Factor::Password, at_ms), (Factor::Totp, at_ms + STEP_MS)]);
    assert_eq!(auth.authenticate_session(&whole_token).unwrap().unwrap().factors, session.factors);

    assert!(auth.disable_second_factor(&id).unwrap() && !auth.disable_second_factor(&id).unwrap());
    assert!(auth.authenticate_session(&whole_token).unwrap().is_none(), "all sessions ended");
    whole(auth.login("alice", PASSWORD).unwrap());
    assert_eq!(auth.confirm_totp("usr_nobody", "123456").unwrap_err().code(), "not_found");
}

#[test]
fn the_token_of_half_a_login_opens_nothing_else() {
    let (_, clock, auth) = service();
    let id = alice(&auth);
    let enrolment = with_totp(&auth, &clock, &id);
    let (token, _) = half(&auth);
    assert!(auth.authenticate(&token).unwrap().is_none());
    assert!(auth.authenticate_session(&token).unwrap().is_none());
    assert!(auth.authenticate_api_key(&token).unwrap().is_none());
    assert!(!auth.logout(&token).unwrap());
    assert!(auth.reset_password_with(&token, OTHER).unwrap().is_none());
    assert!(auth.accept_invitation(&token, OTHER).unwrap().is_none());
    assert!(auth.verify_with(&token, "").unwrap().is_none());
    assert!(matches!(auth.step_up(&token, Proof::Password(PASSWORD)).unwrap(), StepUp::Refused));
    assert_eq!(auth.enrol_at_login(&token).unwrap_err().code(), "conflict", "a password replaces no factor");
    assert!(auth.list_sessions(&id).unwrap().is_empty());
    // The token ends when the password changes, when it expires, and when it is used.
    assert!(auth.change_password("alice", PASSWORD, OTHER).unwrap());
    let code = |auth: &Service, token: &str| auth.complete_login(token, &totp_code(&enrolment.secret, &clock)).unwrap();
    assert!(matches!(code(&auth, &token), Login::Refused));
    auth.reset_password(&id, PASSWORD).unwrap();
    let (token, _) = half(&auth);
    clock.shift_ms(5 * 60_000);
    assert!(matches!(code(&auth, &token), Login::Refused), "expired");
    let (token, _) = half(&auth);
    whole(code(&auth, &token));
    clock.shift_ms(STEP_MS);
    assert!(matches!(code(&auth, &token), Login::Refused), "used");
    assert!(matches!(auth.complete_login("hto_nonsense", "123456").unwrap(), Login::Refused));
}

#[test]
fn a_code_is_used_once_also_after_a_restart_and_within_the_window_only() {
    let (engine, clock, auth) = service();
    let id = alice(&auth);
    let enrolment = with_totp(&auth, &clock, &id);
    let code = totp_code(&enrolment.secret, &clock);
    assert_eq!(auth.verify_second_factor(&id, &code).unwrap(), FactorCheck::Accepted(Factor::Totp));
    assert_eq!(auth.verify_second_factor(&id, &code).unwrap(), FactorCheck::Refused);
    let again = service_on(Arc::clone(&engine), &clock);
    assert_eq!(again.verify_second_factor(&id, &code).unwrap(), FactorCheck::Refused, "after a restart");
    clock.shift_ms(STEP_MS);
    assert_eq!(again.verify_second_factor(&id, &code).unwrap(), FactorCheck::Refused, "within the window, but used");
    // A device's clock may be slow by one step, but not by two.
    let slow = totp_code(&enrolment.secret, &clock);
    clock.shift_ms(STEP_MS);
    assert_eq!(again.verify_second_factor(&id, &slow).unwrap(), FactorCheck::Accepted(Factor::Totp));
    let slower = totp_code(&enrolment.secret, &clock);
    clock.shift_ms(2 * STEP_MS);
    assert_eq!(again.verify_second_factor(&id, &slower).unwrap(), FactorCheck::Refused);
    // A code older than the last accepted one is refused, also within the window.
    let earlier = totp_code(&enrolment.secret, &clock);
    clock.shift_ms(STEP_MS);
    let now = totp_code(&enrolment.secret, &clock);
    assert_eq!(again.verify_second_factor(&id, &now).unwrap(), FactorCheck::Accepted(Factor::Totp));
    assert_eq!(again.verify_second_factor(&id, &earlier).unwrap(), FactorCheck::Refused);
}

#[test]
fn recovery_codes_open_once_and_are_replaced() {
    let (engine, clock, auth) = service();
    let id = alice(&auth);
    let enrolment = with_totp(&auth, &clock, &id);
    let codes = &enrolment.recovery_codes;
    let (token, _) = half(&auth);
    let (session, _) = whole(auth.complete_login(&token, &codes[3].to_uppercase()).unwrap());
    assert_eq!(session.factors.last().unwrap().factor, Factor::RecoveryCode);
    assert_eq!(auth.verify_second_factor(&id, &codes[3]).unwrap(), FactorCheck::Refused);
    assert_eq!(auth.factor_status(&id).unwrap().recovery_codes_left, RECOVERY_CODES - 1);
    let bob = auth.create_user("bob", PASSWORD).unwrap().user_id;
    with_totp(&auth, &clock, &bob);
    assert_eq!(auth.verify_second_factor(&bob, &codes[4]).unwrap(), FactorCheck::Refused, "another user's");
    let next = auth.regenerate_recovery_codes(&id).unwrap();
    assert_eq!(auth.verify_second_factor(&id, &codes[4]).unwrap(), FactorCheck::Refused);
    assert_eq!(auth.verify_second_factor(&id, &next[0]).unwrap(), FactorCheck::Accepted(Factor::RecoveryCode));
    let carol = auth.create_user("carol", PASSWORD).unwrap().user_id;
    assert_eq!(auth.regenerate_recovery_codes(&carol).unwrap_err().code(), "not_found");
    // Neither codes nor the secret are in the store.
    let secret = totp_rs::Secret::try_from_base32(&*enrolment.secret).unwrap();
    let digits: Vec<String> = next.iter().chain(codes).map(|code| code.replace('-', "")).collect();
    for (value, _) in engine.image().entries.values() {
        let text = String::from_utf8_lossy(value);
        assert!(!value.windows(20).any(|window| window == secret.as_bytes()), "the secret in the clear");
        assert!(!digits.iter().any(|code| text.contains(code)) && !text.contains(&*enrolment.secret));
    }
}

#[test]
fn guesses_at_codes_are_delayed_as_those_at_passwords() {
    let (engine, clock, auth) = service();
    let id = alice(&auth);
    let enrolment = with_totp(&auth, &clock, &id);
    let mut checked = 0;
    for n in 0..100 {
        // An attacker who has the password can begin any number of logins.
        let (token, _) = half(&auth);
        match auth.complete_login(&token, &format!("{n:06}")).unwrap() {
            Login::Refused => checked += 1,
            Login::Delayed { retry_after_ms } => assert!(retry_after_ms > 0),
            other => panic!("{other:?}"),
        }
    }
    assert!(checked <= 7, "{checked} of 100 guesses were checked");
    let again = service_on(Arc::clone(&engine), &clock);
    for auth in [&auth, &again] {
        let right = totp_code(&enrolment.secret, &clock);
        let check = auth.verify_second_factor(&id, &right).unwrap();
        assert!(matches!(check, FactorCheck::Delayed { .. }), "{check:?}");
    }
    clock.shift_ms(24 * 60 * 60_000);
    let right = totp_code(&enrolment.secret, &clock);
    assert_eq!(auth.verify_second_factor(&id, &right).unwrap(), FactorCheck::Accepted(Factor::Totp));
}

/// An attacker who reads a user's mail can reset the password, but gets no additional guesses at
/// codes.
#[test]
fn a_reset_by_mail_gives_no_more_guesses_at_codes() {
    let (engine, clock, auth) = service();
    let id = alice(&auth);
    with_totp(&auth, &clock, &id);
    let mut checked = 0;
    for round in 0..10 {
        // Each round uses another service, as after a restart.
        let auth = service_on(Arc::clone(&engine), &clock);
        let (_, reset) = auth.issue_password_reset(&id).unwrap();
        assert!(auth.reset_password_with(&reset, PASSWORD).unwrap().is_some());
        for n in 0..10 {
            let (token, _) = half(&auth);
            let login = auth.complete_login(&token, &format!("{:06}", 10 * round + n)).unwrap();
            checked += usize::from(matches!(login, Login::Refused));
        }
    }
    assert!(checked <= 7, "{checked} of 100 guesses were checked");
    // A reset by an operator also clears the delays of codes.
    auth.clear_delays(&id).unwrap();
    let (token, _) = half(&auth);
    assert!(matches!(auth.complete_login(&token, "000000").unwrap(), Login::Refused));
}

#[test]
fn a_second_factor_is_required_from_everyone_from_roles_and_by_name() {
    let (_, clock, auth) = service();
    let id = alice(&auth);
    auth.set_role("operator", &[Grant::new([Action::Write], KeyRange::prefix("jobs/")).unwrap()]).unwrap();
    auth.set_user_roles(&id, &["operator".to_owned()]).unwrap();
    let policies = [
        FactorPolicy { everyone: true, ..FactorPolicy::default() },
        FactorPolicy { roles: vec!["operator".to_owned()], ..FactorPolicy::default() },
    ];
    let off = FactorPolicy::default();
    for policy in policies {
        let (_, token) = whole(auth.login("alice", PASSWORD).unwrap());
        let view = AuthorizedEngine::new(&auth, auth.authenticate(&token).unwrap().unwrap());
        view.put(b"jobs/1", b"").unwrap();
        auth.set_factor_policy(&policy).unwrap();
        assert_eq!(auth.factor_policy().unwrap(), policy);
        assert!(view.put(b"jobs/1", b"").is_err(), "a session without a second factor can still write");
        assert!(auth.authenticate_session(&token).unwrap().is_none());
        assert!(!half(&auth).1);
        auth.set_factor_policy(&off).unwrap();
    }
    let other = FactorPolicy { roles: vec!["auditor".to_owned()], ..FactorPolicy::default() };
    auth.set_factor_policy(&other).unwrap();
    let (_, token) = whole(auth.login("alice", PASSWORD).unwrap());
    auth.set_role("auditor", &[]).unwrap();
    auth.set_user_roles(&id, &["auditor".to_owned()]).unwrap();
    assert!(auth.authenticate_session(&token).unwrap().is_none(), "the new role requires a second factor");
    auth.set_factor_policy(&off).unwrap();
    auth.require_second_factor(&id, true).unwrap();
    assert!(auth.factor_status(&id).unwrap().required);

    // A user without a factor enrols during the login.
    let (token, enrolled) = half(&auth);
    assert!(!enrolled);
    assert!(matches!(auth.complete_login(&token, "123456").unwrap(), Login::Refused));
    let enrolment = auth.enrol_at_login(&token).unwrap().unwrap();
    let code = totp_code(&enrolment.secret, &clock);
    let (session, _) = whole(auth.complete_login(&token, &code).unwrap());
    assert!(session.has_second_factor());
    assert!(half(&auth).1);
    auth.require_second_factor(&id, false).unwrap();
    assert!(half(&auth).1, "who has one is asked for it");
    let bad = FactorPolicy { roles: vec!["two words".to_owned()], ..FactorPolicy::default() };
    assert_eq!(auth.set_factor_policy(&bad).unwrap_err().code(), "validation");
}

#[test]
fn a_session_knows_what_it_proved_and_proves_more() {
    let (_, clock, auth) = service();
    let id = alice(&auth);
    let (_, token) = whole(auth.login("alice", PASSWORD).unwrap());
    let principal = |token: &str| auth.authenticate(token).unwrap().unwrap();
    let hour_ms = 60 * 60_000;
    let first = principal(&token);
    auth.require_recent(&first, &[Factor::Password], hour_ms).unwrap();
    let refused =
        |who: &Principal, factors: &[Factor], age_ms| auth.require_recent(who, factors, age_ms).unwrap_err().code();
    assert_eq!(refused(&first, &Factor::SECOND, hour_ms), "step_up_required");
    clock.shift_ms(20 * 60_000);
    assert_eq!(refused(&first, &[Factor::Password], 10 * 60_000), "step_up_required");
    assert!(matches!(auth.step_up(&token, Proof::Password(OTHER)).unwrap(), StepUp::Refused));
    let StepUp::Accepted { session, token: next } = auth.step_up(&token, Proof::Password(PASSWORD)).unwrap() else {
        panic!()
    };
    assert!(auth.authenticate(&token).unwrap().is_none(), "the token before");
    assert_eq!(refused(&first, &[Factor::Password], hour_ms), "step_up_required", "its principal too");
    let second = principal(&next);
    auth.require_recent(&second, &[Factor::Password], 0).unwrap();
    assert_eq!(auth.list_sessions(&id).unwrap(), [*session]);

    // A code confirms the enrolment, and the session that began without a factor continues with it.
    let enrolment = auth.enrol_totp(&id).unwrap();
    let code = totp_code(&enrolment.secret, &clock);
    assert!(matches!(auth.step_up(&next, Proof::Code("000000")).unwrap(), StepUp::Refused));
    let StepUp::Accepted { session, token: third } = auth.step_up(&next, Proof::Code(&code)).unwrap() else { panic!() };
    assert!(session.has_second_factor() && session.factors.len() == 2);
    auth.require_recent(&principal(&third), &Factor::SECOND, 0).unwrap();
    assert!(matches!(auth.step_up(&third, Proof::Code(&code)).unwrap(), StepUp::Refused), "used");
    let recovery = Proof::Code(&enrolment.recovery_codes[0]);
    let StepUp::Accepted { token: fourth, .. } = auth.step_up(&third, recovery).unwrap() else { panic!() };
    assert_eq!(refused(&principal(&fourth), &[Factor::Totp], -1), "step_up_required");
    assert!(auth.revoke_session(&id, &auth.list_sessions(&id).unwrap()[0].session_id).unwrap(), "the index has moved");
    assert!(auth.authenticate(&fourth).unwrap().is_none());

    let (_, key) = auth.create_api_key(&id, None).unwrap();
    assert_eq!(refused(&principal(&key), &[Factor::Password], hour_ms), "denied");
    // If the clock goes back, no factor counts as recent.
    let (token, _) = half(&auth);
    clock.shift_ms(STEP_MS);
    let (_, token) = whole(auth.complete_login(&token, &totp_code(&enrolment.secret, &clock)).unwrap());
    clock.shift_ms(-2 * hour_ms);
    assert_eq!(refused(&principal(&token), &[Factor::Password], hour_ms), "step_up_required");
}

#[test]
fn secrets_move_to_a_new_master_key_and_the_trail_tells_all() {
    let (_, clock, auth) = service();
    let id = alice(&auth);
    let enrolment = with_totp(&auth, &clock, &id);
    auth.enrol_totp(&id).unwrap(); // another one is pending
    auth.encryptor().add_key(2, [2; 32]).unwrap();
    assert_eq!(auth.master_key_usage().unwrap().get(&1), Some(&3));
    auth.rotate_master_key().unwrap();
    assert_eq!(auth.master_key_usage().unwrap().into_iter().collect::<Vec<_>>(), [(2, 3)]);
    auth.encryptor().remove_key(1).unwrap();
    let code = totp_code(&enrolment.secret, &clock);
    assert_eq!(auth.verify_second_factor(&id, "000000").unwrap(), FactorCheck::Refused);
    assert_eq!(auth.verify_second_factor(&id, &code).unwrap(), FactorCheck::Accepted(Factor::Totp));
    auth.disable_second_factor(&id).unwrap();
    let of_alice = AuditFilter { user: Some(id.parse().unwrap()), ..AuditFilter::default() };
    let page = auth.find_audit(&of_alice, 0, 100).unwrap();
    let seen: Vec<_> = page.entries.iter().map(|entry| (entry.action, entry.outcome == AuditOutcome::Done)).collect();
    for event in [
        (AuditAction::FactorEnrolled, true),
        (AuditAction::FactorConfirmed, true),
        (AuditAction::FactorVerified, false),
        (AuditAction::FactorVerified, true),
        (AuditAction::FactorDisabled, true),
    ] {
        assert!(seen.contains(&event), "{event:?} in {seen:?}");
    }
}

#[test]
fn codes_and_tokens_outlive_a_rotation_of_the_root() {
    let (_, clock, auth) = service();
    let id = alice(&auth);
    let enrolment = with_totp(&auth, &clock, &id);
    let (_, reset) = auth.issue_password_reset(&id).unwrap();
    auth.encryptor().add_key(2, [2; 32]).unwrap();
    auth.rotate_root().unwrap();
    auth.encryptor().remove_key(1).unwrap();
    let code = totp_code(&enrolment.secret, &clock);
    assert_eq!(auth.verify_second_factor(&id, &code).unwrap(), FactorCheck::Accepted(Factor::Totp));
    assert_eq!(auth.verify_second_factor(&id, &code).unwrap(), FactorCheck::Refused);
    let recovery = auth.verify_second_factor(&id, &enrolment.recovery_codes[0]).unwrap();
    assert_eq!(recovery, FactorCheck::Accepted(Factor::RecoveryCode));
    assert!(auth.reset_password_with(&reset, OTHER).unwrap().is_some());
}

#[test]
fn other_hashes_and_windows_can_be_chosen() {
    let clock = support::clock();
    let mut chosen = options(&clock);
    chosen.totp.algorithm = hightower_auth::TotpAlgorithm::Sha256;
    chosen.totp.window_steps = 0;
    let auth = AuthService::with_options(MemEngine::new(), cheap_hasher(), encryptor(), chosen).unwrap();
    let id = alice(&auth);
    let enrolment = auth.enrol_totp(&id).unwrap();
    assert!(enrolment.uri.ends_with("&algorithm=SHA256&digits=6&period=30"));
    let code = |at_ms: i64| {
        let secret = totp_rs::Secret::try_from_base32(&*enrolment.secret).unwrap();
        let builder = totp_rs::Builder::new().with_algorithm(totp_rs::Algorithm::SHA256).with_secret(secret);
        builder.build().unwrap().generate(u64::try_from(at_ms / 1000).unwrap()).to_string()
    };
    let now_ms = hightower_seams::Clock::now_ms(&*clock);
    assert_eq!(auth.confirm_totp(&id, &code(now_ms - STEP_MS)).unwrap(), FactorCheck::Refused);
    assert_eq!(auth.confirm_totp(&id, &code(now_ms)).unwrap(), FactorCheck::Accepted(Factor::Totp));
    for bad in [
        AuthOptions { totp: hightower_auth::TotpOptions { window_steps: 5, ..Default::default() }, ..options(&clock) },
        AuthOptions {
            token_lifetimes: hightower_auth::TokenLifetimes { login_ms: 0, ..Default::default() },
            ..options(&clock)
        },
    ] {
        let refused = AuthService::with_options(MemEngine::new(), cheap_hasher(), encryptor(), bad).unwrap_err();
        assert_eq!(refused.code(), "validation");
    }
}
