//! What connectors may ask: [`SinkContext`] and [`SourceContext`] on the kafka traits. Every answer about a cluster is
//! a request sent now. Admin clients are made when first needed: most tasks never ask.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use lakeferry_api::sink::OffsetReset;
use lakeferry_api::source::{NewTopic, TargetTopic};
use lakeferry_api::{
    Budget, Clock, Config, Executor, PartitionView, Place, Places, Positions, Result, SinkContext, SinkEvent,
    SourceContext, SourceOffset, SourcePartition, TopicPartition, TopicView,
};

use super::doubts::Doubts;
use super::exact::Ledger;
use super::voice::{Trouble, Voice};
use super::{Parts, TaskId};
use crate::kafka::{Admin, Clients, GroupMember};
use crate::metrics;

/// An admin client that is made when first asked for.
pub(super) struct LazyAdmin {
    clients: Arc<dyn Clients>,
    properties: Config,
    made: Mutex<Option<Arc<dyn Admin>>>,
}

impl LazyAdmin {
    pub(super) fn new(clients: Arc<dyn Clients>, properties: Config) -> Self {
        Self { clients, properties, made: Mutex::default() }
    }

    pub(super) fn get(&self) -> Result<Arc<dyn Admin>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(admin) = made.as_ref() {
            return Ok(Arc::clone(admin));
        }
        let admin = self.clients.admin(&self.properties)?;
        *made = Some(Arc::clone(&admin));
        Ok(admin)
    }
}

/// The context of a sink task.
pub(super) struct TaskSinkContext {
    pub(super) id: TaskId,
    pub(super) parts: Arc<Parts>,
    pub(super) group_id: String,
    pub(super) offset_reset: OffsetReset,
    pub(super) group: Arc<dyn GroupMember>,
    pub(super) admin: LazyAdmin,
    pub(super) voice: Arc<Voice>,
    pub(super) seeks: Mutex<Places>,
    /// What speaks against positions, until the task has begun elsewhere.
    pub(super) doubts: Doubts,
}

impl TaskSinkContext {
    /// The seeks that were asked for since the last call.
    pub(super) fn take_seeks(&self) -> Places {
        std::mem::take(&mut *self.seeks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl SinkContext for TaskSinkContext {
    fn connector(&self) -> &str {
        &self.id.connector
    }

    fn task(&self) -> u32 {
        self.id.task
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
        self.admin.get()?.cluster_id().await
    }

    async fn partition(&self, partition: &TopicPartition) -> Result<PartitionView> {
        let view = self.admin.get()?.partition(partition).await?;
        self.doubts.topic_is(partition, view.topic_id.clone());
        self.doubts.log_starts_at(partition, view.log_start_offset);
        Ok(PartitionView { truncated_at: self.doubts.parted_at(partition), ..view })
    }

    async fn topic(&self, topic: &str) -> Result<TopicView> {
        self.admin.get()?.topic(topic).await
    }

    async fn committed(&self, partitions: &[TopicPartition]) -> Result<Positions> {
        self.group.committed(partitions).await
    }

    async fn group_is_live(&self) -> Result<bool> {
        self.admin.get()?.group_is_live(&self.group_id).await
    }

    async fn commit(&self, positions: &Positions) -> Result<()> {
        self.group.commit(positions).await
    }

    fn trouble(&self, what: Option<String>) {
        self.voice.trouble(Trouble::Task, what);
    }

    fn count(&self, event: &SinkEvent<'_>) {
        match *event {
            SinkEvent::Gap { partition, offsets, reason } => {
                metrics::gap(&self.id.connector, partition, reason, offsets);
            }
            SinkEvent::EndedEarly { partition } => metrics::file_ended_early(&self.id.connector, partition),
        }
    }

    fn seek(&self, partition: &TopicPartition, place: Place) {
        self.seeks.lock().unwrap_or_else(PoisonError::into_inner).insert(partition.clone(), place);
    }
}

/// The context of a source task.
pub(super) struct TaskSourceContext {
    pub(super) id: TaskId,
    pub(super) parts: Arc<Parts>,
    pub(super) admin: Arc<LazyAdmin>,
    /// Knows the offsets of a source that writes in transactions.
    pub(super) ledger: Option<Arc<Ledger>>,
}

#[async_trait]
impl SourceContext for TaskSourceContext {
    fn connector(&self) -> &str {
        &self.id.connector
    }

    fn task(&self) -> u32 {
        self.id.task
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

    async fn offset(&self, partition: &SourcePartition) -> Result<Option<SourceOffset>> {
        match &self.ledger {
            Some(ledger) => Ok(ledger.offsets(std::slice::from_ref(partition)).await?.pop().flatten()),
            None => self.parts.offsets.get(&self.id.connector, partition).await,
        }
    }

    async fn offsets(&self, partitions: &[SourcePartition]) -> Result<Vec<Option<SourceOffset>>> {
        if let Some(ledger) = &self.ledger {
            return ledger.offsets(partitions).await;
        }
        let stored = partitions.iter().map(|partition| self.parts.offsets.get(&self.id.connector, partition));
        futures::future::try_join_all(stored).await
    }

    async fn target_topic(&self, topic: &str) -> Result<Option<TargetTopic>> {
        self.admin.get()?.target_topic(topic).await
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<()> {
        self.admin.get()?.create_topic(topic).await
    }
}
