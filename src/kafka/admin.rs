//! The admin client on librdkafka. Every answer is asked of a broker now. Calls block, so each runs on a thread for
//! blocking work.
//!
//! The embedded cluster of the demo lacks some of these requests; where a lesser answer is true all the same (no topic
//! id, no configs), it is given.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::source::{NewTopic, TargetTopic};
use lakeferry_api::{Clock, Config, ConnectError, Kind, PartitionView, Positions, Result, TopicPartition, TopicView};

use super::error::{explain, explain_needing, named};
use super::ffi::{Code, ConfigEntry, Described, Entry, Failure, Handle, OffsetSpec, Role};
use super::together::Together;
use super::{Admin, Commits, Committed, Pending, Stretches, reader, security};

/// Opens an admin client.
///
/// # Errors
/// `Config` where the properties cannot be used.
pub fn open(properties: &Config, clock: Arc<dyn Clock>) -> Result<Arc<dyn Admin>> {
    let mut settings = security::client_config(properties, Role::Admin)?;
    settings.entry("log.connection.close".to_owned()).or_insert_with(|| "false".to_owned());
    // The client must have a group (see `ffi`), and joins none.
    settings.entry("group.id".to_owned()).or_insert_with(|| "lakeferry-admin".to_owned());
    // Many requests go to the controller as it was last seen. One that has gone is waited for until the brokers are
    // listed anew: every five minutes, by the library's default, for a client that has no topics.
    settings.entry("topic.metadata.refresh.interval.ms".to_owned()).or_insert_with(|| BROKERS_REFRESH_MS.to_owned());
    let handle =
        Handle::open(Role::Admin, &settings).map_err(|failure| explain(&failure, "cannot create an admin client"))?;
    let timeout = properties.get("default.api.timeout.ms").and_then(|text| text.trim().parse().ok());
    let timeout = timeout.map_or(ANSWER_WITHIN, Duration::from_millis);
    Ok(Arc::new(BlockingAdmin {
        handle: Arc::new(handle),
        clock,
        timeout,
        properties: properties.clone(),
        described: Together::default(),
        configs: Together::default(),
    }))
}

/// The library lists brokers every ten seconds at most.
const BROKERS_REFRESH_MS: &str = "11000";
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const LEADERS_POLL: Duration = Duration::from_millis(50);
const COORDINATOR_POLL: Duration = Duration::from_millis(100);

struct BlockingAdmin {
    handle: Arc<Handle>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    /// Its own, and those of readers of the same cluster.
    properties: Config,
    /// Each partition asks about its topic, and the answer is about all of them.
    described: Together<Result<Described, Failure>>,
    configs: Together<Result<Vec<ConfigEntry>, Failure>>,
}

