//! Wrapping of the paragraphs of a Markdown document.

/// Columns of a line of the project's documents.
const COLUMNS: usize = 100;

/// The document with its paragraphs wrapped at [`COLUMNS`]. Headings, tables, lists, images and
/// code stay as they are.
pub(crate) fn wrapped(document: &str) -> String {
    let mut text = String::new();
    let mut is_code = false;
    for line in document.lines() {
        is_code ^= line.starts_with("```");
        if is_code || line.starts_with(['#', '|', '-', '!', '`']) {
            text += line;
        } else {
            let mut columns = 0;
            for word in line.split(' ') {
                let width = word.chars().count();
                if columns > 0 && columns + 1 + width > COLUMNS {
                    text.push('\n');
                    columns = 0;
                } else if columns > 0 {
                    text.push(' ');
                    columns += 1;
                }
                text += word;
                columns += width;
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_wrapped_and_tables_are_not() {
        let words = ["word"; 30].join(" ");
        let table = format!("| {words} |");
        let text = wrapped(&format!("# Title\n\n{words}\n\n{table}\n\n```sh\n{words}\n```\n"));
        assert!(text.contains(&table) && text.contains(&format!("```sh\n{words}\n```\n")));
        let longest = text.lines().take(5).map(str::len).max();
        assert_eq!((longest, text.split_whitespace().count()), (Some(99), 2 + 30 + 32 + 1 + 30 + 1));
    }
}
