//! Topics that the worker makes for a source (KIP-158): the `topic.creation.*` settings of the connector, and the one
//! look at the cluster before the first record of each topic. Without such settings the brokers decide.

use std::collections::BTreeSet;
use std::sync::Arc;

use fancy_regex::Regex;
use lakeferry_api::error::Context as _;
use lakeferry_api::source::NewTopic;
use lakeferry_api::{Config, ConnectError, Kind, Result};

use super::context::LazyAdmin;
use crate::config::with_prefix;

const PREFIX: &str = "topic.creation.";
const DEFAULT: &str = "default";

/// How topics are made.
#[derive(Debug)]
pub(super) struct TopicCreation {
    /// In the order of `topic.creation.groups`; the default group, which takes every topic, is the last.
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    include: Vec<Regex>,
    exclude: Vec<Regex>,
    partitions: Option<u32>,
    replication_factor: Option<u32>,
    configs: Config,
}

/// Makes sure of the topics that one task writes to.
pub(super) struct Topics {
    creation: Option<TopicCreation>,
    admin: Arc<LazyAdmin>,
    seen: BTreeSet<Arc<str>>,
}

impl TopicCreation {
    /// What `config` says; `None` where it says nothing.
    ///
    /// # Errors
    /// `Config` where the default group is not complete or a value cannot be used.
    pub(super) fn new(config: &Config) -> Result<Option<Self>> {
        let settings = with_prefix(config, PREFIX);
        if settings.is_empty() {
            return Ok(None);
        }
        let default = Group::default_group(&settings)?;
        let mut groups = Vec::new();
        for name in settings.get("groups").map_or("", String::as_str).split(',').map(str::trim) {
            if name == DEFAULT {
                tracing::warn!("topic.creation.groups names default, which always exists; that is ignored");
            } else if !name.is_empty() {
                groups.push(Group::named(&settings, name, &default)?);
            }
        }
        groups.push(default);
        Ok(Some(Self { groups }))
    }

    fn topic(&self, name: &str) -> NewTopic {
        let Some(group) = self.groups.iter().find(|group| group.takes(name)).or(self.groups.last()) else {
            return NewTopic {
                name: name.to_owned(),
                partitions: None,
                replication_factor: None,
                configs: Config::new(),
            };
        };
        NewTopic {
            name: name.to_owned(),
            partitions: group.partitions,
            replication_factor: group.replication_factor,
            configs: group.configs.clone(),
        }
    }
}

impl Group {
    fn default_group(settings: &Config) -> Result<Self> {
        for key in ["replication.factor", "partitions"] {
            if !settings.contains_key(&format!("{DEFAULT}.{key}")) {
                return Err(ConnectError::config(format!(
                    "Missing required configuration \"{PREFIX}{DEFAULT}.{key}\" which has no default value."
                )));
            }
        }
        let nothing = Self {
            include: Vec::new(),
            exclude: Vec::new(),
            partitions: None,
            replication_factor: None,
            configs: Config::new(),
        };
        let mut group = Self::named(settings, DEFAULT, &nothing)?;
        group.include = patterns("include", ".*")?;
        group.exclude.clear();
        Ok(group)
    }

    fn named(settings: &Config, name: &str, default: &Self) -> Result<Self> {
        let mut configs = with_prefix(settings, &format!("{name}."));
        let mut take = |key: &str| configs.remove(key).map(|value| (format!("{PREFIX}{name}.{key}"), value));
        let patterns =
            |entry: Option<(String, String)>| entry.map_or(Ok(Vec::new()), |(key, value)| patterns(&key, &value));
        let count =
            |entry: Option<(String, String)>, default| entry.map_or(Ok(default), |(key, value)| count(&key, &value));
        Ok(Self {
            include: patterns(take("include"))?,
            exclude: patterns(take("exclude"))?,
            partitions: count(take("partitions"), default.partitions)?,
            replication_factor: count(take("replication.factor"), default.replication_factor)?,
            configs,
        })
    }

    fn takes(&self, topic: &str) -> bool {
        // A pattern that the engine gives up on does not match.
        let matches = |pattern: &Regex| pattern.is_match(topic).unwrap_or(false);
        self.include.iter().any(matches) && !self.exclude.iter().any(matches)
    }
}

impl Topics {
    pub(super) fn new(creation: Option<TopicCreation>, admin: Arc<LazyAdmin>) -> Self {
        Self { creation, admin, seen: BTreeSet::new() }
    }

