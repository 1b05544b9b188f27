//! The loop of a sink task: it owns the connector's task, the consumer and everything about them (A2), and it answers
//! in this order: stop, pause, a commit that came back, an answer about missing topics, what is due by the clock, the
//! consumer. The clock stands before the records, or a stream that never pauses would starve ticks and commits; the
//! next tick is due a while after the last one ended, so ticks cannot starve the records either.
//!
//! Parts: `inbox` (batches until they are taken), `assignment` (open, place, close), `opening` (what is not read yet,
//! and where it begins), `commit` (flush and commit), `missing` (topics that are not there); [`super::positions`] has
//! the numbers. Deliberately absent: anything about what the task does with records.

mod assignment;
mod commit;
mod inbox;
mod missing;
mod opening;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::{Batch, Clock, Config, ConnectError, Kind, Place, Result, SinkTask, TopicPartition};
use tokio_util::sync::CancellationToken;

use self::commit::Commit;
use self::inbox::Inbox;
use self::missing::Missing;
use self::opening::Opening;
use super::State;
use super::backoff::{Backoff, Throttles};
use super::context::TaskSinkContext;
use super::control::{Control, Wanted};
use super::life::Timing;
use super::pipeline::SinkPipeline;
use super::positions::PositionTable;
use super::voice::{Trouble, Voice};
use crate::kafka::{Consumer, Event};
use crate::spawn::Patience;

/// How long after a tick the next one is due.
const TICK: Duration = Duration::from_millis(100);
/// The same where nothing was heard of the consumer for [`QUIET_AFTER`], and memory is not short.
const QUIET_TICK: Duration = Duration::from_millis(300);
const QUIET_AFTER: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LIMIT: Duration = Duration::from_secs(10);
/// How long after the broker refused a position it is looked for again.
const PLACE_AFTER: Duration = Duration::from_millis(500);
const LOG_PERIOD: Duration = Duration::from_secs(30);

/// What the loop is made of.
pub(super) struct SinkParts {
    pub(super) task: Box<dyn SinkTask>,
    pub(super) consumer: Box<dyn Consumer>,
    pub(super) context: Arc<TaskSinkContext>,
    pub(super) pipeline: SinkPipeline,
    pub(super) voice: Arc<Voice>,
    pub(super) timing: Timing,
    /// Cancelled once the task is to stop.
    pub(super) stop: CancellationToken,
}

/// A sink task in its loop.
pub(super) struct SinkLoop {
    parts: SinkParts,
    clock: Arc<dyn Clock>,
    positions: PositionTable,
    opening: Opening,
    inbox: Inbox,
    commit: Commit,
    missing: Missing,
    paused: bool,
    /// When it was seen that the task is to stop: all that it still waits for counts from then.
    stopped_at: Option<Duration>,
    next_tick: Duration,
    heard_at: Duration,
    next_commit: Duration,
    tick_backoff: Backoff,
    /// By what they say: of topics that are missing the client names each once.
    consumer_errors: Throttles,
    consumer_in_trouble: bool,
}

impl SinkLoop {
    pub(super) fn new(parts: SinkParts) -> Self {
        let clock = Arc::clone(&parts.context.parts.clock);
        let now = clock.monotonic();
        let backoff = || Backoff::new(RETRY_FIRST, RETRY_LIMIT);
        Self {
            positions: PositionTable::default(),
            opening: Opening::new(backoff()),
            inbox: Inbox::new(backoff()),
            commit: Commit::Idle,
            missing: Missing::default(),
            paused: false,
            stopped_at: None,
            next_tick: now,
            heard_at: now,
            next_commit: now + parts.timing.flush_interval,
            tick_backoff: backoff(),
            consumer_errors: Throttles::new(LOG_PERIOD),
            consumer_in_trouble: false,
            clock,
            parts,
        }
    }

    /// Starts the connector's task.
    ///
    /// # Errors
    /// Whatever fails the task.
    pub(super) async fn start(&mut self, config: &Config) -> Result<()> {
        let context: Arc<TaskSinkContext> = Arc::clone(&self.parts.context);
        self.parts.task.start(context, config).await
    }

    /// Runs until the task is to stop.
    ///
    /// # Errors
    /// Whatever fails the task.
    pub(super) async fn run(&mut self, control: &mut Control) -> Result<()> {
        loop {
            self.apply_seeks();
            if sabotage::is(Fault::TickStarved)
                && let Some(event) = self.parts.consumer.next().now_or_never()
            {
                self.hear(event).await?;
                continue;
            }
            let wait = self.next_due().saturating_sub(self.clock.monotonic());
            tokio::select! {
                biased;
                wanted = control.changed() => match wanted {
                    Wanted::Stop => return Ok(()),
                    Wanted::Pause => self.pause(true),
                    Wanted::Run => self.pause(false),
                },
                result = self.commit.ended() => self.commit_ended(result)?,
                found = self.missing.answered() => self.topics_found(&found),
                () = wait_for(self.clock.as_ref(), wait) => self.do_what_is_due().await?,
                event = self.parts.consumer.next() => self.hear(event).await?,
            }
        }
    }

