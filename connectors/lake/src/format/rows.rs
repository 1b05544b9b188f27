//! What both archive formats need of rows: that they come in order, in steps of bounded size, and go back into batches
//! of bounded size.

use std::ops::Range;

use lakeferry_api::{Batch, BatchBuilder, ConnectError, Result, TimestampType, TopicPartition};

/// Bytes and rows that are encoded or decoded at once, near enough; a larger row stands alone.
pub(super) const STEP_BYTES: usize = 1 << 20;
pub(super) const STEP_ROWS: usize = 8192;
/// How a timestamp given by the producer is called in a file.
pub(super) const CREATE: &str = "create";
/// How a timestamp given by the broker is called in a file.
pub(super) const APPEND: &str = "append";

/// Holds a file to one partition and ascending offsets.
pub(super) struct RowOrder {
    partition: TopicPartition,
    first_offset: Option<i64>,
    last_offset: Option<i64>,
    finished: bool,
}

impl RowOrder {
    /// A file of `partition` without rows.
    pub(super) fn new(partition: TopicPartition) -> Self {
        Self { partition, first_offset: None, last_offset: None, finished: false }
    }

    /// Notes the rows of `batch`.
    ///
    /// # Errors
    /// `Fatal` where they do not belong behind those noted before.
    pub(super) fn check(&mut self, batch: &Batch) -> Result<()> {
        if self.finished {
            return Err(ConnectError::fatal(format!("rows of {} for a file that has ended", self.partition)));
        }
        if *batch.partition() != self.partition {
            let message = format!("rows of {} for a file of {}", batch.partition(), self.partition);
            return Err(ConnectError::fatal(message));
        }
        for offset in batch.offsets() {
            if self.last_offset.is_some_and(|last| last >= *offset) {
                let last = self.last_offset.unwrap_or_default();
                let message = format!("offset {offset} of {} after offset {last} of the same file", self.partition);
                return Err(ConnectError::fatal(message));
            }
            self.last_offset = Some(*offset);
        }
        self.first_offset = self.first_offset.or_else(|| batch.offsets().first().copied());
        Ok(())
    }

    /// Lets no more rows in.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// The offset of the first row.
    pub(super) fn first_offset(&self) -> Option<i64> {
        self.first_offset
    }

    /// The offset of the last row.
    pub(super) fn last_offset(&self) -> Option<i64> {
        self.last_offset
    }
}

/// The offsets of decoded rows, which ascend.
#[derive(Default)]
pub(super) struct Offsets {
    last: Option<i64>,
}

impl Offsets {
    /// Notes `offsets`. Gives the positions before and after them; `None` where there are none.
    ///
    /// # Errors
    /// `Fatal` where one does not come after the one before.
    pub(super) fn follow(&mut self, offsets: &[i64], partition: &TopicPartition) -> Result<Option<Range<i64>>> {
        let Some(first) = offsets.first() else { return Ok(None) };
        let start = self.last.map_or(*first, |last| last + 1);
        for offset in offsets {
            if !(self.last.unwrap_or(-1) + 1..i64::MAX).contains(offset) {
                let before = self.last;
                let message = format!("the file holds offset {offset} of {partition} after {before:?}");
                return Err(ConnectError::fatal(message));
            }
            self.last = Some(*offset);
        }
        Ok(self.last.map(|last| start..last + 1))
    }
}

/// Gathers decoded rows into batches of about [`STEP_BYTES`] or [`STEP_ROWS`].
pub(super) struct Gatherer {
    partition: TopicPartition,
    builder: BatchBuilder,
    offsets: Offsets,
}

impl Gatherer {
    /// Rows of `partition`, none yet.
    pub(super) fn new(partition: TopicPartition) -> Self {
        Self { builder: BatchBuilder::new(partition.clone(), 0), partition, offsets: Offsets::default() }
    }

    /// The partition of the rows.
    pub(super) fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// Adds a row; its headers follow by [`Gatherer::header`]. Gives the batch that was full before it.
    ///
    /// # Errors
    /// `Fatal` where the offset does not come after that of the row before.
    pub(super) fn push(
        &mut self,
        offset: i64,
        timestamp: (i64, Option<TimestampType>),
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<Option<Batch>> {
        let base_offset = self.offsets.follow(&[offset], &self.partition)?.map_or(offset, |positions| positions.start);
        let row_bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        let full = self.builder.len() == STEP_ROWS || self.builder.raw_bytes() + row_bytes > STEP_BYTES;
        let batch = if full { self.finish() } else { None };
        if self.builder.is_empty() {
            self.builder = BatchBuilder::new(self.partition.clone(), base_offset);
        }
        self.builder.push(offset, timestamp, key, value);
        Ok(batch)
    }

    /// Adds a header to the row pushed last.
    pub(super) fn header(&mut self, key: &str, value: Option<&[u8]>) {
        self.builder.header(key, value);
    }

    /// What was gathered and not given yet.
    pub(super) fn finish(&mut self) -> Option<Batch> {
        let last = self.builder.last_offset()?;
        let builder = std::mem::replace(&mut self.builder, BatchBuilder::new(self.partition.clone(), 0));
        Some(builder.build(last + 1))
    }
}

/// What a file's `timestamp_type` means.
///
/// # Errors
/// `Fatal` where no version of the format writes it.
pub(super) fn timestamp_type(name: Option<&[u8]>) -> Result<Option<TimestampType>> {
    match name {
        None => Ok(None),
        Some(b"create") => Ok(Some(TimestampType::Create)),
        Some(b"append") => Ok(Some(TimestampType::Append)),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            Err(ConnectError::fatal(format!(
                "the file holds the timestamp type {other:?}; known are create and append"
            )))
        }
    }
}

/// Bytes of keys, values and headers of the rows `rows` of `batch`.
pub(super) fn raw_bytes(batch: &Batch, rows: Range<usize>) -> usize {
    let start = batch.row_range().start;
    let rows = start + rows.start..start + rows.end;
    let headers = batch.headers();
    let entries = headers.entries(rows.clone());
    batch.keys().byte_len(rows.clone())
        + batch.values().byte_len(rows)
        + headers.keys().byte_len(entries.clone())
        + headers.values().byte_len(entries)
}

/// Cuts the rows of `batch` into ranges of at most `max_rows` rows and `max_bytes` bytes; a row that is larger stands
/// alone.
pub(super) fn steps(batch: &Batch, max_bytes: usize, max_rows: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let longest = (batch.len() - start).min(max_rows);
        if longest == 0 {
            return None;
        }
        let step = start..start + fitting_rows(longest, |rows| raw_bytes(batch, start..start + rows) <= max_bytes);
        start = step.end;
        Some(step)
    })
}

/// The largest number of rows of `1..=longest` that fits; 1 where none does. What fits, fits with fewer rows too.
fn fitting_rows(longest: usize, fits: impl Fn(usize) -> bool) -> usize {
    if fits(longest) {
        return longest;
    }
    let (mut fitting, mut too_many) = (1, longest);
    while fitting + 1 < too_many {
        let middle = fitting.midpoint(too_many);
        if fits(middle) {
            fitting = middle;
        } else {
            too_many = middle;
        }
    }
    fitting
}
