//! Planted bugs, for tests that must find them. In a normal build [`on`] is constant and the compiler removes them.

/// Whether the planted bug `name` is switched on.
#[cfg(not(mutants))]
#[inline(always)]
pub(crate) const fn on(_name: &str) -> bool {
    false
}

#[cfg(mutants)]
pub use switched::{on, switch};

#[cfg(mutants)]
mod switched {
    use parking_lot::Mutex;

    static ON: Mutex<Option<String>> = Mutex::new(None);

    /// Switches one planted bug on, and all others off. Before the first call the environment variable `HIGHTOWER_MUTANT` decides.
    pub fn switch(name: &str) {
        *ON.lock() = Some(name.to_owned());
    }

    /// Whether the planted bug `name` is switched on.
    pub fn on(name: &str) -> bool {
        let mut on = ON.lock();
        on.get_or_insert_with(|| std::env::var("HIGHTOWER_MUTANT").unwrap_or_default()) == name
    }
}
