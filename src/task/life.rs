//! The life of a task: wait while paused, build what the loop needs, start, loop, end. Every failure on the way, panics
//! included, ends here and becomes FAILED with a trace; a panic ends this task only, and the connector's code is not
//! called again after it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lakeferry_api::connector::Task as ConnectorTask;
use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::{ConnectError, Connector, RecordForm, Result, Routes, SinkTask, SourceTask};
use tokio_util::sync::CancellationToken;

use super::context::{LazyAdmin, TaskSinkContext, TaskSourceContext};
use super::control::{Control, Wanted};
use super::dead_letters::DeadLetters;
use super::doubts::Doubts;
use super::exact::{Ledger, LedgerParts, Tolerated, Transactions};
use super::pipeline::{Converters, SinkPipeline, SourcePipeline};
use super::sink::{SinkLoop, SinkParts};
use super::source::{Flow, FlowParts, Life, SourceLoop, SourceParts, TransactionalLoop, TransactionalParts};
use super::tolerance::Tolerance;
use super::topics::{TopicCreation, Topics};
use super::voice::Voice;
use super::{Parts, State, TaskSpec, clients};
use crate::config::ConnectorConfig;
use crate::config::connector::Topics as Subscribed;
use crate::config::overrides::offset_reset;
use crate::kafka::Subscription;
use crate::spawn::guard;

/// How long a source's transaction lasts, where nothing else is said: what is written is seen that much later.
const TRANSACTION: Duration = Duration::from_secs(2);
/// Well below `transaction.timeout.ms`, after which the brokers take it back.
const LONGEST_TRANSACTION: Duration = Duration::from_secs(30);
/// What helps where a target holds records of somebody else.
const TARGET_REMEDY: &str = "write to another topic (topic.rename), or delete this one and the connector's offsets, or \
                             stop the connector and PATCH its offsets to where it is to go on behind what is there";

/// See [`Timing::release_patience`].
const RELEASE_PATIENCE: Duration = Duration::from_secs(60);

/// A task that was not started.
pub(super) struct Task {
    parts: Arc<Parts>,
    task: ConnectorTask,
    form: RecordForm,
    config: ConnectorConfig,
    routes: Option<Arc<dyn Routes>>,
}

impl Task {
    /// The task that `spec` asks for.
    ///
    /// # Errors
    /// `Config` where the connector's class or settings cannot be used.
    pub(super) fn new(parts: Arc<Parts>, spec: &TaskSpec) -> Result<Self> {
        let class = spec.connector_config.get("connector.class").map_or("", String::as_str);
        let connector: Box<dyn Connector> = parts.catalog.connector(class)?;
        let task = connector.task();
        let config = match task {
            ConnectorTask::Sink(_) => ConnectorConfig::sink(&parts.worker, &spec.connector_config)?,
            ConnectorTask::Source(_) => ConnectorConfig::source(&parts.worker, &spec.connector_config)?,
        };
        let form = connector.record_form();
        let routes = connector.routes(&spec.connector_config)?;
        Ok(Self { parts, task, form, config, routes })
    }
}

/// Lives `task` to its end and tells `voice` what becomes of it.
pub(super) async fn live(task: Task, spec: TaskSpec, voice: Arc<Voice>, mut control: Control) {
    let outcome = guard(Box::pin(live_guarded(task, spec, Arc::clone(&voice), &mut control))).await.flatten();
    match outcome {
        Ok(()) => voice.state(State::Unassigned),
        Err(error) => {
            tracing::error!(task = %voice.id(), error = error.trace(), "the task failed and does not restart by itself");
            voice.failed(error.trace());
        }
    }
}

async fn live_guarded(task: Task, spec: TaskSpec, voice: Arc<Voice>, control: &mut Control) -> Result<()> {
    if !wait_while_paused(&voice, control).await {
        return Ok(());
    }
    let Task { parts, task, form, config, routes } = task;
    let build = Build { parts, spec, form, config, voice, stop: control.stop_token() };
    match task {
        ConnectorTask::Sink(task) => live_sink(build, task, control).await,
        ConnectorTask::Source(task) => live_source(build, (task, routes), control).await,
    }
}

/// False where the task is to stop before it ever ran.
async fn wait_while_paused(voice: &Voice, control: &mut Control) -> bool {
    if control.is_paused() {
        voice.state(State::Paused);
    }
    while control.is_paused() {
        if control.changed().await == Wanted::Stop {
            return false;
        }
    }
    true
}

