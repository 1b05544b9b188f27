//! A topic's real life, on a real broker: it is created again, compacted, grows partitions, stays empty, and has its
//! configs changed and its offsets forgotten. After each turn the archive is read by a stranger (`life/read.py`, which
//! has pyarrow, DuckDB and the manifests alone) and compared with the topic, and `inspect` says in words what happened.
//!
//! Records that retention took stand in `odd`, elections in `truncation`.

mod changes;
mod idle;

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::journey::{Worker, run};
use crate::kit::{self, Kafka, KafkaOptions, Python, need, poll_until, wait_until};
use crate::lake::{Lake, sink, task_state, wait_trace};
use crate::topic::{Record, consume, produce, records};

const SOON: Duration = Duration::from_secs(60);
const READ: &str = include_str!("life/read.py");
const FRESH: [(&str, &str); 2] =
    [("consumer.override.topic.metadata.refresh.interval.ms", "500"), ("consumer.override.metadata.max.age.ms", "500")];

/// A record as a stranger sees it: offset, timestamp, its type, key, value.
type Row = (i64, Option<i64>, Option<String>, Option<String>, Option<String>);

/// What a stranger finds of one partition.
#[derive(Debug, Deserialize)]
struct Found {
    rows: Vec<Row>,
    missing: Value,
    gaps: Value,
    resume_offset: Option<i64>,
    topic: Value,
}

impl Found {
    fn read(python: &Python, lake: &Lake, topic: &str, partition: i32) -> Found {
        Self::read_lineage(python, lake, topic, partition, 0)
    }

    /// Lineage 0 is the newest one.
    fn read_lineage(python: &Python, lake: &Lake, topic: &str, partition: i32, lineage: u32) -> Found {
        let folder = lake.dir.join("topics").display().to_string();
        let args = [folder, topic.to_owned(), partition.to_string(), lineage.to_string()];
        serde_json::from_str(&python.eval(READ, &args, SOON).unwrap()).unwrap()
    }

    fn records(&self) -> Vec<Record> {
        let bytes = |text: &Option<String>| text.as_ref().map(|text| text.as_bytes().to_vec());
        let record = |(_, timestamp, _, key, value): &Row| Record {
            timestamp: *timestamp,
            key: bytes(key),
            value: bytes(value),
            headers: Vec::new(),
        };
        self.rows.iter().map(record).collect()
    }
}

/// What `inspect` says, which must have all of `words`.
fn assert_inspect_says(lake: &Lake, topic: &str, words: &[&str]) {
    assert_inspect_says_when_asked(&["inspect", &lake.url(), "--topic", topic], words);
    let (code, out, err) = run(&["verify", &lake.url(), "--level", "content"]);
    assert_eq!(code, 0, "{out}\n{err}");
}

fn assert_inspect_says_when_asked(arguments: &[&str], words: &[&str]) {
    let (code, out, err) = run(arguments);
    assert_eq!(code, 0, "{out}\n{err}");
    for word in words {
        assert!(out.contains(word), "no `{word}` in\n{out}");
    }
}

fn start(kafka: &Kafka, lake: &Lake, topic: &str, settings: &[(&str, &str)]) -> Worker {
    let url = lake.url();
    let settings = [&[("store.url", url.as_str())], &FRESH[..], settings].concat();
    Worker::start(&kafka.bootstrap(), &[], &[sink(topic, topic, &settings)])
}

/// The last manifest.
fn end(lake: &Lake, topic: &str, partition: i32) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(lake.chain(topic, partition).pop()?).unwrap()).ok()
}

fn wait_end(worker: &Worker, lake: &Lake, topic: &str, reached: impl Fn(&Value) -> bool) -> Value {
    let found = poll_until(SOON, || end(lake, topic, 0).filter(|end| reached(end)));
    found.unwrap_or_else(|| panic!("{:#?}\n{}", end(lake, topic, 0), worker.log()))
}

