//! Targets that lost records which were delivered to them: whoever goes on writing to one is told, and writes nothing.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::{stored, thick};
use crate::journey::{Worker, run};
use crate::kit::{self, Kafka, KafkaOptions, need, poll_until, wait_until};
use crate::lake::{Lake, task_state, wait_trace};

const SOON: Duration = Duration::from_secs(60);
const RECORDS: usize = 400;

/// The segment of a partition that has one.
fn segment(kafka: &Kafka, topic: &str) -> PathBuf {
    let nodes = std::fs::read_dir(kafka.dir()).unwrap().map(|node| node.unwrap().path());
    let mut segments = nodes.map(|node| node.join(format!("data/{topic}-0/{:020}.log", 0)));
    segments.find(|segment| segment.exists()).expect("a segment")
}

#[test]
fn a_target_that_was_cut_back_is_refused_with_the_offsets() {
    let mut kafka = need!(Kafka::start(KafkaOptions::default()));
    let lake = Lake::of(&kafka, "cut", &[thick(RECORDS, 1000, 1_700_000_000_000)], &[("retention.ms", "-1")]);
    let (url, bootstrap) = (lake.url(), kafka.bootstrap());
    // Many batches, so that a cut leaves some of a transaction.
    let client = kit::instance_dir("client").unwrap().join("client.properties");
    std::fs::write(&client, "batch.size=20000\ncompression.type=none\n").unwrap();
    let client = client.display().to_string();
    let restore = |target: &str, ending: &str| {
        let (rename, to) = (format!("cut={target}"), ["--bootstrap-server", &bootstrap, "--command-config", &client]);
        run(&[&["restore", &url], &to[..], &["--topic", "cut", "--rename", &rename, ending]].concat())
    };
    for target in ["cut-to-nothing", "cut-in-a-transaction"] {
        let (code, out, err) = restore(target, "--yes");
        assert_eq!(code, 0, "{out}\n{err}");
    }
    let source = json!({ "name": "replay", "config": {
        "connector.class": "LakeSource",
        "store.url": url,
        "topics": "cut",
        "topic.rename": "cut:cut-of-a-connector",
        "producer.override.batch.size": "20000",
    }});
    let mut worker = Worker::start(&bootstrap, &[], &[source]);
    wait_until("the replay ends", SOON, || stored(&worker, "replay")[0] == RECORDS).unwrap();
    worker.stop();
    let targets = ["cut-to-nothing", "cut-in-a-transaction", "cut-of-a-connector"];
    // The marker comes after the answer.
    let marked = |topic: &&str| kafka.offsets(topic, 0).is_ok_and(|offsets| offsets == (0, RECORDS as i64 + 1));
    wait_until("the markers are there", SOON, || targets.iter().all(marked)).unwrap();

    // A disk that loses the end of what was written: the broker keeps what is whole of the rest.
    kafka.kill();
    for (target, parts) in targets.iter().zip([1_000, 2, 2]) {
        let log = std::fs::File::options().write(true).open(segment(&kafka, target)).unwrap();
        log.set_len(log.metadata().unwrap().len() / parts).unwrap();
    }
    kafka.restart().unwrap();
    let end = |topic: &str| poll_until(SOON, || kafka.offsets(topic, 0).ok()).expect("a leader").1;
    let ends = targets.map(end);
    assert!(ends[0] == 0 && ends[1..].iter().all(|end| (1..RECORDS as i64).contains(end)), "{ends:?}");

    let words = |at: usize| {
        let last = RECORDS - 1;
        format!(
            "{}-0 ends at offset {}, but offset {last} was delivered to it: records were taken away",
            targets[at], ends[at]
        )
    };
    for at in [0, 1] {
        for ending in ["--dry-run", "--yes"] {
            let (code, out, err) = restore(targets[at], ending);
            assert!(code == 2 && err.contains(&words(at)), "{}: {code} {out}\n{err}", words(at));
        }
    }
    worker.restart();
    wait_trace(&worker, "replay", &words(2));
    assert_eq!(task_state(&worker, "replay"), "FAILED");
    assert_eq!(targets.map(end), ends, "nothing was written");
}
