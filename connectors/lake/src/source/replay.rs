//! The replay itself: which partition's records come next, and how fast. Polled by the source task and by `restore`.
//!
//! Invariants: the records of a partition come in offset order, each batch with the offset to store once it is
//! acknowledged; [`Replay::next`] is cancel-safe, nothing is taken from a reader that is not given out; a record never
//! changes its partition. What is written where, and whether it was, is the caller's affair.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{select_all, try_join_all};
use lakeferry_api::{Batch, Clock, Result, SourceBatch, SourcePartition, SourceRecords, TopicPartition};

use super::choose::{ChosenLog, ChosenTopic, target_partition};
use super::config::SourceSettings;
use super::follow;
use super::read::{Access, LogReader};
use super::rewrite::Rewrite;
use super::stored::{Stored, source_partition};
use crate::manifest::read::Archive;

/// Partitions that are read at once where each goes as fast as it can.
const ACTIVE_LANES: usize = 4;
/// What one call gives at most, near enough: little beside what may be on its way, or the tail of a lane would wait for
/// its next turn, and that for the tail.
const MAX_BYTES: u64 = 2 << 20;
/// Pieces of what a throttled replay may write in a second.
const PIECES_PER_SECOND: u64 = 8;

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// These records.
    Batches(Vec<SourceBatch>),
    /// New partitions of an archive that is followed: to be given to [`Replay::add`] once their targets are there.
    Found(Vec<ChosenTopic>),
    /// Everything was given out, and nothing more will come.
    End,
}

/// A replay of some partitions.
pub struct Replay {
    pub(super) access: Access,
    pub(super) archive: Archive,
    pub(super) settings: SourceSettings,
    pub(super) lanes: Vec<Lane>,
    /// Of each topic the incarnation that was chosen first, where it has an id: no other is ever added, not even where
    /// other tasks have all its partitions so far.
    pub(super) topic_ids: BTreeMap<String, String>,
    clock: Arc<dyn Clock>,
    rewrite: Rewrite,
    turn: usize,
    pieces: VecDeque<(usize, Batch)>,
    throttle: Option<Throttle>,
    next_look: Duration,
    /// How many lanes the look under way has come past: one that is dropped in the middle goes on there.
    pub(super) looked: usize,
    /// How many looks came to their end.
    pub(super) looks: u64,
}

/// One partition on its way.
pub(super) struct Lane {
    pub(super) reader: LogReader,
    pub(super) log: ChosenLog,
    pub(super) ended: bool,
    target: TopicPartition,
    source: SourcePartition,
    /// Records that were read and not given out: only where partitions wait for each other.
    head: Option<Batch>,
    /// The largest timestamp given out so far.
    reached_ms: i64,
}

/// Bytes a second.
#[derive(Debug)]
struct Throttle {
    rate_bytes: u64,
    free_at: Duration,
}

impl Replay {
    /// A replay of every log of `topics`, each from its plan's position on.
    ///
    /// # Errors
    /// `Data` where a topic's name is no JSON value.
    pub fn new(
        access: Access,
        archive: Archive,
        settings: SourceSettings,
        clock: Arc<dyn Clock>,
        topics: Vec<ChosenTopic>,
    ) -> Result<Self> {
        let throttle = settings.rate_bytes.map(|rate_bytes| Throttle {
            rate_bytes: (rate_bytes / u64::from(settings.share.count)).max(1),
            free_at: Duration::ZERO,
        });
        let rewrite = Rewrite { stamp_untimed: settings.stamp_untimed, provenance: settings.provenance };
        let next_look = clock.monotonic() + Duration::from_millis(settings.follow_interval_ms);
        let mut replay = Self {
            access,
            archive,
            settings,
            lanes: Vec::new(),
            topic_ids: BTreeMap::new(),
            clock,
            rewrite,
            turn: 0,
            pieces: VecDeque::new(),
            throttle,
            next_look,
            looked: 0,
            looks: 0,
        };
        for topic in topics {
            replay.add(&topic)?;
        }
        Ok(replay)
    }

