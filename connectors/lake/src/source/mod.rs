//! From the lake back to Kafka: the replay source.
//!
//! Follow a record back: [`choose`] finds the partitions and their files through the manifests, in one of the topic's
//! [`incarnations`], [`plan`] says which files are read and which rows of them are taken ([`cut`]: by time), [`read`]
//! fetches their blocks ahead, checks each against its manifest's hash and decodes it, [`replay`] lets the partitions
//! take turns and gives batches with the offsets to store, [`rewrite`] changes the little that may be changed, and
//! [`task`] hands them to the worker.
//! [`prepare`] comes before all that: it finds whatever would make a replay wrong, goes on with what was [`begun`], and
//! makes the [`target`]s.
//!
//! Invariant: what arrives is what left, byte for byte, each record in its partition and in order; what cannot be so is
//! refused before anything is written.

mod begun;
pub mod choose;
pub mod config;
pub mod cut;
pub mod ends;
pub(crate) mod fetch;
mod follow;
pub mod incarnations;
pub mod plan;
pub mod prepare;
mod present;
pub mod read;
pub mod replay;
pub mod rewrite;
pub mod stored;
pub mod target;
mod task;

use std::sync::Arc;

use async_trait::async_trait;
use lakeferry_api::config_def::ConfigValue;
use lakeferry_api::connector::{AlteredOffsets, ConnectorType, Task};
use lakeferry_api::{Config, ConfigDef, Connector, RecordForm, Result, Routes, SourcePartition, TopicPartition};

use self::config::{SourceSettings, TASK_COUNT, TASK_INDEX, check_lineage, source_def};
use crate::config::check_lake;

pub use self::task::LakeSourceTask;

/// The class that configs name.
pub const CLASS: &str = "io.lakeferry.LakeSourceConnector";

/// The replay source connector.
#[derive(Debug, Default)]
pub struct LakeSourceConnector {
    config: Config,
    by_time: bool,
}

#[async_trait]
impl Connector for LakeSourceConnector {
    fn connector_type(&self) -> ConnectorType {
        ConnectorType::Source
    }

    fn record_form(&self) -> RecordForm {
        RecordForm::Bytes
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn config_def(&self) -> ConfigDef {
        source_def()
    }

    fn knows(&self, key: &str) -> bool {
        // Which options there are is the store's to say, and it refuses others.
        key.starts_with("store.") || self.config_def().key(key).is_some()
    }

    fn validate(&self, config: &Config, values: &mut [ConfigValue]) {
        check_lake(config, values);
        check_lineage(values);
        // What holds between keys is told at the key that its message begins with.
        if values.iter().any(|value| !value.errors.is_empty()) {
            return;
        }
        if let Err(error) = SourceSettings::parse(config) {
            let message = error.message().to_owned();
            let about = |value: &&mut ConfigValue| message.split([':', ' ']).next() == Some(value.name.as_str());
            if let Some(value) = values.iter_mut().find(about) {
                value.errors.push(message);
            }
        }
    }

    async fn start(&mut self, config: &Config) -> Result<()> {
        self.by_time = SourceSettings::parse(config)?.by_time;
        self.config.clone_from(config);
        Ok(())
    }

    fn task_configs(&self, tasks_max: usize) -> Result<Vec<Config>> {
        // Partitions that advance together are one task's.
        let count = if self.by_time { tasks_max.min(1) } else { tasks_max };
        let task = |index: usize| {
            let mut config = self.config.clone();
            config.insert(TASK_INDEX.to_owned(), index.to_string());
            config.insert(TASK_COUNT.to_owned(), count.to_string());
            config
        };
        Ok((0..count).map(task).collect())
    }

    fn task_class(&self) -> &'static str {
        "io.lakeferry.LakeSourceTask"
    }

    fn task(&self) -> Task {
        Task::Source(Box::new(LakeSourceTask::default()))
    }

    fn routes(&self, config: &Config) -> Result<Option<Arc<dyn Routes>>> {
        Ok(Some(Arc::new(SourceSettings::parse(config)?)))
    }

    async fn alter_source_offsets(&self, _: &Config, offsets: &AlteredOffsets) -> Result<bool> {
        for (partition, offset) in offsets {
            stored::archived_partition(partition)?;
            if let Some(offset) = offset {
                stored::Stored::read(offset)?;
            }
        }
        Ok(true)
    }
}

/// An archived partition goes to the partition of the same number in the topic of its new name.
impl Routes for SourceSettings {
    fn target(&self, source: &SourcePartition) -> Result<TopicPartition> {
        let archived = stored::archived_partition(source)?;
        Ok(TopicPartition::new(self.target_of(&archived.topic), archived.partition))
    }

    fn source(&self, target: &TopicPartition) -> Option<SourcePartition> {
        let renamed = self.rename.iter().find(|(_, to)| ***to == *target.topic).map(|(from, _)| from.as_str());
        let topic = renamed.unwrap_or(&target.topic);
        let is_ours = self.topics.has(topic) && self.target_of(topic) == &*target.topic;
        is_ours.then(|| stored::source_partition(&TopicPartition::new(topic, target.partition)).ok()).flatten()
    }
}