impl BlockingAdmin {
    /// The answer to `what`, which needs a right.
    async fn ask<R: Send + 'static>(
        &self,
        (what, right): (impl Display, impl Display),
        call: impl Fn(&Handle, Duration) -> Result<R, Failure> + Send + Sync + 'static,
    ) -> Result<R> {
        let answer = self.ask_raw(call).await?;
        answer.map_err(|failure| explain_needing(&failure, what, right))
    }

    /// The answer as librdkafka gives it, with the brokers' address where none gave one. Asked again while a group's
    /// coordinator, or one of its offsets, is on the move.
    async fn ask_raw<R: Send + 'static>(
        &self,
        call: impl Fn(&Handle, Duration) -> Result<R, Failure> + Send + Sync + 'static,
    ) -> Result<Result<R, Failure>> {
        let (call, timeout) = (Arc::new(call), self.timeout);
        let deadline = self.clock.monotonic() + timeout;
        loop {
            let (call, handle) = (Arc::clone(&call), Arc::clone(&self.handle));
            let answer = tokio::task::spawn_blocking(move || call(&handle, timeout)).await;
            let answer =
                answer.map_err(|error| ConnectError::fatal("an admin request was cut off").caused_by(error))?;
            match answer {
                Err(failure) if is_moving(failure.code) && self.clock.monotonic() < deadline => {
                    self.clock.sleep(COORDINATOR_POLL).await;
                }
                Err(failure) => {
                    let servers = self.properties.get("bootstrap.servers").map_or("", String::as_str);
                    return Ok(Err(named(failure, servers, self.handle.unreached())));
                }
                answer => {
                    self.handle.forget_unreached();
                    return Ok(answer);
                }
            }
        }
    }

    /// `None` where the topic does not exist. The brokers are asked after this was called.
    async fn describe(&self, topic: &str) -> Result<Option<Described>> {
        let name = topic.to_owned();
        if self.is_embedded().await? {
            let all = self.all_topics().await?;
            return Ok(all.into_iter().find(|(found, _)| *found == name).map(|(_, described)| described));
        }
        let ask = async || self.ask_raw(move |handle, timeout| handle.describe_topic(&name, timeout)).await;
        match &*self.described.ask(topic, ask).await? {
            Ok(described) => Ok(Some(described.clone())),
            Err(failure) if is_absent(failure.code) => Ok(None),
            Err(failure) => {
                Err(explain_needing(failure, format!("describing topic {topic}"), format!("DESCRIBE on topic {topic}")))
            }
        }
    }

    async fn configs(&self, topic: &str) -> Result<Vec<ConfigEntry>> {
        if self.is_embedded().await? {
            return Ok(Vec::new());
        }
        let name = topic.to_owned();
        let ask = async || self.ask_raw(move |handle, timeout| handle.describe_configs(&name, timeout)).await;
        let (what, right) =
            (format!("reading the configs of topic {topic}"), format!("DESCRIBE_CONFIGS on topic {topic}"));
        let answer = self.configs.ask(topic, ask).await?;
        answer.as_ref().clone().map_err(|failure| explain_needing(&failure, what, right))
    }

    /// True for librdkafka's embedded cluster, which it names itself. It has no controller, so asking it for what it
    /// does not know would end in a time-out, which must not be taken for "none" from a real cluster.
    async fn is_embedded(&self) -> Result<bool> {
        Ok(self.cluster_id().await?.starts_with("mockCluster"))
    }

    /// Offsets by partition, one map for each of `specs`.
    async fn offsets(
        &self,
        partitions: Vec<TopicPartition>,
        specs: &'static [OffsetSpec],
    ) -> Result<Vec<BTreeMap<i32, i64>>> {
        let topic = partitions.first().map_or_else(String::new, |partition| partition.topic.to_string());
        let what = (format!("listing the offsets of topic {topic}"), format!("DESCRIBE on topic {topic}"));
        let answers = self.ask(what, move |handle, timeout| handle.list_offsets(&partitions, specs, timeout)).await?;
        answers.into_iter().map(|entries| entries.into_iter().map(offset).collect()).collect()
    }

    async fn group_call(
        &self,
        group: &str,
        (what, right): (&str, &str),
        call: impl Fn(&Handle, &str, Duration) -> Result<Vec<Entry>, Failure> + Send + Sync + 'static,
    ) -> Result<()> {
        let name = group.to_owned();
        // What failed for one partition is the answer.
        let first = move |entries: Vec<Entry>| entries.into_iter().find_map(|entry| entry.failure).map_or(Ok(()), Err);
        match self.ask_raw(move |handle, timeout| call(handle, &name, timeout).and_then(first)).await? {
            Ok(()) => Ok(()),
            Err(failure) if is_no_group(failure.code) => Ok(()),
            Err(failure) if is_in_use(failure.code) => Err(ConnectError::new(
                Kind::Conflict,
                format!("{what} of group {group}: the group has members; stop them first ({})", failure.text),
            )),
            Err(failure) => {
                let of_group = failure.code == Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
                let right =
                    if of_group { format!("{right} on group {group}") } else { "READ on its topics".to_owned() };
                Err(explain_needing(&failure, format!("{what} of group {group}"), right))
            }
        }
    }

    /// What `failure` says of reading about a group.
    fn unreadable(failure: &Failure, what: &str, group: &str) -> ConnectError {
        explain_needing(failure, format!("{what} group {group}"), format!("READ on group {group}"))
    }

    async fn all_topics(&self) -> Result<Vec<(String, Described)>> {
        let what = ("listing the topics", "DESCRIBE on them");
        self.ask(what, |handle, timeout| handle.all_topics(timeout)).await
    }
}

