//! The command tree, and the general help.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

use crate::failure::{Exit, Failure};
use crate::options;
use crate::session::Session;
use crate::store_verb::StoreVerb;
use crate::verbs::{bench, completions, demo, dump, man, restore, salvage, shell};

const LONG_ABOUT: &str = "\
Hightower KV keeps keys and values in a directory: an ordered, crash-safe, log-structured store without a server. \
This tool works on such a directory.";

const GUIDE: &str = "\
First steps:
  htkvctl demo                         a demonstration, kill -9 included; removes its files
  htkvctl put pods/web-0 running       the store is created on the first write
  htkvctl get pods/web-0
  htkvctl prefix pods/                 every key that starts with pods/, in order
  htkvctl import FILE                  many records at once: one line each, key TAB value
  htkvctl export -o FILE               the same lines back, sorted by key
  htkvctl shell                        interactive use, with history and completion
  htkvctl backup DIR                   a backup; `restore DIR` makes a store of it

The store:
  --data-dir DIR, or the environment variable HTKV_DATA_DIR, or ./.hightower. An empty environment
  variable counts as not set.
  Verbs that read never create or change anything. Any number of processes may read a store
  at the same time, or one may write to it; other processes get an error at once. To read
  the store of a running program, make a backup from within the program and read the backup.

Keys and values:
  Any bytes. Plain text is written as it is: UTF-8 without control characters that does not start
  with b\". Other bytes are printed, and may be typed, as a byte-string literal:
  b\"tab \\t line feed \\n quote \\\" backslash \\\\ any byte \\xff\". A key has 1 to 65,520 bytes, a value
  at most 1 GiB.

Output:
  Text for people by default. With --json one JSON object, or one per line for several records;
  errors as {\"error\":{\"kind\":...,\"message\":...}} on standard error. Colours and progress bars
  appear on terminals only; NO_COLOR turns colours off.

Exit codes:
  0  done; also after Ctrl-C in `stats --every`
  1  key not found, condition not met, damage found, or access refused
  2  usage error: arguments, or an input or output file
  3  error of the store: locked, damaged, full, missing
  130  interrupted by Ctrl-C, after a clean close of the store";

/// The arguments of the tool.
#[derive(Debug, Parser)]
#[command(name = "htkvctl", version, about = "Work on a Hightower KV store", long_about = LONG_ABOUT, after_long_help = GUIDE)]
#[command(after_help = "`htkvctl --help` has first steps, notation and exit codes; `htkvctl help VERB` has examples.")]
#[command(subcommand_value_name = "VERB", subcommand_help_heading = "Verbs", arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The directory of the store
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "HTKV_DATA_DIR",
        default_value = ".hightower",
        hide_env_values = true,
        display_order = 900
    )]
    pub(crate) data_dir: PathBuf,

    /// Print JSON for programs
    #[arg(long, global = true, display_order = 901)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The command tree, in which each verb shows only the options that it uses.
pub(crate) fn command() -> clap::Command {
    options::tailored(Cli::command())
}

/// The verbs of the tool.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    #[command(flatten)]
    Store(StoreVerb),
    Restore(restore::Args),
    Salvage(salvage::Args),
    Dump(dump::Args),
    Shell(shell::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Completions(completions::Args),
    Man(man::Args),
    /// The writer process of the demo, which the demo kills
    #[command(hide = true)]
    DemoWriter(demo::writer::Args),
}

impl Verb {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        match self {
            Self::Store(verb) => verb.run(session),
            Self::Restore(args) => args.run(session),
            Self::Salvage(args) => args.run(session),
            Self::Dump(args) => args.run(session),
            Self::Shell(args) => args.run(session),
            Self::Demo(args) => args.run(session),
            Self::Bench(args) => args.run(session),
            Self::Completions(args) => args.run(command()),
            Self::Man(args) => args.run(command()),
            Self::DemoWriter(args) => args.run(session),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_tree_holds_together() {
        super::command().debug_assert();
    }

    /// Lines that begin with spaces are laid out by hand and must fit. Other lines are paragraphs,
    /// which clap wraps to the width of the terminal, so they must have no line breaks.
    #[test]
    fn help_is_laid_out_for_a_hundred_columns() {
        let mut tool = super::command();
        tool.build();
        for verb in [vec![tool.clone()], with_subcommands(&tool)].concat() {
            let text =
                verb.get_after_long_help().or(verb.get_after_help()).map(ToString::to_string).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            for (line, next) in lines.iter().zip(lines.iter().skip(1).chain([&""])) {
                let is_laid_out = line.starts_with(' ');
                assert!(!is_laid_out || line.chars().count() <= 100, "{}: {line}", verb.get_name());
                let goes_on = !line.is_empty() && !line.ends_with(':') && !next.is_empty() && !next.starts_with(' ');
                assert!(is_laid_out || !goes_on, "{}: {line}", verb.get_name());
            }
        }
    }

    /// All subcommands of a command.
    fn with_subcommands(command: &clap::Command) -> Vec<clap::Command> {
        command.get_subcommands().flat_map(|verb| [vec![verb.clone()], with_subcommands(verb)].concat()).collect()
    }

    #[test]
    fn every_verb_explains_itself() {
        for verb in with_subcommands(&super::command()) {
            assert!(verb.get_about().is_some(), "{} has no help", verb.get_name());
            let teaches = verb.get_after_long_help().or(verb.get_after_help()).is_some();
            assert!(teaches || verb.is_hide_set(), "{} has no examples", verb.get_name());
            for argument in verb.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has no help", verb.get_name(), argument.get_id());
            }
        }
    }
}
