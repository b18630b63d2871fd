//! A person logs in, a program uses an API key, and both see only what their roles allow.
//!
//! Run it with `cargo run -p hightower-auth --example auth_flow`.

use std::error::Error;

use hightower_auth::{
    Action, ApiKeyAccess, ApiKeyOptions, AuditVerdict, AuthorizedEngine, Grant, IntoAuthService, KeyRange, Login,
};
use hightower_engine::{KvEngine, SingleNodeEngine, StoreConfig};

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let engine = SingleNodeEngine::with_config(StoreConfig::at(directory.path()))?;
    // A real program reads its master keys with `KeyFile`; this one's store lives for a moment.
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
