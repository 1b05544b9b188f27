//! The archive sink: topics to the lake, byte for byte, exactly once.
//!
//! Follow a record: [`task`] routes its batch to its [`partition`], which adds it to the open file ([`writer`]) and
//! ends the file when `rotate` says so; the file's bytes go up in parts beside the loop ([`upload`]); when the object
//! is durable, [`commit`] names it in the partition's next manifest entry; only then does `flush` call its offsets
//! durable. Where a partition begins is decided by [`start`] from its chain's end.
//!
//! Invariant: whatever fails, a partition may always throw away what it holds and start again from its chain's end,
//! for the records are still in Kafka and an object that no manifest names does not exist (A5).

mod alter;
mod backoff;
mod broken;
mod check;
mod closing;
mod commit;
mod lanes;
mod partition;
mod settings;
mod spill;
mod start;
mod task;
#[cfg(test)]
mod tests;
mod troubles;
mod upload;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use lakeferry_api::config_def::ConfigValue;
use lakeferry_api::connector::{ConnectorType, SinkAlteration, Task};
use lakeferry_api::{Config, ConfigDef, Connector, RecordForm, Result, SinkContext};

use self::commit::Identity;
use crate::config::{SinkSettings, check_lake, sink_def};
use crate::format;
use crate::layout::Layout;
use crate::manifest::ManifestStore;

/// The class that configs name.
pub const CLASS: &str = "io.lakeferry.LakeSinkConnector";

/// The archive sink connector.
#[derive(Debug, Default)]
pub struct LakeSinkConnector {
    config: Config,
}

#[async_trait]
impl Connector for LakeSinkConnector {
    fn connector_type(&self) -> ConnectorType {
        ConnectorType::Sink
    }

    fn record_form(&self) -> RecordForm {
        RecordForm::Bytes
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn config_def(&self) -> ConfigDef {
        sink_def()
    }

    fn knows(&self, key: &str) -> bool {
        // Which options there are is the store's to say, and it refuses others.
        key.starts_with("store.") || self.config_def().key(key).is_some()
    }

    fn validate(&self, config: &Config, values: &mut [ConfigValue]) {
        // Single keys have been told; what holds between keys is told at the key that must change.
        check_lake(config, values);
        let Ok(settings) = SinkSettings::parse(config) else { return };
        if let (Err(error), Some(value)) =
            (compression(&settings), values.iter_mut().find(|value| value.name == "codec"))
        {
            value.errors.push(format!("codec={}: {error}", settings.codec.as_deref().unwrap_or("zstd")));
        }
    }

    async fn start(&mut self, config: &Config) -> Result<()> {
        let settings = SinkSettings::parse(config)?;
        compression(&settings)?;
        self.config.clone_from(config);
        Ok(())
    }

    fn task_configs(&self, tasks_max: usize) -> Result<Vec<Config>> {
        Ok(vec![self.config.clone(); tasks_max])
    }

    fn task_class(&self) -> &'static str {
        "io.lakeferry.LakeSinkTask"
    }

    fn task(&self) -> Task {
        Task::Sink(Box::new(task::LakeSinkTask::default()))
    }

    async fn alter_sink_offsets(
        &self,
        context: Arc<dyn SinkContext>,
        config: &Config,
        alteration: &SinkAlteration,
    ) -> Result<bool> {
        let settings = SinkSettings::parse(config)?;
        let lake = settings.lake.open_lake()?;
        let manifests = ManifestStore::new(lake.store, Layout::new(&settings.lake.topics_dir)?, context.clock());
        let manifests = manifests.finding(lake.names);
        let identity = Identity::of(context.as_ref(), context.cluster_id().await?);
        alter::alter(context.as_ref(), &manifests, &identity, alteration).await?;
        Ok(true)
    }
}

/// The format and codec of these settings, checked against each other.
fn compression(settings: &SinkSettings) -> Result<(&'static format::FileFormat, format::Compression)> {
    let format = format::find(&settings.format)?;
    let codec = settings.codec.as_deref().unwrap_or("zstd");
    Ok((format, format.compression(codec, settings.codec_level)?))
}
