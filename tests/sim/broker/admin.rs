//! The simulated cluster's answers to questions, fresh ones and those of a broker that lags behind.

use std::collections::BTreeMap;

use async_trait::async_trait;
use lakeferry::kafka::{Admin, Commits, Pending, Stretches};
use lakeferry_api::source::{NewTopic, TargetTopic};
use lakeferry_api::{ConnectError, PartitionView, Positions, Result, TopicPartition, TopicView};

use super::client::SimClients;
use super::log::Log;
use super::{Broker, State, Topic};
use crate::awaits::Stretch;

/// Of 1,000 answers so many are of a broker that lags behind, where one does.
const LAGGING_ANSWERS: u64 = 150;
/// How long a topic keeps its settings.
const RETENTION_CHANGES_MS: u64 = 45_000;

pub(super) struct SimAdmin {
    pub(super) clients: SimClients,
    /// The member on whose behalf it asks.
    pub(super) member: String,
}

#[async_trait]
impl Admin for SimAdmin {
    async fn cluster_id(&self) -> Result<String> {
        self.clients.request("asks for the cluster's id", |_, _| Ok("simulated".to_owned())).await
    }

    async fn partition(&self, partition: &TopicPartition) -> Result<PartitionView> {
        let (partition, member) = (partition.clone(), self.member.clone());
        let (answer, is_stale) = self
            .clients
            .request("asks about a partition", move |state, broker| {
                let (stale, asked) =
                    (stale_view(state, broker, &partition, &member), (member, partition.topic.to_string()));
                let is_stale = stale.is_some();
                if is_stale {
                    state.misled.insert(asked)
                } else {
                    state.misled.remove(&asked)
                };
                let answer = match stale {
                    Some(stale) => stale?,
                    None => current_view(state, broker, &partition)?,
                };
                let told = (partition, answer.topic_id.clone().unwrap_or_default());
                state.told_ends.entry(told).or_default().insert(answer.last_stable_offset);
                Ok((answer, is_stale))
            })
            .await?;
        if is_stale {
            self.clients.process.reach(Stretch::Older);
        }
        Ok(answer)
    }

    async fn topic(&self, topic: &str) -> Result<TopicView> {
        let (topic, member) = (topic.to_owned(), self.member.clone());
        self.clients
            .request("asks about a topic", move |state, broker| {
                let is_misled = state.misled.contains(&(member, topic.clone()));
                let stale = state.stale_until_ms.get(&topic).filter(|_| is_misled).map(|(_, old)| old);
                let found = stale.or_else(|| state.topics.get(&topic)).ok_or_else(|| absent(&topic))?;
                let policy = if found.compacted { "compact" } else { "delete" };
                Ok(TopicView {
                    topic_id: Some(found.id.clone()),
                    partitions: found.logs.len() as u32,
                    replication_factor: 1,
                    configs: BTreeMap::from([
                        ("cleanup.policy".to_owned(), policy.to_owned()),
                        // Somebody changes it again and again.
                        ("retention.ms".to_owned(), (broker.clock.ms() / RETENTION_CHANGES_MS).to_string()),
                    ]),
                })
            })
            .await
    }

    async fn topics(&self) -> Result<Vec<String>> {
        self.clients.request("lists topics", |state, _| Ok(state.topics.keys().cloned().collect())).await
    }

