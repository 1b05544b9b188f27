//! The partitions that are not read yet, or no longer, and the next step of each. The loop takes the steps.
//!
//! Where to begin: where the task says, else the group's committed offset, else `auto.offset.reset`, applied here
//! because the client library would jump silently. What the task says is believed unless a [`Doubt`] stands against
//! just that position; then the log is asked again. Each partition is decided on its own: what cannot be known of one
//! keeps no other waiting ([`Waits`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::stream::StreamExt as _;
use lakeferry_api::sink::OffsetReset;
use lakeferry_api::{
    ConnectError, Kind, Opened, PartitionView, Place, Positions, Result, SinkContext as _, TopicPartition,
};

use crate::task::backoff::Backoff;
use crate::task::context::TaskSinkContext;
use crate::task::doubts::Doubt;
use crate::task::positions::Below;

/// Partitions that the task opens in one call: between two rounds the loop hears what else there is. Many at once may
/// take minutes while a store is away.
const OPENED_AT_ONCE: usize = 64;
/// How long the loop listens between two rounds.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(10);
/// Questions to the brokers at a time.
const CONCURRENT_QUESTIONS: usize = 16;

/// The partitions that are not, or no longer, read.
pub(super) struct Opening {
    /// Those that have no position yet, or no longer.
    stages: BTreeMap<TopicPartition, Stage>,
    /// Why the first of those that were tried could not be opened.
    failed: Option<ConnectError>,
    /// The round that was tried last left others to be tried.
    has_more: bool,
    /// The broker has nothing at their position. They may have lost it since, and be on their way to another.
    out_of_range: BTreeSet<TopicPartition>,
    /// Partitions whose position the task keeps itself: it said where to begin.
    kept: BTreeSet<TopicPartition>,
    retry_at: Option<Duration>,
    backoff: Backoff,
}

/// How far a partition without a position is.
enum Stage {
    /// Assigned; the task's `open` did not return yet.
    Unopened {
        /// It could not be opened, and waits until all others were tried.
        tried: bool,
    },
    /// Open; where to begin is not settled.
    Unplaced {
        /// Where the task said, if it did.
        start: Option<Place>,
        /// What the task wants to read from as soon as there is a position.
        sought: Option<Place>,
    },
}

/// What is to be done with a partition that the task has open.
#[derive(Debug)]
pub(super) enum Step {
    Begin(Beginning),
    /// The log does not have what the task names: it is asked anew.
    Anew(Doubt),
}

/// Where a partition begins, and whether the group holds just that.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) place: Place,
    pub(super) committed: bool,
}

/// Why some partitions wait while the others go on; the first reason is told.
#[derive(Default)]
pub(super) struct Waits(Option<ConnectError>);

