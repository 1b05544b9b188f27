//! The herder as its callers see it, with scripted connectors and tasks and a clock that the tests move.

use std::cell::RefCell;
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::config_def::{ConfigKey, ConfigType};
use lakeferry_api::connector::{AlteredOffsets, RecordForm, SinkAlteration, Task};
use lakeferry_api::{ConfigDef, Positions, SinkContext, TopicPartition, executor};
use serde_json::json;

use super::*;
use crate::backing::memory::MemoryOffsetLog;
use crate::config::catalog::{Make, Plugin};
use crate::config::worker::tests::worker;
use crate::task::testing::{Cluster, Journal, ManualClock};
use crate::task::{self, State, StatusListener, TaskSpec};

mod offsets;

thread_local! {
    /// What connectors and tasks of this test's thread did.
    static DONE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn note(line: impl Into<String>) {
    DONE.with_borrow_mut(|done| done.push(line.into()));
}

fn done() -> Vec<String> {
    DONE.take()
}

/// A connector whose config says how it behaves.
struct Scripted {
    kind: ConnectorType,
    config: Config,
}

impl Scripted {
    fn source() -> Box<dyn Connector> {
        Box::new(Self { kind: ConnectorType::Source, config: Config::new() })
    }

    fn sink() -> Box<dyn Connector> {
        Box::new(Self { kind: ConnectorType::Sink, config: Config::new() })
    }
}

#[async_trait]
impl Connector for Scripted {
    fn connector_type(&self) -> ConnectorType {
        self.kind
    }

    fn record_form(&self) -> RecordForm {
        RecordForm::Typed
    }

    fn version(&self) -> String {
        "1".to_owned()
    }

    fn config_def(&self) -> ConfigDef {
        let number = ConfigKey::new("count", ConfigType::Int).default("1");
        ConfigDef::new().define(number).define(ConfigKey::new("mode", ConfigType::String).default("well"))
    }

    async fn start(&mut self, config: &Config) -> Result<()> {
        self.config = config.clone();
        note(format!("start {}", config["name"]));
        match config.get("mode").map(String::as_str) {
            Some("start fails") => Err(ConnectError::config("it will not start").caused_by("the reason".to_owned())),
            Some("start panics") => panic!("no start, but a panic"),
            Some("start hangs") => std::future::pending().await,
            _ => Ok(()),
        }
    }

    fn task_configs(&self, tasks_max: usize) -> Result<Vec<Config>> {
        match self.config.get("mode").map(String::as_str) {
            Some("tasks fail") => Err(ConnectError::config("there are no tasks")),
            Some("too many") => Ok(vec![self.config.clone(); tasks_max + 1]),
            _ => Ok(vec![self.config.clone(); tasks_max]),
        }
    }

    fn task_class(&self) -> &'static str {
        "ScriptedTask"
    }

    fn task(&self) -> Task {
        unreachable!("tasks are made by the factory of these tests")
    }

    async fn stop(&mut self) {
        note(format!("stop {}", self.config["name"]));
        if self.config.get("mode").is_some_and(|mode| mode == "stop hangs") {
            std::future::pending::<()>().await;
        }
    }

    async fn alter_source_offsets(&self, config: &Config, offsets: &AlteredOffsets) -> Result<bool> {
        note(format!("alter {}", offsets.len()));
        match config.get("mode").map(String::as_str) {
            Some("refuses offsets") => Err(ConnectError::config("not these")),
            mode => Ok(mode == Some("knows its offsets")),
        }
    }

    async fn alter_sink_offsets(
        &self,
        context: Arc<dyn SinkContext>,
        _config: &Config,
        alteration: &SinkAlteration,
    ) -> Result<bool> {
        note(match alteration {
            SinkAlteration::Some(offsets) => format!("alter {} of {}", offsets.len(), context.group()),
            SinkAlteration::ResetAll => format!("reset {} to {:?}", context.group(), context.offset_reset()),
        });
        Ok(true)
    }
}

/// Tasks that only say what they are told.
struct Factory;

