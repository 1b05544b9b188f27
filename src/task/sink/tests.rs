mod chaos;
mod converted;
mod leaving;
mod missing;
mod places;
mod rounds;

use lakeferry_api::sink::OffsetReset;
use lakeferry_api::{ConnectError, Kind, Opened, Positions, RecordForm};

use crate::kafka::Event;
use crate::task::testing::fake::{Answer, SinkScript, World};
use crate::task::testing::{at, batch, from, partition};

fn assigned(numbers: &[i32]) -> Event {
    Event::Assigned(numbers.iter().map(|number| partition(*number)).collect())
}

fn busy(message: &str) -> ConnectError {
    ConnectError::retriable(message)
}

/// A world whose sink reads partitions 0 and 1 from offsets 10 and 20.
async fn reading() -> (World, SinkScript, Box<dyn crate::task::Handle>) {
    let world = World::new(&[]);
    world.cluster.set_committed(at(&[(0, 10), (1, 20)]));
    let (sink, handle) = world.sink(RecordForm::Bytes, &[]);
    world.cluster.say(assigned(&[0, 1]));
    world.until("start_at t-0@10 t-1@20").await;
    world.journal.take();
    (world, sink, handle)
}

#[tokio::test]
async fn a_life_without_trouble() {
    let world = World::new(&[]);
    world.cluster.set_committed(at(&[(0, 10)]));
    let (sink, mut handle) = world.sink(RecordForm::Bytes, &[("consumer.override.max.poll.records", "7")]);
    world.cluster.say(assigned(&[0]));
    world.cluster.say(Event::Batches(vec![batch(0, 10, 13), batch(0, 13, 15)]));
    world.until("put t-0[10..13) t-0[13..15)").await;
    assert_eq!(
        world.journal.take(),
        ["subscribe Topics([\"t\"])", "start", "RUNNING", "open t-0", "start_at t-0@10", "put t-0[10..13) t-0[13..15)",]
    );
    assert_eq!(world.journal.topics(), ["t"]);
    world.until("commit t-0@15").await;
    assert_eq!(world.journal.take(), ["flush t-0@15", "commit t-0@15"]);
    assert!(world.clock.monotonic_ms() >= 60_000, "offset.flush.interval.ms");
    // Every 100 ms for ten seconds, every 300 ms while nothing comes.
    assert!((255..=275).contains(&sink.ticks()), "{} ticks", sink.ticks());

    world.cluster.say(Event::Batches(vec![batch(0, 15, 16)]));
    world.until("put t-0[15..16)").await;
    let end = ["flush t-0@16", "close Revoked t-0", "commit t-0@16", "stop", "leave the group", "UNASSIGNED"];
    assert_eq!(world.stop(&mut handle).await, end);

    let consumer = world.cluster.properties("connector-consumer-c-0").unwrap();
    assert_eq!((consumer["group.id"].as_str(), consumer["max.poll.records"].as_str()), ("connect-c", "7"));
}

#[tokio::test]
async fn the_task_the_group_and_the_reset_policy_say_where_to_begin() {
    for (reset, start) in [("earliest", 3), ("latest", 99)] {
        let world = World::new(&[("consumer.auto.offset.reset", reset)]);
        world.cluster.set_committed(at(&[(0, 10), (1, 20)]));
        for number in 0..3 {
            world.cluster.set_log(number, 3, 99);
        }
        let (sink, _handle) = world.sink(RecordForm::Bytes, &[]);
        sink.on_open(Answer::Give(from(&[(0, 50)]).into()));
        world.cluster.say(assigned(&[0, 1, 2]));
        // A start that only the log's end gave is committed at once: after a crash the end would be another. One that
        // the task gave is worth a commit before the first record.
        world.until(&format!("start_at t-0@50 t-1@20 t-2@{start}")).await;
        let committed = if reset == "latest" { "commit t-0@50 t-2@99" } else { "commit t-0@50" };
        world.until(committed).await;
        assert_eq!(world.clock.monotonic_ms() < 1_000, reset == "latest");
    }
}

