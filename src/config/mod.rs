//! What the worker is told: properties files, the worker's and the connectors' settings, client overrides, config
//! providers, and the catalog of plug-ins.

pub mod catalog;
pub mod clients;
pub mod connector;
pub mod overrides;
pub mod properties;
pub mod provider;
pub mod rest;
pub mod version;
pub mod worker;

use lakeferry_api::Config;

pub use connector::ConnectorConfig;
pub use worker::WorkerConfig;

/// The plug-in class of a converter and the options it is configured with (prefix removed).
#[derive(Clone, PartialEq, Eq)]
pub struct ConverterSettings {
    /// The class name or alias.
    pub class: String,
    /// Its options.
    pub options: Config,
}

impl ConverterSettings {
    /// Of the converter at `key` (such as `key.converter`) of `config`, where one is named there.
    fn of(config: &Config, key: &str) -> Option<Self> {
        let class = config.get(key)?.trim().to_owned();
        Some(Self { class, options: converter_options(config, key) })
    }
}

fn converter_options(config: &Config, key: &str) -> Config {
    let mut options = with_prefix(config, &format!("{key}."));
    options.remove("plugin.version");
    options
}

/// The entries of `config` below `prefix`, without it.
pub fn with_prefix(config: &Config, prefix: &str) -> Config {
    let below = config.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value)));
    below.filter(|(key, _)| !key.is_empty()).map(|(key, value)| (key.to_owned(), value.clone())).collect()
}
