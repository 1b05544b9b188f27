//! An archived log beside a topic, record for record. Pure: whoever compares brings the records of both sides, in
//! order.
//!
//! Two ways to line them up. By offset where the topic is the one that was archived; in order where it is a copy, whose
//! offsets are its own. In order, a record that is missing or too many must not make everything behind it differ: the
//! comparison looks some records ahead for where the two sides meet again.
//!
//! Invariant: the two sides are equal exactly where nothing is reported and [`Comparison::finish`] was called.

use std::collections::VecDeque;
use std::sync::Arc;

use lakeferry_api::{Batch, TopicPartition};
use serde::Serialize;

use lakeferry_api::batch::Row;

/// How far one side may be ahead of the other before a difference is taken as it is.
const LOOK_AHEAD: usize = 1024;
/// Or how many bytes of records, where those are large.
const LOOK_AHEAD_BYTES: usize = if cfg!(test) { 64 } else { 64 << 20 };
/// Bytes of a value that a difference shows.
const SHOWN_BYTES: usize = 48;

/// How the two sides are lined up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alignment {
    /// Records with the same offset are the same record.
    Offset,
    /// The n-th record of one side is the n-th of the other.
    Order,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The topic that was compared.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The record's offset in the archive, where it is there.
    pub archived_offset: Option<i64>,
    /// Its offset in the topic, where it is there.
    pub topic_offset: Option<i64>,
    /// `missing`, `extra`, or the field that differs: `key`, `value`, `headers`, `timestamp`.
    pub field: &'static str,
    /// What the archive has.
    pub archived: Option<String>,
    /// What the topic has.
    pub found: Option<String>,
}

/// Two logs being compared.
pub struct Comparison {
    topic: TopicPartition,
    alignment: Alignment,
    /// Records with a timestamp that could not be produced may have another one.
    stamped: bool,
    archived: Side,
    found: Side,
    equal: u64,
    different: u64,
    compacted: bool,
    gone: u64,
    keep: usize,
    differences: Vec<Difference>,
}

/// Records that wait for the other side.
#[derive(Default)]
struct Side {
    rows: VecDeque<(Arc<Batch>, usize)>,
    /// What their keys, values and headers take.
    bytes: usize,
    ended: bool,
}

impl Comparison {
    /// A comparison with partition `topic`, of which at most `keep` differences are kept. `stamped`: records without a
    /// timestamp that can be produced were stamped when they were replayed.
    pub fn new(topic: TopicPartition, alignment: Alignment, stamped: bool, keep: usize) -> Self {
        Self {
            topic,
            alignment,
            stamped,
            archived: Side::default(),
            found: Side::default(),
            equal: 0,
            different: 0,
            compacted: false,
            gone: 0,
            keep,
            differences: Vec::new(),
        }
    }

    /// The topic's log cleaner may have removed records after they were archived: that is no difference. Means nothing
    /// where records are aligned in order.
    #[must_use]
    pub fn compacted(mut self, compacted: bool) -> Self {
        self.compacted = compacted && self.alignment == Alignment::Offset;
        self
    }

    /// The next records of the archive.
    pub fn archived(&mut self, batch: Batch) {
        self.archived.push(batch);
    }

    /// The archive has no more.
    pub fn archive_ended(&mut self) {
        self.archived.ended = true;
    }

    /// The next records of the topic.
    pub fn found(&mut self, batch: Batch) {
        self.found.push(batch);
        self.run();
    }

    /// The topic has no more: what the archive still has is missing there.
    pub fn topic_ended(&mut self) {
        self.found.ended = true;
        self.run();
    }

    /// True where nothing can be said before the archive's next records are there.
    pub fn wants_archive(&self) -> bool {
        let enough = match self.alignment {
            Alignment::Offset => 1,
            Alignment::Order => self.found.rows.len().max(1),
        };
        !self.archived.is_full() && self.archived.rows.len() < enough
    }

    /// Goes on as far as what is there tells.
    pub fn run(&mut self) {
        while self.step() {}
    }

    /// Both sides have ended: what waits is missing or too many.
    pub fn finish(&mut self) {
        self.archived.ended = true;
        self.topic_ended();
    }

    /// Records that are equal.
    pub fn equal(&self) -> u64 {
        self.equal
    }

    /// Archived records that the topic's log cleaner may have removed.
    pub fn gone(&self) -> u64 {
        self.gone
    }

    /// Differences: more than [`Comparison::differences`] where there are many.
    pub fn different(&self) -> u64 {
        self.different
    }

    /// The first differences.
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// Settles the front of the two sides; false where more records are needed.
    fn step(&mut self) -> bool {
        match (self.archived.rows.front(), self.found.rows.front()) {
            (None, None) => false,
            (Some(_), None) => self.found.ended && self.missing(1),
            (None, Some(_)) => self.archived.ended && self.extra(1),
            (Some((one, at)), Some((other, of))) => {
                let (one, other) = (one.row(*at), other.row(*of));
                match self.alignment {
                    Alignment::Offset if one.offset() < other.offset() => self.missing(1),
                    Alignment::Offset if one.offset() > other.offset() => self.extra(1),
                    Alignment::Offset => self.pair(),
                    Alignment::Order if is_same(&one, &other, self.stamped) => self.pair(),
                    Alignment::Order => self.meet_again(),
                }
            }
        }
    }

