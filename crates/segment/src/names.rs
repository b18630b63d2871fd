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
/// The suffix of index checkpoints' names.
pub const CHECKPOINT_SUFFIX: &str = ".ckpt";
/// The suffix of index checkpoints that are still being written.
pub const CHECKPOINT_TMP_SUFFIX: &str = ".ckpt.tmp";
/// The suffix of tables' names.
pub const TABLE_SUFFIX: &str = ".tbl";
/// The longest name of a checkpoint or table, in bytes.
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

/// Whether a checkpoint may have this name: one path component with the right end, of ASCII
/// letters, digits, `-`, `_` and `.`.
pub(crate) fn is_checkpoint(name: &str) -> bool {
    is_stem_and(CHECKPOINT_SUFFIX, name)
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
    is_stem_and(TABLE_SUFFIX, name)
}

fn is_stem_and(suffix: &str, name: &str) -> bool {
    name.len() <= MAX_NAME_LEN_BYTES
        && name.len() > suffix.len()
        && name.ends_with(suffix)
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether this is the exact form of a checkpoint's name: `index-`, the seqno in 20 digits, `-`, 8
/// hexadecimal digits, `.ckpt`.
fn is_exact_checkpoint(name: &str) -> bool {
    let Some((seqno, random)) = name
        .strip_prefix("index-")
        .and_then(|name| name.strip_suffix(CHECKPOINT_SUFFIX))
        .and_then(|name| name.split_once('-'))
    else {
        return false;
    };
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    seqno.len() == 20
        && seqno.bytes().all(|byte| byte.is_ascii_digit())
        && random.len() == 8
        && random.bytes().all(is_hex)
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
        || is_exact_checkpoint(name)
        || name.strip_suffix(".tmp").is_some_and(is_exact_checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_store_are_told_from_others() {
        const CHECKPOINT: &str = "index-00000000000000917519-8437560f.ckpt";
        for name in ["0000000001.seg", "4294967295.seg", "0000000009.spare", "MANIFEST.tmp", CHECKPOINT] {
            assert!(is_garbage_when_unnamed(name), "{name}");
        }
        assert!(is_garbage_when_unnamed(&format!("{CHECKPOINT}.tmp")));
        let others = [
            "MANIFEST",
            "UNFINISHED",
            "a-1.ckpt",
            "index-1-2.ckpt",
            "1.seg",
            "4294967296.seg",
            "000000000a.seg",
            "notes.txt",
            ".ckpt",
            "../x.ckpt",
            "x.seg",
        ];
        for name in others {
            assert!(!is_garbage_when_unnamed(name), "{name}");
        }
        assert_eq!(segment_id(&segment_name(u32::MAX)), Some(u32::MAX));
    }
}
