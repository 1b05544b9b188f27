//! What a restoring process runs: the tasks of a connector as a herder begins them, or the command as a user gives it.
//! Work that ends because its transactional id was taken from it, or a command that gives up while services are away,
//! is begun again a little later; any other failure breaks a law, and so does giving up when nothing is away any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser as _;
use lakeferry::cli::{Cli, Context, Exit, Surroundings};
use lakeferry::logging::Loggers;
use lakeferry::plugins;
use lakeferry::spawn::{Spawned, spawn};
use lakeferry::task::{Handle, State, StatusListener, TaskFactory as _, TaskId, TaskSpec, Tasks};
use lakeferry_api::{Clock, Config, ConnectError, Kind};
use tokio_util::sync::CancellationToken;

use super::{Job, Restore};
use crate::broker::Broker;
use crate::chance::Diary;
use crate::clock::SimClock;
use crate::world::parts::config;

const CLASS: &str = "io.lakeferry.LakeSourceConnector";
/// Within this time every request that was under way is answered, and whoever asked for many things at once has heard
/// of all of them, the first error included.
const ANSWERED_MS: u64 = 20_000;
/// After which a user has seen that something failed.
const NOTICED_MS: u64 = 2_000;

/// See the module's documentation.
#[derive(Clone)]
pub(super) enum Work {
    Task(Box<TaskSpec>),
    Command { id: String, arguments: Vec<String> },
}

impl Work {
    /// All work of a job that reads the archive at `url`.
    pub(super) fn of(restore: &Restore<'_>, job: &Job, url: &str) -> Vec<Self> {
        if restore.conditions.by_command {
            return vec![Self::Command { id: job.connector.to_owned(), arguments: arguments(restore, job, url) }];
        }
        let config = connector_config(restore, job, url);
        let mut connector = plugins::catalog().connector(CLASS).unwrap();
        futures::executor::block_on(connector.start(&config)).unwrap();
        let task = |(task, task_config)| {
            let id = TaskId { connector: job.connector.to_owned(), task };
            Self::Task(Box::new(TaskSpec { id, connector_config: config.clone(), task_config, paused: false }))
        };
        (0..).zip(connector.task_configs(restore.conditions.tasks).unwrap()).map(task).collect()
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Task(spec) => spec.id.to_string(),
            Self::Command { id, .. } => id.clone(),
        }
    }

    /// Begins it in the process that is entered.
    pub(super) fn begin(&self, tasks: &Tasks, around: Surroundings, listener: &Arc<Listener>) -> Box<dyn Handle> {
        match self {
            Self::Task(spec) => tasks.spawn((**spec).clone(), Arc::clone(listener) as Arc<dyn StatusListener>).unwrap(),
            Self::Command { id, arguments } => {
                let (clock, context) = (Arc::clone(&around.clock), Context::new(Loggers::detached()));
                let (stop, cli) = (context.stop.clone(), Cli::try_parse_from(arguments).unwrap());
                let (id, listener) = (id.clone(), Arc::clone(listener));
                let running = spawn(format!("restore {id}"), async move {
                    let outcome = cli.restore_in(around, context).await;
                    listener.command_ended(&id, outcome);
                });
                Box::new(Running { stop, clock, running })
            }
        }
    }
}

/// A command under way.
struct Running {
    stop: CancellationToken,
    clock: Arc<dyn Clock>,
    running: Spawned<()>,
}

#[async_trait]
impl Handle for Running {
    fn pause(&self) {}

    fn resume(&self) {}

    fn stop(&self) {
        self.stop.cancel();
    }

    async fn join(&mut self, deadline: Duration) {
        self.running.join_within(deadline, self.clock.as_ref(), || {}).await;
    }
}

/// Since when nothing goes wrong any more.
#[derive(Default)]
pub(super) struct Peace(OnceLock<u64>);

impl Peace {
    pub(super) fn begin(&self, clock: &SimClock) {
        self.0.get_or_init(|| clock.ms());
    }

    /// It lasts long enough for every answer to be from after the faults.
    pub(super) fn lasts(&self, clock: &SimClock) -> bool {
        self.0.get().is_some_and(|since| clock.ms() >= since + ANSWERED_MS)
    }
}

/// Hears what becomes of the work of a process.
pub(super) struct Listener {
    pub(super) process: String,
    pub(super) diary: Diary,
    pub(super) target: Arc<Broker>,
    pub(super) peace: Arc<Peace>,
    /// Its work was asked to stop, which a command takes for a signal.
    pub(super) stopping: AtomicBool,
    /// What is to be begun again, by name, and when.
    pub(super) again: Mutex<Vec<(String, u64)>>,
}

impl Listener {
    fn is_taken(&self, transactional_id: &str) -> bool {
        self.target.lock().coordinator.is_taken_from(&self.process, transactional_id)
    }

    fn begin_again(&self, name: String) {
        let at = self.target.clock.ms() + NOTICED_MS;
        self.again.lock().unwrap().push((name, at));
    }

