//! Partitions come and go: open (tried again while the store or a broker does not answer; the partitions stay paused
//! and the loop goes on), find where to begin, close. A partition has a position in the table exactly while it is open
//! and placed; only then its records are put.
//!
//! Where to begin: where the task says, else the group's committed offset, else `auto.offset.reset`, applied here
//! because the client library would jump silently. A position that the broker has no more is looked for again: below
//! the log's start (retention) a task that keeps its own positions publishes what it has and is opened anew, so that it
//! can account for the gap; where it insists, and for every other task, the position moves on by a batch without
//! records. Within the log it was refused a moment ago: whoever keeps positions is opened anew, once. Beyond the log's end (it was cut or made anew) the partition is opened anew. So it is where an unclean
//! election took back records that were read: the task is told where the log parted from them, and whoever keeps no
//! positions goes on there. What is known against a position meanwhile is one [`Doubt`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::stream::{StreamExt as _, TryStreamExt as _};
use lakeferry_api::sink::OffsetReset;
use lakeferry_api::{
    Batch, Closing, ConnectError, Kind, Opened, PartitionView, Place, Places, Positions, Result, SinkContext as _,
    TopicPartition,
};

use super::{SinkLoop, unrecoverable};
use crate::spawn::within;
use crate::task::backoff::Backoff;
use crate::task::context::TaskSinkContext;
use crate::task::doubts::{Doubt, Doubts, Insisted};
use crate::task::positions::Below;
use crate::task::voice::Trouble;

/// Questions to the brokers at a time.
const CONCURRENT_QUESTIONS: usize = 16;

/// How long a task may insist on a position that no broker has before it fails.
const INSISTING: Duration = Duration::from_secs(60);

/// The partitions that are not, or no longer, read.
pub(super) struct Opening {
    /// Assigned; the task's `open` did not return yet.
    unopened: BTreeSet<TopicPartition>,
    /// Open; where to begin is not settled, except where the task said it.
    unplaced: BTreeMap<TopicPartition, Option<Place>>,
    /// Placed, but the broker has nothing there.
    out_of_range: BTreeSet<TopicPartition>,
    /// Partitions whose position the task keeps itself: it said where to begin.
    kept: BTreeSet<TopicPartition>,
    /// What the task wants to read from before there is a position.
    seeks: Places,
    retry_at: Option<Duration>,
    backoff: Backoff,
}

