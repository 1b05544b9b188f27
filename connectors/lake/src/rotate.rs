//! When is a file full? Pure: facts of the open file and the time in, yes or no out.
//!
//! Two moments are asked for: before a record joins the file (record time) and at any time after (count, bytes, age,
//! wall clock). The second kind fires with no data arriving, because the tick asks too.

use chrono::{Offset, TimeZone, Utc};

use crate::config::Rotation;

/// What rotation needs to know of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// Records in it.
    pub records: u64,
    /// Stored bytes so far, near enough.
    pub stored_bytes: u64,
    /// Wall-clock time when its first record was taken.
    pub opened_at_ms: i64,
    /// Timestamp of its first record that has one.
    pub first_timestamp_ms: Option<i64>,
}

impl Rotation {
    /// True where the file must end before a record of `timestamp_ms` may join: the record lies a whole span or more
    /// after the file's first.
    pub fn ends_before(&self, file: &FileFacts, timestamp_ms: Option<i64>) -> bool {
        match (self.record_time_ms, file.first_timestamp_ms, timestamp_ms) {
            (Some(span), Some(first), Some(timestamp)) => timestamp.saturating_sub(first) >= span,
            _ => false,
        }
    }

    /// How many more records may join.
    pub fn room(&self, file: &FileFacts) -> u64 {
        self.records.saturating_sub(file.records)
    }

    /// True where the file is full, or due at `now_ms`.
    pub fn is_due(&self, file: &FileFacts, now_ms: i64) -> bool {
        let full = file.records >= self.records || file.stored_bytes >= self.bytes;
        let aged = now_ms.saturating_sub(file.opened_at_ms) >= self.age_ms;
        full || aged || self.passed_boundary(file.opened_at_ms, now_ms)
    }

    /// True where a boundary of `rotate.schedule.interval.ms`, counted from midnight in the time zone, lies in
    /// `(opened_at_ms, now_ms]`.
    fn passed_boundary(&self, opened_at_ms: i64, now_ms: i64) -> bool {
        let Some(interval) = self.schedule_ms else { return false };
        let slot = |at_ms: i64| self.local_ms(at_ms).div_euclid(interval);
        now_ms > opened_at_ms && slot(now_ms) != slot(opened_at_ms)
    }

    fn local_ms(&self, at_ms: i64) -> i64 {
        let offset_s = match Utc.timestamp_millis_opt(at_ms).single() {
            Some(utc) => utc.with_timezone(&self.timezone).offset().fix().local_minus_utc(),
            None => 0,
        };
        at_ms.saturating_add(i64::from(offset_s) * 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation() -> Rotation {
        Rotation {
            records: 10,
            bytes: 1_000,
            record_time_ms: Some(3_600_000),
            schedule_ms: None,
            age_ms: 60_000,
            timezone: chrono_tz::UTC,
        }
    }

    fn facts() -> FileFacts {
        FileFacts { records: 1, stored_bytes: 10, opened_at_ms: 1_000_000, first_timestamp_ms: Some(0) }
    }

    #[test]
    fn each_bound_ends_a_file_by_itself() {
        let rotation = rotation();
        assert!(!rotation.is_due(&facts(), 1_059_999));
        assert!(rotation.is_due(&facts(), 1_060_000));
        assert!(rotation.is_due(&FileFacts { records: 10, ..facts() }, 1_000_000));
        assert!(rotation.is_due(&FileFacts { stored_bytes: 1_000, ..facts() }, 1_000_000));
        assert_eq!(rotation.room(&FileFacts { records: 7, ..facts() }), 3);
    }

    #[test]
    fn record_time_counts_from_the_first_timestamp_and_ignores_records_without() {
        let rotation = rotation();
        assert!(!rotation.ends_before(&facts(), Some(3_599_999)));
        assert!(rotation.ends_before(&facts(), Some(3_600_000)));
        assert!(!rotation.ends_before(&facts(), None));
        assert!(!rotation.ends_before(&FileFacts { first_timestamp_ms: None, ..facts() }, Some(i64::MAX)));
        assert!(!rotation.ends_before(&facts(), Some(-5)));
    }

    #[test]
    fn scheduled_boundaries_follow_local_midnight() {
        let hour = 3_600_000;
        let daily = |timezone| Rotation { schedule_ms: Some(24 * hour), age_ms: i64::MAX, timezone, ..rotation() };
        let opened = FileFacts { opened_at_ms: 22 * hour + 1, ..facts() };
        assert!(!daily(chrono_tz::UTC).is_due(&opened, 23 * hour));
        assert!(daily(chrono_tz::UTC).is_due(&opened, 24 * hour));
        // Midnight in Berlin (UTC+1 in January 1970) comes an hour earlier.
        assert!(daily(chrono_tz::Europe::Berlin).is_due(&opened, 23 * hour));
    }
}