#[async_trait]
impl Admin for BlockingAdmin {
    async fn cluster_id(&self) -> Result<String> {
        self.ask(("asking for the cluster's id", "DESCRIBE on the cluster"), |handle, timeout| {
            handle.cluster_id(timeout)
        })
        .await
    }

    async fn partition(&self, partition: &TopicPartition) -> Result<PartitionView> {
        const SPECS: &[OffsetSpec] = &[OffsetSpec::Earliest, OffsetSpec::Stable, OffsetSpec::End];
        let absent = || ConnectError::not_found(format!("partition {partition} does not exist"));
        let no_topic = || {
            let topic = &partition.topic;
            ConnectError::not_found(format!(
                "partition {partition} does not exist: the brokers know no topic {topic}, it was deleted or never created"
            ))
        };
        let before = self.describe(&partition.topic).await?.ok_or_else(no_topic)?;
        if before.partitions.iter().all(|shape| shape.partition != partition.partition) {
            return Err(absent());
        }
        let offsets = self.offsets(vec![partition.clone()], SPECS).await?;
        let after = self.describe(&partition.topic).await?.ok_or_else(no_topic)?;
        if before.topic_id != after.topic_id {
            let topic = &partition.topic;
            return Err(ConnectError::retriable(format!("topic {topic} was made anew while it was asked about")));
        }
        let of =
            |spec: usize| offsets.get(spec).and_then(|by_partition| by_partition.get(&partition.partition)).copied();
        Ok(PartitionView {
            topic_id: after.topic_id,
            log_start_offset: of(0).ok_or_else(absent)?,
            last_stable_offset: of(1).ok_or_else(absent)?,
            end_offset: of(2),
            ..PartitionView::default()
        })
    }

    async fn topic(&self, topic: &str) -> Result<TopicView> {
        let absent = || ConnectError::not_found(format!("topic {topic} does not exist"));
        let described = self.describe(topic).await?.ok_or_else(absent)?;
        let replicas = described.partitions.iter().map(|partition| partition.replicas).max().unwrap_or_default();
        let set = self.configs(topic).await?.into_iter().filter(|entry| entry.is_set_on_topic);
        Ok(TopicView {
            topic_id: described.topic_id,
            partitions: described.partitions.len() as u32,
            replication_factor: replicas as u32,
            configs: set.filter_map(|entry| Some((entry.name, entry.value?))).collect(),
        })
    }

    async fn topics(&self) -> Result<Vec<String>> {
        let all = self.all_topics().await?;
        Ok(all.into_iter().map(|(name, _)| name).collect())
    }

    async fn target_topic(&self, topic: &str) -> Result<Option<TargetTopic>> {
        const SPECS: &[OffsetSpec] = &[OffsetSpec::Earliest, OffsetSpec::End];
        let Some(described) = self.describe(topic).await? else {
            return Ok(None);
        };
        let name: Arc<str> = Arc::from(topic);
        let numbers: BTreeSet<i32> = described.partitions.iter().map(|partition| partition.partition).collect();
        let partitions = numbers.iter().map(|number| TopicPartition::new(Arc::clone(&name), *number)).collect();
        let offsets = self.offsets(partitions, SPECS).await?;
        let of = |spec: usize, number: &i32| {
            offsets.get(spec).and_then(|by_partition| by_partition.get(number)).copied().ok_or_else(|| {
                ConnectError::retriable(format!("the broker told no offset of partition {topic}-{number}"))
            })
        };
        let offsets = numbers.iter().map(|number| Ok((of(0, number)?, of(1, number)?))).collect::<Result<_>>()?;
        let configs = self.configs(topic).await?.into_iter();
        let configs = configs.filter_map(|entry| Some((entry.name, entry.value?))).collect();
        Ok(Some(TargetTopic { partitions: numbers.len() as u32, configs, offsets }))
    }

