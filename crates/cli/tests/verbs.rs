//! Every verb for users: its output for people and programs, and its exit code.

mod common;

use common::{Tool, files};
use serde_json::json;

#[test]
fn put_get_delete() {
    let tool = Tool::new();
    assert_eq!(tool.ok(["put", "pods/web-0", "running"]), "put pods/web-0 (7 B)\n");
    assert_eq!(tool.ok(["get", "pods/web-0"]), "running\n");
    assert_eq!(tool.ok(["get", "--raw", "pods/web-0"]), "running");
    tool.run(["get", "pods/web-1"]).fails(1, "pods/web-1 has no value");
    tool.run(["get", ""]).fails(1, "b\"\" has no value");
    assert_eq!(tool.ok(["delete", "pods/web-0"]), "deleted pods/web-0\n");
    tool.run(["get", "pods/web-0"]).fails(1, "has no value");
    tool.run(["delete", "pods/web-0"]).fails(1, "has no value");
    assert_eq!(tool.ok(["put", "empty", ""]), "put empty (0 B)\n");
    assert_eq!(tool.ok(["get", "empty"]), "\n");
}

#[test]
fn counters() {
    let tool = Tool::new();
    assert_eq!(tool.ok(["add", "visits", "41"]), "visits is 41\n");
    assert_eq!(tool.ok(["add", "visits", "-1"]), "visits is 40\n");
    assert_eq!(tool.ok(["get", "visits"]), "40\n");
    let sum = tool.run(["--json", "add", "visits", "2"]).json();
    assert_eq!((&sum["key"], &sum["value"]), (&json!("visits"), &json!(42)));
    assert_eq!(tool.run(["get", "visits", "--json"]).json()["version"], sum["version"]);
    tool.run(["add", "visits", "9223372036854775807"]).fails(1, "adding 9223372036854775807 would exceed 64 bits");
    tool.ok(["put", "name", "Ada"]);
    tool.run(["add", "name", "1"]).fails(1, "the value of the key name is no counter");
    tool.run(["add", "visits", "1.5"]).fails(2, "1.5");
    tool.ok(["keyspace", "create", "a"]);
    assert_eq!(tool.ok(["add", "visits", "1", "--keyspace", "a"]), "visits is 1\n");
    assert_eq!(tool.ok(["get", "visits"]), "42\n");
}

#[test]
fn json_says_the_same() {
    let tool = Tool::new();
    let put = tool.run(["--json", "put", "k", "v"]).json();
    assert_eq!((&put["outcome"], &put["key"]), (&json!("applied"), &json!("k")));
    let get = tool.run(["get", "k", "--json"]).json();
    assert_eq!(get, json!({ "key": "k", "value": "v", "version": put["version"] }));
    let missing = tool.run(["--json", "get", "x"]);
    assert_eq!(missing.code, Some(1));
    let error: serde_json::Value = serde_json::from_str(&missing.err).unwrap();
    assert_eq!(error, json!({ "error": { "kind": "not_found", "message": "x has no value" } }));
    let deleted = tool.run(["--json", "delete", "k"]).json();
    assert_eq!((&deleted["outcome"], deleted["version"].as_u64() > put["version"].as_u64()), (&json!("removed"), true));
}

#[test]
fn conditions() {
    let tool = Tool::new();
    tool.ok(["put", "lock", "me", "--if", "absent"]);
    let rejected = tool.run(["--json", "put", "lock", "you", "--if", "absent"]);
    assert_eq!((rejected.code, rejected.json()["outcome"].clone()), (Some(1), json!("rejected")));
    let version = rejected.json()["found_version"].to_string();
    assert_eq!(tool.ok(["get", "lock"]), "me\n");
    tool.ok(["put", "lock", "you", "--if", &version]);
    assert_eq!(tool.run(["put", "lock", "them", "--if", &version]).code, Some(1));
    assert_eq!(tool.ok(["get", "lock"]), "you\n");
    assert_eq!(tool.run(["put", "nobody", "x", "--if", "present"]).code, Some(1));
    tool.run(["put", "lock", "x", "--if", "perhaps"]).fails(2, "is not a condition");
}

