//! Checks of GitHub's workflow files.
//!
//! The workflows call only `cargo xtask`, so that each step can be run by hand. A test parses each
//! of their commands with this program's parser; the step `lints` of the gate runs actionlint on
//! them if it is installed.

use std::process::Command;

use anyhow::Result;

use crate::command::Run;

/// Runs actionlint, or prints a note that it is not installed.
pub(crate) fn lint() -> Result<()> {
    let is_there = Command::new("actionlint").arg("-version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        println!(
            "SKIPPED actionlint: it is not on this machine; a test still checks the commands of .github/workflows"
        );
        return Ok(());
    }
    Run::new("actionlint", &["-color"]).run()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use crate::command::root;
    use crate::{Options, Verb, gate};

    /// The commands of a workflow, once for each value of `matrix.what`.
    fn commands(workflow: &str) -> Result<Vec<String>, String> {
        const MATRIX: &str = "${{ matrix.what }}";
        let mut values: Vec<&str> = Vec::new();
        let mut commands = Vec::new();
        let mut in_matrix = false;
        for line in workflow.lines().map(str::trim) {
            let item = line.strip_prefix("- ").filter(|_| in_matrix);
            in_matrix = line == "what:" || item.is_some();
            values.extend(item);
            let Some(command) = line.strip_prefix("- ").unwrap_or(line).strip_prefix("run:") else { continue };
            let command = command.trim();
            if command.is_empty() || command.starts_with(['|', '>', '"', '\'']) {
                return Err(format!("not a command on one plain line: {line}"));
            }
            if command.contains(MATRIX) {
                commands.extend(values.iter().map(|value| command.replace(MATRIX, value)));
            } else {
                commands.push(command.to_owned());
            }
        }
        Ok(commands)
    }

    /// Checks that this program accepts the command.
    fn check(command: &str) -> Result<(), String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let Some(arguments) = words.strip_prefix(&["cargo", "xtask"]) else {
            return Err(format!("not a call of cargo xtask: {command}"));
        };
        let options = Options::try_parse_from(std::iter::once(&"cargo xtask").chain(arguments))
            .map_err(|error| format!("{command}: {error}"))?;
        match options.verb {
            Verb::Ci(options) => gate::check(&options).map_err(|error| format!("{command}: {error}")),
            _ => Ok(()),
        }
    }

    #[test]
    fn every_workflow_calls_verbs_that_there_are() {
        let mut count = 0;
        for entry in fs::read_dir(root().join(".github/workflows")).unwrap() {
            let path = entry.unwrap().path();
            let commands = commands(&fs::read_to_string(&path).unwrap());
            let commands = commands.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(!commands.is_empty(), "{} runs nothing", path.display());
            for command in commands {
                check(&command).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                count += 1;
            }
        }
        assert!(count > 10, "only {count} commands");
    }

    /// The gate's workflow has every step; `counts` has a separate workflow.
    #[test]
    fn the_workflows_run_every_step_of_the_gate() {
        let read = |name: &str| fs::read_to_string(root().join(".github/workflows").join(name)).unwrap();
        let of_gate = commands(&read("gate.yml")).unwrap();
        for step in gate::names().filter(|name| *name != "counts") {
            let is_run = of_gate.iter().any(|command| command.split_whitespace().any(|word| word == step));
            assert!(is_run, "no workflow runs the step {step}");
        }
        assert!(commands(&read("benchmark.yml")).unwrap().iter().any(|command| command.contains("xtask counts")));
    }

    #[test]
    fn wrong_commands_are_noticed() {
        assert!(check("cargo xtask sim --states 10").is_ok());
        assert!(check("cargo xtask ci tests lints").is_ok());
        for wrong in ["cargo xtask simm", "cargo xtask sim --state 10", "cargo xtask ci test", "cargo test", "echo"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
        let matrix =
            "what:\n  - sim\n  - lin --cases 3\nsteps:\n  - uses: a\n  - run: cargo xtask ${{ matrix.what }}\n";
        assert_eq!(commands(matrix).unwrap(), ["cargo xtask sim", "cargo xtask lin --cases 3"]);
        assert!(commands("- run: |\n    rm -r x").is_err());
    }
}
