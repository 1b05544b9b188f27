//! Odd turns of an archive's life: two writers on one partition, records that cannot be archived, offsets that are lost
//! before they are read. After each the archive accounts for every offset, and says why where a record is missing.

use std::path::Path;
use std::time::Duration;

use lakeferry::clock::SystemClock;
use lakeferry_api::Clock as _;
use serde_json::{Value, json};

use crate::http::Request;
use crate::journey::{Worker, run, s3_settings};
use crate::kit::kafka::RawRecord;
use crate::kit::proxy::{Fault, HttpProxy, HttpRequest};
use crate::kit::{self, Kafka, KafkaOptions, need, poll_until, wait_until};
use crate::lake::{Lake, files_below, restore, sink, task_state, task_trace, wait_trace};
use crate::topic::{Record, consume, produce, records};

const SOON: Duration = Duration::from_secs(60);

/// The entries of a partition's chain below the folder that holds `topics`, in order.
fn entries(lake: &Path, topic: &str) -> Vec<Value> {
    let chain = files_below(&lake.join(format!("topics/{topic}/_manifests/partition=0")));
    chain.iter().map(|file| serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()).collect()
}

/// Bounds and reason of every gap that the chain tells, in order.
fn gaps(lake: &Path, topic: &str) -> Vec<(i64, i64, String)> {
    let gap = |gap: &Value| {
        let bound = |key: &str| gap[key].as_i64().unwrap();
        (bound("from"), bound("to"), gap["reason"].as_str().unwrap().to_owned())
    };
    entries(lake, topic).iter().flat_map(|entry| entry["gaps"].as_array().unwrap()).map(gap).collect()
}

fn assert_true(lake: &Lake) {
    let (code, out, err) = run(&["verify", &lake.url(), "--level", "content"]);
    assert_eq!(code, 0, "{out}\n{err}");
}

/// Records of 64 KiB that no codec makes smaller.
fn noise(count: usize) -> Vec<Record> {
    let mut state = 4_u64;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let value = |record: Record| Record { value: Some((0..64 << 10).map(|_| step()).collect()), ..record };
    records(count).into_iter().map(value).collect()
}

fn metrics(worker: &Worker) -> String {
    let headers = vec![("Accept".to_owned(), "text/plain".to_owned())];
    let answer = worker.send(&Request { headers, ..Request::new("GET", "/metrics") });
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
    answer.body
}

fn resume_offset(entry: &Value) -> i64 {
    entry["resume_offset"].as_i64().unwrap()
}

