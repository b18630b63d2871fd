//! `cargo xtask structure`: rules of names, files and lines that hold for the whole workspace.
//!
//! 1. `name`: a type name of a library is unique among the libraries, and one of a program within
//!    the program, except for tests and the conventional names of `structure/names.rs`.
//! 2. `circle`: the files of a crate depend on each other in one direction only.
//! 3. `file`: a `.rs` file has at most 600 lines.
//! 4. `line`: a line of a document or of a comment has at most 100 columns.
//!
//! A test of the facade checks that facts in the documents equal the constants of the code:
//! `crates/kv/tests/facts.rs`.
//!
//! `xtask/structure-known.txt` lists the known violations. The list may only shrink: a new
//! violation is an error, and so is an entry that no longer occurs.

mod circles;
mod lines;
mod names;
mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::command::root;

/// The list of known violations, from the root of the workspace.
const KNOWN: &str = "xtask/structure-known.txt";

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Remove entries that no longer occur from the list of known violations, and lower its numbers
    #[arg(long)]
    shrink: bool,
}

/// A rule that something breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    Name,
    Circle,
    File,
    Line,
}

const RULES: [(Rule, &str); 4] =
    [(Rule::Name, "name"), (Rule::Circle, "circle"), (Rule::File, "file"), (Rule::Line, "line")];

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = RULES.iter().find(|(rule, _)| rule == self).map_or("", |(_, text)| text);
        f.write_str(text)
    }
}

/// The violations, by rule and subject: the name, the circle or the file.
type Violations = BTreeMap<(Rule, String), Breach>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Breach {
    /// Files of a name, files of a circle, lines of a file, or long lines of a file.
    count: usize,
    /// The places of the violation.
    places: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let root = root();
    let found = find(&root)?;
    let path = root.join(KNOWN);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let known = parse(&text)?;
    if options.shrink {
        fs::write(&path, shrunk(&text, &known, &found)).with_context(|| format!("write {}", path.display()))?;
        let kept = parse(&fs::read_to_string(&path)?)?;
        println!("{KNOWN}: {} entries, {} before", kept.len(), known.len());
        return Ok(());
    }
    let faults = compare(&known, &found);
    faults.iter().for_each(|fault| println!("{fault}"));
    ensure!(faults.is_empty(), "{} violations of the structure's rules", faults.len());
    println!("no new violation; {} are known ({KNOWN})", known.len());
    Ok(())
}

/// All violations in the workspace at `root`.
fn find(root: &Path) -> Result<Violations> {
    let mut violations = Violations::new();
    let crates = source::crates(root)?;
    for (name, places) in names::twice(&crates) {
        violations.insert((Rule::Name, name), Breach { count: places.len(), places });
    }
    for krate in &crates {
        for files in circles::of(krate) {
            let subject = format!("{}: {}", krate.name, files.join(" "));
            violations.insert((Rule::Circle, subject), Breach { count: files.len(), places: Vec::new() });
        }
    }
    for file in lines::files(root)? {
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("read {file}"))?;
        if let Some(count) = lines::too_many(&file, &text) {
            violations.insert((Rule::File, file.clone()), Breach { count, places: Vec::new() });
        }
        let long = lines::too_long(&file, &text);
        if !long.is_empty() {
            let places = long.iter().map(|number| format!("{file}:{number}")).collect();
            violations.insert((Rule::Line, file), Breach { count: long.len(), places });
        }
    }
    Ok(violations)
}

/// The known violations: `RULE SUBJECT COUNT` on each line that is not empty or a comment.
fn parse(text: &str) -> Result<BTreeMap<(Rule, String), usize>> {
    let mut known = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let entry = entry_of(line).with_context(|| format!("{KNOWN}: not an entry: {line}"))?;
        if known.insert((entry.0, entry.1), entry.2).is_some() {
            bail!("{KNOWN}: twice: {line}");
        }
    }
    Ok(known)
}

fn entry_of(line: &str) -> Option<(Rule, String, usize)> {
    let (rule, rest) = line.split_once(' ')?;
    let (subject, count) = rest.rsplit_once(' ')?;
    let (rule, _) = RULES.iter().find(|(_, text)| *text == rule)?;
    Some((*rule, subject.to_owned(), count.parse().ok()?))
}