impl Opening {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self {
            unopened: BTreeSet::new(),
            unplaced: BTreeMap::new(),
            out_of_range: BTreeSet::new(),
            kept: BTreeSet::new(),
            seeks: Places::new(),
            retry_at: None,
            backoff,
        }
    }

    pub(super) fn await_open(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.unopened.extend(partitions);
    }

    pub(super) fn await_place(&mut self, partition: TopicPartition, at: Duration) {
        self.out_of_range.insert(partition);
        self.retry_at.get_or_insert(at);
    }

    /// When the next attempt is due; `None` while every partition is read.
    pub(super) fn due(&self) -> Option<Duration> {
        let idle = self.unopened.is_empty() && self.unplaced.is_empty() && self.out_of_range.is_empty();
        (!idle).then(|| self.retry_at.unwrap_or(Duration::ZERO))
    }

    /// Keeps a seek for when the partition has a position; false where it is not being opened.
    pub(super) fn seek_later(&mut self, partition: &TopicPartition, place: Place) -> bool {
        let known = self.unopened.contains(partition) || self.unplaced.contains_key(partition);
        if known {
            self.seeks.insert(partition.clone(), place);
        }
        known
    }

    fn opened(&mut self, opened: &Opened) {
        for partition in std::mem::take(&mut self.unopened) {
            if opened.later.contains_key(&partition) {
                self.unopened.insert(partition);
                continue;
            }
            let start = opened.places.get(&partition).copied();
            if start.is_some() {
                self.kept.insert(partition.clone());
            }
            self.unplaced.insert(partition, start);
        }
    }

    /// Forgets a partition; true where the task had opened it.
    fn forget(&mut self, partition: &TopicPartition) -> bool {
        self.unopened.remove(partition);
        self.out_of_range.remove(partition);
        self.kept.remove(partition);
        self.seeks.remove(partition);
        self.unplaced.remove(partition).is_some()
    }

    /// What is known of the records below the place of `partition` that the group does not know.
    pub(super) fn below(&self, partition: &TopicPartition) -> Below {
        if self.kept.contains(partition) { Below::TaskKnows } else { Below::Durable }
    }

    /// Where every unplaced partition begins.
    async fn starts(&self, context: &TaskSinkContext) -> Result<Vec<Start>> {
        let by_group = |(partition, kept): (&TopicPartition, &Option<Place>)| {
            (kept.is_none() && context.doubts.insisted_on(partition).is_none()).then(|| partition.clone())
        };
        let asked: Vec<_> = self.unplaced.iter().filter_map(by_group).collect();
        let committed = if asked.is_empty() { Positions::new() } else { context.committed(&asked).await? };
        let start_of = async |(partition, kept): (&TopicPartition, &Option<Place>)| {
            let partition = partition.clone();
            let parted = context.doubts.parted_at(&partition).unwrap_or(i64::MAX);
            match (kept, committed.get(&partition)) {
                (&Some(place), _) => Ok(Start { partition, place, committed: false }),
                (None, Some(&offset)) => {
                    Ok(Start { partition, place: offset.min(parted).into(), committed: offset <= parted })
                }
                (None, None) => self.reset(context, partition).await,
            }
        };
        futures::stream::iter(self.unplaced.iter().map(start_of))
            .buffer_unordered(CONCURRENT_QUESTIONS)
            .try_collect()
            .await
    }

    /// `auto.offset.reset` for a partition without any offset.
    async fn reset(&self, context: &TaskSinkContext, partition: TopicPartition) -> Result<Start> {
        let policy = context.offset_reset;
        if policy == OffsetReset::None {
            return Err(ConnectError::config(format!(
                "Undefined offset with no reset policy for partitions: [{partition}]"
            )));
        }
        let view = view(context, &partition).await?;
        // A start at the end is committed at once: records that come before the first commit must not be skipped
        // after a restart. A start at the beginning loses nothing that way, unless the group holds another offset.
        let known = context.doubts.insisted_on(&partition).is_some();
        Ok(match policy {
            OffsetReset::Latest => {
                let offset = view.truncated_at.unwrap_or(view.last_stable_offset);
                Start { partition, place: offset.into(), committed: false }
            }
            _ => Start { partition, place: view.log_start_offset.into(), committed: !known },
        })
    }

    fn retry(&mut self, now: Duration) {
        self.retry_at = Some(now + self.backoff.step());
    }

    fn settled(&mut self) {
        self.retry_at = None;
        self.backoff.reset();
    }
}

/// Where a partition begins, and whether the group holds just that.
struct Start {
    partition: TopicPartition,
    place: Place,
    committed: bool,
}

impl SinkLoop {
    /// Every partition that the task has open.
    pub(super) fn open_partitions(&self) -> Vec<TopicPartition> {
        let mut open = self.positions.partitions();
        open.extend(self.opening.unplaced.keys().cloned());
        open
    }

    /// Brings every partition that is not read a step further. What fails for now is tried again later.
    pub(super) async fn open(&mut self) -> Result<()> {
        match self.try_open().await {
            Ok(()) => {
                self.opening.settled();
                self.parts.voice.trouble(Trouble::Open, None);
            }
            // A topic that was deleted just now: the group takes the partition away, or the topic comes back.
            Err(error) if matches!(error.kind(), Kind::Retriable | Kind::Fenced | Kind::NotFound) => {
                self.open_later(&error);
            }
            Err(error) => return Err(unrecoverable(error)),
        }
        Ok(())
    }

    /// Another writer was faster: everything is discarded and opened anew, unless the group takes it away first.
    pub(super) async fn open_anew(&mut self, error: &ConnectError) {
        let partitions = self.open_partitions();
        self.close_lost(&partitions).await;
        self.parts.consumer.pause(&partitions);
        self.opening.await_open(partitions);
        self.open_later(error);
    }

