//! Progress bars on standard error, shown on terminals only.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use hightower_kv::{Error, OpenPhase, OpenProgress, RepairProgress};
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;
use crate::interrupt;
use crate::screen::Screen;

/// Number of records between two updates of a bar. indicatif limits the drawing.
pub(crate) const STEP_RECORDS: u64 = 256;

/// A progress bar, or none.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar of bytes, without a total if it is unknown.
    pub(crate) fn bytes(screen: Screen, total: Option<u64>) -> Self {
        match total {
            Some(total) => Self::start(screen, Some(total), "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}"),
            None => Self::start(screen, None, "{spinner} {bytes} {bytes_per_sec}"),
        }
    }

    /// A bar of `total` records.
    pub(crate) fn records(screen: Screen, total: u64) -> Self {
        Self::start(screen, Some(total), "{bar:30} {human_pos}/{human_len} records {per_sec} {eta}")
    }

    /// A named bar of `total` steps.
    pub(crate) fn steps(screen: Screen, what: &'static str, total: u64) -> Self {
        let bar = Self::start(screen, Some(total), "{msg} {bar:30} {human_pos}/{human_len} {eta}");
        bar.bar.set_message(what);
        bar
    }

    /// A spinner with the elapsed time, for work without progress reports.
    pub(crate) fn spinner(screen: Screen, what: &'static str) -> Self {
        let spinner = Self::start(screen, None, "{spinner} {msg} {elapsed}");
        spinner.bar.set_message(what);
        spinner
    }

    /// No bar.
    pub(crate) fn hidden() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    fn start(screen: Screen, total: Option<u64>, template: &str) -> Self {
        if screen.json {
            return Self::hidden();
        }
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { bar }
    }

    pub(crate) fn set(&self, position: u64) {
        self.bar.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Fails after Ctrl-C.
fn unless_interrupted() -> ControlFlow<()> {
    if interrupt::check().is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// Runs `work` on a store's files with a bar of bytes; Ctrl-C stops it.
pub(crate) fn watched<T>(
    screen: Screen,
    work: impl FnOnce(&mut dyn FnMut(RepairProgress) -> ControlFlow<()>) -> Result<T, Error>,
) -> Result<T, Failure> {
    let mut bar = None;
    let done = work(&mut |progress| {
        bar.get_or_insert_with(|| Progress::bytes(screen, Some(progress.total_bytes))).set(progress.done_bytes);
        unless_interrupted()
    });
    drop(bar);
    done.map_err(Failure::or_interrupted)
}

/// Delay before the bar of an opening appears, so that a fast opening shows none.
const OPEN_QUIETLY: Duration = Duration::from_millis(400);

/// The progress of opening a store.
#[derive(Debug)]
pub(crate) struct OpenBar {
    screen: Screen,
    started: Instant,
    bar: Option<(OpenPhase, Progress)>,
}

impl OpenBar {
    pub(crate) fn new(screen: Screen) -> Self {
        Self { screen, started: Instant::now(), bar: None }
    }

    /// Shows the progress, and stops the opening after Ctrl-C.
    pub(crate) fn show(&mut self, progress: &OpenProgress) -> ControlFlow<()> {
        let OpenProgress { phase, done, total, .. } = *progress;
        if self.started.elapsed() < OPEN_QUIETLY {
            return unless_interrupted();
        }
        if self.bar.as_ref().is_none_or(|(shown, _)| *shown != phase) {
            let template = match phase {
                OpenPhase::Index => "building the index {bar:30} {percent}% {eta}",
                OpenPhase::Rebuild => "rebuilding a table {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                // The log, and phases of later versions.
                _ => "reading the log {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            };
            self.bar = Some((phase, Progress::start(self.screen, Some(total), template)));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set(done);
        }
        unless_interrupted()
    }
}
