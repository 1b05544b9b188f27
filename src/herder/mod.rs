//! The herder: knows every connector that should run here and makes it so.
//!
//! [`Handle`] is what others hold: it checks configs, asks the loop (`run.rs`, `answer.rs`) and waits for its answer.
//! The loop folds changes (`state.rs`), compares with what runs (`plan.rs`) and starts jobs (`job.rs`). Reading order:
//! `state`, `plan`, `run`, `answer`, `job`, `offsets`.
//!
//! Invariants: the loop never waits for I/O or connector code, and `state` and `plan` are pure (A1). Knows no REST, no
//! converter and no plug-in by name; connectors come from the catalog, tasks from the factory.

mod answer;
mod command;
mod job;
mod offsets;
mod plan;
mod progress;
mod restart;
mod run;
mod slot;
mod state;
mod status;
mod stopped_sink;
mod task_configs;
mod unknown;
pub mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lakeferry_api::connector::{Connector, ConnectorType};
use lakeferry_api::{Budget, Clock, Config, ConnectError, Executor, Kind, Result};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::command::{Command, Put, Reply};
use self::run::Loop;
use self::validate::{Validation, validate};
use crate::backing::OffsetLog;
use crate::config::WorkerConfig;
use crate::config::catalog::{Catalog, PluginKind};
use crate::kafka::Clients;
use crate::random::Random;
use crate::spawn::{Spawned, spawn};
use crate::task::{self, TaskFactory};

pub use self::command::{Altered, ConnectorInfo, Created, NewOffsets, Offsets};
pub use self::restart::RestartRequest;
pub use self::state::TargetState;
pub use self::status::{ConnectorStatus, Status, Statuses};
pub use crate::task::TaskId;

/// Requests that may wait for the loop.
const QUEUE: usize = 256;

/// How often a patch is tried again because another request changed the config meanwhile.
const PATCH_ATTEMPTS: usize = 10;

/// What the worker gives its herder.
pub struct Parts {
    /// The plug-ins.
    pub catalog: Arc<Catalog>,
    /// The worker's settings.
    pub worker: Arc<WorkerConfig>,
    /// The worker's id, `host:port`.
    pub worker_id: String,
    /// Spawns tasks.
    pub factory: Arc<dyn TaskFactory>,
    /// Where statuses stand.
    pub statuses: Arc<Statuses>,
    /// Makes Kafka clients.
    pub clients: Arc<dyn Clients>,
    /// Where source offsets are stored.
    pub offsets: Arc<dyn OffsetLog>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where heavy work runs.
    pub executor: Arc<dyn Executor>,
    /// The byte budget.
    pub budget: Budget,
    /// Randomness.
    pub random: Arc<Random>,
}

/// Asks the herder. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    parts: Arc<Parts>,
    commands: mpsc::Sender<Command>,
    ready: Arc<AtomicBool>,
}

/// Starts the herder's loop. It ends, and stops everything it runs, when `stop` is cancelled.
pub fn start(parts: Parts, stop: CancellationToken) -> (Handle, Spawned<()>) {
    let parts = Arc::new(parts);
    let (commands, queue) = mpsc::channel(QUEUE);
    let running = spawn("herder", Loop::new(Arc::clone(&parts)).run(queue, stop));
    (Handle { parts, commands, ready: Arc::default() }, running)
}

impl Handle {
    /// True once the connectors of the command line were created.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Says that start-up is over.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Returns when the loop answers.
    pub async fn ping(&self) -> Result<()> {
        self.ask(|reply| Command::Ping { reply }).await
    }

    /// The plug-ins.
    pub fn catalog(&self) -> &Catalog {
        &self.parts.catalog
    }

    /// The worker's settings.
    pub fn worker(&self) -> &WorkerConfig {
        &self.parts.worker
    }

    /// What connectors and tasks say of themselves.
    pub fn statuses(&self) -> &Statuses {
        &self.parts.statuses
    }

    /// Every connector, by name.
    pub async fn connectors(&self) -> Result<Vec<ConnectorInfo>> {
        self.ask(|reply| Command::Connectors { reply }).await
    }

