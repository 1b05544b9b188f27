//! One assigned partition as the polling thread sees it: how far it is, what it may fetch, and the batch it collects.
//! Knows no clock, and of the client its messages alone.

use std::time::Duration;

use lakeferry_api::{Batch, BatchBuilder, EpochMark, Place, TopicPartition};

use super::super::ffi::Message;
use super::{BATCH_BYTES, BATCH_RECORDS, StartOrder};

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
    /// The broker was asked twice about the mark since the start.
    asked_again: bool,
    /// From here to the position the log had no record.
    bare_from: i64,
    open: Option<Open>,
    /// Records and bytes of values of the batch before: the next one will be much alike.
    room: (usize, usize),
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
            asked_again: false,
            bare_from: -1,
            open: None,
            room: (0, 0),
        }
    }

    /// Forgets what was fetched and waits to begin at `start`.
    pub(super) fn start(&mut self, start: StartOrder, now: Duration) {
        let dead = self.is_dead();
        self.open = None;
        self.generation = start.generation;
        self.asked_again = false;
        // A dead partition is not worth a wait before the client is told to begin from scratch.
        let since = if dead { Duration::ZERO } else { now };
        self.phase = Phase::Starting { place: start.place, since };
    }

    /// The client has taken the start.
    pub(in crate::kafka) fn started(&mut self, place: Place) {
        self.position = place.offset;
        self.mark = place.mark;
        self.bare_from = place.read_from();
        self.phase = Phase::Reading;
    }

    /// Goes no further until it is started anew; what it collected is in the result.
    pub(super) fn stop(&mut self, dead: bool) -> Option<Batch> {
        self.phase = Phase::Stopped { dead };
        self.take()
    }

    /// Waits to begin where it is, so that the broker is asked about the mark once more; false where it was already,
    /// and where there is none. For a partition that the client has stopped fetching.
    pub(super) fn ask_again(&mut self) -> bool {
        let asks = self.mark.is_some() && !self.asked_again;
        if asks {
            self.asked_again = true;
            self.phase = Phase::Starting { place: self.place(), since: Duration::ZERO };
        }
        asks
    }

    /// The next offset to read.
    pub(in crate::kafka) fn position(&self) -> i64 {
        self.position
    }

    /// Where it would have to begin to go on.
    pub(super) fn place(&self) -> Place {
        Place { offset: self.position, mark: self.mark }
    }

    /// True where a record at `offset`, below the position, proves that the log is not the one that was read: none was
    /// there, or it is of a later epoch than a record behind it. Otherwise the client gives it once more.
    pub(super) fn proves_parting(&self, offset: i64, leader_epoch: Option<i32>) -> bool {
        let is_later = leader_epoch.zip(self.mark).is_some_and(|(epoch, mark)| epoch > mark.leader_epoch);
        offset < self.position && (offset >= self.bare_from || is_later)
    }

    /// True where records of it may go out.
    pub(super) fn is_reading(&self) -> bool {
        self.phase == Phase::Reading && !self.revoking
    }

    /// True where the client should fetch it.
    pub(super) fn wants_records(&self) -> bool {
        self.is_reading() && !self.held
    }

    /// True where the record at `offset` may be added.
    pub(super) fn is_next(&self, offset: i64) -> bool {
        self.is_reading() && offset >= self.position
    }

    fn is_dead(&self) -> bool {
        self.phase == Phase::Stopped { dead: true }
    }

    /// Adds a record that is not behind the position. How many bytes of its own it has.
    pub(in crate::kafka) fn push(&mut self, message: &Message<'_>, now: Duration) -> Result<u64, NotUtf8> {
        let mut headers = message.headers();
        if headers.any(|(key, _)| std::str::from_utf8(key).is_err()) {
            return Err(NotUtf8);
        }
        let (key, value) = (message.key(), message.value());
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let mut bytes = length(key) + length(value);
        let builder = self.open(now);
        builder.push(message.offset(), message.timestamp(), key, value);
        for (key, value) in message.headers() {
            bytes += key.len() + length(value);
            builder.header(std::str::from_utf8(key).unwrap_or_default(), value);
        }
        let leader_epoch = message.leader_epoch();
        builder.leader_epoch(leader_epoch);
        self.passed(message.offset(), leader_epoch);
        Ok(bytes as u64)
    }

    /// The record at `offset` was read.
    fn passed(&mut self, offset: i64, leader_epoch: Option<i32>) {
        self.position = offset + 1;
        self.bare_from = self.position;
        self.mark = leader_epoch.map(|leader_epoch| EpochMark { leader_epoch, upto: self.position });
    }

    /// Everything below `position` was passed.
    pub(in crate::kafka) fn advance(&mut self, position: i64, now: Duration) {
        if position > self.position {
            self.open(now);
            self.position = position;
        }
    }

    fn open(&mut self, since: Duration) -> &mut BatchBuilder {
        let new = || {
            let mut builder = BatchBuilder::new(self.partition.clone(), self.position);
            builder.reserve(self.room.0, self.room.1);
            Open { builder, since }
        };
        &mut self.open.get_or_insert_with(new).builder
    }

    /// Records collected, what they cost, and since when; `None` where nothing is.
    pub(in crate::kafka) fn collected(&self) -> Option<(usize, u64, Duration)> {
        self.open.as_ref().map(|open| (open.builder.len(), open.builder.memory_bytes(), open.since))
    }

    /// True where the batch should go out.
    pub(in crate::kafka) fn is_full(&self) -> bool {
        self.collected().is_some_and(|(records, bytes, _)| records >= BATCH_RECORDS || bytes >= BATCH_BYTES)
    }

    /// What was collected.
    pub(in crate::kafka) fn take(&mut self) -> Option<Batch> {
        let builder = self.open.take()?.builder;
        self.room = (builder.len(), builder.value_bytes());
        Some(builder.build(self.position))
    }
}

