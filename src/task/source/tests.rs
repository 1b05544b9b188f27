use lakeferry_api::{
    ConnectError, Datum, Record, RecordForm, SourceBatch, SourceOffset, SourcePartition, SourceRecords, Value,
};
use serde_json::json;

use crate::backing::OffsetLog as _;
use crate::task::testing::batch;
use crate::task::testing::fake::{Answer, SourceScript, World};
use crate::task::testing::text::BUSY;

fn file() -> SourcePartition {
    SourcePartition::new(json!({"file": "f"}).as_object().unwrap()).unwrap()
}

fn offset(position: i64) -> SourceOffset {
    SourceOffset::new(json!({"at": position}).as_object().unwrap().clone()).unwrap()
}

/// Records `base..next` of `t-0` as bytes; stored as how far the source has read once they are acknowledged.
fn bytes(base: i64, next: i64) -> SourceBatch {
    let records = SourceRecords::Bytes(batch(0, base, next));
    SourceBatch { partition: file(), offset: Some(offset(next)), records }
}

fn typed(position: i64, values: &[&str]) -> SourceBatch {
    let record = |value: &&str| Record {
        topic: "t".into(),
        partition: None,
        timestamp: None,
        key: Datum::schemaless(Value::String("k".into())),
        value: Datum::schemaless(Value::String((*value).into())),
        headers: vec![lakeferry_api::record::Header {
            key: "h".into(),
            value: Datum::schemaless(Value::String("v".into())),
        }],
        origin: None,
    };
    let records = SourceRecords::Typed(values.iter().map(record).collect());
    SourceBatch { partition: file(), offset: Some(offset(position)), records }
}

fn give(batches: &[SourceBatch]) -> Answer<Vec<SourceBatch>> {
    Answer::Give(batches.to_vec())
}

async fn stored(world: &World) -> Option<i64> {
    let offset = world.offsets.get("c", &file()).await.unwrap()?;
    offset.as_map()["at"].as_i64()
}

fn running(form: RecordForm, config: &[(&str, &str)]) -> (World, SourceScript, Box<dyn crate::task::Handle>) {
    let world = World::new(&[]);
    world.cluster.add_topic("t");
    let (source, handle) = world.source(form, config);
    (world, source, handle)
}

#[tokio::test]
async fn a_life_without_trouble() {
    let (world, source, mut handle) = running(RecordForm::Bytes, &[("producer.override.linger.ms", "5")]);
    source.on_poll(give(&[bytes(0, 5), bytes(5, 8)]));
    source.on_poll(give(&[bytes(8, 9)]));
    world.until("send t-0[8..9)").await;
    let expected = ["start", "RUNNING", "send t-0[0..5)", "send t-0[5..8)", "send t-0[8..9)"];
    assert_eq!(world.journal.take(), expected);
    assert_eq!(stored(&world).await, None);
    world.until("committed {\"file\":\"f\"}={\"at\":9}").await;
    assert_eq!((stored(&world).await, world.clock.monotonic_ms()), (Some(9), 60_000));
    // A round without anything to store is told too.
    world.until("committed ").await;
    source.on_poll(give(&[bytes(9, 10)]));
    world.until("send t-0[9..10)").await;
    assert_eq!(world.stop(&mut handle).await, ["committed {\"file\":\"f\"}={\"at\":10}", "stop", "UNASSIGNED"]);
    assert_eq!(stored(&world).await, Some(10));

    let producer = world.cluster.properties("connector-producer-c-0").unwrap();
    assert_eq!((producer["linger.ms"].as_str(), producer["acks"].as_str()), ("5", "all"));
    assert_eq!(producer["delivery.timeout.ms"], "2147483647");
}

#[tokio::test]
async fn only_an_acknowledged_prefix_is_stored() {
    let (world, source, mut handle) = running(RecordForm::Bytes, &[]);
    world.cluster.hold_deliveries();
    source.on_poll(give(&[bytes(0, 5), bytes(5, 8), bytes(8, 9)]));
    world.until("send t-0[8..9)").await;
    world.cluster.deliver(1, Ok(()));
    world.until("committed ").await;
    assert_eq!(stored(&world).await, None);
    world.cluster.deliver(0, Ok(()));
    world.until("committed {\"file\":\"f\"}={\"at\":8}").await;
    assert_eq!(stored(&world).await, Some(8));
    world.journal.take();
    // The third is never acknowledged: stopping waits a third of the grace for it.
    let begun = world.clock.monotonic_ms();
    world.stop(&mut handle).await;
    assert_eq!((stored(&world).await, world.clock.monotonic_ms() - begun), (Some(8), 1_666));
}

