//! The one reading of Kafka client properties: Java's names in, librdkafka's settings out. Users write what Java
//! clients take; names that librdkafka shares pass as they are, the others are mapped by the tables below, values
//! that it refuses alone or together are brought within its bounds (`limits`), names that only matter inside a JVM are
//! dropped, and unknown ones are dropped with a warning, as Java does.
//!
//! Who calls: everything in this folder that opens a client. What a client must have for the worker to be correct is
//! not decided here but forced by its opener (`consumer`, `producer`).

mod limits;
mod tls;

use std::collections::BTreeMap;

use lakeferry_api::{Config, ConnectError, Result};

use super::ffi::{self, Role, Setting};

/// librdkafka settings, by its names.
pub(super) type Settings = BTreeMap<String, String>;

/// Java names whose librdkafka name differs, with what the value needs.
const RENAMED: &[(&str, &str, Convert)] = &[
    ("sasl.mechanism", "sasl.mechanisms", Convert::Same),
    ("send.buffer.bytes", "socket.send.buffer.bytes", Convert::OsDefault),
    ("receive.buffer.bytes", "socket.receive.buffer.bytes", Convert::OsDefault),
    ("metadata.max.age.ms", "topic.metadata.refresh.interval.ms", Convert::Same),
    ("fetch.max.wait.ms", "fetch.wait.max.ms", Convert::Same),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes", Convert::Same),
    ("buffer.memory", "queue.buffering.max.kbytes", Convert::Kilobytes),
    ("max.request.size", "message.max.bytes", Convert::Same),
    ("max.in.flight.requests.per.connection", "max.in.flight.requests.per.connection", Convert::Same),
    ("partition.assignment.strategy", "partition.assignment.strategy", Convert::Assignors),
    ("partitioner.class", "partitioner", Convert::Partitioner),
    ("ssl.endpoint.identification.algorithm", "ssl.endpoint.identification.algorithm", Convert::Verification),
    ("security.protocol", "security.protocol", Convert::LowerCase),
    ("isolation.level", "isolation.level", Convert::LowerCase),
];

/// Names that Java knows and that have nothing to say outside a JVM, or that the worker decides itself.
const JVM_ONLY: &[&str] = &[
    "key.serializer",
    "value.serializer",
    "key.deserializer",
    "value.deserializer",
    "interceptor.classes",
    "metric.reporters",
    "metrics.num.samples",
    "metrics.recording.level",
    "metrics.sample.window.ms",
    "auto.include.jmx.reporter",
    "security.providers",
    "ssl.provider",
    "ssl.protocol",
    "ssl.enabled.protocols",
    "ssl.secure.random.implementation",
    "ssl.keymanager.algorithm",
    "ssl.trustmanager.algorithm",
    "default.api.timeout.ms",
    "max.block.ms",
    "max.poll.records",
    "metadata.max.idle.ms",
    "metadata.recovery.strategy",
    "metadata.recovery.rebootstrap.trigger.ms",
    "socket.connection.setup.timeout.max.ms",
    "partitioner.ignore.keys",
    "partitioner.adaptive.partitioning.enable",
    "partitioner.availability.timeout.ms",
    "exclude.internal.topics",
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "transaction.two.phase.commit.enable",
];

#[derive(Debug, Clone, Copy)]
enum Convert {
    Same,
    LowerCase,
    /// -1 is the operating system's default, which librdkafka writes 0.
    OsDefault,
    Kilobytes,
    Assignors,
    Partitioner,
    /// An empty algorithm switches the check of the host name off.
    Verification,
}

/// The settings for a client of `role`.
///
/// # Errors
/// `Config` naming the key, its value and the remedy where a value cannot be used.
pub(super) fn client_config(properties: &Config, role: Role) -> Result<Settings> {
    let mut settings = Settings::new();
    for (key, value) in properties {
        if JVM_ONLY.contains(&key.as_str()) || tls::is_handled(key) {
            continue;
        }
        let value = limits::bounded(key, value);
        if key == "request.timeout.ms" {
            // How long an answer may take is one setting in Java and two in librdkafka.
            settings.insert("socket.timeout.ms".to_owned(), value.clone());
            if role != Role::Producer {
                continue;
            }
        }
        let (name, value) = match RENAMED.iter().find(|(java, ..)| java == key) {
            Some((_, name, convert)) => (*name, convert.apply(key, &value)?),
            None => (key.as_str(), value),
        };
        settings.insert(name.to_owned(), value);
    }
    tls::apply(properties, &mut settings)?;
    apply_login(properties, &mut settings)?;
    limits::reconcile(&mut settings, role);
    keep_known(properties, settings)
}

