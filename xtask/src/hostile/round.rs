//! One round, in a separate process: whatever happens to it, the next round starts fresh.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::mounts;
use super::plan::Plan;

/// A round that takes longer is killed: its own watchdog may have failed.
const ROUND_LIMIT: Duration = Duration::from_secs(180);

/// The environment of a round.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) plan: Plan,
    /// An empty directory, which is removed after the round.
    pub(super) dir: PathBuf,
    pub(super) role: Option<String>,
}

impl Round {
    pub(super) fn store_dir(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub(super) fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// A child of this round, for kills, limits or another directory: the same plan in another
    /// role.
    pub(super) fn child(&self, role: &str) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("hostile-round").arg(self.plan.to_string()).arg(&self.dir).args(["--role", role]);
        command.stdin(Stdio::null());
        Ok(command)
    }
}

/// The outcome of a round.
pub(super) enum Outcome {
    /// Passed, with its figures.
    Passed(Vec<String>),
    /// Failed, with its output.
    Failed(String),
}

/// Runs a round in a child, in an empty directory that is removed afterwards.
pub(super) fn run(plan: &Plan, parent: &Path) -> Result<Outcome> {
    let dir = tempfile::Builder::new().prefix("hostile-").tempdir_in(parent)?;
    let said = dir.path().join("said");
    let root = dir.path().join("round");
    std::fs::create_dir(&root)?;
    // A round may have children of another user.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let output = File::create(&said)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("hostile-round").arg(plan.to_string()).arg(&root);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().context("start a round")?;
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if started.elapsed() >= ROUND_LIMIT {
            break None;
        }
        sleep(Duration::from_millis(5));
    };
    // With all processes that it has started.
    let _killed = Command::new("kill")
        .args(["-KILL", "--", &format!("-{}", child.id())])
        .stderr(Stdio::null())
        .status()
        .context("start kill")?;
    child.wait()?;
    mounts::unmount_below(dir.path())?;
    let text = String::from_utf8_lossy(&std::fs::read(&said)?).into_owned();
    // A round may have removed the permissions.
    if let Err(error) = dir.close() {
        eprintln!("a round has left something behind: {error}");
    }
    Ok(match status {
        Some(status) if status.success() => Outcome::Passed(text.lines().map(str::to_owned).collect()),
        Some(status) => Outcome::Failed(format!("{text}\n{plan}: {status}")),
        None => Outcome::Failed(format!("{text}\n{plan}: no end after {} s", ROUND_LIMIT.as_secs())),
    })
}
