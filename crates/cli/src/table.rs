//! Tables of numbers (names on the left, numbers on the right) and of text.

use comfy_table::{CellAlignment, Table};

/// Lays out rows under a heading. The first column is aligned left, the others right.
pub(crate) fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = plain(heading, rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    trimmed(&table.to_string())
}

/// Lays out rows of text under a heading.
pub(crate) fn text_table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    trimmed(&plain(heading, rows).to_string())
}

fn plain(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(heading.to_vec());
    for row in rows {
        table.add_row(row);
    }
    table
}

/// Pairs of name and value, one per line, without a frame.
pub(crate) fn pairs(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
    lines.join("\n")
}

fn trimmed(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}
