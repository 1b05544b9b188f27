//! `lakeferry verify` beside a real broker: the topic that was archived, its restored copy, and copies that are wrong
//! in one way each; and `lakeferry inspect` of the same archive.

use std::time::Duration;

use serde_json::{Value, json};

use crate::journey::{Worker, run};
use crate::kit::{self, need};
use crate::topic::{Record, produce, records};

const SOON: Duration = Duration::from_secs(60);
const COUNT: usize = 40;
const COMPACTED: (&str, &str) = ("cleanup.policy", "compact");

/// Records of one partition: nulls, tombstones, headers, and timestamps that are out of order.
fn odd_records(partition: i32) -> Vec<Record> {
    let mut rows = records(COUNT);
    for (at, row) in rows.iter_mut().enumerate() {
        row.value = (at % 7 != 3).then(|| format!("value {at} of {partition}").into_bytes());
        row.key = (at % 5 != 2).then(|| format!("key {at}").into_bytes());
        row.headers = (0..at % 3).map(|n| ("n".to_owned(), (n > 0).then(|| vec![at as u8]))).collect();
    }
    rows.swap(10, 11);
    rows
}

struct Archived {
    url: String,
    bootstrap: String,
    topic: &'static str,
}

impl Archived {
    /// Two partitions of `topic` in a lake.
    fn new(kafka: &kit::Kafka, topic: &'static str) -> Archived {
        let url = format!("file://{}", kit::home::instance_dir("lake").unwrap().display());
        let bootstrap = kafka.bootstrap();
        kafka.create_topic(topic, 2, &[("retention.ms", "-1")]).unwrap();
        (0..2).for_each(|partition| produce(&bootstrap, topic, partition, &odd_records(partition)));
        let connector = json!({ "name": topic, "config": {
            "connector.class": "io.lakeferry.LakeSinkConnector",
            "topics": topic,
            "store.url": url,
            "format": "archive.avro",
            "flush.size": "15",
            "rotate.age.ms": "500",
        }});
        let mut worker = Worker::start(&bootstrap, &[], &[connector]);
        worker.wait_archived(topic, 2 * COUNT as i64, SOON);
        worker.stop();
        Archived { url, bootstrap, topic }
    }

    /// Exit code and document of `verify` with the broker and these arguments.
    fn verify(&self, arguments: &[&str]) -> (i32, Value) {
        let fixed = ["verify", &self.url, "--json", "--bootstrap-server", &self.bootstrap];
        let (code, out, err) = run(&[&fixed, arguments].concat());
        let document = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"));
        (code, document)
    }

    /// As [`Archived::verify`], compared with the topic `copy`.
    fn verify_copy(&self, copy: &str, arguments: &[&str]) -> (i32, Value) {
        let rename = format!("{}={copy}", self.topic);
        self.verify(&[&["--rename", &rename], arguments].concat())
    }
}

/// Partition, archived offset, offset of the topic and field of each listed difference.
fn differences(document: &Value) -> Vec<(i64, Option<i64>, Option<i64>, String)> {
    let listed = document["differences_listed"].as_array().unwrap();
    let of = |found: &Value| {
        let offset = |key: &str| found[key].as_i64();
        let field = found["field"].as_str().unwrap().to_owned();
        (found["partition"].as_i64().unwrap(), offset("archived_offset"), offset("topic_offset"), field)
    };
    listed.iter().map(of).collect()
}

fn sum(document: &Value, member: &str) -> i64 {
    document["compared"].as_array().unwrap().iter().map(|compared| compared[member].as_i64().unwrap()).sum()
}

#[test]
fn an_archive_is_compared_with_its_own_topic_by_offset() {
    let kafka = need!(kit::kafka());
    let archived = Archived::new(kafka, "verify-own");
    let (code, document) = archived.verify(&[]);
    assert_eq!((code, &document["ok"]), (0, &json!(true)), "{document:#}");
    assert_eq!(document["checked"]["records"], json!(2 * COUNT));
    assert!(document["compared"].as_array().unwrap().iter().all(|compared| compared["matched_by"] == "offset"));
    assert_eq!((sum(&document, "equal"), sum(&document, "unarchived_offsets")), (2 * COUNT as i64, 0));

    // What is not archived yet is no difference, unless the topic is said to be a copy.
    produce(&archived.bootstrap, archived.topic, 1, &records(3));
    let (code, document) = archived.verify(&[]);
    assert_eq!((code, sum(&document, "unarchived_offsets")), (0, 3), "{document:#}");
    let (code, document) = archived.verify(&["--match", "order"]);
    assert_eq!((code, document["differences"].as_u64()), (1, Some(3)), "{document:#}");

    // A cut leaves the same records out on both sides.
    let until = odd_records(0)[20].timestamp.unwrap().to_string();
    let (code, document) = archived.verify(&["--until", &until]);
    assert_eq!((code, sum(&document, "equal")), (0, 2 * 21), "{document:#}");
}