/// The errors: violations that are unknown or larger than known, and known ones that no longer
/// occur.
fn compare(known: &BTreeMap<(Rule, String), usize>, found: &Violations) -> Vec<String> {
    let mut faults = Vec::new();
    for ((rule, subject), violation) in found {
        let key = (*rule, subject.clone());
        let allowed = known.get(&key).copied().or_else(|| larger_circle(known, *rule, subject)).unwrap_or(0);
        if violation.count > allowed {
            let places = violation.places.join(", ");
            faults.push(format!("{}: {} {places}", advice(*rule, subject), violation.count));
        }
    }
    for (rule, subject) in known.keys().filter(|key| !found.contains_key(key)) {
        faults.push(format!(
            "{rule} {subject}: no longer occurs; remove it from {KNOWN} (`cargo xtask structure --shrink`)"
        ));
    }
    faults
}

fn advice(rule: Rule, subject: &str) -> String {
    match rule {
        Rule::Name => format!("several files have a type of the name {subject}; rename one"),
        Rule::Circle => format!("files depend on each other in a circle; cut it ({subject})"),
        Rule::File => format!("{subject} has more than {} lines; split it", lines::MAX_LINES),
        Rule::Line => format!("{subject} has lines over {} columns; wrap them", lines::MAX_COLUMNS),
    }
}

/// The size of a known circle that holds all files of this one.
fn larger_circle(known: &BTreeMap<(Rule, String), usize>, rule: Rule, subject: &str) -> Option<usize> {
    let (name, files) = subject.split_once(": ").filter(|_| rule == Rule::Circle)?;
    known.iter().find_map(|((known_rule, known_subject), count)| {
        let (known_name, known_files) = known_subject.split_once(": ").filter(|_| *known_rule == rule)?;
        let holds = |file: &str| known_files.split(' ').any(|known| known == file);
        (known_name == name && files.split(' ').all(holds)).then_some(*count)
    })
}

/// The list without entries that no longer occur, with numbers lowered to the found ones.
fn shrunk(text: &str, known: &BTreeMap<(Rule, String), usize>, found: &Violations) -> String {
    let mut entries = Vec::new();
    for ((rule, subject), violation) in found {
        let key = (*rule, subject.clone());
        let Some(allowed) = known.get(&key).copied().or_else(|| larger_circle(known, *rule, subject)) else { continue };
        entries.push(format!("{rule} {subject} {}\n", violation.count.min(allowed)));
    }
    let comments = text.lines().filter(|line| line.starts_with('#')).map(|line| format!("{line}\n"));
    comments.chain(entries).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(entries: &[(Rule, &str, usize)]) -> Violations {
        let entries = entries.iter().map(|(rule, subject, count)| {
            ((*rule, (*subject).to_owned()), Breach { count: *count, places: Vec::new() })
        });
        entries.collect()
    }

    #[test]
    fn the_list_of_known_violations_may_only_shrink() {
        let text = "# what is left\n\nname Entry 3\nfile a.rs 700\ncircle kv: a.rs b.rs c.rs 3\n";
        let known = parse(text).unwrap();
        let same = [(Rule::Name, "Entry", 3), (Rule::File, "a.rs", 700), (Rule::Circle, "kv: a.rs b.rs c.rs", 3)];
        assert_eq!(compare(&known, &found(&same)), Vec::<String>::new());

        let new = [&same[..], &[(Rule::Name, "Slot", 2)]].concat();
        assert!(compare(&known, &found(&new))[0].contains("a type of the name Slot"));
        let larger = [&same[1..], &[(Rule::Name, "Entry", 4)]].concat();
        assert!(compare(&known, &found(&larger))[0].contains("a type of the name Entry"));
        let gone = compare(&known, &found(&same[1..]));
        assert!(gone[0].contains("name Entry: no longer occurs; remove it"), "{gone:?}");

        let smaller = found(&[(Rule::Name, "Entry", 2), (Rule::Circle, "kv: a.rs c.rs", 2), (Rule::Name, "Slot", 2)]);
        assert_eq!(shrunk(text, &known, &smaller), "# what is left\nname Entry 2\ncircle kv: a.rs c.rs 2\n");
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error() {
        for text in ["name Entry", "title Entry 2", "name Entry many", "name A 2\nname A 3"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_part_of_a_known_circle_is_known_and_another_is_not() {
        let known = parse("circle kv: a.rs b.rs c.rs 3").unwrap();
        assert!(larger_circle(&known, Rule::Circle, "kv: a.rs b.rs").is_some());
        assert!(larger_circle(&known, Rule::Circle, "kv: a.rs d.rs").is_none());
        assert!(larger_circle(&known, Rule::Circle, "log: a.rs b.rs").is_none());
    }
}
