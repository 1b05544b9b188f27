//! Partitions come and go: open (in rounds, between which the loop goes on; tried again while the store or a broker
//! does not answer; the partitions stay paused meanwhile), begin where [`super::opening`] says, close. A partition has
//! a position in the table exactly while it is open and placed; only then its records are put.
//!
//! A position that the broker has no more is looked for again. Below the log's start (retention) a task that keeps its
//! own positions publishes what it has and is opened anew, so that it can account for the gap, again and again while a
//! broker that lags behind tells it that nothing is lost; where it insists, and for every other task, the position
//! moves on by a batch without records. Within the log it was refused a moment ago:
//! whoever keeps positions is opened anew, once. Beyond the log's end (it was cut or made anew) the partition is opened
//! anew. So it is where an unclean election took back records that were read: the task is told where the log parted
//! from them, and whoever keeps no positions goes on there. What is known against a position meanwhile is one
//! [`Doubt`].

use std::collections::BTreeMap;
use std::time::Duration;

use lakeferry_api::sink::OffsetReset;
use lakeferry_api::{
    Batch, Closing, ConnectError, Kind, PartitionView, Places, Result, SinkContext as _, TopicPartition,
};

use super::opening::{Beginning, Step, Waits, views};
use super::{SinkLoop, unrecoverable};
use crate::spawn::within_or_stop;
use crate::task::doubts::{Doubt, Doubts, Insisted, ends_before};
use crate::task::positions::Below;
use crate::task::voice::Trouble;

/// How long a task may insist on a position that no broker has before it fails.
const INSISTING: Duration = Duration::from_secs(60);

impl SinkLoop {
    /// Every partition that the task has open.
    pub(super) fn open_partitions(&self) -> Vec<TopicPartition> {
        let mut open = self.positions.partitions();
        open.extend(self.opening.unplaced().cloned());
        open
    }

    /// Brings every partition that is not read a step further. What fails for now is tried again later.
    pub(super) async fn open(&mut self) -> Result<()> {
        let mut waits = Waits::default();
        self.try_open(&mut waits).await.map_err(unrecoverable)?;
        let mut why = waits.first();
        if !self.opening.ends_with(&mut why, self.clock.monotonic()) {
            return Ok(());
        }
        match why {
            None => {
                self.opening.settled();
                self.parts.voice.trouble(Trouble::Open, None);
            }
            Some(error) => self.open_later(&error),
        }
        Ok(())
    }

    /// Another writer was faster: everything is discarded and opened anew, unless the group takes it away first.
    pub(super) async fn open_anew(&mut self, error: &ConnectError) {
        let partitions = self.open_partitions();
        self.close_lost(&partitions).await;
        self.parts.consumer.pause(&partitions);
        self.opening.open_soon(partitions);
        self.open_later(error);
    }

    /// An unclean election took back the records of `partition` from `divergence` on. A task that keeps its own
    /// positions drops what it has not published and begins anew. For every other one what it was given stays given,
    /// and reading goes on at the divergence, as with any consumer that has a reset policy.
    pub(super) async fn cut_back(&mut self, partition: &TopicPartition, divergence: i64) -> Result<()> {
        let position = self.position(partition);
        tracing::warn!(
            %partition, divergence, position,
            "an unclean election took back records that were read: opened anew at the divergence at most"
        );
        let one = std::slice::from_ref(partition);
        let parting = self.doubts().parting(partition, divergence);
        if self.opening.keeps(partition) {
            self.close_lost(one).await;
            self.opening.open_soon([partition.clone()]);
        } else if position.is_some() {
            if self.parts.context.offset_reset == OffsetReset::None {
                return Err(ConnectError::config(format!(
                    "an unclean election took back the records of {partition} from offset {divergence} on, and \
                     auto.offset.reset=none does not go on; to go on there {}",
                    self.set_offset(partition, divergence)
                )));
            }
            let published = self.publish(one, self.parts.timing.release_patience).await;
            // Records that are in the log no more are nobody's progress: should the log have grown over them when this
            // process ends, whoever is given their offset by the group would skip what stands there now.
            self.positions.cut_back(partition, divergence);
            self.commit_and_forget(one).await;
            published?;
            self.opening.open_soon([partition.clone()]);
        }
        self.doubts().raise(partition, parting);
        self.open().await
    }

