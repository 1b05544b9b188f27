//! The framework's part of a validation: the keys that every connector has, with the defaults that come from the
//! worker and the suggestions that come from the catalog, the keys below each transform and predicate, and the checks
//! that look at several keys.

use std::collections::BTreeSet;

use fancy_regex::Regex;
use lakeferry_api::Config;
use lakeferry_api::config_def::{ConfigDef, ConfigKey, ConfigType, Default, Importance, Parsed, Width};
use lakeferry_api::connector::ConnectorType;

use super::{Catalog, Plugin, PluginKind, Request, Values, connector};
use crate::config::ConverterSettings;
use crate::config::version::VersionRange;

/// The framework's definitions and what it says of each.
pub(super) struct Framework {
    pub(super) def: ConfigDef,
    pub(super) values: Values,
}

/// A converter key and what may stand there.
pub(super) struct ConverterKey {
    pub(super) class: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: PluginKind,
    pub(super) interface: &'static str,
}

/// In the order of their appended sections.
pub(super) const CONVERTERS: [ConverterKey; 3] = [
    ConverterKey {
        class: "header.converter",
        version: "header.converter.plugin.version",
        kind: PluginKind::HeaderConverter,
        interface: "HeaderConverter",
    },
    ConverterKey {
        class: "key.converter",
        version: "key.converter.plugin.version",
        kind: PluginKind::Converter,
        interface: "Converter",
    },
    ConverterKey {
        class: "value.converter",
        version: "value.converter.plugin.version",
        kind: PluginKind::Converter,
        interface: "Converter",
    },
];

/// The framework's keys of this class, without what a config or a worker adds.
pub(super) fn definitions(plugin: &Plugin) -> ConfigDef {
    with_version(if plugin.kind == PluginKind::Sink { connector::sink_def() } else { connector::source_def() }, plugin)
}

/// The keys that sinks and sources share.
pub(super) fn common_definitions(plugin: &Plugin) -> ConfigDef {
    with_version(connector::common_def(), plugin)
}

fn with_version(def: ConfigDef, plugin: &Plugin) -> ConfigDef {
    redefine(def, "connector.plugin.version", plugin.version.clone())
}

fn redefine(def: ConfigDef, name: &str, default: Option<String>) -> ConfigDef {
    let default = default.map_or(Default::Null, Default::Text);
    let key = def.key(name).cloned();
    key.into_iter().fold(def, |def, key| def.define(ConfigKey { default: default.clone(), ..key }))
}

pub(super) fn validate(request: &Request<'_>) -> Framework {
    let Request { catalog, config, .. } = *request;
    let mut def = CONVERTERS.iter().fold(definitions(request.plugin), |def, key| with_converter(request, def, key));
    for alias_key in ["transforms", "predicates"] {
        def = def.define_all(embedded(config, alias_key));
    }
    let mut values = Values::of(def.validate(config));
    if let Some(value) = values.get("connector.plugin.version") {
        value.recommended_values = catalog.versions(request.plugin.class);
    }
    CONVERTERS.iter().for_each(|key| check_converter(catalog, config, key, &mut values));
    check_embedded(catalog, config, &mut values);
    if request.kind == ConnectorType::Sink {
        check_topics(config, &mut values);
    }
    Framework { def, values }
}

/// The version keys of converters are shown only where there is a converter.
pub(super) fn hide_versions_without_class(values: &mut Values) {
    for key in &CONVERTERS {
        let visible = values.get(key.class).is_some_and(|value| value.value.is_some());
        values.get(key.version).into_iter().for_each(|value| value.visible = visible);
    }
}

/// The worker's converter is the default; its version is the default version, or that of the converter named here.
fn with_converter(request: &Request<'_>, def: ConfigDef, key: &ConverterKey) -> ConfigDef {
    let of_kind = |name: &str| request.catalog.find_kind(name, |kind| kind == key.kind);
    let worker: &ConverterSettings = match key.class {
        "key.converter" => &request.worker.key_converter,
        "value.converter" => &request.worker.value_converter,
        _ => &request.worker.header_converter,
    };
    let inherited = of_kind(&worker.class);
    let used = request.config.get(key.class).map_or(inherited, |name| of_kind(name));
    let def = redefine(def, key.class, inherited.map(|plugin| plugin.class.to_owned()));
    redefine(def, key.version, used.and_then(|plugin| plugin.version.clone()))
}

fn check_converter(catalog: &Catalog, config: &Config, key: &ConverterKey, values: &mut Values) {
    let plugin = check_class(catalog, config, key.class, values).cloned();
    let wrong_kind =
        plugin.as_ref().filter(|plugin| catalog.find_kind(plugin.class, |kind| kind == key.kind).is_none());
    if let Some(plugin) = wrong_kind {
        values.refuse(key.class, does_not_implement(plugin.class, key.interface));
    }
    let wanted = |kind| kind == key.kind;
    if let Some(value) = values.get(key.class) {
        value.recommended_values = catalog.classes(wanted).into_iter().map(str::to_owned).collect();
    }
    hide_versions_without_class(values);
    let version = plugin.and_then(|plugin| catalog.find_kind(plugin.class, wanted)?.version.clone());
    if let Some(value) = values.get(key.version) {
        value.recommended_values = version.into_iter().collect();
        value.errors.extend(value.value.as_deref().and_then(|text| VersionRange::parse(text).err()));
    }
}