    /// Called before each record: makes `topic` where the connector asks for that and it is missing.
    ///
    /// # Errors
    /// `Retriable` while no broker answers; others fail the task.
    pub(super) async fn ensure(&mut self, topic: &Arc<str>) -> Result<()> {
        let Some(creation) = self.creation.as_ref().filter(|_| !self.seen.contains(topic)) else { return Ok(()) };
        let admin = self.admin.get()?;
        if admin.target_topic(topic).await?.is_none() {
            let new = creation.topic(topic);
            match admin.create_topic(&new).await {
                Ok(()) => tracing::info!(?new, "created"),
                // Another task was faster.
                Err(error) if error.kind() == Kind::Conflict => {}
                Err(error) if error.is_retriable() => return Err(error),
                Err(error) => {
                    return Err(error.context(format!(
                        "Task failed to create new topic {new:?}. Ensure that the task is authorized to create \
                         topics or that the topic exists and restart the task"
                    )));
                }
            }
        }
        self.seen.insert(Arc::clone(topic));
        Ok(())
    }

    /// Adds to the error of a failed delivery that `topic` does not exist, where that is so.
    pub(super) async fn explain(&self, topic: &str, error: ConnectError) -> ConnectError {
        let Ok(admin) = self.admin.get() else { return error };
        match admin.target_topic(topic).await {
            Ok(None) => error.context(format!(
                "topic {topic} does not exist and the brokers did not create it; create it, or set \
                 topic.creation.default.partitions and topic.creation.default.replication.factor in the connector"
            )),
            _ => error,
        }
    }
}

fn patterns(key: &str, list: &str) -> Result<Vec<Regex>> {
    let compile = |pattern: &str| {
        Regex::new(&format!(r"\A(?:{pattern})\z")).context(Kind::Config, || {
            format!("Invalid value {pattern} for configuration {key}: not a regular expression")
        })
    };
    list.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()).map(compile).collect()
}

/// A positive number, or -1: the brokers' default.
fn count(key: &str, value: &str) -> Result<Option<u32>> {
    match value.trim().parse::<i32>() {
        Ok(-1) => Ok(None),
        Ok(number) if number > 0 => Ok(u32::try_from(number).ok()),
        _ => Err(ConnectError::config(format!(
            "Invalid value {value} for configuration {key}: it must be larger than 0, or -1 for the brokers' default"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creation(pairs: &[(&str, &str)]) -> Result<Option<TopicCreation>> {
        TopicCreation::new(&pairs.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect())
    }

    #[test]
    fn the_first_group_that_takes_a_topic_makes_it() {
        let creation = creation(&[
            ("groups", "logs, default, big"),
            ("default.partitions", "3"),
            ("default.replication.factor", "-1"),
            ("default.cleanup.policy", "compact"),
            ("default.include", "ignored"),
            ("logs.include", "log.*, audit"),
            ("logs.exclude", "log-private"),
            ("logs.retention.ms", "1000"),
            ("big.include", ".*big, log-private"),
            ("big.partitions", "60"),
        ]);
        let creation = creation.unwrap().unwrap();
        let shape = |name: &str| {
            let topic = creation.topic(name);
            let configs: Vec<String> = topic.configs.iter().map(|(key, value)| format!("{key}={value}")).collect();
            (topic.partitions, topic.replication_factor, configs.join(","))
        };
        assert_eq!(shape("log-1"), (Some(3), None, "retention.ms=1000".to_owned()));
        assert_eq!(shape("log-big"), (Some(3), None, "retention.ms=1000".to_owned()), "in the order of the groups");
        assert_eq!(shape("log-private"), (Some(60), None, String::new()));
        assert_eq!(shape("auditor"), (Some(3), None, "cleanup.policy=compact".to_owned()), "whole names match");
    }

    #[test]
    fn says_what_is_missing_or_wrong() {
        assert!(TopicCreation::new(&Config::from([("topics".to_owned(), "a".to_owned())])).unwrap().is_none());
        let message = |pairs: &[(&str, &str)]| creation(pairs).unwrap_err().to_string();
        let partitions =
            "Missing required configuration \"topic.creation.default.partitions\" which has no default value.";
        assert_eq!(message(&[("default.replication.factor", "1")]), partitions);
        let complete = [("default.replication.factor", "1"), ("default.partitions", "0")];
        assert!(message(&complete).starts_with("Invalid value 0 for configuration topic.creation.default.partitions"));
    }
}
