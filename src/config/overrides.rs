//! The settings of the Kafka clients that tasks use: what the worker says below `producer.`, `consumer.` and `admin.`,
//! and what a connector may override of it below `producer.override.` and so on (KIP-458).
//!
//! Which overrides are allowed is the policy's say ([`OverridePolicy`]); `validate` shows its objections and the
//! start of a task refuses what it objects to. Built-in defaults of each client are added by who makes the client.

use lakeferry_api::config_def::{ConfigDef, ConfigKey, ConfigType, Importance};
use lakeferry_api::sink::OffsetReset;
use lakeferry_api::{Config, ConnectError, Result};

use super::{WorkerConfig, with_prefix};

const PACKAGE: &str = "org.apache.kafka.connect.connector.policy.";
const SUFFIX: &str = "ConnectorClientConfigOverridePolicy";

/// A kind of Kafka client that tasks use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Of source tasks and dead letter queues.
    Producer,
    /// Of sink tasks.
    Consumer,
    /// For creating topics and altering offsets.
    Admin,
}

/// What connectors may override of their clients' settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverridePolicy {
    /// Everything.
    All,
    /// Nothing.
    None,
    /// Only who the client logs in as.
    Principal,
    /// Only these keys.
    Allowlist(Vec<String>),
}

/// The rows of the worker's settings that say which policy holds.
pub fn config_def() -> ConfigDef {
    ConfigDef::new()
        .define(
            ConfigKey::new("connector.client.config.override.policy", ConfigType::String)
                .default("All")
                .doc("What connectors may override of their clients' settings: All, None, Principal or Allowlist."),
        )
        .define(
            ConfigKey::new("connector.client.config.override.allowlist", ConfigType::List)
                .default("")
                .distinct()
                .importance(Importance::Medium)
                .doc("Client settings that connectors may override under the policy Allowlist. Empty: none."),
        )
}

/// The settings of a task's client: the worker's, then the connector's overrides.
///
/// # Errors
/// `Config` where the policy does not allow an override.
pub fn client_config(worker: &WorkerConfig, connector: &Config, client: Client) -> Result<Config> {
    let mut config = worker.client(client);
    let overrides = with_prefix(connector, client.override_prefix());
    let refused: Vec<_> = overrides.keys().filter_map(|key| worker.override_policy.refuse(key)).collect();
    if !refused.is_empty() {
        return Err(ConnectError::config(format!("Client Config Overrides not allowed [{}]", refused.join(", "))));
    }
    config.extend(overrides);
    Ok(config)
}

/// The `auto.offset.reset` of a sink's consumer properties; Connect's own default is earliest.
///
/// # Errors
/// `Config` where it is none that is known.
pub fn offset_reset(consumer: &Config) -> Result<OffsetReset> {
    let value = consumer.get("auto.offset.reset").map_or("earliest", |value| value.trim());
    match value.to_ascii_lowercase().as_str() {
        "earliest" => Ok(OffsetReset::Earliest),
        "latest" => Ok(OffsetReset::Latest),
        "none" => Ok(OffsetReset::None),
        _ => Err(ConnectError::config(format!(
            "Invalid value {value} for configuration auto.offset.reset: it is earliest, latest or none"
        ))),
    }
}

impl Client {
    /// The worker's prefix.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Producer => "producer.",
            Self::Consumer => "consumer.",
            Self::Admin => "admin.",
        }
    }

    /// The connectors' prefix.
    pub fn override_prefix(self) -> &'static str {
        match self {
            Self::Producer => "producer.override.",
            Self::Consumer => "consumer.override.",
            Self::Admin => "admin.override.",
        }
    }
}

impl OverridePolicy {
    /// The policy of this class name or alias.
    ///
    /// # Errors
    /// `Config` where there is none of that name.
    pub(super) fn new(name: &str, allowlist: &[String]) -> Result<Self> {
        let simple = name.strip_prefix(PACKAGE).unwrap_or(name);
        match simple.strip_suffix(SUFFIX).unwrap_or(simple) {
            "All" => Ok(Self::All),
            "None" => Ok(Self::None),
            "Principal" => Ok(Self::Principal),
            "Allowlist" => Ok(Self::Allowlist(allowlist.to_vec())),
            _ => Err(ConnectError::config(format!(
                "Invalid value {name} for configuration connector.client.config.override.policy: no such policy; the \
                 policies are All, None, Principal and Allowlist"
            ))),
        }
    }

    /// Why `key` (without prefix) may not be overridden, in Connect's words; `None` where it may.
    pub fn refuse(&self, key: &str) -> Option<String> {
        let (name, allowed) = match self {
            Self::All => ("All", true),
            Self::None => ("None", false),
            Self::Principal => {
                ("Principal", ["sasl.jaas.config", "sasl.mechanism", "security.protocol"].contains(&key))
            }
            Self::Allowlist(keys) => ("Allowlist", keys.iter().any(|allowed| allowed == key)),
        };
        let message =
            || format!("The '{name}' policy does not allow '{key}' to be overridden in the connector configuration.");
        (!allowed).then(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::worker::tests::worker;

    fn overrides(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_connector_overrides_the_worker() {
        let worker = worker(&[("producer.acks", "1"), ("producer.linger.ms", "5"), ("consumer.acks", "x")]);
        let connector = overrides(&[("producer.override.acks", "all"), ("acks", "0")]);
        let config = client_config(&worker, &connector, Client::Producer).unwrap();
        assert_eq!(config["acks"], "all");
        assert_eq!(config["linger.ms"], "5");
        assert_eq!(config["bootstrap.servers"], "localhost:9092");
    }

    #[test]
    fn only_admin_clients_inherit_the_worker_s_own_client_settings() {
        let worker = worker(&[("security.protocol", "SSL"), ("admin.retries", "3")]);
        let admin = client_config(&worker, &Config::new(), Client::Admin).unwrap();
        assert_eq!((admin["security.protocol"].as_str(), admin["retries"].as_str()), ("SSL", "3"));
        let consumer = client_config(&worker, &Config::new(), Client::Consumer).unwrap();
        assert_eq!(consumer.get("security.protocol"), None);
    }

    #[test]
    fn policies_refuse_in_connects_words() {
        let policy = |name: &str| OverridePolicy::new(name, &["linger.ms".to_owned()]).unwrap();
        assert_eq!(policy("All").refuse("acks"), None);
        assert_eq!(
            policy("None").refuse("acks").unwrap(),
            "The 'None' policy does not allow 'acks' to be overridden in the connector configuration."
        );
        assert_eq!(policy("Principal").refuse("sasl.jaas.config"), None);
        assert!(policy("PrincipalConnectorClientConfigOverridePolicy").refuse("acks").is_some());
        let class = "org.apache.kafka.connect.connector.policy.AllowlistConnectorClientConfigOverridePolicy";
        assert_eq!(policy(class).refuse("linger.ms"), None);
        assert!(policy(class).refuse("acks").is_some());
        assert!(OverridePolicy::new("Some", &[]).is_err());
    }

    #[test]
    fn a_refused_override_refuses_the_client() {
        let worker = worker(&[("connector.client.config.override.policy", "None")]);
        let connector = overrides(&[("consumer.override.group.id", "g")]);
        let error = client_config(&worker, &connector, Client::Consumer).unwrap_err();
        assert!(error.message().starts_with("Client Config Overrides not allowed ["), "{error}");
    }
}
