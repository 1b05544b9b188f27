//! Answers whether a connector config would do, key by key, in the groups, the order and the words of Kafka Connect:
//! the engine behind `PUT /connector-plugins/{p}/config/validate` and behind every create and update.
//!
//! Three parts follow each other in an answer: the framework's keys with the connector's own (one list, the
//! connector's redefinitions in place), the client overrides, and the options of converters named in the config.
//! References to config providers are resolved first, so an answer shows what they resolve to. Nothing is started
//! and no service is asked.

mod framework;
mod hash_order;
mod sections;

use std::collections::BTreeMap;

use lakeferry_api::config_def::{ConfigDef, ConfigKey, ConfigValue};
use lakeferry_api::connector::ConnectorType;
use lakeferry_api::{Config, ConnectError, Result};

use crate::config::WorkerConfig;
use crate::config::catalog::{Catalog, Make, Plugin, PluginKind};
use crate::config::version::VersionRange;
use crate::config::{connector, overrides::Client};
use framework::Framework;
use sections::Section;

const NULL_VALUE: &str = "Null value can not be supplied as the configuration value.";

/// What validation says of a whole config.
#[derive(Debug, Clone)]
pub struct Validation {
    /// The class as the config names it.
    pub name: String,
    /// Messages of the connector's own part plus keys with messages in the other parts, as Connect counts.
    pub error_count: usize,
    /// The groups of all definitions, in order.
    pub groups: Vec<String>,
    /// Each key: its definition, where there is one, and its value.
    pub configs: Vec<(Option<ConfigKey>, Option<ConfigValue>)>,
}

/// Everything the parts look at.
struct Request<'a> {
    catalog: &'a Catalog,
    worker: &'a WorkerConfig,
    config: &'a Config,
    plugin: &'a Plugin,
    kind: ConnectorType,
}

/// Values by key, in order of arrival.
struct Values {
    values: Vec<ConfigValue>,
    place_by_name: BTreeMap<String, usize>,
}

/// Validates `config`.
///
/// # Errors
/// `Config` where there is no connector to ask: the class is missing or unknown, or a config provider cannot be read.
pub fn validate(catalog: &Catalog, worker: &WorkerConfig, config: &Config) -> Result<Validation> {
    let raw = config;
    let config = &worker.providers.resolve(raw)?;
    let Some(class) = config.get("connector.class") else {
        let entries: Vec<_> =
            hash_order::copied(raw.iter(), |(key, _)| key).map(|(key, value)| format!("{key}={value}")).collect();
        return Err(ConnectError::config(format!(
            "Connector config {{{}}} contains no connector type",
            entries.join(", ")
        )));
    };
    let plugin = catalog.connector_plugin(class)?;
    if let Some(unmatched) = unmatched_version(catalog, config, plugin)? {
        return Ok(unmatched);
    }
    let Make::Connector(make) = plugin.make else {
        return Err(ConnectError::config(format!("{class} is no connector")));
    };
    let connector = make();
    let request = Request { catalog, worker, config, plugin, kind: connector.connector_type() };

    let Framework { def, mut values } = framework::validate(&request);
    let converters = sections::converters(&request, &mut values);
    let overrides = sections::overrides(&request);
    let own_def = connector.config_def();
    let mut own = own_def.validate(config);
    connector.validate(config, &mut own);
    own.into_iter().for_each(|value| values.put(value));

    let mut validation = main_section(class, def.define_all(own_def), values);
    overrides.into_iter().chain(converters).for_each(|section| validation.append(section));
    Ok(validation)
}

/// The definitions that `GET /connector-plugins/{p}/config` shows: the plug-in's own, then what the framework adds to
/// connectors.
///
/// # Errors
/// `NotFound` where there is no such plug-in; `Config` where it has no version that `version` asks for.
pub fn plugin_config(catalog: &Catalog, name: &str, version: Option<&str>) -> Result<Vec<ConfigKey>> {
    let plugin = catalog.find(name).ok_or_else(|| ConnectError::not_found(format!("Unknown plugin {name}.")))?;
    let range = version.map(VersionRange::parse).transpose().map_err(ConnectError::config)?.flatten();
    check_version(catalog, plugin, range.as_ref()).map_err(ConnectError::config)?;
    let (own, framework) = match plugin.make {
        Make::Connector(make) => (make().config_def(), Some(plugin)),
        Make::Converter(make) => (make().config_def(), None),
        Make::HeaderConverter(make) => (make().config_def(), None),
    };
    let mut keys = own.keys().to_vec();
    if let Some(plugin) = framework {
        let added = framework::definitions(plugin);
        keys.extend(added.keys().iter().filter(|key| own.key(&key.name).is_none()).cloned());
    }
    Ok(keys)
}

impl Validation {
    /// Every message, in the order of the keys.
    pub fn messages(&self) -> impl Iterator<Item = &str> {
        let values = self.configs.iter().filter_map(|(_, value)| value.as_ref());
        values.flat_map(|value| value.errors.iter().map(String::as_str))
    }

