//! What a simulated worker is made of besides its clients: settings, an encode pool that takes its time, and an ear for
//! the states of its task.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use lakeferry::config::WorkerConfig;
use lakeferry::task::{Handle, State, StatusListener, TaskId};
use lakeferry_api::{Config, Executor};

use super::gap;
use super::pause::Pauses;
use super::takeover::{self, Archivist};
use crate::awaits::{Stage, Stretch, waits_here};
use crate::broker::Broker;
use crate::chance::Diary;
use crate::clock::SimClock;
use crate::plan::Settings;
use crate::process::Process;
use crate::rare::Reset;
use crate::store::spawn;

const JOIN: Duration = Duration::from_secs(30);

/// Where open files may wait on disk: the folder, and how many bytes.
pub(crate) type Disk = Option<(PathBuf, u64)>;

pub(crate) fn worker_config(disk: Disk) -> WorkerConfig {
    let (dir, bytes) = disk.unwrap_or_default();
    let (dir, bytes) = (dir.display().to_string(), bytes.max(1).to_string());
    let settings = [
        ("bootstrap.servers", "sim:9092"),
        ("key.converter", "org.apache.kafka.connect.converters.ByteArrayConverter"),
        ("value.converter", "org.apache.kafka.connect.converters.ByteArrayConverter"),
        ("offset.storage.file.filename", "unused"),
        ("offset.flush.interval.ms", "3000"),
        ("task.shutdown.graceful.timeout.ms", "20000"),
        ("lakeferry.spill.dir", dir.as_str()),
        ("lakeferry.spill.bytes", bytes.as_str()),
    ];
    WorkerConfig::standalone(&config(&settings)).unwrap()
}

pub(super) fn connector_config(settings: &Settings, archivist: &Archivist, url: &str, fails_on_gap: bool) -> Config {
    let mut connector = config(&[
        ("name", archivist.connector),
        ("connector.class", "io.lakeferry.LakeSinkConnector"),
        ("topics.regex", "t.*"),
        ("store.url", url),
        ("lakeferry.part.bytes", "5242880"),
    ]);
    let codec = ["snappy", "zstd", "none", "none"][(settings.flush_size % 4) as usize];
    connector.insert("codec".to_owned(), codec.to_owned());
    let format = if settings.avro { "archive.avro" } else { "archive.parquet" };
    connector.insert("format".to_owned(), format.to_owned());
    connector.insert("flush.size".to_owned(), settings.flush_size.to_string());
    connector.insert("rotate.age.ms".to_owned(), settings.age_ms.to_string());
    if !archivist.takes.is_empty() {
        connector.insert("archive.takeover".to_owned(), archivist.takes.join(","));
    }
    if fails_on_gap {
        connector.insert("errors.on.gap".to_owned(), "fail".to_owned());
    }
    if settings.rare.reset != Reset::Earliest {
        let reset = settings.rare.reset.name().to_owned();
        connector.insert("consumer.override.auto.offset.reset".to_owned(), reset);
    }
    connector
}

pub(crate) fn config(pairs: &[(&str, &str)]) -> Config {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
}

/// An encode pool whose jobs take a while.
pub(crate) struct SlowExecutor {
    pub(crate) clock: Arc<SimClock>,
    pub(crate) process: Arc<Process>,
    pub(crate) ms: u64,
}

impl Executor for SlowExecutor {
    fn execute(&self, job: Box<dyn FnOnce() + Send>) {
        if self.ms == 0 {
            return job();
        }
        let pause = self.clock.wait(self.ms);
        let asked = self.process.asks("encodes".to_owned());
        asked.reporter()(Stage::Sent);
        // Whoever starts a job waits for it.
        waits_here();
        spawn(async move {
            pause.await;
            drop(asked);
            job();
        });
    }
}

/// Waits until work has stopped that was asked to; false where it had to be aborted (A10), after three quarters of the
/// time that it has.
pub(crate) async fn join(handle: &mut dyn Handle, clock: &SimClock) -> bool {
    let begun_ms = clock.ms();
    handle.join(JOIN).await;
    clock.ms() - begun_ms < JOIN.as_millis() as u64 * 3 / 4
}

/// Hears what becomes of a worker's task in one of its lives.
pub(super) struct Listener {
    pub(super) broker: Arc<Broker>,
    pub(super) diary: Diary,
    pub(super) worker: String,
    /// The task has failed, and was right to.
    pub(super) gave_up: Arc<AtomicBool>,
    /// For which connector it runs.
    pub(super) archivist: Archivist,
    /// The task has failed because this owner archives here, and was right to.
    pub(super) refused: Arc<Mutex<Option<String>>>,
    pub(super) paused: Pauses,
    pub(super) process: Weak<Process>,
}

impl StatusListener for Listener {
    fn task_changed(&self, id: &TaskId, state: State, trace: Option<String>) {
        let trace = trace.unwrap_or_default();
        self.diary.note(format!("{} {id} is {} {trace}", self.worker, state.name()));
        self.paused.hear(&self.broker, &self.worker, state);
        if let Some(process) = self.process.upgrade().filter(|_| state == State::Paused) {
            process.reach(Stretch::Paused);
        }
        if state != State::Failed {
            return;
        }
        match (gap::told(&trace), takeover::told(&trace)) {
            (Some(gap), _) if gap.is_true(&self.broker) => self.gave_up.store(true, Ordering::Relaxed),
            (_, Some(told)) if told.is_true(&self.broker.store, &self.archivist) => {
                *self.refused.lock().unwrap() = Some(told.owner);
            }
            _ => self.diary.accuse(format!("{} {id} FAILED: {trace}", self.worker)),
        }
    }

    fn topic_used(&self, _: &TaskId, _: &str) {}
}
