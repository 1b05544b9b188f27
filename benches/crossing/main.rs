//! The crossing, measured: `cargo bench --bench crossing [-- SECTION..]`. Starts a real Kafka and a real S3, makes
//! topics, runs the worker as a child process and prints what it cost, beside the machine's own limit and the peer that
//! users would run instead, on the same topics in the same run. Sections: `archive`, `peer`, `restore`, `cores`,
//! `idle`, `memory`; all of them where none is named. [`settings`] has the knobs.
//!
//! Time that counts is CPU time as the operating system charges it to a process: a busy machine changes wall times and
//! leaves it nearly alone. Where a wall clock tells nothing of a program, its line has no
//! figures a second. `docs/performance.md` has results and their reading. Nothing here asserts a speed.

#![allow(clippy::print_stdout, reason = "a benchmark talks to the person at the terminal")]
#![allow(clippy::unwrap_used, reason = "what the tests lend it ends where it cannot go on")]
#![allow(clippy::disallowed_methods, reason = "it measures by the wall clock and waits for other processes")]

mod archive;
mod chart;
mod cores;
mod data;
mod durable;
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

use anyhow::{Result, ensure};

use data::{Kind, Topic};
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

const SECTIONS: [&str; 6] = ["archive", "peer", "restore", "cores", "idle", "memory"];
/// The sections that go through each topic.
const CROSSINGS: [&str; 3] = ["archive", "peer", "restore"];

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
        for section in &sections {
            ensure!(SECTIONS.contains(&section.as_str()), "there is no section {section}: name some of {SECTIONS:?}");
        }
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
        if CROSSINGS.iter().any(|section| self.wants(section)) {
            self.cross_all()?;
        }
        if self.wants("cores") {
            cores::run(&self.kafka, &self.s3, &self.settings)?;
        }
        if self.wants("memory") {
            self.memory()?;
        }
        Ok(())
    }

    /// Every topic through what is asked for, and what the rounds come to.
    fn cross_all(&mut self) -> Result<()> {
        println!("{}", Line::HEAD);
        for topic in self.settings.topics() {
            let topic = topic.make(&self.kafka)?;
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
        Ok(())
    }

    /// One topic through everything that is measured on it.
    fn cross(&mut self, topic: &Topic, round: usize) -> Result<()> {
        let archives = self.wants("archive") || self.wants("restore");
        let limit = if archives { Some(limit::of_archiving(&self.kafka, topic)?) } else { None };
        limit.iter().flat_map(|limit| limit.lines(topic)).for_each(|line| self.say(line));
        if self.wants("restore")
            && let Some(limit) = &limit
        {
            let lines = restore::limit(&self.kafka, topic, limit.decompress_s())?;
            lines.into_iter().for_each(|line| self.say(line));
        }
        for store in self.settings.stores(topic).iter().filter(|_| archives) {
            let (line, lake) = archive::run(&self.kafka, &self.s3, topic, (*store, round))?;
            self.say(line);
            if self.wants("restore") {
                self.say(restore::run(&self.kafka, &lake, topic, store.label())?);
            }
            lake.remove()?;
        }
        if self.wants("peer") {
            self.say(peer::run(&self.kafka, &self.s3, topic, round)?);
        }
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
        let topic = topic.make(&self.kafka)?;
        println!("\n{}", Line::HEAD);
        for spill in [Spill::Nowhere, Spill::UpTo(2 * settings.memory_bytes)] {
            let (line, files) = memory::run(&self.kafka, &self.s3, &topic, &spill)?;
            let median_mib = files.median_bytes as f64 / f64::from(1 << 20);
            println!("{}  median file {median_mib:.2} MiB, {} closed early", line.text(), files.early);
            println!(
                "read within {:.1} s; what was open then was published within {:.1} s",
                files.read_s, files.rest_s
            );
        }
        self.kafka.delete_topic(&topic.name)?;
        Ok(())
    }

    fn say(&mut self, line: Line) {
        println!("{}", line.text());
        self.lines.push(line);
    }
}
