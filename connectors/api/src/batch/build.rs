//! How a [`Batch`] is made: rows are pushed one after the other into growing arenas, which become unchangeable at the
//! end. The only place that writes an arena.

use std::sync::Arc;

use bytes::Bytes;

use super::{Arena, Batch, Column, Headers, NO_TIMESTAMP, Row};
use crate::budget::Permit;
use crate::record::{TimestampType, TopicPartition};

/// Fills the arenas of one [`Batch`].
#[derive(Debug)]
pub struct BatchBuilder {
    partition: TopicPartition,
    base_offset: i64,
    offsets: Vec<i64>,
    timestamps: Vec<i64>,
    timestamp_types: Vec<Option<TimestampType>>,
    leader_epoch: Option<i32>,
    keys: ColumnBuilder,
    values: ColumnBuilder,
    header_row_ends: Vec<i32>,
    header_keys: ColumnBuilder,
    header_values: ColumnBuilder,
}

#[derive(Debug)]
struct ColumnBuilder {
    ends: Vec<i32>,
    values: Vec<u8>,
    validity: Vec<u8>,
    nulls: usize,
}

impl BatchBuilder {
    /// An empty batch of `partition` that begins at position `base_offset`; see [`Batch::base_offset`].
    pub fn new(partition: TopicPartition, base_offset: i64) -> Self {
        Self {
            partition,
            base_offset,
            offsets: Vec::new(),
            timestamps: Vec::new(),
            timestamp_types: Vec::new(),
            leader_epoch: None,
            keys: ColumnBuilder::new(),
            values: ColumnBuilder::new(),
            header_row_ends: vec![0],
            header_keys: ColumnBuilder::new(),
            header_values: ColumnBuilder::new(),
        }
    }

    /// Makes room for about `records` records with `bytes` bytes of values, so that the arenas need not grow bit by
    /// bit.
    pub fn reserve(&mut self, records: usize, bytes: usize) {
        self.offsets.reserve(records);
        self.timestamps.reserve(records);
        self.timestamp_types.reserve(records);
        self.header_row_ends.reserve(records);
        self.keys.ends.reserve(records);
        self.values.ends.reserve(records);
        self.values.values.reserve(bytes);
    }

    /// Bytes of values pushed so far.
    pub fn value_bytes(&self) -> usize {
        self.values.values.len()
    }

    /// Appends a record; call [`BatchBuilder::header`] for each of its headers afterwards. `timestamp` is
    /// [`NO_TIMESTAMP`] where Kafka has none.
    pub fn push(
        &mut self,
        offset: i64,
        (timestamp, timestamp_type): (i64, Option<TimestampType>),
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) {
        debug_assert!(self.offsets.last().is_none_or(|last| *last < offset), "offsets ascend");
        self.offsets.push(offset);
        self.timestamps.push(timestamp);
        self.timestamp_types.push(timestamp_type);
        self.keys.push(key);
        self.values.push(value);
        self.header_row_ends.push(self.header_keys.len() as i32);
    }

    /// Appends a header to the record pushed last.
    pub fn header(&mut self, key: &str, value: Option<&[u8]>) {
        self.header_keys.push(Some(key.as_bytes()));
        self.header_values.push(value);
        if let Some(end) = self.header_row_ends.last_mut() {
            *end = self.header_keys.len() as i32;
        }
    }

    /// Appends a record of another batch with its headers.
    pub fn push_row(&mut self, row: &Row<'_>) {
        let stamp = (row.timestamp().unwrap_or(NO_TIMESTAMP), row.timestamp_type());
        self.push(row.offset(), stamp, row.key(), row.value());
        for (key, value) in row.headers() {
            self.header(key, value);
        }
    }

    /// Notes the leader epoch of the record pushed last.
    pub fn leader_epoch(&mut self, epoch: Option<i32>) {
        self.leader_epoch = epoch.or(self.leader_epoch);
    }

    /// Records pushed so far.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// True where nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes of keys, values and headers pushed so far. A batch ends long before any of its arenas reaches 2 GiB.
    pub fn raw_bytes(&self) -> usize {
        [&self.keys, &self.values, &self.header_keys, &self.header_values]
            .iter()
            .map(|column| column.values.len())
            .sum()
    }

    /// What it costs to buffer them, as [`Batch::memory_bytes`] says it.
    pub fn memory_bytes(&self) -> u64 {
        super::memory_bytes(self.raw_bytes(), self.len())
    }

    /// The offset pushed last.
    pub fn last_offset(&self) -> Option<i64> {
        self.offsets.last().copied()
    }

    /// The finished batch, whose position is `next_offset`.
    pub fn build(self, next_offset: i64) -> Batch {
        self.build_with(next_offset, None)
    }

    /// The finished batch, holding `permit` until its last clone and slice are gone.
    pub fn build_with(self, next_offset: i64, permit: Option<Permit>) -> Batch {
        debug_assert!(self.offsets.last().is_none_or(|last| *last < next_offset), "the position is past the records");
        let rows = 0..self.offsets.len();
        let headers = Headers {
            row_ends: self.header_row_ends,
            keys: self.header_keys.build(),
            values: self.header_values.build(),
        };
        let arena = Arena {
            offsets: self.offsets,
            timestamps: self.timestamps,
            timestamp_types: self.timestamp_types,
            leader_epoch: self.leader_epoch,
            keys: self.keys.build(),
            values: self.values.build(),
            headers,
        };
        Batch {
            arena: Arc::new(arena),
            partition: self.partition,
            rows,
            base_offset: self.base_offset,
            next_offset,
            permit: permit.map(Arc::new),
            records: None,
        }
    }
}

impl ColumnBuilder {
    fn new() -> Self {
        Self { ends: vec![0], values: Vec::new(), validity: Vec::new(), nulls: 0 }
    }

    fn len(&self) -> usize {
        self.ends.len() - 1
    }

    fn push(&mut self, value: Option<&[u8]>) {
        let row = self.len();
        if row.is_multiple_of(8) {
            self.validity.push(0);
        }
        match value {
            Some(value) => {
                self.values.extend_from_slice(value);
                self.validity[row / 8] |= 1 << (row % 8);
            }
            None => self.nulls += 1,
        }
        self.ends.push(self.values.len() as i32);
    }

    fn build(self) -> Column {
        Column { ends: self.ends, values: Bytes::from(self.values), validity: self.validity, nulls: self.nulls }
    }
}