    /// The fronts differ: a record changed, or some are missing or too many.
    fn meet_again(&mut self) -> bool {
        if !self.archived.is_full() || !self.found.is_full() {
            return false;
        }
        let window = |side: &Side| side.rows.len().min(LOOK_AHEAD);
        let same = |one: usize, other: usize| match (self.archived.rows.get(one), self.found.rows.get(other)) {
            (Some((one, at)), Some((other, of))) => is_same(&one.row(*at), &other.row(*of), self.stamped),
            (None, None) => true,
            _ => false,
        };
        let changed = same(1, 1);
        let gone = (1..window(&self.archived)).find(|ahead| same(*ahead, 0));
        let added = (1..window(&self.found)).find(|ahead| same(0, *ahead));
        match (gone, added) {
            _ if changed => self.pair(),
            (Some(gone), added) if added.is_none_or(|added| gone <= added) => self.missing(gone),
            (_, Some(added)) => self.extra(added),
            _ => self.pair(),
        }
    }

    fn pair(&mut self) -> bool {
        let (Some((one, at)), Some((other, of))) = (self.archived.pop(), self.found.pop()) else {
            return false;
        };
        let (one, other) = (one.row(at), other.row(of));
        let fields = differing(&one, &other, self.stamped);
        if fields.is_empty() {
            self.equal += 1;
        }
        for (field, archived, found) in fields {
            self.report(field, (Some(one.offset()), Some(archived)), (Some(other.offset()), Some(found)));
        }
        true
    }

    fn missing(&mut self, count: usize) -> bool {
        if self.compacted {
            self.archived.take(count);
            self.gone += count as u64;
            return true;
        }
        for (batch, at) in self.archived.take(count) {
            self.report("missing", (Some(batch.row(at).offset()), Some(summary(&batch.row(at)))), (None, None));
        }
        true
    }

    fn extra(&mut self, count: usize) -> bool {
        for (batch, at) in self.found.take(count) {
            self.report("extra", (None, None), (Some(batch.row(at).offset()), Some(summary(&batch.row(at)))));
        }
        true
    }

    fn report(
        &mut self,
        field: &'static str,
        archived: (Option<i64>, Option<String>),
        found: (Option<i64>, Option<String>),
    ) {
        self.different += 1;
        if self.differences.len() < self.keep {
            self.differences.push(Difference {
                topic: self.topic.topic.to_string(),
                partition: self.topic.partition,
                archived_offset: archived.0,
                topic_offset: found.0,
                field,
                archived: archived.1,
                found: found.1,
            });
        }
    }
}

impl Side {
    fn push(&mut self, batch: Batch) {
        let batch = Arc::new(batch);
        self.bytes += batch.raw_bytes();
        self.rows.extend((0..batch.len()).map(|at| (Arc::clone(&batch), at)));
    }

    fn pop(&mut self) -> Option<(Arc<Batch>, usize)> {
        let (batch, at) = self.rows.pop_front()?;
        self.bytes -= raw_bytes(&batch.row(at));
        Some((batch, at))
    }

    fn take(&mut self, count: usize) -> Vec<(Arc<Batch>, usize)> {
        (0..count).map_while(|_| self.pop()).collect()
    }

    /// True where no more of it are to wait: as many do as may, or there are no more.
    fn is_full(&self) -> bool {
        self.ended || self.rows.len() >= LOOK_AHEAD || self.bytes >= LOOK_AHEAD_BYTES && !self.rows.is_empty()
    }
}

/// As [`Batch::raw_bytes`] counts it.
fn raw_bytes(row: &Row<'_>) -> usize {
    let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    length(row.key()) + length(row.value()) + row.headers().map(|(key, value)| key.len() + length(value)).sum::<usize>()
}

fn is_same(one: &Row<'_>, other: &Row<'_>, stamped: bool) -> bool {
    is_same_time(one, other, stamped)
        && one.key() == other.key()
        && one.value() == other.value()
        && one.headers().eq(other.headers())
}

fn is_same_time(one: &Row<'_>, other: &Row<'_>, stamped: bool) -> bool {
    let free = stamped && one.timestamp().is_none_or(crate::source::read::is_untimed);
    free || one.timestamp() == other.timestamp()
}

fn differing(one: &Row<'_>, other: &Row<'_>, stamped: bool) -> Vec<(&'static str, String, String)> {
    let mut fields = Vec::new();
    let mut differ = |field, same: bool, shown: &dyn Fn(&Row<'_>) -> String| {
        if !same {
            fields.push((field, shown(one), shown(other)));
        }
    };
    differ("timestamp", is_same_time(one, other, stamped), &|row| {
        row.timestamp().map_or_else(|| "none".to_owned(), |timestamp| timestamp.to_string())
    });
    differ("key", one.key() == other.key(), &|row| shown(row.key()));
    differ("value", one.value() == other.value(), &|row| shown(row.value()));
    differ("headers", one.headers().eq(other.headers()), &|row| {
        let headers: Vec<_> = row.headers().map(|(key, value)| format!("{key}={}", shown(value))).collect();
        format!("[{}]", headers.join(", "))
    });
    fields
}

fn summary(row: &Row<'_>) -> String {
    let timestamp = row.timestamp().map_or_else(|| "none".to_owned(), |timestamp| timestamp.to_string());
    format!("timestamp {timestamp}, key {}, value {}", shown(row.key()), shown(row.value()))
}

fn shown(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "null".to_owned() };
    let head = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if head.len() < bytes.len() { format!("... ({} bytes)", bytes.len()) } else { String::new() };
    format!("\"{}\"{more}", head.escape_ascii())
}

#[cfg(test)]
mod tests;
