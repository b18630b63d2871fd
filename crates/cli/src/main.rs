//! `htkvctl`: Hightower KV stores on the command line.
//!
//! One module per verb under [`verbs`], each with its arguments, its help and its work; what they
//! share lies beside them:
//!
//! * [`cli`] — the command tree and the help that belongs to no single verb; [`options`] — which
//!   verb has which of the options for many;
//! * [`session`] — opening and closing the store, for one verb or for a whole shell;
//! * [`screen`], [`table`], [`progress`], [`units`] — what people and programs see;
//! * [`reach`] — which keys plain verbs leave alone;
//! * [`notation`], [`records`], [`lines`] — keys and values as text, and text as lines;
//! * [`failure`] — what went wrong, and the exit code that says so; [`interrupt`] — Ctrl-C;
//!   [`terminal`] — questions to a person.
//!
//! Nothing here knows how a store works: all of that is behind the library's public API.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod cli;
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

/// Help, the version, or what is wrong with the arguments. Programs get an error as an object here
/// too, as far as it can be known that this is one.
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