#[tokio::test]
async fn no_offset_and_no_policy_fails_the_task() {
    let world = World::new(&[]);
    let (sink, _handle) = world.sink(RecordForm::Bytes, &[("consumer.override.auto.offset.reset", "none")]);
    world.cluster.say(assigned(&[0]));
    let lines = world.until_failed().await;
    assert_eq!(sink.context().offset_reset(), OffsetReset::None);
    assert!(lines.last().unwrap().contains("Undefined offset with no reset policy for partitions: [t-0]"), "{lines:?}");
}

#[tokio::test]
async fn opening_is_tried_again_while_the_loop_goes_on() {
    let (world, sink, mut handle) = reading().await;
    let ticks = sink.ticks();
    for _ in 0..3 {
        sink.on_open(Answer::Fail(busy("no store")));
    }
    world.cluster.say(assigned(&[2]));
    world.until("RUNNING (no store)").await;
    world.cluster.say(Event::Batches(vec![batch(0, 10, 11)]));
    world.until("put t-0[10..11)").await;
    assert!(!world.journal.has("start_at t-2@30"), "not before it is open");
    world.cluster.set_committed(at(&[(2, 30)]));
    // The brokers do not answer either, once.
    world.cluster.refuse_question(busy("no broker"));
    world.until("start_at t-2@30").await;
    assert_eq!(world.journal.count("open t-2"), 4, "once it is open it is not opened again");
    assert!(world.journal.has("RUNNING (no broker)"));
    assert!(sink.ticks() >= ticks + 7, "100 + 200 + 400 ms of waiting");
    world.advance_ms(10).await;
    assert_eq!(world.journal.take().last().unwrap(), "RUNNING");
    world.stop(&mut handle).await;
}

#[tokio::test]
async fn batches_come_again_identical_and_alone() {
    let (world, sink, _handle) = reading().await;
    let ticks = sink.ticks();
    sink.on_put(Answer::Fail(busy("store is down")));
    sink.on_put(Answer::Fail(busy("store is down")));
    sink.on_put(Answer::Fail(busy("store is still down")));
    world.cluster.say(Event::Batches(vec![batch(0, 10, 12), batch(1, 20, 25)]));
    world.until("RUNNING (store is down)").await;
    world.cluster.say(Event::Batches(vec![batch(0, 12, 13)]));
    world.until("put t-0[12..13)").await;
    world.advance_ms(10).await;
    assert_eq!(
        world.journal.take(),
        [
            "put t-0[10..12) t-1[20..25)",
            "RUNNING (store is down)",
            "pause t-0 t-1",
            "put t-0[10..12) t-1[20..25)",
            "put t-0[10..12) t-1[20..25)",
            "RUNNING (store is still down)",
            "put t-0[10..12) t-1[20..25)",
            "RUNNING",
            "resume t-0 t-1",
            "put t-0[12..13)",
        ]
    );
    assert!(sink.ticks() >= ticks + 6, "ticks go on: 100 + 200 + 400 ms");
}

#[tokio::test]
async fn a_fatal_error_discards_and_a_data_error_publishes() {
    for (error, ends) in [
        (ConnectError::fatal("damaged"), vec!["close Lost t-0 t-1"]),
        (ConnectError::data("bad"), vec!["flush t-0@11 t-1@20", "close Revoked t-0 t-1", "commit t-0@11"]),
    ] {
        let (world, sink, _handle) = reading().await;
        let message = error.message().to_owned();
        sink.on_put(Answer::Give(()));
        sink.on_put(Answer::Fail(error));
        world.cluster.say(Event::Batches(vec![batch(0, 10, 11)]));
        world.cluster.say(Event::Batches(vec![batch(0, 11, 12)]));
        let lines = world.until_failed().await;
        let failed = format!("FAILED (Exiting WorkerSinkTask due to unrecoverable exception.\nCaused by: {message})");
        let mut expected = vec!["put t-0[10..11)", "put t-0[11..12)"];
        expected.extend(ends);
        expected.extend(["stop", "leave the group", failed.as_str()]);
        assert_eq!(lines, expected);
    }
}

#[tokio::test]
async fn a_panic_fails_the_task_which_is_not_called_again() {
    let (world, sink, mut handle) = reading().await;
    sink.on_put(Answer::Panic("index out of bounds"));
    world.cluster.say(Event::Batches(vec![batch(0, 10, 11)]));
    let expected = ["put t-0[10..11)", "leave the group", "FAILED (panicked: index out of bounds)"];
    assert_eq!(world.until_failed().await, expected);
    assert!(world.stop(&mut handle).await.is_empty(), "a failed task has no other word");
}

