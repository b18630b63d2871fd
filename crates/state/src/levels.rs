//! The levels of a state, from the top: the active memtable, which is the only one that changes.

mod view;

pub(crate) use view::{Memtable, View};
