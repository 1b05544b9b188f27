//! An unclean election takes back records that were archived already, and the log grows beyond them again, so that no
//! offset tells: only the leader epochs do. A worker that runs through it, one that hangs until the log has grown, and
//! one that was stopped meanwhile must end with an archive of the log as it is, and keep what was taken back in the
//! lineage before. So must one that was stopped while nothing but an aborted transaction behind the last record was
//! taken back: there not even the epochs tell, only the records that stand in its place.

use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use crate::journey::{Worker, run};
use crate::kit::{self, Kafka, KafkaOptions, need, poll_until, wait_until};
use crate::topic::{Record, consume, produce, records};

const SOON: Duration = Duration::from_secs(60);
/// The brokers, counted from 0: the third one keeps the controllers' quorum and the group.
const LEADER: usize = 1;
const FOLLOWER: usize = 2;
/// What both replicas have; the log parts here.
const COMMON: usize = 30;
/// What the leader alone has beyond that.
const TAKEN_BACK: usize = 20;
/// What is produced in its place: the log is longer than what was read of it.
const IN_ITS_PLACE: usize = 40;
/// Of the topic with transactions: both replicas have the records and the marker that commits them, ...
const COMMITTED: i64 = COMMON as i64 + 1;
/// ... and the leader alone has an aborted transaction behind them, which the archive has passed.
const ABORTED: usize = 3;
const PASSED: i64 = COMMITTED + ABORTED as i64 + 1;

/// A topic with its own lake and worker.
struct Archived {
    topic: &'static str,
    lake: PathBuf,
    worker: Worker,
}

impl Archived {
    /// Archives `topic` in files of 20 records, one of which lies across the cut.
    fn start(kafka: &Kafka, topic: &'static str, rotate_age_ms: &str) -> Self {
        let lake = kit::home::instance_dir("lake").unwrap();
        let config = json!({
            "connector.class": "io.lakeferry.LakeSinkConnector",
            "topics": topic,
            "store.url": format!("file://{}", lake.display()),
            "flush.size": "20",
            "rotate.age.ms": rotate_age_ms,
        });
        let worker = Worker::start(&kafka.bootstrap(), &[], &[json!({ "name": topic, "config": config })]);
        Self { topic, lake, worker }
    }

    fn url(&self) -> String {
        format!("file://{}", self.lake.display())
    }

    /// The last manifest.
    fn end(&self) -> Option<Value> {
        let chain = self.lake.join(format!("topics/{}/_manifests/partition=0", self.topic));
        let entries = std::fs::read_dir(chain).ok()?.map(|entry| entry.unwrap().path());
        let end = entries.filter(|path| path.extension().is_some_and(|extension| extension == "json")).max()?;
        serde_json::from_slice(&std::fs::read(end).unwrap()).ok()
    }

    /// Waits until the archive holds the log as it is now, in a lineage that continues the old one before `cut`.
    fn assert_follows_the_log(&self, kafka: &Kafka, cut: i64) {
        let end = cut + IN_ITS_PLACE as i64;
        let reached = |entry: &Value| entry["source"]["lineage"] == 2 && entry["resume_offset"] == end;
        let end = poll_until(SOON, || self.end().filter(reached));
        let end = end.unwrap_or_else(|| panic!("{:#?}\n{}", self.end(), self.worker.log()));
        assert_eq!(end["source"]["started_by"], "truncation");
        assert_eq!(end["source"]["continues"], json!({ "lineage": 1, "before": cut }));
        assert_eq!(end["totals"]["records"], IN_ITS_PLACE, "what was read before the cut is not archived twice");
        let (code, out, err) = run(&["inspect", &self.url()]);
        assert_eq!(code, 0, "{out}\n{err}");
        let words = format!("2: an unclean election cut the log back, offset {cut}, topic id ");
        assert!(
            out.contains(&words) && out.contains(&format!(", after lineage 1 before {cut}, archived to ")),
            "{out}"
        );
        let bootstrap = kafka.live_bootstrap();
        let (code, out, err) = run(&["verify", &self.url(), "--bootstrap-server", &bootstrap, "--match", "offset"]);
        assert_eq!(code, 0, "{out}\n{err}");
        let (target, rename) = (format!("{}-restored", self.topic), format!("{0}={0}-restored", self.topic));
        let restore =
            ["restore", &self.url(), "--bootstrap-server", &bootstrap, "--topic", self.topic, "--rename", &rename];
        let (code, out, err) = run(&[&restore[..], &["--yes"]].concat());
        assert_eq!(code, 0, "{out}\n{err}");
        assert!(consume(&bootstrap, &target, 0) == consume(&bootstrap, self.topic, 0), "{target}");
    }
}

