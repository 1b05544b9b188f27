//! The transactions of a source, one after the other: begun with the first batch, ended when they are old or large
//! enough. What is on its way is bounded; what is delivered must touch what was delivered before.
//!
//! Invariant: a transaction is committed only when every record of it stands where it was to stand, and with the
//! offsets behind them. After any failure it is aborted, and nothing of it counts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::{
    ConnectError, Kind, Result, SourceBatch, SourceOffset, SourcePartition, SourceRecords, TopicPartition,
};

use super::ledger::{Ledger, Page};
use super::mark::Tail;
use crate::kafka::{BatchDelivery, Stretches, Written};

/// What may be on its way to the brokers: enough that they, and whoever compresses for them, always have something to
/// do; no more, or records wait longer in the client's queue than they may linger there (`linger.ms` of the producer).
const IN_FLIGHT_BYTES: u64 = 16 << 20;
/// Where partitions take turns by time, a batch may be a single record.
const IN_FLIGHT_BATCHES: usize = 16_384;
/// A transaction that has written so many bytes ends, however young it is.
const MAX_BYTES: u64 = 256 << 20;

/// See the module.
pub(crate) struct Transactions {
    ledger: Arc<Ledger>,
    interval: Duration,
    open: Option<Open>,
}

/// What a transaction that was committed held.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Settled {
    /// How far each source partition got.
    pub(crate) offsets: Vec<(SourcePartition, SourceOffset)>,
    /// Records by source partition.
    pub(crate) records: BTreeMap<SourcePartition, u64>,
    /// Bytes of their keys, values and headers.
    pub(crate) raw_bytes: u64,
}

struct Open {
    began: Duration,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: u64,
    /// What the ledger will hold.
    pages: BTreeMap<TopicPartition, Page>,
    /// Where records were delivered: there the commit leaves its marker.
    written: BTreeSet<TopicPartition>,
    /// Offsets before the first record of the transaction that are no markers for sure.
    unknown: Stretches,
    settled: Settled,
    /// False while a batch is handed over or the end is under way, and after a delivery that failed: one that is
    /// dropped then can only be aborted.
    whole: bool,
}

struct InFlight {
    target: TopicPartition,
    records: u64,
    raw_bytes: u64,
    delivery: BatchDelivery,
}

impl Transactions {
    /// None is open; each will last `interval`.
    pub(crate) fn new(ledger: Arc<Ledger>, interval: Duration) -> Self {
        Self { ledger, interval, open: None }
    }

