//! What a restore is going to do, in words or as JSON.

use std::collections::BTreeMap;
use std::io::Write;

use lakeferry_api::{Config, Result, TopicPartition};
use lakeferry_lake::manifest::model::OffsetRange;
use lakeferry_lake::source::prepare::{Prepared, Target};
use lakeferry_lake::source::target::new_topic;
use serde::Serialize;

use super::account::Account;
use crate::cli::inspect::bytes;

/// The plan of all topics.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    pub(super) records: u64,
    pub(super) raw_bytes: u64,
    pub(super) topics: Vec<TopicPlan>,
    /// What every existing target takes of a batch.
    #[serde(skip)]
    pub(super) batch_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct TopicPlan {
    topic: String,
    target: String,
    exists: bool,
    partitions: u32,
    pub(super) records: u64,
    raw_bytes: u64,
    untimed: u64,
    logs: Vec<LogRow>,
    left_out: Vec<(i32, String)>,
    objections: Vec<String>,
    /// The target has its configs from a restore: from this one, or from one that was cut short before it.
    #[serde(skip)]
    made: bool,
    archived_configs: Option<Config>,
}

#[derive(Debug, Serialize)]
struct LogRow {
    partition: i32,
    lineage: u32,
    records: u64,
    files: u64,
    stored_bytes: u64,
    /// The last that the archive held when the plan was made; -1 where it held none.
    #[serde(skip)]
    last_offset: i64,
}

impl Plan {
    /// Counts what `prepared` is going to replay; files at the border of a cut are read for it.
    pub(super) async fn new(prepared: &Prepared, targets: &[Target]) -> Result<Self> {
        let surveys = prepared.survey().await?;
        let outlines = prepared.outlines()?;
        let mut topics = Vec::new();
        for (topic, target) in prepared.topics.iter().zip(targets) {
            let made_with = new_topic(&topic.target, topic.partitions, None).configs;
            let has = |(key, value): (&String, &String)| {
                target.existing.as_ref().is_none_or(|existing| existing.configs.get(key) == Some(value))
            };
            let mut plan = TopicPlan {
                made: made_with.iter().all(has),
                topic: topic.topic.clone(),
                target: topic.target.clone(),
                exists: target.existing.is_some(),
                partitions: topic.partitions,
                records: 0,
                raw_bytes: 0,
                untimed: 0,
                logs: Vec::new(),
                left_out: topic.left_out.clone(),
                objections: target.objections.iter().map(ToString::to_string).collect(),
                archived_configs: topic
                    .settings
                    .as_ref()
                    .map(|settings| settings.configs.clone().into_iter().collect()),
            };
            for log in &topic.logs {
                let partition = &log.plan.partition;
                let survey = surveys.get(partition).copied().unwrap_or_default();
                let outline = outlines.get(partition).copied().unwrap_or_default();
                plan.records += survey.records;
                plan.raw_bytes += survey.raw_bytes;
                plan.untimed += survey.untimed;
                plan.logs.push(LogRow {
                    partition: partition.partition,
                    lineage: log.lineage,
                    records: survey.records,
                    files: outline.files,
                    stored_bytes: outline.stored_bytes,
                    last_offset: log.plan.segments.iter().map(|segment| segment.rows.to).max().unwrap_or(-1),
                });
            }
            topics.push(plan);
        }
        let records = topics.iter().map(|topic| topic.records).sum();
        let raw_bytes = topics.iter().map(|topic| topic.raw_bytes).sum();
        let limit = |target: &Target| target.existing.as_ref()?.configs.get("max.message.bytes")?.parse().ok();
        Ok(Self { records, raw_bytes, topics, batch_bytes: targets.iter().filter_map(limit).min() })
    }

    /// The account before anything is done; `offsets` are those that the user asked for.
    pub(super) fn account(&self, offsets: Option<&BTreeMap<TopicPartition, Vec<OffsetRange>>>) -> Result<Account> {
        let mut account = Account::default();
        for topic in &self.topics {
            for log in &topic.logs {
                let partition = TopicPartition::new(topic.topic.as_str(), log.partition);
                let asked = offsets.and_then(|offsets| offsets.get(&partition)).cloned();
                let mut rest = asked.unwrap_or_else(|| vec![OffsetRange::new(0, log.last_offset)]);
                rest.iter_mut().for_each(|range| range.to = range.to.min(log.last_offset));
                rest.retain(|range| range.from <= range.to);
                account.plan(partition, log.records, rest)?;
            }
        }
        Ok(account)
    }

    /// What each target's configs become at the end: those of the archived topic and, where a restore made the target,
    /// the broker's default for the rest of what it was made with. Topics whose configs nobody archived are left out.
    pub(super) fn settled_configs(&self) -> impl Iterator<Item = (&str, BTreeMap<String, Option<String>>)> {
        self.topics.iter().filter_map(|topic| {
            let archived = topic.archived_configs.as_ref()?;
            let made =
                if topic.made { new_topic(&topic.target, topic.partitions, None).configs } else { BTreeMap::new() };
            let mut settled: BTreeMap<_, _> = made.into_keys().map(|key| (key, None)).collect();
            settled.extend(archived.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
            (!settled.is_empty()).then_some((topic.target.as_str(), settled))
        })
    }

    pub(super) fn tell_json(&self, out: &mut impl Write) -> anyhow::Result<()> {
        writeln!(out, "{}", serde_json::to_string(self)?)?;
        Ok(())
    }

    pub(super) fn tell(&self, out: &mut impl Write) -> anyhow::Result<()> {
        for topic in &self.topics {
            topic.tell(out)?;
        }
        writeln!(out, "to restore: {} records, {}", self.records, bytes(self.raw_bytes))?;
        Ok(())
    }
}

impl TopicPlan {
    fn tell(&self, out: &mut impl Write) -> std::io::Result<()> {
        let (exists, files) =
            (if self.exists { "exists" } else { "will be created" }, self.logs.iter().map(|log| log.files));
        writeln!(
            out,
            "{} -> {} ({exists}, {} partitions): {} records, {} from {} files",
            self.topic,
            self.target,
            self.partitions,
            self.records,
            bytes(self.raw_bytes),
            files.sum::<u64>()
        )?;
        for (partition, why) in &self.left_out {
            writeln!(out, "  partition {partition} is left out: {why}")?;
        }
        if self.untimed > 0 {
            writeln!(out, "  {} records have no timestamp or timestamp 0", self.untimed)?;
        }
        self.objections.iter().try_for_each(|objection| writeln!(out, "  {objection}"))
    }
}
