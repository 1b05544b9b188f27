//! Connect's schemas: the type of a value, with optionality, default, name, version, doc and parameters.
//!
//! A schema is shared and compared by value. Logical types are schemas with a well-known name, see [`crate::logical`].

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::value::Value;

/// A schema's type; containers hold the schemas of what they contain.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// 8-bit signed integer.
    Int8,
    /// 16-bit signed integer.
    Int16,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// 32-bit IEEE float.
    Float32,
    /// 64-bit IEEE float.
    Float64,
    /// True or false.
    Boolean,
    /// UTF-8 text.
    String,
    /// Any bytes.
    Bytes,
    /// Elements of one schema.
    Array(Arc<Schema>),
    /// Keys and values of one schema each.
    Map(Arc<Schema>, Arc<Schema>),
    /// Named fields in order.
    Struct(Vec<Field>),
}

/// A field of a struct schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The field's name.
    pub name: Arc<str>,
    /// Its schema.
    pub schema: Arc<Schema>,
}

/// A Connect schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    /// The type.
    pub kind: Type,
    /// True where null is allowed.
    pub optional: bool,
    /// The default, where there is one.
    pub default: Option<Value>,
    /// The name; logical types and structs have one.
    pub name: Option<Arc<str>>,
    /// The version.
    pub version: Option<i32>,
    /// Documentation.
    pub doc: Option<Arc<str>>,
    /// Free parameters, for instance the scale of a decimal.
    pub parameters: BTreeMap<String, String>,
}

impl Schema {
    /// A required schema of `kind`, without name or default.
    pub fn new(kind: Type) -> Self {
        Self { kind, optional: false, default: None, name: None, version: None, doc: None, parameters: BTreeMap::new() }
    }

    /// An optional schema of `kind`.
    pub fn optional(kind: Type) -> Self {
        Self { optional: true, ..Self::new(kind) }
    }

    /// The same schema under a name and version.
    #[must_use]
    pub fn named(mut self, name: &str, version: i32) -> Self {
        self.name = Some(name.into());
        self.version = Some(version);
        self
    }
}

impl Type {
    /// The name that Connect's messages and JSON use, in upper case: `INT8`, `STRUCT`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Float32 => "FLOAT32",
            Self::Float64 => "FLOAT64",
            Self::Boolean => "BOOLEAN",
            Self::String => "STRING",
            Self::Bytes => "BYTES",
            Self::Array(_) => "ARRAY",
            Self::Map(..) => "MAP",
            Self::Struct(_) => "STRUCT",
        }
    }
}
