//! The only door to a broker: what the worker's loops need of Kafka, as traits. `consumer`, `producer` and `admin`
//! implement them on librdkafka; no Kafka client type leaves this folder (A3).
//!
//! Who calls: `task`, `herder`, `worker`, `cli`. Deliberately absent: retries beyond the client's own (the loops decide
//! by [`Kind`](lakeferry_api::Kind)) and any knowledge of connectors.

pub mod admin;
pub mod clients;
pub mod consumer;
pub mod embedded;
mod error;
mod ffi;
pub mod producer;
pub mod reader;
mod security;
mod together;
mod transactions;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lakeferry_api::record::RawRecord;
use lakeferry_api::source::{NewTopic, TargetTopic};
use lakeferry_api::{
    Batch, Config, ConnectError, PartitionView, Place, Places, Positions, Result, TopicPartition, TopicView,
};

pub use self::reader::Stretches;

/// What a consumer has to say. Order matters: what a task hears is the order in which it happened.
#[derive(Debug)]
pub enum Event {
    /// New partitions. They are paused until [`Consumer::start_at`] says where each begins.
    Assigned(Vec<TopicPartition>),
    /// These partitions go to another member as soon as [`Consumer::release`] is called (or half of
    /// `max.poll.interval.ms` is over). No batch of them follows.
    Revoked(Vec<TopicPartition>),
    /// These partitions are gone already. No batch of them follows; nothing may be committed for them.
    Lost(Vec<TopicPartition>),
    /// These partitions are gone with their topics, and nobody has them. No batch of them follows.
    Deleted(Vec<TopicPartition>),
    /// Records and positions, in order within each partition.
    Batches(Vec<Batch>),
    /// The broker has no record at the position of this partition: retention overtook it, or the log was cut or made
    /// anew. Nothing of it follows until [`Consumer::start_at`].
    OutOfRange(TopicPartition),
    /// The log of this partition parted from what was read of it at this offset (KIP-320): an unclean election took
    /// back the records from there on. Nothing of it follows until [`Consumer::start_at`].
    Truncated(TopicPartition, i64),
    /// The brokers do not know this topic, which is subscribed to by its name: what is to be told of it. Said once, and
    /// nothing says that it is there again. The consumer goes on.
    Missing(String, ConnectError),
    /// The record at this offset of a partition cannot be given out. Nothing of the partition follows until
    /// [`Consumer::start_at`].
    Unreadable(TopicPartition, i64, ConnectError),
    /// Something failed; the kind says what the loop does. The consumer goes on after a retriable one.
    Error(ConnectError),
}

/// A member of a consumer group that reads `read_committed`, has no automatic commit and starts partitions only where
/// it is told.
#[async_trait]
pub trait Consumer: Send {
    /// The next event. Cancel-safe: nothing is lost where the future is dropped.
    async fn next(&mut self) -> Event;

    /// Begins to fetch newly assigned partitions, each at its place, or begins anew with any that it owns, whatever
    /// their state (fetching, paused, [`Event::OutOfRange`]); what was fetched of them before does not come any more.
    /// A place with a mark is read only once the broker has confirmed it; else [`Event::Truncated`] comes.
    fn start_at(&mut self, places: &Places);

    /// Lets the partitions of the last [`Event::Revoked`] go.
    fn release(&mut self);

    /// Reads `partition` from `place` on; what was fetched of it before does not come any more.
    fn seek(&mut self, partition: &TopicPartition, place: Place);

    /// Stops fetching these partitions; the group membership is kept.
    fn pause(&mut self, partitions: &[TopicPartition]);

    /// Fetches them again.
    fn resume(&mut self, partitions: &[TopicPartition]);

    /// The part of the consumer that spawned work may use.
    fn group(&self) -> Arc<dyn GroupMember>;

    /// Leaves the group and frees the client. No event follows.
    async fn close(&mut self);
}

/// Makes clients from Kafka client properties (as Java's clients name them): the seam between the loops and the real or
/// an embedded cluster.
pub trait Clients: Send + Sync {
    /// Joins the group that `properties` name; begins at once.
    ///
    /// # Errors
    /// `Config` where the properties cannot be used.
    fn consumer(&self, properties: &Config, subscription: &Subscription) -> Result<Box<dyn Consumer>>;

    /// A producer.
    ///
    /// # Errors
    /// `Config` where the properties cannot be used.
    fn producer(&self, properties: &Config) -> Result<Arc<dyn Producer>>;

    /// An admin client.
    ///
    /// # Errors
    /// `Config` where the properties cannot be used.
    fn admin(&self, properties: &Config) -> Result<Arc<dyn Admin>>;
}

