//! Offsets altered or reset through REST: a `lineage` entry tells the archive before the group is told.
//!
//! The order makes each step repeatable: nobody reads (the group has no member), everything is looked at, then the
//! entries, then the group's offsets, which the worker sets. What is refused for one partition is refused before
//! anything is written for another.
//!
//! A partition without a chain needs no entry: its first `open` asks the group. What a reset of all concerns the
//! archive says, not the group: its offsets are only a cache, and may be missing. An offset is one of the topic that is
//! there now: where that was made anew since, nothing of the old log stands below it.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakeferry_api::connector::SinkAlteration;
use lakeferry_api::{ConnectError, Kind, PartitionView, Result, SinkContext, TopicPartition, TopicView};

use super::commit::{Identity, check_laws, check_same_topic};
use crate::manifest::invariants::Before;
use crate::manifest::model::{
    Continues, EntryKind, Gap, Lineage, Missing, OffsetRange, OffsetSet, Reason, Source, StartedBy, Totals,
};
use crate::manifest::read::Archive;
use crate::manifest::{End, Entry, ManifestStore, Outcome, wire};

/// How many partitions are asked about, and altered, at once.
const PARALLEL: usize = 16;

/// Writes what the archive must know of `alteration`.
///
/// # Errors
/// `Conflict` where the group has members or a writer is at work; `Config` where another owner writes the chain;
/// `Retriable` where the store or Kafka does not answer: the same request may be sent again.
pub(super) async fn alter(
    context: &dyn SinkContext,
    manifests: &ManifestStore,
    identity: &Identity,
    alteration: &SinkAlteration,
) -> Result<()> {
    if context.group_is_live().await? {
        return Err(ConnectError::conflict(format!(
            "the consumer group {} still has members: its tasks have not stopped completely yet; try again",
            identity.group
        )));
    }
    let chains = Chains { context, manifests, identity };
    let planned = match alteration {
        SinkAlteration::Some(offsets) => chains.plan(offsets.clone(), Others::Refused).await?,
        SinkAlteration::ResetAll => chains.plan(chains.resets().await?, Others::PassedOver).await?,
    };
    let writes: Vec<_> = planned.iter().map(|planned| chains.write(planned)).collect();
    stream::iter(writes).buffer_unordered(PARALLEL).try_collect().await
}

/// What becomes of partitions that another owner archives here.
#[derive(Clone, Copy, PartialEq)]
enum Others {
    Refused,
    PassedOver,
}

/// The chains of the archive and who alters them.
struct Chains<'a> {
    context: &'a dyn SinkContext,
    manifests: &'a ManifestStore,
    identity: &'a Identity,
}

/// An entry that nothing speaks against.
struct Planned {
    name: TopicPartition,
    seq: u64,
    frozen: Bytes,
}

impl Chains<'_> {
    /// The reset of every partition that is archived here.
    async fn resets(&self) -> Result<BTreeMap<TopicPartition, Option<i64>>> {
        let archive = Archive::new(self.manifests.clone());
        let mut resets = BTreeMap::new();
        for topic in archive.topics().await? {
            resets.extend(archive.partitions(&topic).await?.into_iter().map(|name| (name, None)));
        }
        Ok(resets)
    }

    /// The entries that `offsets` need. Nothing is written.
    async fn plan(&self, offsets: BTreeMap<TopicPartition, Option<i64>>, others: Others) -> Result<Vec<Planned>> {
        let plans: Vec<_> = offsets.into_iter().map(|(name, offset)| self.plan_one(name, offset, others)).collect();
        let planned: Vec<_> = stream::iter(plans).buffered(PARALLEL).try_collect().await?;
        Ok(planned.into_iter().flatten().collect())
    }

    /// `None` where the archive need not be told.
    async fn plan_one(&self, name: TopicPartition, offset: Option<i64>, others: Others) -> Result<Option<Planned>> {
        let end = self.manifests.end(&name).await?;
        if let Some(End { entry, .. }) = end.as_ref().filter(|end| end.entry.owner != self.identity.owner()) {
            if others == Others::PassedOver {
                return Ok(None);
            }
            return Err(ConnectError::config(format!(
                "{name} is archived here by {}: its offsets are altered there",
                entry.owner
            )));
        }
        let (view, topic) = match self.ask(&name).await {
            // There is nothing to archive anew; a topic that is made again under this name has another id.
            Err(error) if offset.is_none() && error.kind() == Kind::NotFound => {
                tracing::info!(%name, "it does not exist: there is nothing to reset");
                return Ok(None);
            }
            asked => asked?,
        };
        let Some(end) = end else { return Ok(None) };
        let is_done = end.entry.kind == EntryKind::Lineage && end.entry.resume_offset == offset;
        let log = Log::of(&name, &end.entry, view.topic_id)?;
        if is_done && log == Log::Archived {
            return Ok(None);
        }
        let mut entry = altered(&end.entry, log, offset);
        entry.previous_sha256 = Some(end.sha256);
        entry.written_at = self.context.clock().now_ms();
        entry.writer = self.identity.writer();
        entry.topic = Some(topic.into());
        check_laws(&entry, &Before::following(&end.entry, end.sha256, &entry))?;
        Ok(Some(Planned { name, seq: entry.seq, frozen: wire::encode(&entry)? }))
    }

    async fn ask(&self, name: &TopicPartition) -> Result<(PartitionView, TopicView)> {
        let (view, topic) = (self.context.partition(name).await?, self.context.topic(&name.topic).await?);
        check_same_topic(name, view.topic_id.as_deref(), &topic)?;
        Ok((view, topic))
    }

    async fn write(&self, Planned { name, seq, frozen }: &Planned) -> Result<()> {
        if self.manifests.create(name, *seq, frozen.clone()).await? == Outcome::Lost {
            return Err(ConnectError::conflict(format!(
                "{name}: a writer is still at work on the archive; stop the connector and try again"
            )));
        }
        Ok(())
    }
}

