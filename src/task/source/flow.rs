//! What a source task has under way: records that are not acknowledged and the commit of offsets. [`Flow::serve`] moves
//! both on while the loop waits for something else. One commit is in flight at a time, so offsets cannot be overtaken.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use lakeferry_api::{Clock, ConnectError, Result, SourceOffset, SourcePartition};

use crate::backing::OffsetLog;
use crate::spawn::within;
use crate::task::acks::{Acks, Committable, Ticket};
use crate::task::control::Control;
use crate::task::life::Timing;
use crate::task::pipeline::Produced;
use crate::task::tolerance::{Failure, Stage, Tolerance};
use crate::task::voice::{Trouble, Voice};

/// What is known of a delivery when it ends.
pub(in crate::task) struct Landing {
    pub(super) ticket: Ticket,
    pub(super) topic: Arc<str>,
    /// False where more than one record shares the delivery: none of them may be skipped.
    pub(super) tolerable: bool,
}

/// How [`Flow::serve`] ended.
pub(super) enum Served<T> {
    /// What was waited for is here.
    Done(T),
    /// The task is to stop.
    Stop,
    /// The loop has something to do first.
    Interrupted,
}

/// What may end [`Flow::serve`] besides what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Only a stop.
    Stop,
    /// A stop, a change of pause, a commit that ended.
    Anything,
}

/// What [`Flow`] is made of.
pub(in crate::task) struct FlowParts {
    pub(in crate::task) connector: String,
    pub(in crate::task) offsets: Arc<dyn OffsetLog>,
    pub(in crate::task) tolerance: Arc<Tolerance>,
    pub(in crate::task) voice: Arc<Voice>,
    pub(in crate::task) timing: Timing,
}

/// The records and offsets under way.
pub(in crate::task) struct Flow {
    parts: FlowParts,
    acks: Acks,
    deliveries: FuturesUnordered<BoxFuture<'static, (Landing, Result<()>)>>,
    commit: Commit,
    next_commit: Duration,
    committed: Vec<Committable>,
    failed_topic: Option<Arc<str>>,
}

enum Commit {
    Idle,
    InFlight { committable: Committable, overdue: Option<Duration>, result: BoxFuture<'static, Result<()>> },
}

impl Flow {
    pub(in crate::task) fn new(parts: FlowParts) -> Self {
        let next_commit = parts.tolerance.clock.monotonic() + parts.timing.flush_interval;
        Self {
            parts,
            acks: Acks::default(),
            deliveries: FuturesUnordered::new(),
            commit: Commit::Idle,
            next_commit,
            committed: Vec::new(),
            failed_topic: None,
        }
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.parts.tolerance.clock)
    }

    /// A batch of `deliveries` deliveries goes out.
    pub(super) fn submit(
        &mut self,
        partition: &SourcePartition,
        offset: Option<SourceOffset>,
        deliveries: usize,
    ) -> Ticket {
        self.acks.submit(partition, offset, deliveries)
    }

    /// Waits for a delivery from now on.
    pub(super) fn track(&mut self, landing: Landing, delivery: BoxFuture<'static, Result<()>>) {
        self.deliveries.push(Box::pin(async move { (landing, delivery.await) }));
    }

    /// The commits that ended since the last call.
    pub(super) fn take_committed(&mut self) -> Vec<Committable> {
        std::mem::take(&mut self.committed)
    }

    /// The topic of the delivery that failed the task.
    pub(super) fn failed_topic(&self) -> Option<Arc<str>> {
        self.failed_topic.clone()
    }