/// Puts the full class name in place of the alias, or says that there is none.
fn check_class<'a>(catalog: &'a Catalog, config: &Config, key: &str, values: &mut Values) -> Option<&'a Plugin> {
    let value = values.get(key)?;
    let found = catalog.find(value.value.as_deref()?);
    value.value = found.map(|plugin| plugin.class.to_owned());
    if found.is_none() {
        let given = config.get(key).map(String::as_str).unwrap_or_default();
        let message = format!("Invalid value {given} for configuration {key}: Class {given} could not be found.");
        value.errors.insert(0, message);
    }
    found
}

fn does_not_implement(class: &str, interface: &str) -> String {
    format!("Class class {class} does not implement the {interface} interface")
}

/// The keys below each alias of `transforms` or `predicates`.
fn embedded(config: &Config, alias_key: &str) -> ConfigDef {
    let (group, label) =
        if alias_key == "transforms" { ("Transforms", "Transformation") } else { ("Predicates", "Predicate") };
    aliases(config, alias_key).into_iter().fold(ConfigDef::new(), |def, alias| {
        let group = format!("{group}: {alias}");
        let key = |name: &str, kind, doc: String| {
            ConfigKey::new(format!("{alias_key}.{alias}.{name}"), kind).importance(Importance::High).doc(doc)
        };
        def.define(key("type", ConfigType::Class, format!("Class of the {} {alias}.", label.to_lowercase())).shown(
            &group,
            0,
            Width::Long,
            &format!("{label} type for {alias}"),
        ))
        .define(
            key("plugin.version", ConfigType::String, format!("Version of the {} {alias}.", label.to_lowercase()))
                .default_null()
                .shown(&group, 1, Width::Long, &format!("{label} version for {alias}")),
        )
    })
}

fn aliases(config: &Config, alias_key: &str) -> Vec<String> {
    let list = ConfigKey::new(alias_key, ConfigType::List).default("");
    match list.parse(config.get(alias_key).map(String::as_str)) {
        Ok(Parsed::List(items)) => items,
        _ => Vec::new(),
    }
}

fn check_embedded(catalog: &Catalog, config: &Config, values: &mut Values) {
    for (alias_key, interface) in [("transforms", "Transformation"), ("predicates", "Predicate")] {
        let mut seen = BTreeSet::new();
        for alias in aliases(config, alias_key) {
            if !seen.insert(alias.clone()) {
                continue;
            }
            let prefix = format!("{alias_key}.{alias}.");
            let type_key = format!("{prefix}type");
            if let Some(plugin) = check_class(catalog, config, &type_key, values) {
                values.refuse(&type_key, does_not_implement(plugin.class, interface));
            }
            let (negate, predicate) = (format!("{prefix}negate"), format!("{prefix}predicate"));
            if alias_key == "transforms" && config.contains_key(&negate) && !config.contains_key(&predicate) {
                let message = format!(
                    "Config '{negate}' was provided but there is no config '{predicate}' defining a predicate to be negated."
                );
                values.refuse(&type_key, message);
            }
        }
    }
}

fn check_topics(config: &Config, values: &mut Values) {
    let text = |key: &str| config.get(key).map(String::as_str).filter(|text| !text.trim().is_empty());
    let (topics, regex) = (text("topics"), text("topics.regex"));
    let message = match (topics, regex) {
        (Some(_), Some(_)) => Some("topics and topics.regex are mutually exclusive options, but both are set."),
        (None, None) => Some("Must configure one of topics or topics.regex"),
        _ => None,
    };
    if let Some(message) = message {
        values.refuse("topics", message);
        values.refuse("topics.regex", message);
    }
    let Some(queue) = text("errors.deadletterqueue.topic.name").map(str::trim) else { return };
    let listed: Vec<_> =
        topics.into_iter().flat_map(|topics| topics.split(',')).map(|topic| topic.trim().to_owned()).collect();
    let listed = connector::listed_topics(&listed);
    if listed.iter().any(|topic| topic == queue) {
        values.refuse(
            "topics",
            format!(
                "The DLQ topic '{queue}' may not be included in the list of topics ('topics=[{}]') consumed by the connector",
                listed.join(", ")
            ),
        );
    }
    if let Some(regex) = regex
        && Regex::new(&format!("^(?:{regex})$")).is_ok_and(|whole_name| whole_name.is_match(queue).unwrap_or(false))
    {
        values.refuse(
            "topics.regex",
            format!(
                "The DLQ topic '{queue}' may not be matched by the regex for the topics ('topics.regex={regex}') consumed \
                 by the connector"
            ),
        );
    }
}