    /// True where nothing is half done: what is open may be committed.
    pub(crate) fn is_whole(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.whole)
    }

    /// When the open transaction is to be committed, or, where none is, the offsets once more.
    pub(crate) fn due_at(&self) -> Duration {
        match &self.open {
            Some(open) if open.settled.raw_bytes >= MAX_BYTES => open.began,
            Some(open) => open.began + self.interval,
            None => self.ledger.refresh_at(),
        }
    }

    /// Hands `batch` over, once there is room, in a transaction that it begins where none is open.
    ///
    /// # Errors
    /// `Retriable` where the transaction is to be aborted; others end the source. One that is dropped must be, too.
    pub(crate) async fn send(&mut self, batch: SourceBatch) -> Result<()> {
        let SourceBatch { partition: source, offset, records: SourceRecords::Bytes(records) } = batch else {
            return Err(ConnectError::fatal("only bytes are written exactly once"));
        };
        let target = records.partition().clone();
        if self.ledger.parts().routes.target(&source)? != target {
            return Err(ConnectError::fatal(format!(
                "{} is written to {target}, which is not its way",
                source.as_str()
            )));
        }
        let page = match self.open.as_ref().and_then(|open| open.pages.get(&target)) {
            Some(page) => page.clone(),
            None => self.ledger.page(&target)?,
        };
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                self.ledger.parts().producer.begin_transaction().await?;
                let began = self.ledger.parts().clock.monotonic();
                self.open.insert(Open::new(began))
            }
        };
        open.whole = false;
        open.pages.insert(target.clone(), Page { stored: offset.clone().or_else(|| page.stored.clone()), ..page });
        let (count, raw_bytes) = (records.len() as u64, records.raw_bytes() as u64);
        if !records.is_empty() {
            let delivery = self.ledger.parts().producer.send_batch(&records).await?;
            open.let_fly(InFlight { target, records: count, raw_bytes, delivery });
        }
        open.settled.add(source, offset, (count, raw_bytes));
        open.whole = true;
        drop(records);
        while open.is_full() {
            open.settle_oldest().await?;
        }
        Ok(())
    }

    /// Takes in what was acknowledged meanwhile; waits for nothing.
    ///
    /// # Errors
    /// As [`Transactions::send`].
    pub(crate) fn take_in(&mut self) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        while let Some(answer) = open.in_flight.front_mut().and_then(|oldest| (&mut oldest.delivery).now_or_never()) {
            open.settle(answer)?;
        }
        Ok(())
    }

    /// Waits for the oldest batch on its way, for ever where there is none. Cancel-safe.
    ///
    /// # Errors
    /// As [`Transactions::send`].
    pub(crate) async fn delivered(&mut self) -> Result<()> {
        match &mut self.open {
            Some(open) if !open.in_flight.is_empty() => open.settle_oldest().await,
            _ => std::future::pending().await,
        }
    }

    /// Ends the open transaction well, with everything in it acknowledged. Where none is open and it is time, what is
    /// committed is committed once more.
    ///
    /// # Errors
    /// As [`Transactions::send`].
    pub(crate) async fn commit(&mut self) -> Result<Settled> {
        let parts = self.ledger.parts();
        if self.ledger.refresh_at() <= parts.clock.monotonic() {
            let mut pages = self.ledger.to_refresh();
            if self.open.is_none() && !pages.is_empty() {
                parts.producer.begin_transaction().await?;
                self.open = Some(Open::new(parts.clock.monotonic()));
            }
            if let Some(open) = &mut self.open {
                pages.append(&mut open.pages);
                open.pages = pages;
            }
        }
        let Some(open) = &mut self.open else { return Ok(Settled::default()) };
        if !open.in_flight.is_empty() {
            parts.producer.flush().await?;
        }
        while !open.in_flight.is_empty() {
            open.settle_oldest().await?;
        }
        if !open.unknown.is_empty()
            && let Some((target, offset)) = parts.admin.first_visible(&open.unknown).await?
        {
            return Err(others(
                &target,
                format!("there is a record at offset {offset}, before those that were written"),
            ));
        }
        open.whole = false;
        open.mark();
        let commits = self.ledger.commits(&open.pages)?;
        if sabotage::is(Fault::ProgressApart) {
            parts.producer.commit_transaction().await?;
            parts.producer.begin_transaction().await?;
        }
        parts.producer.send_offsets(&parts.group, &commits).await?;
        parts.producer.commit_transaction().await?;
        let Some(open) = self.open.take() else { return Ok(Settled::default()) };
        self.ledger.committed(open.pages);
        Ok(open.settled)
    }

    /// Takes the open transaction back after `cause`, which is given back unless there is a worse one.
    /// Everything is to be asked anew then.
    pub(crate) async fn abort(&mut self, cause: ConnectError) -> ConnectError {
        if !sabotage::is(Fault::NoRewind) {
            self.ledger.forget();
        }
        if self.open.take().is_none() {
            return cause;
        }
        match self.ledger.parts().producer.abort_transaction().await {
            Ok(()) => cause,
            Err(error) if error.kind() == Kind::Fenced || cause.is_retriable() => error.caused_by(cause),
            Err(_) => cause,
        }
    }
}

impl Open {
    fn new(began: Duration) -> Self {
        Self {
            began,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            pages: BTreeMap::new(),
            written: BTreeSet::new(),
            unknown: Stretches::new(),
            settled: Settled::default(),
            whole: true,
        }
    }

    fn let_fly(&mut self, batch: InFlight) {
        self.in_flight_bytes += batch.raw_bytes;
        self.in_flight.push_back(batch);
    }

    fn is_full(&self) -> bool {
        self.in_flight_bytes > IN_FLIGHT_BYTES || self.in_flight.len() > IN_FLIGHT_BATCHES
    }

    /// All is delivered: next in each partition is the marker of the commit.
    fn mark(&mut self) {
        for target in &self.written {
            if let Some(page) = self.pages.get_mut(target) {
                page.tail.marker = true;
            }
        }
    }

    async fn settle_oldest(&mut self) -> Result<()> {
        // It stays in its place until it is settled: whoever drops this leaves it in flight.
        let Some(oldest) = self.in_flight.front_mut() else { return Ok(()) };
        let answer = (&mut oldest.delivery).await;
        self.settle(answer)
    }

    fn settle(&mut self, answer: Result<Option<Written>>) -> Result<()> {
        let settled = self.take_in(answer);
        self.whole &= settled.is_ok();
        settled
    }

    fn take_in(&mut self, answer: Result<Option<Written>>) -> Result<()> {
        let Some(InFlight { target, records, raw_bytes, .. }) = self.in_flight.pop_front() else {
            return answer.map(drop);
        };
        self.in_flight_bytes -= raw_bytes;
        if answer.is_err() && sabotage::is(Fault::LostDeliveryCounts) {
            return Ok(());
        }
        let written = answer.map_err(|error| error.context(format!("a record for {target} was not written")))?;
        let page = self.pages.get_mut(&target).ok_or_else(|| ConnectError::fatal(format!("{target} has no page")))?;
        let is_first = self.written.insert(target.clone());
        page.first = page.first.or(written.map(|written| written.first));
        page.tail = match follow(&target, page.tail, written, (records, is_first))? {
            Landed::Next(tail) => tail,
            Landed::Behind(unknown, tail) => {
                self.unknown.insert(target, unknown);
                tail
            }
        };
        Ok(())
    }
}

