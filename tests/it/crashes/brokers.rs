//! Brokers that go one after another, as an upgrade has them, and one that hangs: a sink that runs through it archives
//! every number once, in the same process, with no FAILED task.

use super::*;

/// A lake in a folder, as the audit takes it.
fn place_of(lake: &Lake) -> (Vec<(String, String)>, Place) {
    let settings = vec![("store.url".to_owned(), lake.url())];
    let place = Place::new(&settings, lake.dir.join("topics").display().to_string());
    (settings, place)
}

#[test]
fn brokers_that_are_restarted_one_after_another_cost_nothing() {
    let options = kit::KafkaOptions { brokers: 3, ..kit::KafkaOptions::default() };
    let (mut kafka, python) = (need!(kit::Kafka::start(options)), need!(kit::python()));
    let (name, (settings, place)) = ("crash-rolling", place_of(&Lake::new()));
    // Three partitions, so that each broker leads one.
    kafka.create_topic(name, 3, &[("retention.ms", "-1"), ("min.insync.replicas", "2")]).unwrap();
    let numbers = Numbers::start(&kafka.bootstrap(), name, 3, 200, 4);
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[small_sink(name, name, "2", &settings)]);
    let pid = worker.pid();
    worker.wait_archived(name, 100, SOON);
    for broker in 0..3 {
        kafka.stop_broker(broker).unwrap();
        // The others do its work. While the group changes its coordinator nothing may be told.
        let archived = poll_until(SOON, || Some(worker.archived(name)).filter(|archived| *archived > 0)).unwrap();
        worker.wait_archived(name, archived + 100, SOON);
        kafka.start_broker(broker).unwrap();
        wait_until("all replicas are in sync again", SOON, || {
            let topic = kafka.topic(name).ok().flatten().unwrap_or_default();
            topic.len() == 3 && topic.iter().all(|partition| partition.in_sync.len() == 3)
        })
        .unwrap();
    }
    let count = numbers.stop();
    worker.wait_archived(name, count as i64, LONG);
    assert_untouched(&worker, name, pid);
    worker.stop();
    kit::home::say(&format!("three brokers, one after another: {:?}", place.audit(python, &[(name, count)])));
}

#[test]
fn a_broker_that_hangs_costs_nothing() {
    let (mut kafka, python) = (need!(kit::Kafka::start(kit::KafkaOptions::default())), need!(kit::python()));
    let (name, (mut settings, place)) = ("crash-hung-broker", place_of(&Lake::new()));
    kafka.create_topic(name, 2, &[("retention.ms", "-1")]).unwrap();
    settings.push(("consumer.override.request.timeout.ms".to_owned(), "5000".to_owned()));
    let numbers = Numbers::start(&kafka.bootstrap(), name, 2, 200, 4);
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[small_sink(name, name, "1", &settings)]);
    let pid = worker.pid();
    worker.wait_archived(name, 100, SOON);
    kafka.signal_broker(0, "STOP");
    let clock = SystemClock::new();
    let mut slowest = Duration::ZERO;
    // Requests have timed out, and so has the session.
    let noticed = poll_until(SOON, || {
        let asked = clock.monotonic();
        let (trace, is_lost) = (task_trace(&worker, name), worker.log().contains("lost partitions"));
        slowest = slowest.max(clock.monotonic() - asked);
        (!trace.is_empty() && is_lost).then_some(())
    });
    assert!(noticed.is_some(), "{}\n{}", task_trace(&worker, name), worker.log());
    assert!(slowest < Duration::from_secs(5), "the REST API took {slowest:?} for an answer");
    assert_eq!(task_state(&worker, name), "RUNNING");
    kafka.signal_broker(0, "CONT");
    let count = numbers.stop();
    worker.wait_archived(name, count as i64, LONG);
    assert_untouched(&worker, name, pid);
    worker.stop();
    kit::home::say(&format!("a broker that hangs: {:?}", place.audit(python, &[(name, count)])));
}
