//! Running cargo. Each command is printed first, so that it can be repeated by hand.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A program with its settings.
pub(crate) struct Run {
    program: String,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    folder: PathBuf,
}

impl Run {
    pub(crate) fn new(program: &str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { program: program.to_owned(), arguments, variables: Vec::new(), folder: root() }
    }

    /// `cargo` with these words, separated by spaces.
    pub(crate) fn cargo(words: &str) -> Self {
        Self::new("cargo", &words.split_whitespace().collect::<Vec<_>>())
    }

    /// One more argument.
    pub(crate) fn and(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets the folder, instead of the root of the workspace.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        folder.clone_into(&mut self.folder);
        self
    }

    /// The command as typed text.
    pub(crate) fn text(&self) -> String {
        let variables = self.variables.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
        let words = std::iter::once(&self.program).chain(&self.arguments).map(|word| quoted(word));
        variables.chain(words).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.folder);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the command; a failure is an error with the command.
    pub(crate) fn run(&self) -> Result<()> {
        println!("$ {}", self.text());
        let status = self.command().status().with_context(|| format!("start {}", self.program))?;
        ensure!(status.success(), "failed: {}", self.text());
        Ok(())
    }

    /// As [`run`](Self::run), and returns the printed lines.
    pub(crate) fn lines(&self) -> Result<Vec<String>> {
        println!("$ {}", self.text());
        let mut child =
            self.command().stdout(Stdio::piped()).spawn().with_context(|| format!("start {}", self.program))?;
        let output = child.stdout.take().context("no pipe")?;
        let mut lines = Vec::new();
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            lines.push(line);
        }
        ensure!(child.wait()?.success(), "failed: {}", self.text());
        Ok(lines)
    }

    /// As [`lines`](Self::lines), without printing them.
    pub(crate) fn lines_quietly(&self) -> Result<Vec<String>> {
        let output =
            self.command().stderr(Stdio::inherit()).output().with_context(|| format!("start {}", self.program))?;
        ensure!(output.status.success(), "failed: {}", self.text());
        Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
    }
}

fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=+:,@".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) { word.to_owned() } else { format!("'{word}'") }
}

/// The sum of the numbers before `words` in the lines.
pub(crate) fn sum_before(lines: &[String], words: &str) -> u64 {
    let number = |line: &String| {
        let (before, _) = line.split_once(words)?;
        before.split_whitespace().next_back()?.parse::<u64>().ok()
    };
    lines.iter().filter_map(number).sum()
}

/// Installs `cargo NAME` if it is missing.
pub(crate) fn install(name: &str) -> Result<()> {
    let known = Command::new("cargo").args([name, "--version"]).output().is_ok_and(|output| output.status.success());
    if known {
        return Ok(());
    }
    println!("cargo-{name} is missing: installing it");
    if let Err(error) = Run::cargo(&format!("install cargo-{name} --locked --quiet")).run() {
        bail!("cargo-{name} could not be installed: {error}");
    }
    Ok(())
}

/// Whether a nightly compiler exists; if not, prints a note.
pub(crate) fn has_nightly(what: &str) -> bool {
    let is_there =
        Command::new("cargo").args(["+nightly", "--version"]).output().is_ok_and(|output| output.status.success());
    if !is_there {
        println!("SKIPPED {what}: there is no nightly compiler on this machine (rustup toolchain install nightly)");
    }
    is_there
}

/// Whether nightly has a component, such as `miri`; if not, prints a note.
pub(crate) fn has_component(component: &str, what: &str) -> bool {
    if !has_nightly(what) {
        return false;
    }
    let is_there = is_component_there(component);
    if !is_there {
        println!("SKIPPED {what}: nightly has no {component} (rustup +nightly component add {component})");
    }
    is_there
}

/// Whether nightly has a component.
pub(crate) fn is_component_there(component: &str) -> bool {
    let listed = Command::new("rustup").args(["component", "list", "--toolchain", "nightly", "--installed"]).output();
    listed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).lines().any(|line| line.starts_with(component)))
}

/// Runs named steps in sequence. With `go_on` it continues after a failure, and reports it at the
/// end.
pub(crate) fn steps(steps: &[(&str, &dyn Fn() -> Result<()>)], go_on: bool) -> Result<()> {
    let mut failures = Vec::new();
    let mut times = Vec::new();
    for (name, step) in steps {
        println!("\n== {name}");
        let started = Instant::now();
        let result = step();
        let seconds = started.elapsed().as_secs();
        match result {
            Ok(()) => println!("== {name}: passed in {seconds} s"),
            Err(error) => {
                println!("== {name}: FAILED after {seconds} s: {error:#}");
                failures.push(*name);
                if !go_on {
                    break;
                }
            }
        }
        times.push(format!("{name} {seconds} s"));
    }
    println!("\n{}", times.join(", "));
    ensure!(failures.is_empty(), "failed: {}", failures.join(", "));
    Ok(())
}
