//! Completion: verbs, verbs of nouns, then keys of the store, one step of their path at a time.

use std::ops::Bound;

use clap::Command;
use hightower_kv::{Entry, SingleNodeEngine};
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use crate::notation::plain;
use crate::session::Store;

/// Maximum number of completions: about a screen.
const MAX_CANDIDATES: usize = 100;

/// The separators between the steps of a key.
const SEPARATOR: u8 = b'/';

/// Completes verbs and keys.
pub(crate) struct Completion<'a> {
    store: &'a Store,
    verbs: Command,
}

impl<'a> Completion<'a> {
    /// Completes the verbs of a command tree, and the keys of `store`.
    pub(crate) fn new(store: &'a Store, mut verbs: Command) -> Self {
        // Adds `help`.
        verbs.build();
        Self { store, verbs }
    }
}

/// The verbs with the prefix `typed` after the words `before`; none if other arguments follow.
fn verbs(tree: &Command, before: &str, typed: &str) -> Vec<String> {
    let innermost = before.split_whitespace().try_fold(tree, |noun, word| noun.find_subcommand(word));
    let verbs = innermost.into_iter().flat_map(Command::get_subcommands).map(|verb| verb.get_name().to_owned());
    verbs.filter(|verb| verb.starts_with(typed)).collect()
}

impl Completer for Completion<'_> {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..pos];
        let start =
            typed.rfind(char::is_whitespace).map_or(0, |at| at + typed[at..].chars().next().map_or(1, char::len_utf8));
        let word = &typed[start..];
        let before = typed[..start].trim();
        let candidates = match before.split_whitespace().next() {
            Some("put" | "get" | "delete" | "prefix" | "scan") => {
                steps(word.as_bytes(), |bounds| first(self.store, bounds))
            }
            _ => verbs(&self.verbs, before, word),
        };
        Ok((start, candidates))
    }
}

/// The completions of `typed`: keys, shortened to their next separator.
///
/// Each completion costs one read of the store, independent of the number of its keys. Keys that
/// need quotes are skipped.
fn steps(typed: &[u8], first: impl Fn((Bound<&[u8]>, Bound<&[u8]>)) -> Option<Entry>) -> Vec<String> {
    let mut found = Vec::new();
    let mut from = Bound::Included(typed.to_vec());
    for _ in 0..MAX_CANDIDATES {
        let bounds = (from.as_ref().map(|key| &key[..]), Bound::Unbounded);
        let Some(entry) = first(bounds) else { break };
        let Some(rest) = entry.key().strip_prefix(typed) else { break };
        let step = match rest.iter().position(|byte| *byte == SEPARATOR) {
            Some(at) => &entry.key()[..=typed.len() + at],
            None => entry.key(),
        };
        let needs_quotes =
            |text: &&str| text.contains(|letter: char| letter.is_whitespace() || "'\"#".contains(letter));
        found.extend(plain(step).filter(|text| !needs_quotes(text)).map(str::to_owned));
        from = behind(step);
    }
    found
}

/// The first entry of the store between two bounds; none after a read error.
fn first(store: &SingleNodeEngine, bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> Option<Entry> {
    store.range(bounds).ok()?.next()?.ok()
}

/// The first possible key behind all keys of a step.
fn behind(step: &[u8]) -> Bound<Vec<u8>> {
    match step.strip_suffix(&[SEPARATOR]) {
        Some(stem) => Bound::Included([stem, &[SEPARATOR + 1]].concat()),
        None => Bound::Excluded(step.to_vec()),
    }
}

impl Hinter for Completion<'_> {
    type Hint = String;
}

impl Highlighter for Completion<'_> {}

impl Validator for Completion<'_> {}

impl Helper for Completion<'_> {}

#[cfg(test)]
mod tests {
    use super::super::command;
    use super::{first, steps, verbs};
    use hightower_kv::{SingleNodeEngine, StoreConfig};

    #[test]
    fn verbs_complete_noun_by_noun() {
        let mut tree = command();
        tree.build();
        assert_eq!(verbs(&tree, "", "pr"), ["prefix"]);
        assert_eq!(verbs(&tree, "", "h"), ["help"]);
        assert_eq!(verbs(&tree, "help", "comp"), ["compact"]);
        assert_eq!(verbs(&tree, "auth", "p"), ["password", "purge"]);
        assert_eq!(verbs(&tree, "auth user", "d"), ["disable", "delete"]);
        assert_eq!(verbs(&tree, "auth user show", ""), Vec::<String>::new());
        assert_eq!(verbs(&tree, "import", ""), Vec::<String>::new());
    }

    #[test]
    fn keys_complete_step_by_step() {
        let dir = tempfile::tempdir().unwrap();
        let store = SingleNodeEngine::with_config(StoreConfig::at(dir.path())).unwrap();
        for key in ["pods/a/1", "pods/a/2", "pods/b", "pods/b/1", "podium", "x y", "zone/\u{e9}"] {
            store.put(key, "").unwrap();
        }
        store.put(b"pods/\xff", "").unwrap();
        let complete = |typed: &str| steps(typed.as_bytes(), |bounds| first(&store, bounds));
        assert_eq!(complete("pod"), ["podium", "pods/"]);
        assert_eq!(complete("pods/"), ["pods/a/", "pods/b", "pods/b/"]);
        assert_eq!(complete("pods/a/"), ["pods/a/1", "pods/a/2"]);
        assert_eq!(complete(""), ["podium", "pods/", "zone/"]);
        assert_eq!(complete("nothing"), Vec::<String>::new());
    }
}
