//! The settings that every connector has, whatever its class: one row a key, in the order and groups that `validate`
//! shows, and [`ConnectorConfig`], what the task loops see of them.
//!
//! A connector's own keys are its `config_def`; the checks that need the plug-in catalog or several keys at once are
//! the herder's `validate`. Texts and attributes are those of Kafka Connect 4.3.

use std::collections::BTreeSet;
use std::time::Duration;

use fancy_regex::Regex;
use lakeferry_api::config_def::{ConfigDef, ConfigKey, ConfigType, Importance, Parsed, ParsedConfig, Width};
use lakeferry_api::{Config, Result};

use super::{ConverterSettings, WorkerConfig};

/// The typed settings of a connector, without those of its class.
#[derive(Clone)]
pub struct ConnectorConfig {
    /// The connector's name.
    pub name: String,
    /// Its class name or alias.
    pub class: String,
    /// At most this many tasks.
    pub tasks_max: usize,
    /// True where more tasks are a failure and not a warning.
    pub tasks_max_enforce: bool,
    /// How keys are read or written: its own converter, or the worker's with the worker's options.
    pub key_converter: ConverterSettings,
    /// How values are read or written.
    pub value_converter: ConverterSettings,
    /// How headers are read or written.
    pub header_converter: ConverterSettings,
    /// The aliases of its transforms, in order.
    pub transforms: Vec<String>,
    /// What happens to records that fail.
    pub errors: ErrorHandling,
    /// What a sink reads; `None` for sources.
    pub topics: Option<Topics>,
    /// Where a sink puts records that fail; `None` where nowhere.
    pub dead_letter_queue: Option<DeadLetterQueue>,
    /// How long a transaction of a source lasts, where `transaction.boundary=interval` says it.
    pub transaction_interval: Option<Duration>,
}

/// What happens to records that a converter, a transform or the connector cannot process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorHandling {
    /// How long a retriable operation is tried again; `None`: for ever.
    pub retry_timeout: Option<Duration>,
    /// The longest pause between two tries.
    pub retry_delay_max: Duration,
    /// True: such records are skipped; false: they fail the task.
    pub tolerate_all: bool,
    /// True where each failure is logged.
    pub log_enable: bool,
    /// True where the log shows the record's topic, partition, offset and timestamp.
    pub log_include_messages: bool,
}

/// What a sink reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topics {
    /// These topics.
    List(Vec<String>),
    /// Topics whose whole name matches.
    Regex(String),
}

/// The topic that gets the records that fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterQueue {
    /// Its name.
    pub topic: String,
    /// The replication factor it is created with.
    pub replication_factor: i16,
    /// True where headers say what went wrong.
    pub context_headers: bool,
}

impl ConnectorConfig {
    /// Lowers the settings of a sink.
    ///
    /// # Errors
    /// `Config` naming each key, its value and what it may be.
    pub fn sink(worker: &WorkerConfig, config: &Config) -> Result<Self> {
        let parsed = sink_def().parse(config)?;
        let topics = match parsed.text_if_set("topics.regex").filter(|regex| !regex.is_empty()) {
            Some(regex) => Topics::Regex(regex.to_owned()),
            None => Topics::List(listed_topics(parsed.list("topics"))),
        };
        let topic = parsed.text("errors.deadletterqueue.topic.name")?;
        let replication_factor = parsed.integer("errors.deadletterqueue.topic.replication.factor")?;
        let dead_letter_queue = (!topic.is_empty()).then(|| DeadLetterQueue {
            topic: topic.to_owned(),
            replication_factor: i16::try_from(replication_factor).unwrap_or(i16::MAX),
            context_headers: parsed.boolean("errors.deadletterqueue.context.headers.enable"),
        });
        Ok(Self { topics: Some(topics), dead_letter_queue, ..Self::common(worker, config, &parsed)? })
    }

    /// Lowers the settings of a source.
    ///
    /// # Errors
    /// `Config` naming each key, its value and what it may be.
    pub fn source(worker: &WorkerConfig, config: &Config) -> Result<Self> {
        let parsed = source_def().parse(config)?;
        let by_interval = parsed.text("transaction.boundary")?.eq_ignore_ascii_case("interval");
        let interval = parsed.integer_if_set("transaction.boundary.interval.ms").filter(|_| by_interval);
        let transaction_interval = interval.map(|ms| Duration::from_millis(ms.unsigned_abs()));
        Ok(Self { transaction_interval, ..Self::common(worker, config, &parsed)? })
    }

