//! `htkvctl auth` for operators: its output for people and programs, its exit codes, and that no
//! secret leaks.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::Ended;
use common::desk::{Desk, OTHER, PASSWORD, text};
use serde_json::{Value, json};

#[test]
fn users() {
    let desk = Desk::new();
    let created = desk.json(&["user", "create", "Alice"], PASSWORD);
    let id = text(&created["user_id"]);
    assert!(id.starts_with("usr_") && created["username"] == "Alice" && created["disabled"] == json!(false));
    desk.run(&["user", "create", "ALICE"], PASSWORD).fails(1, "the username is taken");
    desk.run(&["user", "create", "bob"], "short").fails(2, "password");
    desk.run(&["user", "create", "bob"], "").fails(2, "no password was given");
    desk.ok(&["user", "create", "bob"], PASSWORD);
    let list = desk.ok(&["user", "list", "--json"], "");
    assert_eq!(list.lines().count(), 2);
    let first: Value = serde_json::from_str(list.lines().next().unwrap()).unwrap();
    let rest = desk.ok(&["user", "list", "--json", "--after", first["user_id"].as_str().unwrap()], "");
    assert_eq!(rest.lines().collect::<Vec<_>>(), list.lines().skip(1).collect::<Vec<_>>());
    assert_eq!(desk.ok(&["user", "list", "--json", "--limit", "1"], "").lines().count(), 1);
    assert!(desk.ok(&["user", "list"], "").contains("last login"));

    assert_eq!(desk.ok(&["user", "rename", "alice", "carol"], ""), format!("renamed to carol ({id})\n"));
    desk.run(&["user", "rename", "bob", "CAROL"], "").fails(1, "the username is taken");
    assert_eq!(desk.json(&["user", "show", &id], "")["username"], "carol");
    assert_eq!(desk.json(&["user", "show", "Carol"], "")["user_id"], json!(id));
    assert_eq!(desk.json(&["user", "disable", "carol"], "")["disabled"], json!(true));
    assert_eq!(desk.refused(&["password", "verify", "carol"], PASSWORD), json!({ "outcome": "refused" }));
    assert_eq!(desk.json(&["user", "enable", "carol"], "")["disabled"], json!(false));
    desk.ok(&["password", "verify", "carol"], PASSWORD);
    assert_eq!(desk.ok(&["user", "delete", "carol"], ""), format!("deleted carol ({id})\n"));
    for verb in [&["user", "show", "carol"][..], &["user", "delete", &id], &["user", "rename", "carol", "x-y-z"]] {
        desk.run(verb, "").fails(1, "no user has this name or id");
    }
}

#[test]
fn metadata_is_encrypted_and_comes_back_byte_for_byte() {
    let desk = Desk::new();
    let bytes: Vec<u8> = (0..=255).collect();
    let file = desk.tool.write("metadata", [b"find me on disk".as_slice(), &bytes].concat());
    let file = file.to_str().unwrap();
    desk.ok(&["user", "create", "alice", "--metadata", file], PASSWORD);
    assert_eq!(desk.run(&["user", "metadata", "alice", "--raw"], "").out, std::fs::read(file).unwrap());
    assert!(desk.ok(&["user", "metadata", "alice"], "").starts_with("b\"find me on disk\\0\\x01"));
    for (path, bytes) in common::files(&desk.tool.store()) {
        assert!(!bytes.windows(15).any(|window| window == b"find me on disk"), "in the clear in {}", path.display());
    }
    desk.ok(&["user", "metadata", "alice", "--clear"], "");
    desk.run(&["user", "metadata", "alice"], "").fails(1, "has no metadata");
    desk.ok(&["user", "metadata", "alice", "--set", file], "");
    let shown = desk.json(&["key", "create", "alice", "--metadata", file], "");
    let key = text(&shown["key_id"]);
    assert_eq!(desk.run(&["key", "metadata", &key, "--raw"], "").out, std::fs::read(file).unwrap());
    let long = desk.tool.write("long", vec![0; 64 * 1024 + 1]);
    desk.run(&["user", "metadata", "alice", "--set", long.to_str().unwrap()], "").fails(2, "longer than 64 KiB");
}

