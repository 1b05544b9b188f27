//! Converters between the bytes in Kafka and Connect's data model, under the Java names that configs write: one file
//! each, one table. `plugins.rs` takes the table; task pipelines use what the catalog makes of it.
//!
//! Every converter of values converts headers too ([`AsHeader`]), as in Connect. An error of kind `Data` concerns the
//! one record only.

mod boolean;
mod bytes;
mod json;
mod numbers;
mod simple_header;
mod string;

use ::bytes::Bytes;
use lakeferry_api::config_def::{ConfigDef, ConfigKey, ConfigType, Importance};
use lakeferry_api::convert::{Converter, HeaderConverter, Usage};
use lakeferry_api::{Config, Datum, Result};

use crate::config::catalog::{Make, Plugin, PluginKind};

pub use boolean::BooleanConverter;
pub use bytes::ByteArrayConverter;
pub use json::JsonConverter;
pub use numbers::{DoubleConverter, FloatConverter, IntegerConverter, LongConverter, ShortConverter};
pub use simple_header::SimpleHeaderConverter;
pub use string::StringConverter;

/// The rows of every converter, of `version`.
pub fn plugins(version: &str) -> Vec<Plugin> {
    let mut rows = Vec::new();
    let mut row = |class, kind, make| rows.push(Plugin { class, kind, version: Some(version.to_owned()), make });
    macro_rules! both {
        ($class:literal, $converter:ty) => {
            row($class, PluginKind::Converter, Make::Converter(|| Box::new(<$converter>::default())));
            row(
                $class,
                PluginKind::HeaderConverter,
                Make::HeaderConverter(|| Box::new(AsHeader(<$converter>::default()))),
            );
        };
    }
    both!("org.apache.kafka.connect.converters.BooleanConverter", BooleanConverter);
    both!("org.apache.kafka.connect.converters.ByteArrayConverter", ByteArrayConverter);
    both!("org.apache.kafka.connect.converters.DoubleConverter", DoubleConverter);
    both!("org.apache.kafka.connect.converters.FloatConverter", FloatConverter);
    both!("org.apache.kafka.connect.converters.IntegerConverter", IntegerConverter);
    both!("org.apache.kafka.connect.converters.LongConverter", LongConverter);
    both!("org.apache.kafka.connect.converters.ShortConverter", ShortConverter);
    both!("org.apache.kafka.connect.json.JsonConverter", JsonConverter);
    both!("org.apache.kafka.connect.storage.StringConverter", StringConverter);
    row(
        "org.apache.kafka.connect.storage.SimpleHeaderConverter",
        PluginKind::HeaderConverter,
        Make::HeaderConverter(|| Box::new(SimpleHeaderConverter)),
    );
    rows
}

/// A converter of values at work on headers.
#[derive(Default)]
pub struct AsHeader<C>(pub C);

impl<C: Converter> HeaderConverter for AsHeader<C> {
    fn config_def(&self) -> ConfigDef {
        self.0.config_def()
    }

    fn configure(&mut self, config: &Config) -> Result<()> {
        self.0.configure(config, Usage::Header)
    }

    fn decode(&self, topic: &str, _key: &str, bytes: Option<&Bytes>) -> Result<Datum> {
        self.0.decode(topic, bytes)
    }

    fn encode(&self, topic: &str, _key: &str, datum: &Datum) -> Result<Option<Bytes>> {
        self.0.encode(topic, datum)
    }
}

/// The key that every converter has: the framework fills it in.
fn base_def() -> ConfigDef {
    ConfigDef::new().define(
        ConfigKey::new("converter.type", ConfigType::String)
            .one_of(&["key", "value", "header"])
            .importance(Importance::Low)
            .doc("What the converter is used for."),
    )
}

/// `config` with what it is used for, as `converter.type` says it unless the config does.
fn with_usage(config: &Config, usage: Usage) -> Config {
    let word = match usage {
        Usage::Key => "key",
        Usage::Value => "value",
        Usage::Header => "header",
    };
    let mut config = config.clone();
    config.entry("converter.type".to_owned()).or_insert_with(|| word.to_owned());
    config
}

#[cfg(test)]
mod tests;
