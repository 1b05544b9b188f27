//! Where a partition goes on when its log is no longer what it was: retention, a log that ends earlier, one that an
//! unclean election cut back, a broker that was mistaken, and an end that is known once only.

use lakeferry_api::{ConnectError, EpochMark, Place, Places, RecordForm};

use super::{assigned, busy, reading};
use crate::kafka::Event;
use crate::task::testing::fake::{Answer, SinkScript, World};
use crate::task::testing::{at, batch, from, partition};

#[tokio::test]
async fn retention_moves_the_position_on_and_the_task_sees_the_gap() {
    let (world, _sink, mut handle) = reading().await;
    world.cluster.say(Event::Batches(vec![batch(0, 10, 15)]));
    world.cluster.set_log(0, 100, 200);
    world.cluster.refuse_question(busy("no broker"));
    world.cluster.say(Event::OutOfRange(partition(0)));
    world.until("put t-0[15..100)").await;
    world.cluster.say(Event::Batches(vec![batch(0, 100, 101)]));
    world.until("put t-0[100..101)").await;
    let expected = [
        "put t-0[10..15)",
        "RUNNING (no broker)",
        "start_at t-0@100",
        "RUNNING",
        "put t-0[15..100)",
        "put t-0[100..101)",
    ];
    assert_eq!(world.journal.take(), expected);
    world.stop(&mut handle).await;
}

#[tokio::test]
async fn a_task_that_keeps_its_position_is_asked_where_to_go_on_after_retention() {
    let (world, sink, _handle) = reading().await;
    sink.on_open(Answer::Give(from(&[(2, 5)]).into()));
    world.cluster.say(assigned(&[2]));
    world.cluster.say(Event::Batches(vec![batch(2, 5, 8)]));
    world.until("put t-2[5..8)").await;
    world.journal.take();
    world.cluster.set_log(2, 100, 200);
    // It goes on behind the gap, then falls behind again and does not see that.
    sink.on_open(Answer::Give(from(&[(2, 100)]).into()));
    world.cluster.say(Event::OutOfRange(partition(2)));
    world.until("start_at t-2@100").await;
    let expected = ["flush t-2@8", "close Revoked t-2", "commit t-2@8", "open t-2", "start_at t-2@100"];
    assert_eq!(world.journal.take(), expected);
    world.cluster.set_log(2, 150, 200);
    sink.on_open(Answer::Give(from(&[(2, 100)]).into()));
    world.cluster.say(Event::OutOfRange(partition(2)));
    world.until("open t-2").await;
    world.journal.take();
    world.cluster.say(Event::OutOfRange(partition(2)));
    world.until("put t-2[100..150)").await;
    assert_eq!(world.journal.take(), ["start_at t-2@150", "put t-2[100..150)"], "it is not asked for ever");
}

#[tokio::test]
async fn what_retention_took_is_not_passed_over_for_the_word_of_a_broker_that_lags_behind() {
    let (world, sink, _handle) = reading().await;
    sink.begin_at(5);
    world.cluster.set_log(2, 0, 200);
    world.cluster.say(assigned(&[2]));
    world.until("start_at t-2@5").await;
    world.journal.take();
    // Who looks for the position hears how it is, and the task does not.
    world.cluster.set_log(2, 100, 200);
    for nth in 1..=3 {
        world.cluster.lag(2, &[100, 0]);
        world.cluster.say(Event::OutOfRange(partition(2)));
        world.until("start_at t-2@5").await;
        assert_eq!(world.journal.take().last().unwrap(), "start_at t-2@5", "{nth}");
    }
    world.cluster.say(Event::OutOfRange(partition(2)));
    world.until("start_at t-2@100").await;
    let journal = world.journal.take();
    assert!(!journal.iter().any(|line| line.starts_with("put")), "the task says itself what is lost: {journal:?}");
}

