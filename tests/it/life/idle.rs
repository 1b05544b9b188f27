//! Topics to which nothing comes: partitions that never had a record, and offsets that the group forgets.

use super::{
    Found, Kafka, KafkaOptions, Lake, SOON, Value, assert_inspect_says, assert_inspect_says_when_asked, consume, end,
    json, kit, need, produce, records, restore, run, start, wait_until,
};

/// How many manifests there are of the first so many partitions.
fn entries(lake: &Lake, topic: &str, partitions: i32) -> Vec<usize> {
    (0..partitions).map(|partition| lake.chain(topic, partition).len()).collect()
}

/// `inspect` of a topic, beside what the cluster says.
fn asked<'a>(topic: &'a str, url: &'a str, bootstrap: &'a str) -> [&'a str; 6] {
    ["inspect", url, "--topic", topic, "--bootstrap-server", bootstrap]
}

/// What the owner's group has committed of each partition that is archived, by `inspect`.
fn group_offsets(asked: &[&str]) -> Vec<Value> {
    let (code, out, err) = run(&[asked, &["--json"]].concat());
    assert_eq!(code, 0, "{out}\n{err}");
    let told: Value = serde_json::from_str(&out).unwrap();
    told[0]["partitions"].as_array().unwrap().iter().map(|it| it["now"]["group_offset"].clone()).collect()
}

#[test]
fn empty_partitions_are_owed_nothing_and_are_archived_from_their_first_record_on() {
    let (kafka, python) = (need!(kit::kafka()), need!(kit::python()));
    let (topic, lake, bootstrap, all) = ("life-empty", Lake::new(), kafka.bootstrap(), records(30));
    kafka.create_topic(topic, 3, &[("retention.ms", "-1")]).unwrap();
    produce(&bootstrap, topic, 1, &all[..10]);
    let mut worker = start(kafka, &lake, topic, &[]);
    worker.wait_archived(topic, 10, SOON);
    assert_eq!(entries(&lake, topic, 3), [0, lake.chain(topic, 1).len(), 0]);
    let silent = "nothing is archived of 2 of them: they had no record when a task last looked";
    assert_inspect_says(&lake, topic, &["3 partitions", silent, "life-empty-1: offsets 0 to 10 (next)"]);
    let url = lake.url();
    let verify = ["verify", &url, "--level", "content", "--topic", topic, "--bootstrap-server", &bootstrap];
    let (code, out, err) = run(&verify);
    assert!(code == 0 && out.contains("1 partitions") && !out.contains("not archived yet"), "{out}\n{err}");
    restore(kafka, &lake, topic, "life-empty-back", &[]);
    assert_eq!(
        [0, 1, 2].map(|partition| kafka.offsets("life-empty-back", partition).unwrap().1 > 0),
        [false, true, false]
    );
    assert_eq!(kafka.topic("life-empty-back").unwrap().unwrap().len(), 3, "and the empty ones are there");

    // The first record of one comes while the worker runs, that of the other when it has begun again.
    produce(&bootstrap, topic, 0, &all[10..20]);
    worker.wait_archived(topic, 20, SOON);
    worker.stop();
    produce(&bootstrap, topic, 2, &all[20..]);
    worker.restart();
    worker.wait_archived(topic, 30, SOON);
    worker.stop();
    for (partition, part) in [(0, 10..20), (1, 0..10), (2, 20..30)] {
        assert_eq!(Found::read(python, &lake, topic, partition).records(), all[part]);
        let last = end(&lake, topic, partition).unwrap();
        assert_eq!((&last["source"]["first"], &last["source"]["started_by"]), (&json!(0), &json!("earliest")));
    }
    let words = ["life-empty-0: offsets 0 to 10 (next)", "life-empty-2: offsets 0 to 10 (next)"];
    assert_inspect_says(&lake, topic, &words);
    let (_, out, _) = run(&["inspect", &url, "--topic", topic]);
    assert!(!out.contains("nothing is archived of"), "{out}");
    let (code, out, err) = run(&verify);
    assert!(code == 0 && out.contains("3 partitions") && !out.contains("not archived yet"), "{out}\n{err}");
    restore(kafka, &lake, topic, "life-empty-again", &[]);
    assert_eq!(consume(&bootstrap, "life-empty-again", 0), all[10..20]);
    assert_eq!(consume(&bootstrap, "life-empty-again", 2), all[20..]);
}

