//! `cargo xtask peers`: builds the peer benchmarks with all or the requested peers, and runs them.
//!
//! Other builds do not compile the peers: they are behind features of an unpublished crate. RocksDB
//! needs a C++ compiler and libclang. They are checked before the build, because without them it
//! fails late, with an unclear error.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

/// The options of the comparison.
#[derive(Args)]
pub(crate) struct Options {
    /// Peers to compile in, as features of the crate `hightower-peers`: predecessor, fjall, redb,
    /// sled, sled-alpha, rocksdb, lmdb; `none` for the own store alone
    #[arg(long, value_delimiter = ',', default_value = "all-peers")]
    features: Vec<String>,

    /// Options of the benchmarks: see `cargo xtask peers -- --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    rest: Vec<String>,
}

/// Checks the tools of the build, builds, and runs.
pub(crate) fn run(options: &Options) -> Result<()> {
    let features: Vec<&str> =
        options.features.iter().map(String::as_str).filter(|feature| *feature != "none").collect();
    if features.iter().any(|feature| matches!(*feature, "rocksdb" | "all-peers")) {
        check_rocksdb_tools()?;
    }
    if features.contains(&"all-peers") {
        eprintln!("the first build compiles RocksDB and takes minutes; `--features lmdb,fjall` is quick");
    }
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()?).args(["run", "--release", "--package", "hightower-peers"]);
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    let status = command.arg("--").args(&options.rest).status().context("cargo could not be started")?;
    ensure!(status.success(), "the benchmarks ended with {status}");
    Ok(())
}

/// The directory of the workspace, where `target` and `docs` are.
fn workspace() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(own.parent().context("xtask is not in a workspace")?.to_owned())
}

fn check_rocksdb_tools() -> Result<()> {
    let mut missing = Vec::new();
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        missing.push(format!("a C++ compiler (`{compiler}` cannot be started; Debian: apt-get install g++)"));
    }
    if !has_libclang() {
        missing.push(
            "libclang (Debian: apt-get install libclang-dev; elsewhere: set LIBCLANG_PATH to its directory)".into(),
        );
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "RocksDB cannot be built here; missing: {}. To exclude it: --features predecessor,fjall,redb,sled,lmdb",
        missing.join(" and ")
    )
}

/// Whether libclang is in a directory that bindgen searches: `LIBCLANG_PATH`, the one that
/// `llvm-config` names, and the usual ones.
fn has_libclang() -> bool {
    let mut directories: Vec<PathBuf> = env::var_os("LIBCLANG_PATH").into_iter().map(PathBuf::from).collect();
    if let Ok(output) = Command::new("llvm-config").arg("--libdir").output() {
        directories.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    for parent in
        ["/usr/lib", "/usr/local/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
    {
        directories.push(parent.into());
        let llvm =
            entries(Path::new(parent)).filter(|path| name(path).starts_with("llvm")).map(|path| path.join("lib"));
        directories.extend(llvm);
    }
    let is_libclang = |path: PathBuf| name(&path).starts_with("libclang.") || name(&path).starts_with("libclang-1");
    directories.iter().any(|directory| entries(directory).any(is_libclang))
}

/// The entries of a directory; none if it cannot be read.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    directory.read_dir().into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
