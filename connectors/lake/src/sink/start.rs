//! Where a partition begins: the chain's end, what Kafka says now, and nothing else decide.
//!
//! [`Start::find`] asks; [`decide`] is pure and holds the rules of `docs/manifest-format.md` about lineages: the same
//! topic id goes on, an id that the chain knows continues where that lineage stood, a new id begins a new lineage, a
//! log that was cut back begins one that continues the old, and a log whose start has moved past us leaves a gap.
//! Nothing is written here.

use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::sink::OffsetReset;
use lakeferry_api::{ConnectError, EpochMark, PartitionView, Result, TopicPartition};

use super::broken;
use super::partition::Shared;
use crate::manifest::End;
use crate::manifest::model::{
    Continues, Entry, Gap, Lineage, OffsetRange, OffsetSet, Owner, Reason, Source, StartedBy, Totals,
};

/// A broker may lag behind for so long, and tell of an incarnation of the topic that was.
const LAG: Duration = Duration::from_secs(60);

/// The decision: everything that the next `open` entry says, and where Kafka is read from.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// The chain's end; `None` where there is no chain.
    pub(crate) end: Option<End>,
    /// The entry that it goes on from: the end, or the last one of an older lineage that the topic id names.
    pub(crate) known: Option<Entry>,
    /// The log that is archived.
    pub(crate) source: Source,
    /// All lineages, this one included.
    pub(crate) lineages: Vec<Lineage>,
    /// The first offset to read.
    pub(crate) resume: i64,
    /// What is in files beyond it.
    pub(crate) ahead: OffsetSet,
    /// What was lost before it could be read; the `open` entry says it.
    pub(crate) gaps: Vec<Gap>,
    /// The lineage's totals, without these gaps.
    pub(crate) totals: Totals,
    /// What the log must still hold below `resume`, where the chain knows it.
    pub(crate) mark: Option<EpochMark>,
    /// The end is this writer's own entry, of an epoch that it just left: whoever has the next number came after it.
    pub(crate) is_own: bool,
}

/// What is known when a start is decided.
struct Evidence<'a> {
    name: &'a TopicPartition,
    /// The entry to go on from: the chain's end, or the last one of the lineage that the topic id names.
    known: Option<&'a Entry>,
    /// Every lineage of the chain.
    lineages: &'a [Lineage],
    view: &'a PartitionView,
    committed: Option<i64>,
    reset: OffsetReset,
}

impl Start {
    /// Reads the chain's end, asks Kafka, and decides.
    ///
    /// # Errors
    /// `Config` where another owner writes the chain or the archive is damaged; `Retriable` where Kafka or the store
    /// does not answer.
    pub(crate) async fn find(shared: &Arc<Shared>, name: &TopicPartition) -> Result<Self> {
        let context = &shared.context;
        let end = shared.manifests.end(name).await?;
        if let Some(end) = &end {
            check_owner(&end.entry.owner, &shared.identity.owner(), &shared.settings.takeover, name)?;
        }
        let view = context.partition(name).await?;
        let known = match &end {
            Some(end) => last_of_topic_id(shared, name, end, view.topic_id.as_deref()).await?,
            None => None,
        };
        let known = broken::resume(shared, name, known).await;
        let resolved = known.as_ref().is_some_and(|entry| entry.resume_offset.is_some());
        let committed =
            if resolved { None } else { context.committed(std::slice::from_ref(name)).await?.get(name).copied() };
        let evidence = Evidence {
            name,
            known: known.as_ref(),
            lineages: end.as_ref().map(|end| end.entry.lineages.as_slice()).unwrap_or_default(),
            view: &view,
            committed,
            reset: context.offset_reset(),
        };
        let decided = decide(&evidence)?;
        Ok(Self { end, known, ..decided })
    }

