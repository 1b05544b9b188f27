//! The archive's columns in Arrow's terms, and a batch's rows as Arrow arrays. Called by [`super::archive`].
//!
//! Invariant: the bytes of keys, values and headers are wrapped where they lie; only ends, presence bits and the
//! fixed-width columns are copied. Constant columns are dictionaries of one value, so that they cost one index a row.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BinaryArray, DictionaryArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
    TimestampMillisecondArray,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use lakeferry_api::batch::{Column, Headers, NO_TIMESTAMP};
use lakeferry_api::{Batch, TimestampType, TopicPartition};

use super::rows::{APPEND, CREATE};

/// Indices of the dictionary of timestamp types.
const CREATED: i32 = 0;
const APPENDED: i32 = 1;

/// The columns of an archive file.
pub(super) struct Columns {
    schema: SchemaRef,
    entry_fields: Fields,
    entry: Arc<Field>,
    topic: ArrayRef,
    partition: i32,
    timestamp_types: ArrayRef,
}

impl Columns {
    /// The columns of a file of `partition`.
    pub(super) fn new(partition: &TopicPartition) -> Self {
        let entry_fields =
            Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)]);
        let entry = Arc::new(Field::new("element", DataType::Struct(entry_fields.clone()), false));
        Self {
            schema: schema(&entry),
            entry_fields,
            entry,
            topic: Arc::new(StringArray::from(vec![&*partition.topic])),
            partition: partition.partition,
            timestamp_types: Arc::new(StringArray::from(vec![CREATE, APPEND])),
        }
    }

    /// Their Arrow schema.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rows `rows` of `batch`.
    pub(super) fn arrays(&self, batch: &Batch, rows: Range<usize>) -> Result<RecordBatch, ArrowError> {
        let len = rows.len();
        let start = batch.row_range().start;
        let arena_rows = start + rows.start..start + rows.end;
        let timestamps = &batch.timestamps()[rows.clone()];
        // Columns without nulls are a good deal cheaper to write than those that only might have some.
        let all_timed = timestamps.iter().all(|timestamp| *timestamp != NO_TIMESTAMP);
        let timed = (!all_timed)
            .then(|| NullBuffer::new(timestamps.iter().map(|timestamp| *timestamp != NO_TIMESTAMP).collect()));
        let types = &batch.timestamp_types()[rows.clone()];
        let types = if all_timed && types.iter().all(|stamped| *stamped == Some(TimestampType::Create)) {
            Int32Array::from_value(CREATED, len)
        } else {
            types.iter().zip(timestamps).map(|(stamped, timestamp)| type_index(*stamped, *timestamp)).collect()
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(DictionaryArray::<Int32Type>::try_new(vec![0; len].into(), Arc::clone(&self.topic))?),
            Arc::new(Int32Array::from_value(self.partition, len)),
            Arc::new(Int64Array::from(batch.offsets()[rows].to_vec())),
            Arc::new(TimestampMillisecondArray::new(timestamps.to_vec().into(), timed).with_timezone("UTC")),
            Arc::new(DictionaryArray::<Int32Type>::try_new(types, Arc::clone(&self.timestamp_types))?),
            Arc::new(binary(batch.keys(), arena_rows.clone())?),
            Arc::new(binary(batch.values(), arena_rows.clone())?),
            Arc::new(self.headers(batch.headers(), arena_rows)?),
        ];
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }

    fn headers(&self, headers: &Headers, rows: Range<usize>) -> Result<ListArray, ArrowError> {
        let entries = headers.entries(rows.clone());
        let first = entries.start as i32;
        let ends = headers.row_ends()[rows.start..=rows.end].iter().map(|end| end - first);
        let keys = headers.keys();
        let keys = StringArray::try_new(ends_of(keys, entries.clone()), Buffer::from(keys.bytes().clone()), None)?;
        let values = binary(headers.values(), entries)?;
        let entries = StructArray::try_new(self.entry_fields.clone(), vec![Arc::new(keys), Arc::new(values)], None)?;
        ListArray::try_new(Arc::clone(&self.entry), OffsetBuffer::new(ends.collect()), Arc::new(entries), None)
    }
}

/// Where the timestamp's type stands in the dictionary; a record without timestamp has none.
fn type_index(stamped: Option<TimestampType>, timestamp: i64) -> Option<i32> {
    match stamped.filter(|_| timestamp != NO_TIMESTAMP)? {
        TimestampType::Create => Some(CREATED),
        TimestampType::Append => Some(APPENDED),
    }
}

fn schema(entry: &Arc<Field>) -> SchemaRef {
    let text = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    Arc::new(Schema::new(vec![
        Field::new("topic", text(), false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), true),
        Field::new("timestamp_type", text(), true),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        Field::new("headers", DataType::List(Arc::clone(entry)), false),
    ]))
}

fn binary(column: &Column, rows: Range<usize>) -> Result<BinaryArray, ArrowError> {
    let nulls = (column.nulls() > 0)
        .then(|| NullBuffer::new(BooleanBuffer::from_bits(column.validity(), rows.start, rows.len())));
    BinaryArray::try_new(ends_of(column, rows), Buffer::from(column.bytes().clone()), nulls)
}

fn ends_of(column: &Column, rows: Range<usize>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(column.ends()[rows.start..=rows.end].to_vec()))
}
