//! The settings of a standalone worker: one row a key gives parsing, default, validation and docs; [`WorkerConfig`] is
//! what the rest of the worker sees of them, and there are no string keys below it.
//!
//! The assembly reads a properties file and lowers it here once. Config provider references are resolved before
//! anything else; a key that nobody knows becomes a warning, because Connect accepts it too. What may be secret (the
//! settings themselves) never shows in `Debug`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lakeferry_api::config_def::{ConfigDef, ConfigKey, ConfigType, Importance, Parsed, ParsedConfig};
use lakeferry_api::convert::Usage;
use lakeferry_api::{Config, ConnectError, Result};

use super::catalog::{Catalog, PluginKind};
use super::overrides::{self, Client, OverridePolicy};
use super::provider::Providers;
use super::rest::{self, RestConfig};
use super::{ConverterSettings, clients, converter_options, with_prefix};

/// The header converter where none is named.
pub const DEFAULT_HEADER_CONVERTER: &str = "org.apache.kafka.connect.storage.SimpleHeaderConverter";

/// The typed settings of a standalone worker.
#[derive(Clone)]
pub struct WorkerConfig {
    /// The brokers.
    pub bootstrap_servers: Vec<String>,
    /// The key converter of connectors that name none.
    pub key_converter: ConverterSettings,
    /// The value converter of connectors that name none.
    pub value_converter: ConverterSettings,
    /// The header converter of connectors that name none.
    pub header_converter: ConverterSettings,
    /// How long all tasks together may take to stop.
    pub task_shutdown_graceful_timeout: Duration,
    /// How often offsets are committed.
    pub offset_flush_interval: Duration,
    /// After how long a commit of offsets is warned about; a stopping task waits no longer than this for its last one.
    pub offset_flush_timeout: Duration,
    /// What connectors may override of their clients' settings.
    pub override_policy: OverridePolicy,
    /// What resolves `${provider:path:key}`.
    pub providers: Providers,
    /// True where the worker creates the topics of source connectors.
    pub topic_creation_enable: bool,
    /// True where the worker keeps which topics a connector uses.
    pub topic_tracking_enable: bool,
    /// True where that may be reset by REST.
    pub topic_tracking_allow_reset: bool,
    /// Settings of the REST server.
    pub rest: RestConfig,
    /// The file that holds source offsets.
    pub offset_storage_file: PathBuf,
    /// The byte budget of everything that is buffered.
    pub memory_bytes: u64,
    /// Where encoded bytes may wait on disk; `None`: nowhere.
    pub spill_dir: Option<PathBuf>,
    /// How many bytes may wait there.
    pub spill_bytes: u64,
    /// What the user should hear about: one line each, naming keys, never values.
    pub warnings: Vec<String>,
    settings: Config,
}

impl WorkerConfig {
    /// Lowers the settings of a standalone worker.
    ///
    /// # Errors
    /// `Config` naming each key, its value and what it may be.
    pub fn standalone(raw: &Config) -> Result<Self> {
        let providers = Providers::new(raw)?;
        let settings = providers.resolve(raw)?;
        let parsed = config_def().parse(&settings)?;
        if parsed.list("bootstrap.servers").is_empty() {
            return Err(ConnectError::config(
                "Invalid value  for configuration bootstrap.servers: name at least one broker as host:port",
            ));
        }
        let text = |key| parsed.text(key).map(str::to_owned);
        let converter = |key| Ok(ConverterSettings { class: text(key)?, options: converter_options(&settings, key) });
        let spill_dir = match parsed.text_if_set("lakeferry.spill.dir") {
            Some("") => None,
            Some(path) => Some(PathBuf::from(path)),
            None => Some(std::env::temp_dir()),
        };
        Ok(Self {
            bootstrap_servers: parsed.list("bootstrap.servers").to_vec(),
            key_converter: converter("key.converter")?,
            value_converter: converter("value.converter")?,
            header_converter: converter("header.converter")?,
            task_shutdown_graceful_timeout: millis(&parsed, "task.shutdown.graceful.timeout.ms")?,
            offset_flush_interval: millis(&parsed, "offset.flush.interval.ms")?,
            offset_flush_timeout: millis(&parsed, "offset.flush.timeout.ms")?,
            override_policy: OverridePolicy::new(
                parsed.text("connector.client.config.override.policy")?,
                parsed.list("connector.client.config.override.allowlist"),
            )?,
            providers,
            topic_creation_enable: parsed.boolean("topic.creation.enable"),
            topic_tracking_enable: parsed.boolean("topic.tracking.enable"),
            topic_tracking_allow_reset: parsed.boolean("topic.tracking.allow.reset"),
            rest: RestConfig::new(&parsed)?,
            offset_storage_file: PathBuf::from(text("offset.storage.file.filename")?),
            memory_bytes: bytes(&parsed, "lakeferry.memory.bytes")?,
            spill_dir,
            spill_bytes: bytes(&parsed, "lakeferry.spill.bytes")?,
            warnings: settings.keys().filter_map(|key| warning(key)).collect(),
            settings,
        })
    }

