//! What a restore has done: counted as the brokers acknowledge, told at the end, and asked for the way on when it was
//! cut short.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use lakeferry_api::{Result, SourceOffset, SourcePartition, TopicPartition};
use lakeferry_lake::manifest::model::OffsetRange;
use lakeferry_lake::source::replay::source_partition;
use serde_json::json;

use crate::cli::inspect::bytes;

/// The offset after the last: no log has more.
const END: i64 = i64::MAX - 1;

/// Acknowledged records, by archived partition.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) records: u64,
    pub(super) raw_bytes: u64,
    pub(super) took: Duration,
    pub(super) is_complete: bool,
    /// Some records were sent of which nobody knows whether they arrived.
    pub(super) is_doubtful: bool,
    logs: BTreeMap<SourcePartition, Log>,
    records_by_topic: BTreeMap<String, u64>,
}

/// One archived partition.
#[derive(Debug)]
struct Log {
    partition: TopicPartition,
    planned: u64,
    records: u64,
    /// What is wanted of it and not acknowledged.
    rest: Vec<OffsetRange>,
}

impl Account {
    /// Takes note that `planned` records of `partition` are part of the restore: all of it, or these `ranges`. A way on
    /// that is told must name the partitions that had no turn yet, too.
    pub(super) fn plan(
        &mut self,
        partition: TopicPartition,
        planned: u64,
        ranges: Option<&[OffsetRange]>,
    ) -> Result<()> {
        let rest = ranges.map_or_else(|| vec![OffsetRange::new(0, END)], <[OffsetRange]>::to_vec);
        self.logs.insert(source_partition(&partition)?, Log { partition, planned, records: 0, rest });
        Ok(())
    }

    /// A batch that ends before `offset` is in the target, and everything of the partition before it.
    pub(super) fn acknowledge(
        &mut self,
        partition: &SourcePartition,
        offset: Option<&SourceOffset>,
        (records, raw_bytes): (u64, u64),
    ) {
        self.records += records;
        self.raw_bytes += raw_bytes;
        let Some(log) = self.logs.get_mut(partition) else { return };
        log.records += records;
        *self.records_by_topic.entry(log.partition.topic.to_string()).or_default() += records;
        if let Some(next) = offset.and_then(|offset| offset.as_map().get("offset")?.as_i64()) {
            log.rest.retain(|range| range.to >= next);
            log.rest.iter_mut().for_each(|range| range.from = range.from.max(next));
        }
    }

    /// What is left of each partition, as `--offsets` takes it.
    pub(super) fn rest(&self) -> Vec<String> {
        let logs = self.logs.values().filter(|log| log.records < log.planned);
        let ranges = |log: &Log| {
            let TopicPartition { topic, partition } = log.partition.clone();
            let text = move |range: &OffsetRange| format!("{topic}:{partition}:{}:{}", range.from, range.to);
            log.rest.iter().map(text).collect::<Vec<_>>()
        };
        logs.flat_map(ranges).collect()
    }

    pub(super) fn tell(&self, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
        let seconds = self.took.as_secs_f64().max(0.001);
        if as_json {
            let account = json!({
                "complete": self.is_complete,
                "records": self.records,
                "raw_bytes": self.raw_bytes,
                "seconds": seconds,
                "records_by_topic": self.records_by_topic,
            });
            writeln!(out, "{account}")?;
            return Ok(());
        }
        for (topic, records) in &self.records_by_topic {
            writeln!(out, "restored {topic}: {records} records")?;
        }
        writeln!(
            out,
            "restored {} records, {} in {seconds:.1} s ({:.0} records/s, {}/s)",
            self.records,
            bytes(self.raw_bytes),
            self.records as f64 / seconds,
            bytes((self.raw_bytes as f64 / seconds) as u64)
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lakeferry_lake::source::replay::source_offset;

    use super::*;

    #[test]
    fn a_restore_that_was_cut_short_names_what_is_left_of_every_partition() {
        let orders = |number| TopicPartition::new("orders", number);
        let mut account = Account::default();
        let ranges = [OffsetRange::new(5, 9), OffsetRange::new(20, 40), OffsetRange::new(60, 80)];
        account.plan(orders(0), 10, None).unwrap();
        account.plan(orders(1), 10, None).unwrap();
        account.plan(orders(2), 10, Some(&ranges)).unwrap();
        account.plan(orders(3), 10, None).unwrap();
        account.plan(orders(4), 0, None).unwrap();
        let mut done = |number, next, records| {
            let offset = source_offset(1, next).unwrap();
            account.acknowledge(&source_partition(&orders(number)).unwrap(), Some(&offset), (records, 70));
        };
        done(1, 700, 7);
        done(2, 33, 6);
        done(3, 12, 10);
        let named = ["orders:0:0", "orders:1:700"].map(|from| format!("{from}:{END}")).into_iter();
        let expected: Vec<_> = named.chain(["orders:2:33:40".to_owned(), "orders:2:60:80".to_owned()]).collect();
        assert_eq!(account.rest(), expected);
        assert_eq!(account.records_by_topic, BTreeMap::from([("orders".to_owned(), 23)]));
    }
}
