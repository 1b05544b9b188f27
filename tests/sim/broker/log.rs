//! One incarnation of a partition's log, with everything that can happen to it: transactions, elections clean and
//! unclean, retention, compaction. It remembers every record that was ever readable, which is what the checker judges
//! by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

/// A record as a producer wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rec {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
    /// Records of the oldest formats have none.
    pub(crate) timestamp: Option<i64>,
    /// Who stamped it, where that is known.
    pub(crate) stamp: Option<Stamp>,
}

/// Who gave a record its timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// Its producer.
    Create,
    /// The broker, when it appended it.
    Append,
}

impl Rec {
    /// Bytes of its key, value and headers.
    pub(crate) fn bytes(&self) -> usize {
        let header = |(key, value): &(String, Option<Bytes>)| key.len() + value.as_ref().map_or(0, Bytes::len);
        let parts = [&self.key, &self.value].into_iter().flatten().map(Bytes::len);
        parts.chain(self.headers.iter().map(header)).sum()
    }
}

/// What stands at an offset.
#[derive(Debug, Clone)]
enum Slot {
    Data { rec: Arc<Rec>, transaction: Option<u64>, epoch: i32 },
    Control { transaction: u64, commit: bool, epoch: i32 },
    Removed,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    start: i64,
    slots: Vec<Slot>,
    /// Leader epochs with the offset each begins at.
    epochs: Vec<(i32, i64)>,
    /// Whether a transaction was committed; `None` while it is open.
    transactions: BTreeMap<u64, Option<bool>>,
    /// Where the cleaner removed a record, or an election took back what was there.
    removed: BTreeSet<i64>,
    /// Every record that was ever committed at an offset.
    pub(crate) ever: BTreeMap<i64, Vec<Arc<Rec>>>,
}