fn keep_known(properties: &Config, settings: Settings) -> Result<Settings> {
    let mut known = Settings::new();
    for (key, value) in settings {
        match ffi::check_setting(&key, &value) {
            Setting::Good => {
                known.insert(key, value);
            }
            Setting::Unknown => tracing::warn!("the client property '{key}' is not known and is ignored"),
            Setting::Invalid(why) => {
                let shown = if is_secret(&key) { "[hidden]" } else { &value };
                let java = RENAMED.iter().find(|(java, name, _)| *name == key && properties.contains_key(*java));
                let name = java.map_or(key.as_str(), |(java, ..)| java);
                return Err(ConnectError::config(format!("Invalid value {shown} for configuration {name}: {why}")));
            }
        }
    }
    Ok(known)
}

fn is_secret(key: &str) -> bool {
    key.contains("password") || key.contains("jaas") || key.ends_with(".pem")
}

impl Convert {
    fn apply(self, key: &str, value: &str) -> Result<String> {
        Ok(match self {
            Self::Same => value.to_owned(),
            Self::LowerCase => value.to_ascii_lowercase(),
            Self::OsDefault if value.trim() == "-1" => "0".to_owned(),
            Self::OsDefault => value.to_owned(),
            Self::Kilobytes => {
                let bytes: u64 = value.trim().parse().map_err(|_| {
                    ConnectError::config(format!(
                        "Invalid value {value} for configuration {key}: Not a number of type LONG"
                    ))
                })?;
                bytes.div_ceil(1024).clamp(1, 2_097_151).to_string()
            }
            Self::Assignors => assignors(value),
            Self::Partitioner => partitioner(value).to_owned(),
            Self::Verification if value.trim().is_empty() => "none".to_owned(),
            Self::Verification => value.to_ascii_lowercase(),
        })
    }
}

/// Java's assignor classes by librdkafka's names. Its sticky assignor exists in the cooperative form alone; eager and
/// cooperative ones cannot be mixed, so one eager name makes all of them eager.
fn assignors(value: &str) -> String {
    let names: Vec<&str> = value.split(',').map(|name| assignor(name.trim())).collect();
    let eager: Vec<&str> = names.iter().copied().filter(|name| *name != COOPERATIVE).collect();
    if eager.is_empty() { COOPERATIVE.to_owned() } else { eager.join(",") }
}

/// The assignor that moves partitions one by one.
pub(super) const COOPERATIVE: &str = "cooperative-sticky";

fn assignor(name: &str) -> &str {
    match name.rsplit('.').next().unwrap_or(name) {
        "RangeAssignor" => "range",
        "RoundRobinAssignor" => "roundrobin",
        "CooperativeStickyAssignor" => COOPERATIVE,
        "StickyAssignor" => {
            tracing::warn!("partition.assignment.strategy {name} is taken as RangeAssignor, which exists here too");
            "range"
        }
        _ => name,
    }
}

/// Java's default spreads keyed records by murmur2; so does this, or records of one key would move.
pub(super) const JAVA_PARTITIONER: &str = "murmur2_random";

fn partitioner(value: &str) -> &str {
    match value.rsplit('.').next().unwrap_or(value) {
        "DefaultPartitioner" | "UniformStickyPartitioner" | "" => JAVA_PARTITIONER,
        "RoundRobinPartitioner" => "random",
        other => other,
    }
}

/// `sasl.jaas.config` in place of librdkafka's `sasl.username` and `sasl.password`.
fn apply_login(properties: &Config, settings: &mut Settings) -> Result<()> {
    let Some(jaas) = settings.remove("sasl.jaas.config") else {
        return Ok(());
    };
    let refuse = |why: &str| Err(ConnectError::config(format!("Invalid sasl.jaas.config: {why}")));
    let mut words = jaas_words(&jaas).into_iter();
    let module = words.next().unwrap_or_default();
    match module.rsplit('.').next().unwrap_or_default() {
        "PlainLoginModule" | "ScramLoginModule" => {}
        _ => {
            return refuse(&format!(
                "the login module {module} is not supported here; use PlainLoginModule or ScramLoginModule"
            ));
        }
    }
    for word in words {
        match word.split_once('=') {
            Some(("username", value)) => settings.insert("sasl.username".to_owned(), value.to_owned()),
            Some(("password", value)) => settings.insert("sasl.password".to_owned(), value.to_owned()),
            _ => None,
        };
    }
    if !settings.contains_key("sasl.username") || !settings.contains_key("sasl.password") {
        return refuse("it names no username and password");
    }
    if !properties.contains_key("sasl.mechanism") && !properties.contains_key("sasl.mechanisms") {
        return refuse("sasl.mechanism is not set; set it to PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512");
    }
    Ok(())
}

/// The words of a login line without quotes: `module control key="value" ...;`. A backslash takes the next letter as
/// it is.
fn jaas_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', _) => word.extend(letters.next()),
            (letter, Some(open)) if letter == open => quote = None,
            (letter, Some(_)) => word.push(letter),
            ('"' | '\'', None) => quote = Some(letter),
            (';', None) => break,
            (letter, None) if letter.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (letter, None) => word.push(letter),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests;