    /// One connector.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn connector(&self, name: &str) -> Result<ConnectorInfo> {
        self.ask(|reply| Command::Connector { name: name.to_owned(), reply }).await
    }

    /// The task configs of a connector.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn tasks(&self, name: &str) -> Result<Vec<(TaskId, Config)>> {
        self.ask(|reply| Command::Tasks { name: name.to_owned(), reply }).await
    }

    /// What a connector is; `None` where it does not exist (any more) or its class is not known here.
    ///
    /// # Errors
    /// Where the worker ends.
    pub async fn kind(&self, name: &str) -> Result<Option<ConnectorType>> {
        match self.connector(name).await {
            Ok(info) => Ok(info.kind),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checks a connector's config; nothing is started.
    ///
    /// # Errors
    /// `Config` where its class is missing or unknown.
    pub async fn validate(&self, config: Config) -> Result<Validation> {
        let parts = Arc::clone(&self.parts);
        let check = move || validate(&parts.catalog, &parts.worker, &config);
        // A connector's own check may look at the outside world.
        tokio::task::spawn_blocking(check).await.unwrap_or_else(|panic| {
            Err(ConnectError::fatal("the connector's validation panicked; the log has its message").caused_by(panic))
        })
    }

    /// Creates a connector. Returns when it and its tasks were started.
    ///
    /// # Errors
    /// `Config` where the config is not valid, `Conflict` where the name is taken; `Fatal` where the connector exists
    /// now but did not start.
    pub async fn create(&self, name: &str, config: Config, target: TargetState) -> Result<Created> {
        self.put(name, config, Put::Create { target }).await
    }

    /// Creates a connector or gives it another config.
    ///
    /// # Errors
    /// As [`Handle::create`], without `Conflict`.
    pub async fn put_config(&self, name: &str, config: Config) -> Result<Created> {
        self.put(name, config, Put::CreateOrReplace).await
    }

    /// Sets (or with `None` removes) single keys of a connector's config.
    ///
    /// # Errors
    /// As [`Handle::create`]; `NotFound`.
    pub async fn patch_config(&self, name: &str, patch: &BTreeMap<String, Option<String>>) -> Result<Created> {
        for _ in 0..PATCH_ATTEMPTS {
            let seen = self.connector(name).await?.config;
            let mut config = seen.clone();
            for (key, value) in patch {
                match value {
                    Some(value) => drop(config.insert(key.clone(), value.clone())),
                    None => drop(config.remove(key)),
                }
            }
            match self.put(name, config, Put::Replace { config: seen }).await {
                Err(error) if error.kind() == Kind::Conflict => {}
                result => return result,
            }
        }
        Err(ConnectError::conflict(format!("The config of connector {name} is changed all the time; try again")))
    }

    /// Removes a connector. Returns when everything of it has stopped.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete(&self, name: &str) -> Result<()> {
        self.ask(|reply| Command::Delete { name: name.to_owned(), reply }).await
    }

    /// Pauses, resumes or stops. A stop returns when it is done, the others at once.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn set_target(&self, name: &str, target: TargetState) -> Result<()> {
        self.ask(|reply| Command::Target { name: name.to_owned(), target, reply }).await
    }

    /// Makes the connector's instance anew. Returns when it was started.
    ///
    /// # Errors
    /// `NotFound`; `Fatal` where it did not start.
    pub async fn restart_connector(&self, name: &str) -> Result<()> {
        self.ask(|reply| Command::RestartConnector { name: name.to_owned(), reply }).await
    }

    /// Begins to make anew what `request` says; the answer shows what.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn restart(&self, name: &str, request: RestartRequest) -> Result<ConnectorStatus> {
        self.ask(|reply| Command::Restart { name: name.to_owned(), request, reply }).await
    }

    /// Makes a task anew. Returns when it was spawned.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn restart_task(&self, id: TaskId) -> Result<()> {
        self.ask(|reply| Command::RestartTask { id, reply }).await
    }

    /// The offsets of a connector.
    ///
    /// # Errors
    /// `NotFound`; `Fatal` where they cannot be read.
    pub async fn offsets(&self, name: &str) -> Result<Offsets> {
        let config = self.connector(name).await?.config;
        offsets::read(&self.parts, name, &config).await
    }

    /// Alters the offsets of a stopped connector.
    ///
    /// # Errors
    /// `NotFound`; `Config` where it is not stopped or the request makes no sense; `Fatal` where the connector, the
    /// store or the brokers refuse.
    pub async fn alter_offsets(&self, name: &str, offsets: NewOffsets) -> Result<Altered> {
        self.ask(|reply| Command::AlterOffsets { name: name.to_owned(), offsets, reply }).await
    }

    async fn put(&self, name: &str, config: Config, put: Put) -> Result<Created> {
        if let Some(refusal) = self.validate(config.clone()).await?.refusal() {
            return Err(ConnectError::config(refusal));
        }
        self.parts.check_topic_creation(&config)?;
        self.ask(|reply| Command::Put { name: name.to_owned(), config, put, reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let gone = || ConnectError::retriable("The worker is shutting down");
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Parts {
    /// What a connector of this config is; `None` where its class is not known here.
    fn kind_of(&self, config: &Config) -> Option<ConnectorType> {
        match self.catalog.find(config.get("connector.class")?)?.kind {
            PluginKind::Sink => Some(ConnectorType::Sink),
            PluginKind::Source => Some(ConnectorType::Source),
            _ => None,
        }
    }

    /// What Connect's validation leaves out: a connector that Connect would store, and that would then only fail.
    fn check_topic_creation(&self, config: &Config) -> Result<()> {
        if !self.worker.topic_creation_enable || self.kind_of(config) != Some(ConnectorType::Source) {
            return Ok(());
        }
        task::check_topic_creation(&self.worker.providers.resolve(config)?)
    }

    /// The version of the plug-in that a connector of this config is made of.
    fn version_of(&self, config: &Config) -> Option<String> {
        self.catalog.find(config.get("connector.class")?)?.version.clone()
    }

    /// A new instance for a connector of this config.
    fn connector(&self, config: &Config) -> Result<Box<dyn Connector>> {
        self.catalog.connector(config.get("connector.class").map(String::as_str).unwrap_or_default())
    }

    fn silence(&self, connector: &str, task: u32) {
        self.statuses.silence(&TaskId { connector: connector.to_owned(), task });
    }
}

#[cfg(test)]
mod tests;
