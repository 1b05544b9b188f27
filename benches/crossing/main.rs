//! The crossing, measured: `cargo bench --bench crossing [-- SECTION..]`. Starts a real Kafka and a real S3, makes topics,
//! runs the worker as a child process and prints what it cost, beside the machine's own limit and the peer that users
//! would run instead, on the same topics in the same run. Sections: `archive`, `peer`, `restore`, `cores`, `idle`,
//! `memory`; all of them where none is named. [`settings`] has the knobs.
//!
//! Time that counts is CPU time as the operating system charges it to a process: a busy machine changes wall times and
//! leaves it nearly alone. `docs/performance.md` has results and their reading. Nothing here asserts a speed.

#![allow(clippy::print_stdout, reason = "a benchmark talks to the person at the terminal")]
#![allow(clippy::disallowed_methods, reason = "it measures by the wall clock and waits for other processes")]

mod archive;
mod data;
mod limit;
mod lines;
mod measure;
mod settings;

#[allow(dead_code, reason = "the bench uses a part of it")]
#[path = "../../tests/it/http.rs"]
mod http;
#[path = "../../tests/support/journey.rs"]
mod journey;
#[path = "../../tests/kit/mod.rs"]
mod kit;

use anyhow::Result;

use data::Topic;
use lines::{Against, Line};
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
        println!("{}", Line::HEAD);
        for topic in self.settings.topics() {
            if self.wants("archive") {
                self.cross(&topic)?;
            }
        }
        Ok(())
    }

    /// One topic through everything that is measured on it.
    fn cross(&mut self, topic: &Topic) -> Result<()> {
        topic.make(&self.kafka)?;
        let limit = limit::of_archiving(&self.kafka.bootstrap(), topic)?;
        for line in limit.lines(topic) {
            self.say(line, &Against::default());
        }
        let against = Against { limit: Some(limit.mb_per_core_s()), peer: None };
        for round in 0..self.settings.rounds {
            for store in self.settings.stores(topic) {
                let line = archive::run(&self.kafka, &self.s3, topic, *store, round)?;
                self.say(Line { bytes: limit.bytes(), ..line }, &against);
            }
        }
        self.kafka.delete_topic(&topic.name)?;
        Ok(())
    }

    fn say(&mut self, line: Line, against: &Against) {
        println!("{}", line.text(against));
        self.lines.push(line);
    }
}
