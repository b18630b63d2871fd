//! Verbs that check every access to memory: Miri (or valgrind, if Miri is missing), and the
//! sanitizers.

use std::process::Command;

use anyhow::Result;

use crate::command::{Run, has_component, has_nightly, is_component_there};

/// The crates whose memory Miri watches, and their tests.
const WATCHED: [(&str, &str); 3] = [
    ("hightower-log", "--lib --tests"),
    ("hightower-index", "--lib --tests"),
    ("hightower-state", "--lib --test model --test history"),
];

/// Tests over maps of real files, which memcheck can run and Miri cannot.
const MAPPED: [(&str, &str); 2] =
    [("hightower-segment", "--test life"), ("hightower-engine", "--test engine --test compaction")];

/// Few cases: Miri is some hundred times slower than the machine.
pub(crate) fn miri() -> Result<()> {
    if !has_component("miri", "miri") {
        return memcheck();
    }
    // Chunks of the index are found again from the addresses of their blocks, and records of its
    // collector are never freed.
    let flags = "-Zmiri-tree-borrows -Zmiri-permissive-provenance -Zmiri-disable-isolation -Zmiri-ignore-leaks";
    for (package, targets) in WATCHED {
        Run::cargo(&format!("+nightly miri test -p {package} {targets}"))
            .with("MIRIFLAGS", flags)
            .with("HIGHTOWER_TEST_CASES", 4)
            .with("PROPTEST_CASES", 4)
            .run()?;
    }
    Ok(())
}

/// Sees less than Miri, none of the rules of borrowing above all, but reads of what was never
/// written, and accesses beside what was allocated.
fn memcheck() -> Result<()> {
    let is_there = Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        println!("SKIPPED memcheck in its place: there is no valgrind on this machine");
        return Ok(());
    }
    println!("valgrind's memcheck in its place");
    for (package, targets) in WATCHED.into_iter().chain(MAPPED) {
        Run::cargo(&format!("test --locked --profile proof -p {package} {targets}"))
            .with(
                "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER",
                "valgrind --quiet --error-exitcode=9 --fair-sched=yes",
            )
            .with("HIGHTOWER_TEST_CASES", 20)
            .with("PROPTEST_CASES", 20)
            .run()?;
    }
    Ok(())
}

/// Tests with threads, and tests that map real files.
const CONCURRENT: [(&str, &str); 4] = [
    ("hightower-engine", "--test linearizability --test engine --test compaction --test forgotten --test waits"),
    ("hightower-segment", "--test life"),
    ("hightower-index", "--test threads --test bulk --test model_check"),
    ("hightower-state", "--test threads --test history"),
];

/// The one of them that orders its threads by atomics of its own.
const ALONE: &str = "hightower-index";

pub(crate) fn sanitize() -> Result<()> {
    if !has_nightly("sanitize") {
        return Ok(());
    }
    // Without its source std stays as it was built: what it does by itself is not watched, and
    // suppressed where the thread sanitizer misjudges it.
    let builds_std = is_component_there("rust-src");
    if !builds_std {
        println!(
            "nightly has no rust-src: the standard library is not watched (rustup +nightly component add rust-src)"
        );
    }
    let target = "x86_64-unknown-linux-gnu";
    let how = if builds_std { "-Zbuild-std" } else { "" };
    let flags = if builds_std { "" } else { " -Cunsafe-allow-abi-mismatch=sanitizer" };
    let suppressions = crate::command::root().join("xtask/tsan-suppressions.txt");
    for sanitizer in ["thread", "address"] {
        for (package, tests) in CONCURRENT {
            if sanitizer == "thread" && !builds_std && package != ALONE {
                println!(
                    "SKIPPED the thread sanitizer on {package}: it does not see what Arc, OnceLock and Mutex of an unwatched standard library order"
                );
                continue;
            }
            Run::cargo(&format!("+nightly test --release {how} --target {target} -p {package} {tests}"))
                .with("RUSTFLAGS", format!("-Zsanitizer={sanitizer}{flags}"))
                .with("CARGO_TARGET_DIR", format!("target/sanitize-{sanitizer}"))
                .with("TSAN_OPTIONS", format!("suppressions={}", suppressions.display()))
                // Garbage that no epoch has freed at the end is no leak.
                .with("ASAN_OPTIONS", "detect_leaks=0")
                .run()?;
        }
    }
    Ok(())
}
