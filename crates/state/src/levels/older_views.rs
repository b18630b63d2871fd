//! The views that were replaced and may still be in use.

use std::fmt;
use std::sync::Weak;

use crate::levels::view::View;

/// The views of a state that were replaced before one moment. Readers, snapshots and ranges hold
/// views.
///
/// A segment or a table that the view of that moment no longer has must stay readable while one of
/// the older views is in use: any of them may lead to it, also through a memtable.
///
/// ```
/// use hightower_state::{Change, CommandKind, LeveledKvState, SegmentSet, pin};
///
/// let state = LeveledKvState::<u32>::new();
/// let change = Change { key: b"a", version: 1, kind: CommandKind::Set, location: 64, len_bytes: 0 };
/// state.writer().begin(1, &pin())?.apply(&change);
/// let snapshot = state.snapshot();
/// let mut writer = state.writer();
/// writer.freeze(state.spare_memtable(), &pin());
/// let older = writer.older_views();
/// assert!(older.are_in_use());
/// drop((writer, snapshot));
/// // The last guards of readers end soon.
/// (0..1000).take_while(|_| older.are_in_use()).for_each(|_| pin().flush());
/// assert!(!older.are_in_use());
/// # Ok::<(), hightower_state::StateError>(())
/// ```
#[derive(Clone)]
pub struct OlderViews(Vec<Weak<View>>);

impl OlderViews {
    pub(crate) fn new(views: Vec<Weak<View>>) -> Self {
        Self(views)
    }

    /// Whether one of them is still in use. Once it returns `false`, it always does.
    ///
    /// Example: [`OlderViews`].
    #[must_use]
    pub fn are_in_use(&self) -> bool {
        self.0.iter().any(|view| view.strong_count() > 0)
    }
}

impl fmt::Debug for OlderViews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OlderViews").field("are_in_use", &self.are_in_use()).finish_non_exhaustive()
    }
}
