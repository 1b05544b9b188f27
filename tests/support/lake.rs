//! A lake in a folder, sinks that fill it, and what their tasks say: shared by the journeys.

#![allow(dead_code, unreachable_pub, reason = "each area uses its own part")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::journey::{Worker, run};
use crate::kit::{self, poll_until};
use crate::topic::{Record, produce};

const SOON: Duration = Duration::from_secs(60);

/// A lake in a folder of its own.
pub struct Lake {
    pub dir: PathBuf,
}

impl Lake {
    pub fn new() -> Lake {
        Lake { dir: kit::home::instance_dir("lake").unwrap() }
    }

    /// A new topic with these records, partition by partition, and a lake that holds all of it.
    pub fn of(kafka: &kit::Kafka, topic: &str, partitions: &[Vec<Record>], configs: &[(&str, &str)]) -> Lake {
        let (lake, bootstrap) = (Lake::new(), kafka.bootstrap());
        kafka.create_topic(topic, partitions.len(), configs).unwrap();
        for (partition, records) in (0..).zip(partitions) {
            produce(&bootstrap, topic, partition, records);
        }
        let mut worker = Worker::start(&bootstrap, &[], &[lake.sink(topic, topic)]);
        let records = partitions.iter().map(Vec::len).sum::<usize>();
        worker.wait_archived(topic, records as i64, SOON);
        worker.stop();
        lake
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    pub fn sink(&self, name: &str, topic: &str) -> Value {
        sink(name, topic, &[("store.url", &self.url())])
    }

    /// The files of one partition's chain, in order.
    pub fn chain(&self, topic: &str, partition: i32) -> Vec<PathBuf> {
        files_below(&self.dir.join(format!("topics/{topic}/_manifests/partition={partition}")))
    }

    pub fn data(&self, topic: &str, partition: i32) -> Vec<PathBuf> {
        files_below(&self.dir.join(format!("topics/{topic}/partition={partition}")))
    }
}

pub fn sink(name: &str, topic: &str, settings: &[(&str, &str)]) -> Value {
    let mut config = json!({
        "connector.class": "io.lakeferry.LakeSinkConnector",
        "topics": topic,
        "rotate.age.ms": "500",
    });
    for (key, value) in settings {
        config[*key] = json!(value);
    }
    json!({ "name": name, "config": config })
}

pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| !file.file_name().unwrap().to_string_lossy().starts_with('.'));
    files.sort();
    files
}

pub fn task_trace(worker: &Worker, connector: &str) -> String {
    let (_, status) = worker.request("GET", &format!("/connectors/{connector}/status"), &Value::Null);
    status["tasks"][0]["trace"].as_str().unwrap_or_default().to_owned()
}

pub fn task_state(worker: &Worker, connector: &str) -> String {
    let (_, status) = worker.request("GET", &format!("/connectors/{connector}/status"), &Value::Null);
    status["tasks"][0]["state"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the task's trace holds `text`, whatever its state.
pub fn wait_trace(worker: &Worker, connector: &str, text: &str) {
    if poll_until(SOON, || task_trace(worker, connector).contains(text).then_some(())).is_none() {
        panic!("no `{text}` in the trace: {}\n{}", task_trace(worker, connector), worker.log());
    }
}

/// Restores one topic of a lake under another name.
pub fn restore(lake: &Lake, bootstrap: &str, topic: &str, target: &str) -> (i32, String, String) {
    let rename = format!("{topic}={target}");
    run(&["restore", &lake.url(), "--bootstrap-server", bootstrap, "--topic", topic, "--rename", &rename, "--yes"])
}
