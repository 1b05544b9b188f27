//! A connector: what a plug-in is, what it accepts, and how it splits into tasks.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::config_def::{Config, ConfigDef, ConfigValue};
use crate::error::Result;
use crate::sink::{SinkTask, TopicPartition};
use crate::source::{Routes, SourceOffset, SourcePartition, SourceTask};

/// How a task wants to see, or gives, its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordForm {
    /// The bytes as they are in Kafka: converters and the header converter are passed by.
    Bytes,
    /// Decoded by the connector's converters.
    Typed,
}

/// A task of either direction.
pub enum Task {
    /// Kafka to elsewhere.
    Sink(Box<dyn SinkTask>),
    /// Elsewhere to Kafka.
    Source(Box<dyn SourceTask>),
}

/// Which direction a connector has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectorType {
    /// Kafka to elsewhere.
    Sink,
    /// Elsewhere to Kafka.
    Source,
}

/// Offsets to set, by source partition; `None` resets that partition.
pub type AlteredOffsets = BTreeMap<SourcePartition, Option<SourceOffset>>;

/// What becomes of a sink's offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkAlteration {
    /// These are set; `None` resets that partition.
    Some(BTreeMap<TopicPartition, Option<i64>>),
    /// Every partition is reset, whether or not the group ever committed an offset of it.
    ResetAll,
}

/// One connector class. An instance belongs to one connector name; the worker creates it, then calls
/// [`Connector::start`] before it asks for task configs. Methods are called by the herder, never two at once.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Sink or source.
    fn connector_type(&self) -> ConnectorType;

    /// The form its tasks want or give records in.
    fn record_form(&self) -> RecordForm;

    /// The version that `GET /connector-plugins` shows.
    fn version(&self) -> String;

    /// The definition of every key it understands; worker and REST derive parsing, validation and docs from it.
    fn config_def(&self) -> ConfigDef;

    /// True for a key that it understands; `config_def` cannot list those that have a free part, as `store.<option>`.
    /// What nobody knows is logged when the connector starts.
    fn knows(&self, key: &str) -> bool {
        self.config_def().key(key).is_some()
    }

    /// Checks that go beyond single keys: errors are added to `values`, which has one entry a defined key.
    fn validate(&self, config: &Config, values: &mut [ConfigValue]) {
        let _ = (config, values);
    }

    /// Prepares the instance; may look at the outside world.
    ///
    /// # Errors
    /// Any error makes the connector FAILED with its trace.
    async fn start(&mut self, config: &Config) -> Result<()>;

    /// The configs of at most `tasks_max` tasks.
    ///
    /// # Errors
    /// Any error makes the connector FAILED with its trace.
    fn task_configs(&self, tasks_max: usize) -> Result<Vec<Config>>;

    /// The class name that goes into a task config as `task.class`.
    fn task_class(&self) -> &'static str;

    /// A new task, not yet started.
    fn task(&self) -> Task;

    /// Stops what [`Connector::start`] began.
    async fn stop(&mut self) {}

    /// A source whose progress lies in the target cluster has routes: each of its records arrives exactly once,
    /// whatever ends a task. `None` (the default): its offsets are stored in Connect's own log, after the records.
    ///
    /// # Errors
    /// `Config` where `config` cannot be used.
    fn routes(&self, config: &Config) -> Result<Option<Arc<dyn Routes>>> {
        let _ = config;
        Ok(None)
    }

    /// A source is asked whether it accepts these offsets before the worker stores them. `Ok(true)`: the connector
    /// has nothing else to alter; `Ok(false)` (the default): offsets kept elsewhere are the user's affair.
    ///
    /// # Errors
    /// `Config` for an offset it does not accept.
    async fn alter_source_offsets(&self, config: &Config, offsets: &AlteredOffsets) -> Result<bool> {
        let _ = (config, offsets);
        Ok(false)
    }

    /// A sink is asked (and acts on what it keeps itself) before the worker alters the group's offsets. See
    /// [`Connector::alter_source_offsets`] for the meaning of the result.
    ///
    /// # Errors
    /// `Config` for an offset it does not accept.
    async fn alter_sink_offsets(
        &self,
        context: Arc<dyn crate::sink::SinkContext>,
        config: &Config,
        alteration: &SinkAlteration,
    ) -> Result<bool> {
        let _ = (context, config, alteration);
        Ok(false)
    }
}
