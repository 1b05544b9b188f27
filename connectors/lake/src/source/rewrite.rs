//! What a replay may change in a record, and only where it was told to: a timestamp that cannot be produced, and
//! headers that say where the record came from.

use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::{Batch, BatchBuilder, ConnectError, Result, TimestampType};

use super::read::is_untimed;

/// The header that names the archived topic.
pub const ORIGIN_TOPIC: &str = "lakeferry.origin.topic";
/// The header that names the archived partition.
pub const ORIGIN_PARTITION: &str = "lakeferry.origin.partition";
/// The header that names the archived offset.
pub const ORIGIN_OFFSET: &str = "lakeferry.origin.offset";
/// The header that says the archived timestamp, where there is one.
pub const ORIGIN_TIMESTAMP: &str = "lakeferry.origin.timestamp";

/// What is changed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rewrite {
    /// Untimed records are stamped now.
    pub(super) stamp_untimed: bool,
    /// Headers are added.
    pub(super) provenance: bool,
}

impl Rewrite {
    /// `batch` as it is to be written at `now_ms`; the same where there is nothing to change.
    ///
    /// # Errors
    /// `Config` where a record cannot be produced as it was.
    pub(super) fn apply(self, batch: Batch, now_ms: i64) -> Result<Batch> {
        let untimed = batch.timestamps().iter().position(|timestamp| is_untimed(*timestamp));
        if let Some(at) = untimed.filter(|_| !self.stamp_untimed) {
            return Err(ConnectError::config(format!(
                "the record at offset {} of {} has no timestamp or one of 0 or less, which the client library cannot produce; \
                 set replay.untimed=now to stamp such records when they are replayed",
                batch.offsets()[at],
                batch.partition()
            )));
        }
        if untimed.is_none() && !self.provenance {
            return Ok(batch);
        }
        let mut builder = BatchBuilder::new(batch.partition().clone(), batch.base_offset());
        for row in batch.rows() {
            let stamp = match row.timestamp().unwrap_or(NO_TIMESTAMP) {
                timestamp if is_untimed(timestamp) => (now_ms, Some(TimestampType::Create)),
                timestamp => (timestamp, row.timestamp_type()),
            };
            builder.push(row.offset(), stamp, row.key(), row.value());
            for (key, value) in row.headers() {
                builder.header(key, value);
            }
            if self.provenance {
                builder.header(ORIGIN_TOPIC, Some(batch.partition().topic.as_bytes()));
                builder.header(ORIGIN_PARTITION, Some(batch.partition().partition.to_string().as_bytes()));
                builder.header(ORIGIN_OFFSET, Some(row.offset().to_string().as_bytes()));
                let timestamp = row.timestamp().map(|timestamp| timestamp.to_string());
                builder.header(ORIGIN_TIMESTAMP, timestamp.as_deref().map(str::as_bytes));
            }
        }
        Ok(builder.build(batch.next_offset()))
    }
}

#[cfg(test)]
mod tests {
    use lakeferry_api::TopicPartition;

    use super::*;

    fn batch() -> Batch {
        let mut builder = BatchBuilder::new(TopicPartition::new("orders", 2), 3);
        builder.push(5, (1_000, Some(TimestampType::Append)), Some(b"k"), None);
        builder.header("a", None);
        builder.push(6, (NO_TIMESTAMP, None), None, Some(b"v"));
        builder.push(7, (0, Some(TimestampType::Create)), None, Some(b""));
        builder.build(9)
    }

    #[test]
    fn nothing_is_changed_unless_asked() {
        let timed = batch().slice(0..1);
        let same = Rewrite::default().apply(timed.clone(), 77).unwrap();
        assert_eq!(same.keys().bytes().as_ptr(), timed.keys().bytes().as_ptr(), "not even copied");
        for at in [1, 2] {
            let error = Rewrite::default().apply(batch().slice(at..3), 77).unwrap_err();
            assert!(error.message().contains(&format!("offset {} of orders-2", 5 + at)), "{error}");
        }
    }

    #[test]
    fn only_what_was_asked_for_changes() {
        let stamped = Rewrite { stamp_untimed: true, provenance: false }.apply(batch(), 77).unwrap();
        assert_eq!(stamped.timestamps(), [1_000, 77, 77]);
        assert_eq!((stamped.offsets(), stamped.base_offset(), stamped.next_offset()), (&[5, 6, 7][..], 3, 9));
        assert_eq!(stamped.row(0).headers().collect::<Vec<_>>(), [("a", None)]);
        assert_eq!((stamped.row(0).value(), stamped.row(2).value()), (None, Some(&b""[..])));

        let told = Rewrite { stamp_untimed: true, provenance: true }.apply(batch(), 77).unwrap();
        let headers: Vec<_> = told.row(0).headers().collect();
        let expected: [(&str, Option<&[u8]>); 5] = [
            ("a", None),
            (ORIGIN_TOPIC, Some(b"orders")),
            (ORIGIN_PARTITION, Some(b"2")),
            (ORIGIN_OFFSET, Some(b"5")),
            (ORIGIN_TIMESTAMP, Some(b"1000")),
        ];
        assert_eq!(headers, expected);
        assert_eq!(told.row(1).headers().last(), Some((ORIGIN_TIMESTAMP, None)));
    }
}
