//! The crossing, measured: `cargo bench --bench crossing [-- SECTION..]`. Starts a real Kafka and a real S3, makes
//! topics, runs the worker as a child process and prints what it cost, beside the machine's own limit and the peer that
//! users would run instead, on the same topics in the same run. Sections: `archive`, `peer`, `restore`, `cores`,
//! `idle`, `memory`; all of them where none is named. [`settings`] has the knobs.
//!
//! Time that counts is CPU time as the operating system charges it to a process: a busy machine changes wall times and
//! leaves it nearly alone. `docs/performance.md` has results and their reading. Nothing here asserts a speed.

#![allow(clippy::print_stdout, reason = "a benchmark talks to the person at the terminal")]
#![allow(clippy::unwrap_used, reason = "what the tests lend it ends where it cannot go on")]
#![allow(clippy::disallowed_methods, reason = "it measures by the wall clock and waits for other processes")]

mod archive;
mod chart;
mod data;
mod idle;
mod limit;
mod lines;
mod measure;
mod memory;
mod peer;
mod restore;
mod settings;

#[allow(dead_code, reason = "the bench uses a part of it")]
#[path = "../../tests/it/http.rs"]
mod http;
#[path = "../../tests/support/journey.rs"]
mod journey;
#[path = "../../tests/kit/mod.rs"]
mod kit;

use anyhow::Result;

use archive::{Lake, Store};
use data::{Kind, Topic};
use limit::Limit;
use lines::{Line, Median};
use memory::Spill;
use settings::Settings;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [program, rest @ ..] = arguments.as_slice()
        && limit::is_program(program)
    {
        return limit::run(program, rest);
    }
    // Cargo says so to a benchmark; a test run over all targets does not.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("a benchmark: cargo bench --bench crossing");
        return Ok(());
    }
    let sections: Vec<_> = arguments.into_iter().filter(|argument| !argument.starts_with('-')).collect();
    Bench::start(Settings::read()?, sections)?.run()
}

/// One run: the services, and what was asked for.
struct Bench {
    settings: Settings,
    sections: Vec<String>,
    kafka: kit::Kafka,
    s3: kit::S3,
    lines: Vec<Line>,
}

impl Bench {
    fn start(settings: Settings, sections: Vec<String>) -> Result<Bench> {
        let kafka = kit::Kafka::start(kit::KafkaOptions::default())?;
        let s3 = kit::S3::start(kit::S3Options::default())?;
        println!("{}", measure::machine());
        Ok(Bench { settings, sections, kafka, s3, lines: Vec::new() })
    }

    fn wants(&self, section: &str) -> bool {
        self.sections.is_empty() || self.sections.iter().any(|wanted| wanted == section)
    }

    fn run(mut self) -> Result<()> {
        if self.wants("idle") {
            self.idle()?;
        }
        println!("{}", Line::HEAD);
        for topic in self.settings.topics() {
            topic.make(&self.kafka)?;
            for round in 0..self.settings.rounds {
                self.cross(&topic, round)?;
            }
            self.kafka.delete_topic(&topic.name)?;
        }
        let medians = lines::medians(&self.lines);
        println!("\n{}", Median::HEAD);
        medians.iter().for_each(|median| println!("{}", median.text()));
        if let Ok(file) = std::env::var("LAKEFERRY_BENCH_CHART") {
            std::fs::write(file, chart::svg(&medians, &measure::machine()))?;
        }
        if self.wants("cores") {
            self.cores()?;
        }
        if self.wants("memory") {
            self.memory()?;
        }
        Ok(())
    }

    /// One topic through everything that is measured on it.
    fn cross(&mut self, topic: &Topic, round: usize) -> Result<()> {
        let archives = self.wants("archive") || self.wants("restore");
        let limit = if archives { Some(limit::of_archiving(&self.kafka.bootstrap(), topic)?) } else { None };
        let bytes = limit.as_ref().map_or(topic.records() * topic.kind.record_bytes(), Limit::bytes);
        limit.iter().flat_map(|limit| limit.lines(topic)).for_each(|line| self.say(line));
        if self.wants("restore")
            && let Some(limit) = &limit
        {
            let lines = restore::limit(&self.kafka, topic, bytes, limit.decompress_s())?;
            lines.into_iter().for_each(|line| self.say(line));
        }
        for store in self.settings.stores(topic).iter().filter(|_| archives) {
            let (line, lake) = archive::run(&self.kafka, &self.s3, topic, (*store, round))?;
            self.say(Line { bytes, ..line });
            if self.wants("restore") {
                let line = restore::run(&self.kafka, &lake, topic, store.label())?;
                self.say(Line { bytes, ..line });
            }
            lake.remove()?;
        }
        if self.wants("peer") {
            let line = peer::run(&self.kafka, &self.s3, topic, round)?;
            self.say(Line { bytes, ..line });
        }
        Ok(())
    }

    /// The same work on one core and on all.
    fn cores(&mut self) -> Result<()> {
        let topic = Topic::new(Kind::Orders, 4, "lz4", self.settings.topic_bytes);
        topic.make(&self.kafka)?;
        println!("\n{}", Line::HEAD);
        let mut walls_s = Vec::new();
        for (name, pinned) in [("on one core", true), ("on all cores", false)] {
            let (lake, worker) = (Lake::new(Store::File, &self.s3, name)?, archive::worker(&self.kafka)?);
            if pinned {
                measure::pin(worker.pid().unwrap_or_default())?;
            }
            let line = archive::cross(&self.kafka, &worker, &topic, (&lake, &name.replace(' ', "-")))?;
            println!("{}  cores used {:.2}", line.text(), line.cpu_s / line.wall_s);
            walls_s.push(line.wall_s);
            lake.remove()?;
        }
        println!("end to end on all cores: {:.2} times one core's figure", walls_s[0] / walls_s[1]);
        self.kafka.delete_topic(&topic.name)?;
        Ok(())
    }

    fn idle(&self) -> Result<()> {
        for _ in 0..self.settings.rounds {
            let (ready_s, rss_mb) = idle::start(&self.kafka)?;
            println!("start: the REST API answers after {ready_s:.3} s; idle {rss_mb:.1} MB resident");
        }
        let idle = idle::watch(&self.kafka, &self.s3, self.settings.idle)?;
        println!(
            "idle with 100 topics for {} s, a rebalance included: {:.2} % of a core, {} writes among {} requests at \
             the store, {:.1} MB resident",
            self.settings.idle.as_secs(),
            idle.cpu * 100.0,
            idle.writes,
            idle.requests,
            idle.rss_mb
        );
        Ok(())
    }

    fn memory(&self) -> Result<()> {
        let settings = &self.settings;
        let topic = Topic::new(Kind::Orders, settings.partitions, "lz4", settings.memory_bytes);
        topic.make(&self.kafka)?;
        println!("\n{}", Line::HEAD);
        for spill in [Spill::Nowhere, Spill::UpTo(2 * settings.memory_bytes)] {
            let (line, files) = memory::run(&self.kafka, &self.s3, &topic, &spill)?;
            let median_mib = files.median_bytes as f64 / f64::from(1 << 20);
            println!("{}  median file {median_mib:.2} MiB, {} closed early", line.text(), files.early);
        }
        self.kafka.delete_topic(&topic.name)?;
        Ok(())
    }

    fn say(&mut self, line: Line) {
        println!("{}", line.text());
        self.lines.push(line);
    }
}
