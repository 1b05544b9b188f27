//! Converters: between the bytes of a record's key, value or header and Connect's data model.
//!
//! Both traits are called from a task's loop, for one record at a time; they must not block. An error of kind
//! [`Data`](crate::error::Kind::Data) concerns that record only and is handled by the connector's error tolerance.

use bytes::Bytes;

use crate::config_def::{Config, ConfigDef};
use crate::error::Result;
use crate::value::Datum;

/// What a converter is used for; Connect tells it as `converter.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// A record's key.
    Key,
    /// A record's value.
    Value,
    /// A header's value.
    Header,
}

/// Bytes to datum and back.
pub trait Converter: Send + Sync {
    /// The definition of the converter's own options, as `validate` shows them.
    fn config_def(&self) -> ConfigDef;

    /// Takes the options (prefix already removed).
    ///
    /// # Errors
    /// `Config` for an option that cannot be used.
    fn configure(&mut self, config: &Config, usage: Usage) -> Result<()>;

    /// Reads bytes of a record of `topic`. `None` is Kafka's null.
    ///
    /// # Errors
    /// `Data` where the bytes are not of this converter's form.
    fn decode(&self, topic: &str, bytes: Option<&Bytes>) -> Result<Datum>;

    /// Writes a datum of a record of `topic`. `None` is Kafka's null.
    ///
    /// # Errors
    /// `Data` where the datum cannot be written in this converter's form.
    fn encode(&self, topic: &str, datum: &Datum) -> Result<Option<Bytes>>;
}

/// A header's bytes to datum and back.
pub trait HeaderConverter: Send + Sync {
    /// The definition of the converter's own options.
    fn config_def(&self) -> ConfigDef;

    /// Takes the options (prefix already removed).
    ///
    /// # Errors
    /// `Config` for an option that cannot be used.
    fn configure(&mut self, config: &Config) -> Result<()>;

    /// Reads the value of header `key` of a record of `topic`.
    ///
    /// # Errors
    /// `Data` where the bytes are not of this converter's form.
    fn decode(&self, topic: &str, key: &str, bytes: Option<&Bytes>) -> Result<Datum>;

    /// Writes the value of header `key` of a record of `topic`.
    ///
    /// # Errors
    /// `Data` where the datum cannot be written in this converter's form.
    fn encode(&self, topic: &str, key: &str, datum: &Datum) -> Result<Option<Bytes>>;
}