#[test]
fn of_two_writers_on_one_partition_the_older_is_fenced_and_recovers() {
    let (kafka, s3) = (need!(kit::kafka()), need!(kit::s3()));
    let (topic, bootstrap) = ("odd-zombie", kafka.bootstrap());
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    let bucket = s3.create_bucket("zombie").unwrap();
    let proxy = HttpProxy::start(s3.address()).unwrap();
    let connector = |endpoint: String| {
        let mut settings = s3_settings(s3, "zombie");
        settings.iter_mut().filter(|(key, _)| key == "store.aws_endpoint").for_each(|pair| pair.1 = endpoint.clone());
        // A member learns late that the group goes on without it.
        settings.push(("consumer.override.session.timeout.ms".to_owned(), "90000".to_owned()));
        settings.push(("consumer.override.heartbeat.interval.ms".to_owned(), "60000".to_owned()));
        let settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        sink("zombie", topic, &settings)
    };
    let (all, lake) = (records(50), Lake { dir: bucket.join("lake") });
    produce(&bootstrap, topic, 0, &all[..10]);
    let mut first = Worker::start(&bootstrap, &[], &[connector(proxy.url())]);
    first.wait_archived("zombie", 10, SOON);

    // The group forgets the first, whose next entry is on its way. Another task gets the partition and archives.
    let entry = |request: &HttpRequest| request.method == "PUT" && request.path.contains("/_manifests/");
    let held = proxy.fault_next(Fault::Hold, entry);
    produce(&bootstrap, topic, 0, &all[10..20]);
    held.wait_struck(SOON).unwrap();
    kafka.evict("connect-zombie").unwrap();
    let mut second = Worker::start(&bootstrap, &[], &[connector(s3.endpoint())]);
    produce(&bootstrap, topic, 0, &all[20..30]);
    second.wait_archived("zombie", 30, SOON);
    second.stop();

    // The entry comes too late: its number is taken. The group, asked then, denies that the partition is the first's;
    // whether the client says so or the answer is seen first, it is given up long before a heartbeat is due.
    held.release();
    let given_up = || ["given up", "lost partitions"].iter().any(|word| first.log().contains(word)).then_some(());
    if poll_until(SOON, given_up).is_none() {
        panic!("the late entry was not refused\n{}\n{}", first.log(), second.log());
    }
    produce(&bootstrap, topic, 0, &all[30..]);
    first.wait_archived("zombie", 50, SOON);
    first.stop();

    let writer_of = |epoch: i64| {
        let of_epoch = |entry: &Value| entry["epoch"] == epoch && entry["kind"] == "commit";
        let entry = entries(&lake.dir, topic).into_iter().find(of_epoch).unwrap();
        entry["writer"]["worker"].as_str().unwrap().to_owned()
    };
    let writers = [1, 2, 3].map(writer_of);
    assert!(writers[0] == writers[2] && writers[0] != writers[1], "{writers:?}");
    assert_true(&lake);
    let (code, out, err) = restore(&lake, &bootstrap, topic, "odd-zombie-target");
    assert_eq!(code, 0, "{out}\n{err}");
    assert_eq!(consume(&bootstrap, "odd-zombie-target", 0), all);
}

#[test]
fn a_header_key_that_is_no_text_fails_the_task_until_it_is_skipped() {
    let kafka = need!(kit::kafka());
    let (topic, bootstrap, lake) = ("odd-header", kafka.bootstrap(), Lake::new());
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    let good = records(6);
    produce(&bootstrap, topic, 0, &good[..3]);
    let headers = vec![(b"good".to_vec(), None), (vec![0xff, b'x'], Some(b"v".to_vec()))];
    kafka.produce_raw(topic, 0, &[RawRecord { timestamp: 1, headers, ..RawRecord::default() }]).unwrap();
    produce(&bootstrap, topic, 0, &good[3..]);
    let mut worker = Worker::start(&bootstrap, &[], &[lake.sink(topic, topic)]);
    for word in ["offset 3 of odd-header-0", "not UTF-8", "to go on behind it"] {
        wait_trace(&worker, topic, word);
    }
    assert_eq!(task_state(&worker, topic), "FAILED");
    assert_eq!(worker.request("GET", "/", &Value::Null).0, 200, "the worker lives");
    // What came before the record is not held up by it.
    assert_eq!(resume_offset(entries(&lake.dir, topic).last().unwrap()), 3);

    // The remedy that it names, by the REST API.
    let (path, offsets) = advised(&worker, topic);
    assert_eq!(worker.request("PUT", &format!("/connectors/{topic}/stop"), &Value::Null).0, 204);
    let altered = || worker.request("PATCH", &path, &offsets).0 == 200;
    wait_until("the offsets are altered", SOON, altered).unwrap();
    assert_eq!(worker.request("PUT", &format!("/connectors/{topic}/resume"), &Value::Null).0, 202);
    worker.wait_state(topic, "RUNNING", SOON);
    worker.wait_archived(topic, 7, SOON);
    worker.stop();
    assert_eq!(gaps(&lake.dir, topic), [(3, 3, "altered".to_owned())]);
    assert_true(&lake);
    let (code, out, err) = restore(&lake, &bootstrap, topic, "odd-header-target");
    assert_eq!(code, 0, "{out}\n{err}");
    assert_eq!(consume(&bootstrap, "odd-header-target", 0), good);
}