#[test]
fn quotas_of_keyspaces() {
    let tool = Tool::new();
    tool.ok(["keyspace", "create", "a", "--max-keys", "2"]);
    tool.ok(["put", "1", "one", "--keyspace", "a"]);
    tool.ok(["put", "2", "two", "--keyspace", "a"]);
    let listed = || serde_json::from_str::<serde_json::Value>(&tool.ok(["keyspace", "list", "--json"])).unwrap();
    let a = |sync: bool, keys: u64, bytes: u64, max_keys: Option<u64>, max_bytes: Option<u64>| json!({ "name": "a", "id": 16, "sync": sync, "keys": keys, "bytes": bytes, "max_keys": max_keys, "max_bytes": max_bytes });
    assert_eq!(listed(), a(false, 2, 8, Some(2), None));
    tool.run(["put", "3", "", "--keyspace", "a"]).fails(3, "allows 2 keys, and the commit would make it 3");
    assert_eq!(tool.ok(["keyspace", "alter", "a", "--max-keys", "none", "--max-bytes", "9"]), "altered a\n");
    tool.run(["put", "3", "x", "--keyspace", "a"]).fails(3, "allows 9 bytes, and the commit would make it 10");
    tool.ok(["put", "3", "", "--keyspace", "a"]);
    tool.ok(["keyspace", "alter", "a", "--sync", "true"]);
    assert_eq!(listed(), a(true, 3, 9, None, Some(9)));
    tool.ok(["keyspace", "alter", "a", "--sync", "false", "--max-bytes", "none"]);
    assert_eq!(listed(), a(false, 3, 9, None, None));
    tool.run(["keyspace", "alter", "a"]).fails(2, "required");
    tool.run(["keyspace", "alter", "a", "--max-keys", "few"]).fails(2, "a number, or none");
    tool.run(["keyspace", "alter", "b", "--sync", "true"]).fails(1, "there is no keyspace b");
}

#[test]
fn keyspaces() {
    let tool = Tool::new();
    tool.run(["get", "k", "--keyspace", "a"]).fails(3, "contains no store");
    assert_eq!(tool.ok(["keyspace", "create", "a"]), "created a\n");
    tool.run(["keyspace", "create", "a"]).fails(1, "there is a keyspace a already");
    tool.run(["keyspace", "create", "$a"]).fails(2, "reserved");
    tool.run(["put", "k", "v", "--keyspace", "b"]).fails(1, "there is no keyspace b");
    tool.run(["put", "k", "v", "--keyspace", "a", "--auth-records"]).fails(2, "cannot be used with");
    tool.ok(["put", "k", "in a", "--keyspace", "a"]);
    assert_eq!(tool.run(["put", "k", "again", "--keyspace", "a", "--if", "absent"]).code, Some(1));
    tool.ok(["put", "k", "default"]);
    assert_eq!(tool.ok(["get", "k", "--keyspace", "a"]), "in a\n");
    assert_eq!(tool.ok(["get", "k"]), "default\n");
    assert_eq!(tool.ok(["scan", "--keyspace", "a"]), "k\tin a\n");
    assert_eq!(tool.ok(["scan", "--count"]), "1\n");
    let exported = tool.write("a.tsv", tool.ok(["export", "--keyspace", "a"]).as_bytes());
    tool.ok(["keyspace", "create", "b", "--sync"]);
    tool.ok(["import", exported.to_str().unwrap(), "--keyspace", "b"]);
    assert_eq!(tool.ok(["prefix", "", "--keyspace", "b"]), "k\tin a\n");
    assert_eq!(tool.ok(["keyspace", "list"]), "a\nb\n");
    let listed = tool.ok(["keyspace", "list", "--json"]);
    let last: serde_json::Value = serde_json::from_str(listed.lines().last().unwrap()).unwrap();
    let b = json!({ "name": "b", "id": 17, "sync": true, "keys": 1, "bytes": 5, "max_keys": null, "max_bytes": null });
    assert_eq!(last, b);
    assert!(tool.ok(["dump"]).contains("keyspace 17 k"));
    assert_eq!(tool.ok(["keyspace", "rename", "b", "c"]), "renamed b\n");
    assert_eq!(tool.ok(["keyspace", "clear", "a"]), "cleared a\n");
    tool.run(["get", "k", "--keyspace", "a"]).fails(1, "k has no value");
    assert_eq!(tool.ok(["delete", "k", "--keyspace", "c"]), "deleted k\n");
    assert_eq!(tool.ok(["keyspace", "drop", "a"]), "dropped a\n");
    tool.run(["keyspace", "drop", "a"]).fails(1, "there is no keyspace a");
    assert_eq!(tool.ok(["keyspace", "list"]), "c\n");
    assert_eq!(tool.ok(["get", "k"]), "default\n");
}

