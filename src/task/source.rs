//! The loop of a source task: poll, convert, send, and store offsets whose records are all acknowledged. It owns the
//! connector's task (A2); [`flow`] owns what is under way. The order of sending is the order of polling.
//!
//! Deliveries and offset commits go on while the loop waits for the task or for a full producer, so neither can hold
//! up the other. Sources whose progress lies in the target cluster have a loop of their own: [`transactional`].

mod flow;
mod transactional;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lakeferry_api::record::RawRecord;
use lakeferry_api::{Batch, Config, ConnectError, Result, SourceBatch, SourceRecords, SourceTask};

pub(super) use self::flow::{Flow, FlowParts};
use self::flow::{Landing, Served, Until};
pub(super) use self::transactional::{TransactionalLoop, TransactionalParts};
use super::State;
use super::acks::Ticket;
use super::backoff::Backoff;
use super::context::TaskSourceContext;
use super::control::Control;
use super::pipeline::SourcePipeline;
use super::topics::Topics;
use super::voice::{Trouble, Voice};
use crate::kafka::Producer;

/// How long after a poll that gave nothing the next one comes, and after a send that the client did not take.
const PAUSE: Duration = Duration::from_millis(100);
const RETRY_LIMIT: Duration = Duration::from_secs(10);

/// The life of a source task in its loop, whichever that is.
#[async_trait]
pub(super) trait Life: Send {
    /// Starts the connector's task.
    ///
    /// # Errors
    /// Whatever fails the task.
    async fn start(&mut self, config: &Config) -> Result<()>;

    /// Runs until the task is to stop.
    ///
    /// # Errors
    /// Whatever fails the task.
    async fn run(&mut self, control: &mut Control) -> Result<()>;

    /// Ends the task after [`Life::run`], or a start that failed: waits a while for what is under way, and stores how
    /// far everything got.
    async fn finish(&mut self, outcome: &Result<()>);

    /// The same after a panic: the task is in no known state and is not called any more.
    async fn abandon(&mut self);
}

/// What the loop is made of.
pub(super) struct SourceParts {
    pub(super) task: Box<dyn SourceTask>,
    pub(super) context: Arc<TaskSourceContext>,
    /// `None` for connectors of bytes.
    pub(super) pipeline: Option<SourcePipeline>,
    pub(super) producer: Arc<dyn Producer>,
    pub(super) topics: Topics,
    pub(super) flow: Flow,
    pub(super) voice: Arc<Voice>,
}

/// A source task in its loop.
pub(super) struct SourceLoop {
    parts: SourceParts,
    poll_backoff: Backoff,
}

/// One call of the producer.
enum Outgoing {
    Record(RawRecord),
    Batch(Batch),
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flag {
    GoOn,
    Stop,
}

impl SourceLoop {
    pub(super) fn new(parts: SourceParts) -> Self {
        Self { parts, poll_backoff: Backoff::new(PAUSE, RETRY_LIMIT) }
    }

    async fn pump(&mut self, control: &mut Control) -> Result<()> {
        loop {
            if control.is_paused() && self.wait_while_paused(control).await? == Flag::Stop {
                return Ok(());
            }
            if self.poll(control).await? == Flag::Stop {
                return Ok(());
            }
            self.tell_committed().await;
            // A source that is always ready must leave room for others.
            tokio::task::yield_now().await;
        }
    }

    async fn wait_while_paused(&mut self, control: &mut Control) -> Result<Flag> {
        self.parts.voice.state(State::Paused);
        while control.is_paused() {
            let forever = std::future::pending::<()>();
            match self.parts.flow.serve(control, forever, Until::Anything).await? {
                Served::Stop => return Ok(Flag::Stop),
                Served::Done(()) | Served::Interrupted => self.tell_committed().await,
            }
        }
        self.parts.voice.state(State::Running);
        Ok(Flag::GoOn)
    }

    async fn poll(&mut self, control: &mut Control) -> Result<Flag> {
        let batches = match self.parts.flow.serve(control, self.parts.task.poll(), Until::Anything).await? {
            Served::Stop => return Ok(Flag::Stop),
            Served::Interrupted => return Ok(Flag::GoOn),
            Served::Done(Ok(batches)) => batches,
            Served::Done(Err(error)) if error.is_retriable() => return self.poll_later(control, &error).await,
            Served::Done(Err(error)) => return Err(unrecoverable(error)),
        };
        self.poll_backoff.reset();
        self.parts.voice.trouble(Trouble::Poll, None);
        if batches.is_empty() {
            return self.wait(control, PAUSE).await;
        }
        for batch in batches {
            if self.send(control, batch).await? == Flag::Stop {
                return Ok(Flag::Stop);
            }
        }
        Ok(Flag::GoOn)
    }

    async fn poll_later(&mut self, control: &mut Control, error: &ConnectError) -> Result<Flag> {
        tracing::warn!(error = error.trace(), "the source is polled again later");
        self.parts.voice.trouble(Trouble::Poll, Some(error.trace()));
        let wait = self.poll_backoff.step();
        self.wait(control, wait).await
    }

