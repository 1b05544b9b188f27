//! One assigned partition as the polling thread sees it: how far it is, what it may fetch, and the batch it collects.
//! Pure: knows neither client nor clock.

use std::time::Duration;

use lakeferry_api::{Batch, BatchBuilder, EpochMark, Place, TopicPartition};

use super::super::ffi::Message;
use super::Start;

/// What a partition is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Assigned; nobody has said yet where it begins.
    Idle,
    /// To begin at this place as soon as the client takes it.
    Starting { place: Place, since: Duration },
    /// Fetching.
    Reading,
    /// It cannot go on where it is, until it is started anew. `dead`: the client has stopped fetching it altogether.
    Stopped { dead: bool },
}

/// See the module.
pub(in crate::kafka) struct Slot {
    pub(in crate::kafka) partition: TopicPartition,
    pub(super) phase: Phase,
    /// Of the start that it is reading for.
    pub(super) generation: u64,
    /// The loop wants no records of it.
    pub(super) held: bool,
    /// The group takes it away.
    pub(super) revoking: bool,
    /// Whether the client fetches it.
    pub(super) fetching: bool,
    position: i64,
    /// What the log must still hold below the position.
    mark: Option<EpochMark>,
    open: Option<Open>,
}

struct Open {
    builder: BatchBuilder,
    since: Duration,
}

impl Slot {
    /// A newly assigned partition, which the client was told to pause.
    pub(in crate::kafka) fn new(partition: TopicPartition) -> Self {
        Self {
            partition,
            phase: Phase::Idle,
            generation: 0,
            held: false,
            revoking: false,
            fetching: false,
            position: -1,
            mark: None,
            open: None,
        }
    }

    /// Forgets what was fetched and waits to begin at `start`.
    pub(super) fn start(&mut self, start: Start, now: Duration) {
        let dead = self.is_dead();
        self.open = None;
        self.generation = start.generation;
        // A dead partition is not worth a wait before the client is told to begin from scratch.
        let since = if dead { Duration::ZERO } else { now };
        self.phase = Phase::Starting { place: start.place, since };
    }

    /// The client has taken the start.
    pub(in crate::kafka) fn started(&mut self, place: Place) {
        self.position = place.offset;
        self.mark = place.mark;
        self.phase = Phase::Reading;
    }

    /// Goes no further until it is started anew; what it collected is in the result.
    pub(super) fn stop(&mut self, dead: bool) -> Option<Batch> {
        self.phase = Phase::Stopped { dead };
        self.take()
    }

    /// The next offset to read.
    pub(in crate::kafka) fn position(&self) -> i64 {
        self.position
    }

    /// Where it would have to begin to go on.
    pub(super) fn place(&self) -> Place {
        Place { offset: self.position, mark: self.mark }
    }

    /// True where records of it may go out.
    pub(super) fn is_reading(&self) -> bool {
        self.phase == Phase::Reading && !self.revoking
    }

    /// True where the client should fetch it.
    pub(super) fn wants_records(&self) -> bool {
        self.is_reading() && !self.held
    }

    fn is_dead(&self) -> bool {
        self.phase == Phase::Stopped { dead: true }
    }

    /// Adds a record that is not behind the position.
    pub(in crate::kafka) fn push(&mut self, message: &Message<'_>, now: Duration) -> Result<(), NotUtf8> {
        let mut headers = message.headers();
        if headers.any(|(key, _)| std::str::from_utf8(key).is_err()) {
            return Err(NotUtf8);
        }
        let builder = self.open(now);
        builder.push(message.offset(), message.timestamp(), message.key(), message.value());
        for (key, value) in message.headers() {
            builder.header(std::str::from_utf8(key).unwrap_or_default(), value);
        }
        builder.leader_epoch(message.leader_epoch());
        self.position = message.offset() + 1;
        self.mark = message.leader_epoch().map(|leader_epoch| EpochMark { leader_epoch, upto: self.position });
        Ok(())
    }

    /// Everything below `position` was passed.
    pub(in crate::kafka) fn advance(&mut self, position: i64, now: Duration) {
        if position > self.position {
            self.open(now);
            self.position = position;
        }
    }

    fn open(&mut self, since: Duration) -> &mut BatchBuilder {
        let new = || Open { builder: BatchBuilder::new(self.partition.clone(), self.position), since };
        &mut self.open.get_or_insert_with(new).builder
    }

    /// Records collected, what they cost, and since when; `None` where nothing is.
    pub(in crate::kafka) fn collected(&self) -> Option<(usize, u64, Duration)> {
        self.open.as_ref().map(|open| (open.builder.len(), open.builder.memory_bytes(), open.since))
    }

    /// What was collected.
    pub(in crate::kafka) fn take(&mut self) -> Option<Batch> {
        self.open.take().map(|open| open.builder.build(self.position))
    }

    /// What was collected, where it is to be handed out.
    pub(in crate::kafka) fn take_if(&mut self, whole: bool) -> Option<Batch> {
        if whole { self.take() } else { None }
    }
}

/// A header key that is not UTF-8, which the archive's columns cannot hold.
pub(in crate::kafka) struct NotUtf8;
