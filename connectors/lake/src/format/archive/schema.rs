//! The archive's columns in Arrow's and Parquet's terms. Called by the encoder and the decoder.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowSchemaConverter;
use parquet::errors::ParquetError;
use parquet::schema::types::SchemaDescriptor;

const ROOT: &str = "record";

/// In Arrow's terms.
pub(super) fn arrow() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("topic", DataType::Utf8, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), true),
        Field::new("timestamp_type", DataType::Utf8, true),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        headers(),
    ]))
}

/// In Parquet's terms.
pub(super) fn parquet() -> Result<SchemaDescriptor, ParquetError> {
    ArrowSchemaConverter::new().schema_root(ROOT).convert(&arrow())
}

/// A record's headers.
pub(super) fn headers() -> Field {
    Field::new("headers", DataType::List(entry()), false)
}

/// One header.
pub(super) fn entry() -> FieldRef {
    Arc::new(Field::new("element", DataType::Struct(entry_fields()), false))
}

/// Its key and its value.
pub(super) fn entry_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)])
}
