//! Archived logs beside the topics of a cluster, partition by partition.
//!
//! What a restore with the same arguments would write is what is compared: the same choice, the same cut. Invariant: a
//! record is counted once, as equal, different, or one of those that need not be on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use lakeferry_api::{Batch, Config, ConnectError, Kind, PartitionView, Result, TopicPartition};
use lakeferry_lake::manifest::model::OffsetRange;
use lakeferry_lake::manifest::read::{Archive, Chain};
use lakeferry_lake::source::choose::{ChosenLog, ChosenTopic, choose};
use lakeferry_lake::source::config::{SourceSettings, Topics};
use lakeferry_lake::source::cut::{Cut, Side};
use lakeferry_lake::source::plan::Selection;
use lakeferry_lake::source::read::{Access, LogReader, survey};
use lakeferry_lake::verify::compare::{Alignment, Comparison, Difference};
use serde::Serialize;

use super::progress::Progress;
use super::{Args, Match, clock};
use crate::kafka::reader::{self, Reader, Stretches};
use crate::kafka::{Admin, admin};

/// What comparing came to.
#[derive(Debug, Serialize)]
pub(super) struct Comparisons {
    compared: Vec<Compared>,
    /// What there is besides the incarnations that were compared.
    remarks: Vec<String>,
    /// Topics and partitions that could not be compared, and why.
    not_compared: Vec<String>,
    differences: u64,
    differences_listed: Vec<Difference>,
    #[serde(skip)]
    limit: usize,
}

/// What was compared of one partition.
#[derive(Debug, Default, Serialize)]
struct Compared {
    /// The archived topic.
    archived: String,
    /// The topic it was compared with.
    topic: String,
    partition: i32,
    /// `offset` or `order`.
    matched_by: &'static str,
    equal: u64,
    differences: u64,
    /// Archived records that a compacted topic does not have any more.
    compacted: u64,
    /// Offsets that the topic has lost by retention since they were archived.
    expired_offsets: u64,
    /// Offsets of the topic that are not archived yet.
    unarchived_offsets: u64,
    /// Archived records behind the end of the topic: a copy is not complete, or an election took them back.
    unreached_records: u64,
}

/// Compares what the arguments ask for.
pub(super) struct Comparing<'a> {
    args: &'a Args,
    properties: &'a Config,
    settings: SourceSettings,
    archive: &'a Archive,
    access: &'a Access,
    admin: Arc<dyn Admin>,
}

/// What is archived of each partition of a topic.
type Chains = BTreeMap<i32, Chain>;

/// One partition, its two sides lined up.
struct Pair {
    target: TopicPartition,
    alignment: Alignment,
    compacted: bool,
    /// What is read of the archive, and its walk along the cut where that is not the plan's.
    log: Option<ChosenLog>,
    cut: Option<Cut>,
    /// What is read of the topic.
    stretch: (i64, i64),
}

impl Comparisons {
    /// None yet; at most `limit` differences are listed.
    pub(super) fn new(limit: usize) -> Self {
        let (compared, remarks, not_compared, differences_listed) = Default::default();
        Self { compared, remarks, not_compared, differences: 0, differences_listed, limit }
    }

    /// True where a topic is not what was archived.
    pub(super) fn differ(&self) -> bool {
        let falls_short = self.compared.iter().any(|compared| compared.unreached_records > 0);
        self.differences > 0 || falls_short || !self.not_compared.is_empty()
    }