    /// Ends the task after [`SinkLoop::run`]: what is whole is published and committed, unless going on could do
    /// damage.
    pub(super) async fn finish(&mut self, outcome: &Result<()>) {
        let damaging = outcome.as_ref().is_err_and(|error| error.kind() == Kind::Fatal);
        let partitions = self.open_partitions();
        if damaging {
            self.close_lost(&partitions).await;
        } else if let Err(error) = self.hand_over(&partitions, self.parts.timing.stop_patience).await {
            tracing::error!(error = error.trace(), "the last flush failed; what was not committed is read again");
        }
        self.parts.task.stop().await;
    }

    /// Leaves the group.
    pub(super) async fn leave(&mut self) {
        self.parts.consumer.close().await;
    }

    /// How long something may take: `usual`, and no longer than `after_stop` from when the task is to stop.
    fn patience(&mut self, usual: Duration, after_stop: Duration) -> Patience {
        let now = self.clock.monotonic();
        if self.parts.stop.is_cancelled() {
            self.stopped_at.get_or_insert(now);
        }
        let gone = self.stopped_at.map_or(Duration::ZERO, |at| now.saturating_sub(at));
        Patience { usual, once_stopped: after_stop.saturating_sub(gone) }
    }

    fn next_due(&self) -> Duration {
        let records = self.inbox.due().filter(|_| !self.paused);
        let others = [self.opening.due(), self.commit.overdue(), self.missing.due(), records];
        others.into_iter().flatten().fold(self.next_tick.min(self.next_commit), Duration::min)
    }

    async fn do_what_is_due(&mut self) -> Result<()> {
        let now = self.clock.monotonic();
        if self.opening.due().is_some_and(|due| due <= now) {
            self.open().await?;
        }
        if self.commit.overdue().is_some_and(|due| due <= now) {
            self.commit_is_overdue();
        }
        if self.missing.due().is_some_and(|due| due <= now) {
            self.look_for_missing();
        }
        if self.next_commit <= now {
            self.begin_commit().await?;
        }
        if !self.paused && self.inbox.due().is_some_and(|due| due <= now) {
            self.put().await?;
        }
        if self.next_tick <= now {
            self.tick().await?;
        }
        Ok(())
    }

    async fn hear(&mut self, event: Event) -> Result<()> {
        self.heard_at = self.clock.monotonic();
        let event = match event {
            Event::Deleted(partitions) if sabotage::is(Fault::DeletedIsLost) => Event::Lost(partitions),
            event => event,
        };
        match event {
            Event::Assigned(partitions) => {
                self.consumer_is_well();
                tracing::info!(partitions = ?Names(&partitions), "assigned");
                self.opening.open_soon(partitions);
                self.open().await
            }
            Event::Revoked(partitions) => {
                tracing::info!(partitions = ?Names(&partitions), "revoked");
                if sabotage::is(Fault::FlushAfterRelease) {
                    self.parts.consumer.release();
                }
                let handed_over = self.hand_over(&partitions, self.parts.timing.release_patience).await;
                self.parts.consumer.release();
                handed_over
            }
            Event::Lost(partitions) => {
                tracing::warn!(partitions = ?Names(&partitions), "lost");
                self.close_lost(&partitions).await;
                Ok(())
            }
            Event::Deleted(partitions) => {
                tracing::warn!(partitions = ?Names(&partitions), "deleted with their topics");
                self.keep(&partitions).await
            }
            Event::Batches(batches) => {
                self.consumer_is_well();
                self.receive(batches).await
            }
            Event::OutOfRange(partition) => {
                self.opening.place_again_by(partition, self.clock.monotonic() + PLACE_AFTER);
                Ok(())
            }
            Event::Truncated(partition, divergence) => self.cut_back(&partition, divergence).await,
            Event::Missing(topic, error) => {
                self.topic_is_missing(topic, &error);
                Ok(())
            }
            Event::Unreadable(partition, offset, error) => {
                let remedy = self.set_offset(&partition, offset + 1);
                let told = format!("{}; to go on behind it {remedy}", error.message());
                Err(ConnectError::new(error.kind(), told).context("the consumer failed"))
            }
            Event::Error(error) => self.consumer_failed(error),
        }
    }

    fn consumer_failed(&mut self, error: ConnectError) -> Result<()> {
        if !error.is_retriable() {
            return Err(error.context("the consumer failed"));
        }
        let admitted = self.consumer_errors.admit(error.message(), self.clock.monotonic());
        if let Some(held_back) = admitted {
            tracing::warn!(error = error.trace(), held_back, "the consumer retries");
        }
        if admitted.is_some() || !self.consumer_in_trouble {
            self.consumer_in_trouble = true;
            self.parts.voice.trouble(Trouble::Consumer, Some(error.trace()));
        }
        Ok(())
    }

    fn consumer_is_well(&mut self) {
        if std::mem::take(&mut self.consumer_in_trouble) {
            self.parts.voice.trouble(Trouble::Consumer, None);
        }
    }

