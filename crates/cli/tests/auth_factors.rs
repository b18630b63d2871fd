//! `htkvctl auth` with peppers, second factors and single-use tokens.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::Ended;
use common::desk::{Desk, OTHER, PASSWORD, text};
use serde_json::json;

/// A file readable by its owner only.
fn private(desk: &Desk, name: &str, text: &str) -> String {
    let path = desk.tool.write(name, text);
    #[cfg(unix)]
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn passwords_with_a_pepper() {
    let desk = Desk::new();
    let first = "1:00112233445566778899aabbccddeeff";
    let pepper = private(&desk, "pepper", &format!("# of the service\n{first}\n"));
    let both = private(&desk, "both", &format!("{first}\n2:{}\n", "ab".repeat(32)));
    let second = private(&desk, "second", &format!("2:{}\n", "ab".repeat(32)));
    let wrong = private(&desk, "wrong", "1:ffffffffffffffffffffffffffffffff");
    desk.ok(&["--pepper-file", &pepper, "user", "create", "alice"], PASSWORD);
    let verify = |file: &str| desk.run(&["password", "verify", "alice", "--pepper-file", file], PASSWORD);
    verify(&pepper).ok();
    desk.run(&["password", "verify", "alice"], PASSWORD).fails(3, "the pepper of this password hash");
    assert_eq!(verify(&wrong).code, Some(1));
    // A login moves the password to the newest pepper.
    verify(&second).fails(3, "pepper");
    verify(&both).ok();
    verify(&second).ok();
    let mut by_variable = desk.tool.command(["auth", "password", "verify", "alice"]);
    by_variable.env("HTKV_KEY_FILE", desk.key_file()).env("HTKV_PEPPER_FILE", &second);
    Ended::of_input(by_variable, PASSWORD.as_bytes()).ok();

    let short = private(&desk, "short", "1:0011");
    verify(&short).fails(2, "a pepper has at least 16 bytes");
    verify("nowhere").fails(2, "nowhere");
    let garbage = private(&desk, "garbage", "1:00112233445566778899aabbccddee_my_secret");
    let refused = verify(&garbage);
    assert!(!refused.err.contains("my_secret"), "{}", refused.err);
    refused.fails(2, &format!("{garbage}: a pepper is written id:hex-digits"));
    #[cfg(unix)]
    {
        std::fs::set_permissions(&pepper, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        verify(&pepper).fails(2, &format!("{pepper}: others can read the pepper file"));
    }
}

/// The current one-time password of a secret in base32.
fn totp_code(secret: &str, steps: u64) -> String {
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let secret = totp_rs::Secret::try_from_base32(secret).unwrap();
    totp_rs::Builder::new().with_secret(secret).build().unwrap().generate(now_s + 30 * steps).to_string()
}

#[test]
fn second_factors() {
    let desk = Desk::with_alice();
    let enrolled = desk.json(&["factor", "enrol", "alice"], "");
    let secret = text(&enrolled["secret"]);
    let codes: Vec<String> = enrolled["recovery_codes"].as_array().unwrap().iter().map(text).collect();
    assert!(text(&enrolled["uri"]).starts_with("otpauth://totp/Hightower:alice?secret=") && codes.len() == 10);
    assert_eq!(desk.refused(&["factor", "confirm", "alice"], "000000"), json!({ "outcome": "refused" }));
    assert_eq!(desk.json(&["factor", "confirm", "alice"], &totp_code(&secret, 0))["factor"], "totp");
    let status = desk.json(&["factor", "status", "alice"], "");
    assert_eq!((&status["asked"], &status["recovery_codes_left"]), (&json!(true), &json!(10)));
    desk.run(&["session", "create", "alice"], PASSWORD).fails(2, "no code was given");
    // The window accepts the next code too, so the test does not wait.
    let both = format!("{PASSWORD}\n{}", totp_code(&secret, 1));
    let begun = desk.json(&["session", "create", "alice"], &both);
    assert_eq!((&begun["factors"][0]["factor"], &begun["factors"][1]["factor"]), (&json!("password"), &json!("totp")));
    assert_eq!(desk.refused(&["session", "create", "alice"], &both), json!({ "outcome": "refused" }));
    assert!(desk.ok(&["session", "check"], &text(&begun["token"])).contains("authenticated"));
    assert_eq!(desk.json(&["factor", "verify", "alice"], &codes[0])["factor"], "recovery_code");
    let fresh = desk.ok(&["factor", "codes", "alice"], "");
    assert!(fresh.lines().count() == 10 && !fresh.contains(&codes[1]));
    assert_eq!(desk.refused(&["factor", "verify", "alice"], &codes[1]), json!({ "outcome": "refused" }));
    desk.ok(&["factor", "disable", "alice"], "");
    desk.run(&["factor", "disable", "alice"], "").fails(1, "no second factor");
    assert_eq!(desk.run(&["session", "check"], &text(&begun["token"])).code, Some(1));

    desk.ok(&["factor", "require", "alice"], "");
    assert_eq!(desk.refused(&["session", "create", "alice"], PASSWORD), json!({ "outcome": "factor_required" }));
    desk.ok(&["factor", "require", "alice", "--off"], "");
    desk.ok(&["session", "create", "alice"], PASSWORD);
    assert_eq!(desk.json(&["factor", "policy", "--role", "operator"], "")["roles"], json!(["operator"]));
    assert_eq!(desk.json(&["factor", "policy"], ""), json!({ "everyone": false, "roles": ["operator"] }));
    assert!(desk.ok(&["factor", "policy", "--everyone"], "").contains("all users"));
    assert_eq!(desk.refused(&["session", "create", "alice"], PASSWORD), json!({ "outcome": "factor_required" }));
    desk.ok(&["factor", "policy", "--nobody"], "");
    desk.ok(&["session", "create", "alice"], PASSWORD);
    desk.run(&["factor", "policy", "--nobody", "--everyone"], "").fails(2, "cannot be used with");
}

#[test]
fn single_use_tokens() {
    let desk = Desk::with_alice();
    let issued = desk.json(&["token", "issue", "alice", "--for", "reset"], "");
    let token = text(&issued["token"]);
    assert!(token.starts_with("hto_") && issued["purpose"] == "password_reset");
    let listed = desk.ok(&["token", "list", "alice", "--json"], "");
    assert!(listed.lines().count() == 1 && !listed.contains(&token));
    let with = |token: &str, password: &str| format!("{token}\n{password}");
    desk.run(&["token", "use", "--for", "reset"], &with(&token, "short")).fails(2, "password");
    assert_eq!(
        desk.refused(&["token", "use", "--for", "invitation"], &with(&token, OTHER)),
        json!({ "outcome": "refused" })
    );
    assert!(desk.ok(&["token", "use", "--for", "reset"], &with(&token, OTHER)).contains("all sessions ended"));
    assert_eq!(
        desk.refused(&["token", "use", "--for", "reset"], &with(&token, PASSWORD)),
        json!({ "outcome": "refused" })
    );
    desk.ok(&["password", "verify", "alice"], OTHER);

    let invited = desk.json(&["token", "invite", "bob"], "");
    desk.run(&["token", "invite", "BOB"], "").fails(1, "the username is taken");
    desk.json(&["token", "use", "--for", "invitation"], &with(&text(&invited["token"]), PASSWORD));
    desk.ok(&["password", "verify", "bob"], PASSWORD);

    desk.run(&["token", "issue", "bob", "--for", "verification"], "").fails(2, "--subject");
    let issue = ["token", "issue", "bob", "--for", "verification", "--subject", "bob@example.org"];
    let token = text(&desk.json(&issue, "")["token"]);
    let mine = |address: &str| desk.run(&["token", "use", "--for", "verification", "--subject", address], &token).code;
    assert_eq!(
        [mine("eve@example.org"), mine("bob@example.org"), mine("bob@example.org")],
        [Some(1), Some(0), Some(1)]
    );
    desk.json(&issue, "");
    assert_eq!(desk.json(&["token", "revoke", "bob"], "")["tokens"], json!(1));
    assert_eq!(desk.ok(&["token", "list", "bob"], ""), "no valid tokens\n");
}
