//! The common options (`--data-dir`, `--json` and those of `auth`), and the verbs that use them.
//!
//! They may be before or after a verb, so the parser accepts them everywhere. A verb that does not
//! use one hides it in its help and refuses it, because an option without effect misleads.

use std::env;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use crate::failure::Failure;

/// Verbs, and the common options that they do not use.
const UNUSED: [(&[&str], &[&str]); 6] = [
    (&["demo"], &["data_dir"]),
    (&["bench"], &["data_dir"]),
    (&["completions"], &["data_dir", "json"]),
    (&["man"], &["data_dir", "json"]),
    (&["auth", "calibrate"], &["data_dir", "key_file", "pepper_file", "argon2", "source", "anchor"]),
    (&["auth", "keyring", "generate"], &["data_dir", "pepper_file", "argon2", "source", "anchor"]),
];

/// The tree with such options hidden. Empty environment variables count as not set.
pub(crate) fn tailored(tree: Command) -> Command {
    UNUSED.iter().fold(without_empty_variables(tree), |tree, (verb, options)| hide(tree, verb, options, Vec::new()))
}

fn without_empty_variables(command: Command) -> Command {
    let is_empty = |arg: &Arg| arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// Hides options of a verb that it inherits from `above`; a verb that is not in the tree needs no
/// change.
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

/// Fails if the command line has an option that the verb does not use. An environment variable does
/// no harm.
pub(crate) fn refuse_unused(matches: &ArgMatches) -> Result<(), Failure> {
    let (mut verb, mut innermost) = (Vec::new(), matches);
    while let Some((name, inner)) = innermost.subcommand() {
        verb.push(name);
        innermost = inner;
    }
    let unused = UNUSED.iter().filter(|(name, _)| *name == verb).flat_map(|(_, options)| *options);
    // The shell's tree has fewer options.
    let is_typed = |option: &&&str| {
        let source = innermost.try_contains_id(option).ok().and_then(|_| innermost.value_source(option));
        source == Some(ValueSource::CommandLine)
    };
    match { unused }.find(is_typed) {
        None => Ok(()),
        Some(option) => {
            let option = option.replace('_', "-");
            Err(Failure::Usage(format!("`{}` does not use --{option}", verb.join(" "))))
        }
    }
}