impl TaskFactory for Factory {
    fn spawn(&self, spec: TaskSpec, listener: Arc<dyn StatusListener>) -> Result<Box<dyn task::Handle>> {
        note(format!("spawn {}{}", spec.id, if spec.paused { " paused" } else { "" }));
        if spec.task_config.get("mode").is_some_and(|mode| mode == "no task") {
            return Err(ConnectError::config("no task can be made of this"));
        }
        let state = if spec.paused { State::Paused } else { State::Running };
        listener.task_changed(&spec.id, state, None);
        if spec.task_config.get("mode").is_some_and(|mode| mode == "task fails") {
            listener.task_changed(&spec.id, State::Failed, Some("as told".to_owned()));
        }
        Ok(Box::new(Running { id: spec.id, listener }))
    }
}

struct Running {
    id: TaskId,
    listener: Arc<dyn StatusListener>,
}

#[async_trait]
impl task::Handle for Running {
    fn pause(&self) {
        self.listener.task_changed(&self.id, State::Paused, None);
    }

    fn resume(&self) {
        self.listener.task_changed(&self.id, State::Running, None);
    }

    fn stop(&self) {
        note(format!("end {}", self.id));
        // The last word of a task comes late.
        self.listener.task_changed(&self.id, State::Failed, Some("late".to_owned()));
    }

    async fn join(&mut self, _deadline: Duration) {}
}

struct Herder {
    handle: Handle,
    clock: Arc<ManualClock>,
    cluster: Arc<Cluster>,
    stop: CancellationToken,
    herding: Spawned<()>,
}

impl Herder {
    fn start() -> Self {
        done();
        let plugin = |class, kind, make| Plugin { class, kind, version: Some("1".to_owned()), make };
        let plugins = vec![
            plugin("test.ScriptedConnector", PluginKind::Source, Make::Connector(Scripted::source)),
            plugin("test.ScriptedSinkConnector", PluginKind::Sink, Make::Connector(Scripted::sink)),
        ];
        let cluster = Arc::new(Cluster::new(Journal::default()));
        let clock = ManualClock::new();
        let settings = [
            ("config.providers", "env"),
            ("config.providers.env.class", "EnvVarConfigProvider"),
            ("consumer.auto.offset.reset", "LATEST"),
        ];
        let parts = Parts {
            catalog: Arc::new(Catalog::new(plugins)),
            worker: Arc::new(worker(&settings)),
            worker_id: "w:1".to_owned(),
            factory: Arc::new(Factory),
            statuses: Arc::new(Statuses::new("w:1".to_owned(), true)),
            clients: Arc::<Cluster>::clone(&cluster),
            offsets: Arc::new(MemoryOffsetLog::default()),
            clock: Arc::<ManualClock>::clone(&clock),
            executor: Arc::new(executor::Inline),
            budget: Budget::new(1 << 20),
            random: Arc::new(Random::seeded(7)),
        };
        let stop = CancellationToken::new();
        let (handle, herding) = start(parts, stop.clone());
        Self { handle, clock, cluster, stop, herding }
    }

    async fn create(&self, name: &str, mode: &str) -> Result<Created> {
        self.handle.create(name, config(name, mode), TargetState::Started).await
    }

    /// Asks on the side for what does not come at once.
    fn aside<T, F>(&self, ask: impl FnOnce(Handle) -> F) -> Spawned<Result<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        spawn("aside", ask(self.handle.clone()))
    }

    /// State of the connector, then of its tasks.
    fn states(&self, name: &str) -> Vec<State> {
        let Some(status) = self.handle.statuses().connector(name) else { return Vec::new() };
        std::iter::once(status.connector).chain(status.tasks.into_values()).map(|status| status.state).collect()
    }

    fn trace(&self, name: &str) -> String {
        self.handle.statuses().connector(name).and_then(|status| status.connector.trace).unwrap_or_default()
    }
}

