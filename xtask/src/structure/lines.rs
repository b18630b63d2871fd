//! Limits on the length of files and lines.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Maximum number of lines of a `.rs` file.
pub(super) const MAX_LINES: usize = 600;
/// Maximum number of columns of a line of text.
pub(super) const MAX_COLUMNS: usize = 100;

/// Folders with generated files.
const BUILT: [&str; 3] = ["target", "corpus", "artifacts"];

/// The `.rs` and `.md` files under `root`, by their relative paths.
pub(super) fn files(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(root, "", &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            continue;
        }
        if kind.is_dir() {
            if !name.starts_with('.') && !BUILT.contains(&name.as_str()) {
                collect(&entry.path(), &path, files)?;
            }
        } else if is_kind(&name, "rs") || is_kind(&name, "md") {
            files.push(path);
        }
    }
    Ok(())
}

fn is_kind(file: &str, extension: &str) -> bool {
    Path::new(file).extension().is_some_and(|found| found == extension)
}

/// The number of lines of a `.rs` file, if above the limit.
pub(super) fn too_many(file: &str, text: &str) -> Option<usize> {
    let count = text.lines().count();
    (is_kind(file, "rs") && count > MAX_LINES).then_some(count)
}

/// The numbers of the lines of text above the limit: in a document all lines except those of
/// tables, code blocks and links; in a `.rs` file those of comments, with the same exceptions.
pub(super) fn too_long(file: &str, text: &str) -> Vec<usize> {
    let is_document = is_kind(file, "md");
    let mut is_code = false;
    let mut long = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words = if is_document { Some(line.trim_start()) } else { comment(line) };
        let Some(words) = words else {
            is_code = false;
            continue;
        };
        if words.starts_with("```") {
            is_code = !is_code;
        } else if !is_code && !words.starts_with('|') && without_links(line).chars().count() > MAX_COLUMNS {
            long.push(at + 1);
        }
    }
    long
}

/// The text of a line that is only a comment.
fn comment(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("//")?;
    Some(rest.trim_start_matches(['/', '!']).trim_start())
}

/// The line without the targets of its links, which cannot be wrapped.
fn without_links(line: &str) -> String {
    let is_reference = line.trim_start_matches(['/', '!', ' ']).starts_with('[') && line.contains("]: ");
    if is_reference {
        return String::new();
    }
    let mut kept = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("](") {
        kept.push_str(before);
        kept.push(']');
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    kept.push_str(rest);
    kept.split(' ').filter(|word| !word.contains("://")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_600_lines_at_most() {
        assert_eq!(too_many("a.rs", &"\n".repeat(600)), None);
        assert_eq!(too_many("a.rs", &"\n".repeat(601)), Some(601));
        assert_eq!(too_many("a.md", &"\n".repeat(601)), None, "documents may be long");
    }

    #[test]
    fn text_has_100_columns_at_most() {
        let long = "word ".repeat(21);
        assert_eq!(too_long("a.md", &format!("short\n{long}\n")), [2]);
        assert_eq!(too_long("a.md", &"é".repeat(100)), Vec::<usize>::new(), "columns, not bytes");
        for line in [format!("| {long}"), format!("```\n{long}\n```"), format!("[a]({})", "x".repeat(120))] {
            assert_eq!(too_long("a.md", &line), Vec::<usize>::new(), "{line}");
        }
        assert_eq!(too_long("a.md", &format!("```\ncode\n```\n{long}")), [4], "the code has ended");
    }

    #[test]
    fn comments_have_100_columns_at_most() {
        let long = "word ".repeat(21);
        for mark in ["//", "///", "//!", "    //"] {
            assert_eq!(too_long("a.rs", &format!("{mark} {long}")), [1], "{mark}");
        }
        for line in [format!("let a = \"{long}\";"), format!("/// | {long}"), format!("/// ```\n/// {long}\n/// ```")] {
            assert_eq!(too_long("a.rs", &line), Vec::<usize>::new(), "{line}");
        }
        assert_eq!(too_long("a.rs", &format!("/// ```\nfn a() {{}}\n// {long}")), [3]);
    }
}
