//! Output for people or for programs.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::failure::Failure;

/// Headings and names.
pub(crate) const BOLD: Style = Style::new().bold();
/// Less important text.
pub(crate) const DIM: Style = Style::new().dimmed();
/// Success.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Failure.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Styled text, for writers that remove styles where they are not supported.
pub(crate) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Standard output and standard error, with the choice of text or JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    pub(crate) json: bool,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Standard output for many records: buffered, with raw bytes. Flush it at the end.
    pub(crate) fn records(self) -> BufWriter<io::StdoutLock<'static>> {
        BufWriter::with_capacity(64 * 1024, io::stdout().lock())
    }

    /// Prints an object as JSON, or the text for people instead.
    pub(crate) fn answer(self, object: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json {
            let mut line = serde_json::to_string(object).map_err(io::Error::from)?;
            line.push('\n');
            write_now(&line)
        } else {
            self.say(&text())
        }
    }

    /// Prints a line for people, with colours on terminals only.
    pub(crate) fn say(self, line: &str) -> Result<(), Failure> {
        let mut out = anstream::stdout().lock();
        writeln!(out, "{line}")?;
        Ok(out.flush()?)
    }

    /// As [`say`](Self::say), but nothing for programs.
    pub(crate) fn tell(self, line: &str) -> Result<(), Failure> {
        if self.json { Ok(()) } else { self.say(line) }
    }

    /// Prints an error on standard error.
    pub(crate) fn failure(self, failure: &Failure) {
        self.error(&failure.kind(), &failure.message());
    }

    /// Prints an error on standard error, and returns the result of the write.
    pub(crate) fn error(self, kind: &str, message: &str) {
        let mut out = anstream::stderr().lock();
        // If standard error is closed, the exit code still reports the error.
        let _gone = if self.json {
            let object = serde_json::json!({ "error": { "kind": kind, "message": message } });
            writeln!(out, "{object}")
        } else {
            writeln!(out, "{}: {message}", styled(BAD, "error"))
        };
    }

    /// Prints a note on standard error; nothing for programs.
    pub(crate) fn note(self, message: &str) {
        if !self.json {
            // If standard error is closed, the note is lost.
            let _gone = writeln!(anstream::stderr().lock(), "{}: {message}", styled(BOLD, "note"));
        }
    }

    /// Whether standard output is a terminal.
    pub(crate) fn is_terminal(self) -> bool {
        io::stdout().is_terminal()
    }
}

fn write_now(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
