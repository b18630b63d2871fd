//! Planted bugs, so that the tests can show that they see them; `cargo xtask mutants` lists them
//! all.
//!
//! In a build with `--cfg mutants` the environment variable `HIGHTOWER_MUTANT` names the one that
//! is active; in any other build none exists.

/// Whether the bug of this name is active.
#[must_use]
#[cfg(mutants)]
pub fn planted(name: &str) -> bool {
    static ACTIVE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ACTIVE.get_or_init(|| std::env::var("HIGHTOWER_MUTANT").ok()).as_deref() == Some(name)
}

/// Never: this build has no planted bugs.
#[must_use]
#[cfg(not(mutants))]
#[inline(always)]
pub const fn planted(_name: &str) -> bool {
    false
}