#[tokio::test]
async fn a_start_that_fails_fails_the_task() {
    let world = World::new(&[]);
    let script = SinkScript::new(world.journal.clone());
    script.on_start(Answer::Fail(ConnectError::config("no such bucket")));
    let _handle = world.spawn((script.task(), RecordForm::Bytes), &[("topics", "t")], false).unwrap();
    world.until("FAILED (no such bucket)").await;
    let expected = ["subscribe Topics([\"t\"])", "start", "stop", "leave the group", "FAILED (no such bucket)"];
    assert_eq!(world.journal.take(), expected);
}

#[tokio::test]
async fn revoked_partitions_are_flushed_closed_committed_and_then_released() {
    let (world, sink, mut handle) = reading().await;
    world.cluster.say(Event::Batches(vec![batch(0, 10, 15), batch(1, 20, 25)]));
    sink.on_put(Answer::Give(()));
    // The next batches are being retried when the partition goes.
    sink.on_put(Answer::Fail(busy("slow")));
    world.cluster.say(Event::Batches(vec![batch(0, 15, 16), batch(1, 25, 26)]));
    sink.on_flush(Answer::Give(at(&[(0, 13)])));
    sink.on_close(Answer::Give(at(&[(0, 14)])));
    world.cluster.say(Event::Revoked(vec![partition(0)]));
    world.until("release").await;
    let lines = world.journal.take();
    let expected = ["flush t-0@15", "close Revoked t-0", "commit t-0@14", "release"];
    assert_eq!(lines[lines.len() - 4..], expected);
    world.until("put t-1[25..26)").await;
    assert_eq!(world.cluster.committed(), at(&[(0, 14), (1, 20)]));
    let end = world.stop(&mut handle).await;
    assert_eq!(end[0], "flush t-1@26", "only what is left: {end:?}");
}

#[tokio::test]
async fn nothing_is_published_or_committed_of_lost_partitions() {
    let (world, _sink, mut handle) = reading().await;
    world.cluster.say(Event::Batches(vec![batch(0, 10, 15)]));
    world.cluster.say(Event::Lost(vec![partition(0)]));
    world.until("close Lost t-0").await;
    assert_eq!(world.journal.take(), ["put t-0[10..15)", "close Lost t-0"]);
    assert_eq!(world.stop(&mut handle).await[0], "flush t-1@20");
    assert_eq!(world.cluster.committed(), at(&[(0, 10), (1, 20)]));
}

#[tokio::test]
async fn what_can_be_opened_does_not_wait_for_the_rest() {
    let world = World::new(&[]);
    world.cluster.set_committed(at(&[(0, 10), (1, 20)]));
    let (sink, _handle) = world.sink(RecordForm::Bytes, &[]);
    let later = [(partition(0), busy("no leader"))].into();
    sink.on_open(Answer::Give(Opened { places: from(&[(1, 20)]), later }));
    world.cluster.say(assigned(&[0, 1]));
    world.cluster.say(Event::Batches(vec![batch(1, 20, 25)]));
    world.until("put t-1[20..25)").await;
    world.until("start_at t-0@10").await;
    let lines = world.journal.take();
    let of = |line: &str| lines.iter().position(|known| known == line).unwrap_or_else(|| panic!("{line}: {lines:?}"));
    assert!(of("start_at t-1@20") < of("RUNNING (no leader)"), "{lines:?}");
    assert!(of("RUNNING (no leader)") < of("open t-0") && of("open t-0") < of("start_at t-0@10"), "{lines:?}");
}

#[tokio::test]
async fn a_topic_that_vanishes_before_it_is_opened_is_waited_for() {
    let world = World::new(&[]);
    world.cluster.set_committed(at(&[(0, 10)]));
    let (sink, _handle) = world.sink(RecordForm::Bytes, &[]);
    sink.on_open(Answer::Fail(ConnectError::not_found("t-0 does not exist")));
    world.cluster.say(assigned(&[0]));
    world.until("RUNNING (t-0 does not exist)").await;
    world.until("start_at t-0@10").await;
}

