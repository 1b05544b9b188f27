//! The contract of a sink task and what it may ask of the worker.
//!
//! The loop that owns the task calls every method, one at a time. `put` and the others may await I/O, but the loop
//! answers nothing else meanwhile, so long work is started in `put`, finished in later calls, and reported by
//! `flush`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::batch::Batch;
use crate::budget::Budget;
use crate::clock::Clock;
use crate::config_def::Config;
use crate::error::{ConnectError, Result};
use crate::executor::Executor;
pub use crate::record::TopicPartition;

/// The next offset to read, by partition.
pub type Positions = BTreeMap<TopicPartition, i64>;

/// Where to begin to read a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first offset that is wanted.
    pub offset: i64,
    /// What the log must still hold below it; `None` where the task remembers no leader epoch. Between the mark and
    /// `offset` the log had no record when it was read: one that is there now proves that it was cut back.
    pub mark: Option<EpochMark>,
}

impl Place {
    /// Where the log is read from: at the mark, or at the offset where there is none.
    pub fn read_from(&self) -> i64 {
        self.mark.map_or(self.offset, |mark| mark.upto.min(self.offset))
    }
}

/// Where to begin to read, by partition.
pub type Places = BTreeMap<TopicPartition, Place>;

/// What lets the broker tell whether a log is still the one that was read (KIP-320): a log in which the records of
/// `leader_epoch` and of the epochs before it end below `upto` was cut back there, however long it is by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochMark {
    /// The leader epoch of the record before `upto`, or a later one of the same log.
    pub leader_epoch: i32,
    /// The offset behind that record; at most the offset that is read from.
    pub upto: i64,
}

/// What became of an [`SinkTask::open`].
#[derive(Debug, Default)]
pub struct Opened {
    /// Where to read those whose position the task keeps itself.
    pub places: Places,
    /// Those that could not be opened for now, each with its reason (`Retriable` or `NotFound`): they are asked for
    /// again with backoff and stay paused until then.
    pub later: BTreeMap<TopicPartition, ConnectError>,
}

impl From<Places> for Opened {
    fn from(places: Places) -> Self {
        Self { places, later: BTreeMap::new() }
    }
}

impl From<i64> for Place {
    fn from(offset: i64) -> Self {
        Self { offset, mark: None }
    }
}

/// Why partitions are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// The group takes them away or the task stops: publish what is whole before the deadline.
    Revoked,
    /// They are gone already: discard, publish nothing.
    Lost,
}

/// A sink task.
#[async_trait]
pub trait SinkTask: Send {
    /// Called once, before anything else.
    ///
    /// # Errors
    /// Any error fails the task.
    async fn start(&mut self, context: Arc<dyn SinkContext>, config: &Config) -> Result<()>;

    /// Partitions were assigned; of many, each call has some. Those that the result has no place for start at the
    /// group's committed offset. No record of a partition is put before its `open` returned.
    ///
    /// # Errors
    /// `Retriable`, `NotFound`, `Fenced`: none of them is open, and all are asked for again. Others fail the task.
    async fn open(&mut self, partitions: &[TopicPartition]) -> Result<Opened>;

    /// Takes batches of open partitions; each batch continues its partition. An empty slice is the tick: it comes
    /// several times a second, with and without data.
    ///
    /// # Errors
    /// `Retriable`: the same batches come again, byte for byte, and nothing else in between but ticks. The task has
    /// then taken **none** of them. `Fenced`: all partitions are closed as lost and opened anew. Others fail the task.
    async fn put(&mut self, batches: &[Batch]) -> Result<()>;

    /// What is durable now, at most what is in `consumed`; the worker commits it to Kafka. Must not wait for what is
    /// not yet due.
    ///
    /// # Errors
    /// `Retriable`: warned of, and tried again at the next interval. `Fenced`: as for `put`. Others fail the task.
    async fn flush(&mut self, consumed: &Positions) -> Result<Positions>;

    /// Partitions go away; see [`Closing`]. The result is what is durable of them. Their records are not put again
    /// before another `open`.
    ///
    /// # Errors
    /// `Retriable`, `Fenced`, and whatever comes of [`Closing::Lost`]: logged. Others fail the task, unless it ends
    /// anyway. The partitions are gone all the same.
    async fn close(&mut self, partitions: &[TopicPartition], why: Closing) -> Result<Positions>;

    /// Called once, last, after every partition was closed.
    async fn stop(&mut self) {}
}