#[tokio::test]
async fn a_log_that_ends_before_the_position_is_opened_anew() {
    let (world, sink, _handle) = reading().await;
    world.cluster.set_log(0, 0, 5);
    // Without a position of its own, the task gets what the reset policy says: the group's offset is of another log.
    world.cluster.say(Event::OutOfRange(partition(0)));
    world.until("start_at t-0@0").await;
    assert_eq!(
        world.journal.take(),
        ["close Lost t-0", "open t-0", "start_at t-0@0", "flush t-0@0 t-1@20", "commit t-0@0"]
    );
    world.cluster.say(Event::Batches(vec![batch(0, 0, 5)]));
    world.until("put t-0[0..5)").await;

    // A task that keeps its position gets a minute to see for itself.
    world.cluster.set_log(1, 0, 5);
    for _ in 0..50 {
        sink.on_open(Answer::Give(from(&[(1, 20)]).into()));
    }
    world.cluster.say(Event::OutOfRange(partition(1)));
    let waits = "RUNNING (t-1 ends before offset 20";
    world.clock.until(&world.journal, waits, || world.journal.has_prefix(waits)).await;
    let failed = world.until_failed().await.pop().unwrap();
    assert!(failed.contains("t-1 ends before offset 20"), "{failed}");
    assert_sets_offset(&failed, 1, 0);
}

/// The remedy sets this offset, and touches no other partition.
fn assert_sets_offset(failed: &str, number: i32, offset: i64) {
    let body = format!(
        "PATCH /connectors/c/offsets with {{\"offsets\": [{{\"partition\": {{\"kafka_topic\": \"t\", \"kafka_partition\": \
         {number}}}, \"offset\": {{\"kafka_offset\": {offset}}}}}]}}, and resume it"
    );
    assert!(failed.contains(&body), "{failed}");
}

#[tokio::test]
async fn without_a_reset_policy_what_retention_took_fails_a_task_without_positions() {
    let world = World::new(&[]);
    world.cluster.set_committed(at(&[(0, 10)]));
    let reset = ("consumer.override.auto.offset.reset", "none");
    let (_sink, _handle) = world.sink(RecordForm::Bytes, &[reset]);
    world.cluster.say(assigned(&[0]));
    world.until("start_at t-0@10").await;
    world.cluster.set_log(0, 100, 200);
    world.cluster.say(Event::OutOfRange(partition(0)));
    let failed = world.until_failed().await.pop().unwrap();
    assert!(failed.contains("t-0 begins at offset 100 now") && failed.contains("auto.offset.reset"), "{failed}");
    assert_sets_offset(&failed, 0, 100);
}

/// Opens partition 2 of a task that keeps its positions, and lets it take records 5 to 7.
async fn reading_own_positions() -> (World, SinkScript, Box<dyn crate::task::Handle>) {
    let (world, sink, handle) = reading().await;
    sink.on_open(Answer::Give(marked(2, 5).into()));
    world.cluster.say(assigned(&[2]));
    world.cluster.say(Event::Batches(vec![batch(2, 5, 8)]));
    world.until("put t-2[5..8)").await;
    assert_eq!(world.journal.take(), ["open t-2", "start_at t-2@5(3<4)", "put t-2[5..8)"]);
    (world, sink, handle)
}

/// A place whose record before last is of epoch 3.
fn marked(number: i32, offset: i64) -> Places {
    let mark = Some(EpochMark { leader_epoch: 3, upto: offset - 1 });
    [(partition(number), Place { offset, mark })].into()
}

