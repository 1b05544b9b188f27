//! JSON to Connect values, as loosely as Jackson's nodes are read there: a member of another type than the schema says
//! is the type's zero, numbers are narrowed, unknown members are passed over.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lakeferry_api::decimal::Decimal;
use lakeferry_api::schema::{Field, Type};
use lakeferry_api::{ConnectError, Result, Schema, Value, logical};
use serde_json::{Number, Value as Json};

use super::Options;

/// The first JSON value of `bytes`; what follows it is not looked at. Numbers may have leading zeros.
pub(super) fn parse(bytes: &[u8]) -> Result<Json> {
    let first = |bytes: &[u8]| serde_json::Deserializer::from_slice(bytes).into_iter::<Json>().next();
    let json = match first(bytes) {
        Some(Err(error)) => first(&without_leading_zeros(bytes)).and_then(Result::ok).ok_or(error),
        Some(json) => json,
        None => Ok(Json::Null),
    };
    json.map_err(|error| {
        ConnectError::data("Converting byte[] to Kafka Connect data failed due to serialization error: ")
            .caused_by(error)
    })
}

/// The value that `schema` makes of `json`; `None` is a member that is missing.
pub(super) fn value(schema: &Schema, json: Option<&Json>, options: Options) -> Result<Value> {
    let Some(json) = json.filter(|json| !json.is_null()) else {
        return match &schema.default {
            Some(default) if options.replace_null_with_default => Ok(default.clone()),
            _ if schema.optional => Ok(Value::Null),
            _ => Err(ConnectError::data(format!("Invalid null value for required {} field", schema.kind.name()))),
        };
    };
    if let Some(value) = logical_value(schema, json)? {
        return Ok(value);
    }
    Ok(match &schema.kind {
        Type::Boolean => Value::Boolean(json.as_bool().unwrap_or(false)),
        Type::Int8 => Value::Int8(integer(json) as i8),
        Type::Int16 => Value::Int16(integer(json) as i16),
        Type::Int32 => Value::Int32(integer(json) as i32),
        Type::Int64 => Value::Int64(integer(json)),
        Type::Float32 => {
            Value::Float32(json.as_number().and_then(|number| number.to_string().parse().ok()).unwrap_or(0.0))
        }
        Type::Float64 => Value::Float64(double(json)),
        Type::String => json.as_str().map_or(Value::Null, |text| Value::String(text.into())),
        Type::Bytes => match json.as_str() {
            Some(text) => Value::Bytes(base64(text, "Invalid bytes field")?.into()),
            None => Value::Null,
        },
        Type::Array(items) => {
            Value::Array(elements(json).map(|item| value(items, Some(item), options)).collect::<Result<_>>()?)
        }
        Type::Map(keys, values) => Value::Map(map(keys, values, json, options)?),
        Type::Struct(fields) => {
            let members = json.as_object().ok_or_else(|| {
                ConnectError::data(format!("Structs should be encoded as JSON objects, but found {}", node_type(json)))
            })?;
            let field = |field: &Field| match value(&field.schema, members.get(&*field.name), options)? {
                Value::Null if !field.schema.optional => Err(null_in(field)),
                value => Ok(value),
            };
            Value::Struct(fields.iter().map(field).collect::<Result<_>>()?)
        }
    })
}

/// The value of JSON that comes without schema.
pub(super) fn schemaless(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Boolean(*value),
        Json::Number(number) if is_integral(number) => Value::Int64(integer(json)),
        Json::Number(_) => Value::Float64(double(json)),
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Array(items) => Value::Array(items.iter().map(schemaless).collect()),
        Json::Object(members) => Value::Map(
            members.iter().map(|(key, member)| (Value::String(key.as_str().into()), schemaless(member))).collect(),
        ),
    }
}

fn map(keys: &Arc<Schema>, values: &Arc<Schema>, json: &Json, options: Options) -> Result<Vec<(Value, Value)>> {
    if keys.kind == Type::String {
        let members = json.as_object().ok_or_else(|| {
            let found = node_type(json);
            ConnectError::data(format!("Maps with string fields should be encoded as JSON objects, but found {found}"))
        })?;
        let entry = |(key, member): (&String, &Json)| {
            Ok((Value::String(key.as_str().into()), value(values, Some(member), options)?))
        };
        return members.iter().map(entry).collect();
    }
    let entries = json.as_array().ok_or_else(|| {
        let found = node_type(json);
        ConnectError::data(format!(
            "Maps with non-string fields should be encoded as JSON array of tuples, but found {found}"
        ))
    })?;
    let entry = |entry: &Json| match entry.as_array().map(Vec::as_slice) {
        Some([key, member]) => Ok((value(keys, Some(key), options)?, value(values, Some(member), options)?)),
        Some(other) => {
            let len = other.len();
            Err(ConnectError::data(format!("Found invalid map entry, expected length 2 but found :{len}")))
        }
        None => {
            Err(ConnectError::data(format!("Found invalid map entry instead of array tuple: {}", node_type(entry))))
        }
    };
    entries.iter().map(entry).collect()
}