async fn live_sink(build: Build, task: Box<dyn SinkTask>, control: &mut Control) -> Result<()> {
    let (voice, config) = (Arc::clone(&build.voice), build.spec.task_config.clone());
    let mut sink = build.sink(task).await?;
    let outcome = guard(async {
        let outcome = match until_stop(control, sink.start(&config)).await {
            Some(Ok(())) => {
                voice.state(State::Running);
                sink.run(control).await
            }
            Some(failed) => failed,
            None => Ok(()),
        };
        sink.finish(&outcome).await;
        outcome
    });
    let outcome = outcome.await;
    sink.leave().await;
    outcome.flatten()
}

/// The outcome of `start`; `None` where the task is to stop before there is one.
async fn until_stop(control: &Control, start: impl Future<Output = Result<()>>) -> Option<Result<()>> {
    let stop = control.stop_token();
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        outcome = start => Some(outcome),
    }
}

async fn live_source(
    build: Build,
    (task, routes): (Box<dyn SourceTask>, Option<Arc<dyn Routes>>),
    control: &mut Control,
) -> Result<()> {
    let (voice, config) = (Arc::clone(&build.voice), build.spec.task_config.clone());
    let mut source: Box<dyn Life> = match routes {
        Some(routes) => Box::new(build.transactional_source(task, routes)?),
        None => Box::new(build.source(task)?),
    };
    let outcome = guard(async {
        let outcome = match until_stop(control, source.start(&config)).await {
            Some(Ok(())) => {
                voice.state(State::Running);
                source.run(control).await
            }
            Some(failed) => failed,
            None => Ok(()),
        };
        source.finish(&outcome).await;
        outcome
    });
    let outcome = outcome.await;
    if outcome.is_err() {
        source.abandon().await;
    }
    outcome.flatten()
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// `offset.flush.interval.ms`.
    pub(super) flush_interval: Duration,
    /// `offset.flush.timeout.ms`: a commit that takes longer is worth a word.
    pub(super) flush_timeout: Duration,
    /// The longest wait for the brokers, or the offset store, at the end of a task or an assignment. Two such waits fit
    /// into the grace that a stop has, so that an unreachable cluster does not cost the task its orderly end.
    pub(super) end_patience: Duration,
    /// The longest wait for what is whole to be published when the group takes partitions away: well below
    /// half of Kafka's default of `max.poll.interval.ms`, after which they go; what a shorter one cuts off is fenced.
    pub(super) release_patience: Duration,
    /// The same when the task stops, from when it is asked to: half of `task.shutdown.graceful.timeout.ms`. A commit
    /// that has to be waited for first takes its time from it.
    pub(super) stop_patience: Duration,
    /// How long, from then, the last commit may take: two thirds. At three quarters a task is aborted (A10), and one
    /// that is has not left its group.
    pub(super) last_commit_patience: Duration,
}

/// What the loops are built from.
struct Build {
    parts: Arc<Parts>,
    spec: TaskSpec,
    form: RecordForm,
    config: ConnectorConfig,
    voice: Arc<Voice>,
    stop: CancellationToken,
}

impl Build {
    async fn sink(self, task: Box<dyn SinkTask>) -> Result<SinkLoop> {
        let id = &self.spec.id;
        let properties = clients::consumer(&self.parts.worker, &self.spec.connector_config, id)?;
        let offset_reset = offset_reset(&properties)?;
        let pipeline = self.sink_pipeline().await?;
        let consumer = self.parts.clients.consumer(&properties, &self.subscription()?)?;
        let context = TaskSinkContext {
            id: id.clone(),
            group_id: properties.get("group.id").cloned().unwrap_or_default(),
            offset_reset,
            group: consumer.group(),
            admin: LazyAdmin::new(Arc::clone(&self.parts.clients), clients::sink_admin(&properties, id)),
            voice: Arc::clone(&self.voice),
            seeks: Mutex::default(),
            doubts: Doubts::default(),
            parts: Arc::clone(&self.parts),
        };
        Ok(SinkLoop::new(SinkParts {
            task,
            consumer,
            context: Arc::new(context),
            pipeline,
            timing: self.timing(),
            voice: self.voice,
            stop: self.stop,
        }))
    }

    fn timing(&self) -> Timing {
        let worker = &self.parts.worker;
        Timing {
            flush_interval: worker.offset_flush_interval,
            flush_timeout: worker.offset_flush_timeout,
            end_patience: worker.offset_flush_timeout.min(worker.task_shutdown_graceful_timeout / 3),
            release_patience: RELEASE_PATIENCE,
            stop_patience: worker.task_shutdown_graceful_timeout / 2,
            last_commit_patience: worker.task_shutdown_graceful_timeout * 2 / 3,
        }
    }

    fn subscription(&self) -> Result<Subscription> {
        match &self.config.topics {
            Some(Subscribed::List(topics)) if !topics.is_empty() => Ok(Subscription::Topics(topics.clone())),
            Some(Subscribed::Regex(pattern)) => Ok(Subscription::Pattern(pattern.clone())),
            _ => Err(ConnectError::config("Must configure one of topics or topics.regex")),
        }
    }

