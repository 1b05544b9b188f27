//! What is changed of a topic while a worker writes: nobody restarts it, and records come all the time.

use super::{
    Duration, FRESH, Found, Kafka, KafkaOptions, Lake, SOON, Value, Worker, assert_inspect_says, consume, json, kit,
    need, poll_until, produce, records, restore, run, sink, wait_end, wait_until,
};

/// A topic's settings are looked at once in a minute at most.
const LOOKED_AT: Duration = Duration::from_secs(180);

/// What all manifests of partition 0 say.
fn entries(lake: &Lake, topic: &str) -> Vec<Value> {
    let entry = |path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    lake.chain(topic, 0).into_iter().map(entry).collect()
}

/// Produces a record at a time until the archive tells what `is_told` wants of the topic. How many there were.
fn produce_until_told(
    kafka: &Kafka,
    worker: &Worker,
    (lake, topic): (&Lake, &str),
    is_told: impl Fn(&Value) -> bool,
) -> usize {
    let mut produced = 0;
    let told = poll_until(LOOKED_AT, || {
        produce(&kafka.bootstrap(), topic, 0, &records(produced + 1)[produced..]);
        produced += 1;
        entries(lake, topic).iter().any(|entry| is_told(&entry["topic"])).then_some(())
    });
    told.unwrap_or_else(|| panic!("{:#?}\n{}", entries(lake, topic), worker.log()));
    produced
}

fn start(kafka: &Kafka, lake: &Lake, topic: &str) -> Worker {
    let url = lake.url();
    let settings = [&[("store.url", url.as_str())], &FRESH[..]].concat();
    Worker::start(&kafka.bootstrap(), &[], &[sink(topic, topic, &settings)])
}

/// The writer that began is the one that ended, and it read nothing twice.
fn assert_nobody_began_again(lake: &Lake, topic: &str, worker: &Worker) {
    let entries = entries(lake, topic);
    assert!(entries.iter().all(|entry| entry["writer"]["id"] == entries[0]["writer"]["id"]), "{entries:#?}");
    let log = worker.log();
    assert!(!log.contains("reads on from here") && !log.contains("starting again"), "{log}");
}

#[test]
fn configs_that_change_while_a_worker_writes_are_told() {
    let (kafka, python) = (need!(kit::kafka()), need!(kit::python()));
    let (topic, target, lake) = ("life-configs", "life-configs-back", Lake::new());
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(1));
    let mut worker = start(kafka, &lake, topic);
    worker.wait_archived(topic, 1, SOON);
    assert_inspect_says(&lake, topic, &["retention.ms=-1"]);
    let change = ["--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config"];
    let change = [&change[..], &["retention.ms=8640000000000,max.message.bytes=2000000"]].concat();
    kafka.tool("kafka.admin.ConfigCommand", &change).unwrap();
    let told = json!({ "max.message.bytes": "2000000", "retention.ms": "8640000000000" });
    let produced = produce_until_told(kafka, &worker, (&lake, topic), |topic| topic["configs"] == told);
    worker.wait_archived(topic, 1 + produced as i64, SOON);
    worker.stop();
    assert_nobody_began_again(&lake, topic, &worker);
    let opens = entries(&lake, topic).iter().filter(|entry| entry["kind"] == "open").count();
    assert_eq!(opens, 2, "the settings are told once");
    assert_inspect_says(&lake, topic, &["retention.ms=8640000000000", "max.message.bytes=2000000"]);
    assert_eq!(Found::read(python, &lake, topic, 0).records(), [records(1), records(produced)].concat());
    restore(kafka, &lake, topic, target, &["--apply-configs"]);
    assert_eq!(consume(&kafka.bootstrap(), target, 0), [records(1), records(produced)].concat());
    let describe = ["--describe", "--entity-type", "topics", "--entity-name", target];
    let configs = kafka.tool("kafka.admin.ConfigCommand", &describe).unwrap();
    for config in ["retention.ms=8640000000000", "max.message.bytes=2000000"] {
        assert!(configs.contains(config), "{configs}");
    }
}

#[test]
fn a_topic_that_gets_more_replicas_while_a_worker_writes_is_told_with_them() {
    let python = need!(kit::python());
    let kafka = need!(Kafka::start(KafkaOptions { brokers: 3, ..KafkaOptions::default() }));
    let (topic, target, lake) = ("life-replicas", "life-replicas-back", Lake::new());
    // A topic on all brokers tells their ids.
    kafka.create_topic_on(&[0, 1, 2], "life-brokers", &[]).unwrap();
    let in_sync = || kafka.topic("life-brokers").unwrap().unwrap().remove(0).in_sync;
    wait_until("all brokers are in sync", SOON, || in_sync().len() == 3).unwrap();
    kafka.create_topic_on(&[0], topic, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(1));
    let mut worker = start(&kafka, &lake, topic);
    worker.wait_archived(topic, 1, SOON);
    assert_inspect_says(&lake, topic, &["1 partitions, replication factor 1"]);

    let plan = kafka.dir().join("replicas.json");
    let partition = json!({ "topic": topic, "partition": 0, "replicas": in_sync() });
    std::fs::write(&plan, json!({ "version": 1, "partitions": [partition] }).to_string()).unwrap();
    let execute = ["--execute", "--reassignment-json-file", plan.to_str().unwrap()];
    kafka.tool("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", &execute).unwrap();
    let produced = produce_until_told(&kafka, &worker, (&lake, topic), |topic| topic["replication_factor"] == 3);
    worker.wait_archived(topic, 1 + produced as i64, SOON);
    worker.stop();
    assert_nobody_began_again(&lake, topic, &worker);
    assert_inspect_says(&lake, topic, &["1 partitions, replication factor 3"]);
    assert_eq!(Found::read(python, &lake, topic, 0).records(), [records(1), records(produced)].concat());
    // A restore leaves it to the target's brokers, or to whoever begins it.
    for (target, factor) in [(format!("{target}-default"), None), (format!("{target}-two"), Some("2"))] {
        let more: Vec<_> = factor.iter().flat_map(|factor| ["--replication-factor", factor]).collect();
        restore(&kafka, &lake, topic, &target, &more);
        assert_eq!(consume(&kafka.bootstrap(), &target, 0), [records(1), records(produced)].concat());
        let (code, out, err) = run(&["verify", &lake.url(), "--level", "content"]);
        assert_eq!(code, 0, "{out}\n{err}");
        let replicas = kafka.tool("org.apache.kafka.tools.TopicCommand", &["--describe", "--topic", &target]).unwrap();
        assert!(replicas.contains(&format!("ReplicationFactor: {}", factor.unwrap_or("3"))), "{replicas}");
    }
}

#[test]
fn what_was_read_of_a_topic_is_archived_when_it_is_deleted() {
    let (kafka, python) = (need!(kit::kafka()), need!(kit::python()));
    let (topic, lake, all) = ("life-deleted", Lake::new(), records(20));
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &all);
    // Its file would be open for long.
    let mut worker = super::start(kafka, &lake, topic, &[("flush.size", "1000"), ("rotate.age.ms", "3600000")]);
    // It is opened when records are there to be written.
    wait_end(&worker, &lake, topic, |_| true);
    kafka.delete_topic(topic).unwrap();
    wait_end(&worker, &lake, topic, |end| end["resume_offset"] == 20);
    worker.wait_state(topic, "RUNNING", SOON);
    worker.stop();
    assert_eq!(Found::read(python, &lake, topic, 0).records(), all);
}