    /// Tells all of it.
    pub(super) fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        for difference in &self.differences_listed {
            write_difference(out, difference)?;
        }
        let more = self.differences - self.differences_listed.len() as u64;
        if more > 0 {
            writeln!(out, "... and {more} more differences")?;
        }
        for reason in &self.not_compared {
            writeln!(out, "not compared: {reason}")?;
        }
        for remark in &self.remarks {
            writeln!(out, "{remark}")?;
        }
        for compared in &self.compared {
            let Compared { archived, topic, partition, matched_by, equal, differences, .. } = compared;
            write!(out, "{archived}-{partition} and {topic}-{partition}, by {matched_by}: {equal} records equal")?;
            write!(out, ", {differences} differences")?;
            let more = [
                (compared.unreached_records, "archived records that the topic does not reach"),
                (compared.compacted, "archived records removed by the topic's log cleaner"),
                (compared.expired_offsets, "archived offsets removed by the topic's retention"),
                (compared.unarchived_offsets, "offsets not archived yet"),
            ];
            more.iter()
                .filter(|(count, _)| *count > 0)
                .try_for_each(|(count, what)| write!(out, ", {count} {what}"))?;
            writeln!(out)?;
        }
        Ok(())
    }

    /// What came of it, in one line.
    pub(super) fn sum_up(&self) -> String {
        let by_topic = |count: fn(&Compared) -> u64| {
            let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
            for compared in self.compared.iter().filter(|compared| count(compared) > 0) {
                *counts.entry(&compared.topic).or_default() += count(compared);
            }
            counts
        };
        let differing = by_topic(|compared| compared.differences).into_iter();
        let short = by_topic(|compared| compared.unreached_records).into_iter();
        let mut wrong: Vec<_> =
            differing.map(|(topic, records)| format!("topic {topic} differs in {records} records")).collect();
        wrong.extend(short.map(|(topic, records)| format!("topic {topic} does not reach {records} archived records")));
        if !self.not_compared.is_empty() {
            wrong.push(format!("{} could not be compared", self.not_compared.len()));
        }
        let equal: u64 = self.compared.iter().map(|compared| compared.equal).sum();
        let wrong = match (wrong.is_empty(), self.compared.is_empty()) {
            (true, true) => "nothing was compared".to_owned(),
            (true, false) => "no difference".to_owned(),
            (false, _) => wrong.join(", "),
        };
        format!("compared {} partitions with their topics, {equal} records equal: {wrong}", self.compared.len())
    }

    fn add(&mut self, comparison: &Comparison, compared: Compared) {
        let room = self.limit - self.differences_listed.len();
        self.differences_listed.extend(comparison.differences().iter().take(room).cloned());
        self.differences += comparison.different();
        self.compared.push(compared);
    }
}

impl<'a> Comparing<'a> {
    /// Opens what asks the cluster.
    ///
    /// # Errors
    /// `Config` where the properties cannot be used.
    pub(super) fn new(
        args: &'a Args,
        properties: &'a Config,
        settings: SourceSettings,
        (archive, access): (&'a Archive, &'a Access),
    ) -> Result<Self> {
        let admin = admin::open(properties, clock())?;
        Ok(Self { args, properties, settings, archive, access, admin })
    }

