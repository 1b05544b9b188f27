//! The codecs of each format, and their levels.

use super::*;

#[test]
fn what_a_format_does_not_have_is_refused_with_what_it_has() {
    let refused = |result: Result<Compression>| result.unwrap_err().message().to_owned();
    let parquet = find("archive.parquet").unwrap();
    assert_eq!(find("parquet").err().unwrap().kind(), Kind::Config);
    assert_eq!(
        find("csv").err().unwrap().message(),
        "no file format is called \"csv\"; use one of: archive.parquet, archive.avro"
    );
    assert_eq!(
        refused(parquet.compression("brotli", None)),
        "archive.parquet has no codec \"brotli\"; use one of: none, snappy, gzip, lz4_raw, zstd"
    );
    assert_eq!(refused(parquet.compression("zstd", Some(23))), "codec.level 23 is not a level of zstd; use 1 to 22");
    assert_eq!(
        refused(parquet.compression("snappy", Some(1))),
        "codec snappy has no levels, but codec.level is 1; remove codec.level"
    );
    let avro = find("archive.avro").unwrap().compression("zstd", None).unwrap();
    assert_eq!((avro.codec(), avro.level()), ("zstandard", 1));
}

#[test]
fn every_level_of_every_codec_works() {
    let written: Vec<_> = (0..100).map(|offset| plain(offset, noise(100))).collect();
    for format in FORMATS {
        for codec in format.codecs {
            let Some([lowest, _, highest]) = codec.levels else { continue };
            for level in lowest..=highest {
                let compression = format.compression(codec.name, Some(level)).unwrap();
                let mut encoder = format.encoder(header(), compression).unwrap();
                encoder.append(&batch(&written)).unwrap();
                let tail = encoder.finish().unwrap();
                let blocks = check_blocks(&tail, &encoder.take_encoded());
                assert_eq!(
                    File { blocks, tail, content: MUCH }.records(format).unwrap(),
                    written,
                    "{} {level}",
                    codec.name
                );
            }
        }
    }
}
