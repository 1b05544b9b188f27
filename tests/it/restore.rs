//! Ways back that are not straight: a restore or a replaying connector that is cut short and goes on, and what each
//! option of `lakeferry restore` does to the target.

mod cut_back;
mod lost;
mod targets;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::journey::{Worker, program, run, s3_settings};
use crate::kafka::admin;
use crate::kit::kafka::RawRecord;
use crate::kit::proxy::HttpProxy;
use crate::kit::{self, Launch, Process, need, poll_until, wait_until};
use crate::lake::{Lake, sink, task_state, wait_trace};
use crate::topic::{Record, consume, produce, records};

const SOON: Duration = Duration::from_secs(60);

/// `count` records of about `bytes` each, one second of record time between them, begun at `from_ms`.
pub(crate) fn thick(count: usize, bytes: usize, from_ms: i64) -> Vec<Record> {
    let record = |at: usize| {
        let value = format!("{at:06} {}", "x".repeat(bytes));
        Record { key: None, ..Record::new(from_ms + at as i64 * 1000, &value) }
    };
    (0..count).map(record).collect()
}

/// A `lakeferry restore` that runs beside the test.
pub(crate) struct Restore {
    pub(crate) process: Process,
    log: PathBuf,
}

impl Restore {
    pub(crate) fn start(arguments: &[&str]) -> Restore {
        let log = kit::instance_dir("restore").unwrap().join("log");
        Restore { process: Launch::new(program(), &log).args(arguments).start().unwrap(), log }
    }

    /// Waits until the target holds at least `records`.
    pub(crate) fn wait_written(&mut self, kafka: &kit::Kafka, target: &str, records: i64) {
        let written = || held(kafka, target) >= records;
        if poll_until(SOON, || written().then_some(())).is_none() {
            panic!("{target} holds {}\n{}", held(kafka, target), self.process.log_tail());
        }
    }

    /// Sends a signal; the exit code and all that it said.
    pub(crate) fn end(mut self, signal: &str) -> (Option<i32>, String) {
        self.process.signal(signal);
        let status = self.process.wait(SOON).expect("it ends");
        (status.code(), std::fs::read_to_string(&self.log).unwrap())
    }
}

/// Offsets that the partitions of a topic have in all.
pub(crate) fn held(kafka: &kit::Kafka, topic: &str) -> i64 {
    let partitions = kafka.topic(topic).unwrap().unwrap_or_default();
    partitions.iter().filter_map(|one| kafka.offsets(topic, one.id).ok()).map(|(start, end)| end - start).sum()
}

/// Each partition with its records, all at once: a client takes its time to begin and to end.
pub(crate) fn assert_holds(kafka: &kit::Kafka, target: &str, expected: &[Vec<Record>]) {
    std::thread::scope(|scope| {
        for (partition, expected) in (0..).zip(expected) {
            scope.spawn(move || {
                let found = consume(&kafka.bootstrap(), target, partition);
                assert!(found == *expected, "{target}-{partition}: {} records, not {}", found.len(), expected.len());
            });
        }
    });
}

/// Records that a `read_committed` client finds.
pub(crate) fn visible(kafka: &kit::Kafka, topic: &str) -> usize {
    let partitions = kafka.topic(topic).unwrap().unwrap_or_default();
    partitions.iter().map(|one| consume(&kafka.bootstrap(), topic, one.id).len()).sum()
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
    let cases = [
        ("topic-way-on", &[][..], truth.clone()),
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
        let mut restore = Restore::start(&[&same[..], &["--rate", "60000"], more].concat());
        restore.wait_written(kafka, target, 20);
        let (code, words) = restore.end("TERM");
        assert!(code == Some(3) && words.contains("the same command goes on behind them"), "{words}");
        let written = visible(kafka, target);
        assert!(0 < written && written < expected.iter().map(Vec::len).sum(), "{words}");
        let (code, out, err) = run(&[&same[..], more].concat());
        assert!(code == 0 && out.contains("behind what was restored before"), "{words}\n{out}\n{err}");
        assert_holds(kafka, target, &expected);
        // Once more there is nothing left to do.
        let (code, out, err) = run(&[&same[..], more].concat());
        let all: usize = expected.iter().map(Vec::len).sum();
        let words = format!("nothing was restored: all {all} records that are asked for were restored before");
        assert!(code == 0 && out.contains(&words), "{out}\n{err}");
        assert_holds(kafka, target, &expected);
        // And the proof takes the same arguments.
        let verify = ["verify", &url, "--bootstrap-server", &bootstrap, "--rename", &rename];
        let (code, out, err) = run(&[&verify[..], more].concat());
        assert!(code == 0 && out.contains(&format!("{all} records equal: no difference")), "{out}\n{err}");
    }
    let verify = ["verify", &url, "--bootstrap-server", &bootstrap, "--rename", "topic-stopped=topic-way-on-offsets"];
    for (range, exit) in [("topic-stopped:0:10:38", 1), ("topic-stoped:0:10:39", 2)] {
        let (code, out, err) = run(&[&verify[..], &["--offsets", range]].concat());
        assert!(code == exit, "{range}: {code} {out}\n{err}");
    }
}

