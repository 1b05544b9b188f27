//! What the parquet crate decoded, as batches: keys, values and headers stay where it put them, no byte is copied.
//!
//! Invariant: every row is of the partition that is read, and its offset comes after that of the row before.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{ByteArrayType, Int32Type, Int64Type, TimestampMillisecondType};
use arrow_array::{Array, DictionaryArray, GenericByteArray, RecordBatch};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Schema, SchemaRef};
use bytes::Bytes;
use lakeferry_api::batch::{Column, Columns, Headers, NO_TIMESTAMP};
use lakeferry_api::{Batch, ConnectError, Result, TimestampType, TopicPartition};

use super::super::rows::{Offsets, timestamp_type};
use super::schema;

/// The schema to read with: as [`schema::arrow`], but what says the same of many rows stays a dictionary.
pub(super) fn schema() -> SchemaRef {
    let dictionary = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let archived = schema::arrow();
    let fields = archived.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 => Arc::new(field.as_ref().clone().with_data_type(dictionary())),
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The rows of `arrays`, which have [`schema`], as the records of `partition` that follow `offsets`; `None` where there
/// are none.
///
/// # Errors
/// `Fatal` where a row is of another partition, or not what the format writes.
pub(super) fn batch(arrays: &RecordBatch, partition: &TopicPartition, offsets: &mut Offsets) -> Result<Option<Batch>> {
    check_partition(arrays, partition)?;
    let row_offsets = arrays.column(2).as_primitive::<Int64Type>().values().to_vec();
    let Some(positions) = offsets.follow(&row_offsets, partition)? else { return Ok(None) };
    let timestamps = arrays.column(3).as_primitive::<TimestampMillisecondType>();
    let timestamps = match timestamps.nulls() {
        None => timestamps.values().to_vec(),
        Some(_) => timestamps.iter().map(|timestamp| timestamp.unwrap_or(NO_TIMESTAMP)).collect(),
    };
    let headers = arrays.column(7).as_list::<i32>();
    let entries = headers.values().as_struct();
    let columns = Columns {
        offsets: row_offsets,
        timestamps,
        timestamp_types: timestamp_types(arrays.column(4).as_dictionary::<Int32Type>())?,
        keys: column(arrays.column(5).as_binary::<i32>())?,
        values: column(arrays.column(6).as_binary::<i32>())?,
        headers: Headers::new(
            headers.offsets().to_vec(),
            column(entries.column(0).as_string::<i32>())?,
            column(entries.column(1).as_binary::<i32>())?,
        )?,
    };
    columns.into_batch(partition.clone(), positions.start, positions.end).map(Some)
}

fn check_partition(arrays: &RecordBatch, partition: &TopicPartition) -> Result<()> {
    let topics = arrays.column(0).as_dictionary::<Int32Type>();
    let names = topics.values().as_string::<i32>();
    let numbers = arrays.column(1).as_primitive::<Int32Type>().values();
    let is_ours: Vec<bool> = names.iter().map(|name| name == Some(&*partition.topic)).collect();
    let topic_at = |row: usize| topics.key(row).filter(|key| *key < names.len());
    let ours = |row: &usize| topic_at(*row).is_some_and(|key| is_ours[key]) && numbers[*row] == partition.partition;
    match (0..numbers.len()).find(|row| !ours(row)) {
        None => Ok(()),
        Some(row) => {
            let topic = topic_at(row).map_or("a topic without a name", |key| names.value(key));
            let message = format!("the file holds rows of {topic}-{}, but {partition} is read", numbers[row]);
            Err(ConnectError::fatal(message))
        }
    }
}

fn timestamp_types(types: &DictionaryArray<Int32Type>) -> Result<Vec<Option<TimestampType>>> {
    let names = types.values().as_string::<i32>();
    // A dictionary may hold what no row has.
    let known: Vec<_> = names.iter().map(|name| timestamp_type(name.map(str::as_bytes)).ok()).collect();
    let of_row = |row: usize| match types.key(row) {
        None => Ok(None),
        Some(key) if key < names.len() => {
            known[key].map_or_else(|| timestamp_type(Some(names.value(key).as_bytes())), Ok)
        }
        Some(key) => Err(ConnectError::fatal(format!("the file's dictionary has no timestamp type {key}"))),
    };
    (0..types.len()).map(of_row).collect()
}

fn column<T: ByteArrayType<Offset = i32>>(array: &GenericByteArray<T>) -> Result<Column> {
    let validity = |nulls: &NullBuffer| nulls.inner().sliced().to_vec();
    let bits = array.nulls().map_or_else(|| vec![0xff; array.len().div_ceil(8)], validity);
    Column::new(array.value_offsets().to_vec(), Bytes::from(array.values().clone()), bits, array.null_count())
}
