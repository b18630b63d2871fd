//! Import and export: the same bytes return, also after interruptions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use common::{Tool, generated, sorted};
use serde_json::json;

#[test]
fn export_is_the_import_sorted() {
    let tool = Tool::new();
    let text = generated(5000);
    tool.write("in.tsv", &text);
    let imported = tool.run(["--json", "import", "in.tsv"]).json();
    assert_eq!((&imported["records"], &imported["batches"]), (&json!(5000), &json!(5)));
    assert_eq!(imported["bytes_read"], json!(text.len()));
    assert!(tool.run(["export"]).out == sorted(&text), "the export is not the sorted input");
    tool.ok(["export", "-o", "out.tsv"]);
    assert!(std::fs::read(tool.path("out.tsv")).unwrap() == sorted(&text));
    let leftovers = std::fs::read_dir(tool.path("."))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("partial"));
    assert_eq!(leftovers.count(), 0);
}

#[test]
fn every_byte_survives_both_formats() {
    let tool = Tool::new();
    let mut lines = String::new();
    for byte in 0..=255 {
        lines += &format!("b\"key \\x{byte:02x}\"\tb\"\\x{byte:02x} \\xff\\t\"\n");
    }
    tool.write("in.tsv", &lines);
    tool.ok(["import", "in.tsv"]);
    let tsv = tool.run(["export"]).out;
    for name in ["out.jsonl", "out.tsv"] {
        tool.ok(["export", "-o", name]);
        tool.ok(["--data-dir", &format!("copy of {name}"), "import", name]);
        assert!(tool.run(["--data-dir", &format!("copy of {name}"), "export"]).out == tsv, "{name}");
    }
    assert_eq!(tool.run(["--json", "export"]).out, std::fs::read(tool.path("out.jsonl")).unwrap());
    assert_eq!(tool.ok(["export", "--prefix", "key a"]), "key a\tb\"a \\xff\\t\"\n");
    assert_eq!(
        tool.run_with_input(["import", "-", "--format", "jsonl"], &std::fs::read(tool.path("out.jsonl")).unwrap()).code,
        Some(0)
    );
}

#[test]
fn a_byte_order_mark_and_a_last_line_without_end_are_no_part_of_a_record() {
    for (name, text) in [
        ("in.tsv", "\u{feff}a\t1\r\nb\t2\r"),
        ("in.jsonl", "\u{feff}{\"key\":\"a\",\"value\":\"1\"}\r\n{\"key\":\"b\",\"value\":\"2\"}\r"),
    ] {
        let tool = Tool::new();
        tool.write(name, text);
        tool.ok(["import", name]);
        assert_eq!(tool.ok(["export"]), "a\t1\nb\t2\n", "{name}");
    }
    // A key that begins with these bytes survives both formats, also as the first record.
    let tool = Tool::new();
    tool.write("in.tsv", "b\"\\xef\\xbb\\xbf\"\t1\n");
    tool.ok(["import", "in.tsv"]);
    let tsv = tool.run(["export"]).out;
    for name in ["out.tsv", "out.jsonl"] {
        tool.ok(["export", "-o", name]);
        tool.ok(["--data-dir", name.trim_start_matches("out."), "import", name]);
        assert!(tool.run(["--data-dir", name.trim_start_matches("out."), "export"]).out == tsv, "{name}");
    }
}

#[test]
fn a_malformed_line_is_named_and_what_came_before_stays() {
    for (name, good, bad, words) in [
        ("a.tsv", "k1\tv\nk2\tv\n\n", "no tab\n", "a.tsv, line 4: 0 tabs"),
        ("a.tsv", "k1\tv\nk2\tv\n", "k3\tb\"\\q\"\n", "a.tsv, line 3: value:"),
        ("a.tsv", "k1\tv\nk2\tv\n", "\tno key\n", "a.tsv, line 3: the key has 0 bytes"),
        (
            "a.jsonl",
            "{\"key\":\"k1\",\"value\":\"\"}\r\n{\"key\":\"k2\",\"value\":\"\"}\n",
            "{\"key\":1}\n",
            "a.jsonl, line 3: ",
        ),
    ] {
        let tool = Tool::new();
        tool.write(name, format!("{good}{bad}k9\tnever\n"));
        let ended = tool.run(["import", name]);
        assert!(ended.err.contains("imported before it: 2 records"), "{}", ended.err);
        ended.fails(2, words);
        assert_eq!(tool.ok(["prefix", "", "--keys-only"]), "k1\nk2\n");
    }
}