#[test]
fn a_restore_that_has_lost_its_brokers_ends_and_goes_on_when_they_are_back() {
    let mut kafka = need!(kit::Kafka::start(kit::KafkaOptions::default()));
    let truth = [thick(600, 1000, 1_700_000_000_000)];
    let lake = Lake::of(&kafka, "topic-lost", &truth, &[("retention.ms", "-1")]);
    let (url, bootstrap, target) = (lake.url(), kafka.bootstrap(), "topic-lost-broker");
    let patience = kit::instance_dir("patience").unwrap().join("client.properties");
    std::fs::write(&patience, "delivery.timeout.ms=2000\nrequest.timeout.ms=1000\n").unwrap();
    let (rename, patience) = (format!("topic-lost={target}"), patience.display().to_string());
    let same = ["restore", &url, "--yes", "--bootstrap-server", &bootstrap, "--rename", &rename];
    let mut restore = Restore::start(&[&same[..], &["--rate", "20000", "--command-config", &patience]].concat());
    restore.wait_written(&kafka, target, 60);
    kafka.kill();
    let status = restore.process.wait(SOON).expect("it ends by itself");
    let words = std::fs::read_to_string(&restore.log).unwrap();
    assert!(status.code() == Some(3) && words.contains("the same command goes on"), "{words}");
    kafka.restart().unwrap();
    let (code, out, err) = run(&same);
    assert_eq!(code, 0, "{words}\n{out}\n{err}");
    assert_holds(&kafka, target, &truth);
}

/// The offsets that Connect has stored for a lake source, by archived partition.
pub(crate) fn stored(worker: &Worker, connector: &str) -> Vec<usize> {
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
pub(crate) fn wait_stored(worker: &Worker, connector: &str, than: &[usize]) -> Vec<usize> {
    let beyond = |now: &Vec<usize>| now.iter().zip(than).all(|(now, than)| now > than);
    let found = poll_until(SOON, || Some(stored(worker, connector)).filter(beyond));
    found.unwrap_or_else(|| panic!("{:?} is not beyond {than:?}\n{}", stored(worker, connector), worker.log()))
}

#[test]
fn a_replaying_connector_goes_on_where_its_group_says() {
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
    assert!(at_kill.iter().all(|offset| *offset < 160), "{at_kill:?}");
    wait_stored(&worker, name, &[159, 159]);
    assert_holds(kafka, target, &truth);
}

#[test]
fn a_replaying_connector_waits_for_a_store_and_a_broker_that_are_away() {
    let mut kafka = need!(kit::Kafka::start(kit::KafkaOptions::default()));
    let s3 = need!(kit::s3());
    s3.create_bucket("replay-away").unwrap();
    let (topic, target, truth) = ("topic-away", "replay-away-target", thick(80, 1000, 1_700_000_000_000));
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &truth);
    let proxy = HttpProxy::start(s3.address()).unwrap();
    let mut settings = s3_settings(s3, "replay-away");
    settings.iter_mut().filter(|(key, _)| key == "store.aws_endpoint").for_each(|pair| pair.1 = proxy.url());
    let lake: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let worker = Worker::start(&kafka.bootstrap(), &[], &[sink(topic, topic, &lake)]);
    worker.wait_archived(topic, 80, SOON);

    proxy.refuse();
    let mut source = json!({
        "connector.class": "LakeSource",
        "topics": topic,
        "topic.rename": format!("{topic}:{target}"),
        "replay.rate.bytes": "20000",
    });
    lake.iter().for_each(|(key, value)| source[*key] = json!(value));
    worker.create(&json!({ "name": "replay", "config": source }));
    wait_trace(&worker, "replay", "topics");
    assert_eq!(task_state(&worker, "replay"), "RUNNING");
    proxy.accept().unwrap();
    let held = |kafka: &kit::Kafka| held(kafka, target);
    wait_until("the replay begins", SOON, || held(&kafka) > 10).unwrap();
    kafka.kill();
    kafka.restart().unwrap();
    wait_until("the replay ends", SOON, || stored(&worker, "replay")[0] == 80).unwrap();
    assert_holds(&kafka, target, &[truth]);
    assert_eq!(task_state(&worker, "replay"), "RUNNING");
}

