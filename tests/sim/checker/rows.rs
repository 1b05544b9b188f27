//! The rows of an archive file, by the general readers of the two formats: nothing of the writer's code.

use bytes::Bytes;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row};

use crate::broker::log::Rec;

/// Every row with its offset, in file order.
pub(crate) fn read(format: &str, bytes: &Bytes) -> Result<Vec<(i64, Rec)>, String> {
    match format {
        "archive.parquet" => {
            let file = SerializedFileReader::new(bytes.clone()).map_err(|error| error.to_string())?;
            let rows = file.get_row_iter(None).map_err(|error| error.to_string())?;
            rows.map(|row| of_parquet(&row.map_err(|error| error.to_string())?)).collect()
        }
        "archive.avro" => {
            let rows = apache_avro::Reader::new(&bytes[..]).map_err(|error| error.to_string())?;
            rows.map(|row| of_avro(row.map_err(|error| error.to_string())?)).collect()
        }
        other => Err(format!("format {other}")),
    }
}

fn of_parquet(row: &Row) -> Result<(i64, Rec), String> {
    let mut offset = None;
    let mut rec = Rec { key: None, value: None, headers: Vec::new(), timestamp: i64::MIN, appended: false };
    for (name, field) in row.get_column_iter() {
        match (name.as_str(), field) {
            ("offset", Field::Long(value)) => offset = Some(*value),
            ("timestamp", Field::TimestampMillis(value)) => rec.timestamp = *value,
            ("key", field) => rec.key = bytes_of(field),
            ("value", field) => rec.value = bytes_of(field),
            ("headers", Field::ListInternal(list)) => {
                rec.headers = list.elements().iter().map(header).collect::<Result<_, _>>()?
            }
            ("timestamp_type", Field::Str(stamp)) => rec.appended = is_appended(stamp)?,
            ("topic" | "partition", _) => {}
            (name, field) => return Err(format!("column {name} holds {field}")),
        }
    }
    Ok((offset.ok_or("a row without an offset")?, rec))
}

fn is_appended(stamp: &str) -> Result<bool, String> {
    match stamp {
        "create" => Ok(false),
        "append" => Ok(true),
        other => Err(format!("a timestamp of type {other}")),
    }
}

fn header(field: &Field) -> Result<(String, Option<Bytes>), String> {
    let Field::Group(group) = field else { return Err(format!("a header is {field}")) };
    let mut columns = group.get_column_iter().map(|(_, field)| field);
    match (columns.next(), columns.next()) {
        (Some(Field::Str(key)), Some(value)) => Ok((key.clone(), bytes_of(value))),
        _ => Err(format!("a header is {group}")),
    }
}

fn bytes_of(field: &Field) -> Option<Bytes> {
    match field {
        Field::Bytes(bytes) => Some(Bytes::copy_from_slice(bytes.data())),
        _ => None,
    }
}

fn of_avro(row: apache_avro::types::Value) -> Result<(i64, Rec), String> {
    use apache_avro::types::Value;
    let plain = |value: Value| if let Value::Union(_, inner) = value { *inner } else { value };
    let bytes = |value: Value| if let Value::Bytes(bytes) = plain(value) { Some(Bytes::from(bytes)) } else { None };
    let Value::Record(fields) = row else { return Err("a row is no record".to_owned()) };
    let mut offset = None;
    let mut rec = Rec { key: None, value: None, headers: Vec::new(), timestamp: i64::MIN, appended: false };
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("offset", Value::Long(value)) => offset = Some(value),
            ("timestamp", value) => {
                if let Value::TimestampMillis(at) | Value::Long(at) = plain(value) {
                    rec.timestamp = at;
                }
            }
            ("timestamp_type", value) => {
                let Value::String(stamp) = plain(value) else {
                    return Err("a row without a type of timestamp".to_owned());
                };
                rec.appended = is_appended(&stamp)?;
            }
            ("key", value) => rec.key = bytes(value),
            ("value", value) => rec.value = bytes(value),
            ("headers", Value::Array(headers)) => {
                for header in headers {
                    let Value::Record(mut parts) = header else { return Err("a header is no record".to_owned()) };
                    let (Some((_, value)), Some((_, Value::String(key)))) = (parts.pop(), parts.pop()) else {
                        return Err("a header is no pair".to_owned());
                    };
                    rec.headers.push((key, bytes(value)));
                }
            }
            _ => {}
        }
    }
    Ok((offset.ok_or("a row without an offset")?, rec))
}