    fn common(worker: &WorkerConfig, config: &Config, parsed: &ParsedConfig) -> Result<Self> {
        let converter = |key, inherited: &ConverterSettings| {
            ConverterSettings::of(config, key).unwrap_or_else(|| inherited.clone())
        };
        Ok(Self {
            name: parsed.text("name")?.to_owned(),
            class: parsed.text("connector.class")?.to_owned(),
            tasks_max: usize::try_from(parsed.integer("tasks.max")?).unwrap_or(1),
            tasks_max_enforce: parsed.boolean("tasks.max.enforce"),
            key_converter: converter("key.converter", &worker.key_converter),
            value_converter: converter("value.converter", &worker.value_converter),
            header_converter: converter("header.converter", &worker.header_converter),
            transforms: parsed.list("transforms").to_vec(),
            errors: ErrorHandling {
                retry_timeout: u64::try_from(parsed.integer("errors.retry.timeout")?).ok().map(Duration::from_millis),
                retry_delay_max: Duration::from_millis(
                    u64::try_from(parsed.integer("errors.retry.delay.max.ms")?).unwrap_or(0),
                ),
                tolerate_all: parsed.text("errors.tolerance")? == "all",
                log_enable: parsed.boolean("errors.log.enable"),
                log_include_messages: parsed.boolean("errors.log.include.messages"),
            },
            topics: None,
            dead_letter_queue: None,
            transaction_interval: None,
        })
    }
}

/// The topics of a `topics` list: no empty ones, no repetitions.
pub fn listed_topics(items: &[String]) -> Vec<String> {
    let mut topics: Vec<String> = Vec::new();
    for item in items.iter().filter(|item| !item.is_empty()) {
        if !topics.contains(item) {
            topics.push(item.clone());
        }
    }
    topics
}

/// Of one connector. Connect knows no bound; but all tasks run in this worker, each with Kafka clients of its own, and
/// what is told to make two billion has no memory left.
const MOST_TASKS: i64 = 1_000;

/// The keys of every connector.
pub fn common_def() -> ConfigDef {
    base_def().define_all(errors_def())
}

/// The keys of sinks, those of every connector first.
pub fn sink_def() -> ConfigDef {
    common_def().define_all(sink_additions())
}

/// The keys of sources, those of every connector first.
pub fn source_def() -> ConfigDef {
    common_def().define_all(source_additions())
}

fn row(name: &str, kind: ConfigType, importance: Importance, doc: &str) -> ConfigKey {
    ConfigKey::new(name, kind).importance(importance).doc(doc)
}

fn base_def() -> ConfigDef {
    use ConfigType::{Boolean, Int, List, String};
    use Importance::{High, Low, Medium};
    let common = "Common";
    ConfigDef::new()
        .define(
            row("name", String, High, "The connector's name; no other connector of the worker has it.")
                .check(printable)
                .shown(common, 1, Width::Medium, "Connector name"),
        )
        .define(
            row(
                "connector.class",
                String,
                High,
                "The connector's class: full name, simple name, or that without Connector.",
            )
            .shown(common, 2, Width::Long, "Connector class"),
        )
        .define(
            row(
                "connector.plugin.version",
                String,
                Medium,
                "The version of the class. One version of each is built in.",
            )
            .default_null()
            .shown(common, 3, Width::Medium, "Connector version"),
        )
        .define(
            row("tasks.max", Int, High, "At most this many tasks.").default("1").at_least(1).at_most(MOST_TASKS).shown(
                common,
                4,
                Width::Short,
                "Tasks max",
            ),
        )
        .define(
            row("tasks.max.enforce", Boolean, Low, "Whether a connector that makes more tasks fails.")
                .default("true")
                .shown(common, 5, Width::Short, "Enforce tasks max"),
        )
        .define_all(converters_def())
        .define(
            row("transforms", List, Low, "Aliases of the transforms that records pass, in order.")
                .default("")
                .check(unique)
                .shown("Transforms", 12, Width::Long, "Transforms"),
        )
        .define(
            row("predicates", List, Low, "Aliases of the predicates that transforms may ask.")
                .default("")
                .check(unique)
                .shown("Predicates", 13, Width::Long, "Predicates"),
        )
        .define(
            row(
                "config.action.reload",
                String,
                Low,
                "What happens when a config provider's value ends: none or restart.",
            )
            .default("restart")
            .one_of(&["none", "restart"])
            .shown(common, 14, Width::Medium, "Reload Action"),
        )
}

