//! What a restore is going to do, in words or as JSON.

use std::collections::BTreeMap;
use std::io::Write;

use lakeferry_api::source::TargetTopic;
use lakeferry_api::{Config, Result, TopicPartition};
use lakeferry_lake::source::ends::EndsEarly;
use lakeferry_lake::source::incarnations::{LeftBehind, Other, PassedOver};
use lakeferry_lake::source::prepare::{Prepared, Target};
use lakeferry_lake::source::read::Survey;
use lakeferry_lake::source::target::new_topic;
use serde::Serialize;

use super::identity::Identity;
use super::lost::Lost;
use super::nothing::Nothing;
use crate::cli::inspect::bytes;

/// The plan of all topics.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    id: String,
    /// The group that holds the progress.
    group: String,
    pub(super) records: u64,
    pub(super) raw_bytes: u64,
    topics: Vec<TopicPlan>,
}

#[derive(Debug, Serialize)]
pub(super) struct TopicPlan {
    topic: String,
    target: String,
    exists: bool,
    /// How many offsets the target has in use: at most so many records, none of which goes away.
    held: u64,
    /// The incarnation that is restored.
    topic_id: Option<String>,
    /// The newest incarnation, where it is empty and that is why another is restored.
    passed_over: Option<PassedOver>,
    /// Incarnations that hold records and are not restored.
    others: Vec<Other>,
    /// Lineages of the incarnation that is restored whose records are not.
    left_behind: Vec<LeftBehind>,
    /// Partitions whose archive ends before the time that was asked for.
    ends_early: Vec<EndsEarly>,
    /// The same in words.
    #[serde(skip)]
    remarks: Vec<String>,
    partitions: u32,
    records: u64,
    raw_bytes: u64,
    untimed: u64,
    /// Why there are no records to restore, where that is so.
    #[serde(skip)]
    nothing: Option<Nothing>,
    logs: Vec<LogRow>,
    left_out: Vec<(i32, String)>,
    /// Partitions that were not asked for and cannot be read, and why.
    damaged: Vec<(i32, String)>,
    objections: Vec<String>,
    /// What was restored to it before and is gone.
    lost: Vec<Lost>,
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
    /// Everything below was restored before.
    goes_on_at: i64,
}