#[test]
fn passwords() {
    let desk = Desk::with_alice();
    let verify = |password: &str| desk.run(&["password", "verify", "alice"], password).code;
    assert_eq!((verify(PASSWORD), verify(OTHER)), (Some(0), Some(1)));
    let both = format!("{OTHER}\n{PASSWORD}");
    assert_eq!(desk.refused(&["password", "change", "alice"], &both), json!({ "outcome": "refused" }));
    let both = format!("{PASSWORD}\n{OTHER}");
    assert_eq!(desk.json(&["password", "change", "alice"], &both)["outcome"], "changed");
    assert_eq!((verify(PASSWORD), verify(OTHER)), (Some(1), Some(0)));
    assert!(desk.ok(&["password", "reset", "alice"], PASSWORD).contains("all sessions ended"));
    assert_eq!((verify(PASSWORD), verify(OTHER)), (Some(0), Some(1)));
    desk.run(&["password", "reset", "alice"], "alice alice alice").fails(2, "password");
    // The counters of one call hold for the next; an operator clears them.
    let guess = || text(&desk.refused(&["password", "verify", "alice", "--source", "192.0.2.7"], OTHER)["outcome"]);
    // Delays of 1, 2, 4, ... s: also on a slow machine one of these attempts is too early.
    let checked = (0..40).take_while(|_| guess() == "refused").count();
    assert!((5..40).contains(&checked), "{checked}");
    desk.ok(&["user", "unlock", "alice", "--source", "192.0.2.7"], "");
    desk.ok(&["password", "verify", "alice", "--source", "192.0.2.7"], PASSWORD);
    // Unknown users get the same answer; after some guesses all sources are delayed.
    let unknown = desk.run(&["password", "verify", "nobody"], OTHER);
    assert_eq!((unknown.code, &unknown.out[..]), (Some(1), &b"refused: wrong user or password\n"[..]));
}

#[test]
fn sessions() {
    let desk = Desk::with_alice();
    assert_eq!(desk.refused(&["session", "create", "alice"], OTHER), json!({ "outcome": "refused" }));
    let begun = desk.json(&["session", "create", "alice", "--source", "192.0.2.7"], PASSWORD);
    let token = text(&begun["token"]);
    assert!(token.starts_with("hts_") && begun["source"] == "192.0.2.7");
    let found = desk.json(&["session", "check"], &token);
    assert_eq!((&found["session_id"], found.get("token")), (&begun["session_id"], None));
    assert_eq!(desk.refused(&["session", "check"], &token.replace("hts", "htk")), json!({ "outcome": "refused" }));
    let second = text(&desk.json(&["session", "create", "alice"], PASSWORD)["token"]);
    assert_eq!(desk.ok(&["session", "list", "alice", "--json"], "").lines().count(), 2);
    desk.ok(&["session", "revoke", "alice", begun["session_id"].as_str().unwrap()], "");
    desk.run(&["session", "revoke", "alice", begun["session_id"].as_str().unwrap()], "").fails(1, "no session");
    assert_eq!(desk.run(&["session", "check"], &token).code, Some(1));
    desk.ok(&["session", "end"], &second);
    desk.run(&["session", "end"], &second).fails(1, "no session has this token");
    let third = text(&desk.json(&["session", "create", "alice"], PASSWORD)["token"]);
    desk.ok(&["session", "revoke", "alice", "--all"], "");
    assert_eq!(desk.run(&["session", "check"], &third).code, Some(1));
    assert_eq!(desk.ok(&["session", "list", "alice"], ""), "no live sessions\n");
    desk.run(&["session", "revoke", "alice"], "").fails(2, "required");
    assert!(desk.json(&["purge"], "")["sessions"].as_u64() > Some(0));
}

