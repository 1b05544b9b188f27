//! What a sink connector may ask while its offsets are altered: it has no consumer and no task then, so everything
//! comes from an admin client. Seeks and troubles concern nobody.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use lakeferry_api::sink::OffsetReset;
use lakeferry_api::{
    Budget, Clock, Executor, PartitionView, Place, Positions, Result, SinkContext, TopicPartition, TopicView,
};

use super::Parts;
use super::offsets::Group;
use crate::config::overrides::offset_reset;
use crate::kafka::Admin;

/// The context of a sink connector that is stopped.
pub(super) struct StoppedSink {
    parts: Arc<Parts>,
    connector: String,
    group_id: String,
    offset_reset: OffsetReset,
    admin: Arc<dyn Admin>,
}

impl StoppedSink {
    /// # Errors
    /// `Config` where the consumer's properties are wrong.
    pub(super) fn new(parts: Arc<Parts>, connector: &str, group: &Group) -> Result<Self> {
        let offset_reset = offset_reset(&group.consumer)?;
        let admin = Arc::clone(&group.admin);
        Ok(Self { parts, connector: connector.to_owned(), group_id: group.id.clone(), offset_reset, admin })
    }
}

#[async_trait]
impl SinkContext for StoppedSink {
    fn connector(&self) -> &str {
        &self.connector
    }

    fn task(&self) -> u32 {
        0
    }

    fn worker_id(&self) -> &str {
        &self.parts.worker_id
    }

    fn group(&self) -> &str {
        &self.group_id
    }

    fn offset_reset(&self) -> OffsetReset {
        self.offset_reset
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.parts.clock)
    }

    fn executor(&self) -> Arc<dyn Executor> {
        Arc::clone(&self.parts.executor)
    }

    fn budget(&self) -> Budget {
        self.parts.budget.clone()
    }

    fn spill(&self) -> Option<(PathBuf, u64)> {
        self.parts.worker.spill()
    }

    fn random_id(&self) -> u128 {
        self.parts.random.id()
    }

    async fn cluster_id(&self) -> Result<String> {
        self.admin.cluster_id().await
    }

    async fn partition(&self, partition: &TopicPartition) -> Result<PartitionView> {
        self.admin.partition(partition).await
    }

    async fn topic(&self, topic: &str) -> Result<TopicView> {
        self.admin.topic(topic).await
    }

    async fn committed(&self, partitions: &[TopicPartition]) -> Result<Positions> {
        let mut committed = self.admin.group_offsets(&self.group_id).await?;
        committed.retain(|partition, _| partitions.contains(partition));
        Ok(committed)
    }

    async fn group_is_live(&self) -> Result<bool> {
        self.admin.group_is_live(&self.group_id).await
    }

    async fn commit(&self, positions: &Positions) -> Result<()> {
        self.admin.alter_group_offsets(&self.group_id, positions).await
    }

    fn trouble(&self, what: Option<String>) {
        if let Some(what) = what {
            tracing::warn!(connector = self.connector, what, "while its offsets are altered");
        }
    }

    fn seek(&self, _partition: &TopicPartition, _place: Place) {}
}
