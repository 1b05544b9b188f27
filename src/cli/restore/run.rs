//! The replay itself: batches from the archive to [`Sending`] until the end, a failure, or a signal.
//!
//! Invariant: a signal ends it within [`STOP_GRACE`], whoever does not answer; what was sent until then is waited for
//! that long, so that the words at the end leave no doubt where the brokers are well.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::source::{NewTopic, TargetTopic};
use lakeferry_api::{Budget, Clock, ConnectError, Executor, Result, SourceContext, SourceOffset, SourcePartition};
use lakeferry_lake::source::replay::{Next, Replay};
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::sending::Sending;
use crate::kafka::Admin;

/// How long the brokers have to acknowledge what was sent before a signal.
const STOP_GRACE: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LIMIT: Duration = Duration::from_secs(60);

/// What a replay may ask, without a worker around it: nothing was stored before it.
pub(super) struct RestoreContext {
    pub(super) admin: Arc<dyn Admin>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) budget: Budget,
}

#[async_trait]
impl SourceContext for RestoreContext {
    fn connector(&self) -> &str {
        "restore"
    }

    fn task(&self) -> u32 {
        0
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    fn executor(&self) -> Arc<dyn Executor> {
        Arc::clone(&self.executor)
    }

    fn budget(&self) -> Budget {
        self.budget.clone()
    }

    async fn offset(&self, _: &SourcePartition) -> Result<Option<SourceOffset>> {
        Ok(None)
    }

    async fn target_topic(&self, topic: &str) -> Result<Option<TargetTopic>> {
        self.admin.target_topic(topic).await
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<()> {
        self.admin.create_topic(topic).await
    }
}

/// A restore under way.
pub(super) struct Run {
    replay: Replay,
    sending: Sending,
    clock: Arc<dyn Clock>,
}

/// How it ended.
pub(super) struct Outcome {
    pub(super) account: Account,
    pub(super) result: Result<()>,
}

impl Run {
    pub(super) fn new(replay: Replay, sending: Sending, clock: Arc<dyn Clock>) -> Self {
        Self { replay, sending, clock }
    }

    /// Replays everything, or as much as `stop` and the services allow.
    pub(super) async fn until_end(mut self, stop: &CancellationToken) -> Outcome {
        let start = self.clock.monotonic();
        let clock = Arc::clone(&self.clock);
        let result = within_grace(stop, clock.as_ref(), self.replay_and_settle(stop)).await;
        let account = self.sending.end(result.is_ok(), self.clock.monotonic() - start);
        Outcome { account, result }
    }

    async fn replay_and_settle(&mut self, stop: &CancellationToken) -> Result<()> {
        let replayed = self.replay_all(stop).await;
        let settled = self.sending.settle_all().await;
        replayed.and(settled)
    }

    async fn replay_all(&mut self, stop: &CancellationToken) -> Result<()> {
        let stopped = || ConnectError::retriable("stopped by a signal");
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(stopped()),
                next = next(&mut self.replay, self.clock.as_ref()) => next?,
            };
            match next {
                Next::Batches(batches) => {
                    for batch in batches {
                        if stop.is_cancelled() {
                            return Err(stopped());
                        }
                        self.sending.send(batch).await?;
                    }
                }
                Next::Found(_) => {}
                Next::End => return Ok(()),
            }
        }
    }
}

/// Runs `work`, which ends by itself after `stop` unless the brokers are gone: then it is cut off.
async fn within_grace(
    stop: &CancellationToken,
    clock: &dyn Clock,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    let overdue = async {
        stop.cancelled().await;
        clock.sleep(STOP_GRACE).await;
    };
    tokio::select! {
        biased;
        result = work => result,
        () = overdue => Err(ConnectError::retriable(format!(
            "stopped by a signal, and the brokers have not acknowledged what was sent within {} s",
            STOP_GRACE.as_secs()
        ))),
    }
}

/// What comes next; a store that is away for a while is waited for.
async fn next(replay: &mut Replay, clock: &dyn Clock) -> Result<Next> {
    let start = clock.monotonic();
    let mut wait = RETRY_FIRST;
    loop {
        match replay.next().await {
            Err(error) if error.is_retriable() && clock.monotonic() - start < RETRY_LIMIT => {
                tracing::warn!(error = error.trace(), "reading the archive again");
                clock.sleep(wait).await;
                wait *= 2;
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::testing::ManualClock;

    #[tokio::test]
    async fn a_signal_ends_what_the_brokers_do_not_answer() {
        let (clock, stop) = (ManualClock::new(), CancellationToken::new());
        let lost = within_grace(&stop, clock.as_ref(), std::future::pending());
        stop.cancel();
        let error = clock.drive(lost).await.unwrap_err();
        assert!(error.is_retriable() && error.message().contains("not acknowledged"), "{error}");
        assert_eq!(clock.monotonic(), STOP_GRACE);
        let settled = async {
            clock.sleep(STOP_GRACE / 2).await;
            Ok(())
        };
        clock.drive(within_grace(&stop, clock.as_ref(), settled)).await.unwrap();
    }
}