/// A header key that is not UTF-8, which the archive's columns cannot hold.
pub(in crate::kafka) struct NotUtf8;

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(place: Place) -> Slot {
        let mut slot = Slot::new(TopicPartition::new("orders", 0));
        slot.started(place);
        slot
    }

    #[test]
    fn a_record_where_none_was_proves_that_the_log_parted() {
        // Markers of a transaction at 10 and 11, told by the end of the partition.
        let mut slot = slot(0.into());
        slot.passed(9, Some(4));
        slot.advance(12, Duration::ZERO);
        for offset in [10, 11] {
            for epoch in [Some(5), Some(4), None] {
                assert!(slot.proves_parting(offset, epoch), "{offset} {epoch:?}");
            }
        }
        assert!(!slot.proves_parting(12, Some(5)), "what comes next proves nothing");
    }

    #[test]
    fn so_does_one_below_the_place_that_was_sought() {
        let slot = slot(Place { offset: 12, mark: Some(EpochMark { leader_epoch: 4, upto: 10 }) });
        assert!(slot.proves_parting(10, Some(5)) && slot.proves_parting(11, Some(5)));
        assert!(!slot.proves_parting(12, Some(5)));
    }

    #[test]
    fn one_that_was_read_before_proves_nothing_unless_its_epoch_is_later() {
        let mut slot = slot(0.into());
        slot.passed(9, Some(4));
        assert!(!slot.proves_parting(9, Some(4)) && !slot.proves_parting(3, Some(2)) && !slot.proves_parting(3, None));
        assert!(slot.proves_parting(9, Some(5)) && slot.proves_parting(3, Some(5)));
        // Without epochs nobody can tell.
        slot.passed(20, None);
        assert!(!slot.proves_parting(9, Some(5)) && !slot.proves_parting(20, None));
    }

    #[test]
    fn without_a_mark_nothing_below_the_place_is_known() {
        let mut slot = slot(12.into());
        assert!(!slot.proves_parting(11, Some(5)));
        slot.advance(14, Duration::ZERO);
        assert!(slot.proves_parting(13, Some(5)) && slot.proves_parting(12, None));
    }
}
