//! Archive files in the hands of other readers: pyarrow and DuckDB for Parquet, fastavro for Avro. What they see is
//! compared row by row with what was written, in every codec; the script checks the shape of the files too.

mod pages;

use std::fs;
use std::path::Path;
use std::time::Duration;

use lakeferry_api::{Batch, BatchBuilder, TimestampType, TopicPartition};
use lakeferry_lake::format::{FORMATS, FileFormat, FileHeader};
use serde_json::{Value, json};

use crate::kit;

const SCRIPT: &str = include_str!("formats/read.py");
const LIMIT: Duration = Duration::from_secs(180);
/// More rows than a page takes, in two blocks.
const ROWS: usize = 25_000;
const FIRST_BLOCK: usize = 22_000;
const CLUSTER_ID: &str = "AAAAAAAAQACAAAAAAAAAAQ";

#[test]
fn other_readers_see_what_was_written() {
    let python = kit::need!(kit::python());
    let folder = kit::run_dir().unwrap().join("formats");
    fs::create_dir_all(&folder).unwrap();
    let batch = batch();
    let mut files = Vec::new();
    for (format, codec) in FORMATS.iter().flat_map(|format| format.codecs.iter().map(move |codec| (format, codec.name)))
    {
        let path = folder.join(format!("{codec}.{}", format.extension));
        write(&path, format, codec, &batch);
        files.push(json!({"path": path, "format": format.name, "codec": codec}));
    }
    let expected = folder.join("expected.json");
    let task = json!({
        "files": files,
        "topic": batch.partition().topic,
        "partition": batch.partition().partition,
        "first_block": FIRST_BLOCK,
        "cluster_id": CLUSTER_ID,
        "rows": batch.rows().map(|row| json!({
            "offset": row.offset(),
            "timestamp": row.timestamp(),
            "timestamp_type": row.timestamp_type().map(|stamp| match stamp {
                TimestampType::Create => "create",
                TimestampType::Append => "append",
            }),
            "key": hex(row.key()),
            "value": hex(row.value()),
            "headers": row.headers().map(|(key, value)| json!([key, hex(value)])).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    });
    fs::write(&expected, task.to_string()).unwrap();
    let read = python.eval(SCRIPT, &[&expected], LIMIT).unwrap();
    assert_eq!(read.lines().count(), files.len() + 1, "{read}");
}

fn write(path: &Path, format: &FileFormat, codec: &str, batch: &Batch) {
    let header =
        FileHeader { partition: batch.partition().clone(), cluster_id: Some(CLUSTER_ID.to_owned()), topic_id: None };
    let mut encoder = format.encoder(header, format.compression(codec, None).unwrap()).unwrap();
    encoder.append(&batch.slice(0..FIRST_BLOCK)).unwrap();
    encoder.end_block().unwrap();
    let mut file = encoder.take_encoded().to_vec();
    encoder.append(&batch.slice(FIRST_BLOCK..ROWS)).unwrap();
    encoder.finish().unwrap();
    file.extend_from_slice(&encoder.take_encoded());
    fs::write(path, file).unwrap();
}

/// Rows with holes between their offsets, timestamps out of order, and everything that a record can be.
fn batch() -> Batch {
    let mut builder = BatchBuilder::new(TopicPartition::new("orders.naïve", 12), 1000);
    for row in 0..ROWS as i64 {
        let timestamp = 1_388_534_400_000 + row * 7 % 1000 - row;
        let timestamp = match row % 50 {
            0 => (-1, None),
            1 => (0, Some(TimestampType::Append)),
            2 => (timestamp, None),
            _ => (timestamp, Some(TimestampType::Create)),
        };
        let (key, value) = (format!("key-{}", row % 13), format!("{{\"row\":{row},\"note\":\"{}\"}}", row * row));
        let key = Some(key.as_bytes()).filter(|_| row % 3 > 0);
        let value = match row % 11 {
            0 => None,
            1 => Some(&b""[..]),
            2 => Some(&b"\x00\xff\xfe not UTF-8"[..]),
            _ => Some(value.as_bytes()),
        };
        builder.push(1000 + row * 2 + row / 9, timestamp, key, value);
        for header in 0..row % 4 {
            let name = ["trace", "", "trace"][header as usize];
            builder.header(name, [Some(&b"\x01\x80"[..]), None, Some(b"")][(header + row) as usize % 3]);
        }
    }
    builder.build(1_000_000)
}

fn hex(bytes: Option<&[u8]>) -> Value {
    bytes.map_or(Value::Null, |bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
}
