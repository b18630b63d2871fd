//! Facts in the documents equal the constants of the code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use hightower_kv::log::{FORMAT_VERSION, SegmentHeader};
use hightower_kv::segment::MANIFEST_VERSION;
use hightower_kv::{SingleNodeEngine, StoreConfig, limits};

/// A document of the repository with joined lines, so that line breaks do not matter.
fn document(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| line.trim_start_matches("//! ")).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn says(path: &str, fact: &str) {
    assert!(document(path).contains(fact), "{path} should say: {fact}");
}

#[test]
fn format_versions() {
    for path in ["crates/log/README.md", "crates/log/src/lib.rs", "crates/engine/README.md", "crates/engine/src/lib.rs"]
    {
        says(path, &format!("| format | version {FORMAT_VERSION}"));
    }
    assert_eq!(FORMAT_VERSION, MANIFEST_VERSION, "the next two documents give one number for both");
    for path in ["crates/segment/README.md", "crates/segment/src/lib.rs"] {
        says(path, &format!("| format | version {FORMAT_VERSION} of segments and of the manifest"));
    }
    says("crates/kv/README.md", &format!("The files have format version {FORMAT_VERSION}"));
    let format = document("docs/FORMAT.md");
    let (before_table, after) = format.split_once("## Table ").unwrap();
    let (_, after_table) = after.split_once("## Export stream ").unwrap();
    let row = format!("| 8 | u16 | version | {FORMAT_VERSION}");
    let versions = before_table.matches(&row).count() + after_table.matches(&row).count();
    assert_eq!(versions, 3, "segment, manifest and stream have a version each; tables have their own");
    says("docs/FORMAT.md", &format!("| 10 | u16 | header length | {} |", SegmentHeader::LEN));
}

#[test]
fn limits_of_keys_and_values() {
    assert_eq!((limits::MAX_KEY_LEN_BYTES, limits::MAX_VALUE_LEN_BYTES), (65_520, 1 << 30));
    says("crates/engine/README.md", "keys of 1 to 65,520 bytes, values up to 1 GiB, batches up to 65,536 commands");
    says("docs/FORMAT.md", "1 to 65,535, and 0 in a seal");
    says("docs/FORMAT.md", "0 to 2^30");
}

/// The names in backquotes in the table of the index crate's README exist.
#[test]
fn names_of_the_index() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../index/README.md")).unwrap();
    let (_, table) = readme.split_once("## What there is").unwrap();
    let (table, _) = table.split_once("## What it is not").unwrap();
    let table: String = table.lines().filter(|line| line.starts_with('|')).collect();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../index/src");
    let files = fs::read_dir(src).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file());
    let source: String = files.map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut names = 0;
    for (_, quoted) in table.split('`').enumerate().filter(|(number, _)| number % 2 == 1) {
        let name: String = quoted.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect();
        let is_std = ["Arc", "Clone", "Option", "Box"].contains(&name.as_str()) || name.is_empty();
        let is_there = ["fn", "struct", "trait"].iter().any(|kind| {
            let declared = format!("pub {kind} {name}");
            source
                .match_indices(&declared)
                .any(|(at, _)| !source[at + declared.len()..].starts_with(char::is_alphanumeric))
        });
        assert!(
            is_std || is_there || name == "self" || quoted.starts_with('&'),
            "crates/index/README.md names `{quoted}`"
        );
        names += 1;
    }
    assert!(names > 30, "the table was not found");
}

#[test]
fn the_front_page_is_the_readme() {
    assert_eq!(document("README.md"), document("crates/kv/src/front_page.md"), "copy README.md to front_page.md");
}

#[test]
fn the_oldest_compiler() {
    let rust = env!("CARGO_PKG_RUST_VERSION");
    for path in ["README.md", "CONTRIBUTING.md", "crates/engine/README.md"] {
        says(path, &format!("Rust {rust} or newer"));
    }
}

/// The names of the store threads of this process, without the prefix, as soon as `count` of them
/// exist: a thread sets its name after its start.
#[cfg(target_os = "linux")]
fn threads_of_stores(count: usize) -> Vec<String> {
    for _ in 0..1000 {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        let names: Vec<_> = names
            .filter_map(|name| Some(name.trim_end().strip_prefix("hightower-")?.to_owned()))
            // Threads that help to open a store end with the open.
            .filter(|name| name != "open")
            .collect();
        if names.len() == count {
            return names;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("a store should have {count} threads of its own");
}

#[cfg(target_os = "linux")]
#[test]
fn threads_of_a_store() {
    let said = "6 threads of its own (`flush`, `tail`, `pages`, `seal`, `feed`, `compact`)";
    for path in ["crates/kv/README.md", "crates/engine/README.md", "crates/engine/src/lib.rs"] {
        says(path, said);
    }
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path().join("inline"))).unwrap();
    for name in threads_of_stores(6) {
        // The system cuts names to 15 bytes.
        assert!(said.contains(&format!("`{name}")), "{name} is not named in: {said}");
    }
    drop(engine);
    let queued = StoreConfig::at(dir.path().join("queued")).with_commit_queue_depth(3072);
    let engine = SingleNodeEngine::with_config(queued).unwrap();
    assert_eq!(threads_of_stores(7).iter().filter(|name| "commit".starts_with(name.as_str())).count(), 1);
    drop(engine);
}