#[test]
fn any_bytes() {
    let tool = Tool::new();
    let every_byte: Vec<u8> = (0..=255).collect();
    let file = tool.write("bytes", &every_byte);
    tool.ok(["put".as_ref(), r#"b"k\xff""#.as_ref(), "--file".as_ref(), file.as_os_str()]);
    assert_eq!(tool.run(["get", "--raw", r#"b"k\xff""#]).out, every_byte);
    let shown = tool.ok(["get", r#"b"k\xff""#]);
    assert!(shown.starts_with(r#"b"\0\x01"#) && shown.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    tool.ok(["put", "again", shown.trim_end()]);
    assert_eq!(tool.run(["get", "--raw", "again"]).out, every_byte);
    assert!(tool.ok(["--json", "get", r#"b"k\xff""#]).contains(r#""key":{"base64":"a/8="}"#));
    tool.run(["get", r#"b"k"x"#]).fails(2, "something follows the closing quote");
    assert_eq!(tool.run_with_input(["put", "piped", "--file", "-"], b"a\nb\n").code, Some(0));
    assert_eq!(tool.ok(["get", "--raw", "piped"]), "a\nb\n");
}

#[test]
fn lists() {
    let tool = Tool::new();
    assert_eq!(tool.run_with_input(["import", "-"], b"b/2\t2\na/1\t1\nb/1\tx\nc\ty\n").code, Some(0));
    assert_eq!(tool.ok(["prefix", "b/"]), "b/1\tx\nb/2\t2\n");
    assert_eq!(tool.ok(["prefix", "b/", "--keys-only", "--reverse"]), "b/2\nb/1\n");
    assert_eq!(tool.ok(["prefix", "", "--count"]), "4\n");
    assert_eq!(tool.ok(["prefix", "", "--limit", "0"]), "");
    assert_eq!(tool.ok(["prefix", "nothing"]), "");
    assert_eq!(tool.ok(["scan", "--from", "b/1", "--to", "c"]), "b/1\tx\nb/2\t2\n");
    assert_eq!(tool.ok(["scan", "--reverse", "--limit", "2"]), "c\ty\nb/2\t2\n");
    assert_eq!(tool.ok(["scan", "--from", "c", "--to", "a"]), "");
    assert_eq!(tool.ok(["--json", "scan", "--limit", "1"]), "{\"key\":\"a/1\",\"value\":\"1\"}\n");
    assert_eq!(tool.ok(["--json", "prefix", "c", "--keys-only"]), "{\"key\":\"c\"}\n");
    assert_eq!(tool.ok(["--json", "prefix", "b", "--count"]), "{\"count\":2}\n");
}

#[test]
fn numbers() {
    let tool = Tool::new();
    tool.ok(["put", "k", "v"]);
    tool.ok(["put", "k", "w"]);
    let stats = tool.run(["--json", "stats"]).json();
    assert_eq!((&stats["keys"], &stats["latest_seq"]), (&json!(1), &stats["durable_seq"]));
    assert!(stats["latest_seq"].as_u64() >= Some(2));
    assert!(stats["dead_bytes"].as_u64() > Some(0) && stats["poisoned"].is_null());
    assert!(tool.ok(["stats"]).starts_with("keys        1\n"));
    assert!(tool.ok(["segments"]).contains("live records"));
    let check = tool.run(["--json", "check"]).json();
    assert_eq!((&check["level"], &check["records"], &check["damage"]), (&json!("checksums"), &json!(2), &json!([])));
    assert!(tool.ok(["check"]).starts_with("no damage: 2 segments, 2 records, "));
    assert!(tool.ok(["check", "--level", "structure"]).contains("no record read"));
    assert!(tool.ok(["check", "--level", "tables"]).contains("the same as the log"));
    // A merge of the tables tells which records are dead.
    tool.ok(["compact"]);
    let segments = tool.ok(["--json", "segments"]);
    let live: u64 = segments
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["live_records"].as_u64().unwrap())
        .sum();
    assert_eq!(live, 1);
}

#[test]
fn compaction_frees_what_was_overwritten() {
    let tool = Tool::new();
    for round in 0..3 {
        tool.run_with_input(["import", "-"], format!("k\t{round}\nonly {round}\t\n").as_bytes()).ok();
    }
    let report = tool.run(["--json", "compact"]).json();
    assert_eq!(report["moved_records"], json!(2));
    assert!(report["removed_segments"].as_u64() > Some(0));
    assert_eq!(tool.ok(["export"]), "k\t2\nonly 0\t\nonly 1\t\nonly 2\t\n");
    assert_eq!(tool.ok(["compact"]), "nothing to free\n");
    assert_eq!(tool.run(["check"]).code, Some(0));
}

#[test]
fn reading_changes_nothing() {
    let tool = Tool::new();
    tool.ok(["put", "k", "v"]);
    let before = files(&tool.store());
    for verb in
        [&["get", "k"][..], &["scan"], &["prefix", ""], &["export"], &["stats"], &["segments"], &["check"], &["dump"]]
    {
        tool.ok(verb);
    }
    assert!(files(&tool.store()) == before, "a verb that reads has changed the store");
}

#[test]
fn a_missing_store() {
    let tool = Tool::new();
    for verb in [
        &["get", "k"][..],
        &["scan"],
        &["export"],
        &["stats"],
        &["check"],
        &["dump"],
        &["backup", "copy"],
        &["salvage", "copy"],
    ] {
        assert_eq!(tool.run(verb).code, Some(3), "{verb:?}");
        assert!(!tool.store().exists() && !tool.path("copy").exists(), "{verb:?} has made a store");
    }
}

#[test]
fn damage_is_found_and_named() {
    let tool = Tool::new();
    tool.ok(["put", "good", "value"]);
    tool.ok(["put", "bad", "some value to be damaged"]);
    let hit = files(&tool.store()).into_iter().find_map(|(path, mut bytes)| {
        let at = bytes.windows(10).position(|window| window == b"to be dama")?;
        bytes[at] ^= 1;
        Some((path, bytes))
    });
    let (path, bytes) = hit.expect("the value is in a file");
    std::fs::write(&path, bytes).unwrap();
    let check = tool.run(["--json", "check"]);
    assert_eq!(check.code, Some(1), "{}", check.err);
    let damage = check.json()["damage"][0].clone();
    assert_eq!(damage["file"], json!(path.to_str().unwrap()));
    assert!(
        damage["offset"].as_u64() >= Some(64) && damage["message"].as_str().unwrap().contains("checksum"),
        "{damage}"
    );
    let message = damage["message"].as_str().unwrap();
    assert!(!message.contains(path.to_str().unwrap()) && !message.starts_with("offset"), "said twice: {message}");
    let get = tool.run(["get", "bad"]);
    assert_eq!((get.code, get.out.len()), (Some(3), 0), "{}", get.err);
    let dump = tool.run(["--json", "dump"]);
    assert_eq!(dump.code, Some(1));
    let error: serde_json::Value = serde_json::from_str(&dump.err).unwrap();
    assert_eq!(
        error,
        json!({ "error": { "kind": "corrupt", "message": "1 damaged place: `htkvctl check` lists them" } })
    );
}

#[test]
fn a_missing_segment() {
    let tool = Tool::new();
    tool.ok(["put", "k", "v"]);
    assert_eq!(tool.ok(["dump", "--segment", "1"]).lines().count(), 1);
    assert_eq!(tool.ok(["dump", "--segment", "1", "--key", "x"]), "");
    tool.run(["dump", "--segment", "7"]).fails(1, "no record in a segment 7");
}

#[test]
fn wrong_usage() {
    let tool = Tool::new();
    for arguments in [
        &[][..],
        &["no-such-verb"],
        &["put", "k"],
        &["put", "k", "v", "--file", "f"],
        &["put", "", "v"],
        &["get"],
        &["scan", "--limit", "x"],
        &["stats", "--every", "soon"],
        &["import", "no-such-file"],
        &["export", "-o", "no/such/dir/file"],
    ] {
        let ended = tool.run(arguments);
        assert!(
            ended.code == Some(2) || arguments[0] == "export" && ended.code == Some(3),
            "{arguments:?}: {:?}",
            ended.code
        );
        assert!(!ended.err.is_empty());
    }
}

#[test]
fn help_for_people() {
    let tool = Tool::new();
    let help = tool.ok(["--help"]);
    for words in ["First steps", "htkvctl demo", "Exit codes", "HTKV_DATA_DIR", "b\"", "NO_COLOR"] {
        assert!(help.contains(words), "{words}");
    }
    for verb in ["put", "import", "shell", "bench"] {
        assert!(tool.ok(["help", verb]).contains("Examples:"), "{verb}");
    }
    assert!(tool.ok(["completions", "bash"]).contains("_htkvctl"));
    assert!(!tool.ok(["--help"]).contains("demo-writer"));
    assert!(tool.ok(["man"]).contains(".TH htkvctl 1"));
    tool.ok(["man", "--dir", "pages"]);
    assert!(tool.path("pages/htkvctl-auth-user-create.1").exists());
    assert!(tool.path("pages/htkvctl-import.1").exists() && !tool.path("pages/htkvctl-demo-writer.1").exists());
}

#[test]
fn the_shell_runs_lines() {
    let tool = Tool::new();
    let script = b"put pods/web-0 'two words' # comment\n\nget pods/web-0\nprefix pods/ --keys-only\nexit\nget never\n";
    assert_eq!(tool.run_with_input(["shell"], script).ok(), "put pods/web-0 (9 B)\ntwo words\npods/web-0\n");
    assert_eq!(tool.run_with_input(["shell"], b"prefix pods/ --count --json").ok(), "{\"count\":1}\n");
    assert!(tool.run_with_input(["shell"], b"help").ok().contains("VERB [ARGUMENTS]"));
    assert!(tool.run_with_input(["shell"], b"help put").ok().contains("--if <CONDITION>"));
    tool.run_with_input(["shell"], b"get nobody\nput k v\n").fails(1, "nobody has no value");
    tool.run_with_input(["shell"], b"frobnicate\n").fails(2, "frobnicate");
    tool.run_with_input(["shell"], b"put k 'open\n").fails(2, "missing at the end");
    tool.run_with_input(["shell", "--read-only"], b"put k v\n").fails(3, "reading only");
    assert_eq!(tool.run_with_input(["shell"], b"get k\n").code, Some(1));
}

#[test]
fn verbs_of_a_script_read_the_lines_behind_them() {
    let tool = Tool::new();
    let script = b"put a 1\nimport -\nb\t2\nc\t3\n";
    let shown = tool.run_with_input(["shell"], script).ok();
    assert!(shown.starts_with("put a (1 B)\nimported 2 records"), "{shown}");
    assert_eq!(tool.ok(["export"]), "a\t1\nb\t2\nc\t3\n");
    tool.run_with_input(["shell"], b"put d --file -\nall\nof this\n").ok();
    assert_eq!(tool.ok(["get", "d", "--raw"]), "all\nof this\n");
}

#[test]
fn bench_measures_and_cleans_up() {
    let tool = Tool::new();
    let dir = tool.path("bench");
    std::fs::create_dir(&dir).unwrap();
    let arguments = ["--json", "bench", "--keys", "500", "--dir", "bench"];
    let answer = tool.run(arguments).json();
    assert_eq!(answer["is_debug_build"], serde_json::json!(cfg!(debug_assertions)));
    let names: Vec<_> =
        answer["results"].as_array().unwrap().iter().map(|row| row["operation"].as_str().unwrap()).collect();
    assert_eq!(names[0], "put");
    assert_eq!(names.len(), 7);
    // A device that is busy may take seconds for one sync: then there is less than one a second.
    let is_measured =
        |row: &serde_json::Value| row["per_second"].as_u64() > Some(0) || row["operation"] == "put, synced";
    let results = answer["results"].as_array().unwrap();
    assert!(results.iter().all(|row| row["operations"].as_u64() > Some(0) && is_measured(row)), "{results:?}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn demo_loses_nothing_and_leaves_nothing() {
    let tool = Tool::new();
    let scratch = tool.path("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let output = tool.command(["--json", "demo", "--for", "200ms"]).env("TMPDIR", &scratch).output().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!((&answer["lost"], &answer["imported"]["records"]), (&json!(0), &json!(312)));
    assert!(answer["acknowledged"].as_u64() > Some(0) && answer["acknowledged"] == answer["found"]);
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);

    let shown = tool.ok(["demo", "--for", "100ms", "--keep", "kept"]);
    assert!(shown.contains("zone/America/Argentina/Ushuaia") && shown.contains("nothing is lost"), "{shown}");
    assert_eq!(tool.ok(["--data-dir", "kept", "prefix", "zone/", "--count"]), "312\n");
    tool.run(["demo", "--keep", "kept"]).fails(2, "exists already");
}

#[test]
fn wrong_usage_is_an_object_too() {
    let tool = Tool::new();
    for (arguments, words) in [(&["--json", "get"][..], "<KEY>"), (&["put", "k", "--json"], "<VALUE|--file <FILE>>")] {
        let wrong = tool.run(arguments);
        let error: serde_json::Value = serde_json::from_str(&wrong.err).unwrap();
        assert_eq!((wrong.code, &error["error"]["kind"]), (Some(2), &json!("usage")));
        let message = error["error"]["message"].as_str().unwrap();
        assert!(
            message.starts_with("the following required arguments were not provided: ") && message.ends_with(words)
        );
    }
    tool.run(["get"]).fails(2, "Usage: htkvctl get");
    tool.run(["put", "k"]).fails(2, "htkvctl put [OPTIONS] <KEY> <VALUE>");
    assert!(tool.ok(["--json", "--help"]).contains("First steps"));
}