/// What can be asked with a member's identity.
#[async_trait]
pub trait GroupMember: Send + Sync {
    /// Commits synchronously with the member's generation.
    ///
    /// # Errors
    /// `Fenced` where the member does not own them any more; `Retriable` while no broker answers.
    async fn commit(&self, positions: &Positions) -> Result<()>;

    /// The group's committed offsets; those without are missing.
    ///
    /// # Errors
    /// `Retriable` while no broker answers.
    async fn committed(&self, partitions: &[TopicPartition]) -> Result<Positions>;
}

/// Where a record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// Resolves once the broker has acknowledged (acks=all) or the delivery failed for good.
pub type Delivery = BoxFuture<'static, Result<Delivered>>;

/// Where the records of a batch were written: the smallest and the largest of their offsets. They touch, unless
/// somebody else wrote between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The smallest.
    pub first: i64,
    /// The largest.
    pub last: i64,
}

/// As [`Delivery`], for a whole batch; `None` where it was empty, or the broker did not tell every place.
pub type BatchDelivery = BoxFuture<'static, Result<Option<Written>>>;

/// What a group committed for a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The offset.
    pub offset: i64,
    /// What was written beside it.
    pub metadata: String,
}

/// What to make of a transaction that is about to change the offsets of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// Its end is waited for.
    Awaited,
    /// The offsets before it count.
    Ignored,
}

/// What a group committed, by partition.
pub type Commits = BTreeMap<TopicPartition, Committed>;

/// What a consumer subscribes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscription {
    /// These topics.
    Topics(Vec<String>),
    /// Every topic that the regular expression matches as a whole.
    Pattern(String),
}

/// Writes records. Per-partition order is the order of the calls.
///
/// A producer whose properties have a `transactional.id` writes inside of transactions only: [`init_transactions`],
/// then again and again [`begin_transaction`], records, [`send_offsets`], [`commit_transaction`] or
/// [`abort_transaction`]. All of these but the beginning wait while no broker answers, and may be dropped while they
/// do: the same call goes on where it was. Their errors: `Fenced`, another producer has the transactional id, and this
/// one can write no more; `Retriable`, this transaction cannot be committed and is to be aborted, then the next may
/// begin; others do not pass.
///
/// [`init_transactions`]: Producer::init_transactions
/// [`begin_transaction`]: Producer::begin_transaction
/// [`send_offsets`]: Producer::send_offsets
/// [`commit_transaction`]: Producer::commit_transaction
/// [`abort_transaction`]: Producer::abort_transaction
#[async_trait]
pub trait Producer: Send + Sync {
    /// Hands over one record; waits while the client's queue is full. One that has no timestamp is stamped now.
    ///
    /// # Errors
    /// `Data` for a record that the client refuses, and for a timestamp of 0 or less, which it cannot write; `Fatal`
    /// where the producer cannot be used any more.
    async fn send(&self, record: RawRecord) -> Result<Delivery>;

    /// Hands over every record of `batch` to the partition that it names, with the timestamps it has, and resolves to
    /// one delivery for all: done when the last is acknowledged, failed when any failed. One call a batch keeps the
    /// cost of a replay at the client's own.
    ///
    /// # Errors
    /// `Data` where a record's timestamp is 0 or less, or missing (the client library would stamp it now): nothing of
    /// the batch is sent; else as [`Producer::send`].
    async fn send_batch(&self, batch: &Batch) -> Result<BatchDelivery>;

    /// Takes the transactional id over, once, before anything else: whoever had it can write no more. When this returns
    /// its last transaction is committed or aborted in every partition, and nobody will change that.
    ///
    /// # Errors
    /// `Config` where the user may not use this id; `Retriable` where no broker has answered for a while: the same call
    /// goes on; otherwise as the trait says.
    async fn init_transactions(&self) -> Result<()> {
        Err(no_transactions())
    }

    /// Begins a transaction: what is sent from here on is part of it.
    ///
    /// # Errors
    /// As the trait says.
    async fn begin_transaction(&self) -> Result<()> {
        Err(no_transactions())
    }

    /// Sends what waits for more to go with it, and waits a while for the deliveries: they say how that went. To be
    /// called where nothing more will be sent before the transaction ends.
    ///
    /// # Errors
    /// As the trait says.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Makes these commits of `group` a part of the transaction. The group must not have members.
    ///
    /// # Errors
    /// As the trait says.
    async fn send_offsets(&self, group: &str, commits: &Commits) -> Result<()> {
        let _ = (group, commits);
        Err(no_transactions())
    }