fn converters_def() -> ConfigDef {
    let rows = [("key", "Key", 6), ("value", "Value", 8), ("header", "Header", 10)];
    rows.into_iter().fold(ConfigDef::new(), |def, (what, label, order)| {
        let class = format!("{what}.converter");
        let version = format!("{what}.converter.plugin.version");
        let inherit =
            format!("The {what} converter. Named here, it takes its options from here too; unset: the worker's.");
        let built_in = format!("The version of the {what} converter. One version of each is built in.");
        def.define(row(&class, ConfigType::Class, Importance::Low, &inherit).default_null().shown(
            "Common",
            order,
            Width::Short,
            &format!("{label} converter class"),
        ))
        .define(row(&version, ConfigType::String, Importance::Low, &built_in).default_null().shown(
            "Common",
            order + 1,
            Width::Short,
            &format!("{label} converter version"),
        ))
    })
}

fn errors_def() -> ConfigDef {
    use ConfigType::{Boolean, Long, String};
    use Importance::Medium;
    let errors = "Error Handling";
    ConfigDef::new()
        .define(
            row(
                "errors.retry.timeout",
                Long,
                Medium,
                "How long a failed operation is tried again, in ms; -1: for ever.",
            )
            .default("0")
            .shown(errors, 1, Width::Medium, "Retry Timeout for Errors"),
        )
        .define(
            row("errors.retry.delay.max.ms", Long, Medium, "The longest pause between two tries.")
                .default("60000")
                .shown(errors, 2, Width::Medium, "Maximum Delay Between Retries for Errors"),
        )
        .define(
            row(
                "errors.tolerance",
                String,
                Medium,
                "none: a record that fails fails the task; all: it is skipped. A sink's record with a header key that is \
                 not UTF-8 fails it either way: set the partition's offset behind it.",
            )
            .default("none")
            .one_of(&["none", "all"])
            .shown(errors, 3, Width::Short, "Error Tolerance"),
        )
        .define(row("errors.log.enable", Boolean, Medium, "Whether each failure is logged.").default("false").shown(
            errors,
            4,
            Width::Short,
            "Log Errors",
        ))
        .define(
            row("errors.log.include.messages", Boolean, Medium, "Whether the log says which record failed.")
                .default("false")
                .shown(errors, 5, Width::Short, "Log Error Details"),
        )
}

fn sink_additions() -> ConfigDef {
    use ConfigType::{Boolean, List, Short, String};
    use Importance::{High, Medium};
    let errors = "Error Handling";
    ConfigDef::new()
        .define(row("topics", List, High, "The topics to read, separated by commas.").default("").distinct().shown(
            "Common",
            4,
            Width::Long,
            "Topics",
        ))
        .define(
            row("topics.regex", String, High, "A regular expression: topics whose whole name matches are read.")
                .default("")
                .check(regex)
                .shown("Common", 4, Width::Long, "Topics regex"),
        )
        .define(
            row(
                "errors.deadletterqueue.topic.name",
                String,
                Medium,
                "The topic that gets the records that fail; empty: none.",
            )
            .default("")
            .shown(errors, 6, Width::Medium, "Dead Letter Queue Topic Name"),
        )
        .define(
            row(
                "errors.deadletterqueue.topic.replication.factor",
                Short,
                Medium,
                "The replication factor it is created with.",
            )
            .default("3")
            .shown(errors, 7, Width::Medium, "Dead Letter Queue Topic Replication Factor"),
        )
        .define(
            row(
                "errors.deadletterqueue.context.headers.enable",
                Boolean,
                Medium,
                "Whether headers say what went wrong.",
            )
            .default("false")
            .shown(errors, 8, Width::Medium, "Enable Error Context Headers"),
        )
}

fn source_additions() -> ConfigDef {
    use ConfigType::{List, Long, String};
    use Importance::{Low, Medium};
    let exactly_once = "Exactly Once Support";
    ConfigDef::new()
        .define(
            row("topic.creation.groups", List, Low, "Groups of settings for topics that the worker creates.")
                .default("")
                .check(unique)
                .shown("Topic Creation", 1, Width::Long, "Topic Creation Groups"),
        )
        .define(
            row("exactly.once.support", String, Medium, "requested, or required: refused where it cannot be had.")
                .default("requested")
                .one_of_ignoring_case(&["REQUIRED", "REQUESTED"])
                .shown(exactly_once, 2, Width::Short, "Exactly once support"),
        )
        .define(
            row("transaction.boundary", String, Medium, "What ends a transaction: poll, interval or connector.")
                .default("poll")
                .one_of_ignoring_case(&["INTERVAL", "POLL", "CONNECTOR"])
                .shown(exactly_once, 3, Width::Short, "Transaction Boundary"),
        )
        .define(
            row("transaction.boundary.interval.ms", Long, Low, "How long such an interval is.")
                .default_null()
                .check(not_negative)
                .shown(exactly_once, 4, Width::Short, "Transaction boundary interval"),
        )
        .define(
            row(
                "offsets.storage.topic",
                String,
                Low,
                "An offsets topic of its own; without effect in a standalone worker.",
            )
            .default_null()
            .check(not_empty)
            .shown("offsets.topic", 1, Width::Long, "Offsets topic"),
        )
}

