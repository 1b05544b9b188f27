//! Offsets altered or reset through REST: a `lineage` entry tells the archive before the group is told.
//!
//! The order makes each step repeatable: nobody reads (the group has no member), then the entry, then the group's
//! offset, which the worker sets. Only a reset forgets the group's offset first: the next `open` asks the group where to
//! begin then, and one that went on at an offset that is to be forgotten would never archive what lies before it, should
//! the worker crash in between. Without the entry nobody asks the group, so that is repeatable, too. A partition without a chain needs no entry: its first `open` asks the group. What a
//! reset concerns the archive says, not the group: its offsets are only a cache, and may be missing.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use lakeferry_api::connector::SinkAlteration;
use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::{ConnectError, Kind, Result, SinkContext, TopicPartition};

use super::commit::{Identity, check_laws};
use crate::manifest::invariants::Before;
use crate::manifest::model::{
    Continues, EntryKind, Gap, Lineage, Missing, OffsetRange, OffsetSet, Reason, Source, StartedBy, Totals,
};
use crate::manifest::read::Archive;
use crate::manifest::{End, Entry, ManifestStore, Outcome, wire};

/// How many partitions are reset at once.
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
    match alteration {
        SinkAlteration::Some(offsets) => {
            for (name, offset) in offsets {
                chains.alter(name, *offset).await?;
            }
            Ok(())
        }
        SinkAlteration::ResetAll => chains.reset_all().await,
    }
}

/// The chains of the archive and who alters them.
struct Chains<'a> {
    context: &'a dyn SinkContext,
    manifests: &'a ManifestStore,
    identity: &'a Identity,
}

impl Chains<'_> {
    async fn alter(&self, name: &TopicPartition, offset: Option<i64>) -> Result<()> {
        let Some(end) = self.manifests.end(name).await? else { return Ok(()) };
        if end.entry.owner != self.identity.owner() {
            return Err(ConnectError::config(format!(
                "{name} is archived here by {}: its offsets are altered there",
                end.entry.owner
            )));
        }
        self.begin_lineage(name, &end, offset).await
    }

    /// Resets every partition that is archived here by this group.
    async fn reset_all(&self) -> Result<()> {
        let archive = Archive::new(self.manifests.clone());
        for topic in archive.topics().await? {
            let names = stream::iter(archive.partitions(&topic).await?);
            let resets = names.map(|name| async move { self.reset(&name).await });
            resets.buffer_unordered(PARALLEL).try_collect::<()>().await?;
        }
        Ok(())
    }

    async fn reset(&self, name: &TopicPartition) -> Result<()> {
        let Some(end) = self.manifests.end(name).await? else { return Ok(()) };
        if end.entry.owner != self.identity.owner() {
            return Ok(());
        }
        match self.begin_lineage(name, &end, None).await {
            // There is nothing to archive anew; a topic that is made again under this name has another id.
            Err(error) if error.kind() == Kind::NotFound => {
                tracing::info!(%name, "its topic does not exist: there is nothing to reset");
                Ok(())
            }
            done => done,
        }
    }

    async fn begin_lineage(&self, name: &TopicPartition, end: &End, offset: Option<i64>) -> Result<()> {
        if end.entry.kind == EntryKind::Lineage && end.entry.resume_offset == offset {
            return Ok(());
        }
        let mut entry = altered(&end.entry, offset);
        entry.previous_sha256 = Some(end.sha256);
        entry.written_at = self.context.clock().now_ms();
        entry.writer = self.identity.writer();
        entry.topic = Some(self.context.topic(&name.topic).await?.into());
        check_laws(&entry, &Before::following(&end.entry, end.sha256, &entry))?;
        if offset.is_none() && !sabotage::is(Fault::ResetKeepsGroup) {
            self.context.forget(std::slice::from_ref(name)).await?;
        }
        let frozen: Bytes = wire::encode(&entry)?;
        if self.manifests.create(name, entry.seq, frozen).await? == Outcome::Lost {
            return Err(ConnectError::conflict(format!(
                "{name}: a writer is still at work on the archive; stop the connector and try again"
            )));
        }
        Ok(())
    }
}

/// The `lineage` entry behind `end` that resumes at `offset`. Pure.
fn altered(end: &Entry, offset: Option<i64>) -> Entry {
    let number = end.lineages.iter().map(|lineage| lineage.lineage).max().unwrap_or(0) + 1;
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
    let mut lineages = end.lineages.clone();
    lineages.push(Lineage { lineage: number, topic_id: end.source.topic_id.clone(), first, continues });
    Entry {
        seq: end.seq + 1,
        kind: EntryKind::Lineage,
        epoch: end.epoch + 1,
        source: Source { lineage: number, first, started_by: StartedBy::Altered, continues, ..end.source.clone() },
        lineages,
        files: Vec::new(),
        missing: Missing::new(),
        totals: Totals { records: found, ..Totals::default() }.plus(&[], &Missing::new(), &gaps),
        gaps,
        resume_offset: offset,
        ahead: OffsetSet::new(),
        log: end.log.marked(end.log.mark().filter(|_| goes_back)),
        ..end.clone()
    }
}
