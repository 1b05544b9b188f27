//! Flush and commit: the task says what is durable, the group is told. A commit runs beside the loop; one is in flight
//! at a time, so offsets cannot overtake each other. A commit that fails is made again at the next interval.

use std::time::Duration;

use futures::future::BoxFuture;
use lakeferry_api::{Kind, Positions, Result};

use super::{SinkLoop, unrecoverable};
use crate::spawn::within_or_stop;
use crate::task::positions::Shown;
use crate::task::voice::Trouble;

/// The commit that runs beside the loop.
pub(super) enum Commit {
    Idle,
    InFlight { positions: Positions, overdue: Option<Duration>, result: BoxFuture<'static, Result<()>> },
}

impl Commit {
    /// The result of the commit in flight; never returns while there is none. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Result<()> {
        match self {
            Self::Idle => std::future::pending().await,
            Self::InFlight { result, .. } => result.await,
        }
    }

    /// When the commit in flight has taken so long that it is worth a word.
    pub(super) fn overdue(&self) -> Option<Duration> {
        match self {
            Self::Idle => None,
            Self::InFlight { overdue, .. } => *overdue,
        }
    }
}

impl SinkLoop {
    /// Asks the task what is durable of everything and begins to commit it.
    pub(super) async fn begin_commit(&mut self) -> Result<()> {
        self.next_commit = self.clock.monotonic() + self.parts.timing.flush_interval;
        let consumed = self.positions.all_consumed();
        if consumed.is_empty() || matches!(self.commit, Commit::InFlight { .. }) {
            return Ok(());
        }
        match self.flush(&consumed).await {
            Ok(()) => {}
            Err(error) if error.is_retriable() => {
                tracing::warn!(error = error.trace(), "nothing is committed before the next interval");
                self.parts.voice.trouble(Trouble::Commit, Some(error.trace()));
                return Ok(());
            }
            Err(error) if error.kind() == Kind::Fenced => {
                self.open_anew(&error).await;
                return Ok(());
            }
            Err(error) => return Err(unrecoverable(error)),
        }
        // While the consumer is in trouble a commit of what the group has already shows when that is over.
        let positions =
            if self.consumer_in_trouble { self.positions.all_durable() } else { self.positions.to_commit() };
        if positions.is_empty() {
            self.parts.voice.trouble(Trouble::Commit, None);
            return Ok(());
        }
        let (group, to_commit) = (self.parts.context.group.clone(), positions.clone());
        let result = Box::pin(async move { group.commit(&to_commit).await });
        let overdue = Some(self.clock.monotonic() + self.parts.timing.flush_timeout);
        self.commit = Commit::InFlight { positions, overdue, result };
        Ok(())
    }

    /// The commit in flight has its result.
    ///
    /// # Errors
    /// What no later commit helps against: the group's right was taken away, or the client is of no use any more.
    pub(super) fn commit_ended(&mut self, result: Result<()>) -> Result<()> {
        let Commit::InFlight { positions, .. } = std::mem::replace(&mut self.commit, Commit::Idle) else {
            return Ok(());
        };
        match result {
            Err(error) if matches!(error.kind(), Kind::Config | Kind::Fatal) => Err(unrecoverable(error)),
            result => {
                self.note_commit(&positions, result);
                Ok(())
            }
        }
    }

    /// The commit in flight takes long. It is still waited for: a second one beside it could be overtaken by it.
    pub(super) fn commit_is_overdue(&mut self) {
        if let Commit::InFlight { positions, overdue, .. } = &mut self.commit {
            *overdue = None;
            let timeout_ms = self.parts.timing.flush_timeout.as_millis();
            tracing::warn!(positions = %Shown(positions), timeout_ms, "the commit of offsets takes longer than offset.flush.timeout.ms");
            let what = format!("the commit of offsets takes longer than offset.flush.timeout.ms={timeout_ms}");
            self.parts.voice.trouble(Trouble::Commit, Some(what));
        }
    }

    /// Waits for the commit in flight, so that the next one cannot be overtaken by it.
    pub(super) async fn await_commit(&mut self) {
        let patience = self.patience(self.parts.timing.end_patience, self.parts.timing.stop_patience);
        let (clock, stop) = (self.clock.clone(), self.parts.stop.clone());
        let (ended, stopped_at) = within_or_stop(patience, clock.as_ref(), &stop, self.commit_in_flight()).await;
        self.stopped_at = self.stopped_at.or(stopped_at);
        match ended {
            Some(Some(result)) => {
                if let Err(error) = self.commit_ended(result) {
                    tracing::warn!(error = error.trace(), "offsets were not committed");
                }
            }
            Some(None) => {}
            None => {
                tracing::warn!("the commit of offsets timed out");
                self.commit = Commit::Idle;
            }
        }
    }

    /// Commits `positions` and waits for it, but not for ever.
    pub(super) async fn commit_now(&mut self, positions: Positions) {
        if positions.is_empty() {
            return;
        }
        let patience = self.patience(self.parts.timing.end_patience, self.parts.timing.last_commit_patience);
        let (group, stop) = (self.parts.context.group.clone(), &self.parts.stop);
        let commit = group.commit(&positions);
        let (committed, stopped_at) = within_or_stop(patience, self.clock.as_ref(), stop, commit).await;
        self.stopped_at = self.stopped_at.or(stopped_at);
        match committed {
            Some(result) => self.note_commit(&positions, result),
            None => tracing::warn!(positions = %Shown(&positions), "the last commit of these partitions timed out"),
        }
    }

    /// Asks the task what is durable.
    pub(super) async fn flush(&mut self, consumed: &Positions) -> Result<()> {
        let durable = self.parts.task.flush(consumed).await?;
        self.report_durable(&durable);
        Ok(())
    }

    pub(super) fn report_durable(&mut self, durable: &Positions) {
        for refused in self.positions.report_durable(durable) {
            tracing::warn!(%refused, "a durable position that cannot be so is ignored");
        }
    }

    async fn commit_in_flight(&mut self) -> Option<Result<()>> {
        if matches!(self.commit, Commit::Idle) { None } else { Some(self.commit.ended().await) }
    }

    fn note_commit(&mut self, positions: &Positions, result: Result<()>) {
        match result {
            Ok(()) => {
                tracing::debug!(positions = %Shown(positions), "committed");
                self.positions.committed(positions);
                self.parts.voice.trouble(Trouble::Commit, None);
                self.consumer_is_well();
            }
            // The group takes the partitions away; the consumer says so next.
            Err(error) if error.kind() == Kind::Fenced => {
                tracing::info!(error = error.trace(), "offsets were not committed: the partitions have a new owner");
            }
            Err(error) => {
                tracing::warn!(error = error.trace(), "offsets were not committed; that is tried again");
                self.parts.voice.trouble(Trouble::Commit, Some(error.trace()));
            }
        }
    }
}
