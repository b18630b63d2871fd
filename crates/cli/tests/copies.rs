//! Copies, salvage and raw records of a store: `backup`, `restore`, `salvage`, `dump`.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::collections::BTreeSet;

use common::{Tool, files, generated, sorted};
use serde_json::{Value, json};

/// A store of some size.
fn filled() -> (Tool, Vec<u8>) {
    let tool = Tool::new();
    let text = generated(2000);
    tool.run_with_input(["import", "-"], &text).ok();
    (tool, sorted(&text))
}

#[test]
fn a_backup_brings_everything_back() {
    let (tool, records) = filled();
    let first = tool.run(["--json", "backup", "copy"]).json();
    assert!(first["linked_segments"].as_u64().unwrap() + first["copied_segments"].as_u64().unwrap() > 0, "{first}");
    tool.ok(["put", "later", "x"]);
    let second = tool.run(["--json", "backup", "copy"]).json();
    assert!(second["kept_segments"].as_u64() > Some(0), "{second}");
    assert!(second["copied_bytes"].as_u64() < Some(10_000), "only what is new: {second}");
    assert!(tool.ok(["backup", "copy"]).contains("has all commits up to"));
    assert!(tool.ok(["--data-dir", "copy", "check", "--level", "tables"]).starts_with("no damage"));

    std::fs::rename(tool.store(), tool.path("broken")).unwrap();
    let restored = tool.run(["--json", "restore", "copy"]).json();
    assert_eq!(restored["records"], json!(2001));
    assert_eq!(tool.ok(["get", "later"]), "x\n");
    tool.ok(["delete", "later"]);
    assert!(tool.run(["export"]).out == records);
    tool.run(["restore", "copy"]).fails(3, "not empty");
    tool.run(["--data-dir", "new", "restore", "nothing"]).fails(3, "holds no store");
    assert!(!tool.path("new").exists());
    let other = tool.path("other");
    std::fs::create_dir(&other).unwrap();
    tool.write("other/letter", "dear");
    tool.run(["backup", "other"]).fails(3, "other files");
}

#[test]
fn a_restore_refuses_damage() {
    let (tool, _) = filled();
    tool.ok(["backup", "copy"]);
    damage(&tool, "copy");
    tool.run(["--data-dir", "new", "restore", "copy"]).fails(3, "damaged");
    let left = std::fs::read_dir(tool.path("new")).unwrap();
    assert_eq!(left.count(), 0, "there is no half a store");
}

/// Flips a bit in the middle of the longest segment.
fn damage(tool: &Tool, dir: &str) {
    let all = files(&tool.path(dir)).into_iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "seg"));
    let (path, mut bytes) = all.max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    // A separate file: a backup's file may be a second name of the store's.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn salvage_copies_all_intact_records() {
    let (tool, records) = filled();
    tool.ok(["compact"]);
    assert!(tool.ok(["salvage", "whole"]).starts_with("no damage: 2,000 keys"));
    assert!(tool.run(["--data-dir", "whole", "export"]).out == records);

    damage(&tool, "store");
    let saved = tool.run(["--json", "salvage", "saved"]);
    assert_eq!(saved.code, Some(1), "{}", saved.err);
    let saved = saved.json();
    assert_eq!((saved["keys"].as_u64(), saved["damage"].as_array().unwrap().len()), (Some(1999), 1));
    assert_eq!(saved["damage"], tool.run(["--json", "check"]).json()["damage"]);
    let lines = |text: &[u8]| text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<BTreeSet<_>>();
    let kept = tool.run(["--data-dir", "saved", "export"]).out;
    assert!(lines(&kept).is_subset(&lines(&records)), "salvage returned records that the store never had");
    assert_eq!(tool.run(["--data-dir", "saved", "check"]).code, Some(0));
    tool.run(["salvage", "saved"]).fails(3, "not empty");
}

#[test]
fn dump_shows_overwritten_and_deleted_records() {
    let tool = Tool::new();
    tool.ok(["put", "a", "1"]);
    tool.ok(["put", "a", "22"]);
    tool.ok(["put", "b", "x"]);
    tool.ok(["delete", "a"]);
    let dump = tool.ok(["--json", "dump", "--key", "a", "--values"]);
    let lines: Vec<Value> = dump.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines.iter().map(|line| &line["kind"]).collect::<Vec<_>>(),
        [&json!("set"), &json!("set"), &json!("delete")]
    );
    assert_eq!((&lines[1]["value"], &lines[1]["value_bytes"]), (&json!("22"), &json!(2)));
    assert!(lines.is_sorted_by_key(|line| (line["version"].as_u64(), line["seq"].as_u64())));
    let segment = lines[0]["segment"].to_string();
    let text = tool.ok(["dump", "--segment", &segment]);
    assert_eq!(text.lines().count(), 1, "each writer began a segment of its own: {text}");
    assert!(text.ends_with("set    a\t1 B\n"), "{text}");
    assert_eq!(tool.ok(["dump"]).lines().count(), 4);
    tool.run_with_input(["import", "-"], b"c\t3\nd\t4\ne\t5\nf\t6\n").ok();
    damage(&tool, "store");
    tool.run(["dump"]).fails(1, "1 damaged place");
}

#[test]
fn verbs_that_need_closed_files_fail_in_the_shell() {
    let (tool, _) = filled();
    let shell = tool.run_with_input(["shell"], b"backup copy\ncheck\n");
    assert!(shell.err.contains("leave the shell first"), "{}", shell.err);
    assert!(tool.path("copy").exists());
}

/// A damaged table stops reads that need it, and costs nothing else.
#[test]
fn a_damaged_table_is_named_and_rebuilt() {
    let (tool, records) = filled();
    let files = std::fs::read_dir(tool.store()).unwrap().map(|file| file.unwrap().path());
    let table = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "tbl")).unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    tool.run(["export"]).fails(3, "the next open for writing");
    assert_eq!(tool.run(["check"]).code, Some(0), "the log is whole");
    let checked = tool.ok(["check", "--level", "tables"]);
    assert!(checked.contains("a table cannot be used") && checked.contains("remove the file"), "{checked}");
    assert_eq!(tool.run(["--json", "check", "--level", "tables"]).json()["tables"], json!("useless"));

    std::fs::remove_file(&table).unwrap();
    let stats = tool.run(["stats"]);
    assert!(stats.err.contains("the whole log was read into memory"), "{}", stats.err);
    assert!(String::from_utf8_lossy(&stats.out).contains("damaged table  "));
    let stats = tool.run(["--json", "stats"]).json();
    assert!(stats["table_damage"].as_str().unwrap().contains(".tbl"), "{stats}");
    assert_eq!((&stats["tables"], &stats["keys"]), (&json!(0), &json!(2000)));
    let compacted = tool.run(["compact"]);
    assert!(compacted.err.contains("the tables were rebuilt from the log"), "{}", compacted.err);
    assert!(tool.ok(["check", "--level", "tables"]).contains("the same as the log"));
    assert_eq!(tool.run(["--json", "stats"]).json()["table_damage"], Value::Null);
    assert!(tool.run(["export"]).out == records);
}