#[test]
fn api_keys() {
    let desk = Desk::with_alice();
    let made = desk.json(&["key", "create", "alice", "--label", "ci", "--expires-in", "90d"], "");
    let (key, token) = (text(&made["key_id"]), text(&made["token"]));
    assert!(token.starts_with(&key) && made["like_owner"] == json!(true));
    let span_ms = made["expires_at_ms"].as_i64().unwrap() - made["created_at_ms"].as_i64().unwrap();
    assert!((span_ms - 90 * 86_400_000).abs() < 60_000, "{span_ms}");
    let works = |token: &str| desk.run(&["key", "authenticate"], token).code == Some(0);
    assert!(works(&token) && !works(&token[..token.len() - 1]) && !works(PASSWORD));
    assert_eq!(desk.json(&["key", "authenticate"], &token)["label"], "ci");
    assert!(!desk.ok(&["key", "show", &key], "").contains(&token));
    let rotated = text(&desk.json(&["key", "rotate", &key, "--overlap", "1h"], "")["token"]);
    assert!(works(&token) && works(&rotated));
    let again = text(&desk.json(&["key", "rotate", &key], "")["token"]);
    assert!(!works(&token) && !works(&rotated) && works(&again));
    desk.ok(&["user", "disable", "alice"], "");
    assert!(!works(&again));
    desk.ok(&["user", "enable", "alice"], "");
    assert!(works(&again));
    assert_eq!(desk.ok(&["key", "list", "alice", "--json"], "").lines().count(), 1);
    assert_eq!(desk.ok(&["key", "revoke", &key], ""), format!("revoked {key}\n"));
    assert!(!works(&again));
    for verb in [&["key", "revoke", &key][..], &["key", "show", &key], &["key", "rotate", &key]] {
        desk.run(verb, "").fails(1, "no API key has this id");
    }
    desk.run(&["key", "create", "alice", "--grant", "fly:all"], "").fails(2, "is not an action");
    desk.run(&["key", "create", "alice", "--role", "nosuch"], "").fails(1, "no role has this name");
    // A whole token is accepted where only its owner sees it.
    let leaked = text(&desk.json(&["key", "create", "alice"], "")["token"]);
    let refused = desk.run(&["key", "revoke", &leaked], "");
    assert!(!refused.err.contains(&leaked), "{}", refused.err);
    refused.fails(2, "a token must not be an argument");
    assert_eq!(desk.ok(&["key", "revoke"], &leaked), format!("revoked {}\n", &leaked[..36]));
    assert!(!works(&leaked));
    desk.run(&["key", "revoke"], &leaked).fails(1, "no API key has this id");
}