fn restore(kafka: &Kafka, lake: &Lake, topic: &str, target: &str, more: &[&str]) {
    let (url, bootstrap, rename) = (lake.url(), kafka.bootstrap(), format!("{topic}={target}"));
    let all = ["restore", &url, "--bootstrap-server", &bootstrap, "--topic", topic, "--rename", &rename, "--yes"];
    let (code, out, err) = run(&[&all, more].concat());
    assert_eq!(code, 0, "{out}\n{err}");
}

/// A producer in a transaction that has begun.
fn transaction(kafka: &Kafka, id: &str) -> BaseProducer {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).set("transactional.id", id).create().unwrap();
    producer.init_transactions(SOON).unwrap();
    producer.begin_transaction().unwrap();
    producer
}

fn send(producer: &BaseProducer, topic: &str, records: &[Record]) {
    for record in records {
        let (key, value) = (record.key.as_ref().unwrap(), record.value.as_ref().unwrap());
        let record = BaseRecord::to(topic).partition(0).key(key).payload(value).timestamp(record.timestamp.unwrap());
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(SOON).unwrap();
}

#[test]
fn a_topic_that_is_created_again_is_two_archives_in_one() {
    let (kafka, python) = (need!(kit::kafka()), need!(kit::python()));
    let (topic, lake, all) = ("life-again", Lake::new(), records(30));
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &all[..10]);
    let mut worker = start(kafka, &lake, topic, &[]);
    worker.wait_archived(topic, 10, SOON);
    // Longer than before: no offset tells that it is another.
    kafka.delete_topic(topic).unwrap();
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &all[10..]);
    let reached = |end: &Value| end["source"]["lineage"] == 2 && end["resume_offset"] == 20;
    assert_eq!(wait_end(&worker, &lake, topic, reached)["source"]["started_by"], "created");
    worker.stop();

    assert_eq!(Found::read(python, &lake, topic, 0).records(), all[10..]);
    assert_eq!(Found::read_lineage(python, &lake, topic, 0, 1).records(), all[..10]);
    let id = |lineage: usize| {
        let last = end(&lake, topic, 0).unwrap();
        last["lineages"][lineage - 1]["topic_id"].as_str().unwrap().to_owned()
    };
    assert_ne!(id(1), id(2));
    let old = format!("1: the log from its start, offset 0, topic id {}, archived to offset 10 (next)", id(1));
    let new = format!("2: the topic was created again, offset 0, topic id {}, archived to offset 20 (next)", id(2));
    assert_inspect_says(&lake, topic, &["lineage 2 of these", &old, &new, "at the end 20"]);
    restore(kafka, &lake, topic, "life-again-old", &["--lineage", "1"]);
    restore(kafka, &lake, topic, "life-again-new", &[]);
    assert_eq!(consume(&kafka.bootstrap(), "life-again-old", 0), all[..10]);
    assert_eq!(consume(&kafka.bootstrap(), "life-again-new", 0), all[10..]);
}

