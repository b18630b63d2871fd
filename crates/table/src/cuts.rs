//! Keys that divide a table into ranges, for readers that share the work on it.

use crate::error::{TableError, damaged};
use crate::node::IndexNode;
use crate::reader::TableReader;

/// The search descends until there are this many separators per part, so that the parts have about
/// equal sizes.
const SEPARATORS_PER_PART: usize = 4;

impl TableReader {
    /// Ascending keys that divide the table into about `parts` ranges, with about the same number
    /// of keys each; into fewer ranges if the table is short. They need not be keys of the table.
    /// Reads the upper blocks of the index.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`].
    ///
    /// ```
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{ScanDirection, TableEntry, TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// # let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
    /// # for number in 0..1000_u32 {
    /// #     writer.push(format!("{number:04}").as_bytes(), TableEntry::default())?;
    /// # }
    /// # writer.finish()?;
    /// let table = TableReader::open(dir.as_ref(), "1.tbl")?;
    /// let cuts = table.cuts(4)?;
    /// assert_eq!(cuts.len(), 3);
    /// let first_part = table.range(..cuts[0].as_slice(), ScanDirection::Forward).count();
    /// assert!((200..300).contains(&first_part));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cuts(&self, parts: usize) -> Result<Vec<Vec<u8>>, TableError> {
        if self.is_empty() || parts < 2 {
            return Ok(Vec::new());
        }
        let mut separators = vec![(Vec::new(), self.footer().root)];
        for level in (1..=self.footer().root_level).rev() {
            if separators.len() >= parts.saturating_mul(SEPARATORS_PER_PART) {
                break;
            }
            let mut below = Vec::new();
            for (_, offset) in separators {
                self.add_children(offset, level, &mut below)?;
            }
            separators = below;
        }
        let step = separators.len().div_ceil(parts).max(1);
        Ok(separators.into_iter().step_by(step).skip(1).map(|(separator, _)| separator).collect())
    }

    /// Adds the separators and offsets of the children of a node, which must ascend.
    fn add_children(&self, offset: u64, level: u8, found: &mut Vec<(Vec<u8>, u64)>) -> Result<(), TableError> {
        let corrupt = |damage| self.corrupt(damage);
        let (head, block) = self.block(offset, level).map_err(corrupt)?;
        let node = IndexNode::parse(block, head.count, offset).map_err(corrupt)?;
        for place in 0..node.len() {
            let separator = node.separator(place).map_err(corrupt)?;
            if found.last().is_some_and(|(last, _)| *last >= separator) {
                return Err(corrupt(damaged(offset, "separators that do not rise")));
            }
            found.push((separator, node.child(place)));
        }
        Ok(())
    }
}
