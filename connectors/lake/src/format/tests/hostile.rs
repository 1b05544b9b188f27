//! Files that claim much with few bytes, as a lake may hold whose hashes are right because its manifests lie as well.
//! What pages of Parquet can claim stands in `archive::pages::tests`.

use super::*;

const MIB: usize = 1 << 20;
/// What decoding holds whatever it decodes.
const SMALL: usize = MIB;

fn format(name: &str) -> &'static FileFormat {
    find(name).unwrap()
}

/// What `file` held while it was read, and the error.
fn refused(file: &File, format: &FileFormat) -> (usize, String) {
    let (held, read) = peak_of(|| file.batches(format).map(drop));
    let error = read.unwrap_err();
    assert_eq!(error.kind(), Kind::Fatal);
    (held, error.message().to_owned())
}

/// An Avro file of one block: the header of a real one, then `count` rows in `rows`.
fn avro(count: i64, rows: &[u8]) -> File {
    let mut file = encode(format("archive.avro"), "null", &[]);
    let header = file.blocks[0].to_vec();
    let sync = &header[header.len() - 16..];
    file.blocks = vec![[&header[..], &varint(count), &varint(rows.len() as i64), rows, sync].concat().into()];
    file
}

/// A row up to its headers.
fn row() -> Vec<u8> {
    [&varint(6)[..], b"orders", &varint(7), &varint(0), &[0, 0, 0, 0]].concat()
}

/// 96 MiB of nothing take a few thousand bytes.
#[test]
fn an_avro_block_is_not_decompressed_beyond_what_the_manifest_counts() {
    let avro = format("archive.avro");
    let bomb = batch(&[plain(0, vec![0; 96 * MIB])]);
    for codec in ["deflate", "snappy", "zstandard"] {
        let mut file = encode(avro, codec, &[(bomb.clone(), Step::Go)]);
        let (held, read) = peak_of(|| file.batches(avro).map(drop));
        read.unwrap();
        assert!(held < 4 * 96 * MIB, "{codec} held {held} bytes");
        file.content = Content { records: 1, raw_bytes: 100 };
        let (held, error) = refused(&file, avro);
        assert!(error.contains("a block comes to more than 67109284 bytes"), "{codec}: {error}");
        assert!(held < 4 * 67_109_284, "{codec} held {held} bytes");
    }
}

#[test]
fn numbers_in_an_avro_file_take_no_memory() {
    let avro_format = format("archive.avro");
    let huge = [1 << 30, 1 << 40, i64::MAX];
    let mut files = Vec::new();
    for number in huge {
        files.push(avro(number, &[]));
        files.push(avro(number, &row()));
        // A string, an array and a map that claim to be so long.
        files.push(avro(1, &varint(number)));
        files.push(avro(1, &[row(), varint(number)].concat()));
        files.push(avro(1, &[row(), varint(-number), varint(number)].concat()));
        files.push(avro(1, &[row(), varint(1), varint(number)].concat()));
        let mut header = avro(1, &row());
        header.blocks = vec![[&b"Obj\x01"[..], &varint(number), &varint(number)].concat().into()];
        files.push(header);
    }
    for file in files {
        let (held, error) = refused(&file, avro_format);
        assert!(held < SMALL, "{held} bytes were held: {error}");
        assert!(error.contains("the Avro file is damaged"), "{error}");
    }
}

/// What takes the most memory for its bytes: a great many things that are empty.
#[test]
fn empty_things_take_memory_by_their_bytes() {
    const COUNT: usize = 200_000;
    let (avro_format, parquet) = (format("archive.avro"), format("archive.parquet"));
    let headers = avro(1, &[row(), varint(COUNT as i64), vec![0; 2 * COUNT], varint(0)].concat());
    let (held, read) = peak_of(|| headers.batches(avro_format).map(drop));
    read.unwrap();
    assert!(held < SMALL + 32 * 2 * COUNT, "{held} bytes of headers");

    let mut pairs = avro(1, &row());
    pairs.blocks =
        vec![[&b"Obj\x01"[..], &varint(COUNT as i64), &vec![0; 2 * COUNT], &varint(0), &[0; 16]].concat().into()];
    let (held, error) = refused(&pairs, avro_format);
    assert!(held < SMALL + 64 * 2 * COUNT, "{held} bytes of metadata: {error}");

    // The footer's lists: elements of the schema, row groups, metadata, in Thrift's compact protocol.
    let whole = encode(parquet, "none", &[(batch(&[plain(0, vec![])]), Step::Go)]);
    let list = |field: u8| {
        let mut bytes = vec![field << 4 | 9, 0xfc];
        let mut len = COUNT;
        while len >= 0x80 {
            bytes.push(len as u8 | 0x80);
            len >>= 7;
        }
        bytes.push(len as u8);
        bytes.extend(vec![0; COUNT]);
        bytes
    };
    let schema = [0x15, 2, 0x19, 0x1c, 0x55, 2, 0].to_vec();
    let none = vec![0x29, 0x0c];
    for (footer, why) in [
        (list(2), "the footer of the Parquet file is damaged"),
        ([schema.clone(), list(2)].concat(), "the file has 200000 row groups, but 2 blocks"),
        ([schema, none, list(1)].concat(), "the file has 0 row groups, but 2 blocks"),
    ] {
        let footer = [&footer[..], &[0]].concat();
        let last = [&footer[..], &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat();
        let mut file = whole.clone();
        file.blocks[1] = last.into();
        let (held, error) = refused(&file, parquet);
        assert!(error.contains(why), "{error}");
        assert!(held < SMALL, "{held} bytes of {why}");
    }
}
