//! What is in an archive, summed up from its manifests and one listing of each partition's folder. Called by
//! `lakeferry inspect`; reads no data object.
//!
//! Invariant: a partition whose manifests are damaged is told as such and does not hide the others.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakeferry_api::{Kind, Result, TopicPartition};
use serde::{Serialize, Serializer};

use crate::manifest::model::{Gap, Lineage, Missing, Owner, StartedBy, TopicSettings};
use crate::manifest::read::{Archive, Chain};
use crate::source::incarnations::{Count, held_elsewhere, summaries};
use crate::store::leftovers::Leftovers;
use crate::sweep::{Found, Leftover, StagedFiles};

pub use crate::source::incarnations::Summary as Incarnation;

/// Partitions that are read at once.
const PARALLEL_PARTITIONS: usize = 8;

/// An archived topic.
#[derive(Debug, Clone, Serialize)]
pub struct TopicSummary {
    /// Its name.
    pub topic: String,
    /// Its settings as they were last seen.
    pub settings: Option<TopicSettings>,
    /// All its incarnations that can be read, in the order in which they came up.
    pub incarnations: Vec<Incarnation>,
    /// Its partitions, sorted.
    pub partitions: Vec<PartitionSummary>,
}

/// An archived partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionSummary {
    /// Its number.
    pub partition: i32,
    /// Why its manifests cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What they say, where they can be.
    #[serde(flatten)]
    pub log: Option<LogSummary>,
    /// What a cluster says, for the caller to put here who has asked one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<Now>,
}

/// What a cluster says of a partition that is archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Now {
    /// The log as it has it.
    Log(LogNow),
    /// It has no such partition; `null` in JSON.
    NoSuchPartition,
}

/// A partition's log as a cluster has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogNow {
    /// The topic's id, where the cluster tells it.
    pub topic_id: Option<String>,
    /// The earliest offset that is left.
    pub log_start_offset: i64,
    /// The end, for readers of committed records: nothing behind it can be archived yet.
    pub last_stable_offset: i64,
    /// The end itself.
    pub end_offset: Option<i64>,
    /// So many offsets at least, from the last stable one on, are held back by a transaction that is open.
    pub held_back: u64,
    /// What the owner's group has committed, where this is the owner's cluster and it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_offset: Option<GroupOffset>,
}

/// An offset that a consumer group may have committed. It is told for lag tools: the manifests say where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum GroupOffset {
    /// It has.
    Committed(i64),
    /// It has none: it expired, was removed, or is still to come; `null` in JSON.
    None,
}

/// The newest lineage of a partition, with what it continues: the log as it was last known.
#[derive(Debug, Clone, Serialize)]
pub struct LogSummary {
    /// Who archives it: cluster id and consumer group, in JSON with a slash between.
    #[serde(serialize_with = "in_one")]
    pub owner: Owner,
    /// The epoch of its last writer.
    pub epoch: u32,
    /// Manifest entries.
    pub entries: u64,
    /// When the last one was written, in milliseconds since the Unix epoch.
    pub written_at: i64,
    /// The newest lineage.
    pub lineage: u32,
    /// All incarnations of the log that were archived.
    pub lineages: Vec<LineageSummary>,
    /// Where the accounting begins.
    pub first_offset: Option<i64>,
    /// The next offset to archive; `None` where the offsets were reset.
    pub resume_offset: Option<i64>,
    /// The end of the log, for readers of committed records, when the last entry was written.
    pub last_stable_offset: i64,
    /// Records: those that a replay of this lineage brings back.
    pub records: u64,
    /// False where a later lineage continues a file only in part and not every offset of it has a record: then there
    /// are so many records at most.
    pub is_exact: bool,
    /// Records in files of this incarnation that the newest lineage does not have: the log was cut back, or the offsets
    /// were set back, and what was archived since stands in their place.
    pub superseded: u64,
    /// Records without a timestamp. Here and below a file counts whole, even where a later lineage continues only a
    /// part.
    pub untimed: u64,
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Bytes of keys, values and headers.
    pub raw_bytes: u64,
    /// The smallest timestamp, in milliseconds since the Unix epoch.
    pub min_timestamp: Option<i64>,
    /// The largest timestamp.
    pub max_timestamp: Option<i64>,
    /// Offsets without a record, by reason.
    pub missing: Missing,
    /// Offsets that were never archived.
    pub gaps: Vec<Gap>,
    /// Of gaps that are only in the newest lineage, by their first offsets: another one that holds records of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub gaps_held_by: BTreeMap<i64, u32>,
    /// Objects, unfinished uploads and staged files that no entry names: what a crash left, or a writer has not
    /// published yet.
    pub unreferenced: Vec<Leftover>,
    /// Why unfinished uploads, or staged files, were not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uploads_unseen: Option<String>,
}

