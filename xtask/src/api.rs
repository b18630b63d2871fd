//! Checks of the published interface: breaking changes, foreign types in the interface, and builds
//! with any features, with the oldest allowed dependencies and with the oldest named compiler.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command::{Run, has_nightly, install, root};
use crate::published::{Workspace, text};

#[derive(clap::Args, Default)]
pub(crate) struct SemverOptions {
    /// The revision to compare with; without it, the newest tag
    #[arg(long, value_name = "REVISION")]
    baseline: Option<String>,
}

/// Compares the public interfaces with those of an earlier revision; a breaking change needs the
/// matching version. Crates that the revision lacks are listed: they have no promises yet.
pub(crate) fn semver(options: &SemverOptions) -> Result<()> {
    let Some(baseline) = options.baseline.clone().or_else(newest_tag) else {
        println!("SKIPPED semver: there is no tag to compare with (--baseline REVISION names one)");
        return Ok(());
    };
    let known = Run::new("git", &["ls-tree", "-r", "--name-only", &baseline]).lines_quietly()?;
    let workspace = Workspace::read()?;
    let (old, new): (Vec<_>, Vec<_>) =
        workspace.library_manifests().partition(|(_, manifest)| known.iter().any(|name| name == manifest));
    for (name, _) in &new {
        println!("SKIPPED semver of {name}: {baseline} does not have it, so there is nothing to compare with");
    }
    if old.is_empty() {
        return Ok(());
    }
    if let Err(error) = install("semver-checks") {
        println!("SKIPPED semver: {error:#}");
        return Ok(());
    }
    let crates: String = old.iter().map(|(name, _)| format!("-p {name} ")).collect();
    Run::cargo(&format!("semver-checks {crates} --baseline-rev {baseline}")).run()
}

fn newest_tag() -> Option<String> {
    let output = Command::new("git").args(["describe", "--tags", "--abbrev=0"]).current_dir(root()).output().ok()?;
    let name = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| name.trim().to_owned())
}

/// Foreign types in the public interface: their breaking changes are ours, so only those in
/// `[workspace.metadata.public-dependencies]` are allowed. The compiler finds them by its lint for
/// private dependencies.
pub(crate) fn external_types() -> Result<()> {
    if !has_nightly("external-types") {
        return Ok(());
    }
    let workspace = Workspace::read()?;
    let words =
        format!("+nightly check -Zpublic-dependency --all-features --message-format json {}", workspace.selection());
    // The compiler repeats a lint only for recompiled crates.
    let target = root().join("target/external-types");
    if target.exists() {
        fs::remove_dir_all(&target).context("remove the last run's build")?;
    }
    let lines = Run::cargo(&words).with("CARGO_TARGET_DIR", target.display()).lines_quietly()?;
    let found: BTreeSet<(String, String)> = lines.iter().filter_map(|line| exposed(line)).collect();
    let allowed: BTreeSet<(String, String)> = workspace
        .public_dependencies
        .iter()
        .flat_map(|(name, others)| others.iter().map(move |other| (name.clone(), other.clone())))
        .collect();
    for (name, other) in &found {
        println!("{name} shows types of {other}");
    }
    let unexpected: Vec<_> = found.difference(&allowed).map(|(name, other)| format!("{other} in {name}")).collect();
    ensure!(unexpected.is_empty(), "foreign types that the list does not allow: {}", unexpected.join(", "));
    let unused: Vec<_> = allowed.difference(&found).map(|(name, other)| format!("{other} in {name}")).collect();
    ensure!(unused.is_empty(), "allowed, but not used: {}", unused.join(", "));
    Ok(())
}

/// The crate, and the foreign crate whose type or item is in its interface, from a message of the
/// compiler.
fn exposed(line: &str) -> Option<(String, String)> {
    let message: Value = serde_json::from_str(line).ok()?;
    if text(&message["message"]["code"], "code") != "exported_private_dependencies" {
        return None;
    }
    let (_, rest) = text(&message["message"], "message").split_once("private dependency '")?;
    let (other, _) = rest.split_once('\'')?;
    Some((text(&message["target"], "name").replace('_', "-"), other.replace('_', "-")))
}

/// The documentation of the published crates with all features: every public item has one, and no
/// link is broken.
pub(crate) fn documentation() -> Result<()> {
    let crates = Workspace::read()?.selection();
    Run::cargo(&format!("doc --no-deps --all-features --locked {crates}"))
        .with("RUSTDOCFLAGS", "-D warnings -D missing_docs -D rustdoc::broken_intra_doc_links")
        .run()
}

/// Every set of features, each without a warning.
pub(crate) fn features() -> Result<()> {
    install("hack")?;
    let crates = Workspace::read()?.selection();
    Run::cargo(&format!("hack clippy --feature-powerset --locked {crates} -- -D warnings")).run()
}

/// The oldest versions of dependencies that the manifests allow, in a copy of the tree, because
/// they replace `Cargo.lock`. Unpublished crates are excluded: they would need newer ones.
pub(crate) fn minimal_versions() -> Result<()> {
    if !has_nightly("minimal-versions") {
        return Ok(());
    }
    let copy = root().join("target/minimal-versions/tree");
    copy_tree(&copy)?;
    let manifest = copy.join("Cargo.toml");
    let text = fs::read_to_string(&manifest)?;
    let members =
        text.lines().find(|line| line.starts_with("members = ")).context("no list of members in Cargo.toml")?;
    fs::write(&manifest, text.replace(members, r#"members = ["crates/*"]"#))?;
    let crates = Workspace::read()?.selection();
    let build = root().join("target/minimal-versions/build");
    Run::cargo("+nightly update -Zdirect-minimal-versions").within(&copy).run()?;
    Run::cargo(&format!("check --all-features --locked {crates}"))
        .within(&copy)
        .with("CARGO_TARGET_DIR", build.display())
        .run()
}

/// Copies the files that git tracks, with the content of the working tree.
fn copy_tree(to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).context("remove the copy of the last run")?;
    }
    for name in Run::new("git", &["ls-files"]).lines_quietly()? {
        let (from, to) = (root().join(&name), to.join(&name));
        if !from.is_file() {
            continue;
        }
        fs::create_dir_all(to.parent().context("a file without a directory")?)?;
        fs::copy(&from, &to).with_context(|| format!("copy {name}"))?;
    }
    Ok(())
}

/// The oldest compiler, from the manifests.
pub(crate) fn msrv() -> Result<()> {
    let workspace = Workspace::read()?;
    let version = workspace.packages.first().map(|package| text(package, "rust_version")).context("no packages")?;
    let toolchain = if version.matches('.').count() == 1 { format!("{version}.0") } else { version.to_owned() };
    let known = Command::new("rustup").args(["run", &toolchain, "cargo", "--version"]).output();
    if !known.is_ok_and(|output| output.status.success()) {
        println!(
            "SKIPPED msrv: there is no compiler {toolchain} on this machine (rustup toolchain install {toolchain})"
        );
        return Ok(());
    }
    Run::cargo(&format!("+{toolchain} check --all-features --locked {}", workspace.selection()))
        .with("CARGO_TARGET_DIR", "target/msrv")
        .run()
}
