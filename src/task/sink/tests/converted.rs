//! Records that go through converters: those that fail are tolerated, get a letter, or fail the task.

use lakeferry_api::{ConnectError, RecordForm};

use super::assigned;
use crate::kafka::Event;
use crate::task::testing::fake::{SinkScript, World};
use crate::task::testing::text::BUSY;
use crate::task::testing::{at, partition};

/// A typed sink with a dead letter queue.
fn typed(world: &World, more: &[(&str, &str)]) -> (SinkScript, Box<dyn crate::task::Handle>) {
    let queue =
        [("errors.deadletterqueue.topic.name", "dlq"), ("errors.deadletterqueue.topic.replication.factor", "1")];
    let config: Vec<_> = queue.iter().chain(more).copied().collect();
    world.sink(RecordForm::Typed, &config)
}

fn texts(base: i64, values: &[&str]) -> Event {
    let mut builder = lakeferry_api::BatchBuilder::new(partition(0), base);
    for (offset, value) in (base..).zip(values) {
        builder.push(offset, (1_000, Some(lakeferry_api::TimestampType::Create)), Some(b"k"), Some(value.as_bytes()));
        builder.header("trace", Some(b"7"));
    }
    let next = base + i64::try_from(values.len()).unwrap();
    Event::Batches(vec![builder.build(next)])
}

#[tokio::test]
async fn tolerated_records_are_dropped_after_their_letter_was_delivered() {
    let world = World::new(&[]);
    world.cluster.set_committed(at(&[(0, 5)]));
    let more = [("errors.tolerance", "all"), ("errors.deadletterqueue.context.headers.enable", "true")];
    let (_sink, mut handle) = typed(&world, &more);
    world.cluster.hold_deliveries();
    world.cluster.say(assigned(&[0]));
    world.until("start_at t-0@5").await;
    world.journal.take();
    world.cluster.say(texts(5, &["one", "bad two", "three"]));
    world.advance_ms(1_000).await;
    let letter = [
        "send dlq k=bad two",
        "  trace: 7",
        "  __connect.errors.topic: t",
        "  __connect.errors.partition: 0",
        "  __connect.errors.offset: 6",
        "  __connect.errors.connector.name: c",
        "  __connect.errors.task.id: 0",
        "  __connect.errors.stage: VALUE_CONVERTER",
        "  __connect.errors.class.name: test.TextConverter",
        "  __connect.errors.exception.class.name: org.apache.kafka.connect.errors.DataException",
        "  __connect.errors.exception.message: 'bad two' is no text",
        "  __connect.errors.exception.stacktrace: 'bad two' is no text",
    ];
    assert_eq!(world.journal.take(), letter, "the batch waits for its letter");
    world.cluster.deliver(0, Ok(()));
    world.until("  record three").await;
    let expected = ["put t-0[5..8)", "  record one", "  record three"];
    assert_eq!(world.journal.take(), expected);
    assert_eq!(world.stop(&mut handle).await[2], "commit t-0@8", "a dropped record's offset counts as consumed");
    assert!(world.cluster.properties("connector-dlq-producer-c-0").is_some());
}

#[tokio::test]
async fn a_record_whose_time_cannot_be_written_gets_its_letter_all_the_same() {
    let world = World::new(&[]);
    world.cluster.set_committed(at(&[(0, 5)]));
    let (_sink, _handle) = typed(&world, &[("errors.tolerance", "all")]);
    world.cluster.say(assigned(&[0]));
    for (offset, timestamp) in [(5, 0), (6, -9)] {
        let mut builder = lakeferry_api::BatchBuilder::new(partition(0), offset);
        let stamp = (timestamp, Some(lakeferry_api::TimestampType::Create));
        builder.push(offset, stamp, None, Some(format!("bad {timestamp}").as_bytes()));
        world.cluster.say(Event::Batches(vec![builder.build(offset + 1)]));
        world.until(&format!("send dlq null=bad {timestamp}")).await;
    }
}

#[tokio::test]
async fn a_record_that_is_not_tolerated_fails_the_task_and_gets_its_letter() {
    let world = World::new(&[]);
    let (_sink, _handle) = typed(&world, &[]);
    world.cluster.set_committed(at(&[(0, 5)]));
    world.cluster.say(assigned(&[0]));
    world.cluster.say(texts(5, &["one", "bad two"]));
    world.until("FAILED (Tolerance exceeded in error handler\nCaused by: 'bad two' is no text)").await;
    let lines = world.journal.take();
    assert_eq!(lines[0], "create dlq 1x1");
    assert!(lines.contains(&"send dlq k=bad two".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("put")), "{lines:?}");
}

#[tokio::test]
async fn a_queue_that_cannot_be_made_fails_the_start() {
    let world = World::new(&[]);
    world.cluster.answer_create(Err(ConnectError::config("replication factor 1 is too small")));
    let (_sink, _handle) = typed(&world, &[]);
    let expected =
        "FAILED (Could not initialize dead letter queue with topic=dlq\nCaused by: replication factor 1 is too small)";
    world.until(expected).await;
}

#[tokio::test]
async fn a_busy_converter_is_tried_again() {
    let world = World::new(&[]);
    world.cluster.set_committed(at(&[(0, 5)]));
    BUSY.with(|left| *left.borrow_mut() = 3);
    let (_sink, _handle) = world.sink(RecordForm::Typed, &[("errors.retry.timeout", "-1")]);
    world.cluster.say(assigned(&[0]));
    world.cluster.say(texts(5, &["busy one"]));
    world.until("  record busy one").await;
    assert_eq!(world.clock.monotonic_ms(), 300 + 600 + 1_200);
}
