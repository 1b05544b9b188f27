//! The replay itself: batches from the archive into transactions until the end, a failure, or a signal.
//!
//! Invariant: a signal ends it within [`STOP_GRACE`], whoever does not answer. What is not committed then is not
//! visible, and the same restore writes it again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::source::{NewTopic, TargetTopic};
use lakeferry_api::{Budget, Clock, ConnectError, Executor, Result, SourceContext, SourceOffset, SourcePartition};
use lakeferry_lake::source::config::SourceSettings;
use lakeferry_lake::source::prepare::{NotResumed, Prepared};
use lakeferry_lake::source::replay::{Next, Replay};
use tokio_util::sync::CancellationToken;

use super::super::Damage;
use super::account::{Account, Progress};
use crate::kafka::Admin;
use crate::spawn::within;
use crate::task::backoff::Backoff;
use crate::task::exact::{Ledger, Transactions};

/// How long the brokers have to commit what was sent before a signal.
const STOP_GRACE: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// What a replay may ask, without a worker around it.
pub(super) struct RestoreContext {
    pub(super) admin: Arc<dyn Admin>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) budget: Budget,
    /// Knows how far the restore got; `None` before anybody may ask.
    pub(super) ledger: Option<Arc<Ledger>>,
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

    async fn offset(&self, partition: &SourcePartition) -> Result<Option<SourceOffset>> {
        Ok(self.offsets(std::slice::from_ref(partition)).await?.pop().flatten())
    }

    async fn offsets(&self, partitions: &[SourcePartition]) -> Result<Vec<Option<SourceOffset>>> {
        match &self.ledger {
            Some(ledger) => ledger.offsets(partitions).await,
            None => Err(ConnectError::fatal("nobody knows how far the restore got")),
        }
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
    pub(super) context: RestoreContext,
    pub(super) settings: SourceSettings,
    pub(super) transactions: Transactions,
    pub(super) progress: Progress,
    /// How long nothing need be committed before it is given up.
    pub(super) patience: Duration,
    /// True once something that it read was found damaged.
    pub(super) is_damaged: bool,
}

/// How it ended.
pub(super) struct Outcome {
    pub(super) account: Account,
    pub(super) result: Result<()>,
    /// True where it failed for what is wrong with the archive.
    pub(super) is_damaged: bool,
}

impl Run {
    /// Replays everything, or as much as `stop` and the services allow; nothing where there is no `replay`.
    pub(super) async fn until_end(mut self, replay: Option<Replay>, stop: &CancellationToken) -> Outcome {
        let clock = Arc::clone(&self.context.clock);
        let start = clock.monotonic();
        let mut account = Account::default();
        let mut result = match replay {
            Some(replay) => self.replay_all(Some(replay), &mut account, stop).await,
            None => Ok(()),
        };
        if let Err(error) = result {
            result = Err(self.end(error, &mut account, stop).await);
        }
        self.progress.end();
        account.is_complete = result.is_ok();
        account.took = clock.monotonic() - start;
        Outcome { account, result, is_damaged: self.is_damaged }
    }