    async fn check_new_topic(&self, topic: &NewTopic) -> Result<()> {
        if self.is_embedded().await? {
            return Ok(());
        }
        let new = topic.clone();
        let name = &topic.name;
        let what = (format!("topic {name} cannot be created"), format!("CREATE on topic {name}"));
        match self.ask(what, move |handle, timeout| handle.create_topic(&new, true, timeout)).await {
            // Another instance was faster.
            Err(error) if error.kind() == Kind::Conflict => Ok(()),
            outcome => outcome,
        }
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<()> {
        let new = topic.clone();
        let name = &topic.name;
        let what = (format!("creating topic {name}"), format!("CREATE on topic {name}"));
        self.ask(what, move |handle, timeout| handle.create_topic(&new, false, timeout)).await?;
        let deadline = self.clock.monotonic() + self.timeout;
        loop {
            let described = self.describe(&topic.name).await?;
            let partitions = described.map_or_else(Vec::new, |described| described.partitions);
            let wanted = topic.partitions.map_or(1, |partitions| partitions as usize);
            if partitions.len() >= wanted && partitions.iter().all(|partition| partition.has_leader) {
                return Ok(());
            }
            if self.clock.monotonic() >= deadline {
                return Err(ConnectError::retriable(format!(
                    "topic {} was created, but not all of its partitions have a leader yet",
                    topic.name
                )));
            }
            self.clock.sleep(LEADERS_POLL).await;
        }
    }

    async fn alter_topic_configs(&self, topic: &str, configs: &BTreeMap<String, Option<String>>) -> Result<()> {
        if configs.is_empty() {
            return Ok(());
        }
        let (name, configs) = (topic.to_owned(), configs.clone());
        let what = (format!("altering the configs of topic {topic}"), format!("ALTER_CONFIGS on topic {topic}"));
        self.ask(what, move |handle, timeout| handle.alter_configs(&name, &configs, timeout)).await
    }

    async fn group_offsets(&self, group: &str) -> Result<Positions> {
        let name = group.to_owned();
        let answer = self.ask_raw(move |handle, timeout| handle.group_offsets(&name, timeout)).await?;
        match answer {
            Ok(entries) => Ok(entries.into_iter().filter_map(|entry| Some((entry.partition, entry.offset?))).collect()),
            Err(failure) if is_no_group(failure.code) => Ok(Positions::new()),
            Err(failure) => Err(Self::unreadable(&failure, "reading the offsets of", group)),
        }
    }

    async fn group_is_live(&self, group: &str) -> Result<bool> {
        let name = group.to_owned();
        match self.ask_raw(move |handle, timeout| handle.group_members(&name, timeout)).await? {
            Ok(members) => Ok(members > 0),
            Err(failure) if is_no_group(failure.code) => Ok(false),
            Err(failure) => Err(Self::unreadable(&failure, "describing", group)),
        }
    }

    async fn alter_group_offsets(&self, group: &str, offsets: &Positions) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let commit = |offset: &i64| Committed { offset: *offset, metadata: String::new() };
        let commits = offsets.iter().map(|(partition, offset)| (partition.clone(), commit(offset))).collect();
        self.alter_group_commits(group, &commits).await
    }

