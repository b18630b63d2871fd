//! Instrumentation for applications: counters and histograms for
//! [`metrics`](https://docs.rs/metrics), spans for [`tracing`](https://docs.rs/tracing). Both are
//! features of the crate; without them only the call of the closure is compiled.
//!
//! | metric | kind | labels |
//! | --- | --- | --- |
//! | `hightower_operation_seconds` | histogram; its count is the number of operations | `operation` |
//! | `hightower_failures_total` | counter | `operation`, `code`: [`Error::code`](crate::Error::code) |
//!
//! A panic of a recorder or subscriber is counted in [`Stats`](crate::Stats), and the operation
//! continues. They must not call the store, because an operation may hold its locks.
//!
//! A write without waiting is counted like any other; its time runs from the call to its outcome.
//! It has no span.
//!
//! Spans have the operation's name and the target `hightower`: at level `TRACE` for reads and
//! writes, otherwise `DEBUG`.

use crate::error::{Error, Result};
use crate::guarded::Panics;

/// Panics of the recorder and the subscriber, which are per process.
pub(crate) static INSTRUMENTS: Panics = Panics::new();

/// Panics of callbacks and wakers of tickets, per process, because a ticket may outlive its store.
pub(crate) static CALLBACKS: Panics = Panics::new();

/// The measured operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(any(feature = "metrics", feature = "tracing")), allow(dead_code, reason = "named in calls only"))]
pub(crate) enum Operation {
    Open,
    Get,
    Put,
    Delete,
    Submit,
    Merge,
    Batch,
    Sync,
    Compaction,
    Checkpoint,
    Backup,
    Close,
}

/// Runs an operation with instrumentation.
#[inline(always)]
pub(crate) fn observe<T>(operation: Operation, run: impl FnOnce() -> Result<T>) -> Result<T> {
    #[cfg(feature = "tracing")]
    let _entered = Entered::new(operation);
    #[cfg(feature = "metrics")]
    let started = std::time::Instant::now();
    let result = run();
    #[cfg(feature = "metrics")]
    {
        let took = started.elapsed();
        // Recorded; the measurement is lost.
        let _recorded = INSTRUMENTS.catch("the recorder of metrics", || operation.record(took, result.as_ref().err()));
    }
    #[cfg(not(any(feature = "metrics", feature = "tracing")))]
    let _ = operation;
    result
}

/// The measurement of a write without waiting, from the call to its outcome. The committing thread
/// records it. Such a write has no span, because it runs on two threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandedIn {
    #[cfg(feature = "metrics")]
    operation: Operation,
    #[cfg(feature = "metrics")]
    at: std::time::Instant,
}

impl HandedIn {
    /// Starts the measurement.
    #[inline(always)]
    pub(crate) fn now(operation: Operation) -> Self {
        #[cfg(not(feature = "metrics"))]
        let _ = operation;
        Self {
            #[cfg(feature = "metrics")]
            operation,
            #[cfg(feature = "metrics")]
            at: std::time::Instant::now(),
        }
    }

    /// Ends the measurement with the write's outcome.
    #[inline(always)]
    pub(crate) fn record(self, failure: Option<&Error>) {
        #[cfg(feature = "metrics")]
        {
            let took = self.at.elapsed();
            // The panic is counted; this measurement is lost.
            let _recorded = INSTRUMENTS.catch("the recorder of metrics", || self.operation.record(took, failure));
        }
        #[cfg(not(feature = "metrics"))]
        let _ = failure;
    }
}

/// An entered span, until it is dropped; none if the subscriber panicked.
#[cfg(feature = "tracing")]
struct Entered(Option<tracing::span::EnteredSpan>);

#[cfg(feature = "tracing")]
const SUBSCRIBER: &str = "the subscriber of spans";

#[cfg(feature = "tracing")]
impl Entered {
    fn new(operation: Operation) -> Self {
        Self(INSTRUMENTS.catch(SUBSCRIBER, || operation.span().entered()).ok())
    }
}

#[cfg(feature = "tracing")]
impl Drop for Entered {
    fn drop(&mut self) {
        let span = self.0.take();
        // Recorded; the operation has ended anyway.
        let _left = INSTRUMENTS.catch(SUBSCRIBER, || drop(span));
    }
}

#[cfg(feature = "metrics")]
impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Submit => "submit",
            Self::Merge => "merge",
            Self::Batch => "batch",
            Self::Sync => "sync",
            Self::Compaction => "compaction",
            Self::Checkpoint => "checkpoint",
            Self::Backup => "backup",
            Self::Close => "close",
        }
    }

    fn record(self, took: std::time::Duration, failure: Option<&Error>) {
        metrics::histogram!("hightower_operation_seconds", "operation" => self.name()).record(took);
        if let Some(failure) = failure {
            metrics::counter!("hightower_failures_total", "operation" => self.name(), "code" => failure.code())
                .increment(1);
        }
    }
}

#[cfg(feature = "tracing")]
impl Operation {
    fn span(self) -> tracing::Span {
        use tracing::{debug_span, trace_span};
        match self {
            Self::Open => debug_span!(target: "hightower", "open"),
            Self::Get => trace_span!(target: "hightower", "get"),
            Self::Put => trace_span!(target: "hightower", "put"),
            Self::Delete => trace_span!(target: "hightower", "delete"),
            Self::Submit => trace_span!(target: "hightower", "submit"),
            Self::Merge => trace_span!(target: "hightower", "merge"),
            Self::Batch => trace_span!(target: "hightower", "batch"),
            Self::Sync => debug_span!(target: "hightower", "sync"),
            Self::Compaction => debug_span!(target: "hightower", "compaction"),
            Self::Checkpoint => debug_span!(target: "hightower", "checkpoint"),
            Self::Backup => debug_span!(target: "hightower", "backup"),
            Self::Close => debug_span!(target: "hightower", "close"),
        }
    }
}
