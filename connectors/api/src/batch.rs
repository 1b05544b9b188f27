//! How records travel: one partition's records in offset order, as column arenas laid out like Arrow's binary columns
//! (i32 ends, one values buffer, validity bits), so that a file format wraps them without a copy though this crate
//! knows no Arrow type.
//!
//! A batch is built once, by a consumer or a file reader, and is unchangeable and cheap to clone and slice after that.
//! Null is not empty: presence has bits of its own. Two faces: the columns ([`Batch::keys`], ...) and the rows
//! ([`Batch::rows`]); typed records exist only where a connector asked for them ([`Batch::with_records`]).

mod build;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

pub use self::build::{BatchBuilder, Columns};
use crate::budget::Permit;
use crate::record::{Record, TimestampType, TopicPartition};

/// The value of [`Batch::timestamps`] for a record without timestamp, as Kafka's own protocol has it.
pub const NO_TIMESTAMP: i64 = -1;

/// What a row costs beyond its bytes: offset, timestamp and the ends of columns that grow by doubling. Small records
/// and tombstones cost little else.
const ROW_BYTES: u64 = 48;

/// Records of one topic-partition, in offset order.
#[derive(Debug, Clone)]
pub struct Batch {
    arena: Arc<Arena>,
    partition: TopicPartition,
    rows: Range<usize>,
    base_offset: i64,
    next_offset: i64,
    permit: Option<Arc<Permit>>,
    records: Option<Arc<[Record]>>,
}

#[derive(Debug)]
struct Arena {
    offsets: Vec<i64>,
    timestamps: Vec<i64>,
    timestamp_types: Vec<Option<TimestampType>>,
    leader_epoch: Option<i32>,
    keys: Column,
    values: Column,
    headers: Headers,
}

/// A column of optional byte strings: row `i` is `values[ends[i]..ends[i + 1]]` where bit `i` of `validity` is set.
#[derive(Debug, Clone, Default)]
pub struct Column {
    ends: Vec<i32>,
    values: Bytes,
    validity: Vec<u8>,
    nulls: usize,
}

/// The headers of every row: row `i` owns the entries `row_ends[i]..row_ends[i + 1]` of the two columns.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    row_ends: Vec<i32>,
    keys: Column,
    values: Column,
}

/// One record seen through its batch; borrows, never copies.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    batch: &'a Batch,
    at: usize,
}

impl Batch {
    /// A batch without records that only says how far the position went: control records, aborted data and compacted
    /// offsets are passed without any record.
    pub fn position_only(partition: TopicPartition, base_offset: i64, next_offset: i64) -> Self {
        BatchBuilder::new(partition, base_offset).build(next_offset)
    }

    /// The partition every record of it belongs to.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True where it only carries a position.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The position before it: the previous batch's [`Batch::next_offset`], or where reading began. An offset from here
    /// on that is no record of this batch was passed by the broker. A receiver whose own position differs has missed
    /// something and must not go on.
    pub fn base_offset(&self) -> i64 {
        self.base_offset
    }

    /// The position after it: every offset below is a record of this or an earlier batch, or is no record at all.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// The leader epoch of its last record, or of one behind it that came with it, where the broker told.
    pub fn leader_epoch(&self) -> Option<i32> {
        self.arena.leader_epoch
    }

    /// Offsets, ascending.
    pub fn offsets(&self) -> &[i64] {
        &self.arena.offsets[self.rows.clone()]
    }

    /// Timestamps in milliseconds, [`NO_TIMESTAMP`] where there is none.
    pub fn timestamps(&self) -> &[i64] {
        &self.arena.timestamps[self.rows.clone()]
    }

    /// Who stamped each record.
    pub fn timestamp_types(&self) -> &[Option<TimestampType>] {
        &self.arena.timestamp_types[self.rows.clone()]
    }

    /// The whole key column of the arena; the rows of this batch are [`Batch::row_range`].
    pub fn keys(&self) -> &Column {
        &self.arena.keys
    }