/// Ends a transaction of these records on partition 0.
fn transaction(kafka: &Kafka, topic: &str, records: &[Record], commit: bool) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.live_bootstrap())
        .set("transactional.id", topic)
        .create()
        .unwrap();
    producer.init_transactions(SOON).unwrap();
    producer.begin_transaction().unwrap();
    for record in records {
        let (key, value) = (record.key.as_ref().unwrap(), record.value.as_ref().unwrap());
        let record = BaseRecord::to(topic).partition(0).key(key).payload(value).timestamp(record.timestamp.unwrap());
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(SOON).unwrap();
    if commit { producer.commit_transaction(SOON) } else { producer.abort_transaction(SOON) }.unwrap();
}

fn in_its_place() -> Vec<Record> {
    (0..IN_ITS_PLACE).map(|n| Record::new(1_710_000_000_000 + n as i64, &format!("other {n}"))).collect()
}

#[test]
fn what_an_unclean_election_takes_back_is_archived_anew() {
    let options = KafkaOptions { brokers: 3, ..KafkaOptions::default() };
    let mut kafka = need!(Kafka::start(options));
    let configs = [("unclean.leader.election.enable", "true"), ("min.insync.replicas", "1"), ("retention.ms", "-1")];
    let topics = ["cut-while-it-runs", "cut-while-it-hangs", "cut-while-it-is-down", "cut-behind-the-records"];
    let all = records(COMMON + TAKEN_BACK);
    for topic in topics {
        kafka.create_topic_on(&[LEADER, FOLLOWER], topic, &configs).unwrap();
    }
    for topic in &topics[..3] {
        produce(&kafka.bootstrap(), topic, 0, &all[..COMMON]);
    }
    transaction(&kafka, topics[3], &all[..COMMON], true);
    // The marker comes after the answer; what the high watermark has passed, both replicas have.
    let marked = || kafka.offsets(topics[3], 0).is_ok_and(|offsets| offsets == (0, COMMITTED));
    wait_until("the marker is replicated", SOON, marked).unwrap();
    let [running, mut hanging, mut stopped] =
        [topics[0], topics[1], topics[2]].map(|topic| Archived::start(&kafka, topic, "600000"));
    let mut bare = Archived::start(&kafka, topics[3], "500");
    kafka.kill_broker(FOLLOWER);
    for archived in [&running, &hanging, &stopped] {
        produce(&kafka.bootstrap(), archived.topic, 0, &all[COMMON..]);
        // Two files; the last records wait in the third.
        archived.worker.wait_archived(archived.topic, 40, SOON);
    }
    stopped.worker.stop();
    assert_eq!(stopped.end().unwrap()["resume_offset"], 50, "all of it was published");
    transaction(&kafka, bare.topic, &all[..ABORTED], false);
    bare.worker.wait_archived(bare.topic, PASSED, SOON);
    bare.worker.stop();
    let log = &bare.end().unwrap()["log"];
    assert_eq!(log["leader_epoch_upto"], COMMON, "what lies behind the last record has no mark");

    hanging.worker.signal("STOP");
    kafka.kill_broker(LEADER);
    kafka.start_broker(FOLLOWER).unwrap();
    let common = COMMON as i64;
    for (topic, end) in topics.into_iter().zip([common, common, common, COMMITTED]) {
        let led = poll_until(SOON, || kafka.offsets(topic, 0).ok().filter(|offsets| *offsets == (0, end)));
        assert_eq!(led, Some((0, end)), "{topic}: {:?}", kafka.topic(topic));
        produce(&kafka.live_bootstrap(), topic, 0, &in_its_place());
        assert!(consume(&kafka.live_bootstrap(), topic, 0) == [&all[..COMMON], &in_its_place()].concat(), "{topic}");
    }
    hanging.worker.signal("CONT");
    stopped.worker.restart();
    bare.worker.restart();
    for archived in [&running, &hanging, &stopped] {
        archived.assert_follows_the_log(&kafka, common);
    }
    bare.assert_follows_the_log(&kafka, COMMITTED);
    let log = bare.worker.log();
    assert!(log.contains("the log has a record where it had none"), "the broker told it by epochs\n{log}");
}