    /// Waits for `future` while deliveries and commits go on. `future` is dropped where something else ends the wait.
    ///
    /// # Errors
    /// A delivery that failed and is not tolerated.
    pub(super) async fn serve<T>(
        &mut self,
        control: &mut Control,
        future: impl Future<Output = T>,
        until: Until,
    ) -> Result<Served<T>> {
        let mut future = pin!(future);
        let stop = control.stop_token();
        let clock = self.clock();
        loop {
            if until == Until::Anything && !self.committed.is_empty() {
                return Ok(Served::Interrupted);
            }
            // Before the future, which may always be ready and would starve it.
            if self.next_due() <= clock.monotonic() {
                self.do_what_is_due();
                continue;
            }
            let wait = self.next_due().saturating_sub(clock.monotonic());
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Served::Stop),
                _ = control.changed(), if until == Until::Anything => return Ok(Served::Interrupted),
                Some((landing, result)) = self.deliveries.next() => self.landed(landing, result).await?,
                result = self.commit.ended() => self.commit_ended(result),
                value = &mut future => return Ok(Served::Done(value)),
                () = clock.sleep(wait) => {}
            }
        }
    }

    /// Waits a while for what is under way and stores how far everything got.
    pub(super) async fn drain(&mut self) {
        let clock = self.clock();
        let deadline = clock.monotonic() + self.parts.timing.end_patience;
        let mut undelivered = None;
        while let Some(Some((landing, result))) =
            within(deadline.saturating_sub(clock.monotonic()), clock.as_ref(), self.deliveries.next()).await
        {
            match result {
                Ok(()) => self.acks.acknowledge(&landing.ticket),
                Err(error) => drop(undelivered.get_or_insert(error)),
            }
        }
        let left = self.acks.unacknowledged();
        if left > 0 {
            let error = undelivered.map(|error| error.trace());
            tracing::warn!(
                left,
                error,
                "not everything was acknowledged; those records are sent again after a restart"
            );
        }
        if self.finish_commit(deadline).await {
            self.begin_commit();
            self.finish_commit(deadline).await;
        }
    }

    /// Waits for the commit in flight; false where that takes too long. Some time is left for it in any case.
    async fn finish_commit(&mut self, deadline: Duration) -> bool {
        let clock = self.clock();
        let patience = deadline.saturating_sub(clock.monotonic()).max(self.parts.timing.end_patience / 2);
        match within(patience, clock.as_ref(), self.commit.ended_or_idle()).await {
            Some(Some(result)) => self.commit_ended(result),
            Some(None) => {}
            None => tracing::warn!("storing source offsets timed out; those records are sent again after a restart"),
        }
        matches!(self.commit, Commit::Idle)
    }

    fn next_due(&self) -> Duration {
        match self.commit {
            Commit::InFlight { overdue: Some(overdue), .. } => overdue.min(self.next_commit),
            _ => self.next_commit,
        }
    }

    fn do_what_is_due(&mut self) {
        let now = self.parts.tolerance.clock.monotonic();
        let timeout_ms = self.parts.timing.flush_timeout.as_millis();
        if let Commit::InFlight { overdue, .. } = &mut self.commit
            && overdue.take_if(|overdue| *overdue <= now).is_some()
        {
            let what = format!("storing source offsets takes longer than offset.flush.timeout.ms={timeout_ms}");
            tracing::warn!("{what}");
            self.parts.voice.trouble(Trouble::Commit, Some(what));
        }
        if self.next_commit <= now {
            self.begin_commit();
        }
    }

    fn begin_commit(&mut self) {
        let now = self.parts.tolerance.clock.monotonic();
        self.next_commit = now + self.parts.timing.flush_interval;
        if matches!(self.commit, Commit::InFlight { .. }) {
            return;
        }
        let committable = self.acks.committable();
        if committable.offsets().is_empty() {
            // A round without anything to store is a successful one, and the task is told.
            self.committed.push(committable);
            return;
        }
        let (log, connector) = (Arc::clone(&self.parts.offsets), self.parts.connector.clone());
        let offsets: Vec<_> =
            committable.offsets().iter().map(|(partition, offset)| (partition.clone(), Some(offset.clone()))).collect();
        let result = Box::pin(async move { log.put(&connector, &offsets).await });
        self.commit = Commit::InFlight { committable, overdue: Some(now + self.parts.timing.flush_timeout), result };
    }

    fn commit_ended(&mut self, result: Result<()>) {
        let Commit::InFlight { committable, .. } = std::mem::replace(&mut self.commit, Commit::Idle) else { return };
        match result {
            Ok(()) => {
                self.acks.committed(&committable);
                self.committed.push(committable);
                self.parts.voice.trouble(Trouble::Commit, None);
            }
            Err(error) => {
                tracing::warn!(error = error.trace(), "source offsets were not stored; that is tried again");
                self.parts.voice.trouble(Trouble::Commit, Some(error.trace()));
            }
        }
    }

    async fn landed(&mut self, landing: Landing, result: Result<()>) -> Result<()> {
        match result {
            Ok(()) => self.parts.voice.topic_used(&landing.topic),
            Err(error) => {
                let judged = self.judge(&landing, error);
                if judged.is_err() {
                    self.failed_topic = Some(landing.topic);
                    return judged;
                }
            }
        }
        self.acks.acknowledge(&landing.ticket);
        Ok(())
    }

    /// A delivery failed for good.
    fn judge(&self, landing: &Landing, error: ConnectError) -> Result<()> {
        let failure = Failure { stage: Stage::KafkaProduce, class: "".into(), error };
        self.parts.tolerance.log(&failure, Produced(&landing.topic));
        if landing.tolerable && self.parts.tolerance.settings.tolerate_all {
            return Ok(());
        }
        Err(failure.error.context(format!(
            "Unrecoverable exception from producer send callback: a record for topic {} was not written",
            landing.topic
        )))
    }
}

impl Commit {
    async fn ended(&mut self) -> Result<()> {
        match self {
            Self::Idle => std::future::pending().await,
            Self::InFlight { result, .. } => result.await,
        }
    }

    async fn ended_or_idle(&mut self) -> Option<Result<()>> {
        if matches!(self, Self::Idle) { None } else { Some(self.ended().await) }
    }
}
