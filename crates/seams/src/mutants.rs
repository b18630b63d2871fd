//! Planted bugs, which show that the tests detect them. `cargo xtask mutants` lists all of them.
//!
//! In a build with `--cfg mutants` the environment variable `HIGHTOWER_MUTANT` names the active
//! bug. Other builds contain no planted bugs.

/// Whether the bug with this name is active.
#[must_use]
#[cfg(mutants)]
pub fn planted(name: &str) -> bool {
    static ACTIVE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ACTIVE.get_or_init(|| std::env::var("HIGHTOWER_MUTANT").ok()).as_deref() == Some(name)
}

/// Always `false`: this build has no planted bugs.
#[must_use]
#[cfg(not(mutants))]
#[inline(always)]
pub const fn planted(_name: &str) -> bool {
    false
}