impl Settled {
    fn add(&mut self, source: SourcePartition, offset: Option<SourceOffset>, (records, raw_bytes): (u64, u64)) {
        self.raw_bytes += raw_bytes;
        *self.records.entry(source.clone()).or_default() += records;
        let Some(offset) = offset else { return };
        match self.offsets.iter_mut().find(|(known, _)| *known == source) {
            Some((_, known)) => *known = offset,
            None => self.offsets.push((source, offset)),
        }
    }
}

/// Where records came to stand.
#[derive(Debug, PartialEq)]
enum Landed {
    /// Next to what was known, which ends here now.
    Next(Tail),
    /// Behind these offsets, bounds included and excluded, of which nothing is known.
    Behind((i64, i64), Tail),
}

/// Where writing goes on behind `records` records that were written; the `first` of a transaction may have markers
/// before them that nobody has seen: one for each transaction and, after a failure of the brokers, some of them again.
fn follow(
    target: &TopicPartition,
    tail: Tail,
    written: Option<Written>,
    (records, is_first): (u64, bool),
) -> Result<Landed> {
    let Some(Written { first, last }) = written else {
        return Err(ConnectError::retriable(format!("the brokers did not tell where records stand in {target}")));
    };
    let whole = (last - first + 1).unsigned_abs() == records;
    let behind = Tail { last, marker: false };
    // The embedded cluster of the demo leaves no markers.
    if whole && tail.last < first && first <= tail.next() {
        return Ok(Landed::Next(behind));
    }
    if whole && is_first && tail.next() < first {
        return Ok(Landed::Behind((tail.last + 1, first), behind));
    }
    if first <= tail.last {
        return Err(taken_away(target, first, tail.last));
    }
    Err(others(
        target,
        format!("{records} records were to stand from offset {} on, and stand between {first} and {last}", tail.next()),
    ))
}

/// Records stand where others stood.
fn taken_away(target: &TopicPartition, first: i64, last: i64) -> ConnectError {
    ConnectError::conflict(format!(
        "{target} was deleted and made again meanwhile, as it seems, or cut back: records came to stand at offset {first}, \
         though offset {last} was delivered before; nothing of their transaction will be visible. What went with a \
         deleted topic is written anew, from its beginning, by the same command, or once the task is restarted"
    ))
}

fn others(target: &TopicPartition, what: String) -> ConnectError {
    ConnectError::conflict(format!(
        "something else writes to {target}: {what}; nothing of their transaction will be visible"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_delivery_that_failed_can_only_be_taken_back() {
        let answers = [Ok(Some(Written { first: 0, last: 4 })), Ok(None), Err(ConnectError::retriable("lost"))];
        for (answer, whole) in answers.into_iter().zip([true, false, false]) {
            let target = TopicPartition::new("t", 0);
            let page = Page { stored: None, tail: Tail::before(0), first: None, topic_id: None };
            let mut open = Open::new(Duration::ZERO);
            open.pages.insert(target.clone(), page);
            let delivery = Box::pin(async { answer });
            open.let_fly(InFlight { target, records: 5, raw_bytes: 50, delivery });
            assert_eq!((open.settle_oldest().await.is_ok(), open.whole), (whole, whole));
            assert_eq!(open.in_flight_bytes, 0, "it is on its way no more");
        }
    }

    #[test]
    fn records_must_touch_what_is_known() {
        let target = TopicPartition::new("t", 0);
        let known = Tail { last: 9, marker: true };
        let land = |first, last, records, is_first| {
            follow(&target, known, Some(Written { first, last }), (records, is_first)).map_err(|error| error.kind())
        };
        let tail = Tail { last: 15, marker: false };
        assert_eq!(land(11, 15, 5, true), Ok(Landed::Next(tail)));
        // Markers that were written again, or somebody else's records.
        assert_eq!(land(13, 15, 3, true), Ok(Landed::Behind((10, 13), tail)));
        for (first, last, records, is_first) in
            [(13, 15, 3, false), (11, 16, 5, true), (9, 13, 5, true), (11, 15, 4, true)]
        {
            assert_eq!(land(first, last, records, is_first), Err(Kind::Conflict), "{first} to {last}");
        }
        assert!(follow(&target, known, None, (5, true)).unwrap_err().is_retriable());
        // Nobody wrote there: what stood there is gone.
        for (first, is_new) in [(0, true), (9, true), (10, false), (12, false)] {
            let written = Written { first, last: first + 5 };
            let error = follow(&target, known, Some(written), (5, true)).unwrap_err();
            assert_eq!(error.message().contains("t-0 was deleted and made again meanwhile"), is_new, "{error}");
            assert_eq!(error.message().contains("something else writes to t-0"), !is_new, "{error}");
        }
    }
}
