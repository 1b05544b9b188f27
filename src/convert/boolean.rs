//! `BooleanConverter`: one byte, 0 or 1.

use bytes::Bytes;
use lakeferry_api::config_def::ConfigDef;
use lakeferry_api::convert::{Converter, Usage};
use lakeferry_api::schema::Type;
use lakeferry_api::{Config, ConnectError, Datum, Result, Value, text};

use super::base_def;
use super::string::optional;

/// See the module's head.
#[derive(Default)]
pub struct BooleanConverter;

impl Converter for BooleanConverter {
    fn config_def(&self) -> ConfigDef {
        base_def()
    }

    fn configure(&mut self, _config: &Config, _usage: Usage) -> Result<()> {
        Ok(())
    }

    fn decode(&self, _topic: &str, bytes: Option<&Bytes>) -> Result<Datum> {
        let value = match bytes.map(|bytes| bytes.as_ref()) {
            None => None,
            Some([0]) => Some(Value::Boolean(false)),
            Some([1]) => Some(Value::Boolean(true)),
            Some([other]) => {
                return Err(ConnectError::data(format!(
                    "Failed to deserialize boolean: unexpected byte 0x{other:02x}"
                )));
            }
            Some(other) => {
                let len = other.len();
                return Err(ConnectError::data(format!("Failed to deserialize boolean: size of data is {len}, not 1")));
            }
        };
        Ok(optional(Type::Boolean, value))
    }

    fn encode(&self, _topic: &str, datum: &Datum) -> Result<Option<Bytes>> {
        if let Some(schema) = datum.schema.as_ref().filter(|schema| schema.kind != Type::Boolean) {
            let kind = schema.kind.name();
            return Err(ConnectError::data(format!("Invalid schema type for BooleanConverter: {kind}")));
        }
        match &datum.value {
            Value::Null => Ok(None),
            Value::Boolean(value) => Ok(Some(Bytes::from_static(if *value { &[1] } else { &[0] }))),
            other => Err(ConnectError::data(format!(
                "BooleanConverter is not compatible with objects of type {}",
                text::java_class(other)
            ))),
        }
    }
}