    async fn delete_group_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<()> {
        if partitions.is_empty() {
            return Ok(());
        }
        let partitions = partitions.to_vec();
        self.group_call(group, ("removing the offsets", "DELETE"), move |handle, group, timeout| {
            // Of a topic that is gone the group holds nothing: what was asked for is so already.
            let is_gone = |entry: &Entry| entry.failure.as_ref().is_some_and(|failure| is_absent(failure.code));
            let mut entries = handle.delete_group_offsets(group, &partitions, timeout)?;
            entries.retain(|entry| !is_gone(entry));
            Ok(entries)
        })
        .await
    }

    async fn delete_group(&self, group: &str) -> Result<()> {
        self.group_call(group, ("removal", "DELETE"), |handle, group, timeout| {
            handle.delete_group(group, timeout).map(|()| Vec::new())
        })
        .await
    }

    async fn group_commits(&self, group: &str, pending: Pending) -> Result<Commits> {
        let name = group.to_owned();
        // One partition whose offset is about to change is reason to ask again for all.
        let settled = |entries: Vec<Entry>| match entries.iter().find_map(|entry| entry.failure.clone()) {
            Some(failure) => Err(failure),
            None => Ok(entries),
        };
        let ask = move |handle: &Handle, timeout| match pending {
            Pending::Awaited => handle.stable_group_offsets(&name, timeout).and_then(settled),
            Pending::Ignored => handle.group_offsets(&name, timeout).and_then(settled),
        };
        match self.ask_raw(ask).await? {
            Ok(entries) => Ok(entries.into_iter().filter_map(commit).collect()),
            Err(failure) if is_no_group(failure.code) => Ok(Commits::new()),
            Err(failure) => Err(Self::unreadable(&failure, "reading the offsets of", group)),
        }
    }

    async fn alter_group_commits(&self, group: &str, commits: &Commits) -> Result<()> {
        if commits.is_empty() {
            return Ok(());
        }
        let commits = commits.clone();
        self.group_call(group, ("altering the offsets", "READ"), move |handle, group, timeout| {
            handle.alter_group_offsets(group, rows(&commits), timeout)
        })
        .await
    }

    async fn first_visible(&self, stretches: &Stretches) -> Result<Option<(TopicPartition, i64)>> {
        let mut reader = reader::open(&self.properties, stretches.clone(), Arc::clone(&self.clock))?;
        while let Some(batch) = reader.next().await? {
            if let Some(offset) = batch.offsets().first() {
                return Ok(Some((batch.partition().clone(), *offset)));
            }
        }
        Ok(None)
    }
}

fn commit(entry: Entry) -> Option<(TopicPartition, Committed)> {
    Some((entry.partition, Committed { offset: entry.offset?, metadata: entry.metadata }))
}

/// The commits as rows of a request.
pub(super) fn rows(commits: &Commits) -> impl ExactSizeIterator<Item = (&TopicPartition, i64, &str)> {
    commits.iter().map(|(partition, commit)| (partition, commit.offset, commit.metadata.as_str()))
}

fn offset(entry: Entry) -> Result<(i32, i64)> {
    let place = entry.partition;
    match (entry.failure, entry.offset) {
        (Some(failure), _) => Err(explain(&failure, format!("listing the offsets of {place}"))),
        (None, Some(offset)) => Ok((place.partition, offset)),
        (None, None) => Err(ConnectError::retriable(format!("the broker told no offset of {place}"))),
    }
}

fn is_moving(code: Code) -> bool {
    matches!(
        code,
        Code::RD_KAFKA_RESP_ERR_NOT_COORDINATOR
            | Code::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE
            | Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS
            | Code::RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT
    )
}

fn is_absent(code: Code) -> bool {
    matches!(code, Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART | Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC)
}

fn is_no_group(code: Code) -> bool {
    code == Code::RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND
}

/// How brokers say that a group has members: the coordinator takes a foreign commit for an unknown member's.
fn is_in_use(code: Code) -> bool {
    matches!(
        code,
        Code::RD_KAFKA_RESP_ERR_NON_EMPTY_GROUP
            | Code::RD_KAFKA_RESP_ERR_GROUP_SUBSCRIBED_TO_TOPIC
            | Code::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID
    )
}