    /// The partitions went with their topic: nobody will read again what was read of them, so it is published, also
    /// what came before a pause was heard. There is nothing to commit.
    pub(super) async fn keep(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        let put = if self.inbox.is_retrying() { Ok(()) } else { self.put().await };
        let published = self.publish(partitions, self.parts.timing.release_patience).await;
        self.forget(partitions);
        put.and(published)
    }

    /// The partitions are gone already: nothing of them is published or committed.
    pub(super) async fn close_lost(&mut self, partitions: &[TopicPartition]) {
        let open = self.forget(partitions);
        if open.is_empty() {
            return;
        }
        if let Err(error) = self.parts.task.close(&open, Closing::Lost).await {
            tracing::warn!(error = error.trace(), "closing lost partitions failed; they are gone all the same");
        }
    }

    /// The partitions go: what is whole of them is published within `patience` and committed first. What takes longer
    /// is given up; whoever reads them next publishes it. So is what the task fails of, for which it has to end: what
    /// it called durable before is committed all the same.
    pub(super) async fn hand_over(&mut self, partitions: &[TopicPartition], patience: Duration) -> Result<()> {
        let published = self.publish(partitions, patience).await;
        self.commit_and_forget(partitions).await;
        published
    }

    /// Once the task is asked to stop, all that is left to publish has the patience of a stop.
    ///
    /// # Errors
    /// What the task has to end for. The partitions are closed all the same.
    async fn publish(&mut self, partitions: &[TopicPartition], patience: Duration) -> Result<()> {
        self.await_commit().await;
        self.discard(partitions);
        if let Err(error) = self.flush_some(partitions).await {
            if !matches!(error.kind(), Kind::Retriable | Kind::Fenced) {
                self.close_lost(partitions).await;
                return Err(unrecoverable(error));
            }
            tracing::warn!(error = error.trace(), "flushing partitions that go failed");
        }
        let open = self.open_partitions().into_iter().filter(|partition| partitions.contains(partition));
        let open: Vec<_> = open.collect();
        if !open.is_empty() {
            let patience = self.patience(patience, self.parts.timing.stop_patience);
            let closing = self.parts.task.close(&open, Closing::Revoked);
            let (clock, stop) = (self.clock.as_ref(), &self.parts.stop);
            let (closed, stopped_at) = within_or_stop(patience, clock, stop, closing).await;
            self.stopped_at = self.stopped_at.or(stopped_at);
            match closed {
                Some(Ok(durable)) => self.report_durable(&durable),
                Some(Err(error)) if matches!(error.kind(), Kind::Retriable | Kind::Fenced) => {
                    tracing::warn!(error = error.trace(), "closing partitions that go failed");
                }
                Some(Err(error)) => return Err(unrecoverable(error)),
                None => {
                    let patience_ms = stopped_at.map_or(patience.usual, |_| patience.once_stopped).as_millis() as u64;
                    tracing::warn!(patience_ms, "what partitions that go held could not be published in time");
                }
            }
        }
        Ok(())
    }

    async fn commit_and_forget(&mut self, partitions: &[TopicPartition]) {
        let mut to_commit = self.positions.to_commit();
        to_commit.retain(|partition, _| partitions.contains(partition));
        self.commit_now(to_commit).await;
        self.forget(partitions);
    }

    async fn flush_some(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        let mut consumed = self.positions.all_consumed();
        consumed.retain(|partition, _| partitions.contains(partition));
        if consumed.is_empty() { Ok(()) } else { self.flush(&consumed).await }
    }

    async fn try_open(&mut self, waits: &mut Waits) -> Result<()> {
        self.apply_seeks();
        let round = self.opening.round();
        if !round.is_empty() {
            let opened = waits.admit(self.parts.task.open(&round).await)?;
            self.opening.opened(round, opened.as_ref());
            for reason in opened.into_iter().flat_map(|opened| opened.later.into_values()) {
                waits.admit::<()>(Err(reason))?;
            }
        }
        self.place(waits).await?;
        self.place_again(waits).await
    }

