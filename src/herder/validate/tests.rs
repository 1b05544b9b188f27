//! Validation against what a JVM worker of Kafka Connect 4.3.1 answered (`tests/golden/validate-4.3.1.json`: every
//! distinct row once, and the cases as lists of rows; the worker knew no transforms). Documentation is free text and
//! left out.

use std::collections::BTreeSet;
use std::time::Duration;

use lakeferry_api::config_def::Default;
use lakeferry_api::{Clock as _, Kind};
use serde_json::{Value as Json, json};

use super::*;
use crate::clock::SystemClock;
use crate::plugins;

const GOLDEN: &str = include_str!("../../../tests/golden/validate-4.3.1.json");

fn config(pairs: &[(&str, &str)]) -> Config {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn worker(policy: &str) -> WorkerConfig {
    let settings = config(&[
        ("bootstrap.servers", "localhost:9092"),
        ("key.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ("value.converter.schemas.enable", "false"),
        ("offset.storage.file.filename", "offsets"),
        ("connector.client.config.override.policy", policy),
        ("config.providers", "env"),
        ("config.providers.env.class", "EnvVarConfigProvider"),
    ]);
    WorkerConfig::standalone(&settings).unwrap()
}

fn file_source(pairs: &[(&str, &str)]) -> Config {
    let required = [("name", "s"), ("connector.class", "FileStreamSource"), ("topic", "t")];
    config(&[&required[..], pairs].concat())
}

fn answer(config: &Config) -> Result<Validation> {
    validate(&plugins::catalog(), &worker("All"), config)
}

fn shown((definition, value): &(Option<ConfigKey>, Option<ConfigValue>)) -> Json {
    let definition = definition.as_ref().map(|key| {
        let default = match &key.default {
            Default::Text(text) => Some(text),
            _ => None,
        };
        json!({
            "name": key.name, "type": key.kind.name(), "required": key.is_required(), "default_value": default,
            "importance": key.importance.name(), "group": key.group, "order_in_group": key.order_in_group,
            "width": key.width.name(), "display_name": key.display_name, "dependents": key.dependents,
        })
    });
    let value = value.as_ref().map(|value| {
        json!({
            "name": value.name, "value": value.value, "recommended_values": value.recommended_values,
            "errors": value.errors, "visible": value.visible,
        })
    });
    json!({ "definition": definition, "value": value })
}

#[test]
fn answers_what_a_jvm_worker_answers() {
    let golden: Json = serde_json::from_str(GOLDEN).unwrap();
    // Our own connectors are more than that worker had; none of these answers lists connectors.
    let catalog = plugins::catalog();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    for case in cases {
        let config: Config = serde_json::from_value(case["config"].clone()).unwrap();
        let answer = validate(&catalog, &worker(case["policy"].as_str().unwrap()), &config).unwrap();
        let rows: Vec<_> =
            case["rows"].as_array().unwrap().iter().map(|at| &golden["rows"][at.as_u64().unwrap() as usize]).collect();
        for (ours, theirs) in answer.configs.iter().map(shown).zip(&rows) {
            assert_eq!(&&ours, theirs, "{config:?}");
        }
        assert_eq!(answer.configs.len(), rows.len(), "{config:?}");
        assert_eq!(json!(answer.error_count), case["error_count"], "{config:?}");
        assert_eq!(json!(answer.groups), case["groups"], "{config:?}");
        assert_eq!(json!(answer.name), case["config"]["connector.class"]);
    }
}

#[test]
fn a_config_without_a_class_that_exists_is_refused() {
    let refusal = |pairs: &[(&str, &str)]| {
        let error = answer(&config(pairs)).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        error.to_string()
    };
    assert_eq!(refusal(&[("name", "x")]), "Connector config {name=x} contains no connector type");
    for class in ["Nope", "", "org.apache.kafka.connect.storage.StringConverter"] {
        let message = refusal(&[("connector.class", class)]);
        assert!(
            message.starts_with("Failed to find any class that implements Connector and which name matches"),
            "{message}"
        );
        assert!(message.contains("org.apache.kafka.connect.file.FileStreamSinkConnector"), "{message}");
    }
    assert_eq!(
        refusal(&[("connector.class", "FileStreamSink"), ("connector.plugin.version", "[9")]),
        "Unbounded range: [9"
    );
}

#[test]
fn references_are_resolved_and_unreadable_ones_refused() {
    let validation = answer(&file_source(&[("file", "${env:CARGO_PKG_NAME}"), ("topic", "${vault:a:b}")])).unwrap();
    let value = |name: &str| {
        let values = validation.configs.iter().filter_map(|(_, value)| value.as_ref());
        values.filter(|value| value.name == name).find_map(|value| value.value.clone()).unwrap()
    };
    assert_eq!((value("file").as_str(), value("topic").as_str()), ("lakeferry", "${vault:a:b}"));
    let error = answer(&file_source(&[("file", "${env:path:X}")])).unwrap_err();
    assert!(error.trace().contains("file") && error.kind() == Kind::Config, "{}", error.trace());
}

#[test]
fn a_regex_that_does_not_compile_is_an_error_of_its_key() {
    let sink = [("name", "k"), ("connector.class", "FileStreamSink"), ("topics.regex", "[")];
    let queue = ("errors.deadletterqueue.topic.name", "d");
    for pairs in [sink.to_vec(), [&sink[..], &[queue]].concat()] {
        let validation = answer(&config(&pairs)).unwrap();
        let messages: Vec<_> = validation.messages().collect();
        assert_eq!((validation.error_count, messages.len()), (1, 1));
        assert!(
            messages[0].starts_with("Invalid value [ for configuration topics.regex: Invalid regex: "),
            "{messages:?}"
        );
    }
}

/// A JVM worker answers 500 to these.
#[test]
fn an_override_of_the_wrong_type_is_an_error_of_its_key() {
    let validation = answer(&file_source(&[("producer.override.linger.ms", "soon")])).unwrap();
    assert_eq!(validation.error_count, 1);
    let messages: Vec<_> = validation.messages().collect();
    assert_eq!(messages, ["Invalid value soon for configuration linger.ms: Not a number of type LONG"]);
}

#[test]
fn the_refusal_lists_every_message() {
    assert_eq!(answer(&file_source(&[])).unwrap().refusal(), None);
    let refusal = answer(&file_source(&[("topic", ""), ("tasks.max", "x")])).unwrap().refusal().unwrap();
    assert_eq!(
        refusal,
        "Connector configuration is invalid and contains the following 3 error(s):\n\
         Invalid value x for configuration tasks.max: Not a number of type INT\n\
         Invalid value null for configuration tasks.max: Value must be non-null\n\
         Invalid value  for configuration topic: String must be non-empty\n\
         You can also find the above list of errors at the endpoint `/connector-plugins/{connectorType}/config/validate`"
    );
}

#[test]
fn more_tasks_than_a_worker_could_ever_run_are_refused() {
    assert_eq!(answer(&file_source(&[("tasks.max", "1000")])).unwrap().refusal(), None);
    let refusal = answer(&file_source(&[("tasks.max", "2147483647")])).unwrap().refusal().unwrap();
    let why = "Invalid value 2147483647 for configuration tasks.max: Value must be no more than 1000";
    assert!(refusal.contains(why), "{refusal}");
}

/// A body may name so many; where each cost a look at all others, this took minutes.
#[test]
fn many_aliases_cost_what_each_costs() {
    let aliases: Vec<_> = (0..50_000).map(|n| format!("a{n}")).collect();
    let clock = SystemClock::default();
    let start = clock.monotonic();
    let validation = answer(&file_source(&[("transforms", &aliases.join(","))])).unwrap();
    assert!(validation.error_count >= 50_000);
    let took = clock.monotonic() - start;
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn a_lake_without_url_is_refused_also_where_it_is_null() {
    for class in ["LakeSink", "LakeSource"] {
        let lake = config(&[("name", "l"), ("connector.class", class), ("topics", "t")]);
        let validation = answer(&lake).unwrap().with_nulls(&plugins::catalog(), &["store.url".to_owned()]);
        assert_eq!(validation.error_count, 1, "{class}");
        let messages: Vec<_> = validation.messages().collect();
        assert_eq!(messages, ["Invalid value null for configuration store.url: Value must be non-null"]);
    }
}

#[test]
fn a_plug_in_shows_its_own_keys_first() {
    let catalog = plugins::catalog();
    let names = |plugin: &str| -> Vec<String> {
        plugin_config(&catalog, plugin, None).unwrap().into_iter().map(|key| key.name).collect()
    };
    let sink = names("FileStreamSink");
    assert_eq!(sink[..3], ["file", "name", "connector.class"]);
    assert_eq!(sink.last().unwrap(), "errors.deadletterqueue.context.headers.enable");
    assert_eq!(names("FileStreamSourceConnector")[..4], ["file", "topic", "batch.size", "name"]);
    assert_eq!(names("org.apache.kafka.connect.storage.StringConverter"), ["converter.type", "converter.encoding"]);
    assert_eq!(names("SimpleHeaderConverter"), [""; 0]);
    assert_eq!(sink.iter().collect::<BTreeSet<_>>().len(), sink.len(), "no key twice");
    let unknown = plugin_config(&catalog, "Nope", None).unwrap_err();
    assert_eq!((unknown.kind(), unknown.message()), (Kind::NotFound, "Unknown plugin Nope."));
    for version in ["9", "[9"] {
        assert_eq!(plugin_config(&catalog, "FileStreamSink", Some(version)).unwrap_err().kind(), Kind::Config);
    }
    assert!(plugin_config(&catalog, "FileStreamSink", Some("[4,5)")).is_ok());
}
