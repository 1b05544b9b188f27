//! What is in an archive, summed up from its manifests. Called by `lakeferry inspect`; reads no data object.
//!
//! Invariant: every offset from a lineage's first to its resume offset is counted once: a record, missing with a reason,
//! or in a gap with a reason. A partition whose manifests are damaged is told as such and does not hide the others.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakeferry_api::{ConnectError, Kind, Result, TopicPartition};
use serde::Serialize;

use crate::manifest::model::{Entry, Gap, Lineage, StartedBy, TopicSettings};
use crate::manifest::read::{Archive, Chain};

/// Chains that are read at once.
const PARALLEL_CHAINS: usize = 8;

/// An archived topic.
#[derive(Debug, Clone, Serialize)]
pub struct TopicSummary {
    /// Its name.
    pub topic: String,
    /// Its settings as they were last seen.
    pub settings: Option<TopicSettings>,
    /// Its partitions, sorted.
    pub partitions: Vec<PartitionSummary>,
}

/// An archived partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionSummary {
    /// Its number.
    pub partition: i32,
    /// Why its manifests cannot be read; everything else is empty then.
    pub problem: Option<String>,
    /// Who archives it: cluster id and consumer group.
    pub owner: String,
    /// When its last entry was written, in milliseconds since the epoch.
    pub written_at: Option<i64>,
    /// Manifest entries.
    pub entries: u64,
    /// The lineage that is archived now.
    pub lineage: u32,
    /// The incarnations of its log.
    pub lineages: Vec<LineageSummary>,
}

/// What was archived of one incarnation of a partition's log.
#[derive(Debug, Clone, Serialize)]
pub struct LineageSummary {
    /// Its number.
    pub lineage: u32,
    /// The topic's id.
    pub topic_id: Option<String>,
    /// Why it began.
    pub started_by: Option<StartedBy>,
    /// Whose records below which offset belong to it too.
    pub continues: Option<(u32, i64)>,
    /// Where its accounting begins.
    pub first: Option<i64>,
    /// The next offset to archive.
    pub resume_offset: Option<i64>,
    /// Offsets beyond that which are archived already.
    pub ahead: u64,
    /// The end of the log when its last entry was written.
    pub last_stable_offset: Option<i64>,
    /// The offset of its first record.
    pub first_offset: Option<i64>,
    /// The offset of its last record.
    pub last_offset: Option<i64>,
    /// The smallest timestamp.
    pub min_timestamp: Option<i64>,
    /// The largest timestamp.
    pub max_timestamp: Option<i64>,
    /// Records.
    pub records: u64,
    /// Records without timestamp.
    pub untimed: u64,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Bytes of keys, values and headers.
    pub raw_bytes: u64,
    /// Offsets without a record, by reason.
    pub missing: BTreeMap<&'static str, u64>,
    /// Offsets that were never archived.
    pub gaps: Vec<Gap>,
}

/// Sums up `topics`; all where it is empty.
///
/// # Errors
/// `Config` where one is not archived; otherwise as [`explain`](crate::store::explain).
pub async fn inspect(archive: &Archive, topics: &[String]) -> Result<Vec<TopicSummary>> {
    let archived = archive.topics().await?;
    if let Some(missing) = topics.iter().find(|topic| !archived.contains(topic)) {
        let list = if archived.is_empty() { "none".to_owned() } else { archived.join(", ") };
        return Err(ConnectError::config(format!(
            "--topic {missing}: there is no archive of it; archived are: {list}"
        )));
    }
    let mut summaries = Vec::new();
    for topic in archived.into_iter().filter(|topic| topics.is_empty() || topics.contains(topic)) {
        summaries.push(topic_summary(archive, topic).await?);
    }
    Ok(summaries)
}

async fn topic_summary(archive: &Archive, topic: String) -> Result<TopicSummary> {
    let partitions = archive.partitions(&topic).await?;
    let chains = stream::iter(partitions.into_iter().map(|partition| async move {
        match archive.chain(&partition).await {
            Ok(chain) => Ok((partition, Ok(chain))),
            Err(error) if error.kind() == Kind::Fatal => Ok((partition, Err(error.message().to_owned()))),
            Err(error) => Err(error),
        }
    }));
    let chains: Vec<(TopicPartition, Result<Option<Chain>, String>)> =
        chains.buffered(PARALLEL_CHAINS).try_collect().await?;
    let whole = chains.iter().filter_map(|(_, chain)| chain.as_ref().ok()?.as_ref());
    let settings = whole.max_by_key(|chain| chain.end().written_at).and_then(Chain::topic_settings).cloned();
    let partitions = chains
        .into_iter()
        .filter_map(|(partition, chain)| match chain {
            Ok(chain) => chain.map(|chain| partition_summary(&chain)),
            Err(problem) => Some(PartitionSummary::damaged(partition.partition, problem)),
        })
        .collect();
    Ok(TopicSummary { topic, settings, partitions })
}

fn partition_summary(chain: &Chain) -> PartitionSummary {
    let end = chain.end();
    PartitionSummary {
        partition: chain.partition.partition,
        problem: None,
        owner: end.owner.to_string(),
        written_at: Some(end.written_at),
        entries: chain.links.len() as u64,
        lineage: chain.latest_lineage(),
        lineages: end.lineages.iter().map(|line| lineage_summary(chain, line)).collect(),
    }
}

