//! Records that no client library produces (header keys that are not UTF-8, timestamps of 0 or none), as the bytes that
//! Kafka stores: one record batch of format 2, uncompressed.

/// A record, byte for byte. A timestamp of -1 is none.
#[derive(Debug, Clone, Default)]
pub struct RawRecord {
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// The batch of these records.
pub(super) fn batch(records: &[RawRecord]) -> Vec<u8> {
    let base = records.first().map_or(0, |record| record.timestamp);
    let max = records.iter().map(|record| record.timestamp).max().unwrap_or(base);
    let count = records.len() as i32;
    let mut checked = Vec::new();
    checked.extend_from_slice(&0_i16.to_be_bytes());
    checked.extend_from_slice(&(count - 1).to_be_bytes());
    checked.extend_from_slice(&base.to_be_bytes());
    checked.extend_from_slice(&max.to_be_bytes());
    // No producer id, epoch or sequence: nobody retries this.
    checked.extend_from_slice(&[0xff; 8 + 2 + 4]);
    checked.extend_from_slice(&count.to_be_bytes());
    for (offset, one) in (0..).zip(records) {
        let bytes = record(one, one.timestamp - base, offset);
        varint(&mut checked, bytes.len() as i64);
        checked.extend_from_slice(&bytes);
    }
    // Leader epoch, magic and checksum belong to the length; base offset and the length itself do not.
    let length = (4 + 1 + 4 + checked.len()) as i32;
    let mut batch = 0_i64.to_be_bytes().to_vec();
    batch.extend_from_slice(&length.to_be_bytes());
    batch.extend_from_slice(&(-1_i32).to_be_bytes());
    batch.push(2);
    batch.extend_from_slice(&crc32c(&checked).to_be_bytes());
    batch.extend_from_slice(&checked);
    batch
}

fn record(record: &RawRecord, timestamp: i64, offset: i64) -> Vec<u8> {
    let mut bytes = vec![0];
    varint(&mut bytes, timestamp);
    varint(&mut bytes, offset);
    nullable(&mut bytes, record.key.as_deref());
    nullable(&mut bytes, record.value.as_deref());
    varint(&mut bytes, record.headers.len() as i64);
    for (key, value) in &record.headers {
        nullable(&mut bytes, Some(key));
        nullable(&mut bytes, value.as_deref());
    }
    bytes
}

fn nullable(bytes: &mut Vec<u8>, value: Option<&[u8]>) {
    varint(bytes, value.map_or(-1, |value| value.len() as i64));
    bytes.extend_from_slice(value.unwrap_or_default());
}

/// Zigzag, seven bits a byte.
fn varint(bytes: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
