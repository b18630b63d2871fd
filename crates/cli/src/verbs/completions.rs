//! `completions`: scripts that let shells complete verbs and options.

use std::io::Write;

use clap::Command;
use clap_complete::Shell;

use crate::failure::{Exit, Failure};

const EXAMPLES: &str = "\
Examples:
  htkvctl completions bash > ~/.local/share/bash-completion/completions/htkvctl
  htkvctl completions zsh > \"${fpath[1]}/_htkvctl\"
  htkvctl completions fish > ~/.config/fish/completions/htkvctl.fish";

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Which shell
    shell: Shell,
}

impl Args {
    /// Prints the script for the command tree `tool`.
    pub(crate) fn run(&self, mut tool: Command) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut tool, "htkvctl", &mut script);
        let mut out = std::io::stdout().lock();
        out.write_all(&script)?;
        out.flush()?;
        Ok(Exit::Done)
    }
}