/// What Kafka knows of a partition, asked fresh from the broker: never from a cache.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartitionView {
    /// The topic's id; `None` where the broker gives none.
    pub topic_id: Option<String>,
    /// The earliest offset that the broker still has.
    pub log_start_offset: i64,
    /// The end that a `read_committed` consumer can reach.
    pub last_stable_offset: i64,
    /// The log's end (high watermark); `None` where the broker was not asked or cannot tell. A log that ends below what
    /// was read of it was cut back.
    pub end_offset: Option<i64>,
    /// Where the log parted from what was read of it before (KIP-320): an unclean election took back the records from
    /// here on. Stands here until the task has begun the partition anew.
    pub truncated_at: Option<i64>,
}

/// What Kafka knows of a topic; what a restore needs to make it again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicView {
    /// Which topic of this name it is, where the broker tells.
    pub topic_id: Option<String>,
    /// Number of partitions.
    pub partitions: u32,
    /// Replication factor.
    pub replication_factor: u32,
    /// Configs that were set on the topic (not the broker's defaults).
    pub configs: BTreeMap<String, String>,
}

/// Where to start a partition that has neither archive nor committed offset: Connect's `auto.offset.reset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    /// The log's start.
    Earliest,
    /// The log's end.
    Latest,
    /// Fail.
    None,
}

/// What is counted beside being logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkEvent<'a> {
    /// So many offsets are gone from Kafka that were never taken, and the task recorded that for good.
    Gap {
        /// Where.
        partition: &'a TopicPartition,
        /// How many.
        offsets: u64,
        /// Why, as the task records it: one of a few words.
        reason: &'static str,
    },
    /// What the task was building of this partition ended early because memory runs short.
    EndedEarly {
        /// Where.
        partition: &'a TopicPartition,
    },
}

/// What a sink task may ask of the worker and of Kafka. Cheap to clone behind its `Arc`; usable from the task's own
/// spawned work.
#[async_trait]
pub trait SinkContext: Send + Sync {
    /// The connector's name.
    fn connector(&self) -> &str;
    /// The task's number.
    fn task(&self) -> u32;
    /// The worker's id, `host:port`.
    fn worker_id(&self) -> &str;
    /// The consumer group.
    fn group(&self) -> &str;
    /// The consumer's `auto.offset.reset`.
    fn offset_reset(&self) -> OffsetReset;
    /// Time.
    fn clock(&self) -> Arc<dyn Clock>;
    /// Where heavy work runs.
    fn executor(&self) -> Arc<dyn Executor>;
    /// The worker's byte budget.
    fn budget(&self) -> Budget;
    /// Where bytes that fit no buffer may wait on disk, and how many; `None`: nowhere.
    fn spill(&self) -> Option<(std::path::PathBuf, u64)>;
    /// A new random id.
    fn random_id(&self) -> u128;

    /// The id of the Kafka cluster.
    ///
    /// # Errors
    /// `Retriable` while no broker answers.
    async fn cluster_id(&self) -> Result<String>;

    /// What the broker says of `partition`, in a request sent now.
    ///
    /// # Errors
    /// `NotFound` where the topic or partition does not exist; `Retriable` while no broker answers.
    async fn partition(&self, partition: &TopicPartition) -> Result<PartitionView>;

    /// What the broker says of `topic`, in a request sent now.
    ///
    /// # Errors
    /// As [`SinkContext::partition`].
    async fn topic(&self, topic: &str) -> Result<TopicView>;

    /// The group's committed offsets of `partitions`; those without are missing.
    ///
    /// # Errors
    /// `Retriable` while no broker answers.
    async fn committed(&self, partitions: &[TopicPartition]) -> Result<Positions>;

    /// True where the consumer group has members now.
    ///
    /// # Errors
    /// `Retriable` while no broker answers.
    async fn group_is_live(&self) -> Result<bool>;

    /// Commits synchronously, with the member's generation.
    ///
    /// # Errors
    /// `Fenced` where the group no longer gives these partitions to this member; `Retriable` while no broker answers.
    async fn commit(&self, positions: &Positions) -> Result<()>;

    /// Says what is wrong at the moment, or that nothing is any more: shown with the task's status while it goes on
    /// RUNNING (a store that does not answer is retried, not failed).
    fn trouble(&self, what: Option<String>);

    /// Counts what operators want to know of; it is logged by whoever calls this.
    fn count(&self, event: &SinkEvent<'_>) {
        let _ = event;
    }

    /// Asks the loop to read `partition` from `place` on; what was fetched before is dropped. Takes effect before
    /// the next `put` of that partition.
    fn seek(&self, partition: &TopicPartition, place: Place);
}
