//! The exact JSON of Connect's own records: compact, members in a given order. Pure.
//!
//! An offset record's key is `["<connector>",{<source partition>}]` and its value `{<source offset>}`. Java compares
//! keys as bytes, in whatever member order a connector's map had; we compare what they mean.

use lakeferry_api::{ConnectError, Result, SourceOffset, SourcePartition};
use serde_json::Value;

/// The key of an offset record as we write a new one.
pub fn offset_key(connector: &str, partition: &SourcePartition) -> String {
    format!("[{},{}]", Value::from(connector), partition.as_str())
}

/// The value of an offset record.
pub fn offset_value(offset: &SourceOffset) -> String {
    Value::from(offset.as_map().clone()).to_string()
}

/// Reads the key of an offset record: connector and source partition.
///
/// # Errors
/// `Data` where it is none.
pub fn parse_offset_key(key: &Value) -> Result<(String, SourcePartition)> {
    match key.as_array().map(Vec::as_slice) {
        Some([Value::String(connector), Value::Object(partition)]) => {
            Ok((connector.clone(), SourcePartition::new(partition)?))
        }
        _ => Err(ConnectError::data(format!("an offset's key is [\"connector\",{{partition}}], not {key}"))),
    }
}

/// Reads the value of an offset record.
///
/// # Errors
/// `Data` where it is none.
pub fn parse_offset_value(value: Value) -> Result<SourceOffset> {
    match value {
        Value::Object(offset) => SourceOffset::new(offset),
        _ => Err(ConnectError::data(format!("an offset is a JSON object, not {value}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn offset_records_are_what_connect_writes() {
        let partition = SourcePartition::new(json!({"filename": "/tmp/\"in\".txt"}).as_object().unwrap()).unwrap();
        let key = offset_key("local-\"file\"", &partition);
        assert_eq!(key, r#"["local-\"file\"",{"filename":"/tmp/\"in\".txt"}]"#);
        let read = parse_offset_key(&serde_json::from_str(&key).unwrap()).unwrap();
        assert_eq!(read, ("local-\"file\"".to_owned(), partition));
        let offset: Value = serde_json::from_str(r#"{"position":1.50,"at":null}"#).unwrap();
        assert_eq!(offset_value(&parse_offset_value(offset).unwrap()), r#"{"position":1.50,"at":null}"#);
    }

    #[test]
    fn refuses_what_is_no_offset_record() {
        for key in [json!("c"), json!(["c"]), json!([1, {}]), json!(["c", {"a": [1]}]), json!(["c", null])] {
            assert!(parse_offset_key(&key).is_err(), "{key}");
        }
        assert!(parse_offset_value(json!([1])).is_err());
        assert!(parse_offset_value(json!({"a": {"b": 1}})).is_err());
    }
}
