//! `cargo xtask package`: checks that every crate can be published.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::command::Run;
use crate::published::{Workspace, text};

/// The files that each package must have.
const FILES: [&str; 4] = ["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Include uncommitted changes
    #[arg(long)]
    allow_dirty: bool,
}

impl Options {
    pub(crate) const COMMITTED: Self = Self { allow_dirty: false };
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::read()?;
    let dirty = if options.allow_dirty { "--allow-dirty" } else { "" };
    for package in &workspace.packages {
        let lacking = lacking(package);
        ensure!(lacking.is_empty(), "{}: the manifest lacks {}", text(package, "name"), lacking.join(", "));
        let files =
            Run::cargo(&format!("package --list --quiet -p {} {dirty}", text(package, "name"))).lines_quietly()?;
        for file in FILES {
            ensure!(files.iter().any(|name| name == file), "{}: {file} is not in the package", text(package, "name"));
        }
    }
    // Cargo orders them by their dependencies, and builds each from its package and the packages
    // before it, as a user would.
    Run::cargo(&format!("publish --dry-run --workspace {} {dirty}", workspace.exclusions())).run()?;
    println!("\n{} packages are complete, and build from their content", workspace.packages.len());
    Ok(())
}

/// The missing metadata and files of a package.
fn lacking(package: &Value) -> Vec<String> {
    let texts = ["description", "license", "repository", "readme", "rust_version"];
    let missing = texts.into_iter().filter(|name| text(package, name).is_empty()).map(str::to_owned);
    let lists = ["keywords", "categories"];
    let counts = lists.map(|name| (name, package[name].as_array().map_or(0, Vec::len)));
    let wrong = counts.into_iter().filter(|(_, count)| !(1..=5).contains(count));
    let wrong = wrong.map(|(name, count)| format!("{name} (1 to 5, not {count})"));
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    // A path is not enough for a user. Dependencies only for tests are removed from published
    // manifests.
    let unversioned = dependencies.filter(|dependency| {
        text(dependency, "kind") != "dev" && !text(dependency, "path").is_empty() && text(dependency, "req") == "*"
    });
    let unversioned = unversioned.map(|dependency| format!("the version of {}", text(dependency, "name")));
    missing.chain(wrong).chain(unversioned).collect()
}
