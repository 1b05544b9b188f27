//! One measurement, and how it is printed.

use serde::Serialize;

/// What was measured of one program on one data set.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    /// The program: what ran.
    pub(crate) program: String,
    /// The data set, in words.
    pub(crate) data: String,
    pub(crate) records: u64,
    /// Bytes of keys and values.
    pub(crate) bytes: u64,
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    pub(crate) peak_rss_mb: f64,
    pub(crate) files: usize,
    pub(crate) stored_bytes: u64,
}

/// What a line is compared with, in MB per core-second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Against {
    pub(crate) limit: Option<f64>,
    pub(crate) peer: Option<f64>,
}

impl Line {
    /// What [`Line::text`] puts below each other.
    pub(crate) const HEAD: &'static str = "\
        program             data                k rec/s    MB/s   CPU s  MB/core-s  k rec/core-s  peak MB  files  \
        stored MB  of limit  x peer";

    pub(crate) fn mb_per_core_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.cpu_s
    }

    pub(crate) fn text(&self, against: &Against) -> String {
        let ratio = |to: Option<f64>| to.map_or("-".to_owned(), |to| format!("{:.2}", self.mb_per_core_s() / to));
        format!(
            "{:<19} {:<19} {:>7.0} {:>7.0} {:>7.2} {:>10.1} {:>13.0} {:>8.0} {:>6} {:>10.0} {:>9} {:>7}",
            self.program,
            self.data,
            self.records as f64 / 1e3 / self.wall_s,
            self.bytes as f64 / 1e6 / self.wall_s,
            self.cpu_s,
            self.mb_per_core_s(),
            self.records as f64 / 1e3 / self.cpu_s,
            self.peak_rss_mb,
            self.files,
            self.stored_bytes as f64 / 1e6,
            ratio(against.limit),
            ratio(against.peer),
        )
    }
}
