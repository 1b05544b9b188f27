//! A converter of texts that a test can read.

use std::cell::RefCell;

use bytes::Bytes;
use lakeferry_api::convert::{Converter, HeaderConverter, Usage};
use lakeferry_api::{Config, ConfigDef, ConnectError, Datum, Result, Value};

/// UTF-8 text both ways. Text that begins with `bad` is a data error, with `busy` a retriable one the first times.
pub(super) struct Text;

thread_local! {
    /// How often text that begins with `busy` is still refused.
    pub(crate) static BUSY: RefCell<u32> = const { RefCell::new(0) };
}

fn examine(text: &str) -> Result<()> {
    if text.starts_with("bad") {
        return Err(ConnectError::data(format!("'{text}' is no text")));
    }
    let busy = text.starts_with("busy") && BUSY.with(|left| *left.borrow() > 0);
    if busy {
        BUSY.with(|left| *left.borrow_mut() -= 1);
        return Err(ConnectError::retriable("the registry is busy"));
    }
    Ok(())
}

fn decode(bytes: Option<&Bytes>) -> Result<Datum> {
    let Some(bytes) = bytes else { return Ok(Datum::NULL) };
    let text = String::from_utf8_lossy(bytes);
    examine(&text)?;
    Ok(Datum::schemaless(Value::String(text.as_ref().into())))
}

fn encode(datum: &Datum) -> Result<Option<Bytes>> {
    let Value::String(text) = &datum.value else { return Ok(None) };
    examine(text)?;
    Ok(Some(Bytes::copy_from_slice(text.as_bytes())))
}

impl Converter for Text {
    fn config_def(&self) -> ConfigDef {
        ConfigDef::new()
    }

    fn configure(&mut self, _: &Config, _: Usage) -> Result<()> {
        Ok(())
    }

    fn decode(&self, _: &str, bytes: Option<&Bytes>) -> Result<Datum> {
        decode(bytes)
    }

    fn encode(&self, _: &str, datum: &Datum) -> Result<Option<Bytes>> {
        encode(datum)
    }
}

impl HeaderConverter for Text {
    fn config_def(&self) -> ConfigDef {
        ConfigDef::new()
    }

    fn configure(&mut self, _: &Config) -> Result<()> {
        Ok(())
    }

    fn decode(&self, _: &str, _: &str, bytes: Option<&Bytes>) -> Result<Datum> {
        decode(bytes)
    }

    fn encode(&self, _: &str, _: &str, datum: &Datum) -> Result<Option<Bytes>> {
        encode(datum)
    }
}
