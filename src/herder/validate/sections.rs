//! The parts of a validation that follow the connector's own: client overrides, and the options of converters that the
//! config names itself. In them a key with messages counts as one error, however many messages it has.

use lakeferry_api::config_def::{ConfigDef, ConfigKey, ConfigType, ConfigValue, HIDDEN, Parsed};
use lakeferry_api::connector::ConnectorType;

use super::framework::{CONVERTERS, ConverterKey};
use super::{Client, Make, Plugin, Request, Values, check_version, hash_order};
use crate::config::version::VersionRange;
use crate::config::{clients, with_prefix};

/// Definitions, where there are any, and values.
pub(super) struct Section {
    pub(super) configs: Vec<(Option<ConfigKey>, ConfigValue)>,
}

/// The options of the header, key and value converters, of those that the config names and that have no error. A
/// version that does not exist is added to the converter's own keys in `values`.
pub(super) fn converters(request: &Request<'_>, values: &mut Values) -> Vec<Section> {
    CONVERTERS.iter().filter_map(|key| converter(request, key, values)).collect()
}

fn converter(request: &Request<'_>, key: &ConverterKey, values: &mut Values) -> Option<Section> {
    let name = request.config.get(key.class)?;
    let mut fine = |key: &str| values.get(key).is_some_and(|value| value.errors.is_empty());
    if !fine(key.class) || !fine(key.version) {
        return None;
    }
    let plugin = request.catalog.find_kind(name, |kind| kind == key.kind)?;
    let range = request.config.get(key.version).and_then(|text| VersionRange::parse(text).ok().flatten());
    if let Err(message) = check_version(request.catalog, plugin, range.as_ref()) {
        values.refuse(key.class, &message);
        values.refuse(key.version, &message);
        return None;
    }
    let prefix = format!("{}.", key.class);
    let mut options = with_prefix(request.config, &prefix);
    let usage = key.class.strip_suffix(".converter").unwrap_or(key.class);
    options.entry("converter.type".to_owned()).or_insert_with(|| usage.to_owned());
    let def = config_def(plugin);
    let answers = hash_order::sorted(def.validate(&options), |value| &value.name);
    let configs = answers.map(|value| (def.key(&value.name).cloned(), value));
    Some(Section { configs: configs.map(|config| prefixed(&prefix, config)).collect() })
}

fn config_def(plugin: &Plugin) -> ConfigDef {
    match plugin.make {
        Make::Connector(make) => make().config_def(),
        Make::Converter(make) => make().config_def(),
        Make::HeaderConverter(make) => make().config_def(),
    }
}

/// What the override policy says of each override of the clients that this connector uses.
pub(super) fn overrides(request: &Request<'_>) -> Vec<Section> {
    let is_sink = request.kind == ConnectorType::Sink;
    let has_queue = request.config.get("errors.deadletterqueue.topic.name").is_some_and(|name| !name.trim().is_empty());
    let creates_topics = request.config.keys().any(|key| key.starts_with("topic.creation."));
    let clients = [
        (Client::Producer, !is_sink || has_queue),
        (Client::Consumer, is_sink),
        (Client::Admin, if is_sink { has_queue } else { creates_topics }),
    ];
    clients.into_iter().filter(|(_, used)| *used).map(|(client, _)| client_overrides(request, client)).collect()
}

fn client_overrides(request: &Request<'_>, client: Client) -> Section {
    // Keys that share a bucket stay in the order in which the whole config gave them.
    let whole = hash_order::sorted(request.config, |(key, _)| key);
    let below = whole.filter_map(|(key, text)| Some((key.strip_prefix(client.override_prefix())?, text)));
    let overrides = hash_order::sorted(below.filter(|(key, _)| !key.is_empty()), |(key, _)| key);
    let configs = overrides.map(|(key, text)| {
        let definition = clients::definition(client, key);
        let (value, mut errors) = parse_override(definition, text);
        errors.extend(request.worker.override_policy.refuse(key));
        let value = ConfigValue { name: key.to_owned(), value, recommended_values: Vec::new(), errors, visible: true };
        prefixed(client.override_prefix(), (definition.cloned(), value))
    });
    Section { configs: configs.collect() }
}

/// Java classes of clients cannot be looked up here, so they are taken as they are.
fn parse_override(definition: Option<&ConfigKey>, text: &str) -> (Option<String>, Vec<String>) {
    match definition {
        Some(key) if key.kind == ConfigType::Password => (Some(HIDDEN.to_owned()), Vec::new()),
        Some(key) => match key.examine(Some(text)) {
            (Parsed::Null, errors) => (None, errors),
            (parsed, errors) => (Some(parsed.to_string()), errors),
        },
        None => (Some(text.to_owned()), Vec::new()),
    }
}

fn prefixed(
    prefix: &str,
    (definition, mut value): (Option<ConfigKey>, ConfigValue),
) -> (Option<ConfigKey>, ConfigValue) {
    value.name.insert_str(0, prefix);
    (definition.map(|key| ConfigKey { name: format!("{prefix}{}", key.name), ..key }), value)
}