/// What a failed task's trace says to send: the path, and the body.
fn advised(worker: &Worker, name: &str) -> (String, Value) {
    let trace = task_trace(worker, name);
    let (path, rest) = trace.split_once("PATCH ").and_then(|(_, rest)| rest.split_once(" with ")).expect("a remedy");
    let (body, _) = rest.split_once(", and resume it").expect("the whole remedy");
    (path.to_owned(), serde_json::from_str(body).unwrap())
}

#[test]
fn what_a_task_without_a_reset_policy_advises_moves_that_partition_alone() {
    let kafka = need!(kit::kafka());
    let (topic, beside, bootstrap, lake) = ("odd-none", "odd-none-beside", kafka.bootstrap(), Lake::new());
    for topic in [topic, beside] {
        kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
        produce(&bootstrap, topic, 0, &records(10));
    }
    // One that keeps no positions of its own: where to go on nobody else can say.
    let connector = json!({ "name": topic, "config": {
        "connector.class": "FileStreamSink", "topics": format!("{topic},{beside}"), "file": lake.dir.join("lines"),
        "consumer.override.auto.offset.reset": "none",
    }});
    let worker = Worker::start(&bootstrap, &[("offset.flush.interval.ms", "500")], &[connector]);
    let put = |what: &str, code: u16| {
        assert_eq!(worker.request("PUT", &format!("/connectors/{topic}/{what}"), &Value::Null).0, code)
    };
    let patch = |path: &str, body: &Value| {
        wait_until("the offsets are altered", SOON, || worker.request("PATCH", path, body).0 == 200).unwrap();
    };
    wait_trace(&worker, topic, "no reset policy");
    put("stop", 204);
    let start = [topic, beside].map(
        |topic| json!({ "partition": { "kafka_topic": topic, "kafka_partition": 0 }, "offset": { "kafka_offset": 0 } }),
    );
    patch(&format!("/connectors/{topic}/offsets"), &json!({ "offsets": start }));
    put("resume", 202);
    worker.wait_state(topic, "RUNNING", SOON);
    worker.wait_archived(topic, 20, SOON);
    put("pause", 202);
    worker.wait_state(topic, "PAUSED", SOON);
    produce(&bootstrap, topic, 0, &records(10));
    kafka.delete_records(topic, 0, 15).unwrap();
    put("resume", 202);
    wait_trace(&worker, topic, "odd-none-0 begins at offset 15 now");

    let (path, body) = advised(&worker, topic);
    assert_eq!(body["offsets"].as_array().unwrap().len(), 1, "{body}");
    put("stop", 204);
    patch(&path, &body);
    assert_eq!(worker.archived(topic), 15 + 10, "the other topic stays where it was");
    put("resume", 202);
    worker.wait_state(topic, "RUNNING", SOON);
    worker.wait_archived(topic, 20 + 10, SOON);
}

/// Not deleted by hand: the broker's own retention, which leaves the log empty.
#[test]
fn what_the_brokers_own_retention_took_is_a_gap_and_a_restore_keeps_the_rest() {
    let options = KafkaOptions::default()
        .property("log.retention.check.interval.ms", "500")
        .property("log.initial.task.delay.ms", "500");
    let kafka = need!(Kafka::start(options));
    let (topic, bootstrap, lake) = ("odd-expired", kafka.bootstrap(), Lake::new());
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    let mut all = records(30);
    let now = SystemClock::new().now_ms();
    all[20..].iter_mut().for_each(|record| record.timestamp = Some(now));
    produce(&bootstrap, topic, 0, &all[..10]);
    let mut worker = Worker::start(&bootstrap, &[], &[lake.sink(topic, topic)]);
    worker.wait_archived(topic, 10, SOON);
    worker.stop();
    produce(&bootstrap, topic, 0, &all[10..20]);
    let hour = ["--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", "retention.ms=3600000"];
    kafka.tool("kafka.admin.ConfigCommand", &hour).unwrap();
    wait_until("the records expire", SOON, || kafka.offsets(topic, 0).unwrap() == (20, 20)).unwrap();
    produce(&bootstrap, topic, 0, &all[20..]);
    worker.restart();
    worker.wait_archived(topic, 30, SOON);
    worker.stop();
    assert_eq!(gaps(&lake.dir, topic), [(10, 19, "log_start_moved".to_owned())]);
    assert_true(&lake);
    // Older than the topic may be, and kept all the same.
    let (code, out, err) = restore(&lake, &bootstrap, topic, "odd-expired-target");
    assert_eq!(code, 0, "{out}\n{err}");
    assert!(out.contains("retention.ms=3600000; under these the brokers delete what is too old"), "{out}");
    assert_eq!(consume(&bootstrap, "odd-expired-target", 0), [&all[..10], &all[20..]].concat());
}

