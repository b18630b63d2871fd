//! Transactions: beginning them, and repeating them until they commit.

use crate::batch::{Batch, BatchOutcome, Committed};
use crate::config::Durability;
use crate::engine::SingleNodeEngine;
use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::observe::{Operation, observe};
use crate::ticket::Ticket;
use crate::transaction::counters::committed;
use crate::transaction::{Retries, Transaction};

/// # Transactions
///
/// Reads and writes that take effect as one: see [`Transaction`]. For one key,
/// [`fetch_update`](Self::fetch_update) is simpler; for writes with conditions on known keys, a
/// [`Batch`].
impl SingleNodeEngine {
    /// Begins a transaction: its reads see the latest commit. Costs a snapshot.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let mut transaction = engine.transaction()?;
    /// if transaction.prefix("users/")?.next().is_none() {
    ///     transaction.put("users/1", "root")?;
    /// }
    /// transaction.commit()?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Forked`].
    pub fn transaction(&self) -> Result<Transaction<'_>> {
        Transaction::begin(self, usize::try_from(self.config.max_transaction_bytes).unwrap_or(usize::MAX))
    }

    /// Runs `change` in a transaction and commits it; after a conflict again, with a new
    /// transaction, up to 1,000 times. From the fourth repetition on it pauses before, for a random
    /// time of up to 1 ms. Returns the result of the run that was committed.
    ///
    /// `change` should do nothing but read and write the transaction. If it returns an error, the
    /// transaction is discarded, and the error returned.
    ///
    /// ```
    /// # use hightower_engine::{Error, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("queue/1", "a job")?;
    /// // Of several workers one gets the job.
    /// let job = engine.update(|queue| {
    ///     let Some(first) = queue.prefix("queue/")?.next().transpose()? else { return Ok(None) };
    ///     let (key, job) = first.into_pair()?;
    ///     queue.delete(&key)?;
    ///     queue.put("claims/worker-7", &job)?;
    ///     Ok(Some(job))
    /// })?;
    /// assert_eq!(job.unwrap(), "a job");
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `change` and of the commit: [`Transaction::commit`]. The last conflict after 1,000.
    pub fn update<R>(&self, change: impl FnMut(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        self.update_with(self.durability, change)
    }

    /// As [`update`](Self::update), with a durability for this call.
    ///
    /// ```
    /// # use hightower_engine::{Durability, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.update_with(Durability::Sync, |transaction| transaction.put("a", "1"))?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`update`](Self::update).
    pub fn update_with<R>(
        &self,
        durability: Durability,
        mut change: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<R> {
        let mut retries = Retries::default();
        loop {
            let mut transaction = self.transaction()?;
            let result = change(&mut transaction)?;
            match transaction.commit_with(durability) {
                Ok(_) => return Ok(result),
                Err(Error::TransactionConflict(_)) if planted("update_keeps_stale_reads") => return Ok(result),
                Err(failure) => retries.after(failure, &self.components)?,
            }
        }
    }

    /// Commits a batch, and waits for its durability.
    pub(crate) fn commit_owned(&self, batch: Batch, durability: Durability) -> Result<BatchOutcome> {
        observe(Operation::Batch, || match self.pipeline()? {
            Some(pipeline) => pipeline.commit(batch, durability),
            None => self.write.commit_batch(&batch, durability),
        })
    }

    /// Queues the batch of a transaction.
    pub(crate) fn commit_transaction_async(&self, batch: Batch, durability: Durability) -> Result<Ticket<Committed>> {
        self.hand_in(Operation::Batch, |handed_in| match self.pipeline()? {
            Some(pipeline) => pipeline.submit_transaction(batch, durability, handed_in, &self.transactions),
            None => {
                let outcome = self.commit_owned(batch, durability).and_then(committed);
                Ok(Ticket::ready(self.transactions.count(outcome)))
            }
        })
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }
}