#[tokio::test]
async fn partitions_go_even_if_they_cannot_be_published() {
    let (world, sink, mut handle) = reading().await;
    sink.on_close(Answer::Hang);
    world.cluster.say(Event::Revoked(vec![partition(0)]));
    world.until("release").await;
    world.cluster.say(Event::Batches(vec![batch(1, 20, 25)]));
    world.until("put t-1[20..25)").await;
    sink.on_close(Answer::Hang);
    let end = world.stop(&mut handle).await;
    assert_eq!(end[end.len() - 2..], ["leave the group", "UNASSIGNED"], "{end:?}");
}

#[tokio::test]
async fn a_start_that_hangs_can_be_stopped() {
    let world = World::new(&[]);
    let (sink, mut handle) = world.sink(RecordForm::Bytes, &[]);
    sink.on_start(Answer::Hang);
    world.until("start").await;
    let end = world.stop(&mut handle).await;
    assert_eq!(end[end.len() - 3..], ["stop", "leave the group", "UNASSIGNED"], "{end:?}");
}

#[tokio::test]
async fn partitions_that_go_before_they_were_opened_are_not_closed() {
    let (world, sink, mut handle) = reading().await;
    sink.on_open(Answer::Fail(busy("no store")));
    world.cluster.say(assigned(&[2]));
    world.cluster.say(Event::Revoked(vec![partition(2)]));
    world.until("release").await;
    world.advance_ms(1_000).await;
    assert_eq!(world.journal.take(), ["open t-2", "RUNNING (no store)", "release"]);
    world.stop(&mut handle).await;
}

#[tokio::test]
async fn a_paused_task_keeps_its_group_and_ticks() {
    let (world, sink, mut handle) = reading().await;
    world.cluster.say(Event::Batches(vec![batch(0, 10, 15)]));
    world.until("put t-0[10..15)").await;
    world.journal.take();
    handle.pause();
    world.until("commit t-0@15").await;
    assert_eq!(world.journal.take(), ["pause t-0 t-1", "PAUSED", "flush t-0@15 t-1@20", "commit t-0@15"]);
    let ticks = sink.ticks();
    // What was on its way, and a rebalance.
    world.cluster.say(Event::Batches(vec![batch(0, 15, 16)]));
    world.cluster.set_committed(at(&[(2, 5)]));
    world.cluster.say(assigned(&[2]));
    world.advance_ms(1_000).await;
    assert!(sink.ticks() >= ticks + 9);
    assert_eq!(world.journal.take(), ["open t-2", "start_at t-2@5", "pause t-2"]);
    handle.pause();
    handle.resume();
    world.until("put t-0[15..16)").await;
    assert_eq!(world.journal.take(), ["resume t-0 t-1 t-2", "RUNNING", "put t-0[15..16)"]);
    world.stop(&mut handle).await;
}

#[tokio::test]
async fn a_task_that_begins_paused_starts_when_it_is_resumed() {
    let world = World::new(&[]);
    let script = SinkScript::new(world.journal.clone());
    let spawn = || world.spawn((script.task(), RecordForm::Bytes), &[("topics", "t")], true).unwrap();
    let mut handle = spawn();
    world.advance_ms(1_000).await;
    assert_eq!(world.journal.take(), ["PAUSED"]);
    assert_eq!(world.stop(&mut handle).await, ["UNASSIGNED"], "it can be stopped before it ever ran");
    let handle = spawn();
    handle.resume();
    world.until("RUNNING").await;
    assert_eq!(world.journal.take(), ["subscribe Topics([\"t\"])", "start", "RUNNING"]);
}

#[tokio::test]
async fn no_commit_exceeds_what_the_task_calls_durable() {
    let (world, sink, _handle) = reading().await;
    world.cluster.say(Event::Batches(vec![batch(0, 10, 15)]));
    sink.on_flush(Answer::Give(at(&[(0, 12), (1, 21), (7, 3)])));
    world.until("commit t-0@12").await;
    sink.on_flush(Answer::Give(at(&[(0, 11)])));
    sink.on_flush(Answer::Give(Positions::new()));
    world.journal.take();
    world.advance_ms(121_000).await;
    assert_eq!(world.journal.take(), ["flush t-0@15 t-1@20"; 2], "neither back nor again");
    world.until("commit t-0@15").await;
}

