//! The loop of a source whose progress lies in the target cluster: poll, write, and end the transaction when it is
//! time. It owns the connector's task (A2). After a failure that may pass, the transaction is taken back, and the task
//! goes back to where the last one ended.
//!
//! Deliberately absent: converters, topic creation and tolerance; such a source gives bytes, makes its own topics and
//! skips nothing.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::{Clock, Config, ConnectError, Result, SourceBatch, SourceRecords, SourceTask};

use super::{Flag, Life, PAUSE, RETRY_LIMIT, unrecoverable};
use crate::spawn::within;
use crate::task::State;
use crate::task::backoff::Backoff;
use crate::task::context::TaskSourceContext;
use crate::task::control::Control;
use crate::task::exact::{Settled, Transactions};
use crate::task::life::Timing;
use crate::task::voice::{Trouble, Voice};

/// What the loop is made of.
pub(in crate::task) struct TransactionalParts {
    pub(in crate::task) task: Box<dyn SourceTask>,
    pub(in crate::task) context: Arc<TaskSourceContext>,
    pub(in crate::task) transactions: Transactions,
    pub(in crate::task) voice: Arc<Voice>,
    pub(in crate::task) clock: Arc<dyn Clock>,
    pub(in crate::task) timing: Timing,
}

/// See the module.
pub(in crate::task) struct TransactionalLoop {
    parts: TransactionalParts,
    poll_backoff: Backoff,
    write_backoff: Backoff,
}

/// How a wait ended.
enum Served<T> {
    Done(T),
    Stop,
    /// The loop has something to do first.
    Interrupted,
}

/// What went wrong, and where.
enum Failed {
    /// The source gives nothing now.
    Poll(ConnectError),
    /// The open transaction is to be taken back.
    Write(ConnectError),
}

impl TransactionalLoop {
    pub(in crate::task) fn new(parts: TransactionalParts) -> Self {
        let backoff = || Backoff::new(PAUSE, RETRY_LIMIT);
        Self { parts, poll_backoff: backoff(), write_backoff: backoff() }
    }

    /// One round; a failure says where.
    async fn round(&mut self, control: &mut Control) -> Result<Flag, Failed> {
        if control.is_paused() {
            return match self.commit(control).await? {
                Flag::Stop => Ok(Flag::Stop),
                Flag::GoOn => Ok(self.wait_while_paused(control).await),
            };
        }
        let TransactionalParts { task, transactions, clock, .. } = &mut self.parts;
        let batches = match serve(transactions, clock.as_ref(), control, task.poll()).await? {
            Served::Stop => return Ok(Flag::Stop),
            Served::Interrupted => Vec::new(),
            Served::Done(batches) => {
                let batches = batches.map_err(Failed::Poll)?;
                self.poll_backoff.reset();
                self.parts.voice.trouble(Trouble::Poll, None);
                if batches.is_empty() {
                    return self.wait(control, PAUSE).await;
                }
                batches
            }
        };
        for batch in batches {
            if self.send(control, batch).await? == Flag::Stop {
                return Ok(Flag::Stop);
            }
        }
        self.commit_if_due(control).await
    }

