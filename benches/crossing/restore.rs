//! `lakeferry restore` of a topic that was just archived, into a new topic beside it.

use std::process::Command;

use anyhow::Result;

use crate::archive::Lake;
use crate::data::Topic;
use crate::journey;
use crate::kit::{self, Kafka};
use crate::limit;
use crate::lines::{LIMIT_OF_RESTORING, Line};
use crate::measure;

/// The codec that `restore` sends with unless told otherwise.
const CODEC: &str = "lz4";

/// One run of the command.
pub(crate) fn run(kafka: &Kafka, lake: &Lake, topic: &Topic, label: &str) -> Result<Line> {
    let target = format!("{}-restored", topic.name);
    let options = kit::instance_dir("restore")?.join("store.properties");
    std::fs::write(&options, lake.properties())?;
    let mut command = Command::new(journey::program());
    command.args(["restore", &lake.url(), "--bootstrap-server", &kafka.bootstrap(), "--yes", "--topic", &topic.name]);
    command.arg("--store-config").arg(&options).args(["--rename", &format!("{}={target}", topic.name)]);
    let ended = measure::run(command.env("LAKEFERRY_LOG", "warn"))?;
    kafka.delete_topic(&target)?;
    Ok(Line {
        wall_s: ended.wall_s,
        cpu_s: ended.cpu_s,
        peak_rss_mb: ended.peak_rss_mb,
        busy: Some(ended.busy),
        ..Line::new(&format!("restore {label}"), topic)
    })
}

/// What a restore cannot cost less than, for a topic of `bytes` bytes that zstd gives back in `decompress_s`.
pub(crate) fn limit(kafka: &Kafka, topic: &Topic, bytes: u64, decompress_s: f64) -> Result<[Line; 2]> {
    let target = format!("{}-produced", topic.name);
    kafka.create_topic(&target, topic.partitions, &[])?;
    let (ended, produced) = limit::of_producing(&kafka.bootstrap(), &target, topic, CODEC)?;
    kafka.delete_topic(&target)?;
    let producing_s = ended.cpu_s * bytes as f64 / produced as f64;
    let line = |program: &str, cpu_s: f64| Line {
        bytes,
        wall_s: ended.wall_s,
        cpu_s,
        peak_rss_mb: ended.peak_rss_mb,
        busy: Some(ended.busy),
        ..Line::new(program, topic)
    };
    Ok([line("produce", producing_s), line(LIMIT_OF_RESTORING, producing_s + decompress_s)])
}