#[test]
fn what_retention_took_before_it_was_archived_is_a_gap() {
    let kafka = need!(kit::kafka());
    let (topic, bootstrap, lake) = ("odd-retention", kafka.bootstrap(), Lake::new());
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    let all = records(60);
    produce(&bootstrap, topic, 0, &all[..10]);
    let mut worker = Worker::start(&bootstrap, &[], &[lake.sink(topic, topic)]);
    worker.wait_archived(topic, 10, SOON);
    let lost = |from, to| (from, to, "log_start_moved".to_owned());

    // Lost while nobody was there.
    worker.stop();
    produce(&bootstrap, topic, 0, &all[10..20]);
    kafka.delete_records(topic, 0, 15).unwrap();
    worker.restart();
    worker.wait_archived(topic, 20, SOON);
    assert_eq!(gaps(&lake.dir, topic), [lost(10, 14)]);
    let counted = |offsets: u64| {
        let labels = format!("connector=\"{topic}\",topic=\"{topic}\",partition=\"0\",reason=\"log_start_moved\"");
        format!("lakeferry_sink_gap_offsets_total{{{labels}}} {offsets}\n")
    };
    let text = metrics(&worker);
    assert!(text.contains(&counted(5)), "{text}");
    assert!(text.contains("# TYPE lakeferry_sink_files_ended_early_total counter"), "{text}");

    // Lost under the reader's feet, once with records behind it and once with none.
    let put =
        |what: &str| assert_eq!(worker.request("PUT", &format!("/connectors/{topic}/{what}"), &Value::Null).0, 202);
    let overtaken = || worker.log().matches("retention overtook").count();
    for (nth, (from, to, keep)) in (1..).zip([(20, 30, 25), (30, 40, 40)]) {
        put("pause");
        worker.wait_state(topic, "PAUSED", SOON);
        produce(&bootstrap, topic, 0, &all[from..to]);
        kafka.delete_records(topic, 0, keep).unwrap();
        put("resume");
        wait_until("the worker notices", SOON, || overtaken() == nth).unwrap();
        if keep < to as i64 {
            worker.wait_archived(topic, to as i64, SOON);
        }
    }
    produce(&bootstrap, topic, 0, &all[40..]);
    worker.wait_archived(topic, 60, SOON);
    assert_eq!(overtaken(), 2);
    let text = metrics(&worker);
    assert!(text.contains(&counted(20)), "{text}");
    worker.stop();
    assert_eq!(gaps(&lake.dir, topic), [lost(10, 14), lost(20, 24), lost(30, 39)]);
    let opens = entries(&lake.dir, topic).iter().filter(|entry| entry["kind"] == "open").count();
    assert_eq!(opens, 4, "one for each start and each gap");
    assert_true(&lake);
    let (code, out, err) = restore(&lake, &bootstrap, topic, "odd-retention-target");
    assert_eq!(code, 0, "{out}\n{err}");
    let left: Vec<Record> = [&all[..10], &all[15..20], &all[25..30], &all[40..]].concat();
    assert_eq!(consume(&bootstrap, "odd-retention-target", 0), left);
}