/// One incarnation of a partition's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineageSummary {
    /// What its manifests say of it.
    #[serde(flatten)]
    pub lineage: Lineage,
    /// Why it begins where it does.
    pub started_by: Option<StartedBy>,
    /// To where it was archived when its last entry was written: the next offset, had it gone on. `None` where no entry
    /// says so.
    pub archived_to: Option<i64>,
}

/// Sums up `topic`; `staged` was listed before.
///
/// # Errors
/// As [`explain`](crate::store::explain).
pub async fn inspect(
    archive: &Archive,
    leftovers: &Leftovers,
    staged: &StagedFiles,
    topic: &str,
) -> Result<TopicSummary> {
    let partitions = archive.partitions(topic).await?;
    let left = (leftovers, staged);
    let chains = stream::iter(partitions.into_iter().map(|partition| read(archive, left, partition)));
    let read: Vec<_> = chains.buffered(PARALLEL_PARTITIONS).try_collect().await?;
    let (mut partitions, chains): (Vec<PartitionSummary>, Vec<_>) = read.into_iter().unzip();
    let whole: Vec<Chain> = chains.into_iter().flatten().collect();
    let is_told = |partition: &&PartitionSummary| partition.log.is_some() || partition.problem.is_some();
    let told = partitions.iter().filter(is_told).map(|it| TopicPartition::new(topic, it.partition)).collect();
    for (TopicPartition { partition, .. }, error) in archive.removed(topic, &told).await? {
        partitions.retain(|known| known.partition != partition);
        let problem = Some(error.message().to_owned());
        partitions.push(PartitionSummary { partition, problem, log: None, now: None });
    }
    partitions.sort_by_key(|partition| partition.partition);
    let settings = Chain::newest_settings(&whole, None).cloned();
    Ok(TopicSummary { topic: topic.to_owned(), settings, incarnations: summaries(&whole)?, partitions })
}

async fn read(
    archive: &Archive,
    (leftovers, staged): (&Leftovers, &StagedFiles),
    partition: TopicPartition,
) -> Result<(PartitionSummary, Option<Chain>)> {
    // In this order, or what is published meanwhile would be told as left over.
    let found = Found::list(archive, leftovers, &partition).await?;
    let (chain, problem) = match archive.chain(&partition).await {
        Ok(chain) => (chain, None),
        Err(error) if error.kind() == Kind::Fatal => (None, Some(error.message().to_owned())),
        Err(error) => return Err(error),
    };
    let log = match &chain {
        Some(chain) => {
            let mut log = summarize(archive, chain, found)?;
            log.unreferenced.extend(staged.of(archive, &partition, log.epoch));
            log.uploads_unseen = log.uploads_unseen.or_else(|| staged.unseen().map(str::to_owned));
            Some(log)
        }
        None => None,
    };
    Ok((PartitionSummary { partition: partition.partition, problem, log, now: None }, chain))
}

fn summarize(archive: &Archive, chain: &Chain, found: Found) -> Result<LogSummary> {
    let end = chain.end();
    let lineage = chain.latest_lineage();
    let history: Vec<_> = chain.history(lineage)?.into_iter().map(|(number, _)| number).collect();
    let oldest = end.lineages.iter().find(|line| Some(&line.lineage) == history.last());
    let pieces = chain.pieces(lineage)?;
    let Count { records, is_exact, superseded } = Count::of(chain, lineage)?;
    let files = || pieces.iter().map(|piece| piece.file);
    let gaps = chain.gaps(lineage)?;
    Ok(LogSummary {
        owner: end.owner.clone(),
        epoch: end.epoch,
        entries: chain.links.len() as u64,
        written_at: end.written_at,
        lineage,
        lineages: end.lineages.iter().map(|line| lineage_of(chain, line)).collect(),
        first_offset: oldest.and_then(|line| line.first),
        resume_offset: end.resume_offset,
        last_stable_offset: end.log.last_stable_offset,
        records,
        is_exact,
        superseded,
        untimed: sum(files().map(|file| file.untimed)),
        files: pieces.len(),
        stored_bytes: sum(files().map(|file| file.stored_bytes)),
        raw_bytes: sum(files().map(|file| file.raw_bytes)),
        min_timestamp: files().filter_map(|file| file.min_timestamp).min(),
        max_timestamp: files().filter_map(|file| file.max_timestamp).max(),
        missing: missing(chain, &history, files().map(|file| &file.missing)),
        gaps_held_by: held_elsewhere(chain, lineage, &gaps)?,
        gaps,
        uploads_unseen: found.uploads_unseen().map(str::to_owned),
        unreferenced: found.judge(archive, chain).into_iter().map(|(leftover, _)| leftover).collect(),
    })
}