#[tokio::test]
async fn commits_are_made_again_and_never_two_at_once() {
    let (world, sink, _handle) = reading().await;
    world.cluster.say(Event::Batches(vec![batch(0, 10, 15)]));
    sink.on_flush(Answer::Fail(busy("not now")));
    world.until("RUNNING (not now)").await;
    world.cluster.answer_commit(Err(busy("no coordinator")));
    world.until("RUNNING (no coordinator)").await;
    world.cluster.hang_commits(true);
    world.until("RUNNING (the commit of offsets takes longer than offset.flush.timeout.ms=5000)").await;
    let ticks = sink.ticks();
    world.journal.take();
    world.advance_ms(200_000).await;
    assert!(sink.ticks() > ticks + 600, "the loop goes on");
    assert!(world.journal.take().is_empty(), "while one is in flight there is no other");
}

#[tokio::test]
async fn a_commit_that_the_group_refuses_is_no_failure() {
    let (world, _sink, mut handle) = reading().await;
    world.cluster.say(Event::Batches(vec![batch(0, 10, 15)]));
    world.cluster.answer_commit(Err(ConnectError::fenced("illegal generation")));
    world.until("commit t-0@15").await;
    world.cluster.say(Event::Lost(vec![partition(0), partition(1)]));
    world.until("close Lost t-0 t-1").await;
    assert_eq!(world.stop(&mut handle).await, ["stop", "leave the group", "UNASSIGNED"]);
}

#[tokio::test]
async fn a_seek_drops_what_was_fetched_before_it() {
    let (world, sink, mut handle) = reading().await;
    sink.on_put(Answer::Give(()));
    sink.on_put(Answer::Fail(busy("slow")));
    world.cluster.say(Event::Batches(vec![batch(0, 10, 15), batch(1, 20, 21)]));
    world.cluster.say(Event::Batches(vec![batch(0, 15, 20), batch(1, 21, 22)]));
    world.until("RUNNING (slow)").await;
    world.journal.take();
    sink.context().seek(&partition(0), 7.into());
    world.until("put t-1[21..22)").await;
    world.cluster.say(Event::Batches(vec![batch(0, 7, 9)]));
    world.until("put t-0[7..9)").await;
    let expected = ["seek t-0@7", "put t-1[21..22)", "RUNNING", "resume t-0 t-1", "put t-0[7..9)"];
    assert_eq!(world.journal.take(), expected);
    assert_eq!(world.stop(&mut handle).await[2], "commit t-0@9 t-1@22", "back, because the task wants it so");
}

#[tokio::test]
async fn a_seek_during_open_waits_for_the_position() {
    let (world, sink, _handle) = reading().await;
    world.cluster.refuse_question(busy("no broker"));
    world.cluster.set_committed(at(&[(2, 30)]));
    world.cluster.say(assigned(&[2]));
    world.until("RUNNING (no broker)").await;
    sink.context().seek(&partition(2), 25.into());
    sink.context().seek(&partition(9), 1.into());
    world.until("seek t-2@25").await;
    let lines: Vec<_> = world.journal.take().into_iter().filter(|line| line.contains('@')).collect();
    assert_eq!(lines, ["start_at t-2@30", "seek t-2@25"]);
    world.cluster.say(Event::Batches(vec![batch(2, 25, 26)]));
    world.until("put t-2[25..26)").await;
}

#[tokio::test]
async fn records_that_the_consumer_skipped_fail_the_task() {
    let (world, _sink, _handle) = reading().await;
    world.cluster.say(Event::Batches(vec![batch(0, 12, 15)]));
    let lines = world.until_failed().await;
    assert_eq!(lines[0], "close Lost t-0 t-1", "nothing was put: {lines:?}");
    assert!(lines.last().unwrap().contains("from offset 12 on, but the position is 10"), "{lines:?}");
}

