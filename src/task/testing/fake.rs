//! Connectors whose answers a test scripts, and a worker with nothing else in it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::connector::{ConnectorType, Task};
use lakeferry_api::executor::Inline;
use lakeferry_api::{
    Batch, Budget, Closing, Config, ConfigDef, ConnectError, Connector, Opened, Places, Positions, RecordForm, Result,
    Routes, SinkContext, SinkTask, SourceBatch, SourceContext, SourceOffset, SourcePartition, SourceTask,
    TopicPartition, Value,
};
use tokio::sync::Notify;

use super::text::Text;
use super::{Cluster, Journal, ManualClock, names, shown, shown_batches};
use crate::backing::memory::MemoryOffsetLog;
use crate::backing::{OffsetLog, SourceOffsets};
use crate::config::catalog::{Catalog, Make, Plugin, PluginKind};
use crate::config::worker::tests::worker;
use crate::kafka::Clients;
use crate::random::Random;
use crate::task::{Handle, Parts, TaskFactory as _, TaskId, TaskSpec, Tasks};

/// What a connector's method does when it is called.
pub(crate) enum Answer<T> {
    Give(T),
    Fail(ConnectError),
    Panic(&'static str),
    Hang,
}

impl<T> Answer<T> {
    async fn play(self) -> Result<T> {
        match self {
            Self::Give(value) => Ok(value),
            Self::Fail(error) => Err(error),
            Self::Panic(message) => panic!("{message}"),
            Self::Hang => std::future::pending().await,
        }
    }
}

thread_local! {
    /// What the next connector of this test's thread is.
    static NEXT: RefCell<Option<(Task, RecordForm)>> = const { RefCell::new(None) };
}

/// A worker whose only connector is scripted.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) journal: Journal,
    pub(crate) cluster: Cluster,
    pub(crate) offsets: Arc<Offsets>,
    tasks: Tasks,
}

impl World {
    /// A worker with these settings, and offsets that are committed every 60 s for at most 5 s.
    pub(crate) fn new(settings: &[(&str, &str)]) -> Self {
        let journal = Journal::default();
        let cluster = Cluster::new(journal.clone());
        Self::with((journal, cluster.clone()), settings, Arc::new(cluster))
    }

    /// The same with clients of the test's own making.
    pub(crate) fn of(settings: &[(&str, &str)], clients: Arc<dyn Clients>) -> Self {
        let journal = Journal::default();
        Self::with((journal.clone(), Cluster::new(journal)), settings, clients)
    }

    fn with((journal, cluster): (Journal, Cluster), settings: &[(&str, &str)], clients: Arc<dyn Clients>) -> Self {
        let clock = ManualClock::new();
        let offsets = Arc::new(Offsets { journal: journal.clone(), ..Offsets::default() });
        let converters = [("key.converter", "TextConverter"), ("value.converter", "TextConverter")];
        let header_converter = [("header.converter", "TextHeaderConverter")];
        let all: Vec<_> = converters.iter().chain(&header_converter).chain(settings).copied().collect();
        let parts = Parts {
            catalog: Arc::new(catalog()),
            worker: Arc::new(worker(&all)),
            worker_id: "worker:8083".to_owned(),
            clients,
            offsets: offsets.clone(),
            clock: clock.clone(),
            executor: Arc::new(Inline),
            budget: Budget::new(1 << 20),
            random: Arc::new(Random::seeded(1)),
        };
        Self { clock, journal, cluster, offsets, tasks: Tasks::new(parts) }
    }

    /// A running sink task `c-0` that reads topic `t`.
    pub(crate) fn sink(&self, form: RecordForm, config: &[(&str, &str)]) -> (SinkScript, Box<dyn Handle>) {
        let script = SinkScript { journal: self.journal.clone(), shared: Arc::default() };
        let all: Vec<_> = [("topics", "t")].iter().chain(config).copied().collect();
        let handle = self.spawn((Task::Sink(Box::new(script.clone())), form), &all, false);
        (script, handle.unwrap())
    }

