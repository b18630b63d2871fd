//! `htkvctl`: Hightower KV stores on the command line.
//!
//! One module per verb under [`verbs`], with its arguments, help and work. The shared modules:
//!
//! * [`cli`] — the command tree and the general help; [`store_verb`] — its verbs on one store,
//!   which the shell has too; [`options`] — the common options, and the verbs that use them;
//! * [`session`] — opening and closing the store, for one verb or for a whole shell;
//! * [`screen`], [`table`], [`progress`], [`units`] — output for people and programs;
//! * [`reach`] — the keyspace that a verb is about;
//! * [`notation`], [`records`], [`lines`] — keys and values as text, and text as lines;
//! * [`failure`] — errors and exit codes; [`interrupt`] — Ctrl-C; [`terminal`] — prompts on the
//!   terminal.
//!
//! The tool uses only the public API of the library.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod cli;
mod echo;
mod failure;
mod interrupt;
mod lines;
mod notation;
mod options;
mod progress;
mod reach;
mod records;
mod screen;
mod session;
mod store_verb;
mod table;
mod terminal;
mod units;
mod verbs;

use std::process::ExitCode;

use clap::FromArgMatches;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::session::Session;

/// Prints help, the version, or an error of the arguments; as a JSON object if the arguments
/// contain `--json`.
fn without_a_verb(answer: &clap::Error) -> ExitCode {
    if answer.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let text = answer.render().to_string();
        let first_paragraph: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let message = first_paragraph.join(" ").trim_start_matches("error: ").to_owned();
        Screen::new(true).failure(&Failure::Usage(message));
        return ExitCode::from(2);
    }
    answer.exit()
}

fn main() -> ExitCode {
    let parsed = cli::command().try_get_matches().and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(no_verb) => return without_a_verb(&no_verb),
    };
    let screen = Screen::new(cli.json);
    let session = Session::new(cli.data_dir, screen);
    let ready = options::refuse_unused(&matches).and_then(|()| interrupt::install(screen));
    let result = ready.and_then(|()| cli.verb.run(&session));
    match result {
        Ok(exit) => exit.code(),
        Err(failure) => {
            if !matches!(failure, Failure::OutputClosed) {
                screen.failure(&failure);
            }
            ExitCode::from(failure.code())
        }
    }
}
