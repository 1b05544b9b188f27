//! What a restore has done: counted as the brokers acknowledge, told at the end, and asked for the way on when it was
//! cut short.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use lakeferry_api::{SourceOffset, SourcePartition};
use serde_json::json;

use crate::cli::inspect::bytes;

/// Acknowledged records, by archived partition.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) records: u64,
    pub(super) raw_bytes: u64,
    pub(super) took: Duration,
    pub(super) is_complete: bool,
    next_by_partition: BTreeMap<SourcePartition, Option<i64>>,
    records_by_topic: BTreeMap<String, u64>,
}

impl Account {
    /// Takes note that `partition` is part of the restore, before anything of it is acknowledged.
    pub(super) fn begin(&mut self, partition: &SourcePartition) {
        self.next_by_partition.entry(partition.clone()).or_default();
    }

    /// A batch that ends before `offset` is in the target, and everything of the partition before it.
    pub(super) fn acknowledge(
        &mut self,
        partition: &SourcePartition,
        offset: Option<&SourceOffset>,
        (records, raw_bytes): (u64, u64),
    ) {
        let next = offset.and_then(|offset| offset.as_map().get("offset").and_then(serde_json::Value::as_i64));
        if next.is_some() {
            self.next_by_partition.insert(partition.clone(), next);
        }
        *self.records_by_topic.entry(topic_of(partition)).or_default() += records;
        self.records += records;
        self.raw_bytes += raw_bytes;
    }

    /// What is left of each partition that was begun, as `--offsets` takes it.
    pub(super) fn rest(&self) -> Vec<String> {
        if self.is_complete {
            return Vec::new();
        }
        let range = |(partition, next): (&SourcePartition, &Option<i64>)| {
            let number = partition.to_map().get("partition").and_then(serde_json::Value::as_i64).unwrap_or_default();
            format!("{}:{number}:{}:{}", topic_of(partition), next.unwrap_or(0), i64::MAX - 1)
        };
        self.next_by_partition.iter().map(range).collect()
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

fn topic_of(partition: &SourcePartition) -> String {
    partition.to_map().get("topic").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakeferry_api::TopicPartition;
    use lakeferry_lake::source::replay::{source_offset, source_partition};

    #[test]
    fn a_restore_that_was_cut_short_names_what_is_left() {
        let of = |number| source_partition(&TopicPartition::new("orders", number)).unwrap();
        let mut account = Account::default();
        account.begin(&of(0));
        account.begin(&of(1));
        account.acknowledge(&of(1), Some(&source_offset(1, 700).unwrap()), (7, 70));
        let end = i64::MAX - 1;
        assert_eq!(account.rest(), [format!("orders:0:0:{end}"), format!("orders:1:700:{end}")]);
        account.is_complete = true;
        assert!(account.rest().is_empty());
    }
}
