//! Connect's values. A [`Datum`] is a value with the schema it came with; schemaless data has none.

use std::sync::Arc;

use bytes::Bytes;

use crate::schema::Schema;

/// A value of Connect's data model. Logical types keep their base representation; the schema's name tells which.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// 8-bit signed integer.
    Int8(i8),
    /// 16-bit signed integer.
    Int16(i16),
    /// 32-bit signed integer; days for Date, milliseconds of the day for Time.
    Int32(i32),
    /// 64-bit signed integer; milliseconds since the epoch for Timestamp.
    Int64(i64),
    /// 32-bit IEEE float.
    Float32(f32),
    /// 64-bit IEEE float.
    Float64(f64),
    /// True or false.
    Boolean(bool),
    /// UTF-8 text.
    String(Arc<str>),
    /// Bytes; big-endian two's complement for Decimal.
    Bytes(Bytes),
    /// Elements in order.
    Array(Vec<Value>),
    /// Entries in order of insertion.
    Map(Vec<(Value, Value)>),
    /// A struct's field values in the order of its schema's fields.
    Struct(Vec<Value>),
}

/// A value and its schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Datum {
    /// The schema; `None` for schemaless data.
    pub schema: Option<Arc<Schema>>,
    /// The value.
    pub value: Value,
}

impl Datum {
    /// Neither schema nor value: a tombstone's value, a missing key.
    pub const NULL: Self = Self { schema: None, value: Value::Null };

    /// A value with its schema.
    pub fn new(schema: Arc<Schema>, value: Value) -> Self {
        Self { schema: Some(schema), value }
    }

    /// A value without schema.
    pub fn schemaless(value: Value) -> Self {
        Self { schema: None, value }
    }
}

impl Value {
    /// True for [`Value::Null`].
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}