#[test]
fn roles_and_what_they_allow() {
    let desk = Desk::with_alice();
    let role = desk.json(&["role", "define", "operator", "read,write:prefix:jobs/", r#"read:key:b"\xff""#], "");
    assert_eq!(role["grants"], json!(["read,write:prefix:jobs/", r#"read:key:b"\xff""#]));
    desk.run(&["role", "grant", "alice", "nobody"], "").fails(1, "no role has this name");
    desk.ok(&["role", "define", "auditor", "read:range:a..f"], "");
    let lead = desk.json(&["role", "define", "lead", "view-users,manage-users:prefix:team-a.", "manage-roles:all"], "");
    assert_eq!(lead["grants"], json!(["view-users,manage-users:prefix:team-a.", "manage-roles:all"]));
    desk.run(&["role", "define", "lead", "read,manage-users:all"], "").fails(2, "not of both");
    desk.ok(&["role", "remove", "lead", "--yes"], "");
    let quota = "read,write,max-keys=1000,max-bytes=64000000:prefix:a/";
    assert_eq!(desk.json(&["role", "define", "tenant", quota, "read:all"], "")["grants"], json!([quota, "read:all"]));
    let shown = desk.ok(&["role", "show", "tenant"], "");
    assert!(shown.contains("max-keys=1000,max-bytes=64000000"), "{shown}");
    desk.ok(&["role", "grant", "alice", "tenant"], "");
    let key = desk.json(&["key", "create", "alice", "--grant", "write,max-keys=7:prefix:a/b/"], "");
    assert!(desk.ok(&["key", "show", &text(&key["key_id"])], "").contains("write,max-keys=7:prefix:a/b/"));
    desk.run(&["role", "define", "tenant", "read,max-keys=7:all"], "").fails(2, "allows write or admin");
    desk.ok(&["role", "revoke", "alice", "tenant"], "");
    desk.ok(&["role", "remove", "tenant", "--yes"], "");
    assert_eq!(desk.json(&["role", "grant", "alice", "operator"], "")["roles"], json!(["operator"]));
    assert_eq!(desk.json(&["role", "grant", "alice", "auditor"], "")["roles"], json!(["auditor", "operator"]));
    let all = text(&desk.json(&["key", "create", "alice"], "")["token"]);
    let few = text(&desk.json(&["key", "create", "alice", "--grant", "read:all", "--role", "auditor"], "")["token"]);
    let allowed = |action: &str, key: &str, token: &str| {
        let ended = desk.run(&["--json", "authorize", action, key], token);
        let outcome = text(&ended.json()["outcome"]);
        assert_eq!(ended.code, Some(i32::from(outcome != "allowed")));
        outcome
    };
    assert_eq!(allowed("write", "jobs/7", &all), "allowed");
    assert_eq!(allowed("write", "jobs/7", &few), "denied");
    assert_eq!(allowed("read", "jobs/7", &few), "allowed");
    assert_eq!(allowed("read", r#"b"\xff""#, &few), "allowed");
    assert_eq!(allowed("admin", "jobs/7", &all), "denied");
    assert_eq!(allowed("read", "motd", &all), "denied");
    assert_eq!(allowed("read", "meta", &all), "denied");
    assert_eq!(allowed("read", "jobs/7", "htk_nothing"), "refused");
    assert_eq!(desk.json(&["role", "revoke", "alice", "operator"], "")["roles"], json!(["auditor"]));
    assert_eq!(allowed("read", "jobs/7", &few), "denied");
    assert_eq!(allowed("read", "config", &all), "allowed");
    desk.ok(&["role", "remove", "auditor"], "");
    assert_eq!(allowed("read", "config", &all), "denied");
    desk.run(&["role", "show", "auditor"], "").fails(1, "no role has this name");
    assert_eq!(desk.ok(&["role", "list"], "").lines().count(), 2);
    // A role is not emptied by mistake without grants; several grants are distinguished.
    desk.ok(&["role", "define", "spaces", "read:prefix:a read:key:b", "write:key:it's"], "");
    let shown = desk.ok(&["role", "show", "spaces"], "");
    assert!(shown.contains(r"'read:prefix:a read:key:b' 'write:key:it'\''s'"), "{shown}");
    desk.run(&["role", "define", "spaces"], "").fails(2, "--nothing");
    assert_eq!(desk.json(&["role", "show", "spaces"], "")["grants"].as_array().unwrap().len(), 2);
    assert_eq!(desk.json(&["role", "define", "spaces", "--nothing"], "")["grants"], json!([]));
    for grant in ["read:everything", "read:range:f..a", "read"] {
        assert_eq!(desk.run(&["role", "define", "bad", grant], "").code, Some(2), "{grant}");
    }
}

#[test]
fn the_master_key_rotates_and_is_looked_after() {
    let desk = Desk::new();
    let file = desk.tool.write("metadata", "data");
    desk.ok(&["user", "create", "alice", "--metadata", file.to_str().unwrap()], PASSWORD);
    let wraps = |n: usize| -> Vec<(Value, Value)> {
        let list = desk.ok(&["--json", "keyring", "list"], "");
        assert_eq!(list.lines().count(), n);
        let keys = list.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        keys.map(|key| (key["current"].clone(), key["wraps"].clone())).collect()
    };
    assert_eq!(wraps(1), [(json!(true), json!(2))]);
    assert_eq!(desk.ok(&["keyring", "generate"], ""), "generated master key 2\n");
    assert_eq!(wraps(2), [(json!(false), json!(2)), (json!(true), json!(0))]);
    desk.run(&["keyring", "remove", "1"], "").fails(1, "still wraps");
    // The error for the current key has a useful hint.
    desk.run(&["keyring", "remove", "2"], "").fails(1, "keyring generate");
    // A mistyped directory, or a store without the service's records, proves nothing about the key.
    let elsewhere = desk.tool.path("mistyped");
    desk.run(&["--data-dir", elsewhere.to_str().unwrap(), "keyring", "remove", "1"], "").fails(2, "--without-store");
    desk.tool.ok(["--data-dir", elsewhere.to_str().unwrap(), "put", "k", "v"]);
    desk.run(&["--data-dir", elsewhere.to_str().unwrap(), "keyring", "remove", "1"], "").fails(2, "--without-store");
    assert_eq!(wraps(2)[0].1, json!(2), "the key is still there");
    assert_eq!(desk.json(&["keyring", "rotate"], "")["rewrapped"], json!(2));
    assert_eq!(desk.json(&["keyring", "rotate"], "")["rewrapped"], json!(0));
    assert_eq!(wraps(2), [(json!(false), json!(0)), (json!(true), json!(2))]);
    desk.ok(&["keyring", "remove", "1"], "");
    assert_eq!(wraps(2), [(json!(false), json!(0)), (json!(true), json!(2))]);
    assert!(desk.ok(&["keyring", "list"], "").contains("retired"));
    desk.ok(&["keyring", "restore", "1"], "");
    assert!(!desk.ok(&["keyring", "list"], "").contains("retired"));
    desk.ok(&["keyring", "remove", "1", "--without-store"], "");
    assert_eq!(desk.json(&["keyring", "prune"], "")["key_ids"], json!([1]));
    desk.run(&["keyring", "restore", "1"], "").fails(1, "no retired master key");
    assert_eq!(wraps(1), [(json!(true), json!(2))]);

    // The root can be replaced only with a newer master key.
    desk.run(&["keyring", "rotate", "--root"], "").fails(1, "add a newer one");
    desk.ok(&["keyring", "generate"], "");
    assert!(desk.json(&["keyring", "rotate", "--root"], "")["rewrapped"].as_u64() > Some(5));
    desk.ok(&["keyring", "remove", "2"], "");
    desk.ok(&["keyring", "prune", "--yes"], "");
    assert_eq!(wraps(1), [(json!(true), json!(2))]);
    assert_eq!(desk.ok(&["user", "metadata", "alice"], ""), "data\n");

    let keys = std::fs::read_to_string(desk.key_file()).unwrap();
    let mut command = desk.tool.command(["auth", "user", "show", "alice"]);
    assert!(command.env("HTKV_MASTER_KEYS", &keys).output().unwrap().status.success());
    let other = format!("2:{}", "ab".repeat(32));
    let output = desk.tool.command(["auth", "user", "list"]).env("HTKV_MASTER_KEYS", &other).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let output = desk.tool.command(["auth", "user", "list"]).env("HTKV_MASTER_KEYS", "1:xyz").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!String::from_utf8(output.stderr).unwrap().contains("xyz"));
    desk.tool.run(["auth", "user", "list"]).fails(2, "no master keys");
    desk.tool.run(["auth", "--key-file", "nowhere", "user", "list"]).fails(2, "keyring generate --key-file nowhere");
}

#[cfg(unix)]
#[test]
fn a_key_file_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::with_alice();
    assert_eq!(std::fs::metadata(desk.key_file()).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(desk.key_file(), std::fs::Permissions::from_mode(0o640)).unwrap();
    desk.run(&["user", "list"], "").fails(2, "chmod 600");
    desk.run(&["keyring", "generate"], "").fails(2, "chmod 600");
}

#[test]
fn the_trail_is_read_verified_and_pruned() {
    let desk = Desk::with_alice();
    assert_eq!(desk.run(&["password", "verify", "alice", "--source", "192.0.2.7"], OTHER).code, Some(1));
    let anchor = text(&desk.json(&["audit", "anchor"], "")["anchor"]);
    desk.ok(&["user", "disable", "alice"], "");
    let list = desk.ok(&["--json", "audit", "list"], "");
    let entries: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = entries.iter().map(|entry| (text(&entry["action"]), text(&entry["outcome"]))).collect();
    let expected = [
        ("store_initialised", "done"),
        ("user_created", "done"),
        ("password_verified", "refused"),
        ("user_disabled", "done"),
    ];
    assert_eq!(seen, expected.map(|(action, outcome)| (action.to_owned(), outcome.to_owned())));
    assert_eq!((&entries[2]["source"], &entries[2]["actor"]), (&json!("192.0.2.7"), &json!("system")));
    let page = desk.ok(&["--json", "audit", "list", "--from", "1", "--limit", "1"], "");
    assert_eq!(page.trim_end(), list.lines().nth(1).unwrap());
    assert_eq!(desk.ok(&["--json", "audit", "list", "--last", "1"], "").trim_end(), list.lines().nth(3).unwrap());
    assert!(desk.ok(&["audit", "list"], "").contains("password_verified  refused"));
    assert_eq!(desk.ok(&["audit", "export"], ""), list, "an export is the list for programs");
    assert_eq!(desk.ok(&["audit", "export", "--within", "1h", "--user", "alice"], "").lines().count(), 3);
    assert_eq!(desk.ok(&["audit", "export", "--until-ms", "1"], ""), "");
    let refused = desk.ok(&["--json", "audit", "list", "--refused", "--last", "5"], "");
    assert!(refused.lines().count() == 1 && refused.contains("password_verified"), "{refused}");
    assert_eq!(
        desk.ok(&["audit", "list", "--action", "user_created", "--json"], "").trim_end(),
        list.lines().nth(1).unwrap()
    );
    desk.run(&["audit", "list", "--action", "user_eaten"], "").fails(2, "no action of the audit trail has this name");
    desk.run(&["audit", "export", "--user", "nobody"], "").fails(1, "no user has this name or id");
    let verdict = desk.json(&["audit", "verify", "--anchor", &anchor], "");
    assert_eq!((&verdict["outcome"], &verdict["entries"]), (&json!("intact"), &json!(4)));
    let other = format!("{}:{}", &anchor[..34], "0".repeat(64));
    assert_eq!(desk.refused(&["audit", "verify", "--anchor", &other], "")["outcome"], "broken");
    desk.run(&["audit", "verify", "--anchor", "7"], "").fails(2, "64 hexadecimal digits");
    // Every verb accepts the anchor.
    desk.ok(&["user", "list", "--anchor", &anchor], "");
    desk.run(&["user", "list", "--anchor", &other], "").fails(1, "does not continue from the anchor");
    desk.run(&["user", "create", "bob", "--anchor", &other], PASSWORD).fails(1, "does not continue from the anchor");
    assert_eq!(desk.json(&["audit", "prune", "--before", "2"], "")["removed"], json!(2));
    assert_eq!(desk.json(&["audit", "verify"], "")["entries"], json!(3));
    assert_eq!(desk.json(&["audit", "prune", "--before", "4"], "")["removed"], json!(2));
    let past = desk.refused(&["audit", "verify", "--anchor", &anchor], "");
    assert_eq!(past, json!({ "outcome": "pruned_past", "first_seq": 4 }));
    let anchor = text(&desk.json(&["audit", "anchor"], "")["anchor"]);
    // The removal of an entry without the service is detected.
    desk.tool.ok(["delete", "--auth-records", r#"b"a/\0\0\0\0\0\0\0\x05""#]);
    let verdict = desk.refused(&["audit", "verify"], "");
    assert_eq!((&verdict["outcome"], &verdict["seq"]), (&json!("broken"), &json!(5)));
    // Erasing all records and starting again is detected only by the anchor.
    std::fs::remove_dir_all(desk.tool.store()).unwrap();
    desk.run(&["user", "create", "alice", "--anchor", &anchor], PASSWORD).fails(1, "does not continue");
    desk.ok(&["user", "create", "alice"], PASSWORD);
    assert_eq!(desk.run(&["audit", "verify"], "").code, Some(0));
    assert_eq!(desk.refused(&["audit", "verify", "--anchor", &anchor], "")["outcome"], "broken");
}

#[test]
fn nothing_secret_is_stored_or_printed() {
    let desk = Desk::with_alice();
    let session = text(&desk.json(&["session", "create", "alice"], PASSWORD)["token"]);
    let key = text(&desk.json(&["key", "create", "alice"], "")["token"]);
    let master = std::fs::read_to_string(desk.key_file()).unwrap();
    let secrets = [PASSWORD, &session[4..68], &key[37..101], &master.trim_end()[2..]];
    for (path, bytes) in common::files(&desk.tool.store()) {
        for secret in secrets {
            assert!(!bytes.windows(secret.len()).any(|at| at == secret.as_bytes()), "a secret in {}", path.display());
        }
    }
    for verb in
        [&["user", "show", "alice"][..], &["session", "list", "alice"], &["key", "list", "alice"], &["audit", "list"]]
    {
        for front in [&[][..], &["--json"]] {
            let printed = desk.ok(&[front, verb].concat(), "");
            assert!(secrets.iter().all(|secret| !printed.contains(secret)), "{printed}");
        }
    }
    // A password cannot be an argument.
    assert_eq!(desk.run(&["user", "create", "bob", PASSWORD], "").code, Some(2));
    assert_eq!(desk.run(&["password", "verify", "alice", "--password", PASSWORD], "").code, Some(2));
}

#[test]
fn reading_makes_and_changes_nothing() {
    let desk = Desk::new();
    let verbs = [&["user", "list"][..], &["user", "delete", "x"], &["role", "list"], &["audit", "verify"], &["purge"]];
    for verb in verbs {
        assert_eq!(desk.run(verb, "").code, Some(3), "{verb:?}");
        assert!(!desk.tool.store().exists(), "{verb:?} has made a store");
    }
    desk.tool.ok(["put", "k", "v"]);
    for verb in verbs {
        desk.run(verb, "").fails(1, "no users, roles or keys yet");
    }
    assert_eq!(desk.tool.ok(["prefix", "", "--count"]), "1\n");
    desk.ok(&["user", "create", "alice"], PASSWORD);
    let key = text(&desk.json(&["key", "create", "alice"], "")["token"]);
    let before = common::files(&desk.tool.store());
    for verb in [&["user", "list"][..], &["key", "authenticate"], &["authorize", "read", "k"], &["audit", "verify"]] {
        assert!(desk.run(verb, &key).code <= Some(1), "{verb:?}");
    }
    assert!(common::files(&desk.tool.store()) == before, "a verb that reads has changed the store");
}

/// Verbs on keys neither show, count nor replace the records of `auth`, except on request.
#[test]
fn plain_verbs_leave_the_services_records_alone() {
    let desk = Desk::with_alice();
    let tool = &desk.tool;
    tool.ok(["put", "jobs/7", "x"]);
    tool.ok(["put", r#"b"\0""#, "first"]);
    for verb in [&["prefix", ""][..], &["scan"], &["scan", "--reverse"], &["prefix", "", "--keys-only"], &["export"]] {
        let shown = tool.ok(verb);
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(!shown.contains("argon2id"), "{shown}");
        let records = tool.ok([verb, &["--auth-records"]].concat());
        assert!(records.contains("argon2id") || verb.contains(&"--keys-only"));
        assert!(!records.contains("jobs/7"), "{records}");
    }
    assert_eq!(tool.ok(["scan", "--count"]), "2\n");
    assert_eq!(tool.ok(["scan", "--limit", "1"]), "b\"\\0\"\tfirst\n");
    assert_eq!(tool.ok(["scan", "--limit", "1", "--reverse", "--keys-only"]), "jobs/7\n");
    tool.run(["get", "meta"]).fails(1, "no value");
    assert!(tool.run(["get", "meta", "--auth-records"]).code == Some(0));
    // A key of a user with the name of a record is another one.
    tool.ok(["put", "meta", "of a user"]);
    tool.ok(["delete", "meta"]);
    assert_eq!(tool.ok(["keyspace", "list"]), "");
    tool.run(["get", "meta", "--keyspace", "$auth"]).fails(1, "no keyspace");
    for dump in [&["dump"][..], &["dump", "--values"], &["--json", "dump", "--values"]] {
        let shown = tool.ok(dump);
        assert!(shown.contains("jobs/7") && !shown.contains("argon2id"), "{shown}");
    }
    assert!(tool.ok(["dump", "--values", "--auth-records"]).contains("argon2id"));

    // An import of another store's accounts does not replace these.
    let other = Desk::new();
    other.ok(&["user", "create", "mallory"], OTHER);
    let file = other.tool.path("dump.tsv");
    other.tool.ok(["export", "--auth-records", "-o", file.to_str().unwrap()]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "it holds hashes");
    }
    tool.ok(["import", file.to_str().unwrap()]);
    desk.ok(&["password", "verify", "alice"], PASSWORD);
    let restored = Desk::new();
    std::fs::copy(other.key_file(), restored.key_file()).unwrap();
    restored.tool.ok(["import", "--auth-records", file.to_str().unwrap()]);
    restored.ok(&["password", "verify", "mallory"], OTHER);

    // A copy, a salvage and a restored backup have the users.
    let (backup, copy, saved) = (tool.path("backup"), tool.path("copy"), tool.path("saved"));
    let [backup, copy, saved] = [&backup, &copy, &saved].map(|path| path.to_str().unwrap());
    tool.ok(["backup", backup]);
    tool.ok(["--data-dir", copy, "restore", backup]);
    tool.ok(["salvage", saved]);
    for store in [copy, saved] {
        desk.ok(&["--data-dir", store, "password", "verify", "alice"], PASSWORD);
    }
}

#[test]
fn calibration_prints_what_the_option_reads() {
    let desk = Desk::new();
    let calibrate =
        |memory_mib: &str| desk.tool.run(["--json", "auth", "calibrate", "--goal", "1ms", "--memory-mib", memory_mib]);
    let params = desk.tool.ok(["auth", "calibrate", "--goal", "1ms", "--memory-mib", "19"]);
    assert_eq!(params, "m=19456,t=2,p=1\n");
    desk.ok(&["--argon2", params.trim_end(), "user", "create", "alice"], PASSWORD);
    assert_eq!(calibrate("64").json()["iterations"], json!(2));
    calibrate("8").fails(2, "19 MiB");
    desk.run(&["--argon2", "m=8,t=1,p=1", "user", "list"], "").fails(2, "weaker");
}

#[test]
fn auth_in_a_shell() {
    let desk = Desk::new();
    let script = format!(
        "auth user create alice\n{PASSWORD}\nput jobs/7 x\nauth role define operator read:prefix:jobs/\n\
         auth role grant alice operator\nauth password verify alice\n{PASSWORD}\nauth user show alice --json\n\
         auth calibrate --source x\n"
    );
    let mut command = desk.tool.command(["shell"]);
    command.env("HTKV_KEY_FILE", desk.key_file());
    let ended = Ended::of_input(command, script.as_bytes());
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains("`auth calibrate` does not use --source"), "{}", ended.err);
    let shown = String::from_utf8(ended.out).unwrap();
    assert!(shown.contains("created alice") && shown.contains("the password is right") && !shown.contains(PASSWORD));
    let user: Value = serde_json::from_str(shown.lines().last().unwrap()).unwrap();
    assert_eq!((&user["username"], &user["roles"]), (&json!("alice"), &json!(["operator"])));
    assert_eq!(desk.tool.ok(["get", "jobs/7"]), "x\n");
    let mut command = desk.tool.command(["shell", "--read-only"]);
    command.env("HTKV_KEY_FILE", desk.key_file());
    Ended::of_input(command, b"auth user list\nauth user disable alice\n").fails(3, "reading only");
}

#[test]
fn pruning_the_trail_comes_to_an_end() {
    let desk = Desk::with_alice();
    let removed = desk.json(&["audit", "prune", "--before", "18446744073709551615"], "");
    assert_eq!(removed, json!({ "removed": 2 }));
    let entries = desk.ok(&["audit", "list", "--json"], "");
    assert!(entries.lines().count() == 1 && entries.contains("audit_pruned"), "{entries}");
    assert_eq!(desk.run(&["audit", "verify"], "").code, Some(0));
}

#[test]
fn lists_of_nothing() {
    let desk = Desk::with_alice();
    desk.run(&["user", "list", "--limit", "0"], "").fails(2, "is not a number from 1 on");
    desk.run(&["audit", "list", "--last", "0"], "").fails(2, "is not a number from 1 on");
    let last = text(&desk.json(&["user", "list"], "")["user_id"]);
    assert_eq!(desk.ok(&["user", "list", "--after", &last], ""), "no more users\n");
}
