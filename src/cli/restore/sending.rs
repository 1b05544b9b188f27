//! Batches to the producer, a bounded number of them on their way, counted as they are acknowledged; and what the user
//! sees of it meanwhile.
//!
//! Invariant: a batch counts once all of it is acknowledged; where one failed, the [`Account`] knows. Retries are the
//! producer's affair.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lakeferry_api::{Clock, ConnectError, Result, SourceBatch, SourceRecords};

use super::account::Account;
use crate::cli::inspect::bytes;
use crate::kafka::Producer;

/// Batches on their way to the brokers.
const IN_FLIGHT: usize = 32;
const TELL_EVERY: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Sending {
    producer: Arc<dyn Producer>,
    clock: Arc<dyn Clock>,
    in_flight: VecDeque<(SourceBatch, BoxFuture<'static, Result<()>>)>,
    account: Account,
    bar: ProgressBar,
    planned: u64,
    told_at: Duration,
}

impl Sending {
    /// Nothing is sent yet of so many `planned` records and bytes.
    pub(super) fn new(
        producer: Arc<dyn Producer>,
        clock: Arc<dyn Clock>,
        account: Account,
        planned: (u64, u64),
    ) -> Self {
        let (planned, raw_bytes) = planned;
        let bar = ProgressBar::with_draw_target(Some(raw_bytes), ProgressDrawTarget::stderr());
        let template = "{bar:40} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {msg} left {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let told_at = clock.monotonic();
        Self { producer, clock, in_flight: VecDeque::new(), account, bar, planned, told_at }
    }

    /// Hands `batch` over, once there is room. Where it is dropped before, [`Sending::end`] knows of it.
    ///
    /// # Errors
    /// Where a batch, this or one before it, was not acknowledged.
    pub(super) async fn send(&mut self, batch: SourceBatch) -> Result<()> {
        // Where the brokers are gone, the oldest says so first.
        while let Some(settled) = self.in_flight.front_mut().and_then(|(_, delivery)| delivery.now_or_never()) {
            self.settle(settled)?;
        }
        let SourceRecords::Bytes(records) = &batch.records else {
            return Err(ConnectError::fatal("an archive gives bytes only"));
        };
        // A part of it may be on its way already where this fails or is dropped.
        let was_doubtful = std::mem::replace(&mut self.account.is_doubtful, true);
        let delivery = self.producer.send_batch(records).await?;
        self.account.is_doubtful = was_doubtful;
        self.in_flight.push_back((batch, Box::pin(async move { delivery.await.map(drop) })));
        while self.in_flight.len() > IN_FLIGHT {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    /// Waits for everything that is on its way.
    ///
    /// # Errors
    /// The first of those that failed.
    pub(super) async fn settle_all(&mut self) -> Result<()> {
        let mut result = Ok(());
        while !self.in_flight.is_empty() {
            result = result.and(self.settle_oldest().await);
        }
        result
    }

    /// What came of it.
    pub(super) fn end(mut self, is_complete: bool, took: Duration) -> Account {
        self.bar.finish_and_clear();
        self.account.is_doubtful |= !self.in_flight.is_empty();
        self.account.is_complete = is_complete;
        self.account.took = took;
        self.account
    }

    async fn settle_oldest(&mut self) -> Result<()> {
        // It stays in its place until it is settled: whoever drops this leaves it in flight.
        let Some((_, delivery)) = self.in_flight.front_mut() else { return Ok(()) };
        let settled = delivery.await;
        self.settle(settled)
    }

    /// The oldest batch is acknowledged, or failed.
    fn settle(&mut self, settled: Result<()>) -> Result<()> {
        let Some((batch, _)) = self.in_flight.pop_front() else { return settled };
        if settled.is_err() {
            self.account.fail(&batch.partition);
        } else if let SourceRecords::Bytes(records) = &batch.records {
            let counts = (records.len() as u64, records.raw_bytes() as u64);
            self.account.acknowledge(&batch.partition, batch.offset.as_ref(), counts);
            self.tell();
        }
        settled
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use lakeferry_api::record::RawRecord;
    use lakeferry_api::{Batch, TopicPartition};
    use lakeferry_lake::manifest::model::OffsetRange;
    use lakeferry_lake::source::replay::{source_offset, source_partition};

    use super::*;
    use crate::kafka::Delivery;
    use crate::task::testing::ManualClock;

    /// Answers as it was told, a moment later; then never.
    struct Script(Mutex<VecDeque<Result<()>>>);

    #[async_trait]
    impl Producer for Script {
        async fn send(&self, _: RawRecord) -> Result<Delivery> {
            Err(ConnectError::fatal("only batches are sent"))
        }

        async fn send_batch(&self, _: &Batch) -> Result<crate::kafka::BatchDelivery> {
            Ok(match self.0.lock().unwrap().pop_front() {
                Some(answer) => Box::pin(async {
                    tokio::task::yield_now().await;
                    answer.map(|()| None)
                }),
                None => Box::pin(std::future::pending()),
            })
        }
    }

    fn batch(base: i64, next: i64) -> SourceBatch {
        let partition = TopicPartition::new("orders", 0);
        SourceBatch {
            partition: source_partition(&partition).unwrap(),
            offset: Some(source_offset(1, next).unwrap()),
            records: SourceRecords::Bytes(Batch::position_only(partition, base, next)),
        }
    }

    fn sending(answers: impl IntoIterator<Item = Result<()>>) -> Sending {
        let mut account = Account::default();
        account.plan(TopicPartition::new("orders", 0), 40, vec![OffsetRange::new(0, 39)]).unwrap();
        let producer = Script(Mutex::new(answers.into_iter().collect()));
        Sending::new(Arc::new(producer), ManualClock::new(), account, (40, 400))
    }

    #[tokio::test]
    async fn the_way_on_begins_at_the_batch_that_failed_whatever_arrived_behind_it() {
        let mut sending = sending([Ok(()), Err(ConnectError::data("too large")), Ok(())]);
        for base in [0, 10, 20] {
            sending.send(batch(base, base + 10)).await.unwrap();
        }
        assert_eq!(sending.settle_all().await.unwrap_err().message(), "too large");
        let account = sending.end(false, Duration::ZERO);
        assert_eq!(account.rest(), ["orders:0:10:39"]);
        assert!(account.is_doubtful);
    }

    #[tokio::test]
    async fn what_nobody_acknowledged_leaves_a_doubt() {
        let mut sending = sending([Ok(())]);
        for base in [0, 10] {
            sending.send(batch(base, base + 10)).await.unwrap();
        }
        sending.settle_oldest().await.unwrap();
        assert!(sending.settle_all().now_or_never().is_none(), "the second is never answered");
        let account = sending.end(false, Duration::ZERO);
        assert_eq!(account.rest(), ["orders:0:10:39"]);
        assert!(account.is_doubtful);
    }
}