    /// The next records. Where the archive is followed it waits for new entries, and may give no batch.
    ///
    /// # Errors
    /// `Fatal` where an object is not what its manifest says; `Config` where a record cannot be produced as it was;
    /// `Retriable` while the store does not answer. The same call goes on where it failed.
    pub async fn next(&mut self) -> Result<Next> {
        if let Some(throttle) = &self.throttle {
            let wait = throttle.free_at.saturating_sub(self.clock.monotonic());
            if !wait.is_zero() {
                self.clock.sleep(wait).await;
            }
        }
        while self.pieces.is_empty() {
            if self.settings.follow && self.clock.monotonic() >= self.next_look {
                let found = follow::look(self).await?;
                if !found.is_empty() {
                    return Ok(Next::Found(found));
                }
                self.next_look = self.clock.monotonic() + Duration::from_millis(self.settings.follow_interval_ms);
            }
            if self.lanes.iter().all(|lane| lane.ended && lane.head.is_none()) {
                return self.at_end().await;
            }
            if self.settings.by_time { self.fill_by_time().await? } else { self.fill().await? }
        }
        self.give().map(Next::Batches)
    }

    /// Adds the partitions of `topic`, each from its plan's position on.
    ///
    /// # Errors
    /// `Data` where the topic's name is no JSON value.
    pub fn add(&mut self, topic: &ChosenTopic) -> Result<()> {
        if let Some(id) = &topic.topic_id {
            self.topic_ids.entry(topic.topic.clone()).or_insert_with(|| id.clone());
        }
        for log in &topic.logs {
            self.lanes.push(Lane::new(&self.access, topic, log.clone())?);
        }
        Ok(())
    }

    async fn at_end(&self) -> Result<Next> {
        if !self.settings.follow {
            return Ok(Next::End);
        }
        self.clock.sleep(self.next_look.saturating_sub(self.clock.monotonic())).await;
        Ok(Next::Batches(Vec::new()))
    }

    /// Takes what the first few unfinished partitions have, each in its turn to be first.
    async fn fill(&mut self) -> Result<()> {
        let unfinished = self.lanes.iter_mut().enumerate().filter(|(_, lane)| !lane.ended);
        let mut active: Vec<(usize, &mut Lane)> = unfinished.take(ACTIVE_LANES).collect();
        if active.is_empty() {
            return Ok(());
        }
        self.turn = (self.turn + 1) % active.len();
        active.rotate_left(self.turn);
        let reads = active.iter_mut().map(|(at, lane)| lane.reader.next().map(|read| (*at, read)).boxed());
        let ((at, read), _, others) = select_all(reads).await;
        let mut reads = vec![(at, read)];
        reads.extend(others.into_iter().filter_map(futures::FutureExt::now_or_never));
        // One failure must not swallow what others gave in the same moment.
        let mut failed = None;
        for (at, read) in reads {
            match read {
                Ok(Some(batch)) => self.push(at, batch),
                Ok(None) => self.lanes[at].ended = true,
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if self.pieces.is_empty() => Err(error),
            // The reader begins again where it stopped, and the error comes back if it stands.
            _ => Ok(()),
        }
    }

    /// Takes records of all partitions in the order of their timestamps, as far as all of them are read.
    async fn fill_by_time(&mut self) -> Result<()> {
        try_join_all(self.lanes.iter_mut().map(Lane::read_head)).await?;
        let mut bytes = 0;
        while bytes < MAX_BYTES {
            let mut waiting: Vec<(i64, usize)> =
                self.lanes.iter().enumerate().filter_map(|(at, lane)| Some((lane.reaches()?, at))).collect();
            waiting.sort_unstable();
            let Some((_, first)) = waiting.first().copied() else { return Ok(()) };
            let until = waiting.get(1).map_or(i64::MAX, |(reaches, _)| *reaches);
            let Some(piece) = self.lanes[first].take_until(until) else { return Ok(()) };
            bytes += piece.raw_bytes() as u64 + 1;
            self.push(first, piece);
            let lane = &self.lanes[first];
            if lane.head.is_none() && !lane.ended {
                return Ok(());
            }
        }
        Ok(())
    }

    fn push(&mut self, at: usize, batch: Batch) {
        match &self.throttle {
            Some(throttle) => {
                let limit = (throttle.rate_bytes / PIECES_PER_SECOND).max(1);
                self.pieces.extend(split(&batch, limit).into_iter().map(|piece| (at, piece)));
            }
            None => self.pieces.push_back((at, batch)),
        }
    }

    fn give(&mut self) -> Result<Vec<SourceBatch>> {
        let limit = self.throttle.as_ref().map_or(MAX_BYTES, |throttle| throttle.rate_bytes / PIECES_PER_SECOND);
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some((at, piece)) = self.pieces.front() {
            let piece_bytes = piece.raw_bytes() as u64;
            if !batches.is_empty() && bytes + piece_bytes > limit {
                break;
            }
            match self.rewrite.apply(piece.clone(), self.clock.now_ms()) {
                Ok(batch) => batches.push(self.lanes[*at].source_batch(batch)?),
                // What was taken is given out first; the error comes back with the next call.
                Err(_) if !batches.is_empty() => break,
                Err(error) => return Err(error),
            }
            bytes += piece_bytes;
            self.pieces.pop_front();
        }
        if let Some(throttle) = &mut self.throttle {
            throttle.spend(bytes, self.clock.monotonic());
        }
        Ok(batches)
    }
}

impl Lane {
    fn new(access: &Access, topic: &ChosenTopic, mut log: ChosenLog) -> Result<Self> {
        let reader = LogReader::new(access.clone(), log.take_plan());
        let partition = &log.plan.partition;
        Ok(Self {
            reader,
            target: target_partition(topic, partition),
            source: source_partition(partition)?,
            log,
            ended: false,
            head: None,
            reached_ms: i64::MIN,
        })
    }