#[test]
fn a_topic_that_was_deleted_by_mistake_comes_back_though_an_empty_one_has_its_name() {
    let kafka = need!(kit::kafka());
    let (topic, lake, all) = ("life-mistake", Lake::new(), records(20));
    let (url, bootstrap, rename) = (lake.url(), kafka.bootstrap(), format!("{topic}=life-mistake-back"));
    kafka.create_topic(topic, 2, &[("retention.ms", "-1")]).unwrap();
    produce(&bootstrap, topic, 0, &all[..12]);
    produce(&bootstrap, topic, 1, &all[12..]);
    let mut worker = start(kafka, &lake, topic, &[]);
    worker.wait_archived(topic, 20, SOON);
    // As a client does that asks for a topic and lets the broker make it.
    kafka.delete_topic(topic).unwrap();
    kafka.create_topic(topic, 2, &[]).unwrap();
    // The broker is asked for the new id twice, a minute apart.
    let is_known = |partition| end(&lake, topic, partition).is_some_and(|end| end["source"]["lineage"] == 2);
    let known = poll_until(SOON * 5, || (0..2).all(is_known).then_some(()));
    known.unwrap_or_else(|| panic!("{:#?}\n{}", end(&lake, topic, 0), worker.log()));
    worker.stop();
    let lines = end(&lake, topic, 0).unwrap()["lineages"].clone();
    let [old, new] = [0, 1].map(|at| lines[at]["topic_id"].as_str().unwrap().to_owned());

    let plan = |more: &[&str]| {
        let all =
            ["restore", &url, "--bootstrap-server", &bootstrap, "--topic", topic, "--rename", &rename, "--dry-run"];
        let (code, out, err) = run(&[&all, more].concat());
        assert_eq!(code, 0, "{out}\n{err}");
        out
    };
    let out = plan(&[]);
    let passed_over = format!("the newest incarnation of the topic, {new}, came up at 20");
    let chosen =
        format!("is empty: the newest one that holds records was chosen, {old}; --lineage {new} takes the empty");
    assert!(out.contains(&passed_over) && out.contains(&chosen) && out.contains("to restore: 20 records"), "{out}");
    let out: Value = serde_json::from_str(&plan(&["--json"])).unwrap();
    assert_eq!(
        (&out["topics"][0]["topic_id"], &out["topics"][0]["passed_over"]["topic_id"]),
        (&json!(old), &json!(new))
    );
    let out = plan(&["--lineage", &new]);
    let other = format!("holds 20 records: --lineage {old} takes it instead");
    assert!(out.contains(&other) && out.contains("to restore: 0 records"), "{out}");

    restore(kafka, &lake, topic, "life-mistake-back", &[]);
    assert_eq!(consume(&bootstrap, "life-mistake-back", 0), all[..12]);
    assert_eq!(consume(&bootstrap, "life-mistake-back", 1), all[12..]);
    let (code, out, err) = run(&["verify", &url, "--bootstrap-server", &bootstrap, "--rename", &rename]);
    assert!(code == 0 && out.contains(&passed_over), "{out}\n{err}");

    // Now the new one has a record, and is the newest: the same command once more goes on with what it has begun.
    let mut worker = start(kafka, &lake, topic, &[]);
    produce(&bootstrap, topic, 0, &all[..1]);
    let archived = || end(&lake, topic, 0).filter(|end| end["resume_offset"] == 1 && end["source"]["lineage"] == 2);
    poll_until(SOON, archived).unwrap_or_else(|| panic!("{}", worker.log()));
    worker.stop();
    restore(kafka, &lake, topic, "life-mistake-back", &[]);
    assert_eq!(consume(&bootstrap, "life-mistake-back", 0), all[..12]);
    assert_eq!(consume(&bootstrap, "life-mistake-back", 1), all[12..]);
}

#[test]
fn who_wants_no_gap_is_stopped_before_it() {
    let (kafka, python) = (need!(kit::kafka()), need!(kit::python()));
    let (topic, lake, all) = ("life-no-gap", Lake::new(), records(20));
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &all[..10]);
    let mut worker = start(kafka, &lake, topic, &[("errors.on.gap", "fail")]);
    worker.wait_archived(topic, 10, SOON);
    worker.stop();
    produce(&kafka.bootstrap(), topic, 0, &all[10..]);
    kafka.delete_records(topic, 0, 15).unwrap();
    worker.restart();
    for word in ["offsets 10..=14", "gone from Kafka", "errors.on.gap=continue"] {
        wait_trace(&worker, topic, word);
    }
    assert_eq!(task_state(&worker, topic), "FAILED");
    assert_eq!(end(&lake, topic, 0).unwrap()["resume_offset"], 10, "nothing was written");

    // The remedy that it names.
    let patch = json!({ "errors.on.gap": "continue" });
    assert_eq!(worker.request("PATCH", &format!("/connectors/{topic}/config"), &patch).0, 200);
    worker.wait_archived(topic, 20, SOON);
    assert!(worker.log().contains("offsets 10..=14 are gone from Kafka"), "{}", worker.log());
    worker.stop();
    let found = Found::read(python, &lake, topic, 0);
    assert_eq!(found.records(), [&all[..10], &all[15..]].concat());
    assert_eq!(found.gaps, json!([[10, 14, "log_start_moved"]]));
    assert_eq!(end(&lake, topic, 0).unwrap()["source"]["lineage"], 1, "the same log");
    assert_inspect_says(&lake, topic, &["gap 10 to 14: LOST: retention or deleted records overtook the archive"]);
}

