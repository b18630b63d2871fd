//! Which verb has which of the options that are there for many: `--data-dir`, `--json`, and those
//! of `auth`.
//!
//! They may stand before a verb or behind it, so the parser knows them everywhere. A verb that has
//! no use for one does not show it, and refuses it: an option that is taken and does nothing
//! misleads.

use std::env;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use crate::failure::Failure;

/// Verbs, and what they have no use for.
const UNUSED: [(&[&str], &[&str]); 6] = [
    (&["demo"], &["data_dir"]),
    (&["bench"], &["data_dir"]),
    (&["completions"], &["data_dir", "json"]),
    (&["man"], &["data_dir", "json"]),
    (&["auth", "calibrate"], &["data_dir", "key_file", "pepper_file", "argon2", "source", "anchor"]),
    (&["auth", "keyring", "generate"], &["data_dir", "pepper_file", "argon2", "source", "anchor"]),
];

/// The tree with such options hidden, and without environment variables that are set to nothing:
/// they count as not set.
pub(crate) fn tailored(tree: Command) -> Command {
    UNUSED.iter().fold(without_empty_variables(tree), |tree, (verb, options)| hide(tree, verb, options, Vec::new()))
}

fn without_empty_variables(command: Command) -> Command {
    let is_empty = |arg: &Arg| arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// Gives a verb hidden options in place of those of the same names that are `above` it; a verb that
/// is not in the tree needs none.
fn hide(command: Command, verb: &[&str], options: &[&str], mut above: Vec<Arg>) -> Command {
    let Some((name, rest)) = verb.split_first() else {
        return command.args(above);
    };
    if command.find_subcommand(name).is_none() {
        return command;
    }
    let unused = command.get_arguments().filter(|arg| options.contains(&arg.get_id().as_str()));
    above.extend(unused.map(|arg| arg.clone().hide(true)));
    command.mut_subcommand(name, |command| hide(command, rest, options, above))
}

/// Fails if an option was typed that the verb has no use for. In the environment it does no harm.
pub(crate) fn refuse_unused(matches: &ArgMatches) -> Result<(), Failure> {
    let (mut verb, mut innermost) = (Vec::new(), matches);
    while let Some((name, inner)) = innermost.subcommand() {
        verb.push(name);
        innermost = inner;
    }
    let unused = UNUSED.iter().filter(|(name, _)| *name == verb).flat_map(|(_, options)| *options);
    // A tree of fewer options, as a shell's, does not know them all.
    let is_typed = |option: &&&str| {
        let source = innermost.try_contains_id(option).ok().and_then(|_| innermost.value_source(option));
        source == Some(ValueSource::CommandLine)
    };
    match { unused }.find(is_typed) {
        None => Ok(()),
        Some(option) => {
            let option = option.replace('_', "-");
            Err(Failure::Usage(format!("`{}` has no use for --{option}", verb.join(" "))))
        }
    }
}