#[test]
fn an_import_completes_a_killed_import() {
    let tool = Tool::new();
    let text = generated(20_000);
    let mut child = start_import(&tool);
    feed(&mut child, &text[..text.len() / 2]);
    child.kill().unwrap();
    child.wait().unwrap();

    let kept = tool.run(["export"]).out;
    let records = kept.split(|byte| *byte == b'\n').count() - 1;
    assert!(
        (1000..20_000).contains(&records) && records.is_multiple_of(1000),
        "{records} records are not a number of whole batches"
    );
    let head: Vec<u8> = text.split_inclusive(|byte| *byte == b'\n').take(records).collect::<Vec<_>>().concat();
    assert!(kept == sorted(&head), "the imported records are not the first {records} lines");

    tool.write("in.tsv", &text);
    tool.ok(["import", "in.tsv"]);
    assert!(tool.run(["export"]).out == sorted(&text), "the second import did not complete the first");
    assert_eq!(tool.run(["check"]).code, Some(0));
}

#[test]
fn a_writer_excludes_other_processes() {
    let tool = Tool::new();
    let mut child = start_import(&tool);
    feed(&mut child, &generated(3000));
    tool.run(["put", "k", "v"]).fails(3, "in use");
    let locked = tool.run(["--json", "delete", "k"]);
    let error: serde_json::Value = serde_json::from_str(&locked.err).unwrap();
    assert_eq!((locked.code, &error["error"]["kind"]), (Some(3), &json!("locked")));
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    tool.ok(["put", "k", "v"]);
    assert_eq!(tool.ok(["prefix", "", "--count"]), "3001\n");
}

#[test]
fn readers_work_beside_a_writer() {
    let tool = Tool::new();
    let text = generated(3000);
    let mut child = start_import(&tool);
    feed(&mut child, &text);
    // The import commits 1,000 records at once.
    let count = || tool.ok(["scan", "--count"]).trim_end().parse::<u64>().unwrap();
    let counts: Vec<u64> = (0..1000).map(|_| count()).take_while(|count| *count < 2000).collect();
    assert!(counts.len() < 1000 && counts.iter().all(|count| count.is_multiple_of(1000)), "{counts:?}");
    let first = tool.ok(["scan", "--limit", "1"]);
    let (key, value) = first.trim_end().split_once('\t').unwrap();
    assert_eq!(tool.ok(["get", key]), format!("{value}\n"));
    assert_eq!(tool.ok(["prefix", key, "--keys-only", "--limit", "1"]), format!("{key}\n"));
    let stats: serde_json::Value = serde_json::from_str(&tool.ok(["stats", "--json"])).unwrap();
    assert!(stats["keys"].as_u64().unwrap() >= 2000, "{stats}");
    tool.run(["put", "k", "v"]).fails(3, "in use");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn ctrl_c_closes_the_store() {
    let tool = Tool::new();
    let mut child = start_import(&tool);
    feed(&mut child, &generated(2500));
    let id = child.id().to_string();
    // Standard input stays open: the tool must not wait for it.
    let _open = child.stdin.take();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let keys: u64 = tool.ok(["prefix", "", "--count"]).trim_end().parse().unwrap();
    assert!((1000..=2000).contains(&keys) && keys.is_multiple_of(1000), "{keys} is no number of whole batches");
    let stats = tool.run(["--json", "stats"]).json();
    assert_eq!(stats["durable_seq"], stats["latest_seq"]);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let tool = Tool::new();
    tool.write("in.tsv", generated(20_000));
    tool.ok(["import", "in.tsv"]);
    for verb in [&["export"][..], &["scan"], &["prefix", "", "--keys-only"], &["--json", "scan", "--reverse"]] {
        let mut child = tool.command(verb).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(first.contains("pkg/"));
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(0), &b""[..]), "{verb:?}");
    }
}

/// `HIGHTOWER_DATA_FILE=packages.tsv cargo test -p htkvctl real_data`: any TSV file of distinct
/// keys and plain text.
#[test]
fn real_data_comes_back() {
    let Some(file) = std::env::var_os("HIGHTOWER_DATA_FILE") else { return };
    let tool = Tool::new();
    let text = std::fs::read(&file).unwrap();
    let imported = tool.run(["--json".as_ref(), "import".as_ref(), file.as_os_str()]).json();
    assert_eq!(imported["records"], json!(text.split(|byte| *byte == b'\n').count() - 1));
    assert!(tool.run(["export"]).out == sorted(&text));
}

fn start_import(tool: &Tool) -> Child {
    let mut command = tool.command(["import", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Writes to its standard input. A pipe holds 64 KiB: when more was written, all but that was read.
fn feed(child: &mut Child, text: &[u8]) {
    child.stdin.as_mut().unwrap().write_all(text).unwrap();
}
