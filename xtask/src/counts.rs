//! `cargo xtask counts`: instructions and cache lines of the hot paths under callgrind, against a
//! committed baseline.
//!
//! Times on a shared machine are unreliable; these counts are nearly equal in every run, so a
//! change of a few percent is visible. The counted operations are in `benches/counts`, the baseline
//! in `benches/counts/baseline.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::command::{Run, root};

/// The growth of a row at which the gate fails.
const LIMIT_PERCENT: f64 = 3.0;
/// A difference of a few cache lines is noise.
const LINES_NOISE: f64 = 150.0;

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Write the counts of this run as the new baseline; commit it together with the change
    #[arg(long, requires = "because")]
    renew: bool,
    /// The reason of the renewal, which is stored in the file
    #[arg(long, value_name = "REASON", requires = "renew")]
    because: Option<String>,
    /// Also write the rows to this file, as a table in Markdown
    #[arg(long, value_name = "FILE", conflicts_with = "renew")]
    markdown: Option<PathBuf>,
}

/// The simulated first-level caches: 32 KiB, fully associative, with lines of 64 bytes. With sets,
/// as in real caches, the count depends on the addresses that share a set: the length of the
/// directory's name moves the stack, and changed a row by a fifth.
const CACHE: &str = "--callgrind-args=I1=32768,512,64 D1=32768,512,64";

/// The counts of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counts {
    instructions: f64,
    /// Misses of the first-level cache.
    lines: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !has_valgrind() {
        println!("SKIPPED counts: valgrind is missing and could not be installed (apt-get install valgrind)");
        return Ok(());
    }
    let counted = count()?;
    ensure!(!counted.is_empty(), "nothing was counted");
    let compiler = compiler()?;
    if options.renew {
        return renew(&counted, &compiler, options.because.as_deref().unwrap_or_default());
    }
    let text = fs::read_to_string(baseline_path()).context("read the baseline; write one with --renew")?;
    let baseline: Value = serde_json::from_str(&text).context("the baseline is not JSON")?;
    let is_same_compiler = baseline["compiler"] == json!(compiler);
    let dearer = compare(&counted, &baseline["rows"])?;
    if let Some(path) = &options.markdown {
        let text = markdown(&counted, &baseline["rows"], &dearer);
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    if dearer.is_empty() {
        return Ok(());
    }
    if !is_same_compiler {
        println!("NOT JUDGED: the baseline is from {}, this compiler is {compiler}", baseline["compiler"]);
        return Ok(());
    }
    bail!(
        "growth of more than {LIMIT_PERCENT} %: {}; find the cause, or `cargo xtask counts --renew --because REASON`",
        dearer.join(", ")
    )
}

/// Prints each row with its baseline; returns the names of the rows beyond the limit.
fn compare(counted: &BTreeMap<String, Counts>, baseline: &Value) -> Result<Vec<String>> {
    let mut dearer = Vec::new();
    println!("{:<16} {:>14} {:>9} {:>12} {:>9}", "row", "instructions", "change", "cache lines", "change");
    for (name, now) in counted {
        let Some(before) = row_of(&baseline[name]) else { bail!("the baseline has no row {name}: renew it") };
        let (instructions, lines) = (change(before.instructions, now.instructions), change(before.lines, now.lines));
        println!("{name:<16} {:>14} {instructions:>+8.2}% {:>12} {lines:>+8.2}%", now.instructions, now.lines);
        if instructions > LIMIT_PERCENT || (lines > LIMIT_PERCENT && now.lines - before.lines > LINES_NOISE) {
            dearer.push(name.clone());
        }
    }
    let gone: Vec<_> =
        baseline.as_object().into_iter().flatten().filter(|(name, _)| !counted.contains_key(*name)).collect();
    ensure!(gone.is_empty(), "these rows of the baseline were not counted: {gone:?}");
    Ok(dearer)
}

/// The rows as a table for a comment; rows beyond the limit are marked.
fn markdown(counted: &BTreeMap<String, Counts>, baseline: &Value, dearer: &[String]) -> String {
    let mut text = format!(
        "Instructions and cache lines of the hot paths against the baseline; more than {LIMIT_PERCENT} % fails the check.\n\n\
         | row | instructions | change | cache lines | change |\n| --- | ---: | ---: | ---: | ---: |\n"
    );
    for (name, now) in counted {
        let Some(before) = row_of(&baseline[name]) else { continue };
        let (instructions, lines) = (change(before.instructions, now.instructions), change(before.lines, now.lines));
        let label = if dearer.contains(name) { format!("**{name}**") } else { name.clone() };
        let (all, missed) = (now.instructions, now.lines);
        text += &format!("| {label} | {all} | {instructions:+.2} % | {missed} | {lines:+.2} % |\n");
    }
    text
}

fn change(before: f64, now: f64) -> f64 {
    (now / before.max(1.0) - 1.0) * 100.0
}

fn row_of(row: &Value) -> Option<Counts> {
    Some(Counts { instructions: row["instructions"].as_f64()?, lines: row["lines"].as_f64()? })
}

