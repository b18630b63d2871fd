//! `man`: the manual pages.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::Cli;
use crate::failure::{Exit, Failure};

const EXAMPLES: &str = "\
Examples:
  htkvctl man | man -l -                          read it now
  htkvctl man --dir ~/.local/share/man/man1       one page for the tool and one for each verb";

/// Print the manual page
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Write all pages into this directory instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(&self) -> Result<Exit, Failure> {
        let mut tool = Cli::command();
        tool.build();
        match &self.dir {
            None => {
                let mut out = io::stdout().lock();
                out.write_all(&page(tool)?)?;
                out.flush()?;
            }
            Some(dir) => write_all(&tool, dir).map_err(Failure::file(format!("write pages into {}", dir.display())))?,
        }
        Ok(Exit::Done)
    }
}

fn page(command: Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    Ok(text)
}

fn write_all(tool: &Command, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("htkvctl.1"), page(tool.clone())?)?;
    for verb in tool.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        let name = format!("htkvctl-{}", verb.get_name());
        fs::write(dir.join(format!("{name}.1")), page(verb.clone().name(name.clone()))?)?;
    }
    Ok(())
}
