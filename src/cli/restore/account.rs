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

/// Acknowledged records, by archived partition.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) records: u64,
    pub(super) raw_bytes: u64,
    pub(super) took: Duration,
    pub(super) is_complete: bool,
    /// Some records were sent of which nobody knows whether they arrived.
    pub(super) is_doubtful: bool,
    /// Records that arrived behind one of their partition that failed: on the way on they come once more.
    pub(super) overtaking: u64,
    logs: BTreeMap<SourcePartition, Log>,
    records_by_topic: BTreeMap<String, u64>,
}

/// One archived partition.
#[derive(Debug)]
struct Log {
    partition: TopicPartition,
    planned: u64,
    records: u64,
    /// What is wanted of it, from the first on that is not acknowledged.
    rest: Vec<OffsetRange>,
    /// A batch was not acknowledged: the rest begins there, whatever arrives behind it.
    failed: bool,
}

impl Account {
    /// Takes note that `planned` records of `partition`, all inside `rest`, are part of the restore. A way on that is told
    /// must name the partitions that had no turn yet, too.
    pub(super) fn plan(&mut self, partition: TopicPartition, planned: u64, rest: Vec<OffsetRange>) -> Result<()> {
        self.logs.insert(source_partition(&partition)?, Log { partition, planned, records: 0, rest, failed: false });
        Ok(())
    }

    /// A batch of `partition` was not acknowledged.
    pub(super) fn fail(&mut self, partition: &SourcePartition) {
        self.is_doubtful = true;
        if let Some(log) = self.logs.get_mut(partition) {
            log.failed = true;
        }
    }

    /// A batch that ends before `offset` is in the target, and everything of the partition before it unless a part of
    /// that failed.
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
        if log.failed {
            self.overtaking += records;
            return;
        }
        if let Some(next) = offset.and_then(|offset| offset.as_map().get("offset")?.as_i64()) {
            log.rest.retain(|range| range.to >= next);
            log.rest.iter_mut().for_each(|range| range.from = range.from.max(next));
        }
    }

    /// What is left of each partition, as `--offsets` takes it.
    pub(super) fn rest(&self) -> Vec<String> {
        let logs = self.logs.values().filter(|log| log.failed || log.records < log.planned);
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
        let all = || vec![OffsetRange::new(0, 900)];
        let ranges = vec![OffsetRange::new(5, 9), OffsetRange::new(20, 40), OffsetRange::new(60, 80)];
        for (number, planned, rest) in [(0, 10, all()), (1, 10, all()), (2, 10, ranges), (3, 10, all()), (4, 0, all())]
        {
            account.plan(orders(number), planned, rest).unwrap();
        }
        let mut done = |number, next, records| {
            let offset = source_offset(1, next).unwrap();
            account.acknowledge(&source_partition(&orders(number)).unwrap(), Some(&offset), (records, 70));
        };
        done(1, 700, 7);
        done(2, 33, 6);
        done(3, 12, 10);
        let expected = ["orders:0:0:900", "orders:1:700:900", "orders:2:33:40", "orders:2:60:80"];
        assert_eq!(account.rest(), expected);
        assert_eq!(account.records_by_topic, BTreeMap::from([("orders".to_owned(), 23)]));
    }
    #[test]
    fn what_arrives_behind_a_failure_counts_and_moves_nothing() {
        let orders = TopicPartition::new("orders", 0);
        let source = source_partition(&orders).unwrap();
        let mut account = Account::default();
        account.plan(orders, 30, vec![OffsetRange::new(0, 29)]).unwrap();
        let offset = |next| source_offset(1, next).unwrap();
        account.acknowledge(&source, Some(&offset(10)), (10, 70));
        account.fail(&source);
        account.acknowledge(&source, Some(&offset(30)), (20, 70));
        assert_eq!((account.records, account.overtaking, account.is_doubtful), (30, 20, true));
        assert_eq!(account.rest(), ["orders:0:10:29"]);
    }
}
