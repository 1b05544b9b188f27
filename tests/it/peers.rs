//! Failures that others had, where no other test of ours holds them: `docs/reliability.md` lists them all.

use std::time::Duration;

use serde_json::{Value, json};

use crate::crashes::Numbers;
use crate::journey::{Worker, run};
use crate::kit::{self, need, wait_until};
use crate::lake::{Lake, restore};
use crate::topic::{Record, consume, produce, records};

const SOON: Duration = Duration::from_secs(60);

/// A restore that waits for a place among its readers before any of them runs hangs once there are more partitions than
/// places, and more records than its channels hold.
#[test]
fn more_partitions_than_any_pool_has_places_come_back_whole() {
    let kafka = need!(kit::kafka());
    let topic = "peers-many";
    let truth: Vec<Vec<Record>> = (0..16).map(|partition| records(1_000 + partition)).collect();
    let lake = Lake::of(kafka, topic, &truth, &[("retention.ms", "-1")]);
    for order in ["partition", "time"] {
        let target = format!("peers-many-by-{order}");
        let rename = format!("{topic}={target}");
        let (url, bootstrap) = (lake.url(), kafka.bootstrap());
        let fixed = ["restore", &url, "--bootstrap-server", &bootstrap, "--rename", &rename, "--yes"];
        let (code, out, err) = run(&[&fixed[..], &["--order", order]].concat());
        assert_eq!(code, 0, "{out}\n{err}");
        for (partition, expected) in (0..).zip(&truth) {
            assert!(consume(&bootstrap, &target, partition) == *expected, "{order}: partition {partition} differs");
        }
    }
}

/// Settings that were written down once, and never again, make a topic as it was on its first day.
#[test]
fn a_topic_that_changed_comes_back_as_it_was_last_known() {
    let kafka = need!(kit::kafka());
    let (topic, target, lake) = ("peers-changed", "peers-changed-target", Lake::new());
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(10));
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[lake.sink(topic, topic)]);
    worker.wait_archived(topic, 10, SOON);
    worker.stop();
    let alter =
        ["--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", "max.message.bytes=2000000"];
    kafka.tool("kafka.admin.ConfigCommand", &alter).unwrap();
    kafka.tool("org.apache.kafka.tools.TopicCommand", &["--alter", "--topic", topic, "--partitions", "3"]).unwrap();
    for partition in 0..3 {
        produce(&kafka.bootstrap(), topic, partition, &records(5));
    }
    worker.restart();
    worker.wait_archived(topic, 25, SOON);
    worker.stop();

    let (code, out, err) = run(&["inspect", &lake.url(), "--json"]);
    assert_eq!(code, 0, "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let configs = json!({ "max.message.bytes": "2000000", "retention.ms": "-1" });
    assert_eq!((&found[0]["settings"]["partitions"], &found[0]["settings"]["configs"]), (&json!(3), &configs));
    let (code, out, err) = restore(&lake, &kafka.bootstrap(), topic, target);
    assert_eq!(code, 0, "{out}\n{err}");
    assert_eq!(kafka.topic(target).unwrap().unwrap().len(), 3);
    assert_eq!(consume(&kafka.bootstrap(), target, 0), [records(10), records(5)].concat());
    assert_eq!(consume(&kafka.bootstrap(), target, 2), records(5));
}

