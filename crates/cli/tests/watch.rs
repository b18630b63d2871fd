//! Ctrl-C: its effect and its message. Until then `stats --every` reads a store that others write
//! to in between.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use common::{Tool, wait_until_it_listens};
use serde_json::Value;

fn watch(tool: &Tool, arguments: &[&str]) -> Child {
    let mut command = tool.command([&["stats", "--every", "20ms"], arguments].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends Ctrl-C, expects this exit code, and returns standard error.
fn interrupt_for(child: Child, code: i32) -> String {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(code), "{err}");
    err
}

/// As [`interrupt_for`], with a clean end.
fn interrupt(child: Child) -> String {
    interrupt_for(child, 0)
}

/// Runs a verb until no read of `stats` conflicts with it.
fn insist(tool: &Tool, arguments: &[&str]) {
    while tool.run(arguments).code == Some(3) {}
    // The lines of `stats` show its effect.
}

#[test]
fn a_line_for_every_look() {
    let tool = Tool::new();
    tool.ok(["put", "k/0", "v"]);
    let mut child = watch(&tool, &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let heading: Vec<String> = lines.next().unwrap().split_whitespace().map(str::to_owned).collect();
    assert_eq!(heading, ["keys", "tombstones", "live", "dead", "disk", "segments", "log/s"]);
    let first = lines.next().unwrap();
    assert_eq!(first.split_whitespace().take(2).collect::<Vec<_>>(), ["1", "0"]);
    assert!(lines.next().unwrap().ends_with(" 0 B"), "nothing was written since");
    insist(&tool, &["put", "k/1", "v"]);
    assert!(lines.any(|line| line.split_whitespace().next() == Some("2")));
    let noise = interrupt(child);
    assert!(noise.lines().all(|line| line.contains("in use")), "{noise}");
    insist(&tool, &["put", "k/2", "v"]);
    assert_eq!(tool.ok(["prefix", "k/", "--count"]), "3\n");
}

#[test]
fn an_object_for_every_look() {
    let tool = Tool::new();
    tool.ok(["put", "k/0", "v"]);
    let mut child = watch(&tool, &["--json"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut keys = || serde_json::from_str::<Value>(&lines.next().unwrap()).unwrap()["keys"].as_u64().unwrap();
    assert_eq!([keys(), keys(), keys()], [1, 1, 1]);
    insist(&tool, &["delete", "k/0"]);
    assert!((0..1000).any(|_| keys() == 0));
    interrupt(child);
}

#[test]
fn no_store_ends_it() {
    Tool::new().run(["stats", "--every", "1s"]).fails(3, "contains no store");
}

/// A verb that does not check for Ctrl-C ends too, with a message; the store is closed.
#[test]
fn a_verb_that_waits_is_interrupted() {
    let tool = Tool::new();
    tool.ok(["put", "k", "v"]);
    for (arguments, said) in [
        (&["put", "k", "--file", "-"][..], "error: interrupted\n"),
        (&["import", "-"], "error: interrupted\n"),
        (&["--json", "import", "-"], "{\"error\":{\"kind\":\"interrupted\",\"message\":\"interrupted\"}}\n"),
    ] {
        let mut command = tool.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        wait_until_it_listens(&child);
        assert_eq!(interrupt_for(child, 130), said, "{arguments:?}");
        drop(input);
        assert_eq!(tool.ok(["get", "k"]), "v\n");
    }
}
