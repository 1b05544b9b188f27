//! `lakeferry restore` of a topic that was just archived, into a new topic beside it.

use std::process::Command;

use anyhow::Result;

use crate::archive::Lake;
use crate::data::Topic;
use crate::journey;
use crate::kit::{self, Kafka};
use crate::limit;
use crate::lines::{LIMIT_OF_RESTORING, Line};
use crate::measure::{self, Meanwhile};

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
    let ended = measure::run(command.env("LAKEFERRY_LOG", "warn"), kafka.pids())?;
    kafka.delete_topic(&target)?;
    Ok(Line {
        cpu_s: ended.cpu_s,
        peak_rss_mb: ended.peak_rss_mb,
        ..Line::during(&ended.meanwhile, &format!("restore {label}"), topic)
    })
}

/// What a restore cannot cost less than, for a topic that zstd gives back in `decompress_s`.
pub(crate) fn limit(kafka: &Kafka, topic: &Topic, decompress_s: f64) -> Result<[Line; 2]> {
    let target = format!("{}-produced", topic.name);
    kafka.create_topic(&target, topic.partitions, &[])?;
    let (ended, produced) = limit::of_producing(kafka, &target, topic, CODEC)?;
    kafka.delete_topic(&target)?;
    // The same records again and again have not quite as many bytes.
    let scale = topic.bytes as f64 / produced as f64;
    let producing_s = ended.cpu_s * scale;
    let meanwhile = Meanwhile { wall_s: ended.meanwhile.wall_s * scale, ..ended.meanwhile };
    let (producing, both) = (Line::during(&meanwhile, "produce", topic), Line::new(LIMIT_OF_RESTORING, topic));
    let peak_rss_mb = ended.peak_rss_mb;
    Ok([
        Line { cpu_s: producing_s, peak_rss_mb, ..producing },
        Line { cpu_s: producing_s + decompress_s, peak_rss_mb, ..both },
    ])
}
