//! The offsets of a source that writes in transactions: those that its own group has committed in the target cluster.
//!
//! Invariant: what is altered here is the truth from then on. Whatever instance of the connector is left, a process
//! that hangs for example, is fenced first. An offset that is set, or set back, takes what the target holds then as it
//! is.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakeferry_api::connector::{AlteredOffsets, Connector};
use lakeferry_api::{Config, ConnectError, Kind, PartitionView, Result, Routes, SourceOffset, TopicPartition};

use super::Parts;
use crate::backing::SourceOffsets;
use crate::config::ConnectorConfig;
use crate::config::overrides::{Client, client_config};
use crate::kafka::{Admin, Commits, Pending, Producer};
use crate::task::exact::{Mark, Tail};
use crate::task::{TaskId, source_group, transactional_producer};

/// Instances that are fenced together.
const PARALLEL_FENCES: usize = 8;

/// The group of one connector.
pub(super) struct Progress {
    group: String,
    routes: Arc<dyn Routes>,
    admin: Arc<dyn Admin>,
    /// One for each task that the connector may have: taking their ids over fences who has them.
    producers: Vec<Config>,
    clients: Arc<dyn crate::kafka::Clients>,
}

impl Progress {
    /// `None` where the connector's offsets are in Connect's own log.
    ///
    /// # Errors
    /// `Config` where the connector's settings cannot be used.
    pub(super) fn of(parts: &Parts, name: &str, config: &Config, connector: &dyn Connector) -> Result<Option<Self>> {
        let Some(routes) = connector.routes(config)? else { return Ok(None) };
        let tasks = ConnectorConfig::source(&parts.worker, config)?.tasks_max;
        let id = |task| TaskId { connector: name.to_owned(), task };
        let producer = |task: u32| transactional_producer(&parts.worker, config, &id(task));
        let producers = (0..u32::try_from(tasks).unwrap_or(1)).map(producer).collect::<Result<_>>()?;
        let admin = parts.clients.admin(&client_config(&parts.worker, config, Client::Admin)?)?;
        Ok(Some(Self { group: source_group(name), routes, admin, producers, clients: Arc::clone(&parts.clients) }))
    }

    /// How far each partition got.
    pub(super) async fn read(&self) -> Result<SourceOffsets> {
        let mut offsets = SourceOffsets::new();
        for (target, commit) in self.admin.group_commits(&self.group, Pending::Ignored).await? {
            let Some(source) = self.routes.source(&target) else { continue };
            if let Some(stored) = Mark::read(&self.group, &target, &commit)?.stored {
                offsets.insert(source, stored);
            }
        }
        Ok(offsets)
    }

    /// Sets offsets; those that are reset begin anew.
    pub(super) async fn alter(&self, altered: AlteredOffsets) -> Result<()> {
        let targets = altered.keys().map(|source| self.routes.target(source)).collect::<Result<Vec<_>>>()?;
        self.fence().await?;
        let (mut set, mut removed) = (Commits::new(), Vec::new());
        for (target, stored) in targets.into_iter().zip(altered.into_values()) {
            match (self.view(&target).await?, stored) {
                (Some(view), None) if view.is_empty() => removed.push(target),
                (Some(view), stored) => drop(set.insert(target, view.mark(stored).commit()?)),
                // Its offsets went with it.
                (None, None) => {}
                (None, Some(_)) => {
                    return Err(ConnectError::config(format!(
                        "the offsets of {target} are kept with it, and it does not exist; create topic {} first, or let the \
                         connector begin and create it",
                        target.topic
                    )));
                }
            }
        }
        self.admin.alter_group_commits(&self.group, &set).await?;
        self.admin.delete_group_offsets(&self.group, &removed).await
    }

    async fn view(&self, target: &TopicPartition) -> Result<Option<Target>> {
        match self.admin.partition(target).await {
            Ok(view) => Ok(Some(Target(view))),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn fence(&self) -> Result<()> {
        let producers: Vec<Arc<dyn Producer>> =
            self.producers.iter().map(|properties| self.clients.producer(properties)).collect::<Result<_>>()?;
        let fences: Vec<_> = producers.iter().map(|producer| producer.init_transactions()).collect();
        stream::iter(fences).buffer_unordered(PARALLEL_FENCES).try_collect().await
    }
}

/// A target partition as it is now.
struct Target(PartitionView);

impl Target {
    fn end(&self) -> i64 {
        self.0.end_offset.unwrap_or(self.0.last_stable_offset)
    }

    fn is_empty(&self) -> bool {
        self.end() == self.0.log_start_offset
    }

    fn mark(self, stored: Option<SourceOffset>) -> Mark {
        Mark { stored, tail: Some(Tail::before(self.end())), first: None, topic_id: self.0.topic_id, what: None }
    }
}
