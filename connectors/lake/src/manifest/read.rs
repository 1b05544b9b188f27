//! A whole archive seen through its manifests: which topics and partitions there are, their chains, and which rows of
//! which files make up an incarnation of a partition's log. Called by the source, `restore`, `inspect` and `verify`.
//!
//! Invariant: a [`Chain`] is unbroken (no number missing, every hash right) and keeps every law of [`check_chain`], or
//! there is none: whoever reads it may believe what it says. It reads no data object.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::{ConnectError, Kind, Result, TopicPartition};
use object_store::ObjectStore;
use object_store::path::Path;

use super::invariants::{ChainSoFar, Link, Violation, check_chain};
use super::model::{Digest, Entry, FileEntry, Gap, OffsetRange, TopicSettings};
use super::{ManifestStore, removed, wire};
use crate::store::explain;

/// How many requests of one call are under way at once.
const PARALLEL: usize = 16;

/// The archive below a URL.
#[derive(Clone)]
pub struct Archive {
    manifests: ManifestStore,
}

/// All entries of a partition.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The partition.
    pub partition: TopicPartition,
    /// Its entries from 0 on; at least one.
    pub links: Vec<Link>,
}

/// Rows of one file that belong to a lineage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piece<'a> {
    /// The entry that names the file.
    pub seq: u64,
    /// The lineage that archived it.
    pub lineage: u32,
    /// The file.
    pub file: &'a FileEntry,
    /// Its rows with these offsets belong; others, if it has any, do not.
    pub offsets: OffsetRange,
}

impl Piece<'_> {
    /// How many records of the file belong, and whether that is exact: where some do not, and not every offset of the
    /// file has a record, they are so many at most.
    pub fn records(&self) -> (u64, bool) {
        let (records, whole) = (self.file.records, self.file.offsets());
        if self.offsets == whole {
            return (records, true);
        }
        (records.min(self.offsets.width()), records == whole.width())
    }
}

impl Archive {
    /// The archive whose chains are `manifests`.
    pub fn new(manifests: ManifestStore) -> Self {
        Self { manifests }
    }

    /// Its chains.
    pub fn manifests(&self) -> &ManifestStore {
        &self.manifests
    }

    /// The topics that have manifests, sorted.
    ///
    /// # Errors
    /// As [`explain`].
    pub async fn topics(&self) -> Result<Vec<String>> {
        self.topics_that_have(false, |_| true).await
    }

    /// The topics among those `wanted` that have manifests, or data objects whose manifests were removed, sorted. Of
    /// others, whose folders others may have filled, nothing is looked at.
    ///
    /// # Errors
    /// As [`explain`].
    pub async fn all_topics(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        self.topics_that_have(true, wanted).await
    }

    async fn topics_that_have(&self, or_data: bool, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let folders = self.folders(self.manifests.layout.topics_dir()).await?;
        let names = folders.iter().filter_map(|folder| self.manifests.layout.relative(folder));
        let names: Vec<_> = names.filter(|topic| wanted(topic)).collect();
        let archived = stream::iter(names.into_iter().map(|topic| async move {
            let archived = !self.partitions(&topic).await?.is_empty()
                || or_data && !self.removed(&topic, &BTreeSet::new()).await?.is_empty();
            Ok::<_, ConnectError>(archived.then_some(topic))
        }));
        let topics: Vec<Option<String>> = archived.buffered(PARALLEL).try_collect().await?;
        let mut topics: Vec<String> = topics.into_iter().flatten().collect();
        topics.sort();
        Ok(topics)
    }

    /// The partitions of `topic` that have manifests, sorted.
    ///
    /// # Errors
    /// As [`explain`].
    pub async fn partitions(&self, topic: &str) -> Result<Vec<TopicPartition>> {
        let folders = self.folders(&self.manifests.layout.manifests_dir(topic)).await?;
        let parse = |folder: &Path| self.manifests.layout.parse_chain_dir(folder);
        let mut partitions: Vec<_> = folders.iter().filter_map(parse).collect();
        partitions.sort();
        Ok(partitions)
    }