    /// A running source task `c-0`.
    pub(crate) fn source(&self, form: RecordForm, config: &[(&str, &str)]) -> (SourceScript, Box<dyn Handle>) {
        let script = SourceScript { journal: self.journal.clone(), shared: Arc::default() };
        let handle = self.spawn((Task::Source(Box::new(script.clone())), form), config, false);
        (script, handle.unwrap())
    }

    pub(crate) fn spawn(
        &self,
        task: (Task, RecordForm),
        config: &[(&str, &str)],
        paused: bool,
    ) -> Result<Box<dyn Handle>> {
        NEXT.with(|next| *next.borrow_mut() = Some(task));
        let common = [("name", "c"), ("connector.class", "Scripted")];
        let config: Config =
            common.iter().chain(config).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let id = TaskId { connector: "c".to_owned(), task: 0 };
        let spec = TaskSpec { id, connector_config: config.clone(), task_config: config, paused };
        self.tasks.spawn(spec, self.journal.listener())
    }

    /// Moves time until the journal has this line.
    pub(crate) async fn until(&self, line: &str) {
        let journal = self.journal.clone();
        self.clock.until(&journal, line, || journal.has(line)).await;
    }

    /// Moves time until the task fails, and gives everything up to that; the failure is the last line.
    pub(crate) async fn until_failed(&self) -> Vec<String> {
        let journal = self.journal.clone();
        self.clock.until(&journal, "FAILED", || journal.has_prefix("FAILED")).await;
        self.journal.take()
    }

    pub(crate) async fn advance_ms(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms)).await;
    }

    /// Stops the task and returns what happened after everything before.
    pub(crate) async fn stop(&self, handle: &mut Box<dyn Handle>) -> Vec<String> {
        self.journal.take();
        handle.stop();
        self.clock.drive(handle.join(Duration::from_secs(60))).await;
        self.journal.take()
    }
}

/// Source offsets in memory; storing them may be made to hang.
#[derive(Default)]
pub(crate) struct Offsets {
    journal: Journal,
    stored: MemoryOffsetLog,
    hangs: AtomicBool,
    freed: Notify,
    refusals: Mutex<VecDeque<ConnectError>>,
}

impl Offsets {
    pub(crate) fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
        self.freed.notify_waiters();
    }

    pub(crate) fn refuse(&self, error: ConnectError) {
        self.refusals.lock().unwrap().push_back(error);
    }
}

#[async_trait]
impl OffsetLog for Offsets {
    async fn get(&self, connector: &str, partition: &SourcePartition) -> Result<Option<SourceOffset>> {
        self.stored.get(connector, partition).await
    }

    async fn all(&self, connector: &str) -> Result<SourceOffsets> {
        self.stored.all(connector).await
    }

    async fn put(&self, connector: &str, offsets: &[(SourcePartition, Option<SourceOffset>)]) -> Result<()> {
        if self.hangs.load(Ordering::SeqCst) {
            self.journal.note("storing hangs");
            self.freed.notified().await;
        }
        if let Some(error) = self.refusals.lock().unwrap().pop_front() {
            return Err(error);
        }
        self.stored.put(connector, offsets).await
    }
}

fn catalog() -> Catalog {
    let plugin = |class, kind, make| Plugin { class, kind, version: None, make };
    Catalog::new(vec![
        plugin("test.Scripted", PluginKind::Sink, Make::Connector(|| Box::new(Scripted))),
        plugin("test.TextConverter", PluginKind::Converter, Make::Converter(|| Box::new(Text))),
        plugin("test.TextHeaderConverter", PluginKind::HeaderConverter, Make::HeaderConverter(|| Box::new(Text))),
    ])
}

/// Hands out what the test put into [`NEXT`].
struct Scripted;

#[async_trait]
impl Connector for Scripted {
    fn connector_type(&self) -> ConnectorType {
        ConnectorType::Sink
    }

