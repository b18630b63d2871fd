//! A person logs in, a program uses an API key, and both can read and write only what their roles
//! allow. Then the person enrols a second factor, forgets the password, and sets a new one by a
//! single-use token.
//!
//! Run it with `cargo run -p hightower-auth --example auth_flow`.

use std::error::Error;

use hightower_auth::{
    Action, ApiKeyAccess, ApiKeyOptions, AuditVerdict, AuthorizedEngine, Clock, Factor, Grant, IntoAuthService,
    KeyRange, Login, ResetRequest, SystemClock,
};
use hightower_engine::{KvEngine, SingleNodeEngine, StoreConfig};
use totp_rs::{Builder, Secret};

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let engine = SingleNodeEngine::with_config(StoreConfig::at(directory.path()))?;
    // A real program reads its master keys with `KeyFile`; the store of this example is temporary.
    let (_engine, auth) = engine.into_argon2_hasher_aes_gcm_auth_service([7; 32]);

    auth.set_role("operator", &[Grant::new([Action::Read, Action::Write], KeyRange::prefix("jobs/"))?])?;
    let alice = auth.create_user("Alice", "violet teapot orbit 9")?;
    auth.set_user_roles(&alice.user_id, &["operator".into()])?;

    let from_office = auth.from_source("192.0.2.7")?;
    let token = match from_office.login("alice", "violet teapot orbit 9")? {
        Login::Accepted { token, .. } => token,
        Login::FactorRequired { .. } => return Err("nobody has a second factor yet".into()),
        Login::Refused => return Err("wrong name or password".into()),
        Login::Delayed { retry_after_ms } => return Err(format!("try again in {retry_after_ms} ms").into()),
    };
    let principal = auth.authenticate(&token)?.ok_or("the session is over")?;
    let hers = AuthorizedEngine::new(&auth, principal);
    hers.put(b"jobs/1", b"queued")?;
    println!(
        "alice wrote a job; reading elsewhere: {:?}",
        hers.get(b"secrets/1").map(|_| ()).map_err(|e| e.to_string())
    );

    let read_only = ApiKeyAccess::Limited {
        roles: Vec::new(),
        grants: vec![Grant::new([Action::Read], KeyRange::prefix("jobs/"))?],
    };
    let options = ApiKeyOptions { label: Some("dashboard"), access: read_only, ..ApiKeyOptions::default() };
    let (key, api_token) = auth.create_api_key_with(&alice.user_id, &options)?;
    let dashboard = AuthorizedEngine::new(&auth, auth.authenticate(&api_token)?.ok_or("the key does not work")?);
    println!("the dashboard sees {} job(s)", dashboard.get_prefix(b"jobs/")?.len());
    println!("and may not write: {}", dashboard.put(b"jobs/1", b"done").is_err());

    auth.revoke_api_key(&key.key_id)?;
    println!("revoked, it sees nothing: {}", dashboard.get(b"jobs/1").is_err());

    // A second factor: the example takes the place of an authenticator app.
    let enrolment = auth.enrol_totp(&alice.user_id)?;
    let app = Builder::new().with_secret(Secret::try_from_base32(enrolment.secret.as_str())?).build()?;
    let now_s = || u64::try_from(SystemClock::new().now_ms() / 1000).unwrap_or(0);
    println!("confirmed: {:?}", auth.confirm_totp(&alice.user_id, &app.generate(now_s()).to_string())?);
    println!("her session without it is over: {}", hers.get(b"jobs/1").is_err());

    // The password is forgotten: a single-use token sets a new one. The second factor stays.
    let reset = match from_office.request_password_reset("alice")? {
        ResetRequest::Issued { token, .. } => token, // a real program sends it by mail
        other => return Err(format!("no reset: {other:?}").into()),
    };
    let is_set = |password| Ok::<_, Box<dyn Error>>(from_office.reset_password_with(&reset, password)?.is_some());
    println!("reset: {}, and again: {}", is_set("four more random words")?, is_set("one more good password")?);

    let half = match from_office.login("alice", "four more random words")? {
        Login::FactorRequired { token, .. } => token,
        other => return Err(format!("no second factor was required: {other:?}").into()),
    };
    println!("an incomplete login grants nothing: {}", auth.authenticate(&half)?.is_none());
    // The code of the next step, which the window allows, because the first one is used.
    let Login::Accepted { session, token, .. } =
        from_office.complete_login(&half, &app.generate(now_s() + 30).to_string())?
    else {
        return Err("the code is wrong".into());
    };
    for used in &session.factors {
        println!("proved by {} at {}", used.factor, used.at_ms);
    }
    let principal = auth.authenticate(&token)?.ok_or("the session is over")?;
    auth.require_recent(&principal, &Factor::SECOND, 60_000)?;

    for entry in auth.audit_entries(0, 100)? {
        println!("{:>3} {:?} {} {:?}", entry.seq, entry.action, entry.target, entry.outcome);
    }
    match auth.verify_audit(None)? {
        AuditVerdict::Intact { entries, .. } => println!("the trail of {entries} entries is intact"),
        AuditVerdict::PrunedPast { first_seq } => println!("the trail begins at entry {first_seq}, behind the anchor"),
        AuditVerdict::Broken { seq, problem } => println!("entry {seq}: {problem}"),
    }
    Ok(())
}
