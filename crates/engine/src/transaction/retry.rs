//! Repetition of transactions after a conflict.

use std::time::Duration;

use crate::components::Components;
use crate::error::{Error, Result};
use crate::sync::thread;

/// Maximum number of runs of a transaction.
const MAX_TRIES: u32 = 1000;

/// Number of repetitions without a pause: most conflicts are with a single commit that has ended.
const IMMEDIATE_TRIES: u32 = 3;

/// Maximum of the first pause; it doubles with each pause up to the maximum below.
const FIRST_PAUSE_US: u64 = 8;
const MAX_PAUSE_US: u64 = 1024;

/// Counts the tries of a transaction, and pauses before the next one.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    tries: u32,
}

impl Retries {
    /// Pauses after a conflict, for a random time that grows with the number of tries.
    ///
    /// # Errors
    ///
    /// The conflict, after 1,000 tries; other errors at once.
    pub(crate) fn after(&mut self, failure: Error, components: &Components) -> Result<()> {
        self.tries += 1;
        if !matches!(failure, Error::TransactionConflict(_)) || self.tries == MAX_TRIES {
            return Err(failure);
        }
        let Some(paused_before) = self.tries.checked_sub(IMMEDIATE_TRIES + 1) else {
            thread::yield_now();
            return Ok(());
        };
        let bound_us = MAX_PAUSE_US.min(FIRST_PAUSE_US << paused_before.min(MAX_PAUSE_US.ilog2()));
        // If randomness fails, the pause takes the maximum.
        let random = components.entropy.next_u64().unwrap_or(bound_us);
        components.clock.sleep(Duration::from_micros(random % bound_us + 1));
        Ok(())
    }
}
