//! Connect values to JSON text, byte for byte as Jackson writes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lakeferry_api::schema::Type;
use lakeferry_api::{ConnectError, Result, Schema, Value, logical, text};

use super::Options;

/// Appends `value`, whose schema is `schema`.
pub(super) fn value(out: &mut String, schema: Option<&Schema>, value: &Value, options: Options) -> Result<()> {
    if value.is_null() {
        return null(out, schema, options);
    }
    if let Some(schema) = schema
        && logical_value(out, schema, value, options)?
    {
        return Ok(());
    }
    if let Some(schema) = schema.filter(|schema| !fits(&schema.kind, value)) {
        let (kind, class) = (schema.kind.name(), text::java_class(value));
        return Err(ConnectError::data(format!("Invalid type for {kind}: {class}")));
    }
    match value {
        Value::Null => out.push_str("null"),
        Value::Int8(number) => out.push_str(&number.to_string()),
        Value::Int16(number) => out.push_str(&number.to_string()),
        Value::Int32(number) => out.push_str(&number.to_string()),
        Value::Int64(number) => out.push_str(&number.to_string()),
        Value::Float32(number) => float(out, number.is_finite(), &text::of_f32(*number)),
        Value::Float64(number) => float(out, number.is_finite(), &text::of_f64(*number)),
        Value::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::String(text) => string(out, text),
        Value::Bytes(bytes) => string(out, &BASE64.encode(bytes)),
        Value::Array(items) => {
            let item_schema = schema.and_then(|schema| match &schema.kind {
                Type::Array(item) => Some(item.as_ref()),
                _ => None,
            });
            list(out, '[', ']', items, |out, item| self::value(out, item_schema, item, options))?;
        }
        Value::Map(entries) => map(out, schema, entries, options)?,
        Value::Struct(values) => structure(out, schema, values, options)?,
    }
    Ok(())
}

/// Appends text in quotes. What lies beyond 16 bits is escaped in two halves, as Jackson does it.
pub(super) fn string(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            control if control < ' ' => out.push_str(&format!("\\u{:04X}", u32::from(control))),
            wide if wide > '\u{ffff}' => {
                wide.encode_utf16(&mut [0; 2]).iter().for_each(|half| out.push_str(&format!("\\u{half:04X}")));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// Appends `items` between brackets, commas between them.
pub(super) fn list<T>(
    out: &mut String,
    open: char,
    close: char,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut String, T) -> Result<()>,
) -> Result<()> {
    out.push(open);
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(out, item)?;
    }
    out.push(close);
    Ok(())
}

fn null(out: &mut String, schema: Option<&Schema>, options: Options) -> Result<()> {
    let default = schema.and_then(|schema| schema.default.as_ref()).filter(|_| options.replace_null_with_default);
    match (schema, default) {
        (schema, Some(default)) => return value(out, schema, default, options),
        (Some(schema), None) if !schema.optional => {
            let message = "Conversion error: null value for field that is required and has no default value";
            return Err(ConnectError::data(message));
        }
        _ => out.push_str("null"),
    }
    Ok(())
}

/// Writes a logical type; false where it is none.
fn logical_value(out: &mut String, schema: &Schema, value: &Value, options: Options) -> Result<bool> {
    let wrong = |what: &str, class: &str| {
        let found = text::java_class(value);
        ConnectError::data(format!("Invalid type for {what}, expected {class} but was {found}"))
    };
    match schema.name.as_deref() {
        Some(logical::DECIMAL) => {
            let Value::Bytes(bytes) = value else { return Err(wrong("Decimal", "BigDecimal")) };
            if options.decimal_as_number {
                let decimal = text::decimal(Some(schema), value);
                let decimal =
                    decimal.ok_or_else(|| ConnectError::data("Invalid Decimal schema: scale parameter not found."))?;
                out.push_str(&decimal.to_string());
            } else {
                string(out, &BASE64.encode(bytes));
            }
        }
        Some(name @ (logical::DATE | logical::TIME)) => {
            let what = if name == logical::DATE { "Date" } else { "Time" };
            let Value::Int32(number) = value else { return Err(wrong(what, "Date")) };
            out.push_str(&number.to_string());
        }
        Some(logical::TIMESTAMP) => {
            let Value::Int64(number) = value else { return Err(wrong("Timestamp", "Date")) };
            out.push_str(&number.to_string());
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn fits(kind: &Type, value: &Value) -> bool {
    matches!(
        (kind, value),
        (Type::Int8, Value::Int8(_))
            | (Type::Int16, Value::Int16(_))
            | (Type::Int32, Value::Int32(_))
            | (Type::Int64, Value::Int64(_))
            | (Type::Float32, Value::Float32(_))
            | (Type::Float64, Value::Float64(_))
            | (Type::Boolean, Value::Boolean(_))
            | (Type::String, Value::String(_))
            | (Type::Bytes, Value::Bytes(_))
            | (Type::Array(_), Value::Array(_))
            | (Type::Map(..), Value::Map(_))
            | (Type::Struct(_), Value::Struct(_))
    )
}

/// What is no number in JSON stands in quotes.
fn float(out: &mut String, finite: bool, text: &str) {
    if finite { out.push_str(text) } else { string(out, text) }
}

/// Maps with text for keys are objects, others arrays of pairs.
fn map(out: &mut String, schema: Option<&Schema>, entries: &[(Value, Value)], options: Options) -> Result<()> {
    let schemas = schema.and_then(|schema| match &schema.kind {
        Type::Map(keys, values) => Some((keys.as_ref(), values.as_ref())),
        _ => None,
    });
    let (key_schema, value_schema) = schemas.unzip();
    let as_object = match key_schema {
        Some(schema) => schema.kind == Type::String,
        None => entries.iter().all(|(key, _)| matches!(key, Value::String(_))),
    };
    if as_object {
        return list(out, '{', '}', entries, |out, (key, member)| {
            match key {
                Value::String(key) => string(out, key),
                Value::Null => string(out, "null"),
                other => return value(out, key_schema, other, options),
            }
            out.push(':');
            value(out, value_schema, member, options)
        });
    }
    list(out, '[', ']', entries, |out, (key, member)| {
        out.push('[');
        value(out, key_schema, key, options)?;
        out.push(',');
        value(out, value_schema, member, options)?;
        out.push(']');
        Ok(())
    })
}

fn structure(out: &mut String, schema: Option<&Schema>, values: &[Value], options: Options) -> Result<()> {
    let Some(Type::Struct(fields)) = schema.map(|schema| &schema.kind) else {
        return Err(ConnectError::data("Mismatching schema."));
    };
    if fields.len() != values.len() {
        return Err(ConnectError::data("Mismatching schema."));
    }
    list(out, '{', '}', fields.iter().zip(values), |out, (field, member)| {
        string(out, &field.name);
        out.push(':');
        value(out, Some(&field.schema), member, options)
    })
}