fn config(name: &str, mode: &str) -> Config {
    let pairs = [("name", name), ("connector.class", "Scripted"), ("mode", mode), ("tasks.max", "2")];
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

const ALL_RUN: [State; 3] = [State::Running; 3];

#[tokio::test]
async fn a_connector_starts_with_its_tasks_and_goes_without_a_trace() {
    let herder = Herder::start();
    let created = herder.create("c", "well").await.unwrap();
    assert!(created.created);
    assert_eq!(created.info.tasks.len(), 2);
    assert_eq!(created.info.kind, Some(ConnectorType::Source));
    assert_eq!(done(), ["start c", "spawn c-0", "spawn c-1"]);
    assert_eq!(herder.states("c"), ALL_RUN);
    let tasks = herder.handle.tasks("c").await.unwrap();
    assert_eq!(tasks[1].1["task.class"], "ScriptedTask");

    let again = herder.create("c", "well").await.unwrap_err();
    assert_eq!((again.kind(), again.message()), (Kind::Conflict, "Connector c already exists"));
    herder.handle.delete("c").await.unwrap();
    assert_eq!(done(), ["end c-0", "end c-1", "stop c"]);
    assert_eq!(herder.states("c"), []);
    assert_eq!(herder.handle.delete("c").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(herder.handle.statuses().task(&TaskId { connector: "c".to_owned(), task: 0 }), None);
}

#[tokio::test]
async fn a_bad_config_is_refused_before_anything_starts() {
    let herder = Herder::start();
    let mut bad = config("c", "well");
    bad.insert("count".to_owned(), "many".to_owned());
    let error = herder.handle.create("c", bad.clone(), TargetState::Started).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.message().contains("Invalid value many for configuration count"), "{error}");
    herder.create("c", "well").await.unwrap();
    done();
    assert!(herder.handle.put_config("c", bad).await.is_err());
    let patch = BTreeMap::from([("count".to_owned(), Some("more".to_owned()))]);
    assert!(herder.handle.patch_config("c", &patch).await.is_err());
    assert_eq!(done(), [""; 0]);
    assert_eq!(herder.handle.connector("c").await.unwrap().config, config("c", "well"));
}

#[tokio::test]
async fn what_fails_at_its_start_stays_failed_until_told_otherwise() {
    let cases = [
        ("start fails", "it will not start"),
        ("start panics", "no start, but a panic"),
        ("tasks fail", "there are no tasks"),
        ("too many", "has generated 3 tasks, which is greater than 2"),
    ];
    for (mode, why) in cases {
        let herder = Herder::start();
        let error = herder.create("c", mode).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Fatal);
        assert!(error.message().starts_with("Failed to transition connector c to state STARTED"), "{error}");
        assert!(error.message().contains(why), "{error}");
        assert_eq!(herder.states("c"), [State::Failed]);
        assert!(herder.trace("c").contains(why), "{}", herder.trace("c"));

        herder.handle.set_target("c", TargetState::Paused).await.unwrap();
        herder.handle.set_target("c", TargetState::Started).await.unwrap();
        herder.handle.ping().await.unwrap();
        assert_eq!(herder.states("c"), [State::Failed], "{mode}: resuming does not revive it");
        assert!(herder.handle.restart_connector("c").await.is_err());
        herder.handle.set_target("c", TargetState::Stopped).await.unwrap();
        assert_eq!((herder.states("c"), herder.trace("c")), (vec![State::Stopped], String::new()));
        herder.handle.put_config("c", config("c", "well")).await.unwrap();
        herder.handle.set_target("c", TargetState::Started).await.unwrap();
        herder.handle.put_config("c", config("c", "well")).await.unwrap();
        assert_eq!(herder.states("c"), ALL_RUN, "{mode}");
    }
}

#[tokio::test]
async fn more_tasks_than_allowed_run_where_that_is_allowed() {
    let herder = Herder::start();
    let mut config = config("c", "too many");
    config.insert("tasks.max.enforce".to_owned(), "false".to_owned());
    let created = herder.handle.create("c", config, TargetState::Started).await.unwrap();
    assert_eq!(created.info.tasks.len(), 3);
}

