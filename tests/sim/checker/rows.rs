//! An archive file by the general readers of the two formats: nothing of the writer's code. Every column must be there,
//! hold what its type says, and no other column.

use std::collections::{BTreeMap, BTreeSet};

use apache_avro::types::Value;
use bytes::Bytes;
use lakeferry_api::TopicPartition;
use parquet::basic::Compression;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row};

use crate::broker::log::{Rec, Stamp};

const COLUMNS: [&str; 8] = ["topic", "partition", "offset", "timestamp", "timestamp_type", "key", "value", "headers"];

/// What a file holds.
pub(crate) struct Contents {
    /// Every row with its offset, in file order.
    pub(crate) rows: Vec<(i64, Rec)>,
    /// The codec, as manifests call it.
    pub(crate) codec: String,
    /// What the file says of itself.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Where its blocks have to begin, its end included.
    pub(crate) borders: Vec<i64>,
}

/// What the file of `partition` holds. A row of another topic or partition is an error.
pub(crate) fn read(format: &str, bytes: &Bytes, partition: &TopicPartition) -> Result<Contents, String> {
    match format {
        "archive.parquet" => read_parquet(bytes, partition),
        "archive.avro" => read_avro(bytes, partition),
        other => Err(format!("format {other}")),
    }
}

/// What was read of a row so far.
#[derive(Default)]
struct Building {
    topic: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
    rec: Rec,
}

impl Building {
    fn end(self, of: &TopicPartition) -> Result<(i64, Rec), String> {
        let offset = self.offset.ok_or("a row without an offset")?;
        let home = (self.topic.as_deref(), self.partition) == (Some(&*of.topic), Some(of.partition));
        if !home {
            return Err(format!("the row at {offset} says that it is of {:?}-{:?}", self.topic, self.partition));
        }
        Ok((offset, self.rec))
    }
}

fn stamp(name: &str) -> Result<Stamp, String> {
    match name {
        "create" => Ok(Stamp::Create),
        "append" => Ok(Stamp::Append),
        other => Err(format!("a timestamp of type {other}")),
    }
}

fn check_columns<'a>(found: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let found: Vec<&str> = found.collect();
    if found == COLUMNS { Ok(()) } else { Err(format!("its columns are {found:?}")) }
}

fn read_parquet(bytes: &Bytes, partition: &TopicPartition) -> Result<Contents, String> {
    let file = SerializedFileReader::new(bytes.clone()).map_err(|error| error.to_string())?;
    let pairs = file.metadata().file_metadata().key_value_metadata().into_iter().flatten();
    let metadata = pairs.map(|pair| (pair.key.clone(), pair.value.clone().unwrap_or_default())).collect();
    let (mut borders, mut codecs) = (vec![0], Vec::new());
    for group in file.metadata().row_groups() {
        let ends = group.columns().iter().map(|column| column.byte_range()).map(|(from, len)| (from + len) as i64);
        borders.extend(ends.max());
        codecs.extend(group.columns().iter().map(|column| codec_name(column.compression())));
    }
    borders.push(bytes.len() as i64);
    // Columns that gain nothing are left as they are.
    let used: BTreeSet<String> = codecs.into_iter().filter(|codec| codec != "none").collect();
    let rows = file.get_row_iter(None).map_err(|error| error.to_string())?;
    let row = |row: Result<Row, _>| {
        of_parquet(&row.map_err(|error: parquet::errors::ParquetError| error.to_string())?)?.end(partition)
    };
    let rows = rows.map(row).collect::<Result<_, _>>()?;
    let codec = if used.is_empty() { "none".to_owned() } else { Vec::from_iter(used).join("+") };
    Ok(Contents { rows, codec, metadata, borders })
}

/// As manifests call it.
fn codec_name(codec: Compression) -> String {
    codec.to_string().split('(').next().unwrap_or_default().to_lowercase().replace("uncompressed", "none")
}

fn of_parquet(row: &Row) -> Result<Building, String> {
    check_columns(row.get_column_iter().map(|(name, _)| name.as_str()))?;
    let mut building = Building::default();
    let rec = &mut building.rec;
    for (name, field) in row.get_column_iter() {
        match (name.as_str(), field) {
            ("topic", Field::Str(topic)) => building.topic = Some(topic.clone()),
            ("partition", Field::Int(partition)) => building.partition = Some(*partition),
            ("offset", Field::Long(offset)) => building.offset = Some(*offset),
            ("timestamp", Field::TimestampMillis(at)) => rec.timestamp = Some(*at),
            ("timestamp_type", Field::Str(name)) => rec.stamp = Some(stamp(name)?),
            ("timestamp" | "timestamp_type", Field::Null) => {}
            ("key", field) => rec.key = bytes_of(field)?,
            ("value", field) => rec.value = bytes_of(field)?,
            ("headers", Field::ListInternal(list)) => {
                rec.headers = list.elements().iter().map(header).collect::<Result<_, _>>()?
            }
            (name, field) => return Err(format!("column {name} holds {field}")),
        }
    }
    Ok(building)
}

