//! Runs one catcher with a time limit, in a separate process group.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::catcher::Catcher;
use crate::command::root;

/// For a catcher without a planted bug.
pub(super) const HEALTHY_LIMIT: Duration = Duration::from_secs(600);
/// For the fastest catcher with a planted bug.
pub(super) const LEAST_LIMIT: Duration = Duration::from_secs(60);

/// The time limit of a catcher, from its time without a planted bug.
pub(super) fn limit_after(healthy: Duration) -> Duration {
    LEAST_LIMIT.max(healthy * 10)
}

pub(super) enum TestOutcome {
    Passed,
    /// With the name of the first failed test. A planted bug may also make the program die.
    Failed(String),
    /// It did not end within the time limit.
    Hung,
}

pub(super) fn run(catcher: &Catcher, program: &Path, mutant: Option<&str>, limit: Duration) -> Result<TestOutcome> {
    let output_file = tempfile::NamedTempFile::new()?;
    let mut command = Command::new(program);
    if catcher.package == "xtask" {
        let words = ["hostile", "--seed", "1", "--seconds", "5", "--shrink-seconds", "0", "--kinds", catcher.filter];
        command.args(words);
    } else {
        command.arg(catcher.filter);
    }
    command.envs(catcher.variables.iter().copied()).current_dir(root());
    // Failures by planted bugs are not saved.
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
    command.env_remove("HIGHTOWER_MUTANT").envs(mutant.map(|name| ("HIGHTOWER_MUTANT", name)));
    command.stdin(Stdio::null()).stdout(output_file.reopen()?).stderr(Stdio::null());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    let Some(status) = wait(&mut child, limit)? else {
        kill(&mut child)?;
        return Ok(TestOutcome::Hung);
    };
    let told = std::fs::read(output_file.path())?;
    let told = String::from_utf8_lossy(&told);
    if told.contains("running 0 tests") {
        bail!("{} has no test like {}", catcher.test, catcher.filter);
    }
    if status.success() {
        return Ok(TestOutcome::Passed);
    }
    if mutant.is_none() {
        // Nobody expects it, so whoever reads this needs to know why.
        eprintln!("{told}");
    }
    let failed = told.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    Ok(TestOutcome::Failed(failed.unwrap_or(catcher.filter).to_owned()))
}

/// The exit status of the child, if it ended within the limit. Time in which this process did not
/// run, as on a suspended machine, does not count.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let mut had = Duration::ZERO;
    while had < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let looked = Instant::now();
        sleep(Duration::from_millis(10));
        had += looked.elapsed().min(Duration::from_secs(1));
    }
    Ok(child.try_wait()?)
}

/// Ends the child and all its processes.
fn kill(child: &mut Child) -> Result<()> {
    #[cfg(unix)]
    Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status().context("start kill")?;
    // The group may have had no other process, and may be gone.
    let _ = child.kill();
    child.wait().context("wait for a test that hung")?;
    Ok(())
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use crate::cfgs::Cfgs;

    /// A shell is used as the test program, a script as the test.
    fn outcome(dir: &Path, script: &str, limit: Duration) -> TestOutcome {
        let file = dir.join("test");
        std::fs::write(&file, script).unwrap();
        let filter = Box::leak(file.display().to_string().into_boxed_str());
        let catcher = Catcher { cfgs: Cfgs::Mutants, package: "none", test: "none", filter, variables: &[] };
        run(&catcher, Path::new("/bin/sh"), Some("some"), limit).unwrap()
    }

    #[test]
    fn outcomes_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(outcome(dir.path(), "exit 0", LEAST_LIMIT), TestOutcome::Passed));
        let failed = outcome(dir.path(), "echo 'test a::b ... FAILED'; exit 101", LEAST_LIMIT);
        assert!(matches!(failed, TestOutcome::Failed(name) if name == "a::b"));
        assert!(matches!(outcome(dir.path(), "kill -KILL $$", LEAST_LIMIT), TestOutcome::Failed(_)));
    }

    #[test]
    fn what_hangs_is_ended_with_all_that_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let ticks = dir.path().join("ticks");
        let script = format!("while :; do echo >> {}; sleep 0.02; done & wait", ticks.display());
        assert!(matches!(outcome(dir.path(), &script, Duration::from_secs(1)), TestOutcome::Hung));
        let ticked = || std::fs::metadata(&ticks).unwrap().len();
        let before = ticked();
        sleep(Duration::from_millis(300));
        assert!(before > 1 && ticked() == before, "it goes on");
    }
}