#[tokio::test]
async fn offsets_are_stored_one_round_at_a_time_while_records_go_on() {
    let (world, source, mut handle) = running(RecordForm::Bytes, &[]);
    world.offsets.hang(true);
    source.on_poll(give(&[bytes(0, 1)]));
    let slow = "RUNNING (storing source offsets takes longer than offset.flush.timeout.ms=5000)";
    world.until(slow).await;
    assert_eq!(world.clock.monotonic_ms(), 65_000);
    source.on_poll(give(&[bytes(1, 2)]));
    world.until("send t-0[1..2)").await;
    world.advance_ms(300_000).await;
    assert_eq!(world.journal.take().iter().filter(|line| *line == "storing hangs").count(), 1);
    world.offsets.hang(false);
    world.until("RUNNING").await;
    assert_eq!(stored(&world).await, Some(1), "what was begun before the second record");
    world.until("committed {\"file\":\"f\"}={\"at\":2}").await;

    // A round that fails is made again.
    world.offsets.refuse(ConnectError::retriable("disk full"));
    source.on_poll(give(&[bytes(2, 3)]));
    world.until("RUNNING (disk full)").await;
    world.until("committed {\"file\":\"f\"}={\"at\":3}").await;

    // At the end a store that hangs has its patience too.
    world.offsets.hang(true);
    source.on_poll(give(&[bytes(3, 4)]));
    world.until("send t-0[3..4)").await;
    let begun = world.clock.monotonic_ms();
    assert_eq!(world.stop(&mut handle).await, ["storing hangs", "stop", "UNASSIGNED"]);
    assert_eq!((world.clock.monotonic_ms() - begun, stored(&world).await), (1_666, Some(3)));
}

#[tokio::test]
async fn the_offsets_of_the_task_come_back_to_it() {
    let (world, source, _handle) = running(RecordForm::Bytes, &[]);
    world.offsets.put("c", &[(file(), Some(offset(77)))]).await.unwrap();
    world.until("start").await;
    let context = source.context();
    assert_eq!(context.offset(&file()).await.unwrap(), Some(offset(77)));
    assert_eq!(context.target_topic("t").await.unwrap().unwrap().partitions, 1);
    assert_eq!(context.target_topic("missing").await.unwrap(), None);
}

#[tokio::test]
async fn polls_and_sends_that_fail_are_tried_again_in_order() {
    let (world, source, _handle) = running(RecordForm::Typed, &[]);
    source.on_poll(Answer::Fail(ConnectError::retriable("no store")));
    source.on_poll(give(&[typed(1, &["one", "two"]), typed(2, &["three"])]));
    world.until("RUNNING (no store)").await;
    world.cluster.answer_send(Err(ConnectError::retriable("queue is full")));
    world.cluster.answer_send(Err(ConnectError::retriable("queue is full")));
    world.until("send t k=three").await;
    let (state, rest): (Vec<_>, Vec<_>) =
        world.journal.take().into_iter().partition(|line| line.starts_with("RUNNING"));
    assert_eq!(state, ["RUNNING", "RUNNING (no store)", "RUNNING", "RUNNING (queue is full)", "RUNNING"]);
    let sent: Vec<_> = rest.into_iter().filter(|line| line.starts_with("send")).collect();
    assert_eq!(sent, ["send t k=one", "send t k=two", "send t k=three"]);
}

#[tokio::test]
async fn what_the_client_refuses_fails_the_task() {
    let (world, source, _handle) = running(RecordForm::Bytes, &[]);
    world.cluster.answer_send(Err(ConnectError::data("timestamp 0 cannot be produced")));
    source.on_poll(give(&[bytes(0, 5)]));
    world.until("FAILED (Unrecoverable exception trying to send\nCaused by: timestamp 0 cannot be produced)").await;
}