#[test]
fn what_the_log_cleaner_took_is_counted_and_so_are_holes_at_the_end() {
    let (kafka, python) = (need!(kit::kafka()), need!(kit::python()));
    let (topic, lake, bootstrap) = ("life-compact", Lake::new(), kafka.bootstrap());
    let configs = [("cleanup.policy", "compact"), ("segment.ms", "100"), ("min.cleanable.dirty.ratio", "0.001")];
    kafka.create_topic(topic, 1, &configs).unwrap();
    let keyed = |n: usize| Record { key: Some(format!("k{}", n % 5).into_bytes()), ..records(n + 1)[n].clone() };
    let all: Vec<_> = (0..60).map(keyed).collect();
    produce(&bootstrap, topic, 0, &all[..50]);
    // A record in a new segment, so that the cleaner may have the first; then nothing but holes.
    wait_until("the log is cleaned", SOON, || {
        produce(&bootstrap, topic, 0, &all[50..51]);
        consume(&bootstrap, topic, 0).len() < 40
    })
    .unwrap();
    let log_end = kafka.offsets(topic, 0).unwrap().1 + 5;
    let open = transaction(kafka, "life-compact");
    send(&open, topic, &all[51..55]);
    open.abort_transaction(SOON).unwrap();

    let mut worker = start(kafka, &lake, topic, &[]);
    worker.wait_archived(topic, log_end, SOON);
    worker.stop();
    let (found, left) = (Found::read(python, &lake, topic, 0), consume(&bootstrap, topic, 0));
    // The cleaner may have been at it again since.
    let (found_last, left_last) = (found.records().pop().unwrap(), left.last().unwrap().clone());
    assert_eq!(found_last, left_last);
    assert!(left.iter().all(|record| found.records().contains(record)), "{found:?}");
    assert_eq!(found.resume_offset, Some(log_end));
    let (last, _, _, _, _) = found.rows[found.rows.len() - 1];
    assert!(last + 5 < log_end, "the end is four aborted records and their marker: {last}, {log_end}");
    let missing = found.missing["compaction_or_transaction"].as_i64().unwrap();
    let in_gaps: i64 =
        found.gaps.as_array().unwrap().iter().map(|gap| gap[1].as_i64().unwrap() - gap[0].as_i64().unwrap() + 1).sum();
    assert_eq!(found.rows.len() as i64 + missing + in_gaps, log_end, "every offset is accounted for");
    assert_inspect_says(&lake, topic, &["offsets without record: removed by the log cleaner", "at the end"]);
}