    async fn receive(&mut self, batches: Vec<Batch>) -> Result<()> {
        for batch in batches {
            // A partition that is being opened anew may have batches on their way; they come again from its start.
            if self.positions.consumed(batch.partition()).is_none() {
                continue;
            }
            match self.parts.pipeline.decode(batch).await? {
                Some(batch) => self.inbox.push([batch]),
                None => return Ok(()),
            }
        }
        if self.paused || self.inbox.is_retrying() { Ok(()) } else { self.put().await }
    }

    /// Puts what waits, or again what failed before.
    async fn put(&mut self) -> Result<()> {
        self.apply_seeks();
        let batches = self.inbox.attempt();
        if batches.is_empty() {
            return Ok(());
        }
        self.positions.check_continuity(batches)?;
        match self.parts.task.put(batches).await {
            Ok(()) => self.taken(),
            Err(error) if error.is_retriable() => self.put_later(&error),
            Err(error) if error.kind() == Kind::Fenced => self.open_anew(&error).await,
            Err(error) => return Err(unrecoverable(error)),
        }
        Ok(())
    }

    fn taken(&mut self) {
        let (batches, ends_retries) = self.inbox.taken();
        self.positions.consume(&batches);
        let topics: BTreeSet<_> =
            batches.iter().filter(|batch| !batch.is_empty()).map(|batch| &batch.partition().topic).collect();
        for topic in topics {
            self.parts.voice.topic_used(topic);
        }
        if ends_retries {
            self.retries_ended();
        }
    }

    fn put_later(&mut self, error: &ConnectError) {
        let first = self.inbox.retry(self.clock.monotonic());
        tracing::warn!(error = error.trace(), "the batches are put again later");
        self.parts.voice.trouble(Trouble::Put, Some(error.trace()));
        if first {
            let open = self.positions.partitions();
            self.parts.consumer.pause(&open);
        }
    }

    fn retries_ended(&mut self) {
        self.parts.voice.trouble(Trouble::Put, None);
        if !self.paused {
            let open = self.positions.partitions();
            self.parts.consumer.resume(&open);
        }
    }

    /// An empty put: the task sees that time passes.
    async fn tick(&mut self) -> Result<()> {
        let ticked = self.parts.task.put(&[]).await;
        let now = self.clock.monotonic();
        // Where memory has run out the consumer is silent, too, and ticks are what frees it.
        let budget = &self.parts.context.parts.budget;
        let has_room = budget.moving() < budget.room() / 2;
        let is_quiet = has_room && now.saturating_sub(self.heard_at) >= QUIET_AFTER;
        self.next_tick = now + if is_quiet { QUIET_TICK } else { TICK };
        match ticked {
            Ok(()) => {
                self.tick_backoff.reset();
                if !self.inbox.is_retrying() {
                    self.parts.voice.trouble(Trouble::Put, None);
                }
            }
            Err(error) if error.is_retriable() => {
                self.next_tick = now + self.tick_backoff.step().max(TICK);
                tracing::warn!(error = error.trace(), "the task's tick failed; it is tried again");
                self.parts.voice.trouble(Trouble::Put, Some(error.trace()));
            }
            Err(error) if error.kind() == Kind::Fenced => self.open_anew(&error).await,
            Err(error) => return Err(unrecoverable(error)),
        }
        Ok(())
    }

    fn pause(&mut self, paused: bool) {
        if paused == self.paused {
            return;
        }
        self.paused = paused;
        let open = self.positions.partitions();
        if paused {
            self.parts.consumer.pause(&open);
            self.next_commit = self.clock.monotonic();
        } else if !self.inbox.is_retrying() {
            self.parts.consumer.resume(&open);
        }
        self.parts.voice.state(if paused { State::Paused } else { State::Running });
    }

    /// What the task asked its context for, before the next put sees an older record.
    fn apply_seeks(&mut self) {
        for (partition, place) in self.parts.context.take_seeks() {
            if self.positions.consumed(&partition).is_some() {
                self.seek(&partition, place);
            } else if !self.opening.seek_later(&partition, place) {
                tracing::debug!(%partition, offset = place.offset, "a seek of a partition that is not open");
            }
        }
    }

    fn seek(&mut self, partition: &TopicPartition, place: Place) {
        tracing::info!(%partition, offset = place.offset, "the task reads on from here");
        self.discard(std::slice::from_ref(partition));
        self.doubts().sought(partition);
        self.positions.seek(partition, place.offset, self.opening.below(partition));
        self.parts.consumer.seek(partition, place);
    }

    /// Throws away what `partitions` have in the inbox.
    fn discard(&mut self, partitions: &[TopicPartition]) {
        if self.inbox.discard(partitions) {
            self.retries_ended();
        }
    }
}

async fn wait_for(clock: &dyn Clock, wait: Duration) {
    if !wait.is_zero() {
        clock.sleep(wait).await;
    }
}

fn unrecoverable(error: ConnectError) -> ConnectError {
    error.context("Exiting WorkerSinkTask due to unrecoverable exception.")
}

/// Partitions as a log line shows them.
struct Names<'a>(&'a [TopicPartition]);

impl std::fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|partition| format_args!("{partition}").to_string())).finish()
    }
}

#[cfg(test)]
mod tests;
