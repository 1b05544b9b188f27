//! `JsonConverter`: JSON, with the schema beside the payload (`{"schema":…,"payload":…}`) or without any.
//!
//! The rules and the words are those of Kafka's converter: what is read loosely, what is an error, when a null is a
//! tombstone (only with neither schema nor value) and when it is the text `null`. Reading stands in `read`, writing in
//! `write`, schemas in `schema`.

mod read;
mod schema;
mod write;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lakeferry_api::config_def::{ConfigDef, ConfigKey, ConfigType, Importance, Width};
use lakeferry_api::convert::{Converter, Usage};
use lakeferry_api::{Config, ConnectError, Datum, Result, Schema};
use serde_json::Value as Json;

use super::{base_def, with_usage};

/// See the module's head.
pub struct JsonConverter {
    options: Options,
    schemas_enable: bool,
    /// The schema of every record, where the config gives one.
    content: Option<Arc<Schema>>,
    /// The schema that was read last: most topics have one.
    last: Mutex<Option<(Json, Arc<Schema>)>>,
}

/// What reading and writing depend on.
#[derive(Debug, Clone, Copy)]
struct Options {
    decimal_as_number: bool,
    replace_null_with_default: bool,
}

impl Default for JsonConverter {
    fn default() -> Self {
        let options = Options { decimal_as_number: false, replace_null_with_default: true };
        Self { options, schemas_enable: true, content: None, last: Mutex::new(None) }
    }
}

impl Converter for JsonConverter {
    fn config_def(&self) -> ConfigDef {
        let key = |name: &str, kind, importance, doc: &str| ConfigKey::new(name, kind).importance(importance).doc(doc);
        let (schemas, serialization) = ("Schemas", "Serialization");
        base_def()
            .define(
                key(
                    "schemas.enable",
                    ConfigType::Boolean,
                    Importance::High,
                    "Whether the schema stands beside the payload.",
                )
                .default("true")
                .shown(schemas, 0, Width::Medium, "Enable Schemas"),
            )
            .define(
                key(
                    "schemas.cache.size",
                    ConfigType::Int,
                    Importance::High,
                    "How many schemas are kept; the last one is, here.",
                )
                .default("1000")
                .shown(schemas, 1, Width::Medium, "Schema Cache Size"),
            )
            .define(
                key(
                    "schema.content",
                    ConfigType::String,
                    Importance::High,
                    "The schema, in JSON, of every record read; the record is then the payload alone.",
                )
                .default_null()
                .shown(schemas, 2, Width::Medium, "Schema Content"),
            )
            .define(
                key(
                    "decimal.format",
                    ConfigType::String,
                    Importance::Low,
                    "How decimals are written: BASE64 or NUMERIC.",
                )
                .default("BASE64")
                .one_of_ignoring_case(&["NUMERIC", "BASE64"])
                .shown(serialization, 0, Width::Medium, "Decimal Format"),
            )
            .define(
                key(
                    "replace.null.with.default",
                    ConfigType::Boolean,
                    Importance::Low,
                    "Whether a null takes the schema's default.",
                )
                .default("true")
                .shown(serialization, 1, Width::Medium, "Replace null with default"),
            )
    }

    fn configure(&mut self, config: &Config, usage: Usage) -> Result<()> {
        let parsed = self.config_def().parse(&with_usage(config, usage))?;
        self.schemas_enable = parsed.boolean("schemas.enable");
        self.options = Options {
            decimal_as_number: parsed.text("decimal.format")?.eq_ignore_ascii_case("NUMERIC"),
            replace_null_with_default: parsed.boolean("replace.null.with.default"),
        };
        let content = parsed.text_if_set("schema.content").filter(|content| !content.is_empty());
        let refused = |error: ConnectError| {
            ConnectError::config("Invalid value for configuration schema.content: not a schema in JSON")
                .caused_by(error)
        };
        let read = |content: &str| schema::read(&read::parse(content.as_bytes())?, self.options);
        self.content = content.map(read).transpose().map_err(refused)?.flatten();
        Ok(())
    }

    fn decode(&self, _topic: &str, bytes: Option<&Bytes>) -> Result<Datum> {
        let Some(bytes) = bytes else { return Ok(Datum::NULL) };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return if self.schemas_enable { Err(no_envelope()) } else { Ok(Datum::NULL) };
        }
        let json = read::parse(bytes)?;
        if !self.schemas_enable {
            return Ok(Datum::schemaless(read::schemaless(&json)));
        }
        if let Some(schema) = &self.content {
            return Ok(Datum::new(Arc::clone(schema), read::value(schema, Some(&json), self.options)?));
        }
        let envelope = json.as_object().filter(|envelope| envelope.len() == 2);
        let parts = envelope.and_then(|envelope| Some((envelope.get("schema")?, envelope.get("payload")?)));
        let (schema, payload) = parts.ok_or_else(no_envelope)?;
        match self.schema(schema)? {
            Some(schema) => {
                let value = read::value(&schema, Some(payload), self.options)?;
                Ok(Datum::new(schema, value))
            }
            None => Ok(Datum::schemaless(read::schemaless(payload))),
        }
    }

    fn encode(&self, _topic: &str, datum: &Datum) -> Result<Option<Bytes>> {
        let schema = datum.schema.as_deref();
        if schema.is_none() && datum.value.is_null() {
            return Ok(None);
        }
        let mut out = String::new();
        if self.schemas_enable {
            out.push_str("{\"schema\":");
            schema::write(&mut out, schema, self.options)?;
            out.push_str(",\"payload\":");
        }
        write::value(&mut out, schema, &datum.value, self.options)?;
        if self.schemas_enable {
            out.push('}');
        }
        Ok(Some(out.into()))
    }
}

impl JsonConverter {
    fn schema(&self, json: &Json) -> Result<Option<Arc<Schema>>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, schema)) = last.as_ref().filter(|(known, _)| known == json) {
            return Ok(Some(Arc::clone(schema)));
        }
        let schema = schema::read(json, self.options)?;
        *last = schema.clone().map(|schema| (json.clone(), schema));
        Ok(schema)
    }
}

fn no_envelope() -> ConnectError {
    ConnectError::data(
        "JsonConverter with schemas.enable requires \"schema\" and \"payload\" fields and may not contain additional \
         fields. If you are trying to deserialize plain JSON data, set schemas.enable=false in your converter \
         configuration.",
    )
}

/// An optional member that is text.
fn text_member<'a>(json: &'a Json, member: &str) -> Option<&'a str> {
    json.get(member).and_then(Json::as_str)
}