    fn open_later(&mut self, error: &ConnectError) {
        tracing::warn!(error = error.trace(), "partitions could not be opened; that is tried again");
        self.parts.voice.trouble(Trouble::Open, Some(error.trace()));
        self.opening.retry(self.clock.monotonic());
    }

    /// Lets open partitions begin, each as soon as its own questions are answered.
    async fn place(&mut self, waits: &mut Waits) -> Result<()> {
        let (now, context) = (self.clock.monotonic(), &self.parts.context);
        let committed = waits.admit(self.opening.committed(context).await)?;
        let mut starts = BTreeMap::new();
        for (partition, step) in self.opening.steps(&self.parts.context, committed.as_ref(), now).await {
            match waits.admit(step)? {
                Some(Step::Begin(start)) => drop(starts.insert(partition, start)),
                Some(Step::Anew(doubt)) => self.ask_again(&partition, doubt, waits).await?,
                None => {}
            }
        }
        self.begin(starts);
        Ok(())
    }

    fn begin(&mut self, starts: BTreeMap<TopicPartition, Beginning>) {
        if starts.is_empty() {
            return;
        }
        self.start_at(&starts.iter().map(|(partition, start)| (partition.clone(), start.place)).collect());
        // Or who begins again would begin elsewhere, and at the end of the log pass over what is there meanwhile.
        let is_latest = self.parts.context.offset_reset == OffsetReset::Latest;
        let untold =
            |(partition, start): (_, &Beginning)| !start.committed && (is_latest || !self.opening.keeps(partition));
        if starts.iter().any(untold) {
            self.next_commit = self.clock.monotonic();
        }
        for (partition, Beginning { place, committed }) in starts {
            tracing::info!(%partition, offset = place.offset, "reading begins");
            let sought = self.opening.placed(&partition);
            self.doubts().settle(&partition, place.offset);
            let below = if committed { Below::Committed } else { self.opening.below(&partition) };
            self.positions.begin(partition.clone(), place.offset, below);
            if let Some(place) = sought {
                self.seek(&partition, place);
            }
        }
    }

    /// A task that insists on a position that the log does not have may have asked a broker that lags behind: it is
    /// asked again for a while.
    async fn ask_again(&mut self, partition: &TopicPartition, doubt: Doubt, waits: &mut Waits) -> Result<()> {
        if let Some(Insisted { position, since }) = doubt.position_insisted_on() {
            let told = format!(
                "{partition} ends before offset {position}, from which the task wants to go on, or has other records there: \
                 the log was cut or the topic made anew"
            );
            let is_over = self.clock.monotonic().saturating_sub(since) >= INSISTING;
            if is_over && let Some(view) = waits.admit(self.parts.context.partition(partition).await)? {
                let remedy = self.set_offset(partition, view.log_start_offset);
                return Err(ConnectError::fatal(format!("{told}; to read what is there now {remedy}")));
            }
            waits.admit::<()>(Err(ConnectError::retriable(told)))?;
        }
        self.begin_anew(partition, doubt).await;
        Ok(())
    }

