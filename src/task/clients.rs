//! The client properties of every task, lowest precedence first: what Connect builds in, what the worker says below
//! `consumer.`, `producer.` or `admin.`, what the connector overrides (KIP-458). Monitoring tools know the client ids,
//! so they are Connect's. Pure.

use lakeferry_api::{Config, Result};

use super::TaskId;
use crate::config::WorkerConfig;
use crate::config::overrides::{Client, client_config};

/// Waits and sizes "for ever", as Java's clients take them.
const MAX_INT: &str = "2147483647";
const MAX_LONG: &str = "9223372036854775807";

/// Of a sink task's consumer.
pub(super) fn consumer(worker: &WorkerConfig, connector: &Config, id: &TaskId) -> Result<Config> {
    let group = format!("connect-{}", id.connector);
    let client = format!("connector-consumer-{id}");
    let built_in = [
        ("group.id", group.as_str()),
        ("client.id", client.as_str()),
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "earliest"),
    ];
    merge(&built_in, client_config(worker, connector, Client::Consumer)?)
}

/// Of a source task's producer.
pub(super) fn producer(worker: &WorkerConfig, connector: &Config, id: &TaskId) -> Result<Config> {
    producer_named(worker, connector, &format!("connector-producer-{id}"))
}

/// Of the producer of a source task that writes in transactions.
pub(crate) fn transactional_producer(worker: &WorkerConfig, connector: &Config, id: &TaskId) -> Result<Config> {
    let client = format!("connector-producer-{id}");
    let built_in = [
        ("client.id", client.as_str()),
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("max.block.ms", MAX_LONG),
        ("max.in.flight.requests.per.connection", "5"),
    ];
    let mut properties = merge(&built_in, client_config(worker, connector, Client::Producer)?)?;
    // Another id would let two instances write at once.
    properties.insert("transactional.id".to_owned(), transactional_id(&id.connector, id.task));
    Ok(properties)
}

/// The group whose offsets are the progress of a source that writes in transactions.
pub(crate) fn source_group(connector: &str) -> String {
    format!("lakeferry-source-{connector}")
}

fn transactional_id(connector: &str, task: u32) -> String {
    format!("{}-{task}", source_group(connector))
}

/// Of the producer that fills a sink's dead letter queue.
pub(super) fn dead_letter_producer(worker: &WorkerConfig, connector: &Config, id: &TaskId) -> Result<Config> {
    producer_named(worker, connector, &format!("connector-dlq-producer-{id}"))
}

/// Of a source task's admin client.
pub(super) fn admin(worker: &WorkerConfig, connector: &Config, id: &TaskId) -> Result<Config> {
    admin_named(worker, connector, &format!("connector-adminclient-{id}"))
}

/// Of the admin client that makes a dead letter queue.
pub(super) fn dead_letter_admin(worker: &WorkerConfig, connector: &Config, id: &TaskId) -> Result<Config> {
    admin_named(worker, connector, &format!("connector-dlq-adminclient-{id}"))
}

