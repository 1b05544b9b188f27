//! A thousand partitions under the worker's default budget: how much memory it takes, that every partition gets on, and
//! what becomes of the files, with the spill folder and without.
//!
//! A file that was closed early leaves its partition with a last one that never gets as many records as end it. So the
//! connector is stopped once the worker has read everything, which publishes what is open.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::archive::{self, Lake, Store};
use crate::data::Topic;
use crate::durable::Chains;
use crate::journey::Worker;
use crate::kit::{Kafka, S3};
use crate::lines::Line;
use crate::measure::{self, Meanwhile, Watch};

const LOOK: Duration = Duration::from_millis(100);
/// A worker that reads uses more than a core, or waits for one on a busy machine; one that has read everything uses
/// next to nothing.
const QUIET_CORES: f64 = 0.2;
/// It has, when it was quiet for so long. That time is not in the clock.
const QUIET: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(900);

/// What became of the files.
pub(crate) struct Files {
    pub(crate) median_bytes: u64,
    /// Closed before their time because memory ran short.
    pub(crate) early: usize,
    /// Until everything was read.
    pub(crate) read_s: f64,
    /// From when the connector was asked to stop until all was committed.
    pub(crate) rest_s: f64,
}

/// How encoded bytes may wait.
pub(crate) enum Spill {
    /// In memory only.
    Nowhere,
    /// In a folder, up to so many bytes.
    UpTo(u64),
}

/// Archives `topic` uncompressed, one file a partition where memory allows it.
pub(crate) fn run(kafka: &Kafka, s3: &S3, topic: &Topic, spill: &Spill) -> Result<(Line, Files)> {
    let (name, dir, bytes) = match spill {
        Spill::Nowhere => ("memory-alone", String::new(), 0),
        Spill::UpTo(bytes) => ("memory-spill", crate::kit::instance_dir("spill")?.display().to_string(), *bytes),
    };
    let lake = Lake::new(Store::File, s3, name)?;
    let settings = [
        ("lakeferry.spill.dir", dir.as_str()),
        ("lakeferry.spill.bytes", &bytes.to_string()),
        // What a thousand partitions have open is to be published, however long that takes.
        ("task.shutdown.graceful.timeout.ms", "600000"),
    ];
    let worker = archive::start(archive::new_worker(kafka, &settings)?)?;
    let pid = worker.pid().unwrap_or_default();
    let (before_s, watch) = (measure::cpu_s(pid)?, Watch::begin(kafka.pids())?);
    let records = topic.records_each.to_string();
    let sink = [("flush.size", records.as_str()), ("rotate.age.ms", "3600000"), ("codec", "none")];
    worker.create(&lake.sink(name, &topic.name, &sink));
    let reading = until_quiet(&watch, pid, &mut Chains::of(topic, &lake))?;
    let closing = Watch::begin(kafka.pids())?;
    stop(kafka, &worker, name, topic, &mut Chains::of(topic, &lake))?;
    let closing = closing.end()?;
    let cpu_s = measure::cpu_s(pid)? - before_s;
    let early = worker.log().lines().filter(|line| line.contains("closing a file early")).count();
    let peak_rss_mb = measure::peak_rss_mb(pid);
    drop(worker);
    let mut sizes = archive::data_sizes(&lake.dir)?;
    sizes.sort_unstable();
    let (files, stored_bytes) = (sizes.len(), sizes.iter().sum());
    lake.remove()?;
    let files_of = Files {
        median_bytes: sizes.get(sizes.len() / 2).copied().unwrap_or(0),
        early,
        read_s: reading.wall_s,
        rest_s: closing.wall_s,
    };
    let line = Line::during(&reading.then(&closing), name, topic);
    Ok((Line { cpu_s, peak_rss_mb, files, stored_bytes, ..line }, files_of))
}

/// What the machine did until the worker had read everything. Where it stands in its partitions nothing tells from
/// outside, so it has when each partition has a file, as a whole one must, and the worker has nothing to do any more.
/// [`stop`] finds out whether that was true.
fn until_quiet(watch: &Watch, pid: u32, chains: &mut Chains) -> Result<Meanwhile> {
    let begin = Instant::now();
    let (mut since, mut at_work, mut looked, mut wanted_s) = (begin, watch.end()?, begin, measure::wanted_s(pid)?);
    loop {
        std::thread::sleep(LOOK);
        let (now, now_wanted_s) = (Instant::now(), measure::wanted_s(pid)?);
        if now_wanted_s - wanted_s > QUIET_CORES * (now - looked).as_secs_f64() {
            (since, at_work) = (now, watch.end()?);
        } else if now - since >= QUIET && chains.have_begun() {
            return Ok(at_work);
        }
        ensure!(begin.elapsed() < LIMIT, "the worker has not read everything within {LIMIT:?}");
        (looked, wanted_s) = (now, now_wanted_s);
    }
}

/// Stops the connector and returns when the group knows of every record.
fn stop(kafka: &Kafka, worker: &Worker, name: &str, topic: &Topic, chains: &mut Chains) -> Result<()> {
    let (status, answer) = worker.request("PUT", &format!("/connectors/{name}/stop"), &Value::Null);
    ensure!(status == 202 || status == 204, "the connector is not stopped: {status} {answer}");
    archive::wait_committed(kafka, &format!("connect-{name}"), topic, || {
        let (_, status) = worker.request("GET", &format!("/connectors/{name}/status"), &Value::Null);
        let is_over =
            status["connector"]["state"] == "STOPPED" && status["tasks"].as_array().is_some_and(Vec::is_empty);
        ensure!(!is_over || chains.are_whole(), "the worker rested before it had read everything: measure again");
        Ok(())
    })
}