    /// An unclean election took back the records of `partition` from `divergence` on. A task that keeps its own positions
    /// drops what it has not published and begins anew. For every other one what it was given stays given, and reading
    /// goes on at the divergence, as with any consumer that has a reset policy.
    pub(super) async fn cut_back(&mut self, partition: &TopicPartition, divergence: i64) -> Result<()> {
        let position = self.position(partition);
        tracing::warn!(
            %partition, divergence, position,
            "an unclean election took back records that were read: opened anew at the divergence at most"
        );
        let one = std::slice::from_ref(partition);
        if self.opening.kept.contains(partition) {
            self.close_lost(one).await;
            self.opening.await_open([partition.clone()]);
        } else if position.is_some() {
            if self.parts.context.offset_reset == OffsetReset::None {
                return Err(ConnectError::config(format!(
                    "an unclean election took back the records of {partition} from offset {divergence} on, and \
                     auto.offset.reset=none does not go on; set the connector's offset to {divergence}"
                )));
            }
            self.publish(one, self.parts.timing.release_patience).await?;
            // Records that are in the log no more are nobody's progress: should the log have grown over them when this
            // process ends, whoever is given their offset by the group would skip what stands there now.
            self.positions.cut_back(partition, divergence);
            self.commit_and_forget(one).await;
            self.opening.await_open([partition.clone()]);
        }
        self.doubts().part(partition, divergence);
        self.open().await
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
    /// is given up; whoever reads them next publishes it.
    pub(super) async fn hand_over(&mut self, partitions: &[TopicPartition], patience: Duration) -> Result<()> {
        self.publish(partitions, patience).await?;
        self.commit_and_forget(partitions).await;
        Ok(())
    }

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
            let closing = self.parts.task.close(&open, Closing::Revoked);
            match within(patience, self.clock.as_ref(), closing).await {
                Some(Ok(durable)) => self.report_durable(&durable),
                Some(Err(error)) => tracing::warn!(error = error.trace(), "closing partitions that go failed"),
                None => {
                    let patience_ms = patience.as_millis() as u64;
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

    async fn try_open(&mut self) -> Result<()> {
        let mut later = None;
        let unopened: Vec<_> = self.opening.unopened.iter().cloned().collect();
        if !unopened.is_empty() {
            let opened = self.parts.task.open(&unopened).await?;
            self.opening.opened(&opened);
            later = opened.later.into_values().next();
        }
        self.place().await?;
        self.place_again().await?;
        later.map_or(Ok(()), Err)
    }

    fn open_later(&mut self, error: &ConnectError) {
        tracing::warn!(error = error.trace(), "partitions could not be opened; that is tried again");
        self.parts.voice.trouble(Trouble::Open, Some(error.trace()));
        self.opening.retry(self.clock.monotonic());
    }

    /// Lets open partitions begin.
    async fn place(&mut self) -> Result<()> {
        if self.opening.unplaced.is_empty() {
            return Ok(());
        }
        self.ask_again().await?;
        let starts = self.opening.starts(&self.parts.context).await?;
        let places = starts.iter().map(|start| (start.partition.clone(), start.place)).collect();
        self.start_at(&places);
        let alone_known = |start: &Start| !start.committed && !self.opening.kept.contains(&start.partition);
        if starts.iter().any(alone_known) {
            self.next_commit = self.clock.monotonic();
        }
        for Start { partition, place, committed } in starts {
            tracing::info!(%partition, offset = place.offset, "reading begins");
            self.opening.unplaced.remove(&partition);
            self.doubts().settle(&partition);
            let below = if committed { Below::Committed } else { self.opening.below(&partition) };
            self.positions.begin(partition.clone(), place.offset, below);
            if let Some(place) = self.opening.seeks.remove(&partition) {
                self.seek(&partition, place);
            }
        }
        Ok(())
    }

    /// A task that insists on a position that the log does not have may have asked a broker that lags behind: it is
    /// asked again for a while.
    async fn ask_again(&mut self) -> Result<()> {
        let now = self.clock.monotonic();
        let mut outcome = Ok(());
        for (partition, kept) in self.opening.unplaced.clone() {
            let Some(Place { offset, .. }) = kept else { continue };
            let insisted = match self.doubts().insisted_on(&partition) {
                Some(insisted) if insisted.position == offset => insisted,
                _ if is_cut_off(&self.parts.context, &partition, offset).await? => {
                    Insisted { position: offset, since: now }
                }
                _ => continue,
            };
            if now.saturating_sub(insisted.since) >= INSISTING {
                return Err(beyond_end(&partition, offset));
            }
            let doubt = Doubt::insisted(self.doubts().of(&partition), insisted);
            self.begin_anew(&partition, doubt).await;
            outcome = Err(ConnectError::retriable(beyond_end(&partition, offset).message()));
        }
        outcome
    }

    /// The next offset to fetch.
    fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.inbox.next_offset(partition).or_else(|| self.positions.consumed(partition))
    }

    /// Finds positions that the broker refused.
    async fn place_again(&mut self) -> Result<()> {
        while let Some(partition) = self.opening.out_of_range.first().cloned() {
            if let Some(position) = self.position(&partition) {
                let view = view(&self.parts.context, &partition).await?;
                self.place_in(&partition, position, &view).await?;
            }
            self.opening.out_of_range.remove(&partition);
        }
        Ok(())
    }

    async fn place_in(&mut self, partition: &TopicPartition, position: i64, view: &PartitionView) -> Result<()> {
        let log_start = view.log_start_offset;
        let log_end = view.end_offset.unwrap_or(view.last_stable_offset);
        // Who keeps positions and insists on this one is asked no second time.
        let may_place_itself = self.opening.kept.contains(partition) && !self.doubts().is_refused(partition, position);
        if position > log_end {
            tracing::warn!(%partition, position, log_end, "the log ends before the position: opened anew");
            let since = self.clock.monotonic();
            self.begin_anew(partition, Doubt::BeyondEnd(Insisted { position, since })).await;
        } else if position >= log_start && may_place_itself {
            // The log has grown beyond the position since: what the task knows of its epochs tells whether it was cut.
            tracing::warn!(%partition, position, log_start, log_end, "the broker refused the position: opened anew");
            self.begin_anew(partition, Doubt::Refused { position }).await;
        } else if position >= log_start {
            self.start_at(&Places::from([(partition.clone(), position.into())]));
        } else if may_place_itself {
            tracing::warn!(%partition, position, log_start, "retention overtook the position: opened anew");
            self.hand_over(std::slice::from_ref(partition), self.parts.timing.release_patience).await?;
            self.opening.await_open([partition.clone()]);
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
                 they were read, and auto.offset.reset=none does not go on; reset the connector's offsets"
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
        self.opening.await_open([partition.clone()]);
        self.doubts().raise(partition, doubt);
    }

    fn doubts(&self) -> &Doubts {
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

async fn view(context: &TaskSinkContext, partition: &TopicPartition) -> Result<PartitionView> {
    context.partition(partition).await.map_err(|error| match error.kind() {
        // Deleted just now: the group takes the partition away, or the topic comes back.
        Kind::NotFound => ConnectError::retriable(error.message().to_owned()).caused_by(error),
        _ => error,
    })
}

/// True where `offset` lies behind the point where the log was cut back, unless retention has overtaken the cut.
async fn is_cut_off(context: &TaskSinkContext, partition: &TopicPartition, offset: i64) -> Result<bool> {
    let parted = context.doubts.parted_at(partition).unwrap_or(i64::MAX);
    Ok(offset > parted && offset > view(context, partition).await?.log_start_offset)
}

fn beyond_end(partition: &TopicPartition, position: i64) -> ConnectError {
    ConnectError::fatal(format!(
        "{partition} ends before offset {position}, from which the task wants to go on, or has other records there: the \
         log was cut or the topic made anew; reset the connector's offsets to read what is there now"
    ))
}
