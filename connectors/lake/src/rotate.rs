//! When is a file full? Pure: facts of the open file and the time in, yes or no out.
//!
//! Two moments are asked for: before a record joins the file (record time, count) and at any time after (count,
//! bytes, age, wall clock). The second kind fires with no data arriving, because the tick asks too.

use std::time::Duration;

use chrono::{Offset, TimeZone, Utc};
use lakeferry_api::{Batch, Clock};

use crate::config::Rotation;

/// What rotation needs to know of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// Records in it.
    pub records: u64,
    /// Stored bytes so far, near enough.
    pub stored_bytes: u64,
    /// When its first record was taken.
    pub opened: Moment,
    /// Timestamp of its first record that has one.
    pub first_timestamp_ms: Option<i64>,
}

/// A moment by both clocks: the wall's, which may be set back, and the one that only goes on but stands still while a
/// machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By the wall clock, in milliseconds since the Unix epoch.
    pub wall_ms: i64,
    /// By the other one, since some fixed moment.
    pub monotonic: Duration,
}

impl Moment {
    /// This moment.
    pub fn now(clock: &dyn Clock) -> Self {
        Self { wall_ms: clock.now_ms(), monotonic: clock.monotonic() }
    }
}

impl Rotation {
    /// `rotate.age.ms`.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.age_ms.unsigned_abs())
    }

    /// How many rows of `batch` may join the file before it must end: it is full, or a row lies a whole span of record
    /// time or more after the file's first.
    pub fn fitting_rows(&self, file: &FileFacts, batch: &Batch) -> usize {
        let room = usize::try_from(self.records.saturating_sub(file.records)).unwrap_or(usize::MAX).min(batch.len());
        let Some(span_ms) = self.record_time_ms else { return room };
        let mut first_ms = file.first_timestamp_ms;
        let joins = |timestamp_ms: Option<i64>| {
            first_ms = first_ms.or(timestamp_ms);
            let ahead_ms = timestamp_ms.zip(first_ms).map(|(timestamp, first)| timestamp.saturating_sub(first));
            ahead_ms.is_none_or(|ahead| ahead < span_ms)
        };
        batch.rows().take(room).map(|row| row.timestamp()).map(joins).take_while(|joins| *joins).count()
    }

    /// True where the file is full, or due `now`: of its age by whichever clock says so first.
    pub fn is_due(&self, file: &FileFacts, now: Moment) -> bool {
        let full = file.records >= self.records || file.stored_bytes >= self.bytes;
        let opened = file.opened;
        let aged = now.wall_ms.saturating_sub(opened.wall_ms) >= self.age_ms
            || now.monotonic.saturating_sub(opened.monotonic) >= self.age();
        full || aged || self.passed_boundary(opened.wall_ms, now.wall_ms)
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
    use lakeferry_api::TopicPartition;
    use lakeferry_api::batch::NO_TIMESTAMP;

    use super::*;
    use crate::testing::{batch, row};

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
        FileFacts { records: 1, stored_bytes: 10, opened: at(1_000_000), first_timestamp_ms: Some(0) }
    }

    /// A moment at which both clocks say the same.
    fn at(ms: i64) -> Moment {
        Moment { wall_ms: ms, monotonic: Duration::from_millis(ms as u64) }
    }

    #[test]
    fn each_bound_ends_a_file_by_itself() {
        let rotation = rotation();
        assert!(!rotation.is_due(&facts(), at(1_059_999)));
        assert!(rotation.is_due(&facts(), at(1_060_000)));
        assert!(rotation.is_due(&FileFacts { records: 10, ..facts() }, at(1_000_000)));
        assert!(rotation.is_due(&FileFacts { stored_bytes: 1_000, ..facts() }, at(1_000_000)));
    }

    #[test]
    fn either_clock_tells_the_age() {
        let set_back = |ms| Moment { wall_ms: 0, ..at(ms) };
        assert!(!rotation().is_due(&facts(), set_back(1_059_999)));
        assert!(rotation().is_due(&facts(), set_back(1_060_000)));
        let slept = |ms| Moment { monotonic: facts().opened.monotonic, ..at(ms) };
        assert!(!rotation().is_due(&facts(), slept(1_059_999)));
        assert!(rotation().is_due(&facts(), slept(1_060_000)));
    }

    /// How many of rows with these timestamps may join.
    fn fitting(file: &FileFacts, timestamps: &[i64]) -> usize {
        let rows: Vec<_> = timestamps.iter().zip(0..).map(|(timestamp, offset)| row(offset, *timestamp)).collect();
        rotation().fitting_rows(file, &batch(&TopicPartition::new("orders", 0), &rows))
    }

    #[test]
    fn a_file_takes_no_more_records_than_its_bound() {
        assert_eq!(fitting(&FileFacts { records: 7, ..facts() }, &[0; 5]), 3);
        assert_eq!(fitting(&FileFacts { records: 7, ..facts() }, &[0; 2]), 2);
        assert_eq!(fitting(&FileFacts { records: 10, ..facts() }, &[0]), 0);
    }

    #[test]
    fn record_time_counts_from_the_first_timestamp_and_ignores_records_without() {
        assert_eq!(fitting(&facts(), &[3_599_999, 3_600_000, 0]), 1);
        assert_eq!(fitting(&facts(), &[NO_TIMESTAMP, 3_600_000]), 1);
        assert_eq!(fitting(&facts(), &[-5]), 1);
        let untimed = FileFacts { first_timestamp_ms: None, ..facts() };
        assert_eq!(fitting(&untimed, &[NO_TIMESTAMP, i64::MAX, i64::MAX - 1]), 3, "the first that has one counts");
        assert_eq!(fitting(&untimed, &[5, 3_600_005]), 1);
    }

    #[test]
    fn scheduled_boundaries_follow_local_midnight() {
        let hour = 3_600_000;
        let daily = |timezone| Rotation { schedule_ms: Some(24 * hour), age_ms: i64::MAX, timezone, ..rotation() };
        let opened = FileFacts { opened: at(22 * hour + 1), ..facts() };
        assert!(!daily(chrono_tz::UTC).is_due(&opened, at(23 * hour)));
        assert!(daily(chrono_tz::UTC).is_due(&opened, at(24 * hour)));
        // Midnight in Berlin (UTC+1 in January 1970) comes an hour earlier.
        assert!(daily(chrono_tz::Europe::Berlin).is_due(&opened, at(23 * hour)));
    }
}