    /// Writes what `replay` has, or what is left where there is none: what was taken back is read again.
    async fn replay_all(
        &mut self,
        mut replay: Option<Replay>,
        account: &mut Account,
        stop: &CancellationToken,
    ) -> Result<()> {
        let clock = Arc::clone(&self.context.clock);
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let mut committed = (clock.monotonic(), account.records);
        loop {
            let outcome = match replay.take() {
                Some(replay) => self.write(replay, account, stop).await,
                None => match unless_stopped(stop, self.prepare()).await {
                    Ok(again) => {
                        replay = Some(again);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            let Err(error) = outcome else { return Ok(()) };
            if account.records > committed.1 {
                committed = (clock.monotonic(), account.records);
                backoff.reset();
            }
            let left = (committed.0 + self.patience).saturating_sub(clock.monotonic());
            if !error.is_retriable() || stop.is_cancelled() || left.is_zero() {
                return Err(error);
            }
            tracing::warn!(error = error.trace(), "what was not committed is written again");
            let aborted = unless_stopped(stop, async {
                let aborted = within(left, clock.as_ref(), self.transactions.abort(error)).await;
                Ok(aborted.unwrap_or_else(|| ConnectError::fatal("the brokers do not answer")))
            });
            let error = aborted.await?;
            if !error.is_retriable() {
                return Err(error);
            }
            unless_stopped(stop, async {
                clock.sleep(backoff.step()).await;
                Ok(())
            })
            .await?;
        }
    }

    /// The archive may be found damaged here, too: it was read a while ago.
    async fn prepare(&mut self) -> Result<Replay> {
        let prepared = Prepared::new(&self.context, self.settings.clone()).await;
        self.is_damaged = prepared.as_ref().is_err_and(Damage::is);
        let mut prepared = prepared?;
        let resumed = prepared.resume(&self.context).await;
        self.is_damaged = resumed.as_ref().is_err_and(Damage::keeps);
        resumed.map_err(NotResumed::into_error)?;
        prepared.replay(&self.context)
    }

    /// From the position of `replay` to the end.
    async fn write(&mut self, mut replay: Replay, account: &mut Account, stop: &CancellationToken) -> Result<()> {
        let clock = Arc::clone(&self.context.clock);
        loop {
            let due = self.transactions.due_at().saturating_sub(clock.monotonic());
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(stopped()),
                next = next_patiently(&mut replay, clock.as_ref(), self.patience), if !due.is_zero() => match next {
                    Ok(next) => Some(next),
                    // What was read before it is whole, and stays.
                    Err(error) => {
                        self.commit(account, stop).await?;
                        self.is_damaged = Damage::is(&error);
                        return Err(error);
                    }
                },
                delivered = self.transactions.delivered() => {
                    delivered?;
                    continue;
                }
                () = clock.sleep(due) => None,
            };
            self.transactions.take_in()?;
            match next {
                Some(Next::Batches(batches)) => {
                    for batch in batches {
                        unless_stopped(stop, self.transactions.send(batch)).await?;
                    }
                }
                Some(Next::Found(_)) => {}
                Some(Next::End) => {
                    self.commit(account, stop).await?;
                    return Ok(());
                }
                None => self.commit(account, stop).await?,
            }
        }
    }

    async fn commit(&mut self, account: &mut Account, stop: &CancellationToken) -> Result<()> {
        let clock = Arc::clone(&self.context.clock);
        let overdue = async {
            stop.cancelled().await;
            clock.sleep(STOP_GRACE).await;
        };
        let settled = tokio::select! {
            biased;
            settled = within(self.patience, clock.as_ref(), self.transactions.commit()) => settled,
            () = overdue => return Err(stopped()),
        };
        let settled =
            settled.unwrap_or_else(|| Err(ConnectError::retriable("the brokers do not end the transaction")))?;
        account.add(&settled)?;
        self.progress.tell(account);
        Ok(())
    }

    /// Commits what is whole where a signal ended the run, and takes the rest back; what it ended with.
    async fn end(&mut self, error: ConnectError, account: &mut Account, stop: &CancellationToken) -> ConnectError {
        let clock = Arc::clone(&self.context.clock);
        let ending = async {
            if stop.is_cancelled() && error.is_retriable() && self.transactions.is_whole() {
                match self.commit(account, stop).await {
                    Ok(()) => return error,
                    Err(failed) => return self.transactions.abort(failed).await,
                }
            }
            self.transactions.abort(error).await
        };
        let cut_off =
            || ConnectError::retriable("the brokers do not answer; they end the last transaction by themselves");
        within(STOP_GRACE, clock.as_ref(), ending).await.unwrap_or_else(cut_off)
    }
}

fn stopped() -> ConnectError {
    ConnectError::retriable("stopped by a signal")
}

async fn unless_stopped<T>(stop: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(stopped()),
        outcome = work => outcome,
    }
}

/// What comes next; a store that is away for a while is waited for.
async fn next_patiently(replay: &mut Replay, clock: &dyn Clock, patience: Duration) -> Result<Next> {
    let start = clock.monotonic();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
    loop {
        match replay.next().await {
            Err(error) if error.is_retriable() && clock.monotonic() - start < patience => {
                tracing::warn!(error = error.trace(), "reading the archive again");
                clock.sleep(backoff.step()).await;
            }
            Err(error) if error.is_retriable() => {
                return Err(ConnectError::fatal(error.message().to_owned()).caused_by(error));
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lakeferry_api::executor;
    use lakeferry_lake::store;
    use object_store::path::Path;
    use object_store::{ObjectStoreExt as _, PutPayload};

    use super::*;
    use crate::task::exact::{LedgerParts, Tolerated};
    use crate::task::testing::{Cluster, Journal, ManualClock};

    fn run(settings: SourceSettings) -> Run {
        let (cluster, clock) = (Arc::new(Cluster::new(Journal::default())), ManualClock::new());
        let ledger = Ledger::new(LedgerParts {
            group: "g".to_owned(),
            routes: Arc::new(settings.clone()),
            producer: cluster.clone(),
            admin: cluster.clone(),
            clock: clock.clone(),
            what: None,
            tolerated: Tolerated::Nothing,
            takes_over: true,
            remedy: "do something",
        });
        let ledger = Arc::new(ledger);
        let context = RestoreContext {
            admin: cluster,
            clock: clock.clone(),
            executor: Arc::new(executor::Inline),
            budget: Budget::new(1 << 20),
            ledger: Some(Arc::clone(&ledger)),
        };
        Run {
            context,
            settings,
            transactions: Transactions::new(ledger, Duration::from_secs(2)),
            progress: Progress::new(clock, (0, 0)),
            patience: Duration::from_secs(120),
            is_damaged: false,
        }
    }

    #[tokio::test]
    async fn damage_that_is_found_when_it_is_prepared_again_is_told_as_such() {
        let url = "memory:///restore-prepared-again";
        let lake = store::open(url, &BTreeMap::new(), None).unwrap();
        let entry = Path::from("topics/orders/_manifests/partition=0/00000000000000000000.json");
        lake.store.put(&entry, PutPayload::from_static(b"{")).await.unwrap();
        let settings = |topic: &str| {
            let pairs = [("store.url", url), ("topics", topic)].map(|(key, value)| (key.to_owned(), value.to_owned()));
            SourceSettings::parse(&pairs.into()).unwrap()
        };
        let stop = CancellationToken::new();

        let mut damaged = run(settings("orders"));
        let error = damaged.replay_all(None, &mut Account::default(), &stop).await.unwrap_err();
        assert!(damaged.is_damaged && error.message().contains(entry.as_ref()), "{error}");
        let mut mistyped = run(settings("ordres"));
        let error = mistyped.replay_all(None, &mut Account::default(), &stop).await.unwrap_err();
        assert!(!mistyped.is_damaged, "{error}");
    }
}