/// What a fetch brings.
pub(crate) struct Fetched {
    pub(crate) records: Vec<(i64, Arc<Rec>)>,
    pub(crate) next: i64,
    /// The leader epoch of the last offset that was passed.
    pub(crate) epoch: i32,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self {
            start: 0,
            slots: Vec::new(),
            epochs: vec![(0, 0)],
            transactions: BTreeMap::new(),
            removed: BTreeSet::new(),
            ever: BTreeMap::new(),
        }
    }

    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    pub(crate) fn end(&self) -> i64 {
        self.slots.len() as i64
    }

    /// True where the cleaner removed a record at `offset`, or an election took back what was there.
    pub(crate) fn has_removed(&self, offset: i64) -> bool {
        self.removed.contains(&offset)
    }

    /// The last stable offset: below the first record of an open transaction.
    pub(crate) fn stable(&self) -> i64 {
        let is_open = |slot: &Slot| match slot {
            Slot::Data { transaction: Some(id), .. } => self.transactions.get(id) == Some(&None),
            _ => false,
        };
        self.slots.iter().position(is_open).map_or(self.end(), |at| at as i64)
    }

    fn epoch(&self) -> i32 {
        self.epochs.last().map_or(0, |(epoch, _)| *epoch)
    }

    pub(crate) fn append(&mut self, rec: Rec, transaction: Option<u64>) -> i64 {
        let (offset, rec) = (self.end(), Arc::new(rec));
        match transaction {
            Some(id) => drop(self.transactions.entry(id).or_insert(None)),
            None => self.ever.entry(offset).or_default().push(Arc::clone(&rec)),
        }
        self.slots.push(Slot::Data { rec, transaction, epoch: self.epoch() });
        offset
    }

    /// Commits or aborts a transaction of this partition. False where it is not open.
    pub(crate) fn end_transaction(&mut self, id: u64, commit: bool) -> bool {
        if self.transactions.get(&id) != Some(&None) {
            return false;
        }
        self.slots.push(Slot::Control { transaction: id, commit, epoch: self.epoch() });
        self.settle(id, commit);
        true
    }

    /// A coordinator that failed over writes a marker again that is there already.
    pub(crate) fn mark_again(&mut self, id: u64, commit: bool) {
        self.slots.push(Slot::Control { transaction: id, commit, epoch: self.epoch() });
    }

    fn settle(&mut self, id: u64, commit: bool) {
        self.transactions.insert(id, Some(commit));
        if !commit {
            return;
        }
        for (offset, slot) in self.slots.iter().enumerate() {
            if let Slot::Data { rec, transaction: Some(of), .. } = slot
                && *of == id
            {
                let known = self.ever.entry(offset as i64).or_default();
                if known.last() != Some(rec) {
                    known.push(Arc::clone(rec));
                }
            }
        }
    }

    /// The ids of open transactions.
    pub(crate) fn open_transactions(&self) -> Vec<u64> {
        self.transactions.iter().filter(|(_, end)| end.is_none()).map(|(id, _)| *id).collect()
    }

    /// A new leader. One that lacks what lies at `lost_from` and beyond takes it back from everybody.
    pub(crate) fn elect(&mut self, lost_from: Option<i64>) {
        let epoch = self.epoch() + 1;
        let cut = lost_from.unwrap_or(self.end()).clamp(self.start, self.end());
        let lost: Vec<Slot> = self.slots.drain(cut as usize..).collect();
        self.removed.extend((cut..).zip(&lost).map(|(offset, _)| offset));
        self.epochs.retain(|(_, start)| *start < cut);
        self.epochs.push((epoch, cut));
        // A coordinator that knows a transaction's end writes the marker again.
        for slot in &lost {
            if let Slot::Control { transaction, commit, .. } = slot {
                let touched =
                    |slot: &Slot| matches!(slot, Slot::Data { transaction: Some(id), .. } if id == transaction);
                if self.slots.iter().any(touched) {
                    self.slots.push(Slot::Control { transaction: *transaction, commit: *commit, epoch });
                }
            }
        }
        let held = |id: &u64| {
            self.slots.iter().any(|slot| matches!(slot, Slot::Data { transaction: Some(of), .. } if of == id))
        };
        let gone: Vec<u64> = self.transactions.keys().filter(|id| !held(id)).copied().collect();
        self.transactions.retain(|id, _| !gone.contains(id));
    }

    /// Where the leader epoch `asked`, or the last one before it, ends. Of an epoch before all that the broker
    /// remembers it says where they begin (Kafka's `LeaderEpochFileCache.endOffsetFor`).
    pub(crate) fn end_of_epoch(&self, asked: i32) -> i64 {
        let later = self.epochs.iter().find(|(epoch, _)| *epoch > asked);
        later.map_or(self.end(), |(_, start)| *start)
    }

    /// Retention, or deleted records.
    pub(crate) fn remove_before(&mut self, offset: i64) {
        self.start = self.start.max(offset.min(self.stable()));
        // What lies before the log's start is forgotten, its epochs included.
        let first = self.epochs.iter().rposition(|(_, start)| *start <= self.start).unwrap_or(0);
        self.epochs.drain(..first);
        self.epochs[0].1 = self.epochs[0].1.max(self.start);
    }

    /// The cleaner removes what `removes` says, below the last stable offset and never the last record.
    pub(crate) fn compact(&mut self, mut removes: impl FnMut() -> bool) {
        let (from, to) = (self.start.max(0) as usize, (self.stable() - 1).max(0) as usize);
        for at in from..to.max(from) {
            let is_data = matches!(self.slots[at], Slot::Data { .. });
            if is_data && removes() {
                self.slots[at] = Slot::Removed;
                self.removed.insert(at as i64);
            }
        }
    }

    /// What a `read_committed` fetch at `position` brings, at most `most` offsets; `None` where nothing is there.
    pub(crate) fn fetch(&self, position: i64, most: i64) -> Option<Fetched> {
        let next = self.stable().min(position + most);
        if position >= next {
            return None;
        }
        let mut fetched = Fetched { records: Vec::new(), next, epoch: 0 };
        for offset in position..next {
            match &self.slots[offset as usize] {
                Slot::Data { rec, transaction, epoch } => {
                    fetched.epoch = *epoch;
                    if transaction.is_none_or(|id| self.transactions.get(&id) == Some(&Some(true))) {
                        fetched.records.push((offset, Arc::clone(rec)));
                    }
                }
                Slot::Control { epoch, .. } => fetched.epoch = *epoch,
                Slot::Removed => {}
            }
        }
        Some(fetched)
    }

    /// The first record that a reader finds at `from` or behind it, and below `to`.
    pub(crate) fn first_visible(&self, from: i64, to: i64) -> Option<i64> {
        self.fetch(from.max(self.start), to - from)?.records.first().map(|(offset, _)| *offset)
    }

    /// Every record that a reader from the start must find now.
    pub(crate) fn present(&self) -> BTreeMap<i64, Arc<Rec>> {
        self.fetch(self.start, i64::MAX / 2).map(|fetched| fetched.records.into_iter().collect()).unwrap_or_default()
    }
}