    async fn send(&mut self, control: &mut Control, batch: SourceBatch) -> Result<Flag, Failed> {
        if let SourceRecords::Bytes(records) = &batch.records {
            self.parts.voice.topic_used(&records.partition().topic);
        }
        let stop = control.stop_token();
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(Flag::Stop),
            sent = self.parts.transactions.send(batch) => sent.map(|()| Flag::GoOn).map_err(Failed::Write),
        }
    }

    async fn commit_if_due(&mut self, control: &mut Control) -> Result<Flag, Failed> {
        let is_due = self.parts.transactions.due_at() <= self.parts.clock.monotonic();
        if is_due { self.commit(control).await } else { Ok(Flag::GoOn) }
    }

    /// Ends the open transaction, where there is one, unless the task is to stop and the brokers do not answer.
    async fn commit(&mut self, control: &mut Control) -> Result<Flag, Failed> {
        let (stop, clock) = (control.stop_token(), Arc::clone(&self.parts.clock));
        let patience = self.parts.timing.end_patience;
        let overdue = async {
            stop.cancelled().await;
            clock.sleep(patience).await;
        };
        let voice = Arc::clone(&self.parts.voice);
        let (limit, limit_ms) = (self.parts.timing.flush_timeout, self.parts.timing.flush_timeout.as_millis());
        // Says so, and waits on.
        let slow = async {
            clock.sleep(limit).await;
            let what = format!("ending a transaction takes longer than offset.flush.timeout.ms={limit_ms}");
            tracing::warn!("{what}");
            voice.trouble(Trouble::Commit, Some(what));
            std::future::pending::<Infallible>().await
        };
        let settled = tokio::select! {
            biased;
            settled = self.parts.transactions.commit() => settled.map_err(Failed::Write)?,
            // Whether it is committed the next instance finds out.
            () = overdue => return Ok(Flag::Stop),
            never = slow => match never {},
        };
        self.write_backoff.reset();
        self.parts.voice.trouble(Trouble::Commit, None);
        self.tell_committed(&settled).await;
        Ok(Flag::GoOn)
    }

    async fn tell_committed(&mut self, settled: &Settled) {
        if let Err(error) = self.parts.task.committed(&settled.offsets).await {
            tracing::warn!(error = error.trace(), "the task failed to note stored offsets");
        }
    }

    async fn wait_while_paused(&mut self, control: &mut Control) -> Flag {
        self.parts.voice.state(State::Paused);
        let stop = control.stop_token();
        while control.is_paused() {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Flag::Stop,
                _ = control.changed() => {}
            }
        }
        self.parts.voice.state(State::Running);
        Flag::GoOn
    }

    async fn wait(&mut self, control: &mut Control, wait: Duration) -> Result<Flag, Failed> {
        let clock = Arc::clone(&self.parts.clock);
        match serve(&mut self.parts.transactions, clock.as_ref(), control, clock.sleep(wait)).await? {
            Served::Stop => Ok(Flag::Stop),
            Served::Done(()) | Served::Interrupted => self.commit_if_due(control).await,
        }
    }

    /// Waits before what failed is tried again; fails where that cannot help.
    async fn recover(&mut self, control: &mut Control, failed: Failed) -> Result<Flag> {
        let wait = match failed {
            Failed::Poll(error) if error.is_retriable() => {
                tracing::warn!(error = error.trace(), "the source is polled again later");
                self.parts.voice.trouble(Trouble::Poll, Some(error.trace()));
                self.poll_backoff.step()
            }
            Failed::Poll(error) => return Err(unrecoverable(error)),
            Failed::Write(error) => {
                self.parts.voice.trouble(Trouble::Commit, Some(error.trace()));
                let stop = control.stop_token();
                let error = tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(Flag::Stop),
                    error = self.parts.transactions.abort(error) => error,
                };
                if !error.is_retriable() {
                    return Err(error);
                }
                tracing::warn!(error = error.trace(), "a transaction was taken back, and is written again later");
                if !sabotage::is(Fault::NoRewind) {
                    self.parts.task.rewind().await?;
                }
                self.write_backoff.step()
            }
        };
        let stop = control.stop_token();
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(Flag::Stop),
            () = self.parts.clock.sleep(wait) => Ok(Flag::GoOn),
        }
    }

    /// Takes back what is open, if the brokers answer in time; a transaction that is left open ends by itself.
    async fn give_up(&mut self) {
        let why = ConnectError::retriable("the task ends");
        let patience = self.parts.timing.end_patience;
        if within(patience, self.parts.clock.as_ref(), self.parts.transactions.abort(why)).await.is_none() {
            tracing::warn!("the last transaction was not ended; the brokers do so after transaction.timeout.ms");
        }
    }
}

#[async_trait]
impl Life for TransactionalLoop {
    async fn start(&mut self, config: &Config) -> Result<()> {
        let context: Arc<TaskSourceContext> = Arc::clone(&self.parts.context);
        self.parts.task.start(context, config).await
    }

    async fn run(&mut self, control: &mut Control) -> Result<()> {
        loop {
            let flag = match self.round(control).await {
                Ok(flag) => flag,
                Err(failed) => self.recover(control, failed).await?,
            };
            if flag == Flag::Stop {
                return Ok(());
            }
            // A source that is always ready must leave room for others.
            tokio::task::yield_now().await;
        }
    }

    async fn finish(&mut self, outcome: &Result<()>) {
        let (patience, clock) = (self.parts.timing.end_patience, Arc::clone(&self.parts.clock));
        let mut left = outcome.is_err() || !self.parts.transactions.is_whole();
        if !left {
            match within(patience, clock.as_ref(), self.parts.transactions.commit()).await {
                Some(Ok(settled)) => self.tell_committed(&settled).await,
                Some(Err(error)) => {
                    tracing::warn!(
                        error = error.trace(),
                        "the last transaction was not committed; it is written again"
                    );
                    left = true;
                }
                None => left = true,
            }
        }
        if left {
            self.give_up().await;
        }
        self.parts.task.stop().await;
    }

    async fn abandon(&mut self) {
        self.give_up().await;
    }
}

/// Waits for `future` while deliveries are taken in; not beyond the moment at which a transaction is to end.
async fn serve<T>(
    transactions: &mut Transactions,
    clock: &dyn Clock,
    control: &mut Control,
    future: impl Future<Output = T>,
) -> Result<Served<T>, Failed> {
    let mut future = pin!(future);
    let stop = control.stop_token();
    loop {
        transactions.take_in().map_err(Failed::Write)?;
        let due = transactions.due_at().saturating_sub(clock.monotonic());
        if due.is_zero() {
            return Ok(Served::Interrupted);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Served::Stop),
            _ = control.changed() => return Ok(Served::Interrupted),
            value = &mut future => return Ok(Served::Done(value)),
            delivered = transactions.delivered() => delivered.map_err(Failed::Write)?,
            () = clock.sleep(due) => {}
        }
    }
}

#[cfg(test)]
mod tests;