#[tokio::test]
async fn a_delivery_that_fails_fails_the_task_and_stores_what_was_before() {
    for form in [RecordForm::Bytes, RecordForm::Typed] {
        // Bytes are never skipped: one delivery stands for many records.
        let tolerance = if form == RecordForm::Bytes { "all" } else { "none" };
        let (world, source, _handle) = running(form, &[("errors.tolerance", tolerance)]);
        world.cluster.hold_deliveries();
        let batches = match form {
            RecordForm::Bytes => [bytes(0, 1), bytes(1, 2), bytes(2, 3)],
            RecordForm::Typed => [typed(1, &["a"]), typed(2, &["b"]), typed(3, &["c"])],
        };
        source.on_poll(give(&batches));
        let cluster = world.cluster.clone();
        world.clock.until(&world.journal, "three deliveries", || cluster.held() == 3).await;
        world.cluster.deliver(2, Ok(()));
        world.cluster.deliver(0, Ok(()));
        world.cluster.deliver(0, Err(ConnectError::data("too large")));
        let failed = "FAILED (Unrecoverable exception from producer send callback: a record for topic t was not \
                      written\nCaused by: too large)";
        world.until(failed).await;
        assert_eq!(stored(&world).await, Some(1));
        let lines = world.journal.take();
        assert_eq!(lines[lines.len() - 3..], ["committed {\"file\":\"f\"}={\"at\":1}", "stop", failed]);
    }
}

#[tokio::test]
async fn a_topic_that_nobody_makes_is_named() {
    let world = World::new(&[]);
    let (source, _handle) = world.source(RecordForm::Typed, &[]);
    world.cluster.hold_deliveries();
    source.on_poll(give(&[typed(1, &["a"])]));
    world.until("send t k=a").await;
    world.cluster.deliver(0, Err(ConnectError::not_found("unknown topic or partition")));
    let failed = world.until_failed().await.pop().unwrap();
    assert!(failed.starts_with("FAILED (topic t does not exist and the brokers did not create it"), "{failed}");
    assert!(failed.ends_with("Caused by: unknown topic or partition)"), "{failed}");
}

#[tokio::test]
async fn topics_are_made_where_the_connector_says_how() {
    let creation = [("topic.creation.default.partitions", "3"), ("topic.creation.default.replication.factor", "2")];
    let world = World::new(&[]);
    world.cluster.refuse_question(ConnectError::retriable("no broker"));
    let (source, _handle) = world.source(RecordForm::Typed, &creation);
    source.on_poll(give(&[typed(1, &["a", "b"])]));
    world.until("send t k=b").await;
    let lines = world.journal.take();
    assert_eq!(lines.iter().filter(|line| *line == "create t 3x2").count(), 1, "{lines:?}");
    assert!(lines.contains(&"RUNNING (no broker)".to_owned()), "{lines:?}");

    let world = World::new(&[]);
    world.cluster.answer_create(Err(ConnectError::config("replication factor 2 is larger than 1 broker")));
    let (source, _handle) = world.source(RecordForm::Bytes, &creation);
    source.on_poll(give(&[bytes(0, 1)]));
    let failed = world.until_failed().await.pop().unwrap();
    assert!(failed.contains("Task failed to create new topic"), "{failed}");

    let world = World::new(&[("topic.creation.enable", "false")]);
    let (source, _handle) = world.source(RecordForm::Bytes, &creation);
    source.on_poll(give(&[bytes(0, 1)]));
    world.until("send t-0[0..1)").await;
    assert_eq!(world.journal.count("create t 3x2"), 0);
}

#[tokio::test]
async fn an_incomplete_topic_creation_fails_the_start() {
    let world = World::new(&[]);
    let (_source, _handle) = world.source(RecordForm::Bytes, &[("topic.creation.default.partitions", "3")]);
    let missing = "Missing required configuration \"topic.creation.default.replication.factor\" which has no default \
                   value.";
    world.until(&format!("FAILED ({missing})")).await;
}

#[tokio::test]
async fn tolerated_failures_are_skipped() {
    let (world, source, mut handle) = running(RecordForm::Typed, &[("errors.tolerance", "all")]);
    world.cluster.hold_deliveries();
    source.on_poll(give(&[typed(1, &["a", "bad b"]), typed(2, &["bad c"]), typed(3, &["d"])]));
    world.until("send t k=d").await;
    assert_eq!(world.journal.count("send t k=bad b") + world.journal.count("send t k=bad c"), 0);
    world.cluster.deliver(0, Ok(()));
    world.until("committed {\"file\":\"f\"}={\"at\":1}").await;
    assert_eq!(stored(&world).await, Some(1), "a batch of dropped records does not move the offset");
    // A delivery that fails counts as acknowledged.
    world.cluster.deliver(0, Err(ConnectError::data("too large")));
    world.stop(&mut handle).await;
}