    /// Compares every archived topic that is asked for. What is wrong with one does not keep the others from it.
    ///
    /// # Errors
    /// Where a service fails.
    pub(super) async fn run(&self, progress: &Progress, comparisons: &mut Comparisons) -> Result<()> {
        let cluster_id = self.admin.cluster_id().await?;
        let archived = self.archive.topics().await?;
        let is_asked = |topic: &String| {
            let named = |ranges: &BTreeMap<TopicPartition, _>| ranges.keys().any(|named| *named.topic == **topic);
            self.args.lake.is_asked(topic) && self.settings.offsets.as_ref().is_none_or(named)
        };
        for topic in archived.into_iter().filter(is_asked) {
            let settings = SourceSettings { topics: Topics::Names(vec![topic.clone()]), ..self.settings.clone() };
            let (chains, chosen) = match self.choose(&topic, &settings).await {
                Ok(chosen) => chosen,
                Err(error) if is_fault(&error) => {
                    comparisons.not_compared.push(format!("{topic}: {}", error.message()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for topic in chosen {
                let remarks = topic.remarks("--lineage ");
                comparisons.remarks.extend(remarks.iter().map(|remark| format!("{}: {remark}", topic.topic)));
                self.compare_topic(&topic, &chains, &cluster_id, progress, comparisons).await?;
            }
        }
        Ok(())
    }

    /// The chains of `topic` by partition, and then what is chosen of it: no chain says more than was chosen. Both are
    /// read before the topic's ends are, so that one that is still written never seems to lack what is archived. One of
    /// which no offsets are asked for may be damaged.
    async fn choose(&self, topic: &str, settings: &SourceSettings) -> Result<(Chains, Vec<ChosenTopic>)> {
        loop {
            let mut chains = Chains::new();
            for partition in self.archive.partitions(topic).await? {
                match self.archive.chain(&partition).await {
                    Ok(chain) => chains.extend(chain.map(|chain| (partition.partition, chain))),
                    Err(error) if is_fault(&error) && !settings.asks_for(&partition) => {}
                    Err(error) => return Err(error),
                }
            }
            let chosen = choose(self.archive, settings).await?;
            let is_known = |log: &ChosenLog| {
                let chain = chains.get(&log.plan.partition.partition);
                chain.is_some_and(|chain| chain.end().lineages.iter().any(|line| line.lineage == log.lineage))
            };
            // One that came up in between is there when they are read again.
            if chosen.iter().flat_map(|topic| &topic.logs).all(is_known) {
                return Ok((chains, chosen));
            }
        }
    }

    async fn compare_topic(
        &self,
        topic: &ChosenTopic,
        chains: &Chains,
        cluster_id: &str,
        progress: &Progress,
        comparisons: &mut Comparisons,
    ) -> Result<()> {
        let Some(target) = self.admin.target_topic(&topic.target).await? else {
            let text = format!("{}: the cluster has no topic {}", topic.topic, topic.target);
            if self.holds_nothing(topic).await? {
                comparisons.remarks.push(format!("{text}, and nothing of it is to be compared"));
            } else {
                comparisons.not_compared.push(text);
            }
            return Ok(());
        };
        let compacted = target.configs.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
        let archived = topic.logs.iter().map(|log| log.plan.partition.partition);
        let partitions: BTreeSet<i32> = archived.chain(0..target.partitions.cast_signed()).collect();
        for number in partitions {
            let log = topic.logs.iter().find(|log| log.plan.partition.partition == number);
            let place = TopicPartition::new(topic.target.as_str(), number);
            let view = match self.admin.partition(&place).await {
                Ok(view) => view,
                Err(error) if error.kind() == Kind::NotFound => {
                    let text = format!("{}-{number}: topic {} has no such partition", topic.topic, topic.target);
                    comparisons.not_compared.push(text);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let chain = chains.get(&number);
            let is_original = topic.topic == topic.target && is_same_log(chain, log, cluster_id, &view);
            let alignment = match self.args.matching {
                Match::Offset => Alignment::Offset,
                Match::Auto if is_original && self.settings.offsets.is_none() => Alignment::Offset,
                Match::Auto | Match::Order => Alignment::Order,
            };
            let mut compared = Compared {
                archived: topic.topic.clone(),
                topic: topic.target.clone(),
                partition: number,
                matched_by: if alignment == Alignment::Offset { "offset" } else { "order" },
                ..Compared::default()
            };
            let stretch = (view.log_start_offset, view.last_stable_offset);
            let mut pair = Pair { target: place, alignment, compacted, log: log.cloned(), cut: None, stretch };
            if let (Alignment::Offset, Some(chain), Some(log)) = (alignment, chain, log) {
                pair.overlap(answered(chain, log), &mut compared);
            }
            self.compare(pair, compared, progress, comparisons).await?;
        }
        Ok(())
    }

    /// True where a restore with the same arguments would make no target for it.
    async fn holds_nothing(&self, topic: &ChosenTopic) -> Result<bool> {
        for log in &topic.logs {
            match survey(self.access, &log.plan).await {
                Ok(survey) if survey.records == 0 => {}
                Err(error) if !is_fault(&error) => return Err(error),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn compare(
        &self,
        pair: Pair,
        mut compared: Compared,
        progress: &Progress,
        comparisons: &mut Comparisons,
    ) -> Result<()> {
        let Pair { target, alignment, compacted, log, cut, stretch } = pair;
        let mut comparison = Comparison::new(target.clone(), alignment, self.args.untimed == "now", comparisons.limit)
            .compacted(compacted);
        let archived = log.map(|log| LogReader::new(self.access.clone(), log.plan));
        let end = if alignment == Alignment::Offset { stretch.1 } else { i64::MAX };
        let found = reader::open(self.properties, Stretches::from([(target.clone(), stretch)]), clock())?;
        let cut = cut.map(|cut| (cut, cut.start()));
        let mut archived = CutSide { records: archived, cut, end, beyond: 0 };
        let mut found = CutSide { records: Some(found), cut, end: i64::MAX, beyond: 0 };
        let result = hold_together(&mut comparison, &mut archived, &mut found, progress).await;
        compared.equal = comparison.equal();
        compared.differences = comparison.different();
        compared.compacted = comparison.gone();
        compared.unreached_records = archived.beyond;
        comparisons.add(&comparison, compared);
        match result {
            Err(error) if is_fault(&error) => {
                let text = format!("{target} was compared in part: {}", error.message());
                comparisons.not_compared.push(text);
                Ok(())
            }
            result => result,
        }
    }
}

impl Pair {
    /// Compares only the offsets that both sides answer for, and reads the archive to its end. The cut is walked on
    /// both sides alike.
    fn overlap(&mut self, archived: (i64, i64), compared: &mut Compared) {
        let (start, end) = self.stretch;
        let (first, resume) = archived;
        let count = |from: i64, to: i64| u64::try_from(to - from).unwrap_or(0);
        compared.expired_offsets = count(first, start.min(resume));
        compared.unarchived_offsets = count(resume.max(start), end);
        self.stretch = (start.max(first), end.min(resume).max(start.max(first)));
        if let Some(log) = &mut self.log {
            let offsets = Some(vec![OffsetRange::new(self.stretch.0, resume.max(self.stretch.1) - 1)]);
            self.cut = Some(log.plan.selection.cut);
            log.plan.selection = Selection { cut: Cut::default(), offsets };
        }
    }
}

/// The records of one side, those that a cut leaves out taken away, and those from an offset on counted only.
struct CutSide<R> {
    records: Option<R>,
    cut: Option<(Cut, Side)>,
    end: i64,
    /// Records from `end` on that the cut leaves in.
    beyond: u64,
}

impl<R> CutSide<R> {
    fn keep(&mut self, mut batch: Batch) -> Batch {
        if let Some((cut, side)) = self.cut.as_mut().filter(|(cut, _)| !cut.window.is_everything()) {
            let judge = |timestamp: &i64| {
                *side = cut.row(*side, *timestamp);
                *side == Side::Inside
            };
            let keep: Vec<bool> = batch.timestamps().iter().map(judge).collect();
            batch = batch.select(&keep);
        }
        let within = batch.until(self.end);
        self.beyond += (batch.len() - within.len()) as u64;
        within
    }
}

impl CutSide<LogReader> {
    async fn next(&mut self) -> Result<Option<Batch>> {
        let Some(records) = &mut self.records else { return Ok(None) };
        let batch = records.next().await?;
        Ok(batch.map(|batch| self.keep(batch)))
    }
}

impl CutSide<Reader> {
    async fn next(&mut self) -> Result<Option<Batch>> {
        let Some(records) = &mut self.records else { return Ok(None) };
        let batch = records.next().await?;
        Ok(batch.map(|batch| self.keep(batch)))
    }
}

async fn hold_together(
    comparison: &mut Comparison,
    archived: &mut CutSide<LogReader>,
    found: &mut CutSide<Reader>,
    progress: &Progress,
) -> Result<()> {
    while let Some(batch) = found.next().await? {
        progress.compared(batch.len() as u64);
        comparison.found(batch);
        while comparison.wants_archive() {
            match archived.next().await? {
                Some(batch) => comparison.archived(batch),
                None => comparison.archive_ended(),
            }
            comparison.run();
        }
    }
    comparison.topic_ended();
    while let Some(batch) = archived.next().await? {
        comparison.archived(batch);
        comparison.run();
    }
    comparison.finish();
    Ok(())
}

/// The offsets that the archive of `log` answers for: from the first to the one to publish next.
fn answered(chain: &Chain, log: &ChosenLog) -> (i64, i64) {
    let oldest = log.history.last().map_or(log.lineage, |(number, _)| *number);
    let lineages = &chain.end().lineages;
    let first = lineages.iter().find(|line| line.lineage == oldest).and_then(|line| line.first);
    let of_lineage = chain.links.iter().rev().map(|link| &link.entry).find(|entry| entry.source.lineage == log.lineage);
    let resume = of_lineage.and_then(|entry| entry.resume_offset);
    let first = first.or(resume).unwrap_or(0);
    (first, resume.unwrap_or(first))
}

/// True where the topic is certainly the log that was archived: the same cluster and the same topic id.
fn is_same_log(chain: Option<&Chain>, log: Option<&ChosenLog>, cluster_id: &str, view: &PartitionView) -> bool {
    let (Some(chain), Some(log)) = (chain, log) else { return false };
    log.topic_id.is_some() && log.topic_id == view.topic_id && chain.end().owner.cluster_id == cluster_id
}

/// True where the archive or the topic is at fault, and no service.
fn is_fault(error: &ConnectError) -> bool {
    matches!(error.kind(), Kind::Fatal | Kind::Data)
}

fn write_difference(out: &mut impl Write, difference: &Difference) -> std::io::Result<()> {
    let Difference { topic, partition, archived_offset, topic_offset, field, archived, found } = difference;
    let show = |text: &Option<String>| text.clone().unwrap_or_default();
    let at = |offset: &Option<i64>| offset.map_or_else(|| "?".to_owned(), |offset| offset.to_string());
    let (archived_offset, topic_offset) = (at(archived_offset), at(topic_offset));
    match *field {
        "missing" => writeln!(
            out,
            "{topic}-{partition}: archived offset {archived_offset} is missing in the topic: {}",
            show(archived)
        ),
        "extra" => {
            writeln!(out, "{topic}-{partition}: offset {topic_offset} of the topic is not archived: {}", show(found))
        }
        field => writeln!(
            out,
            "{topic}-{partition}: archived offset {archived_offset}, offset {topic_offset} of the topic: {field} is {}, \
             archived was {}",
            show(found),
            show(archived)
        ),
    }
}

#[cfg(test)]
mod tests;
