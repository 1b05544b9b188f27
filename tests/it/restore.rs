//! Ways back that are not straight: a restore or a replaying connector that is cut short and goes on, and what each
//! option of `lakeferry restore` does to the target.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::journey::{Worker, program, run};
use crate::kit::{self, Launch, Process, need, poll_until};
use crate::lake::Lake;
use crate::topic::{Record, consume};

const SOON: Duration = Duration::from_secs(60);

/// `count` records of about `bytes` each, one second of record time between them, begun at `from_ms`.
fn thick(count: usize, bytes: usize, from_ms: i64) -> Vec<Record> {
    let record = |at: usize| {
        let value = format!("{at:06} {}", "x".repeat(bytes));
        Record { key: None, ..Record::new(from_ms + at as i64 * 1000, &value) }
    };
    (0..count).map(record).collect()
}

/// A `lakeferry restore` that runs beside the test.
struct Restore {
    process: Process,
    log: PathBuf,
}

impl Restore {
    fn start(arguments: &[&str]) -> Restore {
        let log = kit::instance_dir("restore").unwrap().join("log");
        Restore { process: Launch::new(program(), &log).args(arguments).start().unwrap(), log }
    }

    /// Waits until the target holds at least `records`.
    fn wait_written(&mut self, kafka: &kit::Kafka, target: &str, records: i64) {
        let written = || held(kafka, target) >= records;
        if poll_until(SOON, || written().then_some(())).is_none() {
            panic!("{target} holds {}\n{}", held(kafka, target), self.process.log_tail());
        }
    }

    /// Sends a signal; the exit code and all that it said.
    fn end(mut self, signal: &str) -> (Option<i32>, String) {
        self.process.signal(signal);
        let status = self.process.wait(SOON).expect("it ends");
        (status.code(), std::fs::read_to_string(&self.log).unwrap())
    }
}

/// Offsets that the partitions of a topic have in all.
fn held(kafka: &kit::Kafka, topic: &str) -> i64 {
    let partitions = kafka.topic(topic).unwrap().unwrap_or_default();
    partitions.iter().filter_map(|one| kafka.offsets(topic, one.id).ok()).map(|(start, end)| end - start).sum()
}

/// Each partition with its records, all at once: a client takes its time to begin and to end.
fn assert_holds(kafka: &kit::Kafka, target: &str, expected: &[Vec<Record>]) {
    std::thread::scope(|scope| {
        for (partition, expected) in (0..).zip(expected) {
            scope.spawn(move || {
                let found = consume(&kafka.bootstrap(), target, partition);
                assert!(found == *expected, "{target}-{partition}: {} records, not {}", found.len(), expected.len());
            });
        }
    });
}

/// What `--append --offsets ...` in the words of a restore that was cut short came to.
fn way_on(words: &str) -> Vec<String> {
    let last = words.lines().find(|line| line.starts_with("lakeferry: ")).unwrap_or_default();
    let at = last.find("--append").unwrap_or_else(|| panic!("no way on: {words}"));
    let words = last[at..].split_whitespace().take_while(|word| word.starts_with("--") || word.contains("topic"));
    words.map(|word| word.trim_end_matches(':').to_owned()).collect()
}

#[test]
fn a_restore_that_is_stopped_tells_the_way_on_and_it_is_true() {
    let kafka = need!(kit::kafka());
    // More partitions than are read at once: those that had no turn yet belong to the rest.
    let truth: Vec<_> = (0..6).map(|_| thick(60, 1000, 1_700_000_000_000)).collect();
    let lake = Lake::of(kafka, "topic-stopped", &truth, &[("retention.ms", "-1")]);
    let (url, bootstrap) = (lake.url(), kafka.bootstrap());
    let some = |ranges: &[std::ops::Range<usize>]| {
        (0..6).map(|at| truth[at][ranges.get(at).cloned().unwrap_or_default()].to_vec()).collect::<Vec<_>>()
    };
    let until = truth[0][49].timestamp.unwrap().to_string();
    let cases: [(&str, &[&str], Vec<Vec<Record>>); 3] = [
        ("topic-way-on", &[], truth.clone()),
        ("topic-way-on-cut", &["--until", &until], some(&vec![0..50; 6])),
        (
            "topic-way-on-offsets",
            &["--offsets", "topic-stopped:0:10:39", "--offsets", "topic-stopped:1:0:59"],
            some(&[10..40, 0..60]),
        ),
    ];
    for (target, more, expected) in cases {
        let rename = format!("topic-stopped={target}");
        let same = ["restore", &url, "--bootstrap-server", &bootstrap, "--rename", &rename, "--yes"];
        let slow = ["--rate", "60000"];
        let mut restore = Restore::start(&[&same[..], &slow, more].concat());
        restore.wait_written(kafka, target, 20);
        let (code, words) = restore.end("TERM");
        assert_eq!(code, Some(3), "{words}");
        let on = way_on(&words);
        let on: Vec<_> = on.iter().map(String::as_str).collect();
        let kept = if on.contains(&"--offsets") && more.contains(&"--offsets") { &[] } else { more };
        let written = held(kafka, target);
        assert!(written < expected.iter().map(Vec::len).sum::<usize>() as i64, "{words}");
        let (code, out, err) = run(&[&same[..], kept, &on].concat());
        assert_eq!(code, 0, "{words}\n{out}\n{err}");
        assert_holds(kafka, target, &expected);
    }
}

