//! `SimpleHeaderConverter`, the default of headers: text out, and a guess at the type in. So a header `123` that was
//! written as text is read as a number; that is Connect's rule, and `infer` holds it.
//!
//! Reading never fails: what cannot be understood is the text itself, and what is nested too deep stays bytes.

mod infer;
mod tokens;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use lakeferry_api::config_def::ConfigDef;
use lakeferry_api::convert::HeaderConverter;
use lakeferry_api::schema::Type;
use lakeferry_api::{Config, ConnectError, Datum, Result, Schema, Value, text};

const DAY_MS: i64 = 86_400_000;

/// See the module's head.
pub struct SimpleHeaderConverter;

impl HeaderConverter for SimpleHeaderConverter {
    fn config_def(&self) -> ConfigDef {
        ConfigDef::new()
    }

    fn configure(&mut self, _config: &Config) -> Result<()> {
        Ok(())
    }

    fn decode(&self, _topic: &str, _key: &str, bytes: Option<&Bytes>) -> Result<Datum> {
        let Some(bytes) = bytes else { return Ok(Datum::NULL) };
        let inferred = infer::infer(&String::from_utf8_lossy(bytes));
        Ok(inferred.unwrap_or_else(|_| Datum::new(Arc::new(Schema::new(Type::Bytes)), Value::Bytes(bytes.clone()))))
    }

    fn encode(&self, _topic: &str, key: &str, datum: &Datum) -> Result<Option<Bytes>> {
        if datum.value.is_null() {
            return Ok(None);
        }
        let mut out = String::new();
        append(&mut out, datum.schema.as_deref(), &datum.value, false).ok_or_else(|| {
            ConnectError::data(format!("Failed to serialize header '{key}': the value does not fit its schema"))
        })?;
        Ok(Some(out.into()))
    }
}

/// Appends the text of `value`; strings and bytes inside of containers are quoted.
fn append(out: &mut String, schema: Option<&Schema>, value: &Value, embedded: bool) -> Option<()> {
    let mut quoted = |text: &str| match embedded {
        true => out.push_str(&format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))),
        false => out.push_str(text),
    };
    if let Some(ms) = text::epoch_ms(schema, value) {
        out.push_str(&date_text(ms));
        return Some(());
    }
    match value {
        Value::String(text) => quoted(text),
        Value::Bytes(bytes) => match text::decimal(schema, value) {
            Some(decimal) => out.push_str(&decimal.to_string()),
            None => quoted(&BASE64.encode(bytes)),
        },
        Value::Array(items) => {
            let item_schema = schema.and_then(|schema| match &schema.kind {
                Type::Array(item) => Some(item.as_ref()),
                _ => None,
            });
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                separate(out, at);
                append(out, item_schema, item, true)?;
            }
            out.push(']');
        }
        Value::Map(entries) => {
            let schemas = schema.and_then(|schema| match &schema.kind {
                Type::Map(key, value) => Some((key.as_ref(), value.as_ref())),
                _ => None,
            });
            let entries = entries.iter().map(|(key, value)| (schemas.map(|s| s.0), key, schemas.map(|s| s.1), value));
            append_entries(out, entries)?;
        }
        Value::Struct(values) => {
            let Some(Type::Struct(fields)) = schema.map(|schema| &schema.kind) else { return None };
            let names: Vec<_> = fields.iter().map(|field| Value::String(Arc::clone(&field.name))).collect();
            let entry = |((field, name), value): ((_, _), _)| {
                let field: &lakeferry_api::schema::Field = field;
                let value: &Value = value;
                let or_default = field.schema.default.as_ref().filter(|_| value.is_null()).unwrap_or(value);
                (None, name, Some(field.schema.as_ref()), or_default)
            };
            append_entries(out, fields.iter().zip(&names).zip(values).map(entry))?;
        }
        plain => out.push_str(&text::of(&Datum::schemaless(plain.clone()))?),
    }
    Some(())
}

fn append_entries<'a>(
    out: &mut String,
    entries: impl Iterator<Item = (Option<&'a Schema>, &'a Value, Option<&'a Schema>, &'a Value)>,
) -> Option<()> {
    out.push('{');
    for (at, (key_schema, key, value_schema, value)) in entries.enumerate() {
        separate(out, at);
        append(out, key_schema, key, true)?;
        out.push(':');
        append(out, value_schema, value, true)?;
    }
    out.push('}');
    Some(())
}

fn separate(out: &mut String, at: usize) {
    if at > 0 {
        out.push(',');
    }
}

/// Connect looks at the instant, not at the schema: the first day is a time, a whole day is a date.
fn date_text(ms: i64) -> String {
    match ms {
        ms if ms < DAY_MS => text::iso_time(ms.rem_euclid(DAY_MS)),
        ms if ms % DAY_MS == 0 => text::iso_date(ms / DAY_MS),
        ms => text::iso_timestamp(ms),
    }
}
