//! The worker archives a topic that is full already, as fast as it can.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::data::Topic;
use crate::durable::Chains;
use crate::journey::{Worker, s3_settings};
use crate::kit::{self, Kafka, S3};
use crate::lines::{self, Line};
use crate::measure::{self, Watch};

/// Where files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    S3,
    File,
}

/// Files end when they hold that much, near enough: what a lake likes.
const FILE_BYTES: u64 = 256_000_000;
const LOOK: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(900);

/// A lake with nothing in it.
pub(crate) struct Lake {
    /// Where its objects are, as files.
    pub(crate) dir: PathBuf,
    /// The folder that its URL names.
    pub(crate) root: PathBuf,
    settings: Vec<(String, String)>,
}

impl Lake {
    pub(crate) fn new(store: Store, s3: &S3, name: &str) -> Result<Lake> {
        if store == Store::S3 {
            return Lake::behind(s3, name, &s3.endpoint());
        }
        let dir = kit::instance_dir("lake")?;
        let settings = vec![("store.url".to_owned(), format!("file://{}", dir.display()))];
        Ok(Lake { root: dir.clone(), dir, settings })
    }

    /// One on S3 that is reached through `endpoint`.
    pub(crate) fn behind(s3: &S3, name: &str, endpoint: &str) -> Result<Lake> {
        let (dir, mut settings) = (s3.create_bucket(name)?, s3_settings(s3, name));
        for (_, value) in settings.iter_mut().filter(|(key, _)| key == "store.aws_endpoint") {
            endpoint.clone_into(value);
        }
        Ok(Lake { root: dir.join("lake"), dir, settings })
    }

    /// Where it is, as the store's URL.
    pub(crate) fn url(&self) -> String {
        let url = self.settings.iter().find(|(key, _)| key == "store.url");
        url.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// The store's options, as a properties file.
    pub(crate) fn properties(&self) -> String {
        self.settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    /// A sink into it.
    pub(crate) fn sink(&self, name: &str, topics: &str, settings: &[(&str, &str)]) -> Value {
        let mut config = json!({ "connector.class": "LakeSink", "tasks.max": "1", "topics": topics });
        let own = self.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        for (key, value) in own.chain(settings.iter().copied()) {
            config[key] = json!(value);
        }
        json!({ "name": name, "config": config })
    }

    pub(crate) fn remove(self) -> Result<()> {
        Ok(std::fs::remove_dir_all(self.dir)?)
    }
}

impl Store {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Store::S3 => "s3",
            Store::File => "file",
        }
    }
}

/// One run, and what it left.
pub(crate) fn run(kafka: &Kafka, s3: &S3, topic: &Topic, run: (Store, usize)) -> Result<(Line, Lake)> {
    let (store, round) = run;
    let name = format!("{}-{}-{round}", topic.name, store.label());
    let lake = Lake::new(store, s3, &name)?;
    let worker = worker(kafka)?;
    let line = cross(kafka, &worker, topic, (&lake, &name))?;
    Ok((Line { program: format!("{} {}", lines::ARCHIVING, store.label()), ..line }, lake))
}

/// Lets `worker` archive all of `topic` by a connector of this name. The wall clock goes from the request until every
/// record is in the lake: the group is told in steps of `offset.flush.interval.ms`. CPU time includes that.
pub(crate) fn cross(kafka: &Kafka, worker: &Worker, topic: &Topic, (lake, name): (&Lake, &str)) -> Result<Line> {
    let pid = worker.pid().unwrap_or_default();
    let (before_s, watch) = (measure::cpu_s(pid)?, Watch::begin(kafka.pids())?);
    worker.create(&lake.sink(name, &topic.name, &[("flush.size", &file_records(topic).to_string())]));
    Chains::of(topic, lake).wait()?;
    let meanwhile = watch.end()?;
    wait_committed(kafka, &format!("connect-{name}"), topic, || Ok(()))?;
    let cpu_s = measure::cpu_s(pid)? - before_s;
    let (files, stored_bytes) = data_below(&lake.dir)?;
    let peak_rss_mb = measure::peak_rss_mb(pid);
    Ok(Line { cpu_s, peak_rss_mb, files, stored_bytes, ..Line::during(&meanwhile, name, topic) })
}

/// A worker that takes records as bytes.
pub(crate) fn worker(kafka: &Kafka) -> Result<Worker> {
    start(new_worker(kafka, &[])?)
}

/// One that is not started yet, with further settings.
pub(crate) fn new_worker(kafka: &Kafka, settings: &[(&str, &str)]) -> Result<Worker> {
    let bytes = "org.apache.kafka.connect.converters.ByteArrayConverter";
    let own = [("key.converter", bytes), ("value.converter", bytes)];
    Ok(Worker::new(&kafka.bootstrap(), &[&own, settings].concat())?)
}

/// Starts it.
pub(crate) fn start(mut worker: Worker) -> Result<Worker> {
    worker.run(&[])?;
    worker.wait_ready()?;
    Ok(worker)
}

/// Records of a file, such that no partition is left with an unfinished one, which would wait for its age.
fn file_records(topic: &Topic) -> u64 {
    let files = (topic.records_each * topic.kind.record_bytes()).div_ceil(FILE_BYTES).max(1);
    let files = (files..=topic.records_each).find(|files| topic.records_each.is_multiple_of(*files));
    topic.records_each / files.unwrap_or(1)
}

/// Waits until `group` has committed all of `topic`. Looks from outside, so that the looking costs the worker nothing.
pub(crate) fn wait_committed(
    kafka: &Kafka,
    group: &str,
    topic: &Topic,
    mut check: impl FnMut() -> Result<()>,
) -> Result<()> {
    let observer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).set("group.id", group).create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..topic.partitions {
        all.add_partition(&topic.name, partition as i32);
    }
    let begin = Instant::now();
    loop {
        // While its coordinator moves, the group does not answer.
        let committed = observer.committed_offsets(all.clone(), Duration::from_secs(30));
        let is_whole = |offset| matches!(offset, Offset::Offset(offset) if offset as u64 >= topic.records_each);
        if committed.as_ref().is_ok_and(|rows| rows.elements().iter().all(|row| is_whole(row.offset()))) {
            return Ok(());
        }
        check()?;
        if begin.elapsed() > LIMIT {
            bail!("group {group} has not committed all of {} within {LIMIT:?}: {committed:?}", topic.name);
        }
        std::thread::sleep(LOOK);
    }
}

/// The data files in a folder: how many, and their bytes.
pub(crate) fn data_below(folder: &Path) -> Result<(usize, u64)> {
    let sizes = data_sizes(folder)?;
    Ok((sizes.len(), sizes.iter().sum()))
}

/// The size of each data file in a folder.
pub(crate) fn data_sizes(folder: &Path) -> Result<Vec<u64>> {
    let mut sizes = Vec::new();
    collect_sizes(folder, &mut sizes)?;
    Ok(sizes)
}

fn collect_sizes(folder: &Path, sizes: &mut Vec<u64>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let (path, metadata) = {
            let entry = entry?;
            (entry.path(), entry.metadata()?)
        };
        if metadata.is_dir() {
            collect_sizes(&path, sizes)?;
        } else if path.extension().is_some_and(|extension| extension == "parquet" || extension == "avro") {
            sizes.push(metadata.len());
        }
    }
    Ok(())
}
