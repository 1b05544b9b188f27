//! `ByteArrayConverter`: bytes as they are. The identity of byte-exact pipelines.

use bytes::Bytes;
use lakeferry_api::config_def::ConfigDef;
use lakeferry_api::convert::{Converter, Usage};
use lakeferry_api::schema::Type;
use lakeferry_api::{Config, ConnectError, Datum, Result, Value, text};

use super::base_def;
use crate::convert::string::optional;

/// See the module's head.
#[derive(Default)]
pub struct ByteArrayConverter;

impl Converter for ByteArrayConverter {
    fn config_def(&self) -> ConfigDef {
        base_def()
    }

    fn configure(&mut self, _config: &Config, _usage: Usage) -> Result<()> {
        Ok(())
    }

    fn decode(&self, _topic: &str, bytes: Option<&Bytes>) -> Result<Datum> {
        Ok(optional(Type::Bytes, bytes.map(|bytes| Value::Bytes(bytes.clone()))))
    }

    fn encode(&self, _topic: &str, datum: &Datum) -> Result<Option<Bytes>> {
        if let Some(schema) = datum.schema.as_ref().filter(|schema| schema.kind != Type::Bytes) {
            let kind = schema.kind.name();
            return Err(ConnectError::data(format!("Invalid schema type for ByteArrayConverter: {kind}")));
        }
        match &datum.value {
            Value::Null => Ok(None),
            Value::Bytes(bytes) => Ok(Some(bytes.clone())),
            other => Err(ConnectError::data(format!(
                "ByteArrayConverter is not compatible with objects of type {}",
                text::java_class(other)
            ))),
        }
    }
}