#[test]
fn a_restored_topic_is_what_was_archived_up_to_the_cut() {
    let kafka = need!(kit::kafka());
    let archived = Archived::new(kafka, "verify-restored");
    let until = odd_records(0)[20].timestamp.unwrap().to_string();
    let rename = format!("{}=verify-copy", archived.topic);
    let restore = ["restore", &archived.url, "--bootstrap-server", &archived.bootstrap, "--rename", &rename];
    let (code, out, err) = run(&[&restore[..], &["--until", &until, "--yes"]].concat());
    assert_eq!(code, 0, "{out}\n{err}");

    let (code, document) = archived.verify_copy("verify-copy", &["--until", &until]);
    assert_eq!((code, sum(&document, "equal")), (0, 2 * 21), "{document:#}");
    assert!(document["compared"].as_array().unwrap().iter().all(|compared| compared["matched_by"] == "order"));
    let (code, document) = archived.verify_copy("verify-copy", &["--list", "2"]);
    assert_eq!((code, document["differences"].as_u64()), (1, Some(2 * (COUNT as u64 - 21))), "{document:#}");
    assert_eq!(differences(&document)[..], [21, 22].map(|offset| (0, Some(offset), None, "missing".to_owned())));
}

#[test]
fn a_copy_that_is_wrong_is_told_by_partition_offset_and_field() {
    let kafka = need!(kit::kafka());
    let archived = Archived::new(kafka, "verify-wrong");
    kafka.create_topic("verify-wrong-copy", 3, &[("retention.ms", "-1")]).unwrap();
    let mut copy = odd_records(0);
    copy[4].value = Some(b"altered".to_vec());
    copy[6].headers.clear();
    copy[6].headers.push(("other".to_owned(), None));
    copy[30].timestamp = copy[30].timestamp.map(|timestamp| timestamp + 1);
    copy.insert(20, Record::new(1_700_000_000_000, "one too many"));
    copy.remove(9);
    produce(&archived.bootstrap, "verify-wrong-copy", 0, &copy);
    produce(&archived.bootstrap, "verify-wrong-copy", 1, &odd_records(1));
    produce(&archived.bootstrap, "verify-wrong-copy", 2, &records(1));
    let (code, document) = archived.verify_copy("verify-wrong-copy", &[]);
    assert_eq!((code, &document["ok"], document["differences"].as_u64()), (1, &json!(false), Some(6)), "{document:#}");
    let expected = [
        (0, Some(4), Some(4), "value"),
        (0, Some(6), Some(6), "headers"),
        (0, Some(9), None, "missing"),
        (0, None, Some(19), "extra"),
        (0, Some(30), Some(30), "timestamp"),
        (2, None, Some(0), "extra"),
    ];
    let found = differences(&document);
    let found: Vec<_> = found.iter().map(|(at, one, other, field)| (*at, *one, *other, field.as_str())).collect();
    assert_eq!(found, expected, "{document:#}");

    let (code, document) = archived.verify_copy("verify-no-such-topic", &[]);
    assert_eq!(code, 1, "{document:#}");
    assert!(document["not_compared"][0].as_str().unwrap().contains("verify-no-such-topic"), "{document:#}");
}

#[test]
fn a_copy_by_offset_that_ends_before_the_archive_does_differs() {
    let kafka = need!(kit::kafka());
    let archived = Archived::new(kafka, "verify-short");
    for (copy, configs) in [("verify-short-copy", ("retention.ms", "-1")), ("verify-short-compacted", COMPACTED)] {
        kafka.create_topic(copy, 1, &[configs]).unwrap();
        let mut rows = odd_records(0);
        // Compacted topics take no record without a key.
        rows.truncate(2);
        produce(&archived.bootstrap, copy, 0, &rows);
        let (code, document) = archived.verify_copy(copy, &["--match", "offset"]);
        assert_eq!((code, &document["ok"]), (1, &json!(false)), "{document:#}");
        assert_eq!((sum(&document, "equal"), document["differences"].as_u64()), (2, Some(0)), "{document:#}");
        assert_eq!(sum(&document, "unreached_records"), COUNT as i64 - 2, "{document:#}");
        assert_eq!(document["not_compared"], json!([format!("verify-short-1: topic {copy} has no such partition")]));
    }
    let rename = "verify-short=verify-short-copy";
    let broker = ["--bootstrap-server", &archived.bootstrap];
    let arguments = ["verify", &archived.url, "--rename", rename, "--match", "offset"];
    // What lies behind the cut need not be there.
    let until = odd_records(0)[1].timestamp.unwrap().to_string();
    let (code, out, err) = run(&[&arguments[..], &broker].concat());
    let line = "2 records equal, 0 differences, 38 archived records that the topic does not reach\n";
    assert!(code == 1 && out.contains(line), "{out}\n{err}");
    let end = "topic verify-short-copy does not reach 38 archived records, 1 could not be compared\n";
    assert!(out.contains(end), "{out}\n{err}");
    let (_, document) = archived.verify_copy("verify-short-copy", &["--match", "offset", "--until", &until]);
    assert_eq!((sum(&document, "equal"), sum(&document, "unreached_records")), (2, 0), "{document:#}");
}

