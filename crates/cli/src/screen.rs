//! What is printed, for people or for programs.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::failure::Failure;

/// Headings and names.
pub(crate) const BOLD: Style = Style::new().bold();
/// What matters less.
pub(crate) const DIM: Style = Style::new().dimmed();
/// What went well.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// What went wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Text in a style, for writers that drop styles where they don't belong.
pub(crate) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Standard output and standard error, and whether a program reads them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    pub(crate) json: bool,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Standard output for many records: buffered, bytes as they are. Flush it at the end.
    pub(crate) fn records(self) -> BufWriter<io::StdoutLock<'static>> {
        BufWriter::with_capacity(64 * 1024, io::stdout().lock())
    }

    /// Prints an object as JSON, or the text that a person gets instead.
    pub(crate) fn answer(self, object: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json {
            let mut line = serde_json::to_string(object).map_err(io::Error::from)?;
            line.push('\n');
            write_now(&line)
        } else {
            self.say(&text())
        }
    }

    /// Prints a line for people; colours only where they belong.
    pub(crate) fn say(self, line: &str) -> Result<(), Failure> {
        let mut out = anstream::stdout().lock();
        writeln!(out, "{line}")?;
        Ok(out.flush()?)
    }

    /// As [`say`](Self::say), but nothing for programs.
    pub(crate) fn tell(self, line: &str) -> Result<(), Failure> {
        if self.json { Ok(()) } else { self.say(line) }
    }

    /// Says on standard error what went wrong.
    pub(crate) fn failure(self, failure: &Failure) {
        self.error(&failure.kind(), &failure.message());
    }

    /// Says on standard error what is amiss.
    pub(crate) fn error(self, kind: &str, message: &str) {
        let mut out = anstream::stderr().lock();
        // If standard error is gone there is nobody to tell; the exit code still does.
        let _gone = if self.json {
            let object = serde_json::json!({ "error": { "kind": kind, "message": message } });
            writeln!(out, "{object}")
        } else {
            writeln!(out, "{}: {message}", styled(BAD, "error"))
        };
    }

    /// Says on standard error what a person may want to know; nothing for programs.
    pub(crate) fn note(self, message: &str) {
        if !self.json {
            // As with errors: if standard error is gone there is nobody to tell.
            let _gone = writeln!(anstream::stderr().lock(), "{}: {message}", styled(BOLD, "note"));
        }
    }

    /// Whether a person sees standard output.
    pub(crate) fn is_terminal(self) -> bool {
        io::stdout().is_terminal()
    }
}

fn write_now(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
