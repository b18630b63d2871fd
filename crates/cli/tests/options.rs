//! Common options and environment variables: shown by verbs that use them, refused by others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::Tool;
use serde_json::json;

#[test]
fn a_verb_shows_and_takes_only_options_that_it_uses() {
    let tool = Tool::new();
    for (verb, options) in [
        (&["demo"][..], &["--data-dir"][..]),
        (&["bench"], &["--data-dir"]),
        (&["completions", "bash"], &["--data-dir", "--json"]),
        (&["man"], &["--data-dir", "--json"]),
        (&["auth", "calibrate"], &["--data-dir", "--key-file", "--pepper-file", "--argon2", "--source"]),
        (&["auth", "keyring", "generate"], &["--data-dir", "--pepper-file", "--argon2", "--source"]),
    ] {
        let help = tool.ok([verb, &["--help"]].concat());
        for option in options {
            assert!(!help.lines().any(|line| line.trim_start().starts_with(option)), "{verb:?} shows {option}");
            let value = match *option {
                "--json" => None,
                "--argon2" => Some("m=19456,t=2,p=1"),
                _ => Some("x"),
            };
            let typed: Vec<&str> = [*option].into_iter().chain(value).collect();
            tool.run([verb, &typed].concat()).fails(2, &format!("does not use {option}"));
            if matches!(*option, "--data-dir" | "--json") {
                tool.run([&typed, verb].concat()).fails(2, &format!("does not use {option}"));
            }
        }
    }
    assert!(!tool.path("x").exists() && !tool.store().exists());
    for verb in [&["get"][..], &["restore"], &["shell"], &["auth", "keyring", "list"], &["auth", "user", "show"]] {
        let help = tool.ok([verb, &["--help"]].concat());
        assert!(help.lines().any(|line| line.trim_start().starts_with("--data-dir <DIR>")), "{verb:?}");
    }
    let page = tool.ok(["man"]);
    assert!(page.contains("data\\-dir"));
    tool.ok(["man", "--dir", "pages"]);
    let bench = std::fs::read_to_string(tool.path("pages/htkvctl-bench.1")).unwrap();
    assert!(bench.contains("value\\-size") && !bench.contains("data\\-dir"));
}

#[test]
fn a_variable_that_is_empty_counts_as_none() {
    let tool = Tool::new();
    let run = |arguments: &[&str]| {
        let mut command = tool.command(arguments);
        let names = ["HTKV_DATA_DIR", "HTKV_KEY_FILE", "HTKV_PEPPER_FILE", "HTKV_ARGON2", "HTKV_MASTER_KEYS"];
        command.envs(names.map(|name| (name, ""))).output().unwrap()
    };
    assert!(run(&["put", "k", "v"]).status.success());
    assert!(tool.path(".hightower").is_dir() && !tool.store().exists());
    assert_eq!(run(&["--data-dir", ".hightower", "get", "k"]).stdout, b"v\n");
    assert_eq!(run(&["--data-dir", "", "get", "k"]).status.code(), Some(2));
    let without_keys = run(&["auth", "user", "list"]);
    assert_eq!(without_keys.status.code(), Some(2));
    assert!(String::from_utf8(without_keys.stderr).unwrap().contains("no master keys: name their file"));
    assert!(run(&["auth", "keyring", "generate", "--key-file", "keys"]).status.success());
    assert!(run(&["auth", "role", "define", "nobody", "--nothing", "--key-file", "keys"]).status.success());
}

#[test]
fn what_changes_something_makes_no_store() {
    let tool = Tool::new();
    tool.ok(["auth", "keyring", "generate", "--key-file", "keys"]);
    for make in [false, true] {
        if make {
            std::fs::create_dir(tool.store()).unwrap();
        }
        for verb in [&["delete", "k"][..], &["compact"], &["auth", "--key-file", "keys", "user", "disable", "x"]] {
            tool.run(verb).fails(3, "contains no store");
            assert!(!make && !tool.store().exists() || make && common::files(&tool.store()).is_empty(), "{verb:?}");
        }
    }
    let error = tool.run(["--json", "delete", "k"]);
    assert!(error.err.contains(r#""kind":"not_found""#) && error.err.contains("--data-dir or HTKV_DATA_DIR"));
}

#[test]
fn reading_a_missing_store_says_how_to_name_one() {
    let tool = Tool::new();
    for verb in
        [&["get", "k"][..], &["stats"], &["check"], &["dump"], &["salvage", "saved"], &["export"], &["backup", "b"]]
    {
        let refused = tool.run(verb);
        assert!(refused.err.contains("contains no store: set --data-dir or HTKV_DATA_DIR"), "{verb:?}");
        refused.fails(3, "contains no store");
    }
    assert!(!tool.store().exists());
}

#[test]
fn a_file_is_refused_as_a_store() {
    let tool = Tool::new();
    tool.write("file", "x");
    for verb in [&["get", "k"][..], &["put", "k", "v"], &["stats"], &["shell"]] {
        tool.run([&["--data-dir", "file"], verb].concat()).fails(2, "file is a file, not the directory of a store");
    }
}

#[test]
fn times_are_numbers_of_one_kind() {
    let tool = Tool::new();
    let imported = tool.run_with_input(["--json", "import", "-"], b"k\tv\n").json();
    let exported = tool.run(["--json", "export", "-o", "out"]).json();
    let compacted = tool.run(["--json", "compact"]).json();
    for answer in [imported, exported, compacted] {
        assert!(answer["elapsed_ms"].is_f64(), "{answer}");
    }
}

#[test]
fn limits_are_checked_before_a_store_is_created() {
    let tool = Tool::new();
    tool.run(["put", &"k".repeat(65_521), "v"]).fails(2, "the key has 65521 bytes: it must have 1 to 65520");
    tool.run(["put", "", "v"]).fails(2, "the key has 0 bytes");
    assert!(!tool.store().exists());
    tool.ok(["put", &"k".repeat(65_520), "v"]);
    assert_eq!(tool.run(["--json", "get", &"k".repeat(65_520)]).json()["value"], json!("v"));
}
