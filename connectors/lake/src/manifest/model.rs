//! The document of one manifest entry, member for member and in the order in which it is written. The rules it obeys
//! are in [`invariants`](super::invariants), its bytes in [`wire`](super::wire), its specification for strangers in
//! `docs/manifest-format.md`.
//!
//! All bounds are inclusive; a resume offset is the next one to publish.

use std::collections::BTreeMap;

use lakeferry_api::{EpochMark, TopicPartition, TopicView};
use serde::{Deserialize, Serialize};

pub use super::digest::Digest;
pub use super::offsets::{OffsetRange, OffsetSet};
pub use crate::format::Block;
use crate::format::Content;

/// One entry of a partition's chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its number: 0, 1, 2, ...
    pub seq: u64,
    /// The SHA-256 of the bytes of the entry before it.
    pub previous_sha256: Option<Digest>,
    /// What it does.
    pub kind: EntryKind,
    /// The writer's time on this partition; one more at every opening.
    pub epoch: u32,
    /// When it was written, in milliseconds since the epoch.
    pub written_at: i64,
    /// Who archives here.
    pub owner: Owner,
    /// Which task wrote it.
    pub writer: Writer,
    /// Which log it continues.
    pub source: Source,
    /// The topic as it was, in `open` and `lineage` entries.
    pub topic: Option<TopicSettings>,
    /// All incarnations of the log so far, this one included.
    pub lineages: Vec<Lineage>,
    /// The data objects that become real with this entry.
    pub files: Vec<FileEntry>,
    /// Offsets without a record that no file's span answers for.
    pub missing: Missing,
    /// Offsets between files that will never be archived.
    pub gaps: Vec<Gap>,
    /// The smallest offset not yet published; `None` after a reset, until the next opening resolves it.
    pub resume_offset: Option<i64>,
    /// Which offsets beyond `resume_offset` are in files already.
    pub ahead: OffsetSet,
    /// Sums over the entries of this lineage up to this one.
    pub totals: Totals,
    /// What the broker said of the log.
    pub log: LogState,
}

/// What an entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A writer begins an epoch.
    Open,
    /// It publishes files, missing offsets and gaps.
    Commit,
    /// Somebody alters where the next epoch begins.
    Lineage,
}

/// Who archives: one consumer group of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The Kafka cluster's id.
    pub cluster_id: String,
    /// The consumer group.
    pub group: String,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.cluster_id, self.group)
    }
}

/// One task instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Its id, 32 hex digits, new at every start of the task; the first eight stand in the names of its files.
    pub id: String,
    /// The connector's name.
    pub connector: String,
    /// The task's number.
    pub task: u32,
    /// The worker's id.
    pub worker: String,
    /// Lakeferry's version.
    pub version: String,
}

/// The log that an entry continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The topic's id; `None` where the broker gives none.
    pub topic_id: Option<String>,
    /// The number of the incarnation, from 1.
    pub lineage: u32,
    /// The offset where its accounting begins; `None` only while `resume_offset` is.
    pub first: Option<i64>,
    /// Why it begins there.
    pub started_by: StartedBy,
    /// Which lineage's rows come before its own.
    pub continues: Option<Continues>,
}

/// Why a lineage begins where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartedBy {
    /// No archive, no committed offset: `auto.offset.reset=earliest`.
    Earliest,
    /// No archive, no committed offset: `auto.offset.reset=latest`.
    Latest,
    /// No archive: the group's committed offset.
    Committed,
    /// The topic was created anew.
    Created,
    /// The log was cut back by an unclean election.
    Truncation,
    /// Somebody altered or reset the connector's offsets.
    Altered,
}

/// A lineage whose rows with an offset below `before` belong to this one too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continues {
    /// That lineage's number.
    pub lineage: u32,
    /// The first offset that is no longer its.
    pub before: i64,
}

/// One incarnation of the partition's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Its number, from 1 without holes.
    pub lineage: u32,
    /// The topic's id.
    pub topic_id: Option<String>,
    /// As [`Source::first`].
    pub first: Option<i64>,
    /// As [`Source::continues`].
    pub continues: Option<Continues>,
}

/// What a restore needs to make the topic again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSettings {
    /// Number of partitions.
    pub partitions: u32,
    /// Replication factor.
    pub replication_factor: u32,
    /// Configs that were set on the topic.
    pub configs: BTreeMap<String, String>,
}

/// A data object and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Where it is, relative to `topics.dir`.
    pub path: String,
    /// The partitioner's part of the path; empty where there is no partitioner.
    pub route: String,
    /// Its format.
    pub format: String,
    /// The codec inside it.
    pub codec: String,
    /// The first offset it answers for; `None` where records of other offsets go to other files.
    pub span_from: Option<i64>,
    /// The last offset it answers for.
    pub span_to: Option<i64>,
    /// The offset of its first record.
    pub first_offset: i64,
    /// The offset of its last record.
    pub last_offset: i64,
    /// How many records it holds.
    pub records: u64,
    /// The offsets of its span without a record.
    pub missing: Missing,
    /// The smallest timestamp of a record that has one.
    pub min_timestamp: Option<i64>,
    /// The largest.
    pub max_timestamp: Option<i64>,
    /// How many records have no timestamp.
    pub untimed: u64,
    /// Its size.
    pub stored_bytes: u64,
    /// Bytes of keys, values and headers in it.
    pub raw_bytes: u64,
    /// The SHA-256 of all its bytes, 64 lower-case hex digits.
    pub sha256: String,
    /// Its parts: contiguous, covering every byte from 0 to `stored_bytes`.
    pub blocks: Vec<Block>,
}