fn header(field: &Field) -> Result<(String, Option<Bytes>), String> {
    let Field::Group(group) = field else { return Err(format!("a header is {field}")) };
    match group.get_column_iter().map(|(name, field)| (name.as_str(), field)).collect::<Vec<_>>()[..] {
        [("key", Field::Str(key)), ("value", value)] => Ok((key.clone(), bytes_of(value)?)),
        _ => Err(format!("a header is {group}")),
    }
}

fn bytes_of(field: &Field) -> Result<Option<Bytes>, String> {
    match field {
        Field::Bytes(bytes) => Ok(Some(Bytes::copy_from_slice(bytes.data()))),
        Field::Null => Ok(None),
        other => Err(format!("bytes are {other}")),
    }
}

fn read_avro(bytes: &Bytes, partition: &TopicPartition) -> Result<Contents, String> {
    let reader = apache_avro::Reader::new(&bytes[..]).map_err(|error| error.to_string())?;
    let text = |(key, value): (&String, &Vec<u8>)| (key.clone(), String::from_utf8_lossy(value).into_owned());
    let metadata: BTreeMap<_, _> = reader.user_metadata().iter().map(text).collect();
    let rows = reader.map(|row| of_avro(row.map_err(|error| error.to_string())?)?.end(partition));
    let rows = rows.collect::<Result<_, _>>()?;
    // Every border has the file's marker before it, and nothing else has.
    let marker = bytes.get(bytes.len().saturating_sub(MARKER_BYTES)..).unwrap_or_default();
    let ends = bytes.windows(MARKER_BYTES).enumerate().filter(|(_, window)| *window == marker);
    // The first marker ends the header, which belongs to the first block.
    let borders = std::iter::once(0).chain(ends.skip(1).map(|(at, _)| (at + MARKER_BYTES) as i64)).collect();
    Ok(Contents { rows, codec: avro_codec(bytes)?, metadata, borders })
}

const MARKER_BYTES: usize = 16;

/// The codec that stands in the header, behind its key: the general reader keeps it for itself.
fn avro_codec(bytes: &Bytes) -> Result<String, String> {
    const KEY: &[u8] = b"avro.codec";
    let at = bytes.windows(KEY.len()).position(|window| window == KEY).ok_or("no codec in the header")?;
    let rest = &bytes[at + KEY.len()..];
    // Lengths are zigzag numbers.
    let name = rest.first().and_then(|len| rest.get(1..1 + usize::from(*len) / 2));
    Ok(String::from_utf8_lossy(name.ok_or("a codec without a name")?).into_owned())
}

fn of_avro(row: Value) -> Result<Building, String> {
    let Value::Record(fields) = row else { return Err("a row is no record".to_owned()) };
    check_columns(fields.iter().map(|(name, _)| name.as_str()))?;
    let mut building = Building::default();
    let rec = &mut building.rec;
    for (name, value) in fields {
        match (name.as_str(), plain(value)) {
            ("topic", Value::String(topic)) => building.topic = Some(topic),
            ("partition", Value::Int(partition)) => building.partition = Some(partition),
            ("offset", Value::Long(offset)) => building.offset = Some(offset),
            ("timestamp", Value::TimestampMillis(at)) => rec.timestamp = Some(at),
            ("timestamp_type", Value::String(name)) => rec.stamp = Some(stamp(&name)?),
            ("timestamp" | "timestamp_type" | "key" | "value", Value::Null) => {}
            ("key", Value::Bytes(bytes)) => rec.key = Some(Bytes::from(bytes)),
            ("value", Value::Bytes(bytes)) => rec.value = Some(Bytes::from(bytes)),
            ("headers", Value::Array(headers)) => {
                rec.headers = headers.into_iter().map(avro_header).collect::<Result<_, _>>()?
            }
            (name, value) => return Err(format!("column {name} holds {value:?}")),
        }
    }
    Ok(building)
}

fn avro_header(header: Value) -> Result<(String, Option<Bytes>), String> {
    let Value::Record(parts) = header else { return Err("a header is no record".to_owned()) };
    let parts: Vec<_> = parts.into_iter().map(|(name, value)| (name, plain(value))).collect();
    match &parts[..] {
        [(key, Value::String(name)), (value, Value::Null)] if (&**key, &**value) == ("key", "value") => {
            Ok((name.clone(), None))
        }
        [(key, Value::String(name)), (value, Value::Bytes(bytes))] if (&**key, &**value) == ("key", "value") => {
            Ok((name.clone(), Some(Bytes::copy_from_slice(bytes))))
        }
        _ => Err(format!("a header is {parts:?}")),
    }
}

fn plain(value: Value) -> Value {
    if let Value::Union(_, inner) = value { *inner } else { value }
}
