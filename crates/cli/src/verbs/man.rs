//! `man`: the manual pages.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Command;
use clap::builder::Resettable;
use clap_mangen::Man;

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
    /// Prints or writes the pages of the command tree `tool`.
    pub(crate) fn run(&self, mut tool: Command) -> Result<Exit, Failure> {
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

/// The page of a command: clap's sections, then the last part of its help, with the layout of its
/// examples.
fn page(command: Command) -> io::Result<Vec<u8>> {
    let guide = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
    let mut page = Vec::new();
    let command = command.after_help(Resettable::Reset).after_long_help(Resettable::Reset);
    Man::new(command).render(&mut page)?;
    if let Some(guide) = guide {
        page.extend_from_slice(notes(&guide).as_bytes());
    }
    Ok(page)
}

/// A section of roff: indented lines are kept, others are filled.
fn notes(guide: &str) -> String {
    let mut section = String::from(".SH NOTES\n");
    let mut is_filled = true;
    for line in guide.lines() {
        let wants_filling = !line.starts_with(' ');
        if wants_filling != is_filled {
            section.push_str(if wants_filling { ".fi\n" } else { ".nf\n" });
            is_filled = wants_filling;
        }
        // A leading dot or apostrophe would be a command.
        let text = if line.is_empty() { ".PP".to_owned() } else { format!("\\&{}", escaped(line)) };
        section.push_str(&text);
        section.push('\n');
    }
    section
}

fn escaped(line: &str) -> String {
    line.replace('\\', "\\e").replace('-', "\\-")
}

fn write_all(tool: &Command, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    write_with_subcommands(tool, "htkvctl", dir)
}

fn write_with_subcommands(command: &Command, name: &str, dir: &Path) -> io::Result<()> {
    fs::write(dir.join(format!("{name}.1")), page(command.clone().name(name.to_owned()))?)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        write_with_subcommands(verb, &format!("{name}-{}", verb.get_name()), dir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::notes;

    #[test]
    fn examples_stay_laid_out() {
        let section = notes("Examples:\n  get --raw b\"\\0\"   why\n\n.dotted prose\nExit code 1.");
        let expected = ".SH NOTES\n\\&Examples:\n.nf\n\\&  get \\-\\-raw b\"\\e0\"   why\n.fi\n.PP\n\\&.dotted prose\n\\&Exit code 1.\n";
        assert_eq!(section, expected);
    }
}
