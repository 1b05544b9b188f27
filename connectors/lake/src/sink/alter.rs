//! Offsets altered or reset through REST: a `lineage` entry tells the archive before the group is told.
//!
//! The order makes each step repeatable: nobody reads (the group has no member), then the entry, then the group's
//! offset, which the worker sets. A partition without a chain needs no entry: its first `open` asks the group.

use std::collections::BTreeMap;

use bytes::Bytes;
use lakeferry_api::{ConnectError, Result, SinkContext, TopicPartition};

use super::commit::{Identity, check_laws};
use crate::manifest::invariants::Before;
use crate::manifest::model::{
    Continues, EntryKind, Gap, Lineage, Missing, OffsetRange, OffsetSet, Reason, Source, StartedBy, Totals,
};
use crate::manifest::{Entry, ManifestStore, Outcome, wire};

/// Writes what the archive must know of `offsets`; `None` resets a partition.
///
/// # Errors
/// `Conflict` where the group has members or a writer is at work; `Config` where another owner writes the chain;
/// `Retriable` where the store or Kafka does not answer: the same request may be sent again.
pub(super) async fn alter(
    context: &dyn SinkContext,
    manifests: &ManifestStore,
    identity: &Identity,
    offsets: &BTreeMap<TopicPartition, Option<i64>>,
) -> Result<()> {
    if context.group_is_live().await? {
        return Err(ConnectError::conflict(format!(
            "the consumer group {} still has members: its tasks have not stopped completely yet; try again",
            identity.group
        )));
    }
    for (name, offset) in offsets {
        let Some(end) = manifests.end(name).await? else { continue };
        if end.entry.owner != identity.owner() {
            return Err(ConnectError::config(format!(
                "{name} is archived here by {}: its offsets are altered there",
                end.entry.owner
            )));
        }
        if end.entry.kind == EntryKind::Lineage && end.entry.resume_offset == *offset {
            continue;
        }
        let mut entry = altered(&end.entry, *offset);
        entry.previous_sha256 = Some(end.sha256);
        entry.written_at = context.clock().now_ms();
        entry.writer = identity.writer();
        entry.topic = Some(context.topic(&name.topic).await?.into());
        check_laws(&entry, &Before::following(&end.entry, end.sha256, &entry))?;
        let frozen: Bytes = wire::encode(&entry)?;
        if manifests.create(name, entry.seq, frozen).await? == Outcome::Lost {
            return Err(ConnectError::conflict(format!(
                "{name}: a writer is still at work on the archive; stop the connector and try again"
            )));
        }
    }
    Ok(())
}

/// The `lineage` entry behind `end` that resumes at `offset`. Pure.
fn altered(end: &Entry, offset: Option<i64>) -> Entry {
    let number = end.lineages.iter().map(|lineage| lineage.lineage).max().unwrap_or(0) + 1;
    let old = end.resume_offset.unwrap_or(0);
    // A reset starts over: the log is archived anew from where the next opening finds it.
    let continues = offset.map(|before| Continues { lineage: end.source.lineage, before });
    let first = offset.map(|offset| offset.min(old));
    let jumped = offset.map(|offset| OffsetRange::new(old, offset - 1)).filter(|jumped| jumped.width() > 0);
    let gaps: Vec<_> = jumped
        .iter()
        .flat_map(|jumped| end.ahead.holes_in(*jumped))
        .map(|hole| Gap { from: hole.from, to: hole.to, reason: Reason::Altered })
        .collect();
    // The records below an offset ahead of us were never seen: which epoch they have nobody knows.
    let goes_back = offset.is_some_and(|offset| offset <= old);
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
