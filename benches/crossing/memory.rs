//! A thousand partitions under the worker's default budget: how much memory it takes, that every partition gets on, and
//! what becomes of the files, with the spill folder and without.

use std::time::Instant;

use anyhow::Result;

use crate::archive::{self, Lake, Store};
use crate::data::Topic;
use crate::kit::{Kafka, S3};
use crate::lines::Line;
use crate::measure;

/// What became of the files.
pub(crate) struct Files {
    pub(crate) median_bytes: u64,
    /// Closed before their time because memory ran short.
    pub(crate) early: usize,
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
    let settings = [("lakeferry.spill.dir", dir.as_str()), ("lakeferry.spill.bytes", &bytes.to_string())];
    let worker = archive::worker_with(kafka, &settings)?;
    let pid = worker.pid().unwrap_or_default();
    let (begin, before_s) = (Instant::now(), measure::cpu_s(pid)?);
    // A file that was closed early leaves its partition with one that never gets so many records: age ends that.
    let (records, age_ms) = (topic.records_each.to_string(), age_ms(topic).to_string());
    let sink = [("flush.size", records.as_str()), ("rotate.age.ms", &age_ms), ("codec", "none")];
    worker.create(&lake.sink(name, &topic.name, &sink));
    archive::wait_committed(kafka, &format!("connect-{name}"), topic, || Ok(()))?;
    let (wall_s, cpu_s) = (begin.elapsed().as_secs_f64(), measure::cpu_s(pid)? - before_s);
    let early = worker.log().lines().filter(|line| line.contains("closing a file early")).count();
    let peak_rss_mb = measure::peak_rss_mb(pid);
    drop(worker);
    let mut sizes = archive::data_sizes(&lake.dir)?;
    sizes.sort_unstable();
    let (files, stored_bytes) = (sizes.len(), sizes.iter().sum());
    lake.remove()?;
    let files_of = Files { median_bytes: sizes.get(sizes.len() / 2).copied().unwrap_or(0), early };
    Ok((Line { wall_s, cpu_s, peak_rss_mb, files, stored_bytes, ..Line::new(name, topic) }, files_of))
}

/// Long enough to read the topic in, on a busy machine.
fn age_ms(topic: &Topic) -> u64 {
    const SLOWEST_BYTES_PER_MS: u64 = 40_000;
    const LEAST_MS: u64 = 20_000;
    (topic.records() * topic.kind.record_bytes() / SLOWEST_BYTES_PER_MS).max(LEAST_MS)
}
