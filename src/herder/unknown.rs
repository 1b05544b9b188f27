//! Keys of a connector's config that nobody knows: misspelt, most of them. Connect passes over them in silence, and so
//! does everything here; the herder logs them when the connector starts, so that whoever wonders finds out.
//!
//! Invariant: an unknown key is never an error, and its value is never shown.

use lakeferry_api::Config;
use lakeferry_api::connector::{Connector, ConnectorType};

use crate::config::catalog::{Catalog, Make, PluginKind};
use crate::config::connector::{sink_def, source_def};
use crate::config::overrides::Client;

const CONVERTERS: [&str; 3] = ["header.converter", "key.converter", "value.converter"];

/// The keys of `config` that neither the framework, nor `connector`, nor a converter or transform that the config names
/// knows, sorted.
pub(super) fn unknown_keys<'a>(catalog: &Catalog, connector: &dyn Connector, config: &'a Config) -> Vec<&'a str> {
    let is_sink = connector.connector_type() == ConnectorType::Sink;
    let framework = if is_sink { sink_def() } else { source_def() };
    let is_override = |key: &str| {
        let clients = [Client::Producer, Client::Consumer, Client::Admin];
        clients.iter().any(|client| key.starts_with(client.override_prefix()))
    };
    let is_known = |key: &str| {
        framework.key(key).is_some()
            || connector.knows(key)
            || is_override(key)
            || !is_sink && key.starts_with("topic.creation.")
            || ["transforms", "predicates"].iter().any(|list| is_of_alias(config, list, key))
            || CONVERTERS.iter().any(|converter| is_of_converter(catalog, config, converter, key))
    };
    config.keys().map(String::as_str).filter(|key| !is_known(key)).collect()
}

/// True for a key below one of the aliases that `list` names.
fn is_of_alias(config: &Config, list: &str, key: &str) -> bool {
    let Some(below) = key.strip_prefix(list).and_then(|key| key.strip_prefix('.')) else { return false };
    let aliases = config.get(list).map_or("", String::as_str).split(',').map(str::trim);
    aliases.into_iter().any(|alias| below.strip_prefix(alias).is_some_and(|below| below.starts_with('.')))
}

/// True for an option of the converter that the config names itself: the worker's goes by the worker's options alone.
fn is_of_converter(catalog: &Catalog, config: &Config, converter: &str, key: &str) -> bool {
    let Some(option) = key.strip_prefix(converter).and_then(|key| key.strip_prefix('.')) else { return false };
    let kind = if converter == CONVERTERS[0] { PluginKind::HeaderConverter } else { PluginKind::Converter };
    let found = config.get(converter).and_then(|class| catalog.find_kind(class, |of| of == kind));
    let Some(plugin) = found else { return false };
    let def = match plugin.make {
        Make::Converter(make) => make().config_def(),
        Make::HeaderConverter(make) => make().config_def(),
        Make::Connector(_) => return false,
    };
    option == "converter.type" || def.key(option).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins;

    fn unknown(class: &str, pairs: &[(&str, &str)]) -> Vec<String> {
        let base = [("name", "a"), ("connector.class", class), ("tasks.max", "2")];
        let config = base.iter().chain(pairs).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let catalog = plugins::catalog();
        let connector = catalog.connector(class).unwrap();
        unknown_keys(&catalog, connector.as_ref(), &config).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_misspelt_key_is_told_and_what_somebody_knows_is_not() {
        let known = [
            ("topics", "orders"),
            ("store.url", "s3://bucket/lake"),
            ("store.aws_allow_http", "true"),
            ("errors.deadletterqueue.topic.name", "dead"),
            ("consumer.override.max.poll.records", "7"),
            ("producer.override.acks", "all"),
            ("key.converter", "org.apache.kafka.connect.json.JsonConverter"),
            ("key.converter.schemas.enable", "false"),
            ("key.converter.plugin.version", "1"),
            ("transforms", "one, two"),
            ("transforms.two.type", "x"),
            ("transforms.two.anything", "x"),
        ];
        assert_eq!(unknown("LakeSink", &known), [""; 0]);
        let misspelt = [
            ("flush.sizes", "10"),
            ("key.converter.schema.enable", "false"),
            // It is the worker's converter that would have to know it, and that one goes by the worker's options.
            ("value.converter.schemas.enable", "false"),
            ("consumer.max.poll.records", "7"),
            ("topic.creation.default.partitions", "1"),
            ("transforms.three.type", "x"),
        ];
        let mut told: Vec<_> = misspelt.iter().map(|(key, _)| *key).collect();
        told.sort_unstable();
        assert_eq!(unknown("LakeSink", &[&known[..], &misspelt[..]].concat()), told);
    }

    #[test]
    fn the_keys_of_a_source_are_known() {
        let known = [
            ("store.url", "s3://bucket/lake"),
            ("topics.regex", ".*"),
            ("replay.end", "follow"),
            ("topic.creation.default.partitions", "1"),
            ("transaction.boundary", "interval"),
        ];
        assert_eq!(unknown("LakeSource", &known), [""; 0]);
        assert_eq!(unknown("FileStreamSource", &[("file", "x"), ("topic", "t"), ("store.url", "x")]), ["store.url"]);
    }
}