/// A restore by time that looks at the first and the last record of a file passes over what lies between them.
#[test]
fn a_restore_by_time_finds_every_record_of_files_that_are_out_of_order() {
    const FILE: usize = 10;
    let kafka = need!(kit::kafka());
    let (topic, bootstrap) = ("peers-disorder", kafka.bootstrap());
    // Each second of forty once, all over the log.
    let mut truth = records(40);
    let stamps: Vec<_> = (0..40).map(|n| truth[n * 37 % 40].timestamp).collect();
    truth.iter_mut().zip(&stamps).for_each(|(record, stamp)| record.timestamp = *stamp);
    let until = records(40)[15].timestamp;
    let is_inside = |record: &&Record| record.timestamp <= until;
    let hides =
        |file: &[Record]| !is_inside(&&file[0]) && !is_inside(&&file[FILE - 1]) && file.iter().any(|r| is_inside(&r));
    assert!(truth.chunks(FILE).any(hides), "a file whose ends both lie outside has a record inside");

    let lake = Lake::new();
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&bootstrap, topic, 0, &truth);
    let mut connector = lake.sink(topic, topic);
    connector["config"]["flush.size"] = json!(FILE.to_string());
    let mut worker = Worker::start(&bootstrap, &[], &[connector]);
    worker.wait_archived(topic, 40, SOON);
    worker.stop();
    assert_eq!(lake.data(topic, 0).len(), 40 / FILE);
    let inside: Vec<_> = truth.iter().filter(is_inside).cloned().collect();
    let before: Vec<_> = truth.iter().take_while(is_inside).cloned().collect();
    for (cut, expected) in [("record", inside), ("log", before)] {
        let target = format!("peers-disorder-{cut}");
        let (url, rename, until) = (lake.url(), format!("{topic}={target}"), until.unwrap().to_string());
        let fixed = ["restore", &url, "--bootstrap-server", &bootstrap, "--rename", &rename, "--yes"];
        let (code, out, err) = run(&[&fixed[..], &["--until", &until, "--cut", cut]].concat());
        assert_eq!(code, 0, "{out}\n{err}");
        assert_eq!(consume(&bootstrap, &target, 0), expected, "{cut}");
    }
}

/// A comparison by number takes what the log cleaner has removed since for a loss.
#[test]
fn a_topic_that_was_compacted_since_is_what_was_archived() {
    let kafka = need!(kit::kafka());
    let (topic, bootstrap) = ("peers-compacted", kafka.bootstrap());
    let keyed = |n: usize| Record { key: Some(format!("k{}", n % 5).into_bytes()), ..records(n + 1)[n].clone() };
    let truth: Vec<_> = (0..50).map(keyed).collect();
    let lake = Lake::of(kafka, topic, std::slice::from_ref(&truth), &[("retention.ms", "-1")]);
    let verify = || {
        let (code, out, err) = run(&["verify", &lake.url(), "--bootstrap-server", &bootstrap, "--json"]);
        let document: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"));
        (code, document)
    };
    let found =
        |document: &Value| ["equal", "compacted", "differences"].map(|key| document["compared"][0][key].as_u64());
    let (code, document) = verify();
    assert_eq!((code, found(&document)), (0, [Some(50), Some(0), Some(0)]), "{document:#}");

    let cleaned = "cleanup.policy=compact,segment.ms=100,min.cleanable.dirty.ratio=0.001";
    let alter = ["--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", cleaned];
    kafka.tool("kafka.admin.ConfigCommand", &alter).unwrap();
    // A record in a new segment, so that the cleaner may have the one before.
    let other = Record { key: Some(b"other".to_vec()), ..records(51)[50].clone() };
    wait_until("the log is cleaned", SOON, || {
        produce(&bootstrap, topic, 0, std::slice::from_ref(&other));
        consume(&bootstrap, topic, 0).iter().filter(|record| record.key != other.key).count() == 5
    })
    .unwrap();
    let (code, document) = verify();
    assert_eq!((code, found(&document)), (0, [Some(5), Some(45), Some(0)]), "{document:#}");
}

/// A topic with few and small records makes a file each time that offsets are committed.
#[test]
fn a_trickle_of_records_makes_no_more_files_than_asked_for() {
    let kafka = need!(kit::kafka());
    let (topic, lake) = ("peers-trickle", Lake::new());
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    let mut connector = lake.sink(topic, topic);
    connector["config"]["flush.size"] = json!("50");
    connector["config"]["rotate.age.ms"] = json!("600000");
    let often = [("offset.flush.interval.ms", "100")];
    let mut worker = Worker::start(&kafka.bootstrap(), &often, &[connector]);
    let numbers = Numbers::start(&kafka.bootstrap(), topic, 1, 20, 1);
    // Six seconds at 25 records a second, in which offsets were committed sixty times.
    worker.wait_archived(topic, 150, SOON);
    let count = numbers.stop();
    worker.wait_archived(topic, count as i64 / 50 * 50, SOON);
    assert_eq!(lake.data(topic, 0).len() as u64, count / 50);
    worker.stop();
    // What was open is published at the end, and nothing but files and the epoch's opening is written down.
    let files = lake.data(topic, 0).len();
    assert_eq!(files as u64, count.div_ceil(50));
    assert!(lake.chain(topic, 0).len() <= 1 + files, "{:?}", lake.chain(topic, 0));
}
