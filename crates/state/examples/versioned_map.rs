//! A versioned, ordered map in memory: strings are in a slab, and the state has their slots.
//!
//! Run it with `cargo run -p hightower-state --example versioned_map`.

use std::sync::{Arc, RwLock};

use hightower_state::{ConcurrentKvState, StateError};

/// Strings by slot; slots are never reused.
#[derive(Default)]
struct Slab(RwLock<Vec<Arc<str>>>);

impl Slab {
    fn add(&self, value: &str) -> u32 {
        let mut values = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        values.push(value.into());
        u32::try_from(values.len() - 1).unwrap_or(u32::MAX)
    }

    fn get(&self, slot: u32) -> Option<Arc<str>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(slot as usize).cloned()
    }
}

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> Result<(), StateError> {
    let (slab, state) = (Slab::default(), ConcurrentKvState::<u32>::new());
    for (version, (key, value)) in (1..).zip([("nodes/a", "ready"), ("nodes/b", "ready"), ("pods/web", "running")]) {
        state.set(key.as_bytes(), version, slab.add(value))?;
    }

    let before = state.snapshot();
    state.set(b"nodes/a", 10, slab.add("draining"))?;
    state.delete(b"nodes/b", 11, 0)?;
    state.set(b"nodes/b", 4, slab.add("too late"))?; // version 4 is below 11: stale

    for (title, snapshot) in [("before", before), ("after", state.snapshot())] {
        println!("{title} (seq {}):", snapshot.seq());
        for (key, found) in snapshot.prefix(b"nodes/") {
            let value = slab.get(found.location).unwrap_or_default();
            println!("  {} = {value} (version {})", String::from_utf8_lossy(&key), found.version);
        }
    }
    Ok(())
}