    fn record_form(&self) -> RecordForm {
        FORM.with(|form| *form.borrow())
    }

    fn version(&self) -> String {
        "1".to_owned()
    }

    fn config_def(&self) -> ConfigDef {
        ConfigDef::new()
    }

    async fn start(&mut self, _: &Config) -> Result<()> {
        Ok(())
    }

    fn task_configs(&self, _: usize) -> Result<Vec<Config>> {
        Ok(vec![Config::new()])
    }

    fn task_class(&self) -> &'static str {
        "test.ScriptedTask"
    }

    fn routes(&self, _: &Config) -> Result<Option<Arc<dyn Routes>>> {
        Ok(ROUTES.with(|routes| routes.borrow().clone()))
    }

    fn task(&self) -> Task {
        let (task, form) = NEXT.with(|next| next.borrow_mut().take()).expect("a script was set");
        FORM.with(|known| *known.borrow_mut() = form);
        task
    }
}

thread_local! {
    /// The routes of every connector of this test's thread.
    pub(crate) static ROUTES: RefCell<Option<Arc<dyn Routes>>> = const { RefCell::new(None) };
}

thread_local! {
    static FORM: RefCell<RecordForm> = const { RefCell::new(RecordForm::Bytes) };
}

/// A sink that does what it is told; by default it takes everything and calls it durable.
#[derive(Clone)]
pub(crate) struct SinkScript {
    journal: Journal,
    shared: Arc<Mutex<SinkShared>>,
}

#[derive(Default)]
struct SinkShared {
    context: Option<Arc<dyn SinkContext>>,
    start: VecDeque<Answer<()>>,
    open: VecDeque<Answer<Opened>>,
    put: VecDeque<Answer<()>>,
    tick: VecDeque<Answer<()>>,
    flush: VecDeque<Answer<Positions>>,
    close: VecDeque<Answer<Positions>>,
    ticks: usize,
    /// Where it begins, or where the log does, if that is later.
    position: Option<i64>,
}

impl SinkScript {
    /// A script that is told before its task is spawned.
    pub(crate) fn new(journal: Journal) -> Self {
        Self { journal, shared: Arc::default() }
    }