fn lineage_summary(chain: &Chain, line: &Lineage) -> LineageSummary {
    let mut summary = LineageSummary::of(line);
    let entries = chain.links.iter().map(|link| &link.entry);
    for entry in entries.filter(|entry| entry.source.lineage == line.lineage) {
        summary.add(entry);
    }
    summary.gaps.sort_by_key(|gap| gap.from);
    summary
}

impl PartitionSummary {
    fn damaged(partition: i32, problem: String) -> Self {
        Self {
            partition,
            problem: Some(problem),
            owner: String::new(),
            written_at: None,
            entries: 0,
            lineage: 0,
            lineages: Vec::new(),
        }
    }
}

impl LineageSummary {
    fn of(line: &Lineage) -> Self {
        Self {
            lineage: line.lineage,
            topic_id: line.topic_id.clone(),
            started_by: None,
            continues: line.continues.map(|continues| (continues.lineage, continues.before)),
            first: line.first,
            resume_offset: None,
            ahead: 0,
            last_stable_offset: None,
            first_offset: None,
            last_offset: None,
            min_timestamp: None,
            max_timestamp: None,
            records: 0,
            untimed: 0,
            files: 0,
            stored_bytes: 0,
            raw_bytes: 0,
            missing: BTreeMap::new(),
            gaps: Vec::new(),
        }
    }

    fn add(&mut self, entry: &Entry) {
        self.started_by.get_or_insert(entry.source.started_by);
        self.resume_offset = entry.resume_offset;
        self.ahead = entry.ahead.len();
        self.last_stable_offset = Some(entry.log.last_stable_offset);
        let missing = entry.files.iter().map(|file| &file.missing).chain([&entry.missing]);
        for (reason, count) in missing.flatten() {
            *self.missing.entry(reason.as_str()).or_default() += count;
        }
        self.gaps.extend(&entry.gaps);
        for file in &entry.files {
            self.first_offset = self.first_offset.into_iter().chain([file.first_offset]).min();
            self.last_offset = self.last_offset.max(Some(file.last_offset));
            self.min_timestamp = self.min_timestamp.into_iter().chain(file.min_timestamp).min();
            self.max_timestamp = self.max_timestamp.max(file.max_timestamp);
            self.records += file.records;
            self.untimed += file.untimed;
            self.files += 1;
            self.stored_bytes += file.stored_bytes;
            self.raw_bytes += file.raw_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::{ObjectStoreExt as _, PutPayload};

    use super::*;
    use crate::testing::{TestArchive, row};

    #[tokio::test]
    async fn an_archive_is_summed_up_by_lineage() {
        let mut archive = TestArchive::new();
        let partition = archive.open("orders", 0, 3).await;
        archive.publish(&partition, &[row(4, 40), row(6, 20)], 7).await;
        archive.publish(&partition, &[row(8, -1)], 9).await;
        archive.truncate(&partition, 8).await;
        archive.publish(&partition, &[row(8, 90)], 8).await;
        archive.open("clicks", 2, 0).await;

        let found = inspect(&archive.archive(), &[]).await.unwrap();
        assert_eq!(found.iter().map(|topic| topic.topic.as_str()).collect::<Vec<_>>(), ["clicks", "orders"]);
        let orders = &found[1].partitions[0];
        assert_eq!((orders.partition, orders.entries, orders.lineage), (0, 5, 2));
        assert_eq!(orders.owner, "c/connect-archive");
        let [first, second] = &orders.lineages[..] else { panic!("{:?}", orders.lineages) };
        assert_eq!((first.first, first.resume_offset, first.records, first.files), (Some(3), Some(10), 3, 2));
        assert_eq!((first.first_offset, first.last_offset), (Some(4), Some(8)));
        assert_eq!((first.min_timestamp, first.max_timestamp, first.untimed), (Some(20), Some(40), 1));
        assert_eq!(first.missing, BTreeMap::from([("transaction", 4)]));
        assert_eq!((second.continues, second.records, second.min_timestamp), (Some((1, 8)), 1, Some(90)));
        assert_eq!(found[0].partitions[0].lineages[0].records, 0);
    }

    #[tokio::test]
    async fn a_damaged_chain_does_not_hide_the_others() {
        let mut archive = TestArchive::new();
        let [bad, good] = [archive.open("orders", 0, 0).await, archive.open("orders", 1, 0).await];
        archive.publish(&good, &[row(0, 1)], 0).await;
        let path = archive.layout.entry(&bad, 0);
        archive.store.put(&path, PutPayload::from_static(b"{")).await.unwrap();
        let found = inspect(&archive.archive(), &["orders".to_owned()]).await.unwrap();
        let partitions = &found[0].partitions;
        assert!(partitions[0].problem.as_ref().unwrap().contains(path.as_ref()), "{:?}", partitions[0]);
        assert_eq!((&partitions[1].problem, partitions[1].lineages[0].records), (&None, 1));
        let error = inspect(&archive.archive(), &["order".to_owned()]).await.unwrap_err();
        assert!(error.message().contains("--topic order:") && error.message().contains("orders"), "{error}");
    }
}