#[test]
fn a_restore_that_is_killed_is_begun_again_as_the_page_says() {
    let kafka = need!(kit::kafka());
    let truth: Vec<_> = (0..2).map(|_| thick(60, 1000, 1_700_000_000_000)).collect();
    let lake = Lake::of(kafka, "topic-killed", &truth, &[("retention.ms", "-1")]);
    let (url, bootstrap, target) = (lake.url(), kafka.bootstrap(), "topic-begun-again");
    let rename = format!("topic-killed={target}");
    let rename = ["--bootstrap-server", &bootstrap, "--rename", &rename];
    let arguments = [&["restore", &url, "--yes"], &rename[..]].concat();
    let mut restore = Restore::start(&[&arguments[..], &["--rate", "20000"]].concat());
    restore.wait_written(kafka, target, 10);
    let (code, _) = restore.end("KILL");
    assert_ne!(code, Some(0));

    // What is there is whole as far as it goes, `verify` names the rest, and nothing is added by mistake.
    let written = held(kafka, target);
    assert!(written < 120);
    let (code, out, _) = run(&[&["verify", &url, "--json"], &rename[..]].concat());
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, document["differences"].as_i64()), (1, Some(120 - written)), "{out}");
    let (code, out, err) = run(&arguments);
    assert!(code == 2 && err.contains("not empty") && err.contains("delete it"), "{code} {out}\n{err}");
    assert_eq!(held(kafka, target), written);

    kafka.delete_topic(target).unwrap();
    let (code, out, err) = run(&arguments);
    assert_eq!(code, 0, "{out}\n{err}");
    assert_holds(kafka, target, &truth);
}

/// The offsets that Connect has stored for a lake source, by archived partition.
fn stored(worker: &Worker, connector: &str) -> Vec<usize> {
    let (_, answer) = worker.request("GET", &format!("/connectors/{connector}/offsets"), &Value::Null);
    let entries = answer["offsets"].as_array().cloned().unwrap_or_default();
    let mut offsets = vec![0; 2];
    for entry in &entries {
        let partition = entry["partition"]["partition"].as_u64().unwrap() as usize;
        offsets[partition] = entry["offset"]["offset"].as_u64().unwrap() as usize;
    }
    offsets
}

/// Waits until Connect's stored offsets of both partitions are beyond `than`.
fn wait_stored(worker: &Worker, connector: &str, than: &[usize]) -> Vec<usize> {
    let beyond = |now: &Vec<usize>| now.iter().zip(than).all(|(now, than)| now > than);
    let found = poll_until(SOON, || Some(stored(worker, connector)).filter(beyond));
    found.unwrap_or_else(|| panic!("{:?} is not beyond {than:?}\n{}", stored(worker, connector), worker.log()))
}

#[test]
fn a_replaying_connector_goes_on_where_connect_s_offsets_say() {
    let kafka = need!(kit::kafka());
    let truth: Vec<_> = (0..2).map(|_| thick(160, 1000, 1_700_000_000_000)).collect();
    let (topic, target, name) = ("topic-replayed", "topic-replay-target", "replay");
    let lake = Lake::of(kafka, topic, &truth, &[("retention.ms", "-1")]);
    let source = json!({ "name": name, "config": {
        "connector.class": "io.lakeferry.LakeSourceConnector",
        "tasks.max": "2",
        "store.url": lake.url(),
        "topics": topic,
        "topic.rename": format!("{topic}:{target}"),
        "replay.rate.bytes": "60000",
    }});
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[source]);
    wait_stored(&worker, name, &[0, 0]);
    worker.stop();
    let at_stop: Vec<_> = (0..2).map(|partition| consume(&kafka.bootstrap(), target, partition)).collect();
    for (found, truth) in at_stop.iter().zip(&truth) {
        assert!(*found == truth[..found.len()] && found.len() < truth.len(), "{} records", found.len());
    }

    worker.restart();
    let stopped: Vec<_> = at_stop.iter().map(Vec::len).collect();
    let at_kill = wait_stored(&worker, name, &stopped);
    worker.kill();
    worker.restart();
    wait_stored(&worker, name, &[159, 159]);
    for (partition, truth) in truth.iter().enumerate() {
        let found = consume(&kafka.bootstrap(), target, partition as i32);
        // Once what was stored before the kill, so nothing twice at the stop; behind that at least once, in order.
        let (sure, rest) = found.split_at(at_kill[partition]);
        assert!(*sure == truth[..at_kill[partition]], "partition {partition}");
        let mut next = at_kill[partition];
        for record in rest {
            let at = truth.iter().position(|one| one == record).expect("a record of the archive");
            assert!(at_kill[partition] <= at && at <= next, "partition {partition}: {at} after {next} records");
            next = next.max(at + 1);
        }
        assert_eq!(next, truth.len());
    }
}