/// Offsets without records, counted by reason.
pub type Missing = BTreeMap<Reason, u64>;

/// Why an offset has no record in the archive; as fine as the evidence allows, never guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Control records and aborted data.
    Transaction,
    /// The log cleaner.
    Compaction,
    /// One of the two; the evidence cannot tell.
    CompactionOrTransaction,
    /// Retention or deleted records overtook the archive.
    LogStartMoved,
    /// The log was cut back.
    Truncation,
    /// Somebody altered the connector's offsets.
    Altered,
    /// A filter, or a record that went to the dead letter queue.
    Skipped,
    /// Nobody can tell.
    Unknown,
}

impl Reason {
    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Compaction => "compaction",
            Self::CompactionOrTransaction => "compaction_or_transaction",
            Self::LogStartMoved => "log_start_moved",
            Self::Truncation => "truncation",
            Self::Altered => "altered",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
        }
    }
}

/// Offsets between files that will never be archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The first.
    pub from: i64,
    /// The last.
    pub to: i64,
    /// Why.
    pub reason: Reason,
}

impl Gap {
    /// The offsets it covers.
    pub fn range(&self) -> OffsetRange {
        OffsetRange::new(self.from, self.to)
    }
}

/// Sums over a lineage: the last entry alone says them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Records in files, and records that this lineage found in `ahead` of the one it continues.
    pub records: u64,
    /// Offsets counted in `missing`, of files and entries.
    pub missing: u64,
    /// Offsets in gaps.
    pub gaps: u64,
    /// Files.
    pub files: u64,
    /// Their sizes.
    pub stored_bytes: u64,
    /// Bytes of keys, values and headers in them.
    pub raw_bytes: u64,
}

/// What the broker said of the log when the entry was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogState {
    /// The earliest offset that it had.
    pub start_offset: i64,
    /// The end that a `read_committed` consumer could reach.
    pub last_stable_offset: i64,
    /// The leader epoch of the last record before `resume_offset`.
    pub leader_epoch: Option<i32>,
    /// The offset behind that record, or where the log parts from the lineage that this one continues: records of
    /// `leader_epoch` and of the epochs before it reach this far in the log.
    pub leader_epoch_upto: Option<i64>,
    /// How the archive reads.
    pub isolation: Isolation,
}

/// How the archive reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Aborted data is left out.
    ReadCommitted,
    /// Everything is archived.
    ReadUncommitted,
}

impl LogState {
    /// What the log must still hold, as the broker is asked.
    pub fn mark(&self) -> Option<EpochMark> {
        let (leader_epoch, upto) = self.leader_epoch.zip(self.leader_epoch_upto)?;
        Some(EpochMark { leader_epoch, upto })
    }

    /// The same with another mark.
    #[must_use]
    pub fn marked(self, mark: Option<EpochMark>) -> Self {
        let (leader_epoch, leader_epoch_upto) = (mark.map(|mark| mark.leader_epoch), mark.map(|mark| mark.upto));
        Self { leader_epoch, leader_epoch_upto, ..self }
    }
}

impl Entry {
    /// The partition whose chain it belongs to.
    pub fn partition(&self) -> TopicPartition {
        TopicPartition::new(self.source.topic.as_str(), self.source.partition)
    }
}

impl FileEntry {
    /// The offsets it answers for, where it is contiguous.
    pub fn span(&self) -> Option<OffsetRange> {
        Some(OffsetRange::new(self.span_from?, self.span_to?))
    }

    /// From its first record to its last.
    pub fn offsets(&self) -> OffsetRange {
        OffsetRange::new(self.first_offset, self.last_offset)
    }

    /// How much it holds.
    pub(crate) fn content(&self) -> Content {
        Content { records: self.records, raw_bytes: self.raw_bytes }
    }

    /// True where the blocks touch and cover the file; else a law is broken, and they say nothing of where its bytes
    /// are.
    pub(crate) fn has_whole_blocks(&self) -> bool {
        let mut end = Some(0);
        for block in &self.blocks {
            if Some(block.at) != end || block.len == 0 {
                return false;
            }
            end = block.at.checked_add(block.len);
        }
        !self.blocks.is_empty() && end == Some(self.stored_bytes)
    }
}

impl From<TopicView> for TopicSettings {
    fn from(view: TopicView) -> Self {
        let TopicView { partitions, replication_factor, configs, .. } = view;
        Self { partitions, replication_factor, configs }
    }
}

impl Totals {
    /// The sums with one more entry's files, missing offsets and gaps.
    #[must_use]
    pub fn plus(mut self, files: &[FileEntry], missing: &Missing, gaps: &[Gap]) -> Self {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        for file in files {
            add(&mut self.records, file.records);
            file.missing.values().for_each(|count| add(&mut self.missing, *count));
            add(&mut self.files, 1);
            add(&mut self.stored_bytes, file.stored_bytes);
            add(&mut self.raw_bytes, file.raw_bytes);
        }
        missing.values().for_each(|count| add(&mut self.missing, *count));
        gaps.iter().for_each(|gap| add(&mut self.gaps, gap.range().width()));
        self
    }
}