    async fn read_head(&mut self) -> Result<()> {
        if self.head.is_none() && !self.ended {
            self.head = self.reader.next().await?;
            self.ended = self.head.is_none();
        }
        Ok(())
    }

    /// How far in time its next record takes it.
    fn reaches(&self) -> Option<i64> {
        Some(self.reached_ms.max(*self.head.as_ref()?.timestamps().first()?))
    }

    /// Its next records, at least one, as long as they take it no further than `until`.
    fn take_until(&mut self, until: i64) -> Option<Batch> {
        let head = self.head.take()?;
        let mut rows = 0;
        for timestamp in head.timestamps() {
            let reaches = self.reached_ms.max(*timestamp);
            if rows > 0 && reaches > until {
                break;
            }
            self.reached_ms = reaches;
            rows += 1;
        }
        self.head = (rows < head.len()).then(|| head.slice(rows..head.len()));
        Some(head.slice(0..rows))
    }

    fn source_batch(&self, batch: Batch) -> Result<SourceBatch> {
        let stored = Stored {
            lineage: Some(self.log.lineage),
            offset: batch.next_offset(),
            topic_id: self.log.topic_id.clone(),
        };
        let records = SourceRecords::Bytes(batch.retarget(self.target.clone()));
        Ok(SourceBatch { partition: self.source.clone(), offset: Some(stored.write()?), records })
    }
}

impl Throttle {
    fn spend(&mut self, bytes: u64, now: Duration) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate_bytes as f64);
        self.free_at = self.free_at.max(now) + cost;
    }
}

/// Slices of `batch` of at most `limit` bytes, or one record.
fn split(batch: &Batch, limit: u64) -> Vec<Batch> {
    let mut pieces = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for at in 0..batch.len() {
        let row_bytes = batch.slice(at..at + 1).raw_bytes() as u64;
        if at > start && bytes + row_bytes > limit {
            pieces.push(batch.slice(start..at));
            (start, bytes) = (at, 0);
        }
        bytes += row_bytes;
    }
    if start < batch.len() {
        pieces.push(batch.slice(start..batch.len()));
    }
    pieces
}

#[cfg(test)]
mod tests;