#[tokio::test]
async fn a_start_that_hangs_hangs_alone_and_is_given_up_when_nobody_wants_it() {
    let herder = Herder::start();
    let mut hanging =
        herder.aside(async |handle| handle.create("h", config("h", "start hangs"), TargetState::Started).await);
    while herder.handle.connector("h").await.is_err() {
        tokio::task::yield_now().await;
    }
    herder.create("c", "well").await.unwrap();
    assert_eq!(herder.states("c"), ALL_RUN);

    // Another config ends it after a while; whoever asked for the first one hears of what runs now.
    let mut replacing = herder.aside(async |handle| handle.put_config("h", config("h", "well")).await);
    while herder.handle.connector("h").await.unwrap().config["mode"] == "start hangs" {
        tokio::task::yield_now().await;
    }
    herder.clock.advance(Duration::from_secs(4)).await;
    assert!(!replacing.is_finished());
    herder.clock.advance(Duration::from_secs(2)).await;
    assert!(!replacing.join().await.unwrap().unwrap().created);
    assert!(hanging.join().await.unwrap().unwrap().created);
    assert_eq!(herder.states("h"), ALL_RUN);
}

#[tokio::test]
async fn a_connector_that_hangs_can_be_deleted() {
    let herder = Herder::start();
    let mut hanging =
        herder.aside(async |handle| handle.create("h", config("h", "start hangs"), TargetState::Started).await);
    while herder.handle.connector("h").await.is_err() {
        tokio::task::yield_now().await;
    }
    let mut deleting = herder.aside(async |handle| handle.delete("h").await);
    herder.clock.drive(async { deleting.join().await.unwrap().unwrap() }).await;
    assert_eq!(hanging.join().await.unwrap().unwrap_err().kind(), Kind::NotFound);
    assert_eq!(herder.states("h"), []);

    herder.create("s", "stop hangs").await.unwrap();
    let mut stopping = herder.aside(async |handle| handle.set_target("s", TargetState::Stopped).await);
    herder.clock.drive(async { stopping.join().await.unwrap().unwrap() }).await;
    assert_eq!(herder.states("s"), [State::Stopped]);
}

#[tokio::test]
async fn a_new_config_makes_connector_and_tasks_anew_unless_it_is_paused() {
    let herder = Herder::start();
    herder.create("c", "well").await.unwrap();
    done();
    let mut one_task = config("c", "well");
    one_task.insert("tasks.max".to_owned(), "1".to_owned());
    let put = herder.handle.put_config("c", one_task.clone()).await.unwrap();
    assert_eq!((put.created, put.info.tasks.len()), (false, 1));
    assert_eq!(done(), ["stop c", "start c", "end c-0", "end c-1", "spawn c-0"]);
    assert_eq!(herder.states("c"), [State::Running; 2]);

    herder.handle.set_target("c", TargetState::Paused).await.unwrap();
    let put = herder.handle.put_config("c", config("c", "well")).await.unwrap();
    assert_eq!(put.info.tasks.len(), 1);
    assert_eq!(done(), ["stop c"]);
    assert_eq!(herder.states("c"), [State::Paused; 2]);
    herder.handle.set_target("c", TargetState::Started).await.unwrap();
    herder.handle.restart_connector("c").await.unwrap();
    assert_eq!(herder.states("c"), ALL_RUN);
}

#[tokio::test]
async fn single_keys_change_one_after_another_and_none_is_lost() {
    let herder = Herder::start();
    herder.create("c", "well").await.unwrap();
    let patch = |key: &'static str| {
        herder.aside(async move |handle| {
            handle.patch_config("c", &BTreeMap::from([(key.to_owned(), Some("1".to_owned()))])).await
        })
    };
    for mut patched in ["x", "y", "z"].map(patch) {
        patched.join().await.unwrap().unwrap();
    }
    let config = herder.handle.connector("c").await.unwrap().config;
    assert!(["x", "y", "z"].iter().all(|key| config[*key] == "1"), "{config:?}");
    let removed = BTreeMap::from([("x".to_owned(), None), ("y".to_owned(), Some("2".to_owned()))]);
    let patched = herder.handle.patch_config("c", &removed).await.unwrap().info.config;
    assert_eq!((patched.get("x"), patched["y"].as_str()), (None, "2"));
    let unknown = herder.handle.patch_config("nobody", &removed).await.unwrap_err();
    assert_eq!(unknown.message(), "Connector nobody not found");
}