fn lineage_of(chain: &Chain, line: &Lineage) -> LineageSummary {
    let entries = || chain.links.iter().map(|link| &link.entry).filter(|entry| entry.source.lineage == line.lineage);
    LineageSummary {
        lineage: line.clone(),
        started_by: entries().next().map(|entry| entry.source.started_by),
        // A reset forgets where it was.
        archived_to: entries().filter_map(|entry| entry.resume_offset).next_back(),
    }
}

fn in_one<S: Serializer>(owner: &Owner, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(owner)
}

/// What manifests count is not to be trusted to fit.
fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

/// The missing offsets of `files` and those that entries of `history` account for outside of files.
fn missing<'a>(chain: &'a Chain, history: &[u32], files: impl Iterator<Item = &'a Missing>) -> Missing {
    let entries = chain.links.iter().map(|link| &link.entry);
    let outside = entries.filter(|entry| history.contains(&entry.source.lineage)).map(|entry| &entry.missing);
    let mut sums = Missing::new();
    for (reason, count) in files.chain(outside).flatten() {
        let sum = sums.entry(*reason).or_default();
        *sum = sum.saturating_add(*count);
    }
    sums
}

#[cfg(test)]
mod tests {
    use object_store::{ObjectStoreExt as _, PutPayload};

    use super::*;
    use crate::manifest::model::Reason;
    use crate::sweep::{Kept, LeftoverKind};
    use crate::testing::{TestArchive, row};

    #[tokio::test]
    async fn the_log_is_summed_up_with_what_it_continues() {
        let mut archive = TestArchive::new();
        let partition = archive.open("orders", 0, 3).await;
        archive.publish(&partition, &[row(4, 40), row(6, 20)], 7).await;
        archive.publish(&partition, &[row(8, -1)], 9).await;
        archive.truncate(&partition, 8).await;
        archive.publish(&partition, &[row(8, 90)], 8).await;
        let orphan = archive.layout.data_dir(&partition).join("orphan");
        archive.store.put(&orphan, PutPayload::from_static(b"x")).await.unwrap();

        let found =
            inspect(&archive.archive(), &Leftovers::default(), &StagedFiles::default(), "orders").await.unwrap();
        let log = found.partitions[0].log.as_ref().unwrap();
        assert_eq!(
            (&*log.owner.to_string(), log.entries, log.lineage, log.lineages.len()),
            ("c/connect-archive", 5, 2, 2)
        );
        let started_by: Vec<_> = log.lineages.iter().map(|line| line.started_by).collect();
        assert_eq!(started_by, [Some(StartedBy::Earliest), Some(StartedBy::Truncation)]);
        let archived_to: Vec<_> = log.lineages.iter().map(|line| line.archived_to).collect();
        assert_eq!(archived_to, [Some(9 + 1), Some(9)]);
        assert_eq!((log.first_offset, log.resume_offset), (Some(3), Some(9)));
        assert_eq!((log.records, log.files, log.untimed), (3, 2, 0), "what was cut from the log does not count");
        assert_eq!((log.is_exact, log.superseded), (true, 1), "but it is told apart");
        assert_eq!((log.min_timestamp, log.max_timestamp), (Some(20), Some(90)));
        assert_eq!(log.missing, Missing::from([(Reason::Transaction, 3)]));
        let path = archive.layout.relative(&orphan).unwrap();
        let left = Leftover { kind: LeftoverKind::Object, path, bytes: Some(1), kept: Some(Kept::ForeignName) };
        assert_eq!(log.unreferenced, [left]);
    }

    #[tokio::test]
    async fn records_that_are_archived_again_count_once_and_every_incarnation_is_listed() {
        let mut archive = TestArchive::new();
        let rows = |offsets: std::ops::Range<i64>| offsets.map(|offset| row(offset, 1)).collect::<Vec<_>>();
        let [first, second] = [archive.open("orders", 0, 0).await, archive.open("orders", 1, 0).await];
        archive.publish(&first, &rows(0..10), 9).await;
        archive.publish(&second, &rows(0..5), 4).await;
        // Set back to 4, and what stands there is archived once more.
        archive.truncate(&first, 4).await;
        archive.publish(&first, &rows(4..10), 9).await;
        let found =
            inspect(&archive.archive(), &Leftovers::default(), &StagedFiles::default(), "orders").await.unwrap();
        let log = found.partitions[0].log.as_ref().unwrap();
        assert_eq!((log.records, log.is_exact, log.superseded, log.files), (10, true, 6, 2));
        let of = |found: &TopicSummary| {
            let each =
                found.incarnations.iter().map(|it| (it.lineage.clone(), it.records, it.superseded, it.is_latest));
            each.collect::<Vec<_>>()
        };
        assert_eq!(of(&found), [("Qm9".to_owned(), 15, 6, true)]);

        archive.written_at += 60_000;
        archive.recreate_as(&first, "B").await;
        let found =
            inspect(&archive.archive(), &Leftovers::default(), &StagedFiles::default(), "orders").await.unwrap();
        let (old, empty) = (("Qm9".to_owned(), 15, 6, true), ("B".to_owned(), 0, 0, false));
        assert_eq!(of(&found), [old, empty], "the empty one is not what a restore takes");
        archive.publish(&first, &rows(0..2), 1).await;
        let found =
            inspect(&archive.archive(), &Leftovers::default(), &StagedFiles::default(), "orders").await.unwrap();
        assert_eq!(of(&found), [("Qm9".to_owned(), 15, 6, false), ("B".to_owned(), 2, 0, true)]);
    }