/// Kafka forgets what a group has committed once it had no member for the retention of offsets; while it has members,
/// that of the topics they read stays. Both last longer than the retention here.
#[test]
fn offsets_that_the_group_has_forgotten_cost_nothing() {
    let python = need!(kit::python());
    let options = KafkaOptions::default()
        .property("offsets.retention.minutes", "1")
        .property("offsets.retention.check.interval.ms", "500");
    let kafka = need!(Kafka::start(options));
    let (topic, idle, lake, bootstrap, all) =
        ("life-forgotten", "life-idle", Lake::new(), kafka.bootstrap(), records(40));
    let url = lake.url();
    let (ask, ask_idle) = (asked(topic, &url, &bootstrap), asked(idle, &url, &bootstrap));
    for (topic, partitions) in [(topic, 3), (idle, 1)] {
        kafka.create_topic(topic, partitions, &[("retention.ms", "-1")]).unwrap();
        produce(&bootstrap, topic, 0, &all[..10]);
    }
    produce(&bootstrap, topic, 1, &all[10..15]);
    let mut running = start(&kafka, &lake, idle, &[]);
    running.wait_archived(idle, 10, SOON);
    let mut worker = start(&kafka, &lake, topic, &[]);
    worker.wait_archived(topic, 15, SOON);
    worker.stop();
    let none = "no offset of it is committed in group ";
    let (_, out, _) = run(&ask);
    assert!(!out.contains(none), "{out}");
    assert_eq!(group_offsets(&ask), [10, 5]);
    let (before, before_idle) = (entries(&lake, topic, 3), entries(&lake, idle, 1));

    // Without the manifests it would begin from the start again. The other group's last commit is older.
    let groups = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    let forgotten = || !kafka.tool(groups, &["--list"]).unwrap().contains("connect-life-forgotten");
    wait_until("the group's offsets expire", SOON * 3, forgotten).unwrap();
    let told = |offset| format!("{none}connect-life-forgotten: the manifests count, the worker goes on at {offset}\n");
    assert_inspect_says_when_asked(&ask, &[&told(10), &told(5)]);
    assert_eq!(group_offsets(&ask), [Value::Null, Value::Null]);

    // Who reads all the time keeps its group's offsets, and writes nothing while nothing comes.
    assert_eq!((group_offsets(&ask_idle), entries(&lake, idle, 1)), (vec![json!(10)], before_idle));
    produce(&bootstrap, idle, 0, &all[10..20]);
    running.wait_archived(idle, 20, SOON);
    running.stop();
    let log = running.log();
    assert!(!log.contains("reads on from here") && !log.contains("starting again"), "{log}");
    assert_eq!(Found::read(python, &lake, idle, 0).records(), all[..20], "nothing twice, nothing lost");
    let last = end(&lake, idle, 0).unwrap();
    assert_eq!((&last["source"]["lineage"], &last["epoch"]), (&json!(1), &json!(1)), "nobody began again");

    // A partition that was forgotten stays idle, to another come records meanwhile, and to one its first ones.
    produce(&bootstrap, topic, 1, &all[15..20]);
    produce(&bootstrap, topic, 2, &all[20..30]);
    worker.restart();
    worker.wait_archived(topic, 30, SOON);
    assert_eq!(lake.chain(topic, 0).len(), before[0], "the group is told again what is archived, and that is all");
    let (log, begins) = (worker.log(), "reading begins partition=life-forgotten-0 offset=10");
    assert!(log.contains(begins), "{log}");
    let (_, out, _) = run(&ask);
    assert!(!out.contains(none), "{out}");
    assert_eq!(group_offsets(&ask), [10, 10, 10]);
    produce(&bootstrap, topic, 0, &all[30..]);
    worker.wait_archived(topic, 40, SOON);
    worker.stop();
    let first = [&all[..10], &all[30..]].concat();
    for (partition, truth) in [(0, &first[..]), (1, &all[10..20]), (2, &all[20..30])] {
        let found = Found::read(python, &lake, topic, partition);
        assert_eq!((found.records().as_slice(), &found.gaps), (truth, &json!([])), "nothing twice, nothing lost");
    }
    let last = end(&lake, topic, 0).unwrap();
    assert_eq!((&last["source"]["lineage"], &last["totals"]["records"]), (&json!(1), &json!(20)));
    assert_inspect_says(&lake, topic, &["offsets 0 to 20 (next), 20 records", "at the end 20"]);
}
