//! Failures that others had, where no other test of ours holds them: `docs/reliability.md` lists them all.

use std::time::Duration;

use serde_json::{Value, json};

use crate::journey::{Worker, run};
use crate::kit::{self, need};
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
