//! Verbs that check every access to memory: Miri (or valgrind, if Miri is missing), and the
//! sanitizers.

use std::process::Command;

use anyhow::Result;

use crate::command::{Run, has_component, has_nightly, is_component_there};

/// The crates that Miri checks, and their tests.
const WATCHED: [(&str, &str); 3] = [
    ("hightower-log", "--lib --tests"),
    ("hightower-index", "--lib --tests"),
    ("hightower-state", "--lib --test model --test history"),
];

/// Tests over maps of real files, which memcheck can run and Miri cannot.
const MAPPED: [(&str, &str); 2] =
    [("hightower-segment", "--test life"), ("hightower-engine", "--test engine --test compaction")];

/// Runs few cases, because Miri is some hundred times slower than the machine.
pub(crate) fn miri() -> Result<()> {
    if !has_component("miri", "miri") {
        return memcheck();
    }
    // The index finds chunks by the addresses of their blocks, and never frees the records of its
    // collector.
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

/// Detects less than Miri: reads of uninitialized memory and accesses outside of allocations, but
/// no violations of the borrowing rules.
fn memcheck() -> Result<()> {
    let is_there = Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        println!("SKIPPED memcheck instead of Miri: valgrind is not on this machine");
        return Ok(());
    }
    println!("running valgrind's memcheck instead of Miri");
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

/// The crate among them that orders its threads only by its own atomics.
const ALONE: &str = "hightower-index";

pub(crate) fn sanitize() -> Result<()> {
    if !has_nightly("sanitize") {
        return Ok(());
    }
    // Without its source, std stays prebuilt: its accesses are not instrumented, and false reports
    // of the thread sanitizer about it are suppressed.
    let builds_std = is_component_there("rust-src");
    if !builds_std {
        println!(
            "nightly has no rust-src: the standard library is not instrumented (rustup +nightly component add rust-src)"
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
                    "SKIPPED the thread sanitizer on {package}: it does not see the ordering by Arc, OnceLock and Mutex of a standard library that is not instrumented"
                );
                continue;
            }
            Run::cargo(&format!("+nightly test --release {how} --target {target} -p {package} {tests}"))
                .with("RUSTFLAGS", format!("-Zsanitizer={sanitizer}{flags}"))
                .with("CARGO_TARGET_DIR", format!("target/sanitize-{sanitizer}"))
                .with("TSAN_OPTIONS", format!("suppressions={}", suppressions.display()))
                // Garbage that waits for an epoch at the end is not a leak.
                .with("ASAN_OPTIONS", "detect_leaks=0")
                .run()?;
        }
    }
    Ok(())
}
