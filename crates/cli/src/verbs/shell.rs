//! `shell`: the verbs on a store that stays open, with history and completion.

mod complete;
mod words;

use std::env;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::options;
use crate::screen::{BOLD, DIM, Screen, styled};
use crate::session::{Session, Store};
use crate::store_verb::StoreVerb;
use crate::units::counted;
use crate::verbs::shell::complete::Completion;

const EXAMPLES: &str = "\
Examples:
  htkvctl shell
  htkvctl shell --read-only         other processes may read the store too
  htkvctl shell < script            one verb per line; the first failure ends it, with its exit code

In the shell:
  put pods/web-0 running            the verbs of htkvctl, without its name
  get pods/<Tab>                    completes verbs and keys
  put note 'two words'              '...' as it is, \"...\" with \\\" and \\\\, b\"...\" any bytes
  auth user create alice            prompts for the password, without echo
  help, help put, exit              also: Ctrl-D ends, Ctrl-C stops a verb; # starts a comment

A verb in a script that reads standard input (`put KEY --file -`, `import -`, passwords) reads the lines behind it.

A line that starts with a space is not added to the history.";

/// Run verbs interactively on an open store
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Open the store for reading only; other processes may read it too
    #[arg(long)]
    read_only: bool,
}

/// Verbs on the open store
#[derive(Debug, Parser)]
#[command(no_binary_name = true, name = "", subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
#[command(override_usage = "VERB [ARGUMENTS]", after_help = "`help VERB` has examples; `exit` or Ctrl-D ends.")]
struct Line {
    /// Print JSON for programs
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    verb: LineVerb,
}

#[derive(Debug, Subcommand)]
enum LineVerb {
    #[command(flatten)]
    Store(StoreVerb),
    /// End the shell
    #[command(visible_alias = "quit")]
    Exit,
}

/// The outcome of a line.
enum Step {
    Next,
    End,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let store = if self.read_only { session.reader()? } else { session.writer()? };
        store.finish(|store| {
            let shared = session.with_store(store);
            if io::stdin().is_terminal() { converse(&shared, store) } else { run_script(&shared) }
        })
    }
}

/// Runs the lines of standard input, up to the first that fails.
fn run_script(session: &Session) -> Result<Exit, Failure> {
    let mut line = String::new();
    // Not `lines()`, which would keep standard input locked: a verb may read the input behind its
    // line.
    while io::stdin().read_line(&mut line).map_err(Failure::file("read standard input"))? > 0 {
        let done = run_line(session, line.trim_end_matches(['\r', '\n']));
        line.clear();
        match done? {
            (Step::End, exit) => return Ok(exit),
            (Step::Next, Exit::Done) => {}
            (Step::Next, negative) => return Ok(negative),
        }
    }
    Ok(Exit::Done)
}

/// Reads lines from the terminal until its end.
fn converse(session: &Session, store: &Store) -> Result<Exit, Failure> {
    let failed = |bad: ReadlineError| Failure::Usage(format!("the terminal: {bad}"));
    // A list: the circular completion would undo its completion at the next Tab.
    let config = Config::builder()
        .history_ignore_space(true)
        .auto_add_history(true)
        .completion_type(CompletionType::List)
        .build();
    let mut editor: Editor<Completion<'_>, FileHistory> = Editor::with_config(config).map_err(failed)?;
    editor.set_helper(Some(Completion::new(store, command())));
    let history = history_file();
    // An unreadable history counts as empty.
    let _new = history.as_deref().map(|path| editor.load_history(path));
    greet(session, store)?;
    loop {
        match editor.readline("htkv> ") {
            Ok(line) => match run_line(session, &line) {
                Ok((Step::End, _)) => break,
                Ok((Step::Next, _)) | Err(Failure::OutputClosed) => {}
                Err(failure) => {
                    interrupt::settle();
                    session.screen.failure(&failure);
                }
            },
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(bad) => return Err(failed(bad)),
        }
    }
    if let Some(path) = history {
        save(&mut editor, &path, session.screen);
    }
    Ok(Exit::Done)
}

fn save(editor: &mut Editor<Completion<'_>, FileHistory>, path: &Path, screen: Screen) {
    let dir = path.parent().map_or(Ok(()), fs::create_dir_all);
    if let Err(bad) = dir.map_err(ReadlineError::from).and_then(|()| editor.save_history(path)) {
        screen.error("file", &format!("the history could not be saved to {}: {bad}", path.display()));
    }
}

fn greet(session: &Session, store: &Store) -> Result<(), Failure> {
    let keys = counted(store.len() as u64, "key");
    let what = format!("{keys} in {}", session.data_dir().display());
    session.screen.tell(&format!("{}: {what}. {}", styled(BOLD, "Hightower KV"), styled(DIM, "help, Tab, Ctrl-D")))
}

/// Runs one line: a verb with its arguments, a comment, or nothing.
fn run_line(session: &Session, line: &str) -> Result<(Step, Exit), Failure> {
    let words = words::split(line).map_err(Failure::Usage)?;
    if words.is_empty() {
        return Ok((Step::Next, Exit::Done));
    }
    match parse(words) {
        Ok((Line { verb: LineVerb::Exit, .. }, _)) => Ok((Step::End, Exit::Done)),
        Ok((Line { json, verb: LineVerb::Store(verb) }, matches)) => {
            options::refuse_unused(&matches)?;
            let exit = if json { verb.run(&session.for_programs())? } else { verb.run(session)? };
            Ok((Step::Next, exit))
        }
        Err(help) if !help.use_stderr() => {
            session.screen.say(help.render().ansi().to_string().trim_end())?;
            Ok((Step::Next, Exit::Done))
        }
        Err(wrong) => {
            let text = wrong.to_string();
            Err(Failure::Usage(text.trim_start_matches("error: ").trim_end().to_owned()))
        }
    }
}

/// The command tree of a line, in which each verb shows only the options that it uses.
fn command() -> Command {
    options::tailored(Line::command())
}

fn parse(words: Vec<String>) -> Result<(Line, ArgMatches), clap::Error> {
    let matches = command().try_get_matches_from(words)?;
    Ok((Line::from_arg_matches(&matches)?, matches))
}

/// The file of the history, after the XDG base directory specification.
fn history_file() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    Some(state?.join("htkvctl/history"))
}