#[tokio::test]
async fn a_task_that_keeps_its_position_is_told_where_the_log_was_cut_back() {
    let (world, sink, _handle) = reading_own_positions().await;
    world.cluster.set_log(2, 0, 100);
    sink.on_open(Answer::Fail(busy("no store")));
    sink.on_open(Answer::Give(marked(2, 5).into()));
    // What is on its way was read of the old log.
    sink.on_put(Answer::Fail(busy("slow")));
    world.cluster.say(Event::Batches(vec![batch(2, 8, 9)]));
    world.cluster.say(Event::Truncated(partition(2), 7));
    world.until("RUNNING (no store)").await;
    let seen = async || sink.context().partition(&partition(2)).await.unwrap().truncated_at;
    assert_eq!(seen().await, Some(7));
    world.until("start_at t-2@5(3<4)").await;
    assert_eq!(seen().await, None, "it was begun anew");
    let mut lines = world.journal.take();
    lines.retain(|line| !line.starts_with("RUNNING") && !line.starts_with("resume") && !line.starts_with("pause"));
    assert_eq!(lines, ["put t-2[8..9)", "close Lost t-2", "open t-2", "open t-2", "start_at t-2@5(3<4)"]);
    world.cluster.say(Event::Batches(vec![batch(2, 5, 8)]));
    world.until("put t-2[5..8)").await;
}

#[tokio::test]
async fn a_position_that_was_refused_though_the_log_has_it_is_asked_for_with_its_epoch() {
    let (world, sink, _handle) = reading_own_positions().await;
    // A cut log was shorter when it was asked, and has grown beyond the position since.
    world.cluster.set_log(2, 0, 100);
    for refused in [8, 5] {
        sink.on_open(Answer::Give(marked(2, 5).into()));
        world.cluster.say(Event::OutOfRange(partition(2)));
        world.until("start_at t-2@5(3<4)").await;
        let expected = ["close Lost t-2", "open t-2", "start_at t-2@5(3<4)"];
        assert_eq!(world.journal.take(), expected, "refused at {refused}");
    }
    // A broker that does not know the epoch refuses it again: it is read without.
    world.cluster.say(Event::OutOfRange(partition(2)));
    world.until("start_at t-2@5").await;
    assert_eq!(world.journal.take(), ["start_at t-2@5"]);
}

#[tokio::test]
async fn a_position_that_is_reached_again_is_asked_for_with_its_epoch_as_if_it_had_never_been_refused() {
    let (world, sink, _handle) = reading_own_positions().await;
    world.cluster.set_log(2, 0, 100);
    for _ in 0..2 {
        sink.on_open(Answer::Give(marked(2, 5).into()));
        world.cluster.say(Event::OutOfRange(partition(2)));
        world.until("start_at t-2@5(3<4)").await;
        assert_eq!(world.journal.take(), ["close Lost t-2", "open t-2", "start_at t-2@5(3<4)"]);
        // Up to where it was refused: an election may have taken these back when it is refused there once more.
        world.cluster.say(Event::Batches(vec![batch(2, 5, 8)]));
        world.until("put t-2[5..8)").await;
        world.journal.take();
    }
}

#[tokio::test]
async fn a_position_that_is_sought_is_asked_about_as_if_it_had_never_been_refused() {
    let (world, sink, _handle) = reading_own_positions().await;
    world.cluster.set_log(2, 0, 100);
    sink.on_open(Answer::Give(marked(2, 8).into()));
    world.cluster.say(Event::OutOfRange(partition(2)));
    world.until("start_at t-2@8(3<7)").await;
    world.cluster.say(Event::Batches(vec![batch(2, 8, 20)]));
    world.until("put t-2[8..20)").await;
    sink.context().seek(&partition(2), 8.into());
    world.until("seek t-2@8").await;
    world.journal.take();
    sink.on_open(Answer::Give(marked(2, 8).into()));
    world.cluster.say(Event::OutOfRange(partition(2)));
    world.until("start_at t-2@8(3<7)").await;
    assert_eq!(world.journal.take(), ["close Lost t-2", "open t-2", "start_at t-2@8(3<7)"]);
}

#[tokio::test]
async fn what_was_sought_before_a_partition_is_opened_anew_counts_no_more() {
    let (world, sink, _handle) = reading_own_positions().await;
    world.cluster.set_log(2, 0, 100);
    sink.on_open(Answer::Give(marked(2, 5).into()));
    sink.context().seek(&partition(2), 7.into());
    world.cluster.say(Event::Truncated(partition(2), 6));
    world.until("start_at t-2@5(3<4)").await;
    world.cluster.say(Event::Batches(vec![batch(2, 5, 8)]));
    world.until("put t-2[5..8)").await;
    assert_eq!(world.journal.take(), ["close Lost t-2", "open t-2", "start_at t-2@5(3<4)", "put t-2[5..8)"]);
}