    async fn target_topic(&self, topic: &str) -> Result<Option<TargetTopic>> {
        let topic = topic.to_owned();
        self.clients.request("asks about a target", move |state, _| Ok(state.topics.get(&topic).map(target))).await
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<()> {
        let (name, partitions) = (topic.name.clone(), topic.partitions.unwrap_or(1) as usize);
        self.clients
            .request("creates a topic", move |state, broker| {
                if state.topics.contains_key(&name) {
                    return Err(ConnectError::conflict(format!("topic {name} exists")));
                }
                state.create_topic(broker, &name, partitions, false);
                Ok(())
            })
            .await
    }

    async fn group_offsets(&self, group: &str) -> Result<Positions> {
        let group = group.to_owned();
        self.clients
            .request("asks for the group's offsets", move |state, _| Ok(state.groups[&group].committed.clone()))
            .await
    }

    async fn group_is_live(&self, group: &str) -> Result<bool> {
        let group = group.to_owned();
        self.clients.request("asks for the group's members", move |state, _| Ok(state.groups[&group].is_live())).await
    }

    async fn alter_group_offsets(&self, group: &str, offsets: &Positions) -> Result<()> {
        let offsets = offsets.clone();
        let altered = offsets.keys().cloned().collect::<Vec<_>>();
        self.alter(group, altered, move |committed| committed.extend(offsets)).await
    }

    async fn delete_group_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<()> {
        let partitions = partitions.to_vec();
        let altered = partitions.clone();
        self.alter(group, altered, move |committed| committed.retain(|partition, _| !partitions.contains(partition)))
            .await
    }

    async fn delete_group(&self, group: &str) -> Result<()> {
        let all = self.clients.broker.lock().groups[group].committed.keys().cloned().collect();
        self.alter(group, all, Positions::clear).await
    }

    async fn group_commits(&self, group: &str, pending: Pending) -> Result<Commits> {
        loop {
            let group = group.to_owned();
            let commits = move |state: &mut State, _: &Broker| Ok(state.coordinator.commits(&group, pending));
            match self.clients.request("asks for committed offsets", commits).await? {
                Some(commits) => return Ok(commits),
                None => self.clients.broker.clock.wait(20).await,
            }
        }
    }

    async fn first_visible(&self, stretches: &Stretches) -> Result<Option<(TopicPartition, i64)>> {
        let stretches = stretches.clone();
        self.clients
            .request("looks for records", move |state, _| {
                for (target, (from, to)) in stretches {
                    let log = state.peek(&target).ok_or_else(|| absent(&target.topic))?;
                    if let Some(offset) = log.first_visible(from, to) {
                        return Ok(Some((target, offset)));
                    }
                }
                Ok(None)
            })
            .await
    }
}

impl SimAdmin {
    /// Changes the offsets of a group without members.
    async fn alter(
        &self,
        group: &str,
        altered: Vec<TopicPartition>,
        change: impl FnOnce(&mut Positions) + Send + 'static,
    ) -> Result<()> {
        let group = group.to_owned();
        self.clients
            .request("alters the group's offsets", move |state, broker| {
                if state.groups[&group].is_live() {
                    return Err(ConnectError::conflict(format!("the group {group} has members")));
                }
                change(&mut state.group_mut(&group).committed);
                state.forget_begun(|partition| altered.contains(partition));
                broker.diary.note("the group's offsets are altered");
                Ok(())
            })
            .await
    }
}

fn target(topic: &Topic) -> TargetTopic {
    TargetTopic {
        partitions: topic.logs.len() as u32,
        configs: BTreeMap::from([("cleanup.policy".to_owned(), "delete".to_owned())]),
        offsets: topic.logs.iter().map(|log| (log.start(), log.end())).collect(),
    }
}

/// Of the topic that is there now; from some seconds ago where a broker lags behind.
fn current_view(state: &mut State, broker: &Broker, partition: &TopicPartition) -> Result<PartitionView> {
    let topic = state.topics.get(&*partition.topic).ok_or_else(|| absent(&partition.topic))?;
    let log = topic.logs.get(partition.partition as usize).ok_or_else(|| absent(&partition.topic))?;
    let view = view(&topic.id, log);
    let Some(behind) = state.behind(broker, partition, LAGGING_ANSWERS) else { return Ok(view) };
    let old = PartitionView {
        log_start_offset: behind.start(),
        last_stable_offset: behind.stable(),
        end_offset: Some(behind.end()),
        ..view.clone()
    };
    if old != view {
        let (start, end) = (old.log_start_offset, behind.end());
        broker.diary.note(format!("a broker behind the others tells of {partition} {start}..{end}"));
    }
    Ok(old)
}

fn view(topic_id: &str, log: &Log) -> PartitionView {
    PartitionView {
        topic_id: Some(topic_id.to_owned()),
        log_start_offset: log.start(),
        last_stable_offset: log.stable(),
        end_offset: Some(log.end()),
        ..PartitionView::default()
    }
}

/// For a while after a topic was made anew, a broker that lags behind may answer the first questions of whoever opens
/// one of its partitions, but not those that come before an entry.
fn stale_view(
    state: &mut State,
    broker: &Broker,
    partition: &TopicPartition,
    member: &str,
) -> Option<Result<PartitionView>> {
    let mut members = state.groups.values_mut().flat_map(|group| group.members.values_mut());
    let asking = members.find(|known| known.name == member)?;
    let fetching = asking.fetched.get_mut(partition).filter(|fetching| fetching.stale_answers > 0)?;
    fetching.stale_answers -= 1;
    let (_, old) = state.stale_until_ms.get(&*partition.topic).filter(|(until, _)| broker.clock.ms() <= *until)?;
    broker.diary.note(format!("a lagging broker answers {member} about {partition}"));
    let log = old.logs.get(partition.partition as usize);
    Some(log.map(|log| view(&old.id, log)).ok_or_else(|| absent(&partition.topic)))
}

fn absent(topic: &str) -> ConnectError {
    ConnectError::not_found(format!("topic {topic} does not exist"))
}