    /// What the worker's settings give a task's client, before any override: the brokers and what stands below the
    /// client's prefix. Admin clients inherit the worker's own client settings too, as in Connect.
    pub fn client(&self, client: Client) -> Config {
        let mut config = match client {
            Client::Admin => self.own_client(),
            Client::Producer | Client::Consumer => {
                Config::from([("bootstrap.servers".to_owned(), self.bootstrap_servers.join(","))])
            }
        };
        config.extend(with_prefix(&self.settings, client.prefix()));
        config
    }

    /// Where encoded bytes may wait on disk, and how many.
    pub fn spill(&self) -> Option<(PathBuf, u64)> {
        self.spill_dir.clone().map(|directory| (directory, self.spill_bytes))
    }

    /// The settings of the worker's own client: the unprefixed client keys that are not the worker's alone.
    pub fn own_client(&self) -> Config {
        let def = config_def();
        let is_shared = |key: &str| ["bootstrap.servers", "client.dns.lookup"].contains(&key) || def.key(key).is_none();
        let own = self.settings.iter().filter(|(key, _)| clients::is_known(key) && is_shared(key));
        own.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Whether the converters that connectors inherit exist and take their options.
    ///
    /// # Errors
    /// `Config` naming the key and the class or option.
    pub fn check_converters(&self, catalog: &Catalog) -> Result<()> {
        let refused = |key: &str, settings: &ConverterSettings, kind, error: ConnectError| {
            let remedy = match catalog.find_kind(&settings.class, |found| found == kind) {
                Some(_) => String::new(),
                None => format!(" Choose one of {}.", catalog.classes(|known| known == kind).join(", ")),
            };
            let value = &settings.class;
            ConnectError::config(format!("Invalid value {value} for configuration {key}: {}{remedy}", error.message()))
        };
        let key = ("key.converter", &self.key_converter, Usage::Key);
        for (key, settings, usage) in [key, ("value.converter", &self.value_converter, Usage::Value)] {
            let made = catalog.converter(&settings.class);
            let configured = made.and_then(|mut converter| converter.configure(&settings.options, usage));
            configured.map_err(|error| refused(key, settings, PluginKind::Converter, error))?;
        }
        let made = catalog.header_converter(&self.header_converter.class);
        let configured = made.and_then(|mut converter| converter.configure(&self.header_converter.options));
        configured
            .map_err(|error| refused("header.converter", &self.header_converter, PluginKind::HeaderConverter, error))
    }
}

impl fmt::Debug for WorkerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerConfig").field("keys", &self.settings.keys()).finish_non_exhaustive()
    }
}

/// Every key of a standalone worker.
pub fn config_def() -> ConfigDef {
    kafka_def()
        .define_all(task_def())
        .define_all(overrides::config_def())
        .define_all(rest::config_def())
        .define_all(own_def())
}

fn kafka_def() -> ConfigDef {
    let class = |name: &str, doc: &str| {
        ConfigKey::new(name, ConfigType::Class)
            .importance(Importance::High)
            .doc(format!("{doc} of connectors that name none; its options follow as {name}.<option>."))
    };
    let version = |name: &str| {
        ConfigKey::new(format!("{name}.plugin.version"), ConfigType::String)
            .default_null()
            .importance(Importance::Low)
            .doc(format!("The version of {name}. One version of each is built in."))
    };
    ConfigDef::new()
        .define(
            ConfigKey::new("bootstrap.servers", ConfigType::List)
                .distinct()
                .check(brokers)
                .importance(Importance::High)
                .doc("The brokers, host:port each, separated by commas."),
        )
        .define(
            ConfigKey::new("client.dns.lookup", ConfigType::String)
                .default("use_all_dns_ips")
                .one_of(&["use_all_dns_ips", "resolve_canonical_bootstrap_servers_only"])
                .doc("How host names are looked up."),
        )
        .define(class("key.converter", "The key converter"))
        .define(version("key.converter"))
        .define(class("value.converter", "The value converter"))
        .define(version("value.converter"))
        .define(class("header.converter", "The header converter").default(DEFAULT_HEADER_CONVERTER))
        .define(version("header.converter"))
        .define(
            ConfigKey::new("offset.storage.file.filename", ConfigType::String)
                .importance(Importance::High)
                .check(not_empty)
                .doc("The file that keeps the offsets of source connectors."),
        )
}