/// Jackson walks the members of objects too, and finds nothing in anything else.
fn elements(json: &Json) -> Box<dyn Iterator<Item = &Json> + '_> {
    match json {
        Json::Array(items) => Box::new(items.iter()),
        Json::Object(members) => Box::new(members.values()),
        _ => Box::new(std::iter::empty()),
    }
}

fn logical_value(schema: &Schema, json: &Json) -> Result<Option<Value>> {
    let wrong = |what: &str, should: &str| {
        let found = node_type(json);
        ConnectError::data(format!(
            "Invalid type for {what}, underlying representation should be {should} but was {found}"
        ))
    };
    let int = |what| {
        let number = json.as_number().filter(|number| is_integral(number)).map(ToString::to_string);
        number.and_then(|number| number.parse::<i32>().ok()).ok_or_else(|| wrong(what, "integer"))
    };
    match schema.name.as_deref() {
        Some(logical::DECIMAL) => match json {
            Json::Number(number) => decimal_of(schema, number).map(Some),
            Json::String(text) => match base64(text, "Invalid bytes for Decimal field")? {
                empty if empty.is_empty() => Err(ConnectError::data("Invalid bytes for Decimal field")),
                bytes => Ok(Some(Value::Bytes(bytes.into()))),
            },
            _ => Err(wrong("Decimal", "numeric or bytes")),
        },
        Some(logical::DATE) => Ok(Some(Value::Int32(int("Date")?))),
        Some(logical::TIME) => match int("Time")? {
            ms @ 0..=86_400_000 => Ok(Some(Value::Int32(ms))),
            _ => Err(ConnectError::data(
                "Time values must use number of milliseconds greater than 0 and less than 86400000",
            )),
        },
        Some(logical::TIMESTAMP) if json.as_number().is_some_and(is_integral) => Ok(Some(Value::Int64(integer(json)))),
        Some(logical::TIMESTAMP) => Err(wrong("Timestamp", "integral")),
        _ => Ok(None),
    }
}

/// A number as it stands, in the schema's scale.
fn decimal_of(schema: &Schema, number: &Number) -> Result<Value> {
    let scale = schema.parameters.get(logical::SCALE).and_then(|scale| scale.parse().ok());
    let scale = scale.ok_or_else(|| ConnectError::data("Invalid Decimal schema: scale parameter not found."))?;
    let decimal = Decimal::parse(&number.to_string()).and_then(|decimal| decimal.rescaled(scale));
    let mismatch = || {
        ConnectError::data(format!(
            "BigDecimal has mismatching scale value for given Decimal schema: {number} does not fit scale {scale}"
        ))
    };
    Ok(Value::Bytes(decimal.ok_or_else(mismatch)?.to_bytes().into()))
}

fn null_in(field: &Field) -> ConnectError {
    let (name, kind) = (&field.name, field.schema.kind.name());
    ConnectError::data(format!("Invalid value: null used for required field: \"{name}\", schema type: {kind}"))
}

fn base64(text: &str, error: &str) -> Result<Vec<u8>> {
    BASE64.decode(text).map_err(|cause| ConnectError::data(error).caused_by(cause))
}

fn is_integral(number: &Number) -> bool {
    !number.to_string().contains(['.', 'e', 'E'])
}

/// The whole part in 64 bits; what does not fit is cut off at the top, as Java does. Other JSON is 0.
fn integer(json: &Json) -> i64 {
    let Some(number) = json.as_number().map(ToString::to_string) else { return 0 };
    let cut = |decimal: Decimal| {
        let bytes = decimal.rescaled(0).map(|whole| whole.to_bytes()).unwrap_or_default();
        let sign = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { -1i64 } else { 0 };
        bytes.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte))
    };
    let decimal = |text: &str| Decimal::parse(text).map(|decimal| decimal.to_i64().unwrap_or_else(|| cut(decimal)));
    number.parse().ok().or_else(|| decimal(&number)).unwrap_or(0)
}

/// Jackson reads decimals first, and those know no negative zero.
fn double(json: &Json) -> f64 {
    json.as_number().and_then(|number| number.to_string().parse().ok()).filter(|number| *number != 0.0).unwrap_or(0.0)
}

fn node_type(json: &Json) -> &'static str {
    match json {
        Json::Null => "NULL",
        Json::Bool(_) => "BOOLEAN",
        Json::Number(_) => "NUMBER",
        Json::String(_) => "STRING",
        Json::Array(_) => "ARRAY",
        Json::Object(_) => "OBJECT",
    }
}

/// Takes the zeros away that begin a number of several digits.
fn without_leading_zeros(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in bytes.iter().enumerate() {
        let begins = !quoted && !matches!(out.last(), Some(b'0'..=b'9' | b'.' | b'e' | b'E' | b'+'));
        let spare = *byte == b'0' && begins && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        quoted ^= *byte == b'"' && !escaped;
        escaped = quoted && *byte == b'\\' && !escaped;
        if !spare {
            out.push(*byte);
        }
    }
    out
}
