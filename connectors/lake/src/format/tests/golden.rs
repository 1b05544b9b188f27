//! Files as they were written once, and as others read them.

use super::*;

/// The rows of the golden files: everything that a record can be.
fn golden_records() -> Vec<Record> {
    let header = |key: &str, value: Option<&[u8]>| (key.to_owned(), value.map(<[u8]>::to_vec));
    let mut written: Vec<_> = (100..160).map(|offset| plain(offset * 3, format!("value {offset}").into())).collect();
    written[0].headers =
        vec![header("a", Some(b"1")), header("a", None), header("", Some(b"")), header("ключ", Some(b"\xff"))];
    (written[1].timestamp, written[1].timestamp_type) = (NO_TIMESTAMP, None);
    (written[2].timestamp, written[2].timestamp_type) = (0, Some(TimestampType::Append));
    (written[3].key, written[3].value) = (Some(Vec::new()), None);
    (written[4].key, written[4].value) = (Some(b"key".to_vec()), Some(Vec::new()));
    // The last millisecond of the year 9999: what readers hold that know dates.
    written[5].timestamp = 253_402_300_799_999;
    written[6].timestamp_type = None;
    written[7].value = Some((0..=255).collect());
    written
}

/// Files of earlier versions must stay readable for ever. `LAKEFERRY_GOLDEN=write` writes those that are missing.
#[test]
fn golden_files_are_read_as_they_were_written() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/archive");
    let write = std::env::var("LAKEFERRY_GOLDEN").is_ok_and(|value| value == "write");
    for (format, codec) in codecs() {
        let path = folder.join(format!("v1-{codec}.{}", format.extension));
        let blocks_path = path.with_added_extension("blocks.json");
        if write && !path.exists() {
            let written = batch(&golden_records());
            let file =
                encode(format, codec, &[(written.slice(0..30), Step::EndBlock), (written.slice(30..60), Step::Go)]);
            std::fs::write(&path, file.blocks.concat()).unwrap();
            std::fs::write(&blocks_path, serde_json::to_vec_pretty(&file.tail.blocks).unwrap()).unwrap();
        }
        let bytes = Bytes::from(std::fs::read(&path).unwrap());
        let blocks: Vec<Block> = serde_json::from_slice(&std::fs::read(&blocks_path).unwrap()).unwrap();
        let tail = Tail { blocks, sha256: hex(&Sha256::digest(&bytes)), stored_bytes: bytes.len() as u64 };
        let file = File { blocks: check_blocks(&tail, &bytes), tail, content: MUCH };
        assert_eq!(file.records(format).unwrap(), golden_records(), "{}", path.display());
        let metadata = file.decoder(format).unwrap().metadata().clone();
        let ids = (metadata.cluster_id, metadata.topic_id);
        assert_eq!((metadata.first_offset, ids), (Some(300), (header().cluster_id, header().topic_id)));
    }
}

/// Whoever reads or writes files without this program has nothing but the specification.
#[test]
fn the_specification_shows_the_schemas_and_metadata_of_real_files() {
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    let specification = include_str!("../../../../../docs/manifest-format.md");
    let encoded = |name: &str, codec| {
        let file = encode(find(name).unwrap(), codec, &[(batch(&golden_records()), Step::EndBlock)]);
        Bytes::from(file.blocks.concat())
    };
    let parquet = SerializedFileReader::new(encoded("archive.parquet", "none")).unwrap();
    let footer = parquet.metadata().file_metadata();
    let mut schema = Vec::new();
    parquet::schema::printer::print_schema(&mut schema, footer.schema());
    let schema = String::from_utf8(schema).unwrap();
    assert!(specification.contains(&format!("```\n{}\n```", schema.trim_end())), "{schema}");
    let avro = encoded("archive.avro", "null");
    let said = apache_avro::Reader::new(&avro[..]).unwrap();
    let shown = specification.lines().find(|line| line.starts_with("{\"type\":\"record\"")).unwrap();
    assert!(avro.windows(shown.len()).any(|part| part == shown.as_bytes()), "{:?}", said.writer_schema());
    let is_told = |words: &str| assert!(specification.contains(&format!("| `{words}` | ")), "{words}");
    footer.schema().get_fields().iter().for_each(|column| is_told(column.name()));
    said.user_metadata().keys().for_each(|key| is_told(key));
    let pairs = footer.key_value_metadata().into_iter().flatten();
    pairs.filter(|pair| pair.key.starts_with("lakeferry.")).for_each(|pair| is_told(&pair.key));
    let types = specification.lines().find(|line| line.starts_with("| `timestamp_type` | ")).unwrap_or_default();
    assert!([rows::CREATE, rows::APPEND].iter().all(|word| types.contains(&format!("`{word}`"))), "{types}");
}

#[test]
fn the_avro_crate_reads_what_we_write() {
    use apache_avro::types::Value;
    let format = find("archive.avro").unwrap();
    let written = golden_records();
    for codec in format.codecs {
        let file = encode(format, codec.name, &[(batch(&written), Step::EndBlock)]).blocks.concat();
        let reader = apache_avro::Reader::new(&file[..]).unwrap();
        assert_eq!(reader.user_metadata()["lakeferry.first_offset"], b"300");
        let rows: Vec<_> = reader.map(Result::unwrap).collect();
        assert_eq!(rows.len(), written.len());
        for (row, record) in rows.into_iter().zip(&written) {
            let Value::Record(fields) = row else { panic!("{row:?}") };
            let field = |name: &str| &fields.iter().find(|(field, _)| field == name).unwrap().1;
            assert_eq!(field("offset"), &Value::Long(record.offset));
            let union = |value: Option<Value>| {
                let branch = u32::from(value.is_some());
                Value::Union(branch, Box::new(value.unwrap_or(Value::Null)))
            };
            assert_eq!(field("value"), &union(record.value.clone().map(Value::Bytes)));
            let timestamp = Some(record.timestamp).filter(|timestamp| *timestamp != NO_TIMESTAMP);
            assert_eq!(field("timestamp"), &union(timestamp.map(Value::TimestampMillis)));
            let headers = record.headers.iter().map(|(key, value)| {
                let value = ("value".to_owned(), union(value.clone().map(Value::Bytes)));
                Value::Record(vec![("key".to_owned(), Value::String(key.clone())), value])
            });
            assert_eq!(field("headers"), &Value::Array(headers.collect()));
        }
    }
}