#[tokio::test]
async fn the_consumer_s_troubles_pass_or_fail_the_task_by_their_kind() {
    let (world, _sink, _handle) = reading().await;
    world.cluster.say(Event::Error(busy("all brokers down")));
    world.until("RUNNING (all brokers down)").await;
    world.cluster.say(Event::Error(busy("no topic a")));
    world.until("RUNNING (no topic a)").await;
    world.cluster.say(Event::Error(busy("all brokers down")));
    world.cluster.say(Event::Batches(vec![batch(0, 10, 11)]));
    world.until("RUNNING").await;
    assert_eq!(world.journal.count("RUNNING (all brokers down)"), 1, "once is enough for a while");
    // Without records, a commit shows that the brokers answer again.
    world.cluster.say(Event::Error(busy("no coordinator")));
    world.until("RUNNING (no coordinator)").await;
    world.journal.take();
    world.until("RUNNING").await;
    assert_eq!(world.journal.take(), ["flush t-0@11 t-1@20", "commit t-0@11 t-1@20", "RUNNING"]);
    world.cluster.say(Event::Error(ConnectError::config("wrong password")));
    world.until("FAILED (the consumer failed\nCaused by: wrong password)").await;
}

#[tokio::test]
async fn a_fenced_task_discards_and_opens_again() {
    let (world, sink, _handle) = reading().await;
    sink.on_put(Answer::Fail(ConnectError::fenced("epoch 8 owns t-0")));
    sink.on_open(Answer::Give(from(&[(0, 12)]).into()));
    world.cluster.say(Event::Batches(vec![batch(0, 10, 11)]));
    // On its way while the partition is not open.
    world.cluster.say(Event::Batches(vec![batch(0, 11, 12)]));
    world.until("start_at t-0@12 t-1@20").await;
    world.cluster.say(Event::Batches(vec![batch(0, 12, 13)]));
    world.until("put t-0[12..13)").await;
    let expected = [
        "put t-0[10..11)",
        "close Lost t-0 t-1",
        "pause t-0 t-1",
        "RUNNING (epoch 8 owns t-0)",
        "open t-0 t-1",
        "start_at t-0@12 t-1@20",
        "RUNNING",
        "put t-0[12..13)",
    ];
    assert_eq!(world.journal.take(), expected);
}

#[tokio::test]
async fn a_tick_that_fails_comes_again() {
    let (world, sink, _handle) = reading().await;
    sink.on_tick(Answer::Fail(busy("upload failed")));
    world.until("RUNNING (upload failed)").await;
    let ticks = sink.ticks();
    world.until("RUNNING").await;
    assert!(sink.ticks() > ticks);
    sink.on_tick(Answer::Fail(ConnectError::fatal("disk is gone")));
    world.until("close Lost t-0 t-1").await;
}

#[tokio::test]
async fn a_task_that_hangs_is_aborted_and_says_nothing_more() {
    let (world, sink, mut handle) = reading().await;
    sink.on_put(Answer::Hang);
    world.cluster.say(Event::Batches(vec![batch(0, 10, 11)]));
    world.until("put t-0[10..11)").await;
    let begun = world.clock.monotonic_ms();
    assert!(world.stop(&mut handle).await.is_empty());
    assert!((45_000..46_000).contains(&(world.clock.monotonic_ms() - begun)), "three quarters of the deadline");
}

#[tokio::test]
async fn a_context_answers_what_is_asked() {
    let (world, sink, _handle) = reading().await;
    let context = sink.context();
    assert_eq!((context.connector(), context.task(), context.group()), ("c", 0, "connect-c"));
    assert_eq!((context.worker_id(), context.cluster_id().await.unwrap().as_str()), ("worker:8083", "cluster"));
    world.cluster.set_log(0, 3, 99);
    let view = context.partition(&partition(0)).await.unwrap();
    assert_eq!(view.log_start_offset, 3);
    assert_eq!(context.partition(&partition(5)).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(context.committed(&[partition(1)]).await.unwrap(), at(&[(1, 20)]));
    assert_ne!(context.random_id(), context.random_id());
    context.trouble(Some("the store is slow".to_owned()));
    context.trouble(None);
    let told = world.journal.take();
    assert_eq!(told, ["RUNNING (the store is slow)", "RUNNING"]);
    let admin = world.cluster.properties("connector-adminclient-c-0").unwrap();
    assert!(!admin.contains_key("group.id"));
}
