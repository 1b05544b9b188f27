//! Partitions that go and tasks that end while something hangs or fails.

use std::time::Duration;

use lakeferry_api::ConnectError;

use super::{busy, reading};
use crate::kafka::Event;
use crate::task::testing::fake::Answer;
use crate::task::testing::{at, batch, partition};

#[tokio::test]
async fn a_stop_waits_for_everything_together_no_longer_than_a_task_may_take_to_end() {
    for revoked_before in [false, true] {
        let (world, sink, mut handle) = reading().await;
        world.cluster.say(Event::Batches(vec![batch(0, 10, 15)]));
        world.cluster.hang_commits(true);
        world.until("commit t-0@15").await;
        if revoked_before {
            world.cluster.say(Event::Revoked(vec![partition(0)]));
            // It waits for the commit in flight before it publishes.
            world.advance_ms(100).await;
        }
        sink.on_close(Answer::Hang);
        sink.on_close(Answer::Hang);
        world.journal.take();
        let before_ms = world.clock.monotonic_ms();
        handle.stop();
        // At three quarters of task.shutdown.graceful.timeout.ms it would be aborted.
        world.clock.drive(handle.join(Duration::from_secs(5))).await;
        let (end, took_ms) = (world.journal.take(), world.clock.monotonic_ms() - before_ms);
        assert_eq!(end[end.len().saturating_sub(3)..], ["stop", "leave the group", "UNASSIGNED"], "{end:?}");
        assert!(end.iter().any(|line| line.starts_with("close Revoked t-0")), "{end:?}");
        assert!((2_500..3_500).contains(&took_ms), "{took_ms} ms");
    }
}

#[tokio::test]
async fn a_task_fails_of_what_keeps_it_from_publishing_what_goes() {
    let others_published = ["flush t-1@21", "close Revoked t-1", "commit t-1@21"];
    for (error, others) in [
        (ConnectError::fatal("the chain was altered"), &["close Lost t-1"][..]),
        (ConnectError::config("another owner has it"), &others_published[..]),
    ] {
        let (world, sink, _handle) = reading().await;
        world.cluster.say(Event::Batches(vec![batch(0, 10, 15), batch(1, 20, 21)]));
        world.until("put t-0[10..15) t-1[20..21)").await;
        world.journal.take();
        sink.on_flush(Answer::Give(at(&[(0, 12)])));
        let message = error.message().to_owned();
        sink.on_close(Answer::Fail(error));
        world.cluster.say(Event::Revoked(vec![partition(0)]));
        let failed = format!("FAILED (Exiting WorkerSinkTask due to unrecoverable exception.\nCaused by: {message})");
        let mut expected = vec!["flush t-0@15", "close Revoked t-0", "commit t-0@12", "release"];
        expected.extend(others);
        expected.extend(["stop", "leave the group", failed.as_str()]);
        assert_eq!(world.until_failed().await, expected);
    }
}

#[tokio::test]
async fn what_passes_or_what_another_has_is_no_failure_of_who_hands_over() {
    for error in [busy("the store is away"), ConnectError::fenced("epoch 7 has it")] {
        let (world, sink, mut handle) = reading().await;
        sink.on_close(Answer::Fail(error));
        world.cluster.say(Event::Revoked(vec![partition(0)]));
        world.until("release").await;
        world.cluster.say(Event::Batches(vec![batch(1, 20, 25)]));
        world.until("put t-1[20..25)").await;
        // Nor is anything of who stops: it ends anyway.
        sink.on_close(Answer::Fail(ConnectError::fatal("the chain was altered")));
        let end = world.stop(&mut handle).await;
        let expected = ["flush t-1@25", "close Revoked t-1", "commit t-1@25", "stop", "leave the group", "UNASSIGNED"];
        assert_eq!(end, expected);
    }
}

#[tokio::test]
async fn a_commit_that_no_later_one_helps_against_fails_the_task() {
    for error in [ConnectError::config("no right"), ConnectError::fatal("two members have group.instance.id=me")] {
        let (world, _sink, _handle) = reading().await;
        world.cluster.say(Event::Batches(vec![batch(0, 10, 15)]));
        let message = error.message().to_owned();
        world.cluster.answer_commit(Err(error));
        let lines = world.until_failed().await;
        assert!(lines.last().unwrap().contains(&message), "{lines:?}");
        assert!(!lines.iter().any(|line| line.starts_with("RUNNING")), "{lines:?}");
    }
}
