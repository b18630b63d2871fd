//! The words of a shell line.
//!
//! Words are separated by white space. `'...'` is literal; `"..."` has the escapes `\"` and `\\`;
//! both may be part of a word. A byte-string literal `b"..."` is passed on whole, for the tool's
//! notation. `#` at the start of a word begins a comment.

use std::iter::Peekable;
use std::str::Chars;

/// Splits a line; an open quote is an error.
pub(crate) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = line.chars().peekable();
    loop {
        while rest.next_if(|letter| letter.is_whitespace()).is_some() {}
        match rest.peek() {
            None | Some('#') => return Ok(words),
            Some(_) => words.push(word(&mut rest)?),
        }
    }
}

fn word(rest: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let mut word = String::new();
    while let Some(letter) = rest.next_if(|letter| !letter.is_whitespace()) {
        match letter {
            '\'' => quoted(rest, &mut word, '\'')?,
            '"' if word == "b" => literal(rest, &mut word)?,
            '"' => quoted(rest, &mut word, '"')?,
            _ => word.push(letter),
        }
    }
    Ok(word)
}

/// Reads a quoted part. Only double quotes have escapes.
fn quoted(rest: &mut Peekable<Chars<'_>>, word: &mut String, quote: char) -> Result<(), String> {
    while let Some(letter) = rest.next() {
        match letter {
            _ if letter == quote => return Ok(()),
            '\\' if quote == '"' => word.push(rest.next_if(|next| matches!(next, '"' | '\\')).unwrap_or('\\')),
            _ => word.push(letter),
        }
    }
    Err(format!("a {quote} is missing at the end"))
}

/// Reads a literal with its quotes and escapes.
fn literal(rest: &mut Peekable<Chars<'_>>, word: &mut String) -> Result<(), String> {
    word.push('"');
    while let Some(letter) = rest.next() {
        word.push(letter);
        match letter {
            '"' => return Ok(()),
            '\\' => word.extend(rest.next()),
            _ => {}
        }
    }
    Err("a \" is missing at the end of b\"...\"".into())
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_and_quotes() {
        for (line, words) in [
            ("", &[][..]),
            ("  get  a\t", &["get", "a"]),
            ("put k 'two words'", &["put", "k", "two words"]),
            (r#"put k "say \"hi\" \\ \n""#, &["put", "k", r#"say "hi" \ \n"#]),
            (r#"put b"\xff \"" v"#, &["put", r#"b"\xff \"""#, "v"]),
            ("put k '' # comment", &["put", "k", ""]),
            ("a'b c'd#e", &["ab cd#e"]),
            ("# all comment", &[]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn an_open_quote_is_an_error() {
        for line in ["'a", "\"a", "b\"a", "b\"a\\\"", "\"a\\"] {
            assert!(split(line).is_err(), "{line}");
        }
    }
}
