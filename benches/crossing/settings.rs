//! How large a run is, from the environment. `LAKEFERRY_BENCH=full` is the run of `docs/performance.md`; without it a
//! quick look. Single values have the last word: `LAKEFERRY_BENCH_MB` (of each topic), `LAKEFERRY_BENCH_ROUNDS`,
//! `LAKEFERRY_BENCH_IDLE_S`, `LAKEFERRY_BENCH_CORES_MB` (of the cores section), `LAKEFERRY_BENCH_PARTITIONS` and
//! `LAKEFERRY_BENCH_MEMORY_MB` (of the memory section), `LAKEFERRY_BENCH_DATA` (only topics whose name holds this).

use std::time::Duration;

use anyhow::{Context, Result};

use crate::archive::Store;
use crate::data::{Kind, Topic};

/// See the module.
pub(crate) struct Settings {
    /// Whether every data set is crossed.
    full: bool,
    /// Bytes of keys and values of each topic.
    pub(crate) topic_bytes: u64,
    /// How often a measurement is repeated.
    pub(crate) rounds: usize,
    /// How long the idle worker is watched.
    pub(crate) idle: Duration,
    /// Bytes of the topic of the cores section.
    pub(crate) cores_bytes: u64,
    /// Partitions of the memory section.
    pub(crate) partitions: usize,
    /// Bytes of its topic.
    pub(crate) memory_bytes: u64,
}

impl Settings {
    /// The settings of this run.
    pub(crate) fn read() -> Result<Settings> {
        let full = std::env::var("LAKEFERRY_BENCH").is_ok_and(|size| size == "full");
        let topic_mb: u64 = number("LAKEFERRY_BENCH_MB", if full { 1_000 } else { 250 })?;
        Ok(Settings {
            full,
            topic_bytes: topic_mb * 1_000_000,
            rounds: number("LAKEFERRY_BENCH_ROUNDS", if full { 3 } else { 1 })? as usize,
            idle: Duration::from_secs(number("LAKEFERRY_BENCH_IDLE_S", if full { 300 } else { 20 })?),
            // In the full run so much that the start is a small part of it.
            cores_bytes: number("LAKEFERRY_BENCH_CORES_MB", if full { 2_500 } else { topic_mb })? * 1_000_000,
            partitions: number("LAKEFERRY_BENCH_PARTITIONS", 1_000)? as usize,
            // In the full run so much that every partition fills an upload part.
            memory_bytes: number("LAKEFERRY_BENCH_MEMORY_MB", if full { 10_000 } else { 600 })? * 1_000_000,
        })
    }

    /// The data sets of this run.
    pub(crate) fn topics(&self) -> Vec<Topic> {
        let sets: &[(usize, &'static str)] =
            if self.full { &[(4, "lz4"), (4, "none"), (64, "lz4"), (64, "none")] } else { &[(4, "lz4")] };
        let kinds = [Kind::Orders, Kind::Events];
        let of_set = |&(partitions, codec): &(usize, &'static str)| {
            kinds.map(|kind| Topic::new(kind, partitions, codec, self.topic_bytes))
        };
        let wanted = std::env::var("LAKEFERRY_BENCH_DATA").unwrap_or_default();
        sets.iter().flat_map(of_set).filter(|topic| topic.name.contains(&wanted)).collect()
    }

    /// Where `topic` is archived to.
    pub(crate) fn stores(&self, topic: &Topic) -> &'static [Store] {
        if self.full || topic.partitions == 4 { &[Store::S3, Store::File] } else { &[Store::S3] }
    }
}

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is no number")),
        Err(_) => Ok(default),
    }
}