fn printable(value: &Parsed) -> Result<(), String> {
    let Parsed::Text(text) = value else { return Ok(()) };
    if text.is_empty() {
        return Err("String may not be empty".to_owned());
    }
    let codes: Vec<_> =
        text.chars().filter(|letter| letter.is_control()).map(|letter| u32::from(letter).to_string()).collect();
    if codes.is_empty() {
        return Ok(());
    }
    Err(format!("String may not contain control sequences but had the following ASCII chars: {}", codes.join(", ")))
}

fn unique(value: &Parsed) -> Result<(), String> {
    match value {
        Parsed::List(items) if items.iter().collect::<BTreeSet<_>>().len() < items.len() => {
            Err("Duplicate alias provided.".to_owned())
        }
        _ => Ok(()),
    }
}

fn regex(value: &Parsed) -> Result<(), String> {
    match value {
        Parsed::Text(text) => Regex::new(text).map(drop).map_err(|error| format!("Invalid regex: {error}")),
        _ => Ok(()),
    }
}

fn not_negative(value: &Parsed) -> Result<(), String> {
    match value {
        Parsed::Integer(number) if *number < 0 => Err("Value must be at least 0".to_owned()),
        _ => Ok(()),
    }
}

fn not_empty(value: &Parsed) -> Result<(), String> {
    match value {
        Parsed::Text(text) if text.is_empty() => Err("String must be non-empty".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::worker::tests::worker;

    fn config(pairs: &[(&str, &str)]) -> Config {
        let required = [("name", "c"), ("connector.class", "FileStreamSink")];
        required.iter().chain(pairs).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_sink_says_what_it_reads_and_where_failures_go() {
        let pairs = [("topics", "a, b,a"), ("errors.deadletterqueue.topic.name", "dlq"), ("errors.tolerance", "all")];
        let message = ConnectorConfig::sink(&worker(&[]), &config(&pairs)).err().unwrap().to_string();
        assert_eq!(message, "Configuration 'topics' values must not be duplicated.");
        let pairs = [("topics", "a, b"), ("errors.deadletterqueue.topic.name", "dlq"), ("errors.tolerance", "all")];
        let sink = ConnectorConfig::sink(&worker(&[]), &config(&pairs)).unwrap();
        assert_eq!(sink.topics, Some(Topics::List(vec!["a".to_owned(), "b".to_owned()])));
        let queue = DeadLetterQueue { topic: "dlq".to_owned(), replication_factor: 3, context_headers: false };
        assert_eq!(sink.dead_letter_queue, Some(queue));
        assert!(sink.errors.tolerate_all);
        assert_eq!(sink.errors.retry_timeout, Some(Duration::ZERO));
        let sink =
            ConnectorConfig::sink(&worker(&[]), &config(&[("topics.regex", "a.*"), ("errors.retry.timeout", "-1")]));
        let sink = sink.unwrap();
        assert_eq!(sink.topics, Some(Topics::Regex("a.*".to_owned())));
        assert_eq!((sink.errors.retry_timeout, sink.dead_letter_queue), (None, None));
    }

    #[test]
    fn a_converter_of_its_own_drops_the_worker_s_options() {
        let worker = worker(&[("key.converter.schemas.enable", "false"), ("value.converter.schemas.enable", "false")]);
        let own = [
            ("key.converter", "org.apache.kafka.connect.json.JsonConverter"),
            ("key.converter.decimal.format", "NUMERIC"),
        ];
        let source = ConnectorConfig::source(&worker, &config(&own)).unwrap();
        assert_eq!(source.key_converter.options, Config::from([("decimal.format".to_owned(), "NUMERIC".to_owned())]));
        assert_eq!(source.value_converter.options["schemas.enable"], "false");
    }

    #[test]
    fn refuses_in_kafkas_words() {
        let refusal = |key: &str, value: &str| {
            ConnectorConfig::source(&worker(&[]), &config(&[(key, value)])).err().unwrap().to_string()
        };
        let long = "String may not contain control sequences but had the following ASCII chars: 10, 9";
        assert_eq!(refusal("name", "a\n\tb"), format!("Invalid value a\n\tb for configuration name: {long}"));
        assert_eq!(refusal("name", " "), "Invalid value  for configuration name: String may not be empty");
        let twice = "Invalid value [a, a] for configuration transforms: Duplicate alias provided.";
        assert_eq!(refusal("transforms", "a,a"), twice);
    }
}