#[tokio::test]
async fn a_task_that_insists_on_offsets_that_were_cut_back_fails() {
    let (world, sink, _handle) = reading_own_positions().await;
    world.cluster.set_log(2, 0, 100);
    for _ in 0..50 {
        sink.on_open(Answer::Give(marked(2, 8).into()));
    }
    world.cluster.say(Event::Truncated(partition(2), 7));
    let failed = world.until_failed().await.pop().unwrap();
    assert!(failed.contains("t-2 ends before offset 8"), "{failed}");
}

#[tokio::test]
async fn who_insists_keeps_no_other_partition_waiting() {
    let (world, sink, _handle) = reading_own_positions().await;
    world.cluster.set_log(2, 0, 5);
    for _ in 0..20 {
        sink.on_open(Answer::Give(marked(2, 8).into()));
    }
    world.cluster.say(Event::OutOfRange(partition(2)));
    let waits = "RUNNING (t-2 ends before offset 8";
    world.clock.until(&world.journal, waits, || world.journal.has_prefix(waits)).await;
    world.advance_ms(20_000).await;
    world.cluster.set_log(0, 100, 200);
    world.cluster.say(Event::OutOfRange(partition(0)));
    world.until("start_at t-0@100").await;
    world.cluster.set_committed(at(&[(3, 30)]));
    world.cluster.say(assigned(&[3]));
    world.until("start_at t-3@30").await;
    assert!(!world.journal.has_prefix("start_at t-2"), "{:?}", world.journal.take());
    assert!(world.clock.monotonic_ms() < 22_000, "neither waits until the next word with the one that insists");
}

#[tokio::test]
async fn what_no_broker_tells_of_one_partition_keeps_no_other_waiting() {
    let (world, _sink, _handle) = reading().await;
    world.cluster.set_log(3, 7, 9);
    world.cluster.say(assigned(&[2, 3]));
    world.until("start_at t-3@7").await;
    world.cluster.set_log(1, 100, 200);
    world.cluster.say(Event::OutOfRange(partition(0)));
    world.cluster.say(Event::OutOfRange(partition(1)));
    world.until("start_at t-1@100").await;
    assert_eq!(world.journal.count("start_at t-0@10"), 0);
    world.cluster.set_log(0, 0, 99);
    world.cluster.set_log(2, 5, 9);
    world.until("start_at t-0@10").await;
    world.until("start_at t-2@5").await;
}

#[tokio::test]
async fn a_position_that_the_log_has_reached_meanwhile_is_begun_at() {
    let (world, sink, _handle) = reading_own_positions().await;
    // A broker that lags behind, or a log that was cut and is being filled again: only the task can tell.
    world.cluster.set_log(2, 0, 5);
    for _ in 0..3 {
        sink.on_open(Answer::Give(marked(2, 8).into()));
    }
    world.cluster.say(Event::OutOfRange(partition(2)));
    let waits = "RUNNING (t-2 ends before offset 8";
    world.clock.until(&world.journal, waits, || world.journal.has_prefix(waits)).await;
    world.cluster.set_log(2, 0, 8);
    world.journal.take();
    world.until("start_at t-2@8(3<7)").await;
    let expected = ["open t-2", "close Lost t-2", "RUNNING", "open t-2", "start_at t-2@8(3<7)"];
    assert_eq!(world.journal.take(), expected, "once more it is asked, of the log as it is now");
}