    #[tokio::test]
    async fn a_partition_that_was_added_tells_the_topic_s_new_settings() {
        let mut archive = TestArchive::new();
        let old = archive.open("orders", 0, 0).await;
        (archive.partitions, archive.written_at) = (3, archive.written_at + 1_000);
        archive.open("orders", 1, 0).await;
        // The old one goes on, and has not looked again.
        archive.written_at += 1_000;
        archive.publish(&old, &[row(0, 1)], 0).await;
        let found =
            inspect(&archive.archive(), &Leftovers::default(), &StagedFiles::default(), "orders").await.unwrap();
        assert_eq!(found.settings.unwrap().partitions, 3);
    }

    #[tokio::test]
    async fn a_damaged_chain_does_not_hide_the_others() {
        let mut archive = TestArchive::new();
        let [bad, good] = [archive.open("orders", 0, 0).await, archive.open("orders", 1, 0).await];
        archive.publish(&good, &[row(0, 1)], 0).await;
        let path = archive.layout.entry(&bad, 0);
        archive.store.put(&path, PutPayload::from_static(b"{")).await.unwrap();
        let found =
            inspect(&archive.archive(), &Leftovers::default(), &StagedFiles::default(), "orders").await.unwrap();
        let [bad, good] = &found.partitions[..] else { panic!("{found:?}") };
        assert!(bad.problem.as_ref().unwrap().contains(path.as_ref()), "{bad:?}");
        assert_eq!((&good.problem, good.log.as_ref().unwrap().records), (&None, 1));
    }

    #[tokio::test]
    async fn a_partition_whose_manifests_are_gone_is_damaged() {
        let mut archive = TestArchive::new();
        let [bad, good] = [archive.open("orders", 0, 0).await, archive.open("orders", 1, 0).await];
        archive.publish(&bad, &[row(0, 1)], 0).await;
        archive.publish(&good, &[row(0, 1)], 0).await;
        for seq in 0..2 {
            archive.store.delete(&archive.layout.entry(&bad, seq)).await.unwrap();
        }
        let found =
            inspect(&archive.archive(), &Leftovers::default(), &StagedFiles::default(), "orders").await.unwrap();
        let [bad, good] = &found.partitions[..] else { panic!("{found:?}") };
        assert!(bad.problem.as_ref().unwrap().starts_with("manifest entries of orders-0 were removed"), "{bad:?}");
        assert_eq!((bad.partition, &good.problem, good.log.as_ref().unwrap().records), (0, &None, 1));
    }

    #[tokio::test]
    async fn a_chain_that_was_sealed_again_without_what_it_published_is_no_shorter_log() {
        let mut archive = TestArchive::new();
        let partition = archive.open("orders", 0, 0).await;
        archive.publish(&partition, &[row(0, 1), row(1, 1)], 1).await;
        archive.publish(&partition, &[row(2, 1), row(3, 1)], 3).await;
        let staged = StagedFiles::default();
        let problem = async |archive: &TestArchive| {
            let found = inspect(&archive.archive(), &Leftovers::default(), &staged, "orders").await.unwrap();
            assert!(found.incarnations.is_empty() || found.partitions[0].problem.is_none(), "{found:?}");
            found.partitions[0].problem.clone()
        };
        assert_eq!(problem(&archive).await, None);
        let gap = Gap { from: 2, to: 3, reason: Reason::LogStartMoved };
        for gaps in [vec![], vec![gap]] {
            archive.reseal(&partition, |entry| (entry.files, entry.gaps) = (Vec::new(), gaps)).await;
            let told = problem(&archive).await.unwrap();
            let path = archive.layout.entry(&partition, 2);
            assert!(told.contains(path.as_ref()) && told.contains(" (law of "), "{told}");
        }
    }
}
