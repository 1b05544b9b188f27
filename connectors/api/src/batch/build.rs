//! How a [`Batch`] is made: rows are pushed one after the other into growing arenas, which become unchangeable at the
//! end; or whole columns become the arenas, without a copy. The only place that makes an arena.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Arena, Batch, Column, Headers, NO_TIMESTAMP, Row};
use crate::budget::Permit;
use crate::error::{ConnectError, Result};
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
        self.leader_epoch = epoch;
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
        Batch::of(arena, self.partition, self.base_offset..next_offset, permit)
    }
}

/// What a [`Batch`] is made of where somebody has whole columns: a file's reader. One entry a record each.
#[derive(Debug)]
pub struct Columns {
    /// Ascending.
    pub offsets: Vec<i64>,
    /// Milliseconds, [`NO_TIMESTAMP`] where there is none.
    pub timestamps: Vec<i64>,
    /// Who stamped.
    pub timestamp_types: Vec<Option<TimestampType>>,
    /// Keys.
    pub keys: Column,
    /// Values.
    pub values: Column,
    /// Headers.
    pub headers: Headers,
}

impl Columns {
    /// The batch of `partition` that these are, from position `base_offset` to `next_offset`.
    ///
    /// # Errors
    /// `Fatal` where they are not of one length, or offsets do not ascend between the positions.
    pub fn into_batch(self, partition: TopicPartition, base_offset: i64, next_offset: i64) -> Result<Batch> {
        let rows = self.offsets.len();
        let lens = [
            self.timestamps.len(),
            self.timestamp_types.len(),
            self.keys.len(),
            self.values.len(),
            self.headers.row_ends.len().saturating_sub(1),
        ];
        if lens.iter().any(|len| *len != rows) {
            return Err(ConnectError::fatal(format!("columns of {lens:?} rows beside {rows} offsets of {partition}")));
        }
        if !self.offsets.is_sorted_by(|before, after| before < after)
            || self.offsets.first().is_some_and(|first| *first < base_offset)
            || self.offsets.last().is_some_and(|last| *last >= next_offset)
        {
            let message = format!("offsets of {partition} that do not ascend from {base_offset} to {next_offset}");
            return Err(ConnectError::fatal(message));
        }
        let arena = Arena {
            offsets: self.offsets,
            timestamps: self.timestamps,
            timestamp_types: self.timestamp_types,
            leader_epoch: None,
            keys: self.keys,
            values: self.values,
            headers: self.headers,
        };
        Ok(Batch::of(arena, partition, base_offset..next_offset, None))
    }
}

impl Column {
    /// A column as [`Column::ends`], [`Column::bytes`] and [`Column::validity`] show it.
    ///
    /// # Errors
    /// `Fatal` where the ends do not ascend within the bytes, or a row lacks its bit.
    pub fn new(ends: Vec<i32>, values: Bytes, validity: Vec<u8>, nulls: usize) -> Result<Self> {
        let fits = check_ends(&ends, values.len()) && validity.len() >= (ends.len() - 1).div_ceil(8);
        if !fits {
            let message =
                format!("a column of {} ends, {} bytes, {} octets of bits", ends.len(), values.len(), validity.len());
            return Err(ConnectError::fatal(format!("{message} whose parts do not fit each other")));
        }
        Ok(Self { ends, values, validity, nulls })
    }

    fn len(&self) -> usize {
        self.ends.len().saturating_sub(1)
    }
}

impl Headers {
    /// Headers as [`Headers::row_ends`], [`Headers::keys`] and [`Headers::values`] show them. Keys are UTF-8.
    ///
    /// # Errors
    /// `Fatal` where keys and values are not one for one, or rows own entries that are not there.
    pub fn new(row_ends: Vec<i32>, keys: Column, values: Column) -> Result<Self> {
        let entries = keys.len();
        if entries != values.len() || !check_ends(&row_ends, entries) {
            let message =
                format!("{entries} header keys, {} header values and rows that do not fit them", values.len());
            return Err(ConnectError::fatal(message));
        }
        Ok(Self { row_ends, keys, values })
    }
}

/// True where the ends ascend from 0 or above to `len` at most.
fn check_ends(ends: &[i32], len: usize) -> bool {
    let within = |(first, last): (&i32, &i32)| *first >= 0 && usize::try_from(*last).is_ok_and(|last| last <= len);
    ends.is_sorted() && ends.first().zip(ends.last()).is_some_and(within)
}

impl Batch {
    fn of(arena: Arena, partition: TopicPartition, positions: Range<i64>, permit: Option<Permit>) -> Self {
        Self {
            rows: 0..arena.offsets.len(),
            arena: Arc::new(arena),
            partition,
            base_offset: positions.start,
            next_offset: positions.end,
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