impl Opening {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self {
            stages: BTreeMap::new(),
            failed: None,
            has_more: false,
            out_of_range: BTreeSet::new(),
            kept: BTreeSet::new(),
            retry_at: None,
            backoff,
        }
    }

    /// `partitions` are to be opened.
    pub(super) fn open_soon(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.stages.extend(partitions.into_iter().map(|partition| (partition, Stage::Unopened { tried: false })));
    }

    /// `partition` is to be opened anew, once all others were tried.
    pub(super) fn open_last(&mut self, partition: TopicPartition) {
        self.stages.insert(partition, Stage::Unopened { tried: true });
    }

    /// The broker refused the position of `partition`; it is looked for no later than `at`, whatever else waits longer.
    pub(super) fn place_again_by(&mut self, partition: TopicPartition, at: Duration) {
        self.out_of_range.insert(partition);
        self.retry_at = Some(self.retry_at.map_or(at, |due| due.min(at)));
    }

    /// When the next attempt is due; `None` while every partition is read and the last round has ended well.
    pub(super) fn due(&self) -> Option<Duration> {
        let idle = self.stages.is_empty() && self.out_of_range.is_empty() && !self.has_more;
        (!idle).then(|| self.retry_at.unwrap_or(Duration::ZERO))
    }

    /// A round is over. False where others are to come first; then all were tried, and `why` is what keeps the ones
    /// waiting that could not be opened.
    pub(super) fn ends_with(&mut self, why: &mut Option<ConnectError>, now: Duration) -> bool {
        if self.has_more {
            self.failed = self.failed.take().or(why.take());
            self.retry_at = Some(now + BETWEEN_ROUNDS);
            return false;
        }
        let mut has_tried = false;
        for stage in self.stages.values_mut() {
            if let Stage::Unopened { tried } = stage {
                has_tried |= std::mem::take(tried);
            }
        }
        let failed = self.failed.take().filter(|_| has_tried);
        *why = failed.or(why.take());
        true
    }

    pub(super) fn retry(&mut self, now: Duration) {
        self.retry_at = Some(now + self.backoff.step());
    }

    pub(super) fn settled(&mut self) {
        self.retry_at = None;
        self.backoff.reset();
    }

    /// Keeps a seek for when the partition has a position; false where the task does not have it open: what was sought
    /// before a partition is opened, or opened anew, is of a former life of it.
    pub(super) fn seek_later(&mut self, partition: &TopicPartition, place: Place) -> bool {
        match self.stages.get_mut(partition) {
            Some(Stage::Unplaced { sought, .. }) => {
                *sought = Some(place);
                true
            }
            _ => false,
        }
    }

    /// Those that the task is to open next.
    pub(super) fn round(&mut self) -> Vec<TopicPartition> {
        let is_untried = |(_, stage): &(_, &Stage)| matches!(stage, Stage::Unopened { tried: false });
        let mut untried = self.stages.iter().filter(is_untried).map(|(partition, _)| partition);
        let round = untried.by_ref().take(OPENED_AT_ONCE).cloned().collect();
        self.has_more = untried.next().is_some();
        round
    }

    pub(super) fn unplaced(&self) -> impl Iterator<Item = &TopicPartition> {
        self.starts().map(|(partition, _)| partition)
    }

    /// The unplaced partitions, and where the task said that each begins.
    fn starts(&self) -> impl Iterator<Item = (&TopicPartition, Option<Place>)> {
        self.stages.iter().filter_map(|(partition, stage)| match stage {
            Stage::Unplaced { start, .. } => Some((partition, *start)),
            Stage::Unopened { .. } => None,
        })
    }

    pub(super) fn out_of_range(&self) -> impl Iterator<Item = &TopicPartition> {
        self.out_of_range.iter()
    }

    pub(super) fn keeps(&self, partition: &TopicPartition) -> bool {
        self.kept.contains(partition)
    }

    /// What is known of the records below the place of `partition` that the group does not know.
    pub(super) fn below(&self, partition: &TopicPartition) -> Below {
        if self.keeps(partition) { Below::TaskKnows } else { Below::Durable }
    }

    /// The task's `open` of `round` returned; with nothing where it failed.
    pub(super) fn opened(&mut self, round: Vec<TopicPartition>, opened: Option<&Opened>) {
        for partition in round {
            let Some(opened) = opened.filter(|opened| !opened.later.contains_key(&partition)) else {
                self.stages.insert(partition, Stage::Unopened { tried: true });
                continue;
            };
            let start = opened.places.get(&partition).copied();
            if start.is_some() {
                self.kept.insert(partition.clone());
            }
            self.stages.insert(partition, Stage::Unplaced { start, sought: None });
        }
    }

    /// `partition` has begun; what the task wanted to read from meanwhile is returned.
    pub(super) fn placed(&mut self, partition: &TopicPartition) -> Option<Place> {
        match self.stages.remove(partition) {
            Some(Stage::Unplaced { sought, .. }) => sought,
            _ => None,
        }
    }

    /// The position of `partition` was settled again.
    pub(super) fn back_in_range(&mut self, partition: &TopicPartition) {
        self.out_of_range.remove(partition);
    }

    /// Forgets a partition; true where the task had opened it.
    pub(super) fn forget(&mut self, partition: &TopicPartition) -> bool {
        self.out_of_range.remove(partition);
        self.kept.remove(partition);
        matches!(self.stages.remove(partition), Some(Stage::Unplaced { .. }))
    }

    /// What the group holds of the unplaced partitions of which the task did not say where to begin. An offset that was
    /// found to lie beyond the log is of another log.
    pub(super) async fn committed(&self, context: &TaskSinkContext) -> Result<Positions> {
        let by_group = |(partition, start): (&TopicPartition, Option<Place>)| {
            (start.is_none() && context.doubts.insisted_on(partition).is_none()).then(|| partition.clone())
        };
        let asked: Vec<_> = self.starts().filter_map(by_group).collect();
        if asked.is_empty() { Ok(Positions::new()) } else { context.committed(&asked).await }
    }

    /// The next step of every unplaced partition; of those alone whose place the task said where the group did not
    /// answer.
    pub(super) async fn steps(
        &self,
        context: &TaskSinkContext,
        committed: Option<&Positions>,
        now: Duration,
    ) -> Vec<(TopicPartition, Result<Step>)> {
        let step = async |(partition, start): (&TopicPartition, Option<Place>)| {
            let step = match (start, committed.map(|committed| committed.get(partition))) {
                (Some(place), _) => by_task(context, partition, place, now).await,
                (None, Some(Some(&offset))) => Ok(by_group(context, partition, offset)),
                (None, Some(None)) => by_reset(context, partition).await,
                (None, None) => return None,
            };
            Some((partition.clone(), step))
        };
        let steps = futures::stream::iter(self.starts().map(step)).buffered(CONCURRENT_QUESTIONS);
        let steps: Vec<_> = steps.collect().await;
        steps.into_iter().flatten().collect()
    }
}