#[tokio::test]
async fn a_failed_delivery_is_skipped_where_that_is_tolerated() {
    let (world, source, _handle) = running(RecordForm::Typed, &[("errors.tolerance", "all")]);
    world.cluster.hold_deliveries();
    source.on_poll(give(&[typed(1, &["a"]), typed(2, &["b"])]));
    world.until("send t k=b").await;
    world.cluster.deliver(0, Err(ConnectError::data("too large")));
    world.cluster.deliver(0, Ok(()));
    world.until("committed {\"file\":\"f\"}={\"at\":2}").await;
}

#[tokio::test]
async fn a_record_that_is_not_tolerated_fails_the_task() {
    let (world, source, _handle) = running(RecordForm::Typed, &[]);
    source.on_poll(give(&[typed(1, &["a", "bad b"])]));
    world.until("FAILED (Tolerance exceeded in error handler\nCaused by: 'bad b' is no text)").await;
    assert_eq!(world.journal.count("send t k=a"), 0);
}

#[tokio::test]
async fn a_stop_interrupts_what_is_retried() {
    let (world, source, mut handle) = running(RecordForm::Typed, &[("errors.retry.timeout", "-1")]);
    BUSY.with(|left| *left.borrow_mut() = u32::MAX);
    source.on_poll(give(&[typed(1, &["busy a"])]));
    world.advance_ms(100_000).await;
    let end = world.stop(&mut handle).await;
    assert_eq!(end[end.len() - 2..], ["stop", "UNASSIGNED"]);
    assert_eq!(stored(&world).await, None);
}

#[tokio::test]
async fn a_paused_task_stores_offsets_and_polls_nothing() {
    let (world, source, mut handle) = running(RecordForm::Bytes, &[]);
    world.cluster.hold_deliveries();
    source.on_poll(give(&[bytes(0, 1)]));
    world.until("send t-0[0..1)").await;
    handle.pause();
    world.until("PAUSED").await;
    source.on_poll(give(&[bytes(1, 2)]));
    world.cluster.deliver(0, Ok(()));
    world.until("committed {\"file\":\"f\"}={\"at\":1}").await;
    assert!(!world.journal.has("send t-0[1..2)"));
    handle.resume();
    world.until("send t-0[1..2)").await;
    let running = world.journal.take();
    assert_eq!(running.iter().filter(|line| *line == "RUNNING").count(), 2);
    world.cluster.deliver(0, Ok(()));
    world.stop(&mut handle).await;
    assert_eq!(stored(&world).await, Some(2));
}

#[tokio::test]
async fn a_panic_fails_the_task_and_stores_what_was_acknowledged() {
    let (world, source, _handle) = running(RecordForm::Bytes, &[]);
    source.on_poll(give(&[bytes(0, 1)]));
    source.on_poll(Answer::Panic("division by zero"));
    world.until("FAILED (panicked: division by zero)").await;
    assert_eq!(stored(&world).await, Some(1));
    assert!(!world.journal.has("stop"), "the task is not called again");
}

#[tokio::test]
async fn a_source_that_never_waits_starves_nothing() {
    let (world, source, mut handle) = running(RecordForm::Bytes, &[]);
    world.until("RUNNING").await;
    source.never_ends(bytes(0, 1));
    // Nothing but the loop itself lets time pass here: it must come up for air.
    world.until("committed {\"file\":\"f\"}={\"at\":1}").await;
    handle.pause();
    world.until("PAUSED").await;
    handle.resume();
    world.stop(&mut handle).await;
}

#[tokio::test]
async fn a_batch_without_records_only_moves_the_offset() {
    let (world, source, mut handle) = running(RecordForm::Bytes, &[]);
    source.on_poll(give(&[bytes(0, 1), bytes(5, 5)]));
    world.until("send t-0[0..1)").await;
    world.stop(&mut handle).await;
    assert_eq!(stored(&world).await, Some(5));
}

#[tokio::test]
async fn a_source_that_has_nothing_is_not_asked_all_the_time() {
    let (world, source, _handle) = running(RecordForm::Bytes, &[]);
    for _ in 0..5 {
        source.on_poll(give(&[]));
    }
    source.on_poll(give(&[bytes(0, 1)]));
    world.until("send t-0[0..1)").await;
    assert_eq!(world.clock.monotonic_ms(), 500);
}

#[tokio::test]
async fn transforms_are_refused_rather_than_left_out() {
    let world = World::new(&[]);
    let (_source, _handle) = world.source(RecordForm::Bytes, &[("transforms", "route")]);
    let lines = world.until_failed().await;
    assert!(lines.len() == 1 && lines[0].contains("transforms=route"), "{lines:?}");
}