#[tokio::test]
async fn a_restart_concerns_what_failed_where_that_is_asked() {
    let herder = Herder::start();
    herder.create("c", "task fails").await.unwrap();
    assert_eq!(herder.states("c"), [State::Running, State::Failed, State::Failed]);
    done();
    herder.handle.restart_task(TaskId { connector: "c".to_owned(), task: 1 }).await.unwrap();
    assert_eq!(done(), ["end c-1", "spawn c-1"]);
    let failed_only = RestartRequest { include_tasks: true, only_failed: true };
    let answer = herder.handle.restart("c", failed_only).await.unwrap();
    assert_eq!(answer.connector.state, State::Running);
    assert!(answer.tasks.values().all(|task| task.state == State::Restarting && task.trace.is_some()));
    herder.handle.restart_connector("c").await.unwrap();
    assert_eq!(done(), ["end c-0", "end c-1", "spawn c-0", "spawn c-1", "stop c", "start c"]);
    let unknown = herder.handle.restart("nobody", failed_only).await.unwrap_err();
    assert_eq!(unknown.message(), "Unknown connector: nobody");
    let unknown = herder.handle.restart_task(TaskId { connector: "c".to_owned(), task: 2 }).await.unwrap_err();
    assert_eq!(unknown.message(), "Task c-2 not found");
}

#[tokio::test]
async fn a_task_that_cannot_be_made_fails_and_is_made_again_on_request() {
    let herder = Herder::start();
    herder.create("c", "no task").await.unwrap();
    assert_eq!(herder.states("c"), [State::Running, State::Failed, State::Failed]);
    let task = TaskId { connector: "c".to_owned(), task: 0 };
    assert!(herder.handle.statuses().task(&task).unwrap().trace.unwrap().contains("no task can be made of this"));
    done();
    herder.handle.restart_task(task).await.unwrap();
    assert_eq!(done(), ["spawn c-0"]);
}

#[tokio::test]
async fn references_are_resolved_for_those_who_run_and_for_nobody_else() {
    let herder = Herder::start();
    let mut config = config("c", "well");
    config.insert("secret".to_owned(), "${env:CARGO_PKG_NAME}".to_owned());
    herder.handle.create("c", config, TargetState::Started).await.unwrap();
    let shown = herder.handle.connector("c").await.unwrap().config;
    assert_eq!(shown["secret"], "${env:CARGO_PKG_NAME}");
    let tasks = herder.handle.tasks("c").await.unwrap();
    assert_eq!(tasks[0].1["secret"], "${env:CARGO_PKG_NAME}");
}

#[tokio::test]
async fn the_end_stops_all_and_answers_nobody() {
    let mut herder = Herder::start();
    herder.create("c", "well").await.unwrap();
    herder.create("s", "stop hangs").await.unwrap();
    let mut hanging =
        herder.aside(async |handle| handle.create("h", config("h", "start hangs"), TargetState::Started).await);
    while herder.handle.connector("h").await.is_err() {
        tokio::task::yield_now().await;
    }
    done();
    herder.stop.cancel();
    let clock = Arc::clone(&herder.clock);
    clock.drive(async { herder.herding.join().await.unwrap() }).await;
    assert!(clock.monotonic() <= Duration::from_secs(5), "{:?}", clock.monotonic());
    let mut seen = done();
    seen.sort();
    assert_eq!(seen, ["end c-0", "end c-1", "end s-0", "end s-1", "stop c", "stop s"]);
    assert!(hanging.join().await.unwrap().unwrap_err().message().contains("shutting down"));
    assert!(herder.handle.ping().await.unwrap_err().message().contains("shutting down"));
}
