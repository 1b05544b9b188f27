//! Connect schemas in JSON: the `schema` member of an envelope, and `schema.content`.

use std::sync::Arc;

use lakeferry_api::schema::{Field, Type};
use lakeferry_api::{ConnectError, Result, Schema};
use serde_json::Value as Json;

use super::{Options, read, text_member, write};

/// The types without contents, by their names in JSON.
const PLAIN: [(&str, Type); 9] = [
    ("boolean", Type::Boolean),
    ("int8", Type::Int8),
    ("int16", Type::Int16),
    ("int32", Type::Int32),
    ("int64", Type::Int64),
    ("float", Type::Float32),
    ("double", Type::Float64),
    ("bytes", Type::Bytes),
    ("string", Type::String),
];

/// Reads a schema; `None` for JSON null.
pub(super) fn read(json: &Json, options: Options) -> Result<Option<Arc<Schema>>> {
    if json.is_null() {
        return Ok(None);
    }
    let name = text_member(json, "type").ok_or_else(|| ConnectError::data("Schema must contain 'type' field"))?;
    let mut schema = Schema::new(kind(name, json, options)?);
    schema.optional = json.get("optional").and_then(Json::as_bool).unwrap_or(false);
    schema.name = text_member(json, "name").map(Arc::from);
    schema.version = json.get("version").and_then(Json::as_i64).map(|version| version as i32);
    schema.doc = text_member(json, "doc").map(Arc::from);
    for (key, value) in json.get("parameters").and_then(Json::as_object).into_iter().flatten() {
        let text = value.as_str().ok_or_else(|| ConnectError::data("Schema parameters must have string values."))?;
        schema.parameters.insert(key.clone(), text.to_owned());
    }
    if let Some(default) = json.get("default") {
        schema.default = Some(read::value(&schema, Some(default), options)?).filter(|default| !default.is_null());
    }
    Ok(Some(Arc::new(schema)))
}

fn kind(name: &str, json: &Json, options: Options) -> Result<Type> {
    if let Some((_, plain)) = PLAIN.iter().find(|(known, _)| *known == name) {
        return Ok(plain.clone());
    }
    let inner = |member: &str, missing: &str| {
        let schema = json.get(member).map(|json| read(json, options)).transpose()?.flatten();
        schema.ok_or_else(|| ConnectError::data(missing.to_owned()))
    };
    match name {
        "array" => Ok(Type::Array(inner("items", "Array schema did not specify the element type")?)),
        "map" => Ok(Type::Map(
            inner("keys", "Map schema did not specify the key type")?,
            inner("values", "Map schema did not specify the value type")?,
        )),
        "struct" => {
            let fields = json.get("fields").and_then(Json::as_array);
            let fields =
                fields.ok_or_else(|| ConnectError::data("Struct schema's \"fields\" argument is not an array."))?;
            Ok(Type::Struct(fields.iter().map(|json| field(json, options)).collect::<Result<_>>()?))
        }
        other => Err(ConnectError::data(format!("Unknown schema type: {other}"))),
    }
}

fn field(json: &Json, options: Options) -> Result<Field> {
    let unnamed = || ConnectError::data("Struct schema's field name not specified properly");
    let name = text_member(json, "field").ok_or_else(unnamed)?;
    Ok(Field { name: name.into(), schema: read(json, options)?.ok_or_else(unnamed)? })
}

/// Appends `schema`; null where there is none.
pub(super) fn write(out: &mut String, schema: Option<&Schema>, options: Options) -> Result<()> {
    match schema {
        Some(schema) => write_members(out, schema, None, options),
        None => {
            out.push_str("null");
            Ok(())
        }
    }
}

/// The members in Kafka's order; `field` names a struct's field.
fn write_members(out: &mut String, schema: &Schema, field: Option<&str>, options: Options) -> Result<()> {
    out.push_str("{\"type\":");
    let plain = PLAIN.iter().find(|(_, kind)| *kind == schema.kind);
    write::string(
        out,
        plain.map_or_else(|| schema.kind.name().to_lowercase(), |(name, _)| (*name).to_owned()).as_str(),
    );
    match &schema.kind {
        Type::Array(items) => {
            out.push_str(",\"items\":");
            write_members(out, items, None, options)?;
        }
        Type::Map(keys, values) => {
            out.push_str(",\"keys\":");
            write_members(out, keys, None, options)?;
            out.push_str(",\"values\":");
            write_members(out, values, None, options)?;
        }
        Type::Struct(fields) => {
            out.push_str(",\"fields\":");
            write::list(out, '[', ']', fields, |out, field| {
                write_members(out, &field.schema, Some(&field.name), options)
            })?;
        }
        _ => {}
    }
    out.push_str(if schema.optional { ",\"optional\":true" } else { ",\"optional\":false" });
    text_member_of(out, "name", schema.name.as_deref());
    if let Some(version) = schema.version {
        out.push_str(&format!(",\"version\":{version}"));
    }
    text_member_of(out, "doc", schema.doc.as_deref());
    if !schema.parameters.is_empty() {
        out.push_str(",\"parameters\":");
        write::list(out, '{', '}', &schema.parameters, |out, (key, value)| {
            write::string(out, key);
            out.push(':');
            write::string(out, value);
            Ok(())
        })?;
    }
    if let Some(default) = &schema.default {
        out.push_str(",\"default\":");
        write::value(out, Some(schema), default, options)?;
    }
    text_member_of(out, "field", field);
    out.push('}');
    Ok(())
}

fn text_member_of(out: &mut String, member: &str, text: Option<&str>) {
    if let Some(text) = text {
        out.push_str(&format!(",\"{member}\":"));
        write::string(out, text);
    }
}
