//! Builds of the workspace's crates with special cfgs: planted bugs, loom's or shuttle's threads.
//!
//! `RUSTFLAGS` would rebuild every dependency for each set of cfgs, which takes longer than
//! building the crates that use them. Cargo can call a wrapper of the compiler for the members of
//! the workspace only, and keeps the results of wrappers of different names apart. That wrapper is
//! this program, under a name with the cfgs: `rustc--mutants--loom`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::command::Run;

const PREFIX: &str = "rustc--";

/// Sets of cfgs, each as the name of the program that adds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cfgs {
    /// The planted bugs. One is active only if the environment names it.
    Mutants,
    /// For the models: loom's atomics instead of the machine's.
    Loom,
    /// For the schedules: shuttle's locks and threads.
    Shuttle,
}

impl Cfgs {
    /// All sets have the planted bugs, so that schedules and planted bugs share a build.
    fn program(self) -> &'static str {
        match self {
            Self::Mutants => "rustc--mutants",
            Self::Loom => "rustc--mutants--loom",
            Self::Shuttle => "rustc--mutants--shuttle",
        }
    }

    /// `cargo` with these words, for crates with these cfgs.
    pub(crate) fn cargo(self, words: &[&str]) -> Result<Run> {
        let this = env::current_exe().context("where is this program")?;
        // Beside the programs that cargo builds, so in the target directory.
        let folder = this.parent().context("a program without a folder")?.join("xtask-cfgs");
        let program = folder.join(self.program()).with_extension(env::consts::EXE_EXTENSION);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        renew(&this, &program).with_context(|| format!("copy this program to {}", program.display()))?;
        Ok(Run::new("cargo", words).with("RUSTC_WORKSPACE_WRAPPER", program.display()))
    }
}

/// Copies only changed files, because cargo queries a changed compiler again.
fn renew(from: &Path, to: &PathBuf) -> Result<()> {
    let is_same = fs::read(to).is_ok_and(|known| fs::read(from).is_ok_and(|wanted| known == wanted));
    if !is_same {
        fs::copy(from, to)?;
    }
    Ok(())
}

/// Runs the compiler with the cfgs in the name of this program, if it has such a name.
pub(crate) fn compile() -> Option<ExitCode> {
    let mut arguments = env::args_os();
    let name = PathBuf::from(arguments.next()?);
    let cfgs = name.file_stem()?.to_str()?.strip_prefix(PREFIX)?.to_owned();
    let mut command = Command::new(arguments.next()?);
    command.args(arguments);
    cfgs.split("--").for_each(|cfg| {
        command.args(["--cfg", cfg]);
    });
    let code = command.status().ok().and_then(|status| u8::try_from(status.code()?).ok());
    Some(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