    pub(crate) fn task(&self) -> Task {
        Task::Sink(Box::new(self.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, SinkShared> {
        self.shared.lock().unwrap()
    }

    pub(crate) fn context(&self) -> Arc<dyn SinkContext> {
        self.lock().context.clone().expect("the task was started")
    }

    pub(crate) fn ticks(&self) -> usize {
        self.lock().ticks
    }

    pub(crate) fn on_start(&self, answer: Answer<()>) {
        self.lock().start.push_back(answer);
    }

    pub(crate) fn on_open(&self, answer: Answer<Opened>) {
        self.lock().open.push_back(answer);
    }

    /// Whatever it opens it begins at `position`, or where the broker says that the log begins, if that is later.
    pub(crate) fn begin_at(&self, position: i64) {
        self.lock().position = Some(position);
    }

    pub(crate) fn on_put(&self, answer: Answer<()>) {
        self.lock().put.push_back(answer);
    }

    pub(crate) fn on_tick(&self, answer: Answer<()>) {
        self.lock().tick.push_back(answer);
    }

    pub(crate) fn on_flush(&self, answer: Answer<Positions>) {
        self.lock().flush.push_back(answer);
    }

    pub(crate) fn on_close(&self, answer: Answer<Positions>) {
        self.lock().close.push_back(answer);
    }
}

#[async_trait]
impl SinkTask for SinkScript {
    async fn start(&mut self, context: Arc<dyn SinkContext>, _: &Config) -> Result<()> {
        self.journal.note("start");
        let answer = {
            let mut shared = self.lock();
            shared.context = Some(context);
            shared.start.pop_front()
        };
        answer.unwrap_or(Answer::Give(())).play().await
    }

    async fn open(&mut self, partitions: &[TopicPartition]) -> Result<Opened> {
        self.journal.note(format!("open {}", names(partitions)));
        let (answer, position) = {
            let mut shared = self.lock();
            (shared.open.pop_front(), shared.position)
        };
        let Some(position) = position else {
            return answer.unwrap_or(Answer::Give(Opened::default())).play().await;
        };
        let (context, mut places) = (self.context(), Places::new());
        for partition in partitions {
            let log_start = context.partition(partition).await?.log_start_offset;
            places.insert(partition.clone(), position.max(log_start).into());
        }
        Ok(places.into())
    }

    async fn put(&mut self, batches: &[Batch]) -> Result<()> {
        let answer = if batches.is_empty() {
            let mut shared = self.lock();
            shared.ticks += 1;
            shared.tick.pop_front()
        } else {
            self.journal.note(format!("put {}", shown_batches(batches)));
            for record in batches.iter().flat_map(Batch::records) {
                if let Value::String(text) = &record.value.value {
                    self.journal.note(format!("  record {text}"));
                }
            }
            self.lock().put.pop_front()
        };
        answer.unwrap_or(Answer::Give(())).play().await
    }

    async fn flush(&mut self, consumed: &Positions) -> Result<Positions> {
        self.journal.note(format!("flush {}", shown(consumed)));
        let answer = self.lock().flush.pop_front();
        answer.unwrap_or(Answer::Give(consumed.clone())).play().await
    }

    async fn close(&mut self, partitions: &[TopicPartition], why: Closing) -> Result<Positions> {
        self.journal.note(format!("close {why:?} {}", names(partitions)));
        let answer = self.lock().close.pop_front();
        answer.unwrap_or(Answer::Give(Positions::new())).play().await
    }

    async fn stop(&mut self) {
        self.journal.note("stop");
    }
}

/// A source that does what it is told; it waits where nothing is scripted.
#[derive(Clone)]
pub(crate) struct SourceScript {
    journal: Journal,
    shared: Arc<SourceShared>,
}

#[derive(Default)]
struct SourceShared {
    polls: Mutex<VecDeque<Answer<Vec<SourceBatch>>>>,
    /// Given whenever nothing else is scripted.
    endless: Mutex<Option<SourceBatch>>,
    more: Notify,
    context: Mutex<Option<Arc<dyn SourceContext>>>,
}

impl SourceScript {
    pub(crate) fn context(&self) -> Arc<dyn SourceContext> {
        self.shared.context.lock().unwrap().clone().expect("the task was started")
    }

    pub(crate) fn on_poll(&self, answer: Answer<Vec<SourceBatch>>) {
        self.shared.polls.lock().unwrap().push_back(answer);
        self.shared.more.notify_one();
    }

    pub(crate) fn never_ends(&self, batch: SourceBatch) {
        *self.shared.endless.lock().unwrap() = Some(batch);
        self.shared.more.notify_one();
    }
}

#[async_trait]
impl SourceTask for SourceScript {
    async fn start(&mut self, context: Arc<dyn SourceContext>, _: &Config) -> Result<()> {
        self.journal.note("start");
        *self.shared.context.lock().unwrap() = Some(context);
        Ok(())
    }

    async fn poll(&mut self) -> Result<Vec<SourceBatch>> {
        loop {
            let answer = self.shared.polls.lock().unwrap().pop_front();
            let endless = self.shared.endless.lock().unwrap().clone();
            match (answer, endless) {
                (Some(answer), _) => return answer.play().await,
                (None, Some(batch)) => return Ok(vec![batch]),
                (None, None) => self.shared.more.notified().await,
            }
        }
    }

    async fn committed(&mut self, upto: &[(SourcePartition, SourceOffset)]) -> Result<()> {
        let shown: Vec<_> = upto
            .iter()
            .map(|(partition, offset)| format!("{}={}", partition.as_str(), serde_json::json!(offset.as_map())))
            .collect();
        self.journal.note(format!("committed {}", shown.join(" ")));
        Ok(())
    }

    async fn stop(&mut self) {
        self.journal.note("stop");
    }
}