    /// Where a writer goes on that leaves its own epoch with everything published that it wrote under it.
    pub(crate) fn behind(end: &End) -> Option<Self> {
        let entry = &end.entry;
        Some(Self {
            end: Some(end.clone()),
            known: Some(entry.clone()),
            source: entry.source.clone(),
            lineages: entry.lineages.clone(),
            resume: entry.resume_offset?,
            ahead: entry.ahead.clone(),
            gaps: Vec::new(),
            totals: entry.totals,
            mark: entry.log.mark(),
            is_own: true,
        })
    }

    /// Where the log must begin if nothing is to be left out in silence; `None` where that is of no account. The id of
    /// the topic and the log's start are answers of two brokers: one may have spoken of another incarnation.
    pub(crate) fn log_start(&self) -> Option<i64> {
        let begins = self.known.is_none() && matches!(self.source.started_by, StartedBy::Created | StartedBy::Earliest);
        self.gaps.last().map(|gap| gap.to.saturating_add(1)).or(self.source.first.filter(|_| begins))
    }

    /// How long what the chain does not tell may wait for a record to come with; `None` where it tells all.
    ///
    /// Records that are lost or were taken back, and an incarnation of the topic that is back, wait for as long as a
    /// file may be open. An incarnation that the chain does not know is told of, too, so that every chain has them in
    /// their order; but not before its id was asked for twice: a broker that lags behind tells an old one, which a
    /// chain may have begun too late to know.
    pub(crate) fn news_after(&self, file_age: Duration) -> Option<Duration> {
        let of_end = self.end.as_ref().map(|end| end.entry.source.lineage);
        if of_end.is_some() && self.known.is_none() {
            return Some(LAG);
        }
        let is_another = of_end.is_some_and(|lineage| lineage != self.source.lineage);
        (is_another || !self.gaps.is_empty()).then_some(file_age)
    }

    /// What was lost before it could be read, in words.
    pub(crate) fn lost(&self, name: &TopicPartition) -> Option<String> {
        let Gap { from, to, reason } = self.gaps.first()?;
        let reason = reason.as_str();
        Some(format!("{name}: offsets {from}..={to} are gone from Kafka ({reason}) and were never archived"))
    }
}

/// Two connectors on one archive would fence each other until both have failed; the newcomer is refused instead.
fn check_owner(owner: &Owner, us: &Owner, takeover: &[String], name: &TopicPartition) -> Result<()> {
    if owner == us || takeover.contains(&owner.to_string()) {
        return Ok(());
    }
    Err(ConnectError::config(format!(
        "{name} is archived here by {owner} (cluster id/consumer group), this connector is {us}: give it another \
         store.url or topics.dir, or set archive.takeover={} once the other one is stopped for good",
        [takeover, &[owner.to_string()]].concat().join(",")
    )))
}