    fn command_ended(&self, id: &str, outcome: anyhow::Result<Exit>) {
        let error = match outcome {
            Ok(exit) => {
                self.diary.note(format!("{} {id} ends: {exit:?}", self.process));
                if exit != Exit::Done {
                    self.diary.accuse(format!("{} {id} ends with {exit:?}", self.process));
                }
                return;
            }
            Err(error) => error,
        };
        self.diary.note(format!("{} {id} ends: {error:#}", self.process));
        let passes = |error: &ConnectError| error.kind() == Kind::Retriable;
        let passes = error.chain().filter_map(|cause| cause.downcast_ref::<ConnectError>()).any(passes);
        let stopping = self.stopping.load(Ordering::Relaxed);
        let excused = passes && (stopping || !self.peace.lasts(&self.target.clock));
        if excused || self.is_taken(&format!("lakeferry-restore-{id}")) {
            self.begin_again(id.to_owned());
        } else {
            self.diary.accuse(format!("{} {id} gives up: {error:#}", self.process));
        }
    }
}

impl StatusListener for Listener {
    fn task_changed(&self, id: &TaskId, state: State, trace: Option<String>) {
        let trace = trace.unwrap_or_default();
        self.diary.note(format!("{} {id} is {} {trace}", self.process, state.name()));
        if state != State::Failed {
            return;
        }
        if self.is_taken(&format!("lakeferry-source-{id}")) {
            self.begin_again(id.to_string());
        } else {
            self.diary.accuse(format!("{} {id} FAILED: {trace}", self.process));
        }
    }

    fn topic_used(&self, _: &TaskId, _: &str) {}
}

fn connector_config(restore: &Restore<'_>, job: &Job, url: &str) -> Config {
    let conditions = &restore.conditions;
    let (tasks, transaction_ms) = (conditions.tasks.to_string(), conditions.transaction_ms.to_string());
    let mut connector = config(&[
        ("name", job.connector),
        ("connector.class", CLASS),
        ("tasks.max", &tasks),
        ("store.url", url),
        ("replay.order", if conditions.by_time { "time" } else { "partition" }),
        ("replay.untimed", "now"),
        ("transaction.boundary", "interval"),
        ("transaction.boundary.interval.ms", &transaction_ms),
    ]);
    connector.extend(restore.rate.map(|rate| ("replay.rate.bytes".to_owned(), rate.to_string())));
    match &job.older {
        None => drop(connector.insert("topics.regex".to_owned(), "t.*".to_owned())),
        Some(older) => connector.extend(config(&[
            ("topics", &older.topic),
            ("lineage", &older.id),
            ("topic.rename", &format!("{}:{}", older.topic, older.target())),
        ])),
    }
    connector
}

fn arguments(restore: &Restore<'_>, job: &Job, url: &str) -> Vec<String> {
    let conditions = &restore.conditions;
    let order = if conditions.by_time { "time" } else { "partition" };
    let transaction_ms = conditions.transaction_ms.to_string();
    let fixed = ["lakeferry", "restore", url, "--bootstrap-server", "sim:9092", "--yes", "--id", job.connector];
    let timing = ["--untimed", "now", "--order", order, "--transaction-ms", &transaction_ms];
    let mut arguments: Vec<String> = fixed.iter().chain(&timing).map(|text| (*text).to_owned()).collect();
    if let Some(rate) = restore.rate {
        arguments.extend(["--rate".to_owned(), rate.to_string()]);
    }
    if let Some(older) = &job.older {
        let rename = format!("{}={}", older.topic, older.target());
        let more = ["--topic", &older.topic, "--lineage", &older.id, "--rename", &rename];
        arguments.extend(more.map(str::to_owned));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Dice;
    use crate::store::SimStore;

    fn listener() -> Listener {
        let (clock, dice) = (Arc::new(SimClock::default()), Arc::new(Dice::new(0)));
        let diary = Diary::new(Arc::clone(&clock));
        let store = SimStore::new(Arc::clone(&clock), Arc::clone(&dice), diary.clone());
        let target = Broker::new(clock, dice, store, false);
        Listener {
            process: "r1".to_owned(),
            diary,
            target,
            peace: Arc::default(),
            stopping: AtomicBool::new(false),
            again: Mutex::default(),
        }
    }

    fn gives_up(listener: &Listener) -> Option<String> {
        listener.command_ended("back", Err(ConnectError::retriable("the broker does not answer").into()));
        listener.diary.broken()
    }

    #[test]
    fn a_command_that_gives_up_is_excused_by_faults_alone() {
        let listener = listener();
        assert_eq!(gives_up(&listener), None);
        assert_eq!(listener.again.lock().unwrap().len(), 1);
        let clock = &listener.target.clock;
        listener.peace.begin(clock);
        assert_eq!(gives_up(&listener), None, "what it hears of may be from before");
        let idle = Arc::clone(clock);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.on_thread_park(move || idle.step()).build().unwrap();
        runtime.block_on(clock.wait(ANSWERED_MS));
        assert!(gives_up(&listener).is_some_and(|law| law.contains("gives up")));
    }
}
