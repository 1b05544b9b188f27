//! An unclean election takes back records that were archived already, and the log grows beyond them again, so that no
//! offset tells: only the leader epochs do. A worker that runs through it, one that hangs until the log has grown, and one
//! that was stopped meanwhile must end with an archive of the log as it is, and keep what was taken back in the lineage
//! before.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::journey::{Worker, run};
use crate::kit::{self, Kafka, KafkaOptions, need, poll_until};
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
const END: i64 = (COMMON + IN_ITS_PLACE) as i64;

/// A topic with its own lake and worker.
struct Archived {
    topic: &'static str,
    lake: PathBuf,
    worker: Worker,
}

impl Archived {
    /// Archives `topic` in files of 20 records, one of which lies across the cut.
    fn start(kafka: &Kafka, topic: &'static str) -> Self {
        let lake = kit::home::instance_dir("lake").unwrap();
        let config = json!({
            "connector.class": "io.lakeferry.LakeSinkConnector",
            "topics": topic,
            "store.url": format!("file://{}", lake.display()),
            "flush.size": "20",
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

    /// Waits until the archive holds the log as it is now, in a lineage that continues the old one before the cut.
    fn assert_follows_the_log(&self, kafka: &Kafka) {
        let reached = |end: &Value| end["source"]["lineage"] == 2 && end["resume_offset"] == END;
        let end = poll_until(SOON, || self.end().filter(reached));
        let end = end.unwrap_or_else(|| panic!("{:#?}\n{}", self.end(), self.worker.log()));
        assert_eq!(end["source"]["started_by"], "truncation");
        assert_eq!(end["source"]["continues"], json!({ "lineage": 1, "before": COMMON }));
        assert_eq!(end["totals"]["records"], IN_ITS_PLACE, "what was read before the cut is not archived twice");
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

fn in_its_place() -> Vec<Record> {
    (0..IN_ITS_PLACE).map(|n| Record::new(1_710_000_000_000 + n as i64, &format!("other {n}"))).collect()
}

#[test]
fn what_an_unclean_election_takes_back_is_archived_anew() {
    let options = KafkaOptions { brokers: 3, ..KafkaOptions::default() };
    let mut kafka = need!(Kafka::start(options));
    let configs = [("unclean.leader.election.enable", "true"), ("min.insync.replicas", "1"), ("retention.ms", "-1")];
    let topics = ["cut-while-it-runs", "cut-while-it-hangs", "cut-while-it-is-down"];
    let all = records(COMMON + TAKEN_BACK);
    for topic in topics {
        kafka.create_topic_on(&[LEADER, FOLLOWER], topic, &configs).unwrap();
        produce(&kafka.bootstrap(), topic, 0, &all[..COMMON]);
    }
    let [running, mut hanging, mut stopped] = topics.map(|topic| Archived::start(&kafka, topic));
    kafka.kill_broker(FOLLOWER);
    for archived in [&running, &hanging, &stopped] {
        produce(&kafka.bootstrap(), archived.topic, 0, &all[COMMON..]);
        // Two files; the last records wait in the third.
        archived.worker.wait_archived(archived.topic, 40, SOON);
    }
    stopped.worker.stop();
    assert_eq!(stopped.end().unwrap()["resume_offset"], 50, "all of it was published");

    hanging.worker.signal("STOP");
    kafka.kill_broker(LEADER);
    kafka.start_broker(FOLLOWER).unwrap();
    let common = COMMON as i64;
    for topic in topics {
        let led = poll_until(SOON, || kafka.offsets(topic, 0).ok().filter(|offsets| *offsets == (0, common)));
        assert_eq!(led, Some((0, common)), "{topic}: {:?}", kafka.topic(topic));
        produce(&kafka.live_bootstrap(), topic, 0, &in_its_place());
        assert!(consume(&kafka.live_bootstrap(), topic, 0) == [&all[..COMMON], &in_its_place()].concat(), "{topic}");
    }
    hanging.worker.signal("CONT");
    stopped.worker.restart();
    for archived in [&running, &hanging, &stopped] {
        archived.assert_follows_the_log(&kafka);
    }
}
