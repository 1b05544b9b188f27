//! The replay itself: batches to the producer, a bounded number on their way, counted as they are acknowledged.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lakeferry_api::source::{NewTopic, TargetTopic};
use lakeferry_api::{
    Budget, Clock, ConnectError, Executor, Result, SourceBatch, SourceContext, SourceOffset, SourcePartition,
    SourceRecords,
};
use lakeferry_lake::source::replay::{Next, Replay};
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::plan::Plan;
use crate::cli::inspect::bytes;
use crate::kafka::{Admin, Producer};

/// Batches on their way to the brokers.
const IN_FLIGHT: usize = 32;
const TELL_EVERY: Duration = Duration::from_secs(5);
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
    producer: Arc<dyn Producer>,
    clock: Arc<dyn Clock>,
    in_flight: VecDeque<(SourceBatch, BoxFuture<'static, Result<()>>)>,
    account: Account,
    bar: ProgressBar,
    planned: u64,
    told_at: Duration,
}

/// How it ended.
pub(super) struct Outcome {
    pub(super) account: Account,
    pub(super) result: Result<()>,
}

impl Run {
    pub(super) fn new(
        replay: Replay,
        producer: Arc<dyn Producer>,
        clock: Arc<dyn Clock>,
        plan: &Plan,
        account: Account,
    ) -> Self {
        let bar = ProgressBar::with_draw_target(Some(plan.raw_bytes), ProgressDrawTarget::stderr());
        let template = "{bar:40} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {msg} left {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let told_at = clock.monotonic();
        let in_flight = VecDeque::new();
        Self { replay, producer, clock, in_flight, account, bar, planned: plan.records, told_at }
    }

    /// Replays everything, or as much as `stop` and the services allow.
    pub(super) async fn until_end(mut self, stop: &CancellationToken) -> Outcome {
        let start = self.clock.monotonic();
        let replayed = self.replay_all(stop).await;
        let settled = self.settle_all().await;
        self.account.is_doubtful |= settled.is_err();
        let result = replayed.and(settled);
        self.account.is_complete = result.is_ok();
        self.account.took = self.clock.monotonic() - start;
        self.bar.finish_and_clear();
        Outcome { account: self.account, result }
    }

    async fn replay_all(&mut self, stop: &CancellationToken) -> Result<()> {
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(ConnectError::retriable("stopped by a signal")),
                next = next(&mut self.replay, self.clock.as_ref()) => next?,
            };
            match next {
                Next::Batches(batches) => {
                    for batch in batches {
                        self.send(batch).await?;
                    }
                }
                Next::Found(_) => {}
                Next::End => return Ok(()),
            }
        }
    }

    async fn send(&mut self, batch: SourceBatch) -> Result<()> {
        let SourceRecords::Bytes(records) = &batch.records else {
            return Err(ConnectError::fatal("an archive gives bytes only"));
        };
        let sent = self.producer.send_batch(records).await;
        // A part of it may be on its way already.
        self.account.is_doubtful |= sent.is_err();
        let delivery = sent?;
        self.in_flight.push_back((batch, delivery));
        while self.in_flight.len() > IN_FLIGHT {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    async fn settle_all(&mut self) -> Result<()> {
        while !self.in_flight.is_empty() {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    async fn settle_oldest(&mut self) -> Result<()> {
        let Some((batch, delivery)) = self.in_flight.pop_front() else { return Ok(()) };
        if let Err(error) = delivery.await {
            self.account.is_doubtful = true;
            return Err(error);
        }
        if let SourceRecords::Bytes(records) = &batch.records {
            let counts = (records.len() as u64, records.raw_bytes() as u64);
            self.account.acknowledge(&batch.partition, batch.offset.as_ref(), counts);
            self.tell();
        }
        Ok(())
    }

    fn tell(&mut self) {
        self.bar.set_position(self.account.raw_bytes);
        self.bar.set_message(format!("{} records,", self.account.records));
        let now = self.clock.monotonic();
        if !std::io::stderr().is_terminal() && now.saturating_sub(self.told_at) >= TELL_EVERY {
            self.told_at = now;
            let (records, done) = (self.account.records, bytes(self.account.raw_bytes));
            tell_line(&format!("{records} of {} records, {done}", self.planned));
        }
    }
}

#[allow(clippy::print_stderr, reason = "progress of a command is for people")]
fn tell_line(text: &str) {
    eprintln!("{text}");
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
