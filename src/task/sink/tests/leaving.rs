//! Partitions that go and tasks that end while something hangs.

use std::time::Duration;

use super::reading;
use crate::kafka::Event;
use crate::task::testing::fake::Answer;
use crate::task::testing::{batch, partition};

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