/// Which log it is that an offset is altered of.
#[derive(Debug, PartialEq)]
enum Log {
    /// The one that the chain's end archives.
    Archived,
    /// One of a topic that was made anew since, with this id.
    New { topic_id: Option<String> },
}

impl Log {
    /// # Errors
    /// `Retriable` where the broker tells of an older incarnation than the chain's end does. An entry for that one
    /// would be without effect as soon as the true one is seen.
    fn of(name: &TopicPartition, end: &Entry, topic_id: Option<String>) -> Result<Self> {
        if end.source.topic_id == topic_id {
            return Ok(Self::Archived);
        }
        if end.lineages.iter().any(|lineage| lineage.topic_id == topic_id) {
            let id = |id: Option<&str>| id.unwrap_or("none").to_owned();
            return Err(ConnectError::retriable(format!(
                "{name}: the broker tells of topic id {}, but the archive has gone on to {} since: a broker lags behind, \
                 or the connector was stopped before it saw the topic that is there now; try again, and if that does \
                 not help, resume the connector for a moment first",
                id(topic_id.as_deref()),
                id(end.source.topic_id.as_deref())
            )));
        }
        Ok(Self::New { topic_id })
    }
}

/// The `lineage` entry behind `end` that resumes `log` at `offset`. Pure.
fn altered(end: &Entry, log: Log, offset: Option<i64>) -> Entry {
    match log {
        Log::Archived => altered_within(end, offset),
        // Nothing of the old log is continued, and nothing of the new one was jumped over: it begins there.
        Log::New { topic_id } => {
            let line = Lineage { lineage: next_lineage(end), topic_id, first: offset, continues: None };
            begun(end, line, offset)
        }
    }
}

/// The same log goes on at `offset`.
fn altered_within(end: &Entry, offset: Option<i64>) -> Entry {
    // `None` behind a reset that no opening followed: nothing stands before the offset then.
    let old = end.resume_offset;
    // A reset starts over: the log is archived anew from where the next opening finds it.
    let continues = offset.map(|before| Continues { lineage: end.source.lineage, before });
    let first = offset.map(|offset| old.map_or(offset, |old| offset.min(old)));
    let jumped = old.zip(offset).map(|(old, offset)| OffsetRange::new(old, offset.saturating_sub(1)));
    let jumped = jumped.filter(|jumped| jumped.width() > 0);
    let gaps: Vec<_> = jumped
        .iter()
        .flat_map(|jumped| end.ahead.holes_in(*jumped))
        .map(|hole| Gap { from: hole.from, to: hole.to, reason: Reason::Altered })
        .collect();
    // The records below an offset ahead of us were never seen: which epoch they have nobody knows.
    let goes_back = old.zip(offset).is_some_and(|(old, offset)| offset <= old);
    let found = jumped.map_or(0, |jumped| end.ahead.count_in(jumped));
    let line = Lineage { lineage: next_lineage(end), topic_id: end.source.topic_id.clone(), first, continues };
    Entry {
        totals: Totals { records: found, ..Totals::default() }.plus(&[], &Missing::new(), &gaps),
        gaps,
        log: end.log.marked(end.log.mark().filter(|_| goes_back)),
        ..begun(end, line, offset)
    }
}

fn next_lineage(end: &Entry) -> u32 {
    end.lineages.iter().map(|lineage| lineage.lineage).max().unwrap_or(0) + 1
}

/// The entry behind `end` that begins the lineage `line`, of which nothing is known but where it resumes.
fn begun(end: &Entry, line: Lineage, resume_offset: Option<i64>) -> Entry {
    let source = Source {
        topic_id: line.topic_id.clone(),
        lineage: line.lineage,
        first: line.first,
        started_by: StartedBy::Altered,
        continues: line.continues,
        ..end.source.clone()
    };
    Entry {
        seq: end.seq + 1,
        kind: EntryKind::Lineage,
        epoch: end.epoch + 1,
        source,
        lineages: end.lineages.iter().cloned().chain([line]).collect(),
        files: Vec::new(),
        missing: Missing::new(),
        gaps: Vec::new(),
        totals: Totals::default(),
        resume_offset,
        ahead: OffsetSet::new(),
        log: end.log.marked(None),
        ..end.clone()
    }
}