#[tokio::test]
async fn where_a_log_ends_is_not_concluded_from_what_is_stable_of_it() {
    let (world, _sink, _handle) = reading().await;
    world.cluster.set_log(0, 0, 5);
    world.cluster.hide_end(0);
    world.cluster.say(Event::OutOfRange(partition(0)));
    let waits = "RUNNING (the broker does not tell where t-0 ends";
    world.clock.until(&world.journal, waits, || world.journal.has_prefix(waits)).await;
    world.cluster.set_log(0, 0, 50);
    world.until("start_at t-0@10").await;
    assert!(!world.journal.has("close Lost t-0"));
}

#[tokio::test]
async fn where_the_log_of_one_topic_parted_says_nothing_of_its_successor() {
    let (world, sink, _handle) = reading_own_positions().await;
    world.cluster.set_log(2, 0, 100);
    world.cluster.set_topic_id(2, "read");
    let seen = async || sink.context().partition(&partition(2)).await.unwrap().truncated_at;
    assert_eq!(seen().await, None);
    sink.on_open(Answer::Fail(busy("no store")));
    sink.on_open(Answer::Give(marked(2, 5).into()));
    world.cluster.say(Event::Truncated(partition(2), 3));
    world.until("RUNNING (no store)").await;
    assert_eq!(seen().await, Some(3));
    world.cluster.set_topic_id(2, "successor");
    assert_eq!(seen().await, None);
    world.until("start_at t-2@5(3<4)").await;
}

#[tokio::test]
async fn a_task_may_begin_behind_a_cut_that_retention_has_overtaken() {
    let (world, sink, _handle) = reading_own_positions().await;
    world.cluster.set_log(2, 8, 99);
    sink.on_open(Answer::Give(marked(2, 8).into()));
    world.cluster.say(Event::Truncated(partition(2), 7));
    world.until("start_at t-2@8(3<7)").await;
}

#[tokio::test]
async fn a_task_without_positions_goes_on_where_the_log_was_cut_back() {
    let (world, sink, _handle) = reading().await;
    world.cluster.say(Event::Batches(vec![batch(0, 10, 15), batch(1, 20, 25)]));
    world.cluster.say(Event::Truncated(partition(0), 12));
    world.until("start_at t-0@12").await;
    let lines = world.journal.take();
    // No later offset is committed, not even for a moment: whoever began there would skip what grew over the cut.
    let expected = ["flush t-0@15", "close Revoked t-0", "commit t-0@12", "open t-0", "start_at t-0@12"];
    assert_eq!(lines[lines.len() - 5..], expected);
    world.cluster.say(Event::Batches(vec![batch(0, 12, 13)]));
    world.until("put t-0[12..13)").await;
    // What could not be flushed is read again, however far below the cut it begins.
    world.cluster.set_committed(at(&[(1, 20)]));
    sink.on_flush(Answer::Fail(busy("slow")));
    world.cluster.say(Event::Truncated(partition(1), 24));
    world.until("start_at t-1@20").await;
}

#[tokio::test]
async fn a_cut_takes_back_what_the_group_was_told_before() {
    let (world, _sink, _handle) = reading().await;
    world.cluster.say(Event::Batches(vec![batch(0, 10, 15)]));
    world.until("commit t-0@15").await;
    world.cluster.refuse_question(busy("no broker"));
    world.cluster.say(Event::Truncated(partition(0), 12));
    world.until("open t-0").await;
    assert_eq!(world.cluster.committed()[&partition(0)], 12, "before it is known where reading goes on");
}