/// Of the admin client that answers a sink task's questions about what it reads: it must ask the cluster that the
/// consumer reads, as the user that the consumer is, so it has the consumer's own properties.
pub(super) fn sink_admin(consumer: &Config, id: &TaskId) -> Config {
    const CONSUMER_ONLY: [&str; 12] = [
        "group.",
        "auto.",
        "enable.auto.",
        "enable.partition.eof",
        "fetch.",
        "max.p",
        "isolation.level",
        "partition.assignment.strategy",
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "exclude.internal.topics",
        "allow.auto.create.topics",
    ];
    let of_any_client = |key: &String| !CONSUMER_ONLY.iter().any(|prefix| key.starts_with(prefix));
    let mut properties: Config = consumer
        .iter()
        .filter(|(key, _)| of_any_client(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    properties.insert("client.id".to_owned(), format!("connector-adminclient-{id}"));
    properties
}

fn producer_named(worker: &WorkerConfig, connector: &Config, client_id: &str) -> Result<Config> {
    let built_in = [
        ("client.id", client_id),
        ("acks", "all"),
        ("delivery.timeout.ms", MAX_INT),
        ("enable.idempotence", "false"),
        ("max.block.ms", MAX_LONG),
        ("max.in.flight.requests.per.connection", "1"),
    ];
    merge(&built_in, client_config(worker, connector, Client::Producer)?)
}

fn admin_named(worker: &WorkerConfig, connector: &Config, client_id: &str) -> Result<Config> {
    let mut properties = client_config(worker, connector, Client::Admin)?;
    // The worker's own client.id names its own clients, not a task's; an explicit admin.client.id counts.
    if properties.get("client.id") == worker.own_client().get("client.id") {
        properties.insert("client.id".to_owned(), client_id.to_owned());
    }
    Ok(properties)
}

fn merge(built_in: &[(&str, &str)], over: Config) -> Result<Config> {
    let mut properties: Config = built_in.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    properties.extend(over);
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use lakeferry_api::sink::OffsetReset;

    use super::*;
    use crate::config::overrides::offset_reset;
    use crate::config::worker::tests::worker;

    fn id() -> TaskId {
        TaskId { connector: "archive".to_owned(), task: 3 }
    }

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn later_layers_win_and_prefixes_do_not_mix() {
        let worker = worker(&[
            ("bootstrap.servers", "b:1"),
            ("consumer.max.poll.records", "7"),
            ("consumer.auto.offset.reset", "latest"),
            ("producer.linger.ms", "9"),
            ("request.timeout.ms", "1234"),
        ]);
        let connector = config(&[("consumer.override.max.poll.records", "8"), ("admin.override.retries", "2")]);
        let consumer = consumer(&worker, &connector, &id()).unwrap();
        let expected = [
            ("auto.offset.reset", "latest"),
            ("bootstrap.servers", "b:1"),
            ("client.id", "connector-consumer-archive-3"),
            ("enable.auto.commit", "false"),
            ("group.id", "connect-archive"),
            ("max.poll.records", "8"),
        ];
        assert_eq!(consumer, config(&expected), "consumers do not inherit the worker's unprefixed keys");
        assert_eq!(offset_reset(&consumer).unwrap(), OffsetReset::Latest);

        let producer = producer(&worker, &connector, &id()).unwrap();
        assert_eq!((producer["linger.ms"].as_str(), producer["acks"].as_str()), ("9", "all"));
        let admin = admin(&worker, &connector, &id()).unwrap();
        assert_eq!(admin["client.id"], "connector-adminclient-archive-3");
        assert_eq!((admin["request.timeout.ms"].as_str(), admin["retries"].as_str()), ("1234", "2"));
    }

    #[test]
    fn a_sink_asks_the_cluster_it_reads() {
        let connector = config(&[
            ("consumer.override.bootstrap.servers", "other:1"),
            ("consumer.override.sasl.jaas.config", "secret"),
            ("consumer.override.group.id", "mine"),
        ]);
        let consumer = consumer(&worker(&[]), &connector, &id()).unwrap();
        assert_eq!(consumer["group.id"], "mine");
        let expected = [
            ("bootstrap.servers", "other:1"),
            ("client.id", "connector-adminclient-archive-3"),
            ("sasl.jaas.config", "secret"),
        ];
        assert_eq!(sink_admin(&consumer, &id()), config(&expected));
    }

    #[test]
    fn refuses_an_unknown_reset_and_a_forbidden_override() {
        assert!(offset_reset(&config(&[("auto.offset.reset", "by_duration:PT1H")])).is_err());
        let strict = worker(&[("connector.client.config.override.policy", "None")]);
        let connector = config(&[("producer.override.linger.ms", "1")]);
        let message = producer(&strict, &connector, &id()).unwrap_err().to_string();
        assert!(message.starts_with("Client Config Overrides not allowed ["), "{message}");
    }
}