/// The chain's last entry of the lineage that `topic_id` belongs to; `None` where no lineage has that id.
async fn last_of_topic_id(
    shared: &Arc<Shared>,
    name: &TopicPartition,
    end: &End,
    topic_id: Option<&str>,
) -> Result<Option<Entry>> {
    if end.entry.source.topic_id.as_deref() == topic_id {
        return Ok(Some(end.entry.clone()));
    }
    if sabotage::is(Fault::KnownTopicIdFromEarliest) {
        return Ok(None);
    }
    let mut newest_first = end.entry.lineages.iter().rev();
    let Some(known) = newest_first.find(|known| known.topic_id.as_deref() == topic_id) else { return Ok(None) };
    for seq in (0..end.entry.seq).rev() {
        let read = shared.manifests.read(name, seq).await?;
        let (entry, _) = read.ok_or_else(|| {
            ConnectError::fatal(format!("{name}: manifest {seq} is missing below the chain's end {}", end.entry.seq))
        })?;
        if entry.source.lineage == known.lineage {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

fn decide(evidence: &Evidence<'_>) -> Result<Start> {
    match evidence.known {
        Some(entry) => match entry.resume_offset {
            Some(resume) => Ok(match divergence(evidence.view, entry, resume) {
                Some(divergence) => truncated(evidence, entry, resume, divergence),
                None => continued(evidence, entry, resume),
            }),
            None => unresolved(evidence, entry),
        },
        None => first_of_lineage(evidence),
    }
}

/// Where the log parted from what is published of it; `None` where all of that is still in the log.
///
/// Two things prove it: the broker, asked for the end of the last leader epoch (KIP-320), and an end of the log that
/// what is published lies beyond. A stable offset below that proves nothing: it falls back while a transaction is open.
fn divergence(view: &PartitionView, entry: &Entry, resume: i64) -> Option<i64> {
    let published = entry.ahead.last().map_or(resume, |last| resume.max(last.saturating_add(1)));
    let cut_back = view.end_offset.filter(|end| *end < published && view.last_stable_offset < published);
    let known = [view.truncated_at, cut_back].into_iter().flatten();
    known.min().filter(|divergence| *divergence < published)
}

/// The same log goes on where its last entry stood.
fn continued(evidence: &Evidence<'_>, entry: &Entry, resume: i64) -> Start {
    let mut ahead = entry.ahead.clone();
    let (resume, gaps) = after_log_start(resume, &mut ahead, evidence.view.log_start_offset);
    Start {
        end: None,
        known: None,
        source: entry.source.clone(),
        lineages: evidence.lineages.to_vec(),
        resume,
        ahead,
        gaps,
        totals: entry.totals,
        mark: mark_within(entry, evidence.view.log_start_offset, resume),
        is_own: false,
    }
}

/// The log parted from what is published: a lineage that continues the old one up to there.
fn truncated(evidence: &Evidence<'_>, entry: &Entry, resume: i64, divergence: i64) -> Start {
    let continues = Continues { lineage: entry.source.lineage, before: divergence };
    let first = resume.min(divergence);
    let mut start = new_lineage(evidence, StartedBy::Truncation, first);
    start.source.continues = Some(continues);
    if let Some(lineage) = start.lineages.last_mut() {
        lineage.continues = Some(continues);
    }
    start.ahead = entry.ahead.clone();
    start.ahead.cut(divergence);
    start.totals.records = start.ahead.len();
    let log_start = evidence.view.log_start_offset;
    (start.resume, start.gaps) = after_log_start(first, &mut start.ahead, log_start);
    // The epoch that the old log ended with ends at the divergence now, and is as good a mark as before.
    start.mark = mark_within(entry, log_start, start.resume);
    start
}

/// The entry's mark, where the broker can be asked for it: what lies below the log's start it cannot tell, and beyond
/// `resume` nothing is claimed.
fn mark_within(entry: &Entry, log_start: i64, resume: i64) -> Option<EpochMark> {
    let mark = entry.log.mark()?;
    let mark = EpochMark { upto: mark.upto.max(log_start).min(resume), ..mark };
    before_a_bare_stretch(mark, &entry.ahead, resume)
}

/// `mark`, where no record lies between it and `resume`. Files that were `ahead` can have filled that stretch: the
/// leader epoch of their last record nobody remembers, and one that is known of a record before it is no mark.
pub(super) fn before_a_bare_stretch(mark: EpochMark, ahead: &OffsetSet, resume: i64) -> Option<EpochMark> {
    (ahead.count_in(OffsetRange::new(mark.upto, resume.saturating_sub(1))) == 0).then_some(mark)
}

/// The offsets were reset: `auto.offset.reset` says where to begin. What the group holds may be of a task that had not
/// heard of the reset, or not be forgotten yet, and what lies before it would be missing in the new lineage. Only where
/// reading begins at the end it counts: an opening before this one may have begun there and written no entry yet.
fn unresolved(evidence: &Evidence<'_>, entry: &Entry) -> Result<Start> {
    let counts = evidence.reset == OffsetReset::Latest || sabotage::is(Fault::ResetAsksGroup);
    let (resume, _) = from_kafka(&Evidence { committed: evidence.committed.filter(|_| counts), ..*evidence })?;
    let mut start = continued(evidence, entry, resume);
    start.source.first = Some(resume);
    // What was read before the reset says nothing of the records below an offset that somebody chose.
    start.mark = None;
    let lineage = start.source.lineage;
    for known in start.lineages.iter_mut().filter(|known| known.lineage == lineage) {
        known.first = start.source.first;
    }
    Ok(start)
}

fn first_of_lineage(evidence: &Evidence<'_>) -> Result<Start> {
    if !evidence.lineages.is_empty() {
        return Ok(new_lineage(evidence, StartedBy::Created, evidence.view.log_start_offset));
    }
    let (first, started_by) = from_kafka(evidence)?;
    let mut start = new_lineage(evidence, started_by, first);
    (start.resume, start.gaps) = after_log_start(first, &mut start.ahead, evidence.view.log_start_offset);
    Ok(start)
}

fn new_lineage(evidence: &Evidence<'_>, started_by: StartedBy, first: i64) -> Start {
    let number = evidence.lineages.iter().map(|lineage| lineage.lineage).max().unwrap_or(0) + 1;
    let topic_id = evidence.view.topic_id.clone();
    let mut lineages = evidence.lineages.to_vec();
    lineages.push(Lineage { lineage: number, topic_id: topic_id.clone(), first: Some(first), continues: None });
    let source = Source {
        topic: evidence.name.topic.to_string(),
        partition: evidence.name.partition,
        topic_id,
        lineage: number,
        first: Some(first),
        started_by,
        continues: None,
    };
    Start {
        end: None,
        known: None,
        source,
        lineages,
        resume: first,
        ahead: OffsetSet::new(),
        gaps: Vec::new(),
        totals: Totals::default(),
        mark: None,
        is_own: false,
    }
}

/// Where a partition without archive begins: the group's committed offset, else `auto.offset.reset`; behind the point
/// where the log parted from what was read of it nothing was. A committed offset that the log has not reached is of
/// another log, or the broker that was asked lags behind. Without a reset policy it is insisted on: the worker asks the
/// partition's leader for it, and fails the task in the end.
fn from_kafka(evidence: &Evidence<'_>) -> Result<(i64, StartedBy)> {
    let view = evidence.view;
    let end = view.end_offset.unwrap_or(view.last_stable_offset);
    let parted = view.truncated_at.unwrap_or(i64::MAX);
    let is_believed = |committed: &i64| *committed <= end || evidence.reset == OffsetReset::None;
    match (evidence.committed.filter(is_believed), evidence.reset) {
        (Some(committed), _) => Ok((committed.min(parted), StartedBy::Committed)),
        (None, OffsetReset::Earliest) => Ok((view.log_start_offset, StartedBy::Earliest)),
        (None, OffsetReset::Latest) => Ok((view.last_stable_offset.min(parted), StartedBy::Latest)),
        (None, OffsetReset::None) => Err(ConnectError::config(format!(
            "{}: there is no offset to begin at, and auto.offset.reset=none; set \
             consumer.override.auto.offset.reset to earliest or latest, or the connector's offset",
            evidence.name
        ))),
    }
}

/// The resume offset behind the log's start, and what was lost on the way; what is in files already was not.
fn after_log_start(resume: i64, ahead: &mut OffsetSet, log_start: i64) -> (i64, Vec<Gap>) {
    if resume >= log_start {
        return (resume, Vec::new());
    }
    let below = OffsetRange::new(resume, log_start.saturating_sub(1));
    let lost = if sabotage::is(Fault::GapOverAhead) { vec![below] } else { ahead.holes_in(below) };
    let gaps = lost.iter().map(|hole| Gap { from: hole.from, to: hole.to, reason: Reason::LogStartMoved }).collect();
    (ahead.advance(log_start), gaps)
}

#[cfg(test)]
mod tests;
