//! One record as transforms, converters and typed connectors see it. Byte-exact paths never build one: they stay
//! with the columns of a [`Batch`](crate::batch::Batch).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::value::Datum;

/// A topic's partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
}

impl TopicPartition {
    /// The partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Who gave a record its timestamp (the message.timestamp.type of its topic).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer.
    Create,
    /// The broker, on append.
    Append,
}

/// Where a consumed record came from. Transforms may rename a record's topic, never its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    partition: TopicPartition,
    offset: i64,
    timestamp_type: Option<TimestampType>,
}

impl Origin {
    /// The record at `offset` of `partition`.
    pub fn new(partition: TopicPartition, offset: i64, timestamp_type: Option<TimestampType>) -> Self {
        Self { partition, offset, timestamp_type }
    }

    /// The partition it was consumed from.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// Its offset there.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Who stamped it; `None` where it has no timestamp.
    pub fn timestamp_type(&self) -> Option<TimestampType> {
        self.timestamp_type
    }
}

/// A header of a typed record. Order and duplicates matter, so headers are a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The header's key.
    pub key: Arc<str>,
    /// Its value with schema, as the header converter read it.
    pub value: Datum,
}

/// A record with decoded key, value and headers.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The topic; a transform may change it.
    pub topic: Arc<str>,
    /// The partition; `None` lets the producer choose (source records only).
    pub partition: Option<i32>,
    /// Milliseconds since the epoch; `None` where Kafka has none.
    pub timestamp: Option<i64>,
    /// The key.
    pub key: Datum,
    /// The value.
    pub value: Datum,
    /// The headers in order.
    pub headers: Vec<Header>,
    /// Where it was consumed; `None` for records of a source.
    pub origin: Option<Origin>,
}

/// A record's parts in bytes, on their way to a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// The target topic.
    pub topic: Arc<str>,
    /// The target partition; `None` lets the producer choose by key.
    pub partition: Option<i32>,
    /// Milliseconds since the epoch; `None`: the producer stamps it now.
    pub timestamp: Option<i64>,
    /// The key's bytes.
    pub key: Option<Bytes>,
    /// The value's bytes.
    pub value: Option<Bytes>,
    /// The headers in order, nulls and duplicates kept.
    pub headers: Vec<(Arc<str>, Option<Bytes>)>,
}