#[test]
fn wrong_arguments_and_failing_services_have_their_exit_codes() {
    let kafka = need!(kit::kafka());
    let archived = Archived::new(kafka, "verify-codes");
    let url = archived.url.as_str();
    let nowhere = format!("{url}/nowhere");
    let usage: [&[&str]; 5] = [
        &["verify", &nowhere],
        &["verify", url, "--topic", "unknown"],
        &["verify", url, "--bootstrap-server", &archived.bootstrap, "--until", "yesterday"],
        &["verify", url, "--until", "5"],
        &["verify", url, "--bootstrap-server", &archived.bootstrap, "--rename", "verify-cods=verify-codes"],
    ];
    for arguments in usage {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
    }

    let dir = kit::home::instance_dir("verify-codes").unwrap();
    let patience = dir.join("client.properties").display().to_string();
    std::fs::write(&patience, "default.api.timeout.ms=2000\n").unwrap();
    let closed = kit::home::Port::claim().unwrap();
    let arguments = ["verify", url, "--json", "--command-config", &patience, "--bootstrap-server", &closed.address()];
    let (code, out, err) = run(&arguments);
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &document["ok"]), (3, &json!(false)), "{out}\n{err}");
    assert!(document["failure"].is_string() && document["checked"]["records"] == json!(2 * COUNT), "{out}");

    let (code, out, _) = run(&["verify", url, "--level", "manifest"]);
    assert!(code == 0 && out.ends_with(": verified\n"), "{code} {out}");
}

#[test]
fn an_archive_is_summed_up_in_words_and_as_json() {
    let kafka = need!(kit::kafka());
    let archived = Archived::new(kafka, "inspected");
    let (code, words, err) = run(&["inspect", &archived.url]);
    assert_eq!(code, 0, "{err}");
    for said in
        ["  2 partitions, replication factor 1, retention.ms=-1\n", "  inspected-1: offsets 0 to 40 (next), 40 records"]
    {
        assert!(words.contains(said), "{words}");
    }
    let json = || {
        let (code, out, err) = run(&["inspect", &archived.url, "--topic", archived.topic, "--json"]);
        (code, serde_json::from_str::<Value>(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}")))
    };
    let (code, document) = json();
    let partitions = document[0]["partitions"].as_array().unwrap();
    assert_eq!((code, partitions.len()), (0, 2), "{document:#}");
    for partition in partitions {
        assert_eq!((&partition["records"], &partition["resume_offset"]), (&json!(COUNT), &json!(COUNT)));
        let times: Vec<_> = odd_records(0).iter().map(|row| row.timestamp.unwrap()).collect();
        assert_eq!(partition["min_timestamp"].as_i64(), times.iter().min().copied());
        assert_eq!(partition["max_timestamp"].as_i64(), times.iter().max().copied());
        assert_eq!((&partition["gaps"], &partition["unreferenced"]), (&json!([]), &json!([])));
    }

    // One damaged partition is named, and the other still shown.
    let lake = std::path::Path::new(archived.url.strip_prefix("file://").unwrap());
    let first = lake.join("topics/inspected/_manifests/partition=0/00000000000000000000.json");
    std::fs::write(&first, "{").unwrap();
    let (code, document) = json();
    let [damaged, whole] = &document[0]["partitions"].as_array().unwrap()[..] else { panic!("{document:#}") };
    assert_eq!((code, &whole["records"]), (1, &json!(COUNT)));
    assert!(damaged["problem"].as_str().unwrap().contains("00000000000000000000.json"), "{damaged:#}");
    let (code, _, err) = run(&["inspect", &archived.url, "--topic", "absent"]);
    assert!(code == 2 && err.contains("--topic absent"), "{code}: {err}");
}