    /// The whole value column of the arena; the rows of this batch are [`Batch::row_range`].
    pub fn values(&self) -> &Column {
        &self.arena.values
    }

    /// The whole header column of the arena; the rows of this batch are [`Batch::row_range`].
    pub fn headers(&self) -> &Headers {
        &self.arena.headers
    }

    /// Which rows of the arena's columns are this batch's.
    pub fn row_range(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// What it costs to buffer, near enough: what its [`Permit`] is to hold.
    pub fn memory_bytes(&self) -> u64 {
        memory_bytes(self.raw_bytes(), self.len())
    }

    /// Bytes of keys, values and headers of its rows.
    pub fn raw_bytes(&self) -> usize {
        let entries = self.arena.headers.entries(self.rows.clone());
        self.arena.keys.byte_len(self.rows.clone())
            + self.arena.values.byte_len(self.rows.clone())
            + self.arena.headers.keys.byte_len(entries.clone())
            + self.arena.headers.values.byte_len(entries)
    }

    /// The rows `range` of this batch as a batch of its own, sharing the arenas. It ends at the offset of the first
    /// record that it leaves out, or where this batch does, and begins where the slice before it ends: slices that
    /// touch are batches that continue each other.
    ///
    /// # Panics
    /// Where `range` is not within `0..self.len()`.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "slice {range:?} of {} rows", self.len());
        let boundary = |row: usize| self.offsets().get(row).copied().unwrap_or(self.next_offset);
        let base_offset = if range.start == 0 { self.base_offset } else { boundary(range.start) };
        let next_offset = boundary(range.end);
        let records = self.records.as_ref().map(|records| Arc::from(&records[range.clone()]));
        let rows = self.rows.start + range.start..self.rows.start + range.end;
        Self { arena: Arc::clone(&self.arena), rows, base_offset, next_offset, records, ..self.clone() }
    }

    /// What of this batch lies below `offset`: it ends there, or where this batch does.
    #[must_use]
    pub fn until(&self, offset: i64) -> Self {
        let rows = self.offsets().partition_point(|row| *row < offset);
        let mut below = self.slice(0..rows);
        below.next_offset = self.next_offset.min(offset).max(below.base_offset);
        below
    }

    /// The same records as records of `partition`: what a replay writes. Offsets stay those of the origin.
    #[must_use]
    pub fn retarget(mut self, partition: TopicPartition) -> Self {
        self.partition = partition;
        self
    }

    /// The same batch, holding `permit` in place of the permit it was built with until its last clone and slice are
    /// gone.
    #[must_use]
    pub fn holding(mut self, permit: Permit) -> Self {
        self.permit = Some(Arc::new(permit));
        self
    }

    /// True where a [`Permit`] pays for it.
    pub fn is_paid(&self) -> bool {
        self.permit.is_some()
    }

    /// The rows for which `keep` is true, with the positions of this batch: what is left out was passed. Copies, unless
    /// it keeps one stretch of rows. Decoded records are not taken along.
    ///
    /// # Panics
    /// Where `keep` does not have one entry a row.
    #[must_use]
    pub fn select(&self, keep: &[bool]) -> Self {
        assert_eq!(keep.len(), self.len(), "one entry a row");
        let kept = keep.iter().filter(|keep| **keep).count();
        let first = keep.iter().position(|keep| *keep).unwrap_or(0);
        if keep[first..first + kept].iter().all(|keep| *keep) {
            let rows = self.rows.start + first..self.rows.start + first + kept;
            return Self { rows, records: None, ..self.clone() };
        }
        let mut builder = BatchBuilder::new(self.partition.clone(), self.base_offset);
        for (row, _) in self.rows().zip(keep).filter(|(_, keep)| **keep) {
            builder.push_row(&row);
        }
        builder.leader_epoch(self.leader_epoch());
        Self { permit: self.permit.clone(), ..builder.build(self.next_offset) }
    }