    async fn wait(&mut self, control: &mut Control, wait: Duration) -> Result<Flag> {
        let clock = self.parts.flow.clock();
        match self.parts.flow.serve(control, clock.sleep(wait), Until::Anything).await? {
            Served::Stop => Ok(Flag::Stop),
            Served::Done(()) | Served::Interrupted => Ok(Flag::GoOn),
        }
    }

    async fn send(&mut self, control: &mut Control, batch: SourceBatch) -> Result<Flag> {
        let SourceBatch { partition, offset, records } = batch;
        let outgoing: Vec<Outgoing> = match records {
            SourceRecords::Bytes(batch) if batch.is_empty() => Vec::new(),
            SourceRecords::Bytes(batch) => vec![Outgoing::Batch(batch)],
            SourceRecords::Typed(records) if records.is_empty() => Vec::new(),
            SourceRecords::Typed(records) => {
                let Some(pipeline) = &self.parts.pipeline else {
                    return Err(ConnectError::fatal("the connector says it gives bytes, but gave typed records"));
                };
                let encoded = match self.parts.flow.serve(control, pipeline.encode(records), Until::Stop).await? {
                    Served::Done(encoded) => encoded?,
                    Served::Stop | Served::Interrupted => None,
                };
                match encoded {
                    None => return Ok(Flag::Stop),
                    // Dropped to the last record: its offset is not stored by itself, as in Connect.
                    Some(encoded) if encoded.is_empty() => return Ok(Flag::GoOn),
                    Some(encoded) => encoded.into_iter().map(Outgoing::Record).collect(),
                }
            }
        };
        let ticket = self.parts.flow.submit(&partition, offset, outgoing.len());
        for out in outgoing {
            if self.send_one(control, out, &ticket).await? == Flag::Stop {
                return Ok(Flag::Stop);
            }
        }
        Ok(Flag::GoOn)
    }

    /// Hands one thing to the producer, again and again while the client does not take it.
    async fn send_one(&mut self, control: &mut Control, out: Outgoing, ticket: &Ticket) -> Result<Flag> {
        loop {
            let attempt = attempt(&self.parts.producer, &mut self.parts.topics, &out);
            let error = match self.parts.flow.serve(control, attempt, Until::Stop).await? {
                Served::Stop | Served::Interrupted => return Ok(Flag::Stop),
                Served::Done(Ok(delivery)) => {
                    self.parts.voice.trouble(Trouble::Send, None);
                    self.parts.flow.track(out.landing(ticket), delivery);
                    return Ok(Flag::GoOn);
                }
                Served::Done(Err(error)) => error,
            };
            if !error.is_retriable() {
                return Err(error.context("Unrecoverable exception trying to send"));
            }
            tracing::warn!(topic = %out.topic(), error = error.trace(), "the record is sent again later");
            self.parts.voice.trouble(Trouble::Send, Some(error.trace()));
            let clock = self.parts.flow.clock();
            if let Served::Stop = self.parts.flow.serve(control, clock.sleep(PAUSE), Until::Stop).await? {
                return Ok(Flag::Stop);
            }
        }
    }

    /// Tells the task of the commits that ended.
    async fn tell_committed(&mut self) {
        for committed in self.parts.flow.take_committed() {
            if let Err(error) = self.parts.task.committed(committed.offsets()).await {
                tracing::warn!(error = error.trace(), "the task failed to note stored offsets");
            }
        }
    }
}

#[async_trait]
impl Life for SourceLoop {
    async fn start(&mut self, config: &Config) -> Result<()> {
        let context: Arc<TaskSourceContext> = Arc::clone(&self.parts.context);
        self.parts.task.start(context, config).await
    }

    async fn run(&mut self, control: &mut Control) -> Result<()> {
        let Err(error) = self.pump(control).await else { return Ok(()) };
        match self.parts.flow.failed_topic() {
            Some(topic) => Err(self.parts.topics.explain(&topic, error).await),
            None => Err(error),
        }
    }

    async fn finish(&mut self, _: &Result<()>) {
        self.parts.flow.drain().await;
        self.tell_committed().await;
        self.parts.task.stop().await;
    }

    async fn abandon(&mut self) {
        self.parts.flow.drain().await;
    }
}

impl Outgoing {
    fn topic(&self) -> &Arc<str> {
        match self {
            Self::Record(record) => &record.topic,
            Self::Batch(batch) => &batch.partition().topic,
        }
    }

    fn landing(&self, ticket: &Ticket) -> Landing {
        let tolerable = matches!(self, Self::Record(_));
        Landing { ticket: ticket.clone(), topic: Arc::clone(self.topic()), tolerable }
    }
}

async fn attempt(
    producer: &Arc<dyn Producer>,
    topics: &mut Topics,
    out: &Outgoing,
) -> Result<BoxFuture<'static, Result<()>>> {
    topics.ensure(out.topic()).await?;
    match out {
        Outgoing::Batch(batch) => {
            let delivery = producer.send_batch(batch).await?;
            Ok(Box::pin(async move { delivery.await.map(drop) }))
        }
        Outgoing::Record(record) => {
            let delivery = producer.send(record.clone()).await?;
            Ok(Box::pin(async move { delivery.await.map(drop) }))
        }
    }
}

fn unrecoverable(error: ConnectError) -> ConnectError {
    error.context("Exiting WorkerSourceTask due to unrecoverable exception.")
}

#[cfg(test)]
mod tests;