#[tokio::test]
async fn without_a_reset_policy_a_cut_log_fails_a_task_without_positions() {
    let world = World::new(&[]);
    world.cluster.set_committed(at(&[(0, 10)]));
    let reset = ("consumer.override.auto.offset.reset", "none");
    let (_sink, _handle) = world.sink(RecordForm::Bytes, &[reset]);
    world.cluster.say(assigned(&[0]));
    world.cluster.say(Event::Truncated(partition(0), 7));
    let failed = world.until_failed().await.pop().unwrap();
    assert!(failed.contains("t-0 from offset 7 on") && failed.contains("auto.offset.reset"), "{failed}");
    assert_sets_offset(&failed, 0, 7);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_fails_the_task_and_the_remedy_leaves_out_that_record_alone() {
    let (world, _sink, _handle) = reading().await;
    world.cluster.say(Event::Batches(vec![batch(0, 10, 12)]));
    let error = ConnectError::data("the record at offset 12 of t-0 is odd");
    world.cluster.say(Event::Unreadable(partition(0), 12, error));
    let lines = world.until_failed().await;
    assert!(lines.iter().any(|line| line == "commit t-0@12"), "what came before it is not held up: {lines:?}");
    let failed = lines.last().unwrap();
    assert!(failed.contains("Caused by: the record at offset 12 of t-0 is odd; to go on behind it stop"), "{failed}");
    assert_sets_offset(failed, 0, 13);
}

#[tokio::test]
async fn a_position_that_the_broker_refused_by_mistake_is_kept() {
    let (world, _sink, _handle) = reading().await;
    world.cluster.set_log(0, 0, 50);
    world.cluster.say(Event::OutOfRange(partition(0)));
    world.until("start_at t-0@10").await;
    assert_eq!(world.journal.take(), ["start_at t-0@10"]);
}

#[tokio::test]
async fn a_task_that_says_where_the_end_was_has_that_committed_at_once() {
    for reset in ["earliest", "latest"] {
        let world = World::new(&[("consumer.auto.offset.reset", reset)]);
        world.cluster.set_log(0, 3, 99);
        let (sink, _handle) = world.sink(RecordForm::Bytes, &[]);
        sink.on_open(Answer::Give(from(&[(0, 99)]).into()));
        world.cluster.say(assigned(&[0]));
        world.until("commit t-0@99").await;
        // Killed before that it would begin at another end, behind records that nobody took.
        assert_eq!(world.clock.monotonic_ms() < 1_000, reset == "latest");
    }
}

#[tokio::test]
async fn what_was_read_of_a_deleted_topic_is_published() {
    let (world, _sink, mut handle) = reading().await;
    world.cluster.say(Event::Batches(vec![batch(0, 10, 15)]));
    world.cluster.say(Event::Deleted(vec![partition(0), partition(1)]));
    world.until("close Revoked t-0 t-1").await;
    assert_eq!(world.journal.take(), ["put t-0[10..15)", "flush t-0@15 t-1@20", "close Revoked t-0 t-1"]);
    assert_eq!(world.stop(&mut handle).await, ["stop", "leave the group", "UNASSIGNED"]);
}

#[tokio::test]
async fn so_is_what_a_pause_kept_waiting() {
    let (world, _sink, handle) = reading().await;
    handle.pause();
    world.until("PAUSED").await;
    world.journal.take();
    // What was on its way when the client was told to pause.
    world.cluster.say(Event::Batches(vec![batch(0, 10, 15)]));
    world.cluster.say(Event::Deleted(vec![partition(0)]));
    world.until("close Revoked t-0").await;
    let done = world.journal.take();
    let put = done.iter().position(|line| line == "put t-0[10..15)");
    assert!(put.is_some() && put < done.iter().position(|line| line == "close Revoked t-0"), "{done:?}");
}

#[tokio::test]
async fn a_stop_waits_for_what_goes_no_longer_than_a_stop_may() {
    for go in [Event::Deleted, Event::Revoked] {
        let (world, sink, mut handle) = reading().await;
        sink.on_close(Answer::Hang);
        world.cluster.say(go(vec![partition(0)]));
        world.until("close Revoked t-0").await;
        let before_ms = world.clock.monotonic_ms();
        sink.on_close(Answer::Hang);
        let end = world.stop(&mut handle).await;
        let (last, took_ms) = (&end[end.len().saturating_sub(4)..], world.clock.monotonic_ms() - before_ms);
        assert_eq!(last, ["close Revoked t-1", "stop", "leave the group", "UNASSIGNED"], "{end:?}");
        // Half of task.shutdown.graceful.timeout.ms for both together.
        assert!((2_500..3_000).contains(&took_ms), "{took_ms} ms");
    }
}