    /// Makes everything since the beginning visible at once. Every delivery must have ended well before.
    ///
    /// # Errors
    /// As the trait says.
    async fn commit_transaction(&self) -> Result<()> {
        Err(no_transactions())
    }

    /// Takes everything since the beginning back; what was not delivered is not.
    ///
    /// # Errors
    /// As the trait says.
    async fn abort_transaction(&self) -> Result<()> {
        Err(no_transactions())
    }
}

fn no_transactions() -> ConnectError {
    ConnectError::fatal("this producer has no transactional.id")
}

/// A topic's partition numbers with their current earliest and latest offsets.
pub type Watermarks = BTreeMap<i32, (i64, i64)>;

/// Asks and changes what a cluster knows. Every answer is fresh from a broker. Who stands in for a cluster in a test
/// leaves out what nobody is to ask of it: that is refused.
#[async_trait]
pub trait Admin: Send + Sync {
    /// The cluster's id.
    async fn cluster_id(&self) -> Result<String>;
    /// Topic id and offsets of a partition. `NotFound` where it does not exist.
    async fn partition(&self, partition: &TopicPartition) -> Result<PartitionView>;
    /// Shape and configs of a topic. `NotFound` where it does not exist.
    async fn topic(&self, topic: &str) -> Result<TopicView> {
        Err(not_here("topic", topic))
    }
    /// The names of all topics.
    async fn topics(&self) -> Result<Vec<String>> {
        Err(not_here("topics", "any"))
    }
    /// A topic as a target: effective configs and offsets; `None` where it does not exist.
    async fn target_topic(&self, topic: &str) -> Result<Option<TargetTopic>> {
        Err(not_here("target_topic", topic))
    }
    /// Whether a topic could be created: the brokers check all of it, and make nothing.
    async fn check_new_topic(&self, topic: &NewTopic) -> Result<()> {
        let _ = topic;
        Ok(())
    }
    /// Creates a topic and waits until it can be written to.
    async fn create_topic(&self, topic: &NewTopic) -> Result<()> {
        Err(not_here("create_topic", &topic.name))
    }
    /// Sets these configs of a topic, or takes them back to the broker's default where there is no value; others stay.
    async fn alter_topic_configs(&self, topic: &str, configs: &BTreeMap<String, Option<String>>) -> Result<()> {
        let _ = configs;
        Err(not_here("alter_topic_configs", topic))
    }
    /// All committed offsets of a group; empty where the group does not exist.
    async fn group_offsets(&self, group: &str) -> Result<Positions> {
        Err(not_here("group_offsets", group))
    }
    /// True where the group has members now.
    async fn group_is_live(&self, group: &str) -> Result<bool> {
        Err(not_here("group_is_live", group))
    }
    /// Sets offsets of a group without members. `Conflict` where it has some.
    async fn alter_group_offsets(&self, group: &str, offsets: &Positions) -> Result<()> {
        let _ = offsets;
        Err(not_here("alter_group_offsets", group))
    }
    /// Removes offsets of a group without members. `Conflict` where it has some.
    async fn delete_group_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<()> {
        let _ = partitions;
        Err(not_here("delete_group_offsets", group))
    }
    /// Removes a group; one that does not exist is fine. `Conflict` where it has members.
    async fn delete_group(&self, group: &str) -> Result<()> {
        Err(not_here("delete_group", group))
    }
    /// As [`Admin::group_offsets`], with what stands beside them.
    async fn group_commits(&self, group: &str, pending: Pending) -> Result<Commits> {
        let _ = pending;
        let commit = |offset| Committed { offset, metadata: String::new() };
        let offsets = self.group_offsets(group).await?;
        Ok(offsets.into_iter().map(|(partition, offset)| (partition, commit(offset))).collect())
    }
    /// As [`Admin::alter_group_offsets`], with what is to stand beside them.
    async fn alter_group_commits(&self, group: &str, commits: &Commits) -> Result<()> {
        let _ = commits;
        Err(not_here("alter_group_commits", group))
    }
    /// The first record that a `read_committed` consumer finds in one of these stretches, if there is any: control
    /// records and those of aborted transactions are none.
    async fn first_visible(&self, stretches: &Stretches) -> Result<Option<(TopicPartition, i64)>> {
        let _ = stretches;
        Err(not_here("first_visible", "any"))
    }
}

fn not_here(method: &str, of: &str) -> ConnectError {
    ConnectError::fatal(format!("Admin::{method} ({of}) is no part of this cluster"))
}

#[cfg(test)]
mod tests;
