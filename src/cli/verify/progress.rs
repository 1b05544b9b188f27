//! How far a check is, on standard error: a bar on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lakeferry_api::Clock as _;
use lakeferry_lake::verify::Listener;

use super::super::inspect::bytes;
use crate::clock::SystemClock;

const EVERY: Duration = Duration::from_secs(5);

/// See the module. The bar goes when it is dropped.
pub(super) struct Progress {
    bar: ProgressBar,
    clock: SystemClock,
    lines: Mutex<Lines>,
    is_terminal: bool,
}

#[derive(Default)]
struct Lines {
    expected: u64,
    done: u64,
    records: u64,
    told_at: Duration,
}

impl Progress {
    /// Nothing is done yet.
    pub(super) fn start() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let template = "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message("files");
        Self { bar, clock: SystemClock::default(), lines: Mutex::default(), is_terminal }
    }

    /// So many more records were compared.
    pub(super) fn compared(&self, records: u64) {
        self.bar.set_message("comparing");
        self.line(|lines| lines.records += records);
    }

    #[allow(clippy::print_stderr, reason = "progress is for people, whatever the log level")]
    fn line(&self, change: impl FnOnce(&mut Lines)) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut lines);
        let now = self.clock.monotonic();
        if self.is_terminal || now.saturating_sub(lines.told_at) < EVERY {
            return;
        }
        lines.told_at = now;
        let (done, expected) = (bytes(lines.done), bytes(lines.expected));
        match lines.records {
            0 => eprintln!("read {done} of {expected}"),
            records => eprintln!("read {done} of {expected}, compared {records} records"),
        }
    }
}

impl Listener for Progress {
    fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
        self.line(|lines| lines.expected += bytes);
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.line(|lines| lines.done += bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
