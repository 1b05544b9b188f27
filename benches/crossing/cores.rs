//! The same work on one core and on all: what a second core brings while the broker is not the bottleneck.

use anyhow::Result;

use crate::archive::{self, Lake, Store};
use crate::data::{Kind, Topic};
use crate::kit::{Kafka, S3};
use crate::lines::{self, Line};
use crate::settings::Settings;

/// Archives one topic in turns on one core and on all, and prints each and the median of the rounds' ratios.
pub(crate) fn run(kafka: &Kafka, s3: &S3, settings: &Settings) -> Result<()> {
    let topic = Topic::new(Kind::Orders, 4, "lz4", settings.cores_bytes).make(kafka)?;
    println!("\n{}", Line::HEAD);
    // The broker compiles what it needs while it serves the first: that one does not count.
    println!("{}", cross(kafka, s3, &topic, ("warming up", 0, &[]))?.text());
    let mut ratios = Vec::new();
    for round in 0..settings.rounds {
        let mut walls_s = Vec::new();
        for (name, launcher) in [("on one core", ["taskset", "-c", "0"].as_slice()), ("on all cores", &[])] {
            let line = cross(kafka, s3, &topic, (name, round, launcher))?;
            println!("{}", line.text());
            walls_s.extend(line.wall_s);
        }
        let ratio = walls_s[0] / walls_s[1];
        println!("from the request until all is in the lake: {ratio:.2} times as fast on all cores");
        ratios.push(ratio);
    }
    println!("median of {} rounds: {:.2} times as fast on all cores", ratios.len(), lines::median(ratios));
    Ok(kafka.delete_topic(&topic.name)?)
}

/// One round of one worker. One that is started on one core has as many threads as suit it.
fn cross(kafka: &Kafka, s3: &S3, topic: &Topic, run: (&str, usize, &[&str])) -> Result<Line> {
    let (name, round, launcher) = run;
    let lake = Lake::new(Store::File, s3, name)?;
    let worker = archive::start(archive::new_worker(kafka, &[])?.by(launcher))?;
    let line = archive::cross(kafka, &worker, topic, (&lake, &format!("{}-{round}", name.replace(' ', "-"))))?;
    lake.remove()?;
    Ok(Line { program: name.to_owned(), ..line })
}