    /// The same where the client gave nulls, which a config cannot hold: Connect refuses them in keys that are not the
    /// connector's own.
    pub fn with_nulls(mut self, catalog: &Catalog, nulls: &[String]) -> Self {
        let own = catalog.connector(&self.name).map(|connector| connector.config_def()).unwrap_or_default();
        for name in nulls {
            let of_name = |value: &ConfigValue| value.name == *name;
            if !self.configs.iter().any(|(_, value)| value.as_ref().is_some_and(of_name)) {
                let value = ConfigValue {
                    name: name.clone(),
                    value: None,
                    recommended_values: Vec::new(),
                    errors: Vec::new(),
                    visible: true,
                };
                self.configs.insert(0, (None, Some(value)));
            }
            let mut values = self.configs.iter_mut().filter_map(|(_, value)| value.as_mut());
            let Some(value) = values.find(|value| of_name(value)) else { continue };
            let others = self.error_count.saturating_sub(value.errors.len());
            value.value = None;
            // It is there, and is null.
            value.errors.retain(|error| !error.starts_with("Missing required"));
            if own.key(name).is_none() {
                value.errors.push(NULL_VALUE.to_owned());
            }
            self.error_count = others + value.errors.len();
        }
        self
    }

    /// The whole text that refuses to create or update a connector with this config; `None` where nothing is wrong.
    pub fn refusal(&self) -> Option<String> {
        if self.error_count == 0 {
            return None;
        }
        let head =
            format!("Connector configuration is invalid and contains the following {} error(s):", self.error_count);
        let tail = "You can also find the above list of errors at the endpoint \
                    `/connector-plugins/{connectorType}/config/validate`";
        let lines: Vec<_> = std::iter::once(head.as_str()).chain(self.messages()).chain([tail]).collect();
        Some(lines.join("\n"))
    }

    fn append(&mut self, section: Section) {
        self.error_count += section.configs.iter().filter(|(_, value)| !value.errors.is_empty()).count();
        for (definition, value) in section.configs {
            if let Some(group) = definition.as_ref().and_then(|key| key.group.clone())
                && !self.groups.contains(&group)
            {
                self.groups.push(group);
            }
            self.configs.push((definition, Some(value)));
        }
    }
}

impl Values {
    fn of(values: Vec<ConfigValue>) -> Self {
        let place_by_name = values.iter().enumerate().map(|(place, value)| (value.name.clone(), place)).collect();
        Self { values, place_by_name }
    }

    fn put(&mut self, value: ConfigValue) {
        match self.get(&value.name) {
            Some(known) => *known = value,
            None => {
                self.place_by_name.insert(value.name.clone(), self.values.len());
                self.values.push(value);
            }
        }
    }

    fn get(&mut self, name: &str) -> Option<&mut ConfigValue> {
        self.place_by_name.get(name).map(|place| &mut self.values[*place])
    }

    fn refuse(&mut self, name: &str, message: impl Into<String>) {
        if let Some(value) = self.get(name) {
            value.errors.push(message.into());
        }
    }
}

/// The part that counts every message: values without definition first, then every definition in order.
fn main_section(class: &str, def: ConfigDef, values: Values) -> Validation {
    let error_count = values.values.iter().map(|value| value.errors.len()).sum();
    let (defined, undefined): (Vec<_>, Vec<_>) =
        values.values.into_iter().partition(|value| def.key(&value.name).is_some());
    let mut value_by_name: BTreeMap<_, _> = defined.into_iter().map(|value| (value.name.clone(), value)).collect();
    let mut configs: Vec<_> = undefined.into_iter().map(|value| (None, Some(value))).collect();
    configs.extend(def.keys().iter().map(|key| (Some(key.clone()), value_by_name.remove(&key.name))));
    Validation { name: class.to_owned(), error_count, groups: def.groups(), configs }
}

/// The answer where the config asks for a version of the connector that is not there: only the keys that every
/// connector has.
fn unmatched_version(catalog: &Catalog, config: &Config, plugin: &Plugin) -> Result<Option<Validation>> {
    let key = "connector.plugin.version";
    let range =
        config.get(key).map(|text| VersionRange::parse(text)).transpose().map_err(ConnectError::config)?.flatten();
    let Err(message) = check_version(catalog, plugin, range.as_ref()) else { return Ok(None) };
    let def = framework::common_definitions(plugin);
    let mut values = Values::of(def.validate(config));
    framework::hide_versions_without_class(&mut values);
    values.refuse("connector.class", &message);
    values.refuse(key, &message);
    if let Some(value) = values.get(key) {
        value.recommended_values = catalog.versions(plugin.class);
    }
    Ok(Some(main_section(&config["connector.class"], def, values)))
}

fn check_version(catalog: &Catalog, plugin: &Plugin, range: Option<&VersionRange>) -> Result<(), String> {
    let Some(range) = range else { return Ok(()) };
    let versions = catalog.versions(plugin.class);
    if versions.iter().any(|version| range.contains(version)) {
        return Ok(());
    }
    Err(format!(
        "Plugin {} not found that matches the version range {range}, available versions: [{}]",
        plugin.class,
        versions.join(", ")
    ))
}

#[cfg(test)]
mod tests;