fn renew(counted: &BTreeMap<String, Counts>, compiler: &str, reason: &str) -> Result<()> {
    ensure!(!reason.trim().is_empty(), "--because must have the reason for the new baseline");
    let rows: BTreeMap<_, _> = counted
        .iter()
        .map(|(name, counts)| (name, json!({ "instructions": counts.instructions, "lines": counts.lines })))
        .collect();
    let baseline = json!({ "compiler": compiler, "reason": reason, "rows": rows });
    fs::write(baseline_path(), format!("{baseline:#}\n")).context("write the baseline")
}

fn baseline_path() -> PathBuf {
    root().join("benches/counts/baseline.json")
}

/// Runs the benchmarks and reads their counts.
fn count() -> Result<BTreeMap<String, Counts>> {
    let home = root().join("target/gungraun");
    if home.exists() {
        fs::remove_dir_all(&home).context("remove the counts of an earlier run")?;
    }
    Run::cargo("bench --locked --quiet -p hightower-counts --bench counts -- --save-summary=json")
        .and(CACHE)
        .with("GUNGRAUN_RUNNER", runner()?.display())
        .with("GUNGRAUN_HOME", home.display())
        .lines_quietly()?;
    let rows = home.join("hightower-counts/counts/hot_paths");
    fs::read_dir(&rows)
        .with_context(|| format!("list {}", rows.display()))?
        .map(|row| {
            let row = row?;
            let summary: Value = serde_json::from_slice(&fs::read(row.path().join("summary.json"))?)?;
            let counts = counts_in(&summary).with_context(|| format!("no counts in {}", row.path().display()))?;
            Ok((row.file_name().to_string_lossy().into_owned(), counts))
        })
        .collect()
}

fn counts_in(summary: &Value) -> Option<Counts> {
    let metrics = &summary["profiles"][0]["data"]["parts"][0]["metrics"];
    let metric = |name: &str| {
        let values = &metrics[name]["values"];
        values["new"].as_f64().or_else(|| values.as_f64())
    };
    Some(Counts { instructions: metric("Ir")?, lines: metric("LLhits")? + metric("RamHits")? })
}

/// The program that runs the benchmarks, of the library's version.
fn runner() -> Result<PathBuf> {
    let manifest = include_str!("../../Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("gungraun = \"")?.strip_suffix('"'));
    let version = version.context("the workspace does not name gungraun")?;
    let tools = root().join("target/tools").join(format!("gungraun-runner-{version}"));
    let runner = tools.join("bin/gungraun-runner");
    if !runner.exists() {
        // Without optimization: it only starts valgrind, and is built in a third of the time.
        Run::cargo("install gungraun-runner --locked --quiet --debug --version")
            .and(&format!("={version}"))
            .and("--root")
            .and(&tools.display().to_string())
            .run()?;
    }
    fs::canonicalize(&runner).context("the runner was not installed")
}

/// Whether valgrind is installed, or could be.
fn has_valgrind() -> bool {
    let is_there = || Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
    if is_there() {
        return true;
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return false;
    }
    println!("valgrind is missing: installing it");
    let install = |arguments: &[&str]| Run::new("apt-get", arguments).run();
    let installed = install(&["update", "-qq"]).and_then(|()| install(&["install", "-y", "-qq", "valgrind"]));
    installed.is_ok() && is_there()
}

/// The compiler's version, on which the counts depend.
fn compiler() -> Result<String> {
    let lines = Run::new("rustc", &["--version"]).lines_quietly()?;
    lines.into_iter().next().context("rustc does not print its version")
}

#[cfg(test)]
mod tests {
    use super::{Counts, compare, markdown};
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn a_comment_has_all_rows_and_marks_the_dearer_ones() {
        let baseline =
            json!({ "get": { "instructions": 100, "lines": 10 }, "put": { "instructions": 1000, "lines": 50 } });
        let counted = BTreeMap::from([
            ("get".to_owned(), Counts { instructions: 99.0, lines: 10.0 }),
            ("put".to_owned(), Counts { instructions: 1100.0, lines: 50.0 }),
        ]);
        let text = markdown(&counted, &baseline, &["put".to_owned()]);
        let rows: Vec<&str> = text.lines().skip(4).collect();
        assert_eq!(rows, ["| get | 99 | -1.00 % | 10 | +0.00 % |", "| **put** | 1100 | +10.00 % | 50 | +0.00 % |"]);
    }

    #[test]
    fn a_row_that_is_dearer_is_named_and_a_missing_one_is_an_error() {
        let baseline = json!({ "put": { "instructions": 1000, "lines": 10_000 } });
        let dearer = |instructions, lines| {
            let counted = BTreeMap::from([("put".to_owned(), Counts { instructions, lines })]);
            compare(&counted, &baseline).unwrap()
        };
        assert!(dearer(1029.0, 10_290.0).is_empty());
        assert!(dearer(500.0, 500.0).is_empty());
        assert_eq!(dearer(1031.0, 10_000.0), ["put"]);
        assert_eq!(dearer(1000.0, 10_310.0), ["put"]);
        assert!(compare(&BTreeMap::new(), &baseline).is_err());
        let unknown = BTreeMap::from([("get".to_owned(), Counts { instructions: 1.0, lines: 1.0 })]);
        assert!(compare(&unknown, &baseline).is_err());
    }
}
