//! How a snapshot gets its view and its seq: the order of three loads.
//!
//! | snapshot | freeze, and any other change of the levels |
//! | --- | --- |
//! | 1. loads the view | 1. publishes a view |
//! | 2. registers the visible seq, S | 2. later commits go to its active memtable |
//! | 3. loads the view again, and begins anew if it has changed | |
//!
//! A commit up to S that went to a memtable of a later view was published after that view, and so
//! step 3 would see the view: every commit up to S is in the view of step 1. The tables of that
//! view have only commits that were published before it, and so before step 2: none is above S.

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
