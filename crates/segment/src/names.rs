//! The names of a store's files.
//!
//! A file with one of these names belongs to the store, which may remove it; the store leaves all
//! other names alone.

use std::path::{Path, PathBuf};

/// The manifest.
pub const MANIFEST: &str = "MANIFEST";
/// The manifest's replacement while it is being written.
pub(crate) const MANIFEST_TMP: &str = "MANIFEST.tmp";

/// Marks a directory that is still being filled with a copy of a store: it is not a store yet.
pub const UNFINISHED: &str = "UNFINISHED";

const SEGMENT_SUFFIX: &str = ".seg";
const SPARE_SUFFIX: &str = ".spare";
/// The suffix of tables' names.
pub const TABLE_SUFFIX: &str = ".tbl";
/// The longest name of a table, in bytes.
pub(crate) const MAX_NAME_LEN_BYTES: usize = 255;

/// The name of the segment `id`: ten digits and `.seg`.
///
/// ```
/// assert_eq!(hightower_segment::segment_name(7), "0000000007.seg");
/// ```
#[must_use]
pub fn segment_name(id: u32) -> String {
    format!("{id:010}{SEGMENT_SUFFIX}")
}

/// The name of a store's table `id`: ten digits and `.tbl`.
///
/// ```
/// assert_eq!(hightower_segment::table_name(7), "0000000007.tbl");
/// ```
#[must_use]
pub fn table_name(id: u32) -> String {
    format!("{id:010}{TABLE_SUFFIX}")
}

pub(crate) fn segment_path(dir: &Path, id: u32) -> PathBuf {
    dir.join(segment_name(id))
}

/// The numbers of spares below this one are those of the reserves: see `reserves.rs`.
pub(crate) const FIRST_FREE_SPARE: u32 = 4;

/// Whether this is the name of a reserve: such a file stays when the store is closed.
pub(crate) fn is_reserve(name: &str) -> bool {
    numbered(name, SPARE_SUFFIX).is_some_and(|number| number < FIRST_FREE_SPARE)
}

pub(crate) fn spare_name(number: u32) -> String {
    format!("{number:010}{SPARE_SUFFIX}")
}

/// The id of the segment with this name, if it is one.
pub(crate) fn segment_id(name: &str) -> Option<u32> {
    numbered(name, SEGMENT_SUFFIX)
}

fn numbered(name: &str, suffix: &str) -> Option<u32> {
    let digits = name.strip_suffix(suffix)?;
    let all_digits = digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten()
}

/// The id of the store's table with this name, if it is one.
pub(crate) fn table_id(name: &str) -> Option<u32> {
    numbered(name, TABLE_SUFFIX)
}

/// Whether a table may have this name: one path component that ends in [`TABLE_SUFFIX`], of ASCII
/// letters, digits, `-`, `_` and `.`, with 255 bytes at most.
///
/// ```
/// use hightower_segment::is_table_name;
///
/// assert!(is_table_name("0000000001.tbl"));
/// assert!(!is_table_name(".tbl") && !is_table_name("a/b.tbl"));
/// ```
#[must_use]
pub fn is_table_name(name: &str) -> bool {
    name.len() <= MAX_NAME_LEN_BYTES
        && name.len() > TABLE_SUFFIX.len()
        && name.ends_with(TABLE_SUFFIX)
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether this name and `.tmp` is that of a table, or of its scratch file, while the table is
/// being written.
fn is_unfinished_table(name: &str) -> bool {
    table_id(name.strip_suffix(".spill").unwrap_or(name)).is_some()
}

/// Whether the store removes a file with this name when the manifest does not name it. Files whose
/// names only look similar belong to others.
///
/// ```
/// use hightower_segment::is_garbage_when_unnamed;
///
/// assert!(is_garbage_when_unnamed("0000000007.seg"));
/// assert!(!is_garbage_when_unnamed("holiday.seg"));
/// ```
#[must_use]
pub fn is_garbage_when_unnamed(name: &str) -> bool {
    name == MANIFEST_TMP
        || segment_id(name).is_some()
        || numbered(name, SPARE_SUFFIX).is_some()
        || table_id(name).is_some()
        || name.strip_suffix(".tmp").is_some_and(is_unfinished_table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_store_are_told_from_others() {
        let own = [
            "0000000001.seg",
            "4294967295.seg",
            "0000000009.spare",
            "MANIFEST.tmp",
            "0000000001.tbl",
            "0000000001.tbl.tmp",
            "0000000001.tbl.spill.tmp",
        ];
        for name in own {
            assert!(is_garbage_when_unnamed(name), "{name}");
        }
        let others = [
            "MANIFEST",
            "UNFINISHED",
            "a.tbl",
            "1.tbl",
            "1.tbl.tmp",
            "4294967296.tbl",
            "0000000001.tbl.spill",
            "0000000001.tbl.old",
            "0000000001.tbl.tmp.tmp",
            "1.seg",
            "4294967296.seg",
            "000000000a.seg",
            "notes.txt",
            ".tbl",
            "../0000000001.tbl",
            "x.seg",
        ];
        for name in others {
            assert!(!is_garbage_when_unnamed(name), "{name}");
        }
        assert_eq!(segment_id(&segment_name(u32::MAX)), Some(u32::MAX));
    }
}