impl Plan {
    /// What `prepared` is going to replay, as its `surveys` count it.
    pub(super) async fn new(
        (prepared, surveys): (&Prepared, &BTreeMap<TopicPartition, Survey>),
        targets: &[Target],
        identity: &Identity,
    ) -> Result<Self> {
        let (outlines, unread) = (prepared.outlines()?, Survey::default());
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
                held: target.existing.as_ref().map_or(0, held),
                topic_id: topic.topic_id.clone(),
                passed_over: topic.passed_over.clone(),
                others: topic.others.clone(),
                left_behind: topic.left_behind.clone(),
                ends_early: topic.ends_early.clone(),
                remarks: topic.remarks("--lineage "),
                partitions: if target.existing.is_some() { topic.partitions } else { topic.new_partitions() },
                records: 0,
                raw_bytes: 0,
                untimed: 0,
                nothing: None,
                logs: Vec::new(),
                left_out: topic.left_out.clone(),
                damaged: topic.damaged.clone(),
                objections: target.objections.iter().map(ToString::to_string).collect(),
                lost: Vec::new(),
                archived_configs: topic
                    .settings
                    .as_ref()
                    .map(|settings| settings.configs.clone().into_iter().collect()),
            };
            for log in &topic.logs {
                let partition = &log.plan.partition;
                let survey = surveys.get(partition).unwrap_or(&unread);
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
                    goes_on_at: log.plan.position,
                });
            }
            if plan.records == 0 {
                plan.nothing = Some(Nothing::of(prepared, topic).await?);
            }
            topics.push(plan);
        }
        let records = topics.iter().map(|topic| topic.records).sum();
        let raw_bytes = topics.iter().map(|topic| topic.raw_bytes).sum();
        Ok(Self { id: identity.id.clone(), group: identity.group(), records, raw_bytes, topics })
    }

    /// What each target's configs become at the end: those of the archived topic and, where a restore made the target,
    /// the broker's default for the rest of what it was made with. Topics whose configs nobody archived are left out.
    pub(super) fn settled_configs(&self) -> impl Iterator<Item = (&str, BTreeMap<String, Option<String>>)> {
        let is_there = |topic: &&TopicPlan| topic.exists || topic.records > 0;
        self.topics.iter().filter(is_there).filter_map(|topic| {
            let archived = topic.archived_configs.as_ref()?;
            let made =
                if topic.made { new_topic(&topic.target, topic.partitions, None).configs } else { BTreeMap::new() };
            let mut settled: BTreeMap<_, _> = made.into_keys().map(|key| (key, None)).collect();
            settled.extend(archived.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
            (!settled.is_empty()).then_some((topic.target.as_str(), settled))
        })
    }

    /// Takes in what the targets have lost.
    pub(super) fn note_lost(&mut self, lost: &[Lost]) {
        for topic in &mut self.topics {
            topic.lost = lost.iter().filter(|lost| lost.target == topic.target).cloned().collect();
        }
    }

    /// False where no record is to be restored and a target is missing all the same.
    pub(super) fn writes(&self) -> bool {
        self.records > 0 || self.topics.iter().all(|topic| topic.exists)
    }

    /// True where records of `topic` are to be written.
    pub(super) fn takes(&self, topic: &str) -> bool {
        self.topics.iter().any(|plan| plan.topic == topic && plan.records > 0)
    }

    /// True where `target` is to be made. None is made for nothing: an empty topic is soon taken for what was archived.
    pub(super) fn makes(&self, target: &str) -> bool {
        self.topics.iter().any(|plan| plan.target == target && plan.records > 0 && !plan.exists)
    }

    /// Why there is nothing to restore at all, where that is so.
    pub(super) fn nothing(&self) -> Option<String> {
        let all: Option<Vec<_>> = self.topics.iter().map(|topic| topic.nothing.as_ref()).collect();
        all.map(|all| Nothing::sum_up(&all))
    }

    pub(super) fn tell_json(&self, out: &mut impl Write) -> anyhow::Result<()> {
        writeln!(out, "{}", serde_json::to_string(self)?)?;
        Ok(())
    }

    pub(super) fn tell(&self, out: &mut impl Write) -> anyhow::Result<()> {
        for topic in &self.topics {
            topic.tell(out)?;
        }
        let goes_on = self.topics.iter().flat_map(|topic| &topic.logs).any(|log| log.goes_on_at > 0);
        let behind = if goes_on { ", behind what was restored before" } else { "" };
        writeln!(out, "to restore: {} records, {}{behind} (id {})", self.records, bytes(self.raw_bytes), self.id)?;
        Ok(())
    }
}

impl TopicPlan {
    fn tell(&self, out: &mut impl Write) -> std::io::Result<()> {
        let exists = match (self.exists, self.records > 0) {
            (true, _) => "exists",
            (false, true) => "will be created",
            (false, false) => "will not be created",
        };
        let files = self.logs.iter().map(|log| log.files);
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
        let goes_on = self.logs.iter().any(|log| log.goes_on_at > 0);
        if self.held > 0 && !goes_on {
            let Self { target, held, .. } = self;
            writeln!(out, "  {target} holds up to {held} records; these are written behind them, whatever they are")?;
        }
        if let Some(nothing) = &self.nothing {
            writeln!(out, "  {}", nothing.tell())?;
        }
        for remark in &self.remarks {
            writeln!(out, "  {remark}")?;
        }
        for (partition, why) in &self.left_out {
            writeln!(out, "  partition {partition} is left out: {why}")?;
        }
        if self.untimed > 0 {
            writeln!(out, "  {} records have no timestamp or timestamp 0", self.untimed)?;
        }
        self.lost.iter().try_for_each(|lost| writeln!(out, "  {lost}"))?;
        self.objections.iter().try_for_each(|objection| writeln!(out, "  {objection}"))
    }
}

fn held(target: &TargetTopic) -> u64 {
    target.offsets.iter().map(|(earliest, latest)| latest.saturating_sub(*earliest).unsigned_abs()).sum()
}