#[test]
fn files_that_end_early_for_memory_are_counted() {
    let kafka = need!(kit::kafka());
    let (topic, bootstrap, lake) = ("odd-memory", kafka.bootstrap(), Lake::new());
    let (partitions, of_each) = (8, 50);
    kafka.create_topic(topic, partitions, &[("retention.ms", "-1")]).unwrap();
    for partition in 0..partitions {
        produce(&bootstrap, topic, partition as i32, &noise(of_each));
    }
    // No file is whole before its time, and the time is far away: 25 MB wait, and there are 16 MiB and no room on disk.
    let connector = sink(topic, topic, &[("store.url", &lake.url()), ("rotate.age.ms", "3600000")]);
    let limits = [("lakeferry.memory.bytes", "16777216"), ("lakeferry.spill.dir", "")];
    let mut worker = Worker::start(&bootstrap, &limits, &[connector]);
    let counted = || {
        let text = metrics(&worker);
        let labels = format!("{{connector=\"{topic}\",topic=\"{topic}\"}} ");
        let of = |line: &str| {
            line.strip_prefix("lakeferry_sink_files_ended_early_total")?.strip_prefix(&labels)?.parse().ok()
        };
        text.lines().find_map(of).unwrap_or(0_usize)
    };
    wait_until("files end early", SOON, || counted() > 0).unwrap();
    let early = || worker.log().matches("closing a file early: memory runs short").count();
    wait_until("what is logged is counted", SOON, || counted() == early()).unwrap();
    let patch = json!({ "rotate.age.ms": "500" });
    assert_eq!(worker.request("PATCH", &format!("/connectors/{topic}/config"), &patch).0, 200);
    worker.wait_archived(topic, (partitions * of_each) as i64, SOON);
    worker.stop();
    assert_true(&lake);
}

#[test]
fn an_offset_is_set_of_a_topic_that_was_made_anew_while_its_connector_was_stopped() {
    let kafka = need!(kit::kafka());
    let (topic, bootstrap, lake) = ("odd-anew", kafka.bootstrap(), Lake::new());
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    let all = records(20);
    produce(&bootstrap, topic, 0, &all[..10]);
    let mut worker = Worker::start(&bootstrap, &[], &[lake.sink(topic, topic)]);
    worker.wait_archived(topic, 10, SOON);
    assert_eq!(worker.request("PUT", &format!("/connectors/{topic}/stop"), &Value::Null).0, 204);
    let alter = |offset: Value| {
        let offsets = json!({ "offsets": [{
            "partition": { "kafka_topic": topic, "kafka_partition": 0 }, "offset": offset,
        }]});
        worker.request("PATCH", &format!("/connectors/{topic}/offsets"), &offsets).0 == 200
    };
    kafka.delete_topic(topic).unwrap();
    wait_until("what is gone is reset", SOON, || alter(Value::Null)).unwrap();
    assert_eq!(resume_offset(entries(&lake.dir, topic).last().unwrap()), 10, "the archive has nothing to say to it");
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&bootstrap, topic, 0, &all[10..]);
    wait_until("the offsets are altered", SOON, || alter(json!({ "kafka_offset": 4 }))).unwrap();
    assert_eq!(worker.request("PUT", &format!("/connectors/{topic}/resume"), &Value::Null).0, 202);
    worker.wait_state(topic, "RUNNING", SOON);
    worker.wait_archived(topic, 10, SOON);
    worker.stop();
    let end = entries(&lake.dir, topic).pop().unwrap();
    assert_eq!((&end["source"]["lineage"], &end["source"]["first"]), (&json!(2), &json!(4)));
    assert_true(&lake);
    let (code, out, err) = restore(&lake, &bootstrap, topic, "odd-anew-target");
    assert_eq!(code, 0, "{out}\n{err}");
    assert_eq!(consume(&bootstrap, "odd-anew-target", 0), all[14..]);
}