impl Waits {
    /// What `result` gives; nothing where its partitions have to wait.
    ///
    /// # Errors
    /// What no waiting helps against.
    pub(super) fn admit<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            // NotFound: a topic that was deleted just now. The group takes the partition away, or the topic comes back.
            Err(error) if matches!(error.kind(), Kind::Retriable | Kind::Fenced | Kind::NotFound) => {
                self.0.get_or_insert(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn first(self) -> Option<ConnectError> {
        self.0
    }
}

/// What the brokers say of each of `partitions`, in their order.
pub(super) async fn views(context: &TaskSinkContext, partitions: &[TopicPartition]) -> Vec<Result<PartitionView>> {
    let views: Vec<_> = partitions.iter().map(|partition| context.partition(partition)).collect();
    futures::stream::iter(views).buffered(CONCURRENT_QUESTIONS).collect().await
}

/// Where the task says, unless something speaks against it still.
async fn by_task(context: &TaskSinkContext, partition: &TopicPartition, place: Place, now: Duration) -> Result<Step> {
    if !context.doubts.of(partition).is_some_and(|doubt| doubt.is_about(place.offset)) {
        return Ok(Step::Begin(Beginning { place, committed: false }));
    }
    let view = context.partition(partition).await?;
    // Looked at only now: the view tells which topic it is, and a doubt may have been of another.
    let doubt = context.doubts.of(partition).and_then(|doubt| doubt.asked_again(place.offset, &view, now));
    Ok(doubt.map_or(Step::Begin(Beginning { place, committed: false }), Step::Anew))
}

/// Where the group says, but not behind the point where the log parted from what was read of it.
fn by_group(context: &TaskSinkContext, partition: &TopicPartition, committed: i64) -> Step {
    let parted = context.doubts.parted_at(partition).unwrap_or(i64::MAX);
    Step::Begin(Beginning { place: committed.min(parted).into(), committed: committed <= parted })
}

/// `auto.offset.reset` for a partition without any offset.
async fn by_reset(context: &TaskSinkContext, partition: &TopicPartition) -> Result<Step> {
    let policy = context.offset_reset;
    if policy == OffsetReset::None {
        return Err(ConnectError::config(format!(
            "Undefined offset with no reset policy for partitions: [{partition}]"
        )));
    }
    let view = context.partition(partition).await?;
    // A start at the end is committed at once: records that come before the first commit must not be skipped
    // after a restart. A start at the beginning loses nothing that way, unless the group holds another offset.
    let known = context.doubts.insisted_on(partition).is_some();
    Ok(Step::Begin(match policy {
        OffsetReset::Latest => {
            let offset = view.truncated_at.unwrap_or(view.last_stable_offset);
            Beginning { place: offset.into(), committed: false }
        }
        _ => Beginning { place: view.log_start_offset.into(), committed: !known },
    }))
}
