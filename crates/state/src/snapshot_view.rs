//! The order of three loads by which a snapshot gets its view and its seq.
//!
//! | snapshot | freeze, and any other change of the levels |
//! | --- | --- |
//! | 1. loads the view | 1. publishes a view |
//! | 2. registers the visible seq, S | 2. later commits go to its active memtable |
//! | 3. loads the view again, and begins anew if it has changed | |
//!
//! Every commit up to S is in the view of step 1: if it had gone to the memtable of a later view,
//! that view would have been published before the commit, and step 3 would see it. No table of the
//! view has a commit above S: tables have only commits that were published before the view, and so
//! before step 2.

use crate::mutants::planted;

/// The view and the ticket of a snapshot.
pub(crate) fn consistent_snapshot<V, T>(
    mut load: impl FnMut() -> V,
    mut is_current: impl FnMut(&V) -> bool,
    mut register: impl FnMut() -> T,
    mut release: impl FnMut(T),
) -> (V, T) {
    loop {
        if planted("levels_seqno_before_view") {
            let ticket = register();
            return (load(), ticket);
        }
        let view = load();
        let ticket = register();
        if is_current(&view) || planted("levels_view_before_seqno") {
            return (view, ticket);
        }
        release(ticket);
    }
}