#[test]
fn an_open_transaction_holds_the_archive_back_and_aborted_ones_leave_holes() {
    let (kafka, python) = (need!(kit::kafka()), need!(kit::python()));
    let (topic, lake, all) = ("life-transactions", Lake::new(), records(14));
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    for (part, commit) in [(0..3, true), (3..5, false)] {
        let one = transaction(kafka, "life-tx");
        send(&one, topic, &all[part]);
        if commit { one.commit_transaction(SOON) } else { one.abort_transaction(SOON) }.unwrap();
    }
    let open = transaction(kafka, "life-tx-open");
    send(&open, topic, &all[5..8]);
    // What comes behind it is complete, but not stable.
    produce(&kafka.bootstrap(), topic, 0, &all[8..14]);
    let mut worker = start(kafka, &lake, topic, &[]);
    // 3 and a marker, 2 aborted and a marker.
    let stable = wait_end(&worker, &lake, topic, |end| end["resume_offset"] == 7);
    assert_eq!(stable["log"]["last_stable_offset"], 7);
    assert_eq!(Found::read(python, &lake, topic, 0).records(), all[..3]);
    let words = [
        "at the end 7 of the log then, for readers of committed records (whether an open transaction holds back more is",
        "transaction markers and aborted data",
    ];
    assert_inspect_says(&lake, topic, &words);
    // The broker knows what no manifest says: three records of the transaction and six behind it.
    let (url, bootstrap) = (lake.url(), kafka.bootstrap());
    let ask = ["inspect", url.as_str(), "--topic", topic, "--bootstrap-server", bootstrap.as_str()];
    let words = [
        "at the end 7 of the log then, for readers of committed records\n",
        "in the cluster now: offsets 0 to 7 (next) for readers of committed records; all of it is archived",
        "an open transaction holds back 9 offsets, from 7 on: they are archived once it has ended",
    ];
    assert_inspect_says_when_asked(&ask, &words);
    let (_, out, _) = run(&[&ask[..], &["--json"]].concat());
    let now = serde_json::from_str::<Value>(&out).unwrap()[0]["partitions"][0]["now"].clone();
    assert_eq!((&now["last_stable_offset"], &now["end_offset"], &now["held_back"]), (&json!(7), &json!(16), &json!(9)));

    open.commit_transaction(SOON).unwrap();
    worker.wait_archived(topic, 17, SOON);
    worker.stop();
    let found = Found::read(python, &lake, topic, 0);
    assert_eq!(found.records(), [&all[..3], &all[5..]].concat());
    assert_eq!(found.records(), consume(&kafka.bootstrap(), topic, 0));
    assert_inspect_says(&lake, topic, &["12 records", "at the end 17"]);
    let (code, out, err) = run(&ask);
    assert!(code == 0 && out.contains("all of it is archived") && !out.contains("holds back"), "{out}\n{err}");
    kafka.delete_topic(topic).unwrap();
    assert_inspect_says_when_asked(&ask, &["at the end 17", "in the cluster now: no such partition"]);
}

#[test]
fn partitions_that_are_added_and_configs_that_change_are_followed() {
    let (kafka, python) = (need!(kit::kafka()), need!(kit::python()));
    let (topic, lake, bootstrap, all) = ("life-grows", Lake::new(), kafka.bootstrap(), records(30));
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&bootstrap, topic, 0, &all[..10]);
    let mut worker = start(kafka, &lake, topic, &[]);
    worker.wait_archived(topic, 10, SOON);
    assert_inspect_says(&lake, topic, &["1 partitions", "retention.ms=-1"]);

    kafka.tool("org.apache.kafka.tools.TopicCommand", &["--alter", "--topic", topic, "--partitions", "3"]).unwrap();
    let change = ["--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config"];
    let change = [&change[..], &["retention.ms=8640000000000,max.message.bytes=2000000"]].concat();
    kafka.tool("kafka.admin.ConfigCommand", &change).unwrap();
    // Produced before the worker can know of the partition; the third stays empty.
    produce(&bootstrap, topic, 1, &all[10..20]);
    produce(&bootstrap, topic, 0, &all[20..]);
    worker.wait_archived(topic, 30, SOON);
    worker.stop();
    let (first, second) = (Found::read(python, &lake, topic, 0), Found::read(python, &lake, topic, 1));
    assert_eq!(first.records(), [&all[..10], &all[20..]].concat());
    assert_eq!(second.records(), all[10..20], "from its first record on");
    assert_eq!(second.topic["configs"]["max.message.bytes"], "2000000");
    assert!(lake.chain(topic, 2).is_empty(), "nothing is owed to an empty partition");
    let words = ["3 partitions", "retention.ms=8640000000000", "nothing is archived of 1 of them: they had no record"];
    assert_inspect_says(&lake, topic, &words);
    restore(kafka, &lake, topic, "life-grows-back", &[]);
    assert_eq!(consume(&bootstrap, "life-grows-back", 1), all[10..20]);
    assert_eq!(kafka.topic("life-grows-back").unwrap().unwrap().len(), 3, "the empty partition is there, too");
}