    /// The partitions of `topic` that have data objects and no manifest, sorted, each with what a sink says of it;
    /// `chained` are those with a chain. One listing, and more only where something is wrong.
    ///
    /// # Errors
    /// As [`explain`].
    pub async fn removed(
        &self,
        topic: &str,
        chained: &BTreeSet<TopicPartition>,
    ) -> Result<Vec<(TopicPartition, ConnectError)>> {
        let folders = self.folders(&self.manifests.layout.topic_dir(topic)).await?;
        let parse = |folder: &Path| self.manifests.layout.parse_data_dir(folder);
        let mut found: Vec<_> = folders.iter().filter_map(parse).filter(|found| !chained.contains(found)).collect();
        found.sort();
        let mut removed = Vec::new();
        for partition in found {
            match self.manifests.is_untouched(&partition).await {
                // Or begun meanwhile.
                Ok(_) => {}
                Err(error) if error.kind() == Kind::Fatal => removed.push((partition, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// The numbers of all entries of `partition` that are there, sorted.
    ///
    /// # Errors
    /// As [`explain`].
    pub(crate) async fn numbers(&self, partition: &TopicPartition) -> Result<Vec<u64>> {
        let dir = self.manifests.layout.chain_dir(partition);
        let listed = self.manifests.store.list(Some(&dir)).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|error| explain(&format!("list {dir}"), error))?;
        let parse = |path: &Path| self.manifests.layout.parse_entry(path);
        let mut numbers: Vec<u64> =
            listed.iter().filter_map(|meta| parse(&meta.location)).map(|(_, seq)| seq).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The topic ids that the chain of `partition` knows, though it cannot be read as one: its last entry names them
    /// all. `None` where that cannot be read.
    ///
    /// # Errors
    /// As [`explain`].
    pub(crate) async fn known_ids(&self, partition: &TopicPartition) -> Result<Option<BTreeSet<Option<String>>>> {
        let Some(last) = self.numbers(partition).await?.pop() else { return Ok(None) };
        let Some(bytes) = self.manifests.read_bytes(partition, last).await? else { return Ok(None) };
        let entry = wire::decode(self.manifests.layout.entry(partition, last).as_ref(), &bytes).ok();
        let entry = entry.filter(|entry| entry.partition() == *partition);
        Ok(entry.map(|entry| entry.lineages.into_iter().map(|line| line.topic_id).collect()))
    }

    /// The chain of `partition`; `None` where nothing was ever archived.
    ///
    /// # Errors
    /// `Fatal` where an entry is missing, damaged, of a newer version, not the one that the next names, or against a
    /// law; otherwise as [`explain`].
    pub async fn chain(&self, partition: &TopicPartition) -> Result<Option<Chain>> {
        let mut links: Vec<Link> = Vec::new();
        let numbers = self.numbers(partition).await?;
        let read = |seq| async move { Ok((seq, self.manifests.read_bytes(partition, seq).await?)) };
        // A chain may have a great many entries: the bytes of a few of them at a time are enough.
        let mut entries = stream::iter(numbers.into_iter().map(read)).buffered(PARALLEL);
        while let Some((seq, bytes)) = entries.try_next().await? {
            let bytes = bytes.ok_or_else(|| removed(partition, format!("entry {seq} vanished")))?;
            let next = links.len() as u64;
            if seq != next {
                return Err(removed(partition, format!("entry {seq} is there, entry {next} is not")));
            }
            let path = self.manifests.layout.entry(partition, seq);
            let entry = wire::decode(path.as_ref(), &bytes)?;
            if entry.seq != seq || entry.partition() != *partition {
                return Err(super::misplaced(&path, &entry));
            }
            let named = entry.previous_sha256;
            if named != links.last().map(|link| link.sha256) {
                return Err(ConnectError::fatal(format!(
                    "manifest {path} is refused: the entry before it is not the one that it names; bring back the \
                     entries that belong together from a copy or from the bucket's versions"
                )));
            }
            links.push(Link { entry, sha256: Digest::of(&bytes) });
        }
        self.refuse_broken(partition, &check_chain(&links))?;
        Ok((!links.is_empty()).then(|| Chain { partition: partition.clone(), links }))
    }

    /// The entries behind the chain of `partition` as it was `so_far`, with `count` entries: whole, and within every
    /// law; none where there are none yet. `looks_behind` has a listing tell whether those that come next were removed,
    /// where others are behind them.
    ///
    /// # Errors
    /// As [`Archive::chain`].
    pub(crate) async fn more(
        &self,
        partition: &TopicPartition,
        (so_far, count): (&ChainSoFar, u64),
        looks_behind: bool,
    ) -> Result<Vec<Link>> {
        let mut links: Vec<Link> = Vec::new();
        while let Some((entry, bytes)) = self.manifests.read(partition, count + links.len() as u64).await? {
            links.push(Link { entry, sha256: Digest::of(&bytes) });
        }
        if looks_behind && links.is_empty() {
            self.refuse_hole(partition, count).await?;
        }
        self.refuse_broken(partition, &so_far.check(&links))?;
        Ok(links)
    }

    /// Refuses a chain that has entries behind `next`, and not that one.
    async fn refuse_hole(&self, partition: &TopicPartition, next: u64) -> Result<()> {
        let Some(behind) = self.manifests.first_after(partition, next).await? else { return Ok(()) };
        // Or it was written meanwhile.
        if self.manifests.exists(partition, next).await? {
            return Ok(());
        }
        Err(removed(partition, format!("entry {behind} is there, entry {next} is not")))
    }

    /// Refuses whole entries that are no chain all the same. A seal holds what its writer said, whoever that was:
    /// without the laws an entry that lost a file and was sealed again would be read as a shorter log.
    fn refuse_broken(&self, partition: &TopicPartition, violations: &[Violation]) -> Result<()> {
        let Some(Violation { seq, law, field, text }) = violations.first() else { return Ok(()) };
        let path = self.manifests.layout.entry(partition, *seq);
        let more = match violations.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more of it and of those behind it, which `lakeferry verify` names"),
        };
        Err(ConnectError::fatal(format!(
            "manifest {path} is refused: {field}: {text} (law of {law}){more}; bring back the entries that belong together \
             from a copy or from the bucket's versions"
        )))
    }

    async fn folders(&self, dir: &Path) -> Result<Vec<Path>> {
        let listed = self.manifests.store.list_with_delimiter(Some(dir)).await;
        listed.map(|listed| listed.common_prefixes).map_err(|error| explain(&format!("list {dir}"), error))
    }
}

impl Chain {
    /// Its last entry.
    pub fn end(&self) -> &Entry {
        // A chain has at least one entry; see `Archive::chain`.
        &self.links[self.links.len() - 1].entry
    }

    /// The incarnation that is archived now: with what it continues, the log as it was last known.
    pub fn latest_lineage(&self) -> u32 {
        self.end().source.lineage
    }

    /// The topic's settings when somebody last looked, and when that was; in the incarnation with `topic_id`, where one
    /// is asked for.
    pub fn topic_settings(&self, topic_id: Option<&str>) -> Option<(i64, &TopicSettings)> {
        let entries = self.links.iter().rev().map(|link| &link.entry);
        let mut of_it = entries.filter(|entry| topic_id.is_none() || entry.source.topic_id.as_deref() == topic_id);
        of_it.find_map(|entry| Some((entry.written_at, entry.topic.as_ref()?)))
    }

    /// The settings of the topic whose partitions `chains` are: of all that were written down, of `topic_id` where one
    /// is given, the newest. One partition of a task looks whether they changed, and tells it.
    pub fn newest_settings<'a>(
        chains: impl IntoIterator<Item = &'a Self>,
        topic_id: Option<&str>,
    ) -> Option<&'a TopicSettings> {
        let settings = chains.into_iter().filter_map(|chain| chain.topic_settings(topic_id));
        settings.max_by_key(|(written_at, _)| *written_at).map(|(_, settings)| settings)
    }

    /// Every law that it breaks.
    pub fn check(&self) -> Vec<Violation> {
        check_chain(&self.links)
    }

    /// The rows of `lineage`: its own and those of the lineage it continues below the border, and so on. In the order
    /// of their first offsets; routed files overlap, but no row is in two pieces.
    ///
    /// # Errors
    /// `NotFound` where there is no such lineage; `Fatal` where lineages continue each other in a circle.
    pub fn pieces(&self, lineage: u32) -> Result<Vec<Piece<'_>>> {
        let mut pieces = Vec::new();
        for (lineage, last) in self.history(lineage)? {
            let last = if sabotage::is(Fault::CutIgnored) { i64::MAX } else { last };
            for entry in self.entries_of(lineage) {
                let clipped = entry.files.iter().map(|file| Piece {
                    seq: entry.seq,
                    lineage,
                    file,
                    offsets: OffsetRange::new(file.first_offset, file.last_offset.min(last)),
                });
                pieces.extend(clipped.filter(|piece| piece.offsets.width() > 0));
            }
        }
        pieces.sort_by_key(|piece| (piece.offsets.from, piece.seq));
        Ok(pieces)
    }

    /// The gaps of `lineage`, put together as [`Chain::pieces`] are, in order.
    ///
    /// # Errors
    /// As [`Chain::pieces`].
    pub fn gaps(&self, lineage: u32) -> Result<Vec<Gap>> {
        let mut gaps = Vec::new();
        for (lineage, last) in self.history(lineage)? {
            let own = self.entries_of(lineage).flat_map(|entry| &entry.gaps);
            gaps.extend(own.map(|gap| Gap { to: gap.to.min(last), ..*gap }).filter(|gap| gap.range().width() > 0));
        }
        gaps.sort_by_key(|gap| gap.from);
        Ok(gaps)
    }

    /// `lineage` and those it continues, newest first, each with the last offset of it that counts.
    ///
    /// # Errors
    /// As [`Chain::pieces`].
    pub fn history(&self, lineage: u32) -> Result<Vec<(u32, i64)>> {
        let lines = &self.end().lineages;
        let (mut next, mut last) = (Some(lineage), i64::MAX);
        let mut history = Vec::new();
        while let Some(number) = next {
            let line = lines.iter().find(|line| line.lineage == number).ok_or_else(|| {
                let (partition, count) = (&self.partition, lines.len());
                let asked_for = history.is_empty() && number != self.latest_lineage();
                let kind = if asked_for { Kind::NotFound } else { Kind::Fatal };
                ConnectError::new(kind, format!("{partition} has no lineage {number}; there are 1 to {count}"))
            })?;
            history.push((number, last));
            next = line.continues.map(|continues| continues.lineage);
            if let Some(continues) = line.continues {
                last = last.min(continues.before.saturating_sub(1));
                if continues.lineage >= number {
                    let partition = &self.partition;
                    return Err(ConnectError::fatal(format!("lineage {number} of {partition} continues a later one")));
                }
            }
        }
        Ok(history)
    }

    fn entries_of(&self, lineage: u32) -> impl Iterator<Item = &Entry> {
        self.links.iter().map(|link| &link.entry).filter(move |entry| entry.source.lineage == lineage)
    }
}

#[cfg(test)]
mod tests;
