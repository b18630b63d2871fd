//! The set of segments that the table entries of a view may point into.

use std::sync::Arc;

/// The segments that exist for the entries of tables. A table entry that points into any other
/// segment does not count: it hides no entry below it.
///
/// Entries of memtables always count. A clone shares the numbers.
///
/// ```
/// use hightower_state::SegmentSet;
///
/// let segments = SegmentSet::new([7, 3, 7]);
/// assert!(segments.contains(3) && !segments.contains(4));
/// assert_eq!(segments.numbers(), [3, 7]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentSet {
    /// Ascending.
    numbers: Arc<[u32]>,
}

impl SegmentSet {
    /// The set of these segments. Costs a sort, and 4 bytes per segment.
    ///
    /// Example: [`SegmentSet`].
    #[must_use]
    pub fn new(segments: impl IntoIterator<Item = u32>) -> Self {
        let mut numbers: Vec<_> = segments.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        Self { numbers: numbers.into() }
    }

    /// Whether it has this segment. Costs a binary search.
    ///
    /// Example: [`SegmentSet`].
    #[must_use]
    #[inline]
    pub fn contains(&self, segment: u32) -> bool {
        self.numbers.binary_search(&segment).is_ok()
    }

    /// The numbers of the segments, ascending. Example: [`SegmentSet`].
    #[must_use]
    pub fn numbers(&self) -> &[u32] {
        &self.numbers
    }
}