fn task_def() -> ConfigDef {
    let low = |name: &str, kind, doc: &str| ConfigKey::new(name, kind).importance(Importance::Low).doc(doc);
    let ms = |name: &str, default: &str, doc: &str| low(name, ConfigType::Long, doc).default(default).at_least(0);
    let flag = |name: &str, doc: &str| low(name, ConfigType::Boolean, doc).default("true");
    ConfigDef::new()
        .define(ms("task.shutdown.graceful.timeout.ms", "5000", "How long all tasks together may take to stop."))
        .define(ms("offset.flush.interval.ms", "60000", "How often offsets are committed.").at_least(1))
        .define(ms("offset.flush.timeout.ms", "5000", "After how long a commit of offsets is warned about; a stopping task waits no longer than this for its last one."))
        .define(low("plugin.path", ConfigType::List, "Ignored: plug-ins are built in.").default_null())
        .define(
            low("plugin.discovery", ConfigType::String, "How the JVM worker finds plug-ins; without effect here.")
                .default("hybrid_warn")
                .one_of_ignoring_case(&["only_scan", "hybrid_warn", "hybrid_fail", "service_load"]),
        )
        .define(low("config.providers", ConfigType::List, "Names of config providers, each with config.providers.<name>.class and config.providers.<name>.param.<key>.").default("").distinct())
        .define(flag("topic.creation.enable", "Whether the worker creates the topics of source connectors that say how."))
        .define(flag("topic.tracking.enable", "Whether the worker keeps which topics a connector uses."))
        .define(flag("topic.tracking.allow.reset", "Whether that may be reset by REST."))
        .define(low("metric.reporters", ConfigType::List, "Metrics reporters of the JVM worker; without effect here.").default("org.apache.kafka.common.metrics.JmxReporter"))
        .define(low("metrics.num.samples", ConfigType::Int, "Samples a metric is computed from in the JVM worker; without effect here.").default("2").at_least(1))
        .define(ms("metrics.sample.window.ms", "30000", "Length of such a sample; without effect here."))
        .define(low("metrics.recording.level", ConfigType::String, "Which metrics the JVM worker records; without effect here.").default("INFO").one_of(&["INFO", "DEBUG"]))
}

fn own_def() -> ConfigDef {
    ConfigDef::new()
        .define(
            ConfigKey::new("lakeferry.memory.bytes", ConfigType::Long)
                .default("268435456")
                .at_least(16 << 20)
                .doc("The one byte budget of everything that all tasks buffer, Kafka clients included."),
        )
        .define(
            ConfigKey::new("lakeferry.spill.dir", ConfigType::String)
                .default_null()
                .importance(Importance::Low)
                .doc("Where encoded bytes wait that are too few for an upload part. Unset: the system's temporary folder; empty: nowhere. Where nothing can be written there, a sink says so when it starts and goes on as with nowhere."),
        )
        .define(
            ConfigKey::new("lakeferry.spill.bytes", ConfigType::Long)
                .default("1073741824")
                .at_least(0)
                .importance(Importance::Low)
                .doc("How many bytes may wait there."),
        )
}

fn millis(parsed: &ParsedConfig, key: &str) -> Result<Duration> {
    bytes(parsed, key).map(Duration::from_millis)
}

fn bytes(parsed: &ParsedConfig, key: &str) -> Result<u64> {
    parsed.integer(key).map(|number| u64::try_from(number).unwrap_or(0))
}

fn not_empty(value: &Parsed) -> std::result::Result<(), String> {
    match value {
        Parsed::Text(text) if text.is_empty() => Err("String must be non-empty".to_owned()),
        _ => Ok(()),
    }
}