/// Documents on standard output, one a line.
fn documents(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn pairs(configs: &[(&str, &str)]) -> BTreeMap<String, String> {
    configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// `restore` restores two partitions, given more arguments.
fn a_time_later_than_the_archive_is_told(restore: impl Fn(&[&str]) -> (i32, String, String)) {
    let later = "2113-01-01T00:00:00Z";
    let (_, out, err) = restore(&["--dry-run", "--until", later, "--json"]);
    let ends = &documents(&out)[0]["topics"][0]["ends_early"];
    let [zero, one] = [0, 1].map(|at| (&ends[at]["partition"], &ends[at]["behind"]));
    assert_eq!((zero, one), ((&json!(0), &json!(0)), (&json!(1), &json!(0))), "{ends}\n{err}");
    assert!(ends[0]["resume_offset"].as_i64() >= Some(40) && ends[1]["written_at"].is_i64(), "{ends}");
    let (code, out, err) = restore(&["--dry-run", "--until", later]);
    let words = "partitions end in the archive before 2113-01-01T00:00:00.000Z, the time asked for: 0 at offset ";
    assert!(code == 0 && out.contains(words) && out.contains("if nothing was written to them since"), "{out}\n{err}");
}

#[tokio::test]
async fn the_options_of_a_restore_do_what_they_say() {
    let kafka = need!(kit::kafka());
    let bootstrap = kafka.bootstrap();
    let truth: Vec<_> = (0..2).map(|_| thick(40, 1000, 1_700_000_000_000)).collect();
    let own = [("retention.ms", "-1"), ("max.message.bytes", "2000000"), ("min.compaction.lag.ms", "7")];
    let lake = Lake::of(kafka, "topic-options", &truth, &own);
    let url = lake.url();
    let restore = |target: &str, more: &[&str]| {
        let rename = format!("topic-options={target}");
        let fixed = ["restore", &url, "--bootstrap-server", &bootstrap, "--rename", &rename];
        run(&[&fixed, more].concat())
    };

    let (code, out, err) = restore("options-target", &["--dry-run", "--json"]);
    let plan = &documents(&out)[..];
    let [plan] = plan else { panic!("{code}: {out}\n{err}") };
    assert_eq!((code, &plan["records"]), (0, &json!(80)), "{plan:#}");
    let topic = &plan["topics"][0];
    assert_eq!((&topic["topic"], &topic["target"]), (&json!("topic-options"), &json!("options-target")));
    assert_eq!((&topic["exists"], &topic["partitions"], &topic["untimed"]), (&json!(false), &json!(2), &json!(0)));
    assert_eq!(topic["archived_configs"], json!(pairs(&own)));
    assert!(
        topic["raw_bytes"].as_u64().unwrap() > 80_000 && topic["logs"][1]["files"].as_u64() >= Some(1),
        "{topic:#}"
    );
    assert!(kafka.topic("options-target").unwrap().is_none(), "a dry run makes nothing");
    assert_eq!(topic["ends_early"], json!([]));
    a_time_later_than_the_archive_is_told(|more| restore("options-target", more));
    let (code, _, err) = restore("options-target", &[]);
    assert!(code == 2 && err.contains("--yes"), "nobody confirmed: {code} {err}");
    assert!(kafka.topic("options-target").unwrap().is_none());

    let (code, out, err) = restore("options-target", &["--yes", "--json"]);
    let [_, account] = &documents(&out)[..] else { panic!("{code}: {out}\n{err}") };
    assert_eq!((code, &account["complete"], &account["records"]), (0, &json!(true), &json!(80)), "{account:#}");
    assert_eq!(account["records_by_topic"], json!({ "topic-options": 80 }));
    assert_holds(kafka, "options-target", &truth);
    let made = admin(&bootstrap).topic("options-target").await.unwrap().configs;
    assert_eq!((&*made["retention.bytes"], &*made["message.timestamp.after.max.ms"]), ("-1", "9223372036854775807"));

    let other = ["--yes", "--id", "options-again"];
    let (code, _, err) = restore("options-target", &other);
    assert!(code == 2 && err.contains("(partition 0: 0 to 41)") && err.contains("--append"), "{code} {err}");
    assert_eq!(visible(kafka, "options-target"), 80);
    // The target is one of a restore, so what only the restore needed goes.
    let (code, out, err) = restore("options-target", &[&other[..], &["--append", "--apply-configs"]].concat());
    assert!(code == 0 && out.contains("options-target holds up to 8"), "{out}\n{err}");
    assert_holds(
        kafka,
        "options-target",
        &truth.iter().map(|one| [one.clone(), one.clone()].concat()).collect::<Vec<_>>(),
    );
    assert_eq!(admin(&bootstrap).topic("options-target").await.unwrap().configs, pairs(&own));

    kafka.create_topic("options-compacted", 2, &[("cleanup.policy", "compact")]).unwrap();
    let (code, _, err) = restore("options-compacted", &["--yes"]);
    assert!(code == 2 && err.contains("cleanup.policy=compact") && err.contains("--force"), "{code} {err}");
    let (code, _, err) = restore("options-compacted", &["--yes", "--force"]);
    // Kafka takes no record without a key there; the words are the broker's.
    assert!(code == 3 && visible(kafka, "options-compacted") == 0, "{code} {err}");
    kafka.create_topic("options-narrow", 1, &[("retention.ms", "-1")]).unwrap();
    let (code, _, err) = restore("options-narrow", &["--yes", "--force"]);
    assert!(code == 2 && err.contains("partitions=1"), "{code} {err}");
}

#[tokio::test]
async fn a_restore_that_has_applied_some_configs_can_be_said_again() {
    let kafka = need!(kit::kafka());
    let bootstrap = kafka.bootstrap();
    let (compacted, plain) =
        ([("cleanup.policy", "compact")], [("retention.ms", "-1"), ("min.compaction.lag.ms", "7")]);
    let lake = Lake::of(kafka, "settled-one", &[records(20)], &compacted);
    kafka.create_topic("settled-two", 1, &plain).unwrap();
    let archive_more = |count: i64| {
        produce(&bootstrap, "settled-two", 0, &records(20));
        let mut worker = Worker::start(&bootstrap, &[], &[lake.sink("settled-two", "settled-two")]);
        let reached = || lake.chain("settled-two", 0).last().and_then(|entry| std::fs::read_to_string(entry).ok());
        let next = || serde_json::from_str::<Value>(&reached()?).ok()?["resume_offset"].as_i64();
        wait_until("it is archived", SOON, || next() == Some(count)).unwrap();
        worker.stop();
    };
    archive_more(20);
    let renames = ["--rename", "settled-one=settled-one-back", "--rename", "settled-two=settled-two-back"];
    let url = lake.url();
    let restore = |more: &[&str]| {
        run(&[&["restore", &url, "--bootstrap-server", &bootstrap, "--yes"], &renames[..], more].concat())
    };
    let (code, out, err) = restore(&[]);
    assert_eq!(code, 0, "{out}\n{err}");
    // As it is left where the first topic has its configs, and the second does not.
    let admin = admin(&bootstrap);
    let made = admin.topic("settled-one-back").await.unwrap().configs;
    let mut settled: BTreeMap<_, _> = made.into_keys().map(|key| (key, None)).collect();
    settled.insert("cleanup.policy".to_owned(), Some("compact".to_owned()));
    admin.alter_topic_configs("settled-one-back", &settled).await.unwrap();
    for _ in 0..2 {
        let (code, out, err) = restore(&["--apply-configs"]);
        assert_eq!(code, 0, "{out}\n{err}");
        assert!(out.contains("all 20 records of it were restored before"), "{out}");
        assert_eq!(admin.topic("settled-one-back").await.unwrap().configs, pairs(&compacted));
        assert_eq!(admin.topic("settled-two-back").await.unwrap().configs, pairs(&plain));
    }
    assert_eq!((visible(kafka, "settled-one-back"), visible(kafka, "settled-two-back")), (20, 20));

    // What comes later goes to the topic that is fit for it, and not to the one that is not.
    archive_more(40);
    let (code, out, err) = restore(&["--apply-configs"]);
    assert_eq!((code, visible(kafka, "settled-two-back")), (0, 40), "{out}\n{err}");
    admin.alter_topic_configs("settled-two-back", &settled).await.unwrap();
    archive_more(60);
    let (code, out, err) = restore(&["--apply-configs"]);
    assert!(code == 2 && err.contains("topic settled-two-back is not fit") && out.is_empty(), "{code} {out}\n{err}");
}

#[test]
fn a_range_without_records_and_a_mistyped_topic_are_told() {
    let kafka = need!(kit::kafka());
    let lake = Lake::of(kafka, "topic-mistyped", &[thick(40, 10, 1_700_000_000_000)], &[("retention.ms", "-1")]);
    let (url, bootstrap) = (lake.url(), kafka.bootstrap());
    let restore = |rename: &str, more: &[&str]| {
        run(&[&["restore", &url, "--bootstrap-server", &bootstrap, "--yes", "--rename", rename], more].concat())
    };
    let (code, out, err) = restore("topic-mistyped=mistyped-early", &["--until", "2020-01-01T00:00:00Z"]);
    let span = "the timestamps of its archived records are 2023-11-14T22:13:20.000Z to 2023-11-14T22:13:59.000Z";
    assert!(code == 0 && out.contains(span), "{out}\n{err}");
    assert!(out.contains("nothing was restored: no archived record lies in the range"), "{out}\n{err}");
    assert!(out.contains("mistyped-early (will not be created, 1 partitions): 0 records"), "{out}");
    assert!(kafka.topic("mistyped-early").unwrap().is_none(), "no topic is made for nothing");
    // One that is there keeps what it holds, and gets its configs.
    kafka.create_topic("mistyped-early", 1, &[("retention.ms", "-1")]).unwrap();
    let (code, out, err) =
        restore("topic-mistyped=mistyped-early", &["--until", "2020-01-01T00:00:00Z", "--apply-configs"]);
    assert!(code == 0 && out.contains("mistyped-early (exists, ") && out.contains("configs applied"), "{out}\n{err}");
    let (code, out, err) = restore("topic-mistypde=mistyped-typo", &[]);
    assert!(
        code == 2 && err.contains("topic-mistypde is not among") && err.contains("chosen: topic-mistyped;"),
        "{err}"
    );
    assert!(out.is_empty() && held(kafka, "topic-mistyped") == 40, "{out}");
}

#[test]
fn a_restore_by_time_keeps_its_pace_and_the_order_of_all_partitions() {
    let kafka = need!(kit::kafka());
    let bootstrap = kafka.bootstrap();
    let truth: Vec<_> = (0..2).map(|at| thick(40, 1000, 1_700_000_000_000 + at * 500)).collect();
    let lake = Lake::of(kafka, "topic-by-time", &truth, &[("retention.ms", "-1")]);
    // The broker's own stamps tell when each record arrived.
    kafka.create_topic("by-time-target", 2, &[("message.timestamp.type", "LogAppendTime")]).unwrap();
    let arguments = ["restore", &lake.url(), "--bootstrap-server", &bootstrap, "--order", "time", "--rate", "40000"];
    let more = ["--rename", "topic-by-time=by-time-target", "--yes", "--json"];
    let (code, _, err) = run(&[&arguments[..], &more].concat());
    assert!(code == 2 && err.contains("message.timestamp.type=LogAppendTime"), "{code} {err}");
    let (code, out, err) = run(&[&arguments[..], &more, &["--force"]].concat());
    assert_eq!(code, 0, "{out}\n{err}");
    // 80 kB at 40 kB a second; the first piece is free.
    let seconds = documents(&out)[1]["seconds"].as_f64().unwrap();
    assert!(seconds > 1.5, "{seconds}");
    let arrived: Vec<_> = (0..2).map(|partition| consume(&bootstrap, "by-time-target", partition)).collect();
    assert!(arrived.iter().zip(&truth).all(|(arrived, truth)| arrived.len() == truth.len()));
    // What is a quarter of the log later arrives later, whichever partition it is in.
    for (one, other) in [(0, 1), (1, 0)] {
        for at in 0..30 {
            assert!(arrived[one][at].timestamp < arrived[other][at + 10].timestamp, "{one}: {at}");
        }
    }
}

#[test]
fn records_without_time_are_counted_and_refused_until_they_may_be_stamped() {
    let kafka = need!(kit::kafka());
    let (bootstrap, topic) = (kafka.bootstrap(), "topic-untimed");
    let in_2013 = thick(20, 10, 1_370_000_000_000);
    let lake = Lake::of(kafka, topic, std::slice::from_ref(&in_2013), &[("retention.ms", "-1")]);
    let odd = |timestamp, value: &str| RawRecord { timestamp, value: Some(value.into()), ..RawRecord::default() };
    kafka.produce_raw(topic, 0, &[odd(1, "one"), odd(0, "zero"), odd(-1, "none")]).unwrap();
    let worker = Worker::start(&bootstrap, &[], &[lake.sink(topic, topic)]);
    worker.wait_archived(topic, 23, SOON);

    let same = ["restore", &lake.url(), "--bootstrap-server", &bootstrap, "--rename", "topic-untimed=untimed-target"];
    let (code, out, _) = run(&[&same[..], &["--dry-run", "--json"]].concat());
    assert_eq!((code, &documents(&out)[0]["topics"][0]["untimed"]), (2, &json!(2)), "{out}");
    let (code, _, err) = run(&[&same[..], &["--yes"]].concat());
    assert!(code == 2 && err.contains("2 in topic-untimed-0") && err.contains("untimed"), "{code} {err}");
    worker.create(&json!({ "name": "untimed", "config": {
        "connector.class": "LakeSource",
        "store.url": lake.url(),
        "topics": topic,
        "topic.rename": "topic-untimed:untimed-target",
    }}));
    wait_trace(&worker, "untimed", "2 in topic-untimed-0");
    assert!(kafka.topic("untimed-target").unwrap().is_none(), "nothing was written");

    let (code, out, err) = run(&[&same[..], &["--yes", "--untimed", "now"]].concat());
    assert_eq!(code, 0, "{out}\n{err}");
    // The broker looks for what is too old every second; it has looked again once it has found these.
    kafka.create_topic("untimed-control", 1, &[("retention.ms", "1")]).unwrap();
    produce(&bootstrap, "untimed-control", 0, &in_2013);
    wait_until("old records are deleted", SOON, || kafka.offsets("untimed-control", 0).unwrap().0 == 20).unwrap();
    let found = consume(&bootstrap, "untimed-target", 0);
    assert_eq!(found[..20], in_2013);
    let values: Vec<_> = found[20..].iter().map(|record| record.value.clone().unwrap()).collect();
    assert_eq!(values, [&b"one"[..], b"zero", b"none"]);
    assert_eq!(found[20].timestamp, Some(1));
    let stamped: Vec<_> = found[21..].iter().map(|record| record.timestamp.unwrap()).collect();
    assert!(stamped.iter().all(|stamp| *stamp > 1_700_000_000_000), "{stamped:?}");
}
