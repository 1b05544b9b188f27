//! Connect's own memory: where source tasks had got to (and, with the herder, what was configured and what state it is
//! in). Traits here, one store a file; `records` has the exact JSON that Connect writes to its topics.
//!
//! Who calls: `task` stores and asks offsets, the herder alters them through REST. Deliberately absent: any idea of
//! when to store what.

pub mod file;
pub mod memory;
pub mod records;

use std::collections::BTreeMap;

use async_trait::async_trait;
use lakeferry_api::{Result, SourceOffset, SourcePartition};

/// The offsets of a connector's source partitions.
pub type SourceOffsets = BTreeMap<SourcePartition, SourceOffset>;

/// Source offsets, kept by connector name and source partition.
#[async_trait]
pub trait OffsetLog: Send + Sync {
    /// The stored offset of one source partition.
    ///
    /// # Errors
    /// `Retriable` where the store does not answer.
    async fn get(&self, connector: &str, partition: &SourcePartition) -> Result<Option<SourceOffset>>;

    /// Every stored offset of a connector.
    ///
    /// # Errors
    /// `Retriable` where the store does not answer.
    async fn all(&self, connector: &str) -> Result<SourceOffsets>;

    /// Stores these offsets of a connector, all or none; `None` removes one. Durable when it returns.
    ///
    /// # Errors
    /// `Retriable` where the store does not take them now: nothing is changed.
    async fn put(&self, connector: &str, offsets: &[(SourcePartition, Option<SourceOffset>)]) -> Result<()>;
}
