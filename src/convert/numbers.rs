//! The number converters: big-endian bytes of one width. They look at the value only, not at a declared schema, and
//! refuse a number of any other type.

use bytes::Bytes;
use lakeferry_api::config_def::ConfigDef;
use lakeferry_api::convert::{Converter, Usage};
use lakeferry_api::schema::Type;
use lakeferry_api::{Config, ConnectError, Datum, Result, Value, text};

use super::base_def;
use super::string::optional;

macro_rules! number_converter {
    ($name:ident, $word:literal, $number:ty, $variant:ident, $kind:ident) => {
        #[doc = concat!("A number of ", stringify!($kind), " in big-endian bytes.")]
        #[derive(Default)]
        pub struct $name;

        impl Converter for $name {
            fn config_def(&self) -> ConfigDef {
                base_def()
            }

            fn configure(&mut self, _config: &Config, _usage: Usage) -> Result<()> {
                Ok(())
            }

            fn decode(&self, _topic: &str, bytes: Option<&Bytes>) -> Result<Datum> {
                let number = bytes.map(|bytes| fixed(bytes, $word).map(<$number>::from_be_bytes)).transpose()?;
                Ok(optional(Type::$kind, number.map(Value::$variant)))
            }

            fn encode(&self, _topic: &str, datum: &Datum) -> Result<Option<Bytes>> {
                match &datum.value {
                    Value::Null => Ok(None),
                    Value::$variant(number) => Ok(Some(Bytes::copy_from_slice(&number.to_be_bytes()))),
                    other => Err(ConnectError::data(format!(
                        "Failed to serialize to {} (was {})",
                        $word,
                        text::java_class(other)
                    ))),
                }
            }
        }
    };
}

number_converter!(ShortConverter, "short", i16, Int16, Int16);
number_converter!(IntegerConverter, "integer", i32, Int32, Int32);
number_converter!(LongConverter, "long", i64, Int64, Int64);
number_converter!(FloatConverter, "float", f32, Float32, Float32);
number_converter!(DoubleConverter, "double", f64, Float64, Float64);

fn fixed<const N: usize>(bytes: &Bytes, word: &str) -> Result<[u8; N]> {
    bytes.as_ref().try_into().map_err(|_| {
        ConnectError::data(format!("Failed to deserialize {word}: size of data received is {}, not {N}", bytes.len()))
    })
}
