//! Progress bars on standard error: seen on terminals, silent elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::screen::Screen;

/// How often a bar is drawn at most is indicatif's business; how often it is told is ours: this many records.
pub(crate) const STEP_RECORDS: u64 = 256;

/// A bar, or nothing.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Of so many bytes; of bytes without an end if that is not known.
    pub(crate) fn bytes(screen: Screen, total: Option<u64>) -> Self {
        match total {
            Some(total) => Self::start(screen, Some(total), "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}"),
            None => Self::start(screen, None, "{spinner} {bytes} {bytes_per_sec}"),
        }
    }

    /// Of so many records.
    pub(crate) fn records(screen: Screen, total: u64) -> Self {
        Self::start(screen, Some(total), "{bar:30} {human_pos}/{human_len} records {per_sec} {eta}")
    }

    /// Nothing to see.
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