    /// The next offset to fetch.
    fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.inbox.next_offset(partition).or_else(|| self.positions.consumed(partition))
    }

    /// Finds positions that the broker refused.
    async fn place_again(&mut self, waits: &mut Waits) -> Result<()> {
        let refused: Vec<_> = self.opening.out_of_range().cloned().collect();
        let views = views(&self.parts.context, &refused).await;
        for (partition, view) in refused.iter().zip(views) {
            if let Some(position) = self.position(partition) {
                let Some(view) = waits.admit(view)? else { continue };
                let Some(beyond_end) = waits.admit(ends_before(partition, position, &view))? else { continue };
                self.place_in(partition, position, (beyond_end, &view)).await?;
            }
            self.opening.back_in_range(partition);
        }
        Ok(())
    }

    async fn place_in(
        &mut self,
        partition: &TopicPartition,
        position: i64,
        (beyond_end, view): (bool, &PartitionView),
    ) -> Result<()> {
        let log_start = view.log_start_offset;
        // Who keeps positions and insists on this one is asked no second time, unless that was for the word of a broker
        // that lags behind: what lies below the log's start would be passed over, and nobody told that it is lost.
        let insists = self.doubts().is_refused(partition, position)
            && !(position < log_start && self.doubts().is_misled(partition, position));
        let may_place_itself = self.opening.keeps(partition) && !insists;
        if beyond_end {
            tracing::warn!(%partition, position, log_end = view.end_offset, "the log ends before the position: opened anew");
            let since = self.clock.monotonic();
            self.begin_anew(partition, Doubt::BeyondEnd(Insisted { position, since })).await;
        } else if position >= log_start && may_place_itself {
            // The log has grown beyond the position since: what the task knows of its epochs tells whether it was cut.
            tracing::warn!(%partition, position, log_start, "the broker refused the position: opened anew");
            self.begin_anew(partition, Doubt::Refused { position }).await;
        } else if position >= log_start {
            self.start_at(&Places::from([(partition.clone(), position.into())]));
        } else if may_place_itself {
            tracing::warn!(%partition, position, log_start, "retention overtook the position: opened anew");
            self.hand_over(std::slice::from_ref(partition), self.parts.timing.release_patience).await?;
            self.opening.open_soon([partition.clone()]);
            self.doubts().raise(partition, Doubt::Refused { position });
        } else {
            self.skip_to_log_start(partition, position, log_start)?;
        }
        Ok(())
    }

    fn skip_to_log_start(&mut self, partition: &TopicPartition, position: i64, log_start: i64) -> Result<()> {
        if self.parts.context.offset_reset == OffsetReset::None {
            return Err(ConnectError::config(format!(
                "{partition} begins at offset {log_start} now: the records from {position} on were removed before \
                 they were read, and auto.offset.reset=none does not go on; to go on there {}",
                self.set_offset(partition, log_start)
            )));
        }
        tracing::warn!(%partition, position, log_start, "retention overtook the position; reading goes on behind it");
        self.inbox.push([Batch::position_only(partition.clone(), position, log_start)]);
        self.start_at(&Places::from([(partition.clone(), log_start.into())]));
        Ok(())
    }

    /// What the task has of `partition` is dropped, and it says anew where to begin: because of `doubt`.
    async fn begin_anew(&mut self, partition: &TopicPartition, doubt: Doubt) {
        self.close_lost(std::slice::from_ref(partition)).await;
        self.opening.open_last(partition.clone());
        self.doubts().raise(partition, doubt);
    }

    /// How a user makes the connector go on at `offset` of `partition`, and leaves its other partitions where they are.
    pub(super) fn set_offset(&self, partition: &TopicPartition, offset: i64) -> String {
        let TopicPartition { topic, partition } = partition;
        format!(
            "stop the connector, PATCH /connectors/{}/offsets with {{\"offsets\": [{{\"partition\": {{\"kafka_topic\": \
             \"{topic}\", \"kafka_partition\": {partition}}}, \"offset\": {{\"kafka_offset\": {offset}}}}}]}}, and resume it; \
             what lies between that and the offset which GET /connectors/{}/offsets tells is left out (where that should be \
             archived, restart the task before), and a reset of all offsets would set every other partition back, too",
            self.parts.context.id.connector, self.parts.context.id.connector
        )
    }

    pub(super) fn doubts(&self) -> &Doubts {
        &self.parts.context.doubts
    }

    fn start_at(&mut self, places: &Places) {
        self.parts.consumer.start_at(places);
        if self.paused || self.inbox.is_retrying() {
            let partitions: Vec<_> = places.keys().cloned().collect();
            self.parts.consumer.pause(&partitions);
        }
    }

    /// Nothing of `partitions` is known any more; those that the task had open are returned.
    fn forget(&mut self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        self.discard(partitions);
        let mut open = Vec::new();
        for partition in partitions {
            self.doubts().forget(partition);
            let placed = self.positions.end(partition);
            if self.opening.forget(partition) || placed {
                open.push(partition.clone());
            }
        }
        open
    }
}