/// Each one a host and a port, behind a protocol where somebody writes one.
fn brokers(value: &Parsed) -> std::result::Result<(), String> {
    let Parsed::List(brokers) = value else { return Ok(()) };
    let names_one = |broker: &str| {
        let address = broker.rsplit_once("://").map_or(broker, |(_, address)| address);
        let parts = address.rsplit_once(':');
        parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    match brokers.iter().find(|broker| !names_one(broker)) {
        Some(broker) => Err(format!("'{broker}' is not of the form host:port")),
        None => Ok(()),
    }
}

const KNOWN_PREFIXES: [&str; 11] = [
    "key.converter.",
    "value.converter.",
    "header.converter.",
    "producer.",
    "consumer.",
    "admin.",
    "config.providers.",
    "metrics.context.",
    "listeners.https.",
    "admin.listeners.https.",
    "ssl.",
];

/// Keys of the distributed mode that say nothing to a standalone worker.
const DISTRIBUTED: [&str; 6] =
    ["group.id", "config.storage.", "offset.storage.", "status.storage.", "scheduled.rebalance.", "exactly.once."];

fn warning(key: &str) -> Option<String> {
    if key.starts_with("internal.key.converter") || key.starts_with("internal.value.converter") {
        return Some(format!("{key} has no effect: internal data is always JSON without schemas; remove the key"));
    }
    let known = config_def().key(key).is_some() || KNOWN_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
    if known {
        return None;
    }
    if DISTRIBUTED.iter().any(|distributed| key.starts_with(distributed)) {
        return Some(format!("{key} has no effect in a standalone worker"));
    }
    (!clients::is_known(key))
        .then(|| format!("{key} is not a setting that the worker or its clients know: is it misspelt?"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        let required = [
            ("bootstrap.servers", "localhost:9092"),
            ("key.converter", "org.apache.kafka.connect.json.JsonConverter"),
            ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
            ("offset.storage.file.filename", "offsets"),
        ];
        required.iter().chain(pairs).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// A worker with what is required and `pairs`.
    pub(crate) fn worker(pairs: &[(&str, &str)]) -> WorkerConfig {
        WorkerConfig::standalone(&config(pairs)).unwrap()
    }

    #[test]
    fn lowers_defaults() {
        let worker = worker(&[]);
        assert_eq!(worker.bootstrap_servers, ["localhost:9092"]);
        assert_eq!(worker.offset_flush_interval, Duration::from_secs(60));
        assert_eq!(worker.header_converter.class, DEFAULT_HEADER_CONVERTER);
        assert_eq!(worker.rest.listeners[0].to_string(), "http://:8083");
        assert_eq!(worker.memory_bytes, 256 << 20);
        assert_eq!(worker.spill_dir, Some(std::env::temp_dir()));
        assert_eq!(worker.override_policy, OverridePolicy::All);
        assert_eq!(worker.warnings, [""; 0]);
    }

    #[test]
    fn takes_converter_options_and_resolves_references() {
        let worker = worker(&[
            ("key.converter.schemas.enable", "${env:CARGO_PKG_NAME}"),
            ("config.providers", "env"),
            ("config.providers.env.class", "EnvVarConfigProvider"),
            ("lakeferry.spill.dir", ""),
        ]);
        assert_eq!(worker.key_converter.options["schemas.enable"], "lakeferry");
        assert_eq!(worker.value_converter.options, Config::new());
        assert_eq!(worker.spill_dir, None);
    }

    #[test]
    fn every_refusal_names_the_key() {
        let cases = [
            ("bootstrap.servers", ""),
            ("bootstrap.servers", "localhost"),
            ("bootstrap.servers", "localhost:x"),
            ("offset.flush.interval.ms", "soon"),
            ("offset.flush.interval.ms", "0"),
            ("listeners", "8083"),
            ("connector.client.config.override.policy", "Some"),
            ("lakeferry.memory.bytes", "1"),
            ("offset.storage.file.filename", " "),
            ("topic.tracking.enable", "yes"),
            ("rest.advertised.port", "70000"),
            ("plugin.discovery", "scan"),
        ];
        for (key, value) in cases {
            let error = WorkerConfig::standalone(&config(&[(key, value)])).unwrap_err();
            assert!(error.message().contains(key) && error.message().contains(value), "{key}={value}: {error}");
        }
        let error = WorkerConfig::standalone(&Config::new()).unwrap_err();
        for key in ["bootstrap.servers", "key.converter", "value.converter", "offset.storage.file.filename"] {
            let message = format!("Missing required configuration \"{key}\" which has no default value.");
            assert!(error.message().contains(&message), "{error}");
        }
    }

    #[test]
    fn warns_of_keys_that_nobody_knows() {
        let known = [
            ("key.converter.schemas.enable", "false"),
            ("producer.linger.ms", "5"),
            ("security.protocol", "SSL"),
            ("ssl.truststore.location", "/t"),
            ("metrics.context.a", "b"),
            ("request.timeout.ms", "1"),
        ];
        assert_eq!(worker(&known).warnings, [""; 0]);
        let warnings = worker(&[("ofset.flush.interval.ms", "1"), ("group.id", "g"), ("internal.key.converter", "x")]);
        let warnings = warnings.warnings;
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].contains("group.id has no effect in a standalone worker"));
        assert!(warnings[2].contains("ofset.flush.interval.ms") && warnings[2].contains("misspelt"));
    }

    #[test]
    fn debug_shows_no_value() {
        let worker = worker(&[("sasl.jaas.config", "secret-of-mine")]);
        assert!(!format!("{worker:?}").contains("secret-of-mine"));
    }
}