#[test]
fn timestamps_are_kept_whatever_they_say_and_whoever_gave_them() {
    let (kafka, python) = (need!(kit::kafka()), need!(kit::python()));
    let bootstrap = kafka.bootstrap();
    let far = 32_503_680_000_000;
    let times = [5_000, 1_000, far, 3_000, 1, far + 1, 2_000];
    let all: Vec<_> = times.iter().map(|time| Record::new(*time, &format!("at {time}"))).collect();
    let any = [("message.timestamp.after.max.ms", "9223372036854775807"), ("retention.ms", "-1")];
    for (topic, stamped) in [("life-times", "CreateTime"), ("life-appended", "LogAppendTime")] {
        let lake = Lake::new();
        kafka.create_topic(topic, 1, &[&any[..], &[("message.timestamp.type", stamped)]].concat()).unwrap();
        produce(&bootstrap, topic, 0, &all);
        // One file each: record time must not decide when a file is whole.
        let mut worker = start(kafka, &lake, topic, &[]);
        worker.wait_archived(topic, 7, SOON);
        worker.stop();
        let found = Found::read(python, &lake, topic, 0);
        assert_eq!(found.records(), consume(&bootstrap, topic, 0));
        let given: Vec<_> = found.rows.iter().map(|row| row.2.as_deref().unwrap()).collect();
        if stamped == "CreateTime" {
            assert_eq!(found.records(), all);
            assert_eq!(given, ["create"; 7]);
            assert_inspect_says(&lake, topic, &["record times 1970-01-01T00:00:00.001Z to 3000-01-01T00:00:00.001Z"]);
        } else {
            assert_eq!(given, ["append"; 7]);
            assert!(found.records().iter().all(|record| record.timestamp.unwrap() < far), "{found:?}");
            assert_inspect_says(&lake, topic, &["record times 2", "message.timestamp.type=LogAppendTime"]);
        }
        // Whoever gave them: they come back, and a broker that would stamp anew is told not to.
        let target = format!("{topic}-back");
        restore(kafka, &lake, topic, &target, &[]);
        assert_eq!(consume(&bootstrap, &target, 0), found.records());
    }
}

#[test]
fn topics_that_match_a_pattern_come_and_go() {
    let (kafka, python) = (need!(kit::kafka()), need!(kit::python()));
    let (lake, bootstrap, all) = (Lake::new(), kafka.bootstrap(), records(30));
    let mut connector = sink("life-pattern", "", &[&[("store.url", lake.url().as_str())], &FRESH[..]].concat());
    let config = connector["config"].as_object_mut().unwrap();
    config.remove("topics");
    config.insert("topics.regex".to_owned(), json!("life-p-[a-z]+"));
    let mut worker = Worker::start(&bootstrap, &[], &[connector]);
    let (one, two) = ("life-p-one", "life-p-two");
    kafka.create_topic(one, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&bootstrap, one, 0, &all[..10]);
    worker.wait_archived("life-pattern", 10, SOON);
    kafka.create_topic(two, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&bootstrap, two, 0, &all[10..20]);
    wait_end(&worker, &lake, two, |end| end["resume_offset"] == 10);
    kafka.delete_topic(one).unwrap();
    produce(&bootstrap, two, 0, &all[20..]);
    wait_end(&worker, &lake, two, |end| end["resume_offset"] == 20);
    worker.wait_state("life-pattern", "RUNNING", SOON);
    worker.stop();
    assert_eq!(Found::read(python, &lake, one, 0).records(), all[..10], "what is gone is kept");
    assert_eq!(Found::read(python, &lake, two, 0).records(), all[10..]);
    // It needs no broker to ask: what the topic was stands in the lake.
    let last = end(&lake, one, 0).unwrap();
    let id = last["source"]["topic_id"].as_str().unwrap();
    let was = format!("lineage 1: the log from its start, offset 0, topic id {id}, archived to offset 10 (next)");
    assert_inspect_says(&lake, one, &["10 records in 1 files", &was]);
    assert_inspect_says(&lake, two, &["20 records", "at the end 20"]);
    restore(kafka, &lake, one, "life-back-one", &[]);
    assert_eq!(consume(&bootstrap, "life-back-one", 0), all[..10]);
}
