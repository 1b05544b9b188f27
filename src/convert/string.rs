//! `StringConverter`: text in an encoding. Writes any value in the words of Java's `toString`; reads optional strings.
//!
//! Encodings: UTF-8, US-ASCII, ISO-8859-1 and the UTF-16 family, under the names that Java knows. As in Java, what an
//! encoding cannot say becomes `?`, and bytes that say nothing become U+FFFD.

use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::config_def::{ConfigDef, ConfigKey, ConfigType, Importance, Width};
use lakeferry_api::convert::{Converter, Usage};
use lakeferry_api::schema::Type;
use lakeferry_api::{Config, ConnectError, Datum, Result, Schema, Value, text};

use super::{base_def, with_usage};

/// See the module's head.
#[derive(Default)]
pub struct StringConverter {
    encoding: Encoding,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Encoding {
    #[default]
    Utf8,
    Ascii,
    Latin1,
    /// Reads the byte order mark, writes one and big-endian units.
    Utf16,
    Utf16Be,
    Utf16Le,
}

impl Converter for StringConverter {
    fn config_def(&self) -> ConfigDef {
        let mut encoding = ConfigKey::new("converter.encoding", ConfigType::String)
            .default("UTF-8")
            .importance(Importance::High)
            .doc("The encoding of the text: UTF-8, US-ASCII, ISO-8859-1, UTF-16, UTF-16BE or UTF-16LE.");
        encoding.width = Width::Medium;
        encoding.display_name = "Encoding".to_owned();
        base_def().define(encoding)
    }

    fn configure(&mut self, config: &Config, usage: Usage) -> Result<()> {
        let parsed = self.config_def().parse(&with_usage(config, usage))?;
        let name = parsed.text("converter.encoding")?;
        self.encoding = Encoding::of(name).ok_or_else(|| {
            ConnectError::config(format!(
                "Invalid value {name} for configuration converter.encoding: the encodings are UTF-8, US-ASCII, \
                 ISO-8859-1, UTF-16, UTF-16BE and UTF-16LE"
            ))
        })?;
        Ok(())
    }

    fn decode(&self, _topic: &str, bytes: Option<&Bytes>) -> Result<Datum> {
        Ok(optional(Type::String, bytes.map(|bytes| Value::String(self.encoding.read(bytes)))))
    }

    fn encode(&self, _topic: &str, datum: &Datum) -> Result<Option<Bytes>> {
        if datum.value.is_null() {
            return Ok(None);
        }
        let text = text::of(datum).ok_or_else(|| {
            ConnectError::data("Failed to serialize to a string: bytes have no text; use the ByteArrayConverter")
        })?;
        Ok(Some(self.encoding.write(text)))
    }
}

/// A datum of an optional schema without name.
pub(super) fn optional(kind: Type, value: Option<Value>) -> Datum {
    Datum::new(Arc::new(Schema::optional(kind)), value.unwrap_or(Value::Null))
}

impl Encoding {
    fn of(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "UTF-8" | "UTF8" | "UNICODE-1-1-UTF-8" => Some(Self::Utf8),
            "US-ASCII" | "ASCII" | "ASCII7" | "ISO646-US" => Some(Self::Ascii),
            "ISO-8859-1" | "ISO8859_1" | "ISO8859-1" | "LATIN1" | "L1" => Some(Self::Latin1),
            "UTF-16" | "UTF16" | "UTF_16" => Some(Self::Utf16),
            "UTF-16BE" | "UTF_16BE" => Some(Self::Utf16Be),
            "UTF-16LE" | "UTF_16LE" => Some(Self::Utf16Le),
            _ => None,
        }
    }

    fn read(self, bytes: &[u8]) -> Arc<str> {
        let little = match self {
            Self::Utf8 => return String::from_utf8_lossy(bytes).into(),
            Self::Ascii => {
                return bytes
                    .iter()
                    .map(|byte| if byte.is_ascii() { char::from(*byte) } else { '\u{fffd}' })
                    .collect::<String>()
                    .into();
            }
            Self::Latin1 => return bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into(),
            Self::Utf16 => bytes.starts_with(&[0xff, 0xfe]),
            Self::Utf16Be => false,
            Self::Utf16Le => true,
        };
        let marked = self == Self::Utf16 && (little || bytes.starts_with(&[0xfe, 0xff]));
        let units = bytes[if marked { 2 } else { 0 }..].chunks(2).map(|unit| match *unit {
            [first, second] if little => u16::from_le_bytes([first, second]),
            [first, second] => u16::from_be_bytes([first, second]),
            _ => 0xfffd,
        });
        String::from_utf16_lossy(&units.collect::<Vec<_>>()).into()
    }

    fn write(self, text: String) -> Bytes {
        let single = |limit: u32| -> Vec<u8> {
            text.chars()
                .map(|letter| u8::try_from(letter).ok().filter(|_| u32::from(letter) < limit).unwrap_or(b'?'))
                .collect()
        };
        let units = |mark: &[u8], bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            mark.iter().copied().chain(text.encode_utf16().flat_map(bytes)).collect()
        };
        match self {
            Self::Utf8 => text.into_bytes().into(),
            Self::Ascii => single(0x80).into(),
            Self::Latin1 => single(0x100).into(),
            Self::Utf16 if text.is_empty() => Bytes::new(),
            Self::Utf16 => units(&[0xfe, 0xff], u16::to_be_bytes).into(),
            Self::Utf16Be => units(&[], u16::to_be_bytes).into(),
            Self::Utf16Le => units(&[], u16::to_le_bytes).into(),
        }
    }
}
