//! What the worker costs when there is nothing to do: its start, its memory, and a hundred topics that get no data,
//! while another member joins the group and leaves again. A proxy before the store counts what is written.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::archive::{self, Lake};
use crate::journey::Worker;
use crate::kit::proxy::HttpProxy;
use crate::kit::{self, Kafka, S3};
use crate::measure;

const TOPICS: usize = 100;
const LOOK: Duration = Duration::from_millis(2);
const SETTLE: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(120);

/// Seconds from exec until the REST API answers, and MB resident a while later.
pub(crate) fn start(kafka: &Kafka) -> Result<(f64, f64)> {
    let mut worker = Worker::new(&kafka.bootstrap(), &[])?;
    let begin = Instant::now();
    worker.run(&[])?;
    while !kit::http::is_ok(&worker.address(), "/") {
        ensure!(begin.elapsed() < LIMIT, "the worker does not answer");
        std::thread::sleep(LOOK);
    }
    let ready_s = begin.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    Ok((ready_s, measure::rss_mb(worker.pid().unwrap_or_default())))
}

/// What an idle worker with a hundred archived topics did.
pub(crate) struct Idle {
    /// Share of a core.
    pub(crate) cpu: f64,
    /// Requests to the store that change it.
    pub(crate) writes: usize,
    /// All requests to the store.
    pub(crate) requests: usize,
    pub(crate) rss_mb: f64,
}

/// Watches it for `span`, a rebalance included.
pub(crate) fn watch(kafka: &Kafka, s3: &S3, span: Duration) -> Result<Idle> {
    let proxy = HttpProxy::start(s3.address())?;
    let lake = Lake::behind(s3, "idle", &proxy.url())?;
    let names: Vec<String> = (0..TOPICS).map(|number| format!("idle-{number}")).collect();
    for name in &names {
        // The record is old, and is to stay.
        kafka.create_topic(name, 1, &[("retention.ms", "-1")])?;
        kafka.produce_raw(name, 0, &[record()])?;
    }
    let sink = lake.sink("idle", &names.join(","), &[("rotate.age.ms", "1000")]);
    let worker = archive::worker(kafka)?;
    worker.create(&sink);
    worker.wait_archived("idle", TOPICS as i64, LIMIT);
    std::thread::sleep(SETTLE);
    let pid = worker.pid().context("the worker has ended")?;
    proxy.clear();
    let (begin, before_s) = (Instant::now(), measure::cpu_s(pid)?);
    rebalance(kafka, "connect-idle", &names)?;
    std::thread::sleep(span.saturating_sub(begin.elapsed()));
    let cpu = (measure::cpu_s(pid)? - before_s) / begin.elapsed().as_secs_f64();
    let idle = Idle {
        cpu,
        writes: proxy.count(|request| request.is_write()),
        requests: proxy.count(|_| true),
        rss_mb: measure::rss_mb(pid),
    };
    drop(worker);
    names.iter().try_for_each(|name| kafka.delete_topic(name))?;
    Ok(idle)
}

/// A member that takes its share of the group's partitions, reads nothing, and leaves.
fn rebalance(kafka: &Kafka, group: &str, topics: &[String]) -> Result<()> {
    let member: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .create()?;
    member.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
    let begin = Instant::now();
    while member.assignment()?.count() == 0 {
        ensure!(begin.elapsed() < LIMIT, "the group gives its new member nothing");
        let _ = member.poll(Duration::from_millis(50));
    }
    Ok(())
}

fn record() -> kit::kafka::RawRecord {
    let value = Some(b"the only one".to_vec());
    kit::kafka::RawRecord { timestamp: 1_763_712_000_000, key: None, value, headers: Vec::new() }
}