    /// The row face.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        self.rows.clone().map(move |at| Row { batch: self, at })
    }

    /// Row `index` of this batch.
    pub fn row(&self, index: usize) -> Row<'_> {
        assert!(index < self.len(), "row {index} of {}", self.len());
        Row { batch: self, at: self.rows.start + index }
    }

    /// The same batch with its decoded records, for connectors of [`RecordForm::Typed`](crate::RecordForm::Typed).
    /// Filtered and skipped records are missing from it.
    #[must_use]
    pub fn with_records(mut self, records: Vec<Record>) -> Self {
        self.records = Some(records.into());
        self
    }

    /// The decoded records; empty where the connector did not ask for them.
    pub fn records(&self) -> &[Record] {
        self.records.as_deref().unwrap_or_default()
    }
}

impl Column {
    /// `len + 1` ends: row `i` spans `ends[i]..ends[i + 1]` of [`Column::bytes`].
    pub fn ends(&self) -> &[i32] {
        &self.ends
    }

    /// All values, one after the other.
    pub fn bytes(&self) -> &Bytes {
        &self.values
    }

    /// One bit a row, least significant first; set where the value is present.
    pub fn validity(&self) -> &[u8] {
        &self.validity
    }

    /// How many rows are null.
    pub fn nulls(&self) -> usize {
        self.nulls
    }

    /// Row `index`; `None` where it is null.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let present = self.validity[index / 8] >> (index % 8) & 1 == 1;
        present.then(|| &self.values[self.ends[index] as usize..self.ends[index + 1] as usize])
    }

    /// Row `index` as a slice that shares the column's buffer.
    pub fn get_bytes(&self, index: usize) -> Option<Bytes> {
        self.get(index).map(|value| self.values.slice_ref(value))
    }

    /// Bytes of the rows of `range`.
    pub fn byte_len(&self, range: Range<usize>) -> usize {
        if range.is_empty() { 0 } else { (self.ends[range.end] - self.ends[range.start]) as usize }
    }
}

impl Headers {
    /// `len + 1` ends: row `i` owns the entries `row_ends[i]..row_ends[i + 1]`.
    pub fn row_ends(&self) -> &[i32] {
        &self.row_ends
    }

    /// Header keys (UTF-8, never null), one row an entry.
    pub fn keys(&self) -> &Column {
        &self.keys
    }

    /// Header values, one row an entry.
    pub fn values(&self) -> &Column {
        &self.values
    }

    /// The entries that the rows of `rows` own.
    pub fn entries(&self, rows: Range<usize>) -> Range<usize> {
        if rows.is_empty() { 0..0 } else { self.row_ends[rows.start] as usize..self.row_ends[rows.end] as usize }
    }
}

impl<'a> Row<'a> {
    /// Its offset.
    pub fn offset(&self) -> i64 {
        self.batch.arena.offsets[self.at]
    }

    /// Its timestamp in milliseconds; `None` where Kafka has none.
    pub fn timestamp(&self) -> Option<i64> {
        Some(self.batch.arena.timestamps[self.at]).filter(|timestamp| *timestamp != NO_TIMESTAMP)
    }

    /// Who stamped it.
    pub fn timestamp_type(&self) -> Option<TimestampType> {
        self.batch.arena.timestamp_types[self.at]
    }

    /// Its key.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.batch.arena.keys.get(self.at)
    }

    /// Its value.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.batch.arena.values.get(self.at)
    }

    /// Its key, sharing the arena.
    pub fn key_bytes(&self) -> Option<Bytes> {
        self.batch.arena.keys.get_bytes(self.at)
    }

    /// Its value, sharing the arena.
    pub fn value_bytes(&self) -> Option<Bytes> {
        self.batch.arena.values.get_bytes(self.at)
    }

    /// Its headers in order: key and value.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        let headers = &self.batch.arena.headers;
        headers.entries(self.at..self.at + 1).map(move |entry| {
            let key = headers.keys.get(entry).unwrap_or_default();
            (std::str::from_utf8(key).unwrap_or_default(), headers.values.get(entry))
        })
    }
}

fn memory_bytes(raw_bytes: usize, rows: usize) -> u64 {
    raw_bytes as u64 + ROW_BYTES * rows as u64
}

#[cfg(test)]
mod tests;
