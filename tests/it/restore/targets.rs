//! What a restore makes of the targets that are not there yet: none for nothing, and none before it is known that all
//! can be made.

use std::time::Duration;

use serde_json::{Value, json};

use super::{assert_holds, held, thick, visible};
use crate::journey::{Worker, run};
use crate::kit::{self, need, wait_until};
use crate::lake::{Lake, wait_trace};
use crate::topic::produce;

const SOON: Duration = Duration::from_secs(60);
const EARLY: i64 = 1_700_000_000_000;
const LATE: i64 = 1_730_000_000_000;
const BETWEEN: &str = "2024-06-01T00:00:00Z";

/// A lake with two topics, `<name>-early` and `<name>-late`, of records before and after [`BETWEEN`].
pub(super) fn lake_of_two(kafka: &kit::Kafka, name: &str) -> Lake {
    let (early, late) = (format!("{name}-early"), format!("{name}-late"));
    let lake = Lake::of(kafka, &early, &[thick(20, 10, EARLY)], &[("retention.ms", "-1")]);
    kafka.create_topic(&late, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), &late, 0, &thick(20, 10, LATE));
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[lake.sink(&late, &late)]);
    worker.wait_archived(&late, 20, SOON);
    worker.stop();
    lake
}

#[test]
fn a_topic_without_records_in_the_range_gets_no_target_beside_one_that_has_some() {
    let kafka = need!(kit::kafka());
    let lake = lake_of_two(kafka, "ranged");
    let (url, bootstrap) = (lake.url(), kafka.bootstrap());
    let fixed = [&url, "--bootstrap-server", &bootstrap, "--until", BETWEEN];
    let renames = ["--rename", "ranged-early=ranged-early-back", "--rename", "ranged-late=ranged-late-back"];
    let (code, out, err) = run(&[&["restore"], &fixed[..], &renames, &["--yes", "--apply-configs"]].concat());
    assert_eq!(code, 0, "{out}\n{err}");
    assert!(out.contains("ranged-early-back (will be created, 1 partitions): 20 records"), "{out}");
    assert!(out.contains("ranged-late-back (will not be created, 1 partitions): 0 records"), "{out}");
    assert_eq!(visible(kafka, "ranged-early-back"), 20);
    assert!(kafka.topic("ranged-late-back").unwrap().is_none(), "an empty topic is soon taken for what was archived");

    // What was not to be restored is not missed.
    let (code, out, err) = run(&[&["verify"], &fixed[..], &renames].concat());
    assert!(code == 0 && out.contains("no topic ranged-late-back, and nothing of it"), "{code} {out}\n{err}");
    let (code, out, err) = run(&[&["verify"], &fixed[..3], &renames].concat());
    assert!(code == 1 && out.contains("not compared: ranged-late: the cluster has no topic"), "{code} {out}\n{err}");
}

#[test]
fn targets_that_cannot_be_made_are_told_before_anything_is() {
    let kafka = need!(kit::kafka());
    let lake = lake_of_two(kafka, "unmade");
    let (url, bootstrap) = (lake.url(), kafka.bootstrap());
    let restore = |late: &str, more: &[&str]| {
        let late = format!("unmade-late={late}");
        let renames = ["--rename", "unmade-early=unmade-early-back", "--rename", &late];
        run(&[&["restore", &url, "--bootstrap-server", &bootstrap], &renames[..], more].concat())
    };
    for ending in ["--dry-run", "--yes"] {
        let (code, out, err) = restore("no such name!", &[ending]);
        assert!(code == 2 && err.contains("topic no such name!"), "{ending}: {code} {out}\n{err}");
        let (code, out, err) = restore("unmade-late-back", &[ending, "--replication-factor", "7"]);
        assert!(
            code == 2 && err.contains("topic unmade-early-back cannot be created"),
            "{ending}: {code} {out}\n{err}"
        );
        assert!(kafka.topic("unmade-early-back").unwrap().is_none(), "{ending}: made though another cannot be");
    }
    let (code, out, err) = restore("unmade-late-back", &["--dry-run"]);
    assert!(code == 0 && kafka.topic("unmade-late-back").unwrap().is_none(), "{code} {out}\n{err}");
    let (code, out, err) = restore("unmade-late-back", &["--yes"]);
    assert!(code == 0 && held(kafka, "unmade-late-back") > 0, "{code} {out}\n{err}");
}

#[test]
fn data_objects_that_are_gone_are_told_before_anything_is_written() {
    let kafka = need!(kit::kafka());
    let lake = lake_of_two(kafka, "gone");
    let (url, bootstrap) = (lake.url(), kafka.bootstrap());
    let renames = ["--rename", "gone-early=gone-early-back", "--rename", "gone-late=gone-late-back"];
    let restore =
        |more: &[&str]| run(&[&["restore", &url, "--bootstrap-server", &bootstrap], &renames[..], more].concat());
    let object = lake.data("gone-late", 0).pop().unwrap();
    let whole = std::fs::read(&object).unwrap();
    let name = object.file_name().unwrap().to_str().unwrap();
    let refused = |how: &str| {
        for ending in ["--dry-run", "--yes"] {
            let (code, out, err) = restore(&[ending]);
            assert!(code == 1 && err.contains(name) && err.contains(how), "{ending}: {code} {out}\n{err}");
            assert!(err.contains("or leave out with --offsets what is lost"), "{err}");
            assert!(kafka.topic("gone-early-back").unwrap().is_none(), "{ending}: something was written");
        }
    };
    std::fs::remove_file(&object).unwrap();
    refused("(offsets 0 to 19) is missing; nothing was written");
    std::fs::write(&object, &whole[..10]).unwrap();
    refused("(offsets 0 to 19) has 10 bytes");
    // Who does not read it does not miss it.
    for part in [["--until", BETWEEN], ["--offsets", "gone-early:0:0:19"]] {
        let (code, out, err) = restore(&[&part[..], &["--dry-run"]].concat());
        assert_eq!(code, 0, "{part:?}: {out}\n{err}");
    }
    std::fs::write(&object, whole).unwrap();
    let (code, out, err) = restore(&["--yes"]);
    assert!(code == 0 && visible(kafka, "gone-late-back") == 20, "{code} {out}\n{err}");
}

#[test]
fn a_target_that_takes_only_small_batches_is_filled_in_small_batches() {
    let kafka = need!(kit::kafka());
    let truth = [thick(400, 2000, EARLY)];
    let lake = Lake::of(kafka, "batched", &truth, &[("retention.ms", "-1")]);
    let configs = [
        ("retention.ms", "-1"),
        ("max.message.bytes", "100000"),
        ("message.timestamp.before.max.ms", "9223372036854775807"),
    ];
    kafka.create_topic("batched-back", 1, &configs).unwrap();
    let mut config = json!({
        "connector.class": "LakeSource",
        "store.url": lake.url(),
        "topics": "batched",
        "topic.rename": "batched:batched-back",
    });
    let replay = |config: &Value| json!({ "name": "batched-replay", "config": config });
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[replay(&config)]);
    wait_trace(&worker, "batched-replay", "producer.override.batch.size");
    worker.stop();
    config["producer.override.batch.size"] = json!("50000");
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[replay(&config)]);
    wait_until("it is replayed", SOON, || visible(kafka, "batched-back") == 400).unwrap();
    worker.stop();
    assert_holds(kafka, "batched-back", &truth);
}
