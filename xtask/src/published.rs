//! The published crates of the workspace, from cargo's metadata.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::Run;

/// The metadata of the workspace.
pub(crate) struct Workspace {
    /// The published packages.
    pub(crate) packages: Vec<Value>,
    /// The names of the unpublished packages.
    unpublished: Vec<String>,
    /// The directory of the workspace.
    root: String,
    /// `[workspace.metadata.public-dependencies]`: for each crate, the crates whose types its
    /// public interface may have.
    pub(crate) public_dependencies: BTreeMap<String, Vec<String>>,
}

impl Workspace {
    pub(crate) fn read() -> Result<Self> {
        let text = Run::cargo("metadata --no-deps --format-version 1 --locked").lines_quietly()?.concat();
        let mut metadata: Value = serde_json::from_str(&text)?;
        let root = self::text(&metadata, "workspace_root").to_owned();
        let public = metadata["metadata"]["public-dependencies"].take();
        let packages = metadata["packages"].as_array_mut().context("cargo metadata names no packages")?;
        // `publish = false` is an empty list of registries.
        let is_published =
            |package: &Value| package["publish"].as_array().is_none_or(|registries| !registries.is_empty());
        let (packages, others): (Vec<_>, Vec<_>) = std::mem::take(packages).into_iter().partition(is_published);
        let unpublished = others.iter().map(|package| self::text(package, "name").to_owned()).collect();
        Ok(Self { packages, unpublished, root, public_dependencies: serde_json::from_value(public)? })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.packages.iter().filter_map(|package| package["name"].as_str())
    }

    /// The names of the libraries, with the paths of their manifests relative to the root.
    pub(crate) fn library_manifests(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_library =
            |target: &Value| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "lib"));
        let packages = self.packages.iter();
        let libraries =
            packages.filter(move |package| package["targets"].as_array().into_iter().flatten().any(is_library));
        libraries.map(move |package| {
            let manifest = text(package, "manifest_path");
            (text(package, "name"), manifest.strip_prefix(&self.root).unwrap_or(manifest).trim_start_matches('/'))
        })
    }

    /// `--exclude NAME` for each unpublished package.
    pub(crate) fn exclusions(&self) -> String {
        self.unpublished.iter().map(|name| format!("--exclude {name} ")).collect()
    }

    /// `-p NAME` for each published package.
    pub(crate) fn selection(&self) -> String {
        self.names().map(|name| format!("-p {name} ")).collect()
    }
}

/// A text in the metadata of a package; empty if missing.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}
