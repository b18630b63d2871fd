//! Passwords and tokens: typed without echo, or lines of standard input; never arguments.

use std::io::{self, BufRead, IsTerminal, Read};

use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::terminal;

/// Longest line, in bytes; longer than every password and token.
const MAX_LINE_LEN_BYTES: usize = 4096;

/// Prompts for an existing secret.
pub(super) fn ask(what: &str) -> Result<Zeroizing<String>, Failure> {
    let secret = if io::stdin().is_terminal() { prompt(what)? } else { read_line(&mut io::stdin().lock(), what)? };
    if secret.is_empty() { Err(Failure::Usage(format!("no {what} was given"))) } else { Ok(secret) }
}

/// Prompts for a new secret, twice on a terminal.
pub(super) fn ask_new(what: &str) -> Result<Zeroizing<String>, Failure> {
    let secret = ask(what)?;
    if io::stdin().is_terminal() && *prompt(&format!("{what}, again"))? != *secret {
        return Err(Failure::Usage("the two inputs differ; nothing was changed".into()));
    }
    Ok(secret)
}

/// Asks for confirmation of an irreversible action on a terminal. Without a terminal it does not
/// ask.
///
/// # Errors
/// [`Failure::Usage`] if the answer is not yes.
pub(super) fn confirm(yes: bool, what: &str) -> Result<(), Failure> {
    if yes || !io::stdin().is_terminal() {
        return Ok(());
    }
    let answer = terminal::ask(&format!("{what}? [y/N] "), false)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Usage("nothing was changed; --yes does it without asking".into())),
    }
}

fn prompt(what: &str) -> Result<Zeroizing<String>, Failure> {
    terminal::ask(&format!("{what}: "), true)
}

/// The next line, without its end.
fn read_line(input: &mut impl BufRead, what: &str) -> Result<Zeroizing<String>, Failure> {
    // The full capacity at once: a reallocation would leave a copy of a secret in freed memory.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE_LEN_BYTES + 1));
    let limit = MAX_LINE_LEN_BYTES as u64 + 1;
    let read = input.take(limit).read_until(b'\n', &mut line);
    read.map_err(Failure::file(format!("read the {what} from standard input")))?;
    if line.len() > MAX_LINE_LEN_BYTES {
        return Err(Failure::Usage(format!("the {what} on standard input is too long")));
    }
    let text = line.strip_suffix(b"\n").unwrap_or(&line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    match std::str::from_utf8(text) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Failure::Usage(format!("the {what} on standard input is not UTF-8"))),
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_LINE_LEN_BYTES, read_line};

    #[test]
    fn lines_end_where_they_end() {
        let mut input = &b"first \r\nsecond\n\nlast"[..];
        for expected in ["first ", "second", "", "last", ""] {
            assert_eq!(*read_line(&mut input, "password").unwrap(), expected);
        }
    }

    #[test]
    fn what_cannot_be_a_secret_is_refused_without_being_shown() {
        let long = vec![b'x'; MAX_LINE_LEN_BYTES + 1];
        for bytes in [&long[..], b"\xff\xfe\n"] {
            let refused = read_line(&mut &bytes[..], "password").unwrap_err();
            assert_eq!(refused.code(), 2);
            assert!(!refused.message().contains('\u{fffd}') && refused.message().len() < 100);
        }
        assert_eq!(read_line(&mut &long[1..], "password").unwrap().len(), MAX_LINE_LEN_BYTES);
    }
}