    async fn sink_pipeline(&self) -> Result<SinkPipeline> {
        let Some(converters) = Converters::new(&self.parts.catalog, &self.config, self.form)? else {
            if let Some(queue) = &self.config.dead_letter_queue {
                let topic = &queue.topic;
                tracing::warn!(topic, "the dead letter queue stays unused: this connector takes bytes as they are");
            }
            return Ok(SinkPipeline::bytes());
        };
        let shared = (Arc::clone(&self.parts.executor), self.parts.budget.clone());
        Ok(SinkPipeline::typed(converters, shared, self.tolerance(), self.dead_letters().await?))
    }

    async fn dead_letters(&self) -> Result<Option<DeadLetters>> {
        let Some(queue) = self.config.dead_letter_queue.clone() else { return Ok(None) };
        let (id, connector) = (&self.spec.id, &self.spec.connector_config);
        let admin = clients::dead_letter_admin(&self.parts.worker, connector, id)?;
        let admin = self.parts.clients.admin(&admin)?;
        let producer = clients::dead_letter_producer(&self.parts.worker, connector, id)?;
        let producer = self.parts.clients.producer(&producer)?;
        DeadLetters::open(id.clone(), queue, admin.as_ref(), producer).await.map(Some)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance {
            id: self.spec.id.clone(),
            settings: self.config.errors.clone(),
            clock: Arc::clone(&self.parts.clock),
            random: Arc::clone(&self.parts.random),
            stop: self.stop.clone(),
        }
    }

    fn admin(&self) -> Result<LazyAdmin> {
        let properties = clients::admin(&self.parts.worker, &self.spec.connector_config, &self.spec.id)?;
        Ok(LazyAdmin::new(Arc::clone(&self.parts.clients), properties))
    }

    fn source(self, task: Box<dyn SourceTask>) -> Result<SourceLoop> {
        let connector = &self.spec.connector_config;
        let worker = &self.parts.worker;
        let properties = clients::producer(worker, connector, &self.spec.id)?;
        let creation = if worker.topic_creation_enable { TopicCreation::new(connector)? } else { None };
        let tolerance = Arc::new(self.tolerance());
        let converters = Converters::new(&self.parts.catalog, &self.config, self.form)?;
        let pipeline = converters.map(|converters| {
            SourcePipeline::new(converters, Arc::clone(&self.parts.executor), Arc::clone(&tolerance))
        });
        let admin = Arc::new(self.admin()?);
        let context = TaskSourceContext {
            id: self.spec.id.clone(),
            parts: Arc::clone(&self.parts),
            admin: Arc::clone(&admin),
            ledger: None,
        };
        let flow = Flow::new(FlowParts {
            connector: self.spec.id.connector.clone(),
            offsets: Arc::clone(&self.parts.offsets),
            tolerance,
            voice: Arc::clone(&self.voice),
            timing: self.timing(),
        });
        Ok(SourceLoop::new(SourceParts {
            task,
            context: Arc::new(context),
            pipeline,
            producer: self.parts.clients.producer(&properties)?,
            topics: Topics::new(creation, admin),
            flow,
            voice: self.voice,
        }))
    }
    fn transactional_source(self, task: Box<dyn SourceTask>, routes: Arc<dyn Routes>) -> Result<TransactionalLoop> {
        let (connector, worker) = (&self.spec.connector_config, &self.parts.worker);
        let mut properties = clients::transactional_producer(worker, connector, &self.spec.id)?;
        if sabotage::is(Fault::OwnTransactionalId) {
            properties.insert("transactional.id".to_owned(), self.parts.random.id().to_string());
        }
        let admin = Arc::new(self.admin()?);
        let clock = Arc::clone(&self.parts.clock);
        let ledger = Arc::new(Ledger::new(LedgerParts {
            group: clients::source_group(&self.spec.id.connector),
            routes,
            producer: self.parts.clients.producer(&properties)?,
            admin: admin.get()?,
            clock: Arc::clone(&clock),
            what: None,
            tolerated: Tolerated::Nothing,
            takes_over: true,
            remedy: TARGET_REMEDY,
        }));
        let interval =
            self.config.transaction_interval.unwrap_or_else(|| TRANSACTION.min(worker.offset_flush_interval));
        let interval = interval.min(LONGEST_TRANSACTION);
        let (id, parts) = (self.spec.id.clone(), Arc::clone(&self.parts));
        let context = TaskSourceContext { id, parts, admin, ledger: Some(Arc::clone(&ledger)) };
        Ok(TransactionalLoop::new(TransactionalParts {
            task,
            context: Arc::new(context),
            transactions: Transactions::new(ledger, interval),
            timing: self.timing(),
            voice: self.voice,
            clock,
        }))
    }
}
