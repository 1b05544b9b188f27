//! The contract of a source task and what it may ask of the worker.

use std::sync::Arc;

use async_trait::async_trait;

use crate::batch::Batch;
use crate::budget::Budget;
use crate::clock::Clock;
use crate::config_def::Config;
use crate::error::{ConnectError, Result};
use crate::executor::Executor;
use crate::record::Record;
use crate::sink::TopicPartition;

/// What a source reads from, in the connector's own terms: a flat JSON object. Ordered and compared by its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePartition(Arc<str>);

/// How far a source has read a [`SourcePartition`]: a flat JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOffset(serde_json::Map<String, serde_json::Value>);

impl SourcePartition {
    /// The partition described by `map`. Keys are sorted, so equal maps are equal partitions.
    ///
    /// # Errors
    /// `Data` where a value is not a primitive.
    pub fn new(map: &serde_json::Map<String, serde_json::Value>) -> Result<Self> {
        primitives_only(map)?;
        let sorted: std::collections::BTreeMap<_, _> = map.iter().collect();
        serde_json::to_string(&sorted)
            .map(|text| Self(text.into()))
            .map_err(|error| ConnectError::data("a source partition cannot be written as JSON").caused_by(error))
    }

    /// The JSON object.
    pub fn to_map(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// Its JSON text with sorted keys: also its key in an offset store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SourceOffset {
    /// The offset described by `map`.
    ///
    /// # Errors
    /// `Data` where a value is not a primitive.
    pub fn new(map: serde_json::Map<String, serde_json::Value>) -> Result<Self> {
        primitives_only(&map)?;
        Ok(Self(map))
    }

    /// The JSON object.
    pub fn as_map(&self) -> &serde_json::Map<String, serde_json::Value> {
        &self.0
    }
}

fn primitives_only(map: &serde_json::Map<String, serde_json::Value>) -> Result<()> {
    match map.iter().find(|(_, value)| value.is_array() || value.is_object()) {
        Some((key, value)) => Err(ConnectError::data(format!(
            "source partitions and offsets hold only strings, numbers, booleans and nulls; '{key}' is {value}"
        ))),
        None => Ok(()),
    }
}

/// The records of a [`SourceBatch`].
#[derive(Debug, Clone)]
pub enum SourceRecords {
    /// Bytes as they are to stand in Kafka, all of one target partition. Their order in it is kept.
    Bytes(Batch),
    /// Typed records for the converters.
    Typed(Vec<Record>),
}

/// What one poll gives.
#[derive(Debug, Clone)]
pub struct SourceBatch {
    /// What was read.
    pub partition: SourcePartition,
    /// How far it was read once every record of this batch is acknowledged. `None`: nothing to remember.
    pub offset: Option<SourceOffset>,
    /// The records, in order.
    pub records: SourceRecords,
}

/// The ways of a source whose progress lies in the target cluster: as the committed offsets of a group of its own, in
/// one transaction with the records. Its offsets have the number `offset`, which is what the group commits; the rest of
/// them stands beside it. All records of a source partition go to one target partition, and no others do.
pub trait Routes: Send + Sync {
    /// Where the records of `source` go.
    ///
    /// # Errors
    /// `Config` where it is no partition of this source.
    fn target(&self, source: &SourcePartition) -> Result<TopicPartition>;

    /// What goes to `target`; `None` where nothing of this source does.
    fn source(&self, target: &TopicPartition) -> Option<SourcePartition>;
}

/// A source task. The loop calls every method, one at a time.
#[async_trait]
pub trait SourceTask: Send {
    /// Called once, before anything else.
    ///
    /// # Errors
    /// Any error fails the task.
    async fn start(&mut self, context: Arc<dyn SourceContext>, config: &Config) -> Result<()>;

    /// The next records. May wait for some; the loop drops the future to stop or pause, or to tell of a commit, so it
    /// must be cancel-safe: nothing is lost where it is dropped at an await and called again, and what may take longer
    /// than `offset.flush.interval.ms` is kept from call to call. An empty list: nothing now, ask again.
    ///
    /// # Errors
    /// `Retriable`: asked again after a backoff. Others fail the task.
    async fn poll(&mut self) -> Result<Vec<SourceBatch>>;

    /// Everything up to these offsets is in Kafka and the offsets are stored.
    ///
    /// # Errors
    /// Logged.
    async fn committed(&mut self, upto: &[(SourcePartition, SourceOffset)]) -> Result<()> {
        let _ = upto;
        Ok(())
    }

    /// Only where the connector has [`Routes`]: what was given out and not told to be committed was taken back. The
    /// task goes on from the stored offsets, as after a start.
    ///
    /// # Errors
    /// Any error fails the task: what may pass is left to the polls.
    async fn rewind(&mut self) -> Result<()> {
        Err(ConnectError::fatal("this source cannot go back"))
    }

    /// Called once, last.
    async fn stop(&mut self) {}
}

/// A topic that a source wants to exist before it writes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// The topic's name.
    pub name: String,
    /// Number of partitions; `None`: the broker's default.
    pub partitions: Option<u32>,
    /// `None`: the broker's default.
    pub replication_factor: Option<u32>,
    /// Topic configs.
    pub configs: std::collections::BTreeMap<String, String>,
}

/// What a broker says of a topic that is to be written to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetTopic {
    /// Number of partitions.
    pub partitions: u32,
    /// Every effective config (broker defaults included).
    pub configs: std::collections::BTreeMap<String, String>,
    /// `(earliest, latest)` offsets by partition.
    pub offsets: Vec<(i64, i64)>,
}

/// What a source task may ask of the worker and of Kafka.
#[async_trait]
pub trait SourceContext: Send + Sync {
    /// The connector's name.
    fn connector(&self) -> &str;
    /// The task's number.
    fn task(&self) -> u32;
    /// Time.
    fn clock(&self) -> Arc<dyn Clock>;
    /// Where heavy work runs.
    fn executor(&self) -> Arc<dyn Executor>;
    /// The worker's byte budget.
    fn budget(&self) -> Budget;

    /// The stored offset of `partition`, where there is one.
    ///
    /// # Errors
    /// `Retriable` where the store does not answer.
    async fn offset(&self, partition: &SourcePartition) -> Result<Option<SourceOffset>>;

    /// The stored offsets of several partitions, in their order. Where the connector has [`Routes`] the targets are
    /// looked at, too: whatever is in them beyond what the offsets speak of is an error.
    ///
    /// # Errors
    /// As [`SourceContext::offset`]; `Config` where something else has written to a target.
    async fn offsets(&self, partitions: &[SourcePartition]) -> Result<Vec<Option<SourceOffset>>> {
        let mut offsets = Vec::with_capacity(partitions.len());
        for partition in partitions {
            offsets.push(self.offset(partition).await?);
        }
        Ok(offsets)
    }

    /// What the target cluster says of `topic`; `None` where it does not exist.
    ///
    /// # Errors
    /// `Retriable` while no broker answers.
    async fn target_topic(&self, topic: &str) -> Result<Option<TargetTopic>>;

    /// Creates a topic and returns when its partitions can be written to.
    ///
    /// # Errors
    /// `Conflict` where it exists; `Config` where the broker refuses it; `Retriable` while no broker answers.
    async fn create_topic(&self, topic: &NewTopic) -> Result<()>;
}
