//! Cases for every converter; what is expected was read off Kafka's own converters (4.3.1).

use std::sync::Arc;

use ::bytes::Bytes;
use lakeferry_api::convert::{Converter, HeaderConverter, Usage};
use lakeferry_api::schema::{Field, Type};
use lakeferry_api::{Config, Datum, Kind, Schema, Value, logical};
use proptest::prelude::*;

use super::*;

fn config(pairs: &[(&str, &str)]) -> Config {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn configured<C: Converter + Default>(pairs: &[(&str, &str)]) -> C {
    let mut converter = C::default();
    converter.configure(&config(pairs), Usage::Value).unwrap();
    converter
}

fn string(text: &str) -> Value {
    Value::String(text.into())
}

fn plain(kind: Type, value: Value) -> Datum {
    Datum::new(Arc::new(Schema::new(kind)), value)
}

/// Decodes to `value` with an optional schema, and encodes that again to the same bytes.
fn goes_both_ways(converter: &dyn Converter, kind: Type, value: Value, bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let datum = converter.decode("t", Some(&bytes)).unwrap();
    assert_eq!(datum, Datum::new(Arc::new(Schema::optional(kind.clone())), value));
    assert_eq!(converter.encode("t", &datum).unwrap(), Some(bytes));
    let null = converter.decode("t", None).unwrap();
    assert_eq!(null, Datum::new(Arc::new(Schema::optional(kind)), Value::Null));
    assert_eq!(converter.encode("t", &null).unwrap(), None);
}

fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Data, "{error}");
    error.message().to_owned()
}

#[test]
fn plain_converters_go_both_ways() {
    goes_both_ways(&ByteArrayConverter, Type::Bytes, Value::Bytes(Bytes::from_static(b"\0\xff")), b"\0\xff");
    goes_both_ways(&ByteArrayConverter, Type::Bytes, Value::Bytes(Bytes::new()), b"");
    goes_both_ways(&BooleanConverter, Type::Boolean, Value::Boolean(true), &[1]);
    goes_both_ways(&BooleanConverter, Type::Boolean, Value::Boolean(false), &[0]);
    goes_both_ways(&ShortConverter, Type::Int16, Value::Int16(-2), &[0xff, 0xfe]);
    goes_both_ways(&IntegerConverter, Type::Int32, Value::Int32(258), &[0, 0, 1, 2]);
    goes_both_ways(&LongConverter, Type::Int64, Value::Int64(i64::MIN), &[0x80, 0, 0, 0, 0, 0, 0, 0]);
    goes_both_ways(&FloatConverter, Type::Float32, Value::Float32(1.5), &[0x3f, 0xc0, 0, 0]);
    goes_both_ways(&DoubleConverter, Type::Float64, Value::Float64(-0.5), &[0xbf, 0xe0, 0, 0, 0, 0, 0, 0]);
    goes_both_ways(
        &configured::<StringConverter>(&[]),
        Type::String,
        string("g\u{fc}n\u{1f600}"),
        "g\u{fc}n\u{1f600}".as_bytes(),
    );
}

#[test]
fn plain_converters_refuse_what_is_not_theirs() {
    let wrong = plain(Type::String, string("x"));
    let encode = |converter: &dyn Converter, datum: &Datum| refusal(converter.encode("t", datum));
    assert_eq!(encode(&ByteArrayConverter, &wrong), "Invalid schema type for ByteArrayConverter: STRING");
    let schemaless = Datum::schemaless(Value::Int64(1));
    let message = "ByteArrayConverter is not compatible with objects of type class java.lang.Long";
    assert_eq!(encode(&ByteArrayConverter, &schemaless), message);
    assert_eq!(encode(&BooleanConverter, &wrong), "Invalid schema type for BooleanConverter: STRING");
    let message = "Failed to serialize to integer (was class java.lang.Long)";
    assert_eq!(encode(&IntegerConverter, &schemaless), message);
    let bytes = |bytes: &'static [u8]| Some(Bytes::from_static(bytes));
    for (converter, bytes) in [
        (&BooleanConverter as &dyn Converter, bytes(&[2])),
        (&BooleanConverter, bytes(&[0, 1])),
        (&ShortConverter, bytes(&[1])),
        (&LongConverter, bytes(&[1, 2, 3])),
        (&DoubleConverter, bytes(&[])),
    ] {
        assert!(refusal(converter.decode("t", bytes.as_ref())).starts_with("Failed to deserialize"));
    }
}

#[test]
fn number_converters_do_not_look_at_the_schema() {
    let datum = plain(Type::String, Value::Int32(7));
    assert_eq!(IntegerConverter.encode("t", &datum).unwrap().unwrap(), [0, 0, 0, 7].as_slice());
}

#[test]
fn strings_are_written_in_their_encoding_and_in_javas_words() {
    let cases = [
        ("UTF-8", "\u{e9}", b"\xc3\xa9".as_slice()),
        ("utf8", "", b""),
        ("US-ASCII", "\u{e9}a", b"?a"),
        ("ISO-8859-1", "\u{e9}\u{20ac}", b"\xe9?"),
        ("UTF-16", "a", b"\xfe\xff\0a"),
        ("UTF-16", "", b""),
        ("UTF-16BE", "a", b"\0a"),
        ("UTF-16LE", "a", b"a\0"),
    ];
    for (encoding, text, bytes) in cases {
        let converter: StringConverter = configured(&[("converter.encoding", encoding)]);
        assert_eq!(converter.encode("t", &Datum::schemaless(string(text))).unwrap().unwrap(), bytes, "{encoding}");
    }
    let read = |encoding, bytes: &'static [u8]| {
        let converter: StringConverter = configured(&[("converter.encoding", encoding)]);
        converter.decode("t", Some(&Bytes::from_static(bytes))).unwrap().value
    };
    assert_eq!(read("UTF-16", b"\xff\xfea\0"), string("a"));
    assert_eq!(read("UTF-16", b"\0a"), string("a"));
    assert_eq!(read("UTF-8", b"\xff"), string("\u{fffd}"));
    assert_eq!(read("US-ASCII", b"\xe9"), string("\u{fffd}"));
    assert_eq!(read("ISO-8859-1", b"\xe9"), string("\u{e9}"));
    let converter: StringConverter = configured(&[]);
    let double = Datum::schemaless(Value::Float64(1e10));
    assert_eq!(converter.encode("t", &double).unwrap().unwrap(), "1.0E10");
    let bytes = Datum::schemaless(Value::Bytes(Bytes::from_static(b"x")));
    assert!(refusal(converter.encode("t", &bytes)).contains("ByteArrayConverter"));
    let refused = StringConverter::default().configure(&config(&[("converter.encoding", "EBCDIC")]), Usage::Key);
    assert!(refused.unwrap_err().message().contains("EBCDIC"));
}

const SCHEMALESS: &[(&str, &str)] = &[("schemas.enable", "false")];

fn json(pairs: &[(&str, &str)], text: &str) -> Result<Datum> {
    configured::<JsonConverter>(pairs).decode("t", Some(&Bytes::copy_from_slice(text.as_bytes())))
}

fn to_json(pairs: &[(&str, &str)], datum: &Datum) -> Result<Option<String>> {
    let bytes = configured::<JsonConverter>(pairs).encode("t", datum)?;
    Ok(bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()))
}

#[test]
fn schemaless_json_is_read_by_its_form() {
    let cases = [
        ("null", Value::Null),
        ("", Value::Null),
        (" \n", Value::Null),
        ("true", Value::Boolean(true)),
        ("12", Value::Int64(12)),
        ("007", Value::Int64(7)),
        ("18446744073709551617", Value::Int64(1)),
        ("12.0", Value::Float64(12.0)),
        ("1e2", Value::Float64(100.0)),
        ("-0.0", Value::Float64(0.0)),
        ("\"a\\u00e9\"", string("a\u{e9}")),
        ("[1,null,\"007\"]", Value::Array(vec![Value::Int64(1), Value::Null, string("007")])),
        ("{\"b\":1,\"a\":[]}", Value::Map(vec![(string("b"), Value::Int64(1)), (string("a"), Value::Array(vec![]))])),
        ("1 this is not looked at", Value::Int64(1)),
    ];
    for (text, value) in cases {
        assert_eq!(json(SCHEMALESS, text).unwrap(), Datum::schemaless(value), "{text}");
    }
    for text in ["{", "nul", "[1,]", "\"", "{\"a\"}"] {
        assert!(
            refusal(json(SCHEMALESS, text)).starts_with("Converting byte[] to Kafka Connect data failed"),
            "{text}"
        );
    }
}

#[test]
fn an_envelope_has_exactly_schema_and_payload() {
    for text in
        ["1", "{}", "", "{\"schema\":null}", "{\"schema\":null,\"payload\":1,\"x\":2}", "{\"payload\":1,\"scheme\":2}"]
    {
        assert!(refusal(json(&[], text)).starts_with("JsonConverter with schemas.enable requires"), "{text}");
    }
    assert_eq!(json(&[], "{\"payload\":1,\"schema\":null}").unwrap(), Datum::schemaless(Value::Int64(1)));
    assert_eq!(configured::<JsonConverter>(&[]).decode("t", None).unwrap(), Datum::NULL);
}

#[test]
fn payloads_are_read_loosely() {
    let cases = [
        (r#"{"type":"boolean"}"#, "\"x\"", Value::Boolean(false)),
        (r#"{"type":"int8"}"#, "300", Value::Int8(44)),
        (r#"{"type":"int32"}"#, "\"x\"", Value::Int32(0)),
        (r#"{"type":"int32"}"#, "1.9", Value::Int32(1)),
        (r#"{"type":"int64"}"#, "-9223372036854775808", Value::Int64(i64::MIN)),
        (r#"{"type":"double"}"#, "1", Value::Float64(1.0)),
        (r#"{"type":"string"}"#, "5", Value::Null),
        (r#"{"type":"bytes"}"#, "\"QUJD\"", Value::Bytes(Bytes::from_static(b"ABC"))),
        (r#"{"type":"string","default":"d"}"#, "null", string("d")),
        (r#"{"type":"int32","optional":true}"#, "null", Value::Null),
        (r#"{"type":"array","items":{"type":"int8"}}"#, "{\"a\":1}", Value::Array(vec![Value::Int8(1)])),
        (
            r#"{"type":"map","keys":{"type":"int32"},"values":{"type":"string"}}"#,
            "[[1,\"x\"]]",
            Value::Map(vec![(Value::Int32(1), string("x"))]),
        ),
        (
            r#"{"type":"struct","fields":[{"type":"int8","field":"a"},{"type":"string","optional":true,"field":"b"}]}"#,
            "{\"a\":1,\"c\":2}",
            Value::Struct(vec![Value::Int8(1), Value::Null]),
        ),
    ];
    for (schema, payload, value) in cases {
        let text = format!("{{\"schema\":{schema},\"payload\":{payload}}}");
        assert_eq!(json(&[], &text).unwrap().value, value, "{text}");
    }
}

#[test]
fn json_refuses_in_kafkas_words() {
    let cases = [
        (r#"{"type":"int32"}"#, "null", "Invalid null value for required INT32 field"),
        (r#"{"type":"int12"}"#, "1", "Unknown schema type: int12"),
        (r#"{"optional":true}"#, "1", "Schema must contain 'type' field"),
        (r#"{"type":"array"}"#, "[]", "Array schema did not specify the element type"),
        (r#"{"type":"struct"}"#, "{}", "Struct schema's \"fields\" argument is not an array."),
        (r#"{"type":"struct","fields":[]}"#, "1", "Structs should be encoded as JSON objects, but found NUMBER"),
        (
            r#"{"type":"struct","fields":[{"type":"string","field":"f"}]}"#,
            "{\"f\":1}",
            "Invalid value: null used for required field: \"f\", schema type: STRING",
        ),
        (
            r#"{"type":"map","keys":{"type":"string"},"values":{"type":"string"}}"#,
            "[]",
            "Maps with string fields should be encoded as JSON objects, but found ARRAY",
        ),
        (r#"{"type":"int32","parameters":{"a":1}}"#, "1", "Schema parameters must have string values."),
        (
            r#"{"type":"int32","name":"org.apache.kafka.connect.data.Date"}"#,
            "\"x\"",
            "Invalid type for Date, underlying representation should be integer but was STRING",
        ),
        (r#"{"type":"bytes"}"#, "\"!\"", "Invalid bytes field"),
    ];
    for (schema, payload, message) in cases {
        let text = format!("{{\"schema\":{schema},\"payload\":{payload}}}");
        assert_eq!(refusal(json(&[], &text)), message, "{text}");
    }
}

/// A struct with one field of every kind, and the JSON that Kafka's converter writes for it.
#[test]
fn json_is_written_as_kafka_writes_it() {
    let field = |name: &str, schema: Schema| Field { name: name.into(), schema: Arc::new(schema) };
    let mut decimal = Schema::optional(Type::Bytes).named(logical::DECIMAL, 1);
    decimal.parameters.insert(logical::SCALE.to_owned(), "2".to_owned());
    let mut with_default = Schema::new(Type::Int32);
    with_default.default = Some(Value::Int32(5));
    let mut documented = Schema::new(Type::String);
    documented.doc = Some("D\u{1f}\"".into());
    let kinds = vec![
        field("d", decimal),
        field("i", with_default),
        field("s", documented),
        field("t", Schema::new(Type::Int64).named(logical::TIMESTAMP, 1)),
        field(
            "m",
            Schema::new(Type::Map(Arc::new(Schema::new(Type::Int8)), Arc::new(Schema::optional(Type::Float64)))),
        ),
        field("a", Schema::new(Type::Array(Arc::new(Schema::new(Type::Bytes))))),
    ];
    let values = vec![
        Value::Bytes(Bytes::from_static(&[0, 150])),
        Value::Null,
        string("\u{1f600}\u{e9}\n"),
        Value::Int64(7),
        Value::Map(vec![(Value::Int8(1), Value::Float64(f64::NAN)), (Value::Int8(2), Value::Null)]),
        Value::Array(vec![Value::Bytes(Bytes::from_static(b"ABC"))]),
    ];
    let datum = plain(Type::Struct(kinds), Value::Struct(values));
    let payload = "{\"d\":\"AJY=\",\"i\":5,\"s\":\"\\uD83D\\uDE00\u{e9}\\n\",\"t\":7,\"m\":[[1,\"NaN\"],[2,null]],\"a\":[\"QUJD\"]}";
    assert_eq!(to_json(SCHEMALESS, &datum).unwrap().unwrap(), payload);
    let schema = concat!(
        r#"{"type":"struct","fields":["#,
        r#"{"type":"bytes","optional":true,"name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"scale":"2"},"field":"d"},"#,
        r#"{"type":"int32","optional":false,"default":5,"field":"i"},"#,
        r#"{"type":"string","optional":false,"doc":"D\u001F\"","field":"s"},"#,
        r#"{"type":"int64","optional":false,"name":"org.apache.kafka.connect.data.Timestamp","version":1,"field":"t"},"#,
        r#"{"type":"map","keys":{"type":"int8","optional":false},"values":{"type":"double","optional":true},"optional":false,"field":"m"},"#,
        r#"{"type":"array","items":{"type":"bytes","optional":false},"optional":false,"field":"a"}],"optional":false}"#,
    );
    let envelope = to_json(&[], &datum).unwrap().unwrap();
    assert_eq!(envelope, format!("{{\"schema\":{schema},\"payload\":{payload}}}"));
    let numeric = to_json(&[("schemas.enable", "false"), ("decimal.format", "numeric")], &datum).unwrap().unwrap();
    assert!(numeric.starts_with("{\"d\":1.50,"), "{numeric}");
    assert_eq!(json(&[], &envelope).unwrap().schema, datum.schema);
}

#[test]
fn only_neither_schema_nor_value_is_a_tombstone() {
    let optional = Datum::new(Arc::new(Schema::optional(Type::Int32)), Value::Null);
    assert_eq!(to_json(&[], &Datum::NULL).unwrap(), None);
    assert_eq!(to_json(SCHEMALESS, &Datum::NULL).unwrap(), None);
    assert_eq!(to_json(SCHEMALESS, &optional).unwrap().unwrap(), "null");
    let envelope = r#"{"schema":{"type":"int32","optional":true},"payload":null}"#;
    assert_eq!(to_json(&[], &optional).unwrap().unwrap(), envelope);
    let required = plain(Type::Int32, Value::Null);
    let message = "Conversion error: null value for field that is required and has no default value";
    assert_eq!(refusal(to_json(&[], &required)), message);
    let mut schema = Schema::optional(Type::Int32);
    schema.default = Some(Value::Int32(3));
    let defaulted = Datum::new(Arc::new(schema), Value::Null);
    assert_eq!(to_json(SCHEMALESS, &defaulted).unwrap().unwrap(), "3");
    let kept = [("schemas.enable", "false"), ("replace.null.with.default", "false")];
    assert_eq!(to_json(&kept, &defaulted).unwrap().unwrap(), "null");
}

#[test]
fn a_schema_from_the_config_reads_bare_payloads() {
    let content = [("schema.content", r#"{"type":"int8","optional":true}"#)];
    assert_eq!(json(&content, "3").unwrap(), Datum::new(Arc::new(Schema::optional(Type::Int8)), Value::Int8(3)));
    let refused = JsonConverter::default().configure(&config(&[("schema.content", "nope")]), Usage::Value);
    assert!(refused.unwrap_err().message().contains("schema.content"));
}

fn inferred(text: &str) -> Datum {
    SimpleHeaderConverter.decode("t", "k", Some(&Bytes::copy_from_slice(text.as_bytes()))).unwrap()
}

#[test]
fn headers_are_read_by_inference() {
    let named = |name: &str, kind, value| Datum::new(Arc::new(Schema::new(kind).named(name, 1)), value);
    let cases = [
        ("", plain(Type::String, string(""))),
        (" null ", Datum::NULL),
        ("true", plain(Type::Boolean, Value::Boolean(true))),
        ("True", plain(Type::String, string("True"))),
        ("true}", plain(Type::String, string("true}"))),
        ("123", plain(Type::Int8, Value::Int8(123))),
        ("1.0", plain(Type::Int8, Value::Int8(1))),
        ("-129", plain(Type::Int16, Value::Int16(-129))),
        ("70000", plain(Type::Int32, Value::Int32(70000))),
        ("9223372036854775807", plain(Type::Int64, Value::Int64(i64::MAX))),
        ("0.1", plain(Type::Float32, Value::Float32(0.1))),
        ("1e300", plain(Type::Float64, Value::Float64(1e300))),
        ("12 a", plain(Type::String, string("12 a"))),
        ("x\\:y", plain(Type::String, string("x\\:y"))),
        ("2020-01-02", named(logical::DATE, Type::Int32, Value::Int32(18263))),
        ("12:34:56.789Z", named(logical::TIME, Type::Int32, Value::Int32(45_296_789))),
        ("2020-01-02T00:00:00.001Z", named(logical::TIMESTAMP, Type::Int64, Value::Int64(1_577_923_200_001))),
        (
            "[1,300]",
            plain(
                Type::Array(Arc::new(Schema::new(Type::Int16))),
                Value::Array(vec![Value::Int16(1), Value::Int16(300)]),
            ),
        ),
        ("[1,\"a\"]", Datum::schemaless(Value::Array(vec![Value::Int8(1), string("a")]))),
        ("[1,null]", plain(Type::String, string("[1,null]"))),
        ("[null]", Datum::schemaless(Value::Array(vec![Value::Null]))),
        ("[a]", plain(Type::String, string("[a]"))),
        (
            "{\"a\":1}",
            plain(
                Type::Map(Arc::new(Schema::new(Type::String)), Arc::new(Schema::new(Type::Int8))),
                Value::Map(vec![(string("a"), Value::Int8(1))]),
            ),
        ),
        ("{\"a\":1", plain(Type::String, string("{\"a\":1"))),
    ];
    for (text, datum) in cases {
        assert_eq!(inferred(text), datum, "{text:?}");
    }
    let mut schema = Schema::new(Type::Bytes).named(logical::DECIMAL, 1);
    schema.parameters.insert(logical::SCALE.to_owned(), "0".to_owned());
    let bytes = Value::Bytes(Bytes::from_static(&[0, 128, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(inferred("9223372036854775808"), Datum::new(Arc::new(schema), bytes));
}

#[test]
fn headers_are_written_as_text() {
    let map =
        Value::Map(vec![(string("k\"\\"), Value::Array(vec![Value::Null, Value::Bytes(Bytes::from_static(b"ABC"))]))]);
    let date = |ms| plain(Type::Int64, Value::Int64(ms));
    let timestamp =
        |ms: i64| Datum::new(Arc::new(Schema::new(Type::Int64).named(logical::TIMESTAMP, 1)), Value::Int64(ms));
    let cases = [
        (Datum::schemaless(string("a\"b")), "a\"b"),
        (Datum::schemaless(Value::Float32(1.0)), "1.0"),
        (Datum::schemaless(Value::Bytes(Bytes::from_static(b"ABC"))), "QUJD"),
        (Datum::schemaless(map), "{\"k\\\"\\\\\":[null,\"QUJD\"]}"),
        (date(5), "5"),
        (timestamp(5), "00:00:00.005Z"),
        (timestamp(86_400_000), "1970-01-02"),
        (timestamp(86_400_001), "1970-01-02T00:00:00.001Z"),
    ];
    for (datum, text) in cases {
        let bytes = SimpleHeaderConverter.encode("t", "k", &datum).unwrap().unwrap();
        assert_eq!(String::from_utf8(bytes.to_vec()).unwrap(), text);
    }
    assert_eq!(SimpleHeaderConverter.encode("t", "k", &Datum::NULL).unwrap(), None);
    assert_eq!(SimpleHeaderConverter.decode("t", "k", None).unwrap(), Datum::NULL);
}

#[test]
fn a_header_nested_without_end_stays_bytes() {
    let deep = "[".repeat(100_000);
    assert_eq!(inferred(&deep), plain(Type::Bytes, Value::Bytes(Bytes::from(deep))));
}

proptest! {
    #[test]
    fn no_header_panics(text in "[\\[\\]{},:\"\\\\a1.5e+Z \u{e9}tT-]{0,40}") {
        inferred(&text);
    }

    #[test]
    fn no_json_panics(text in "[\\[\\]{},:\"\\\\a1.5e+ntru-]{0,40}") {
        let _ = json(SCHEMALESS, &text);
        let _ = json(&[], &format!("{{\"schema\":{{\"type\":\"int32\"}},\"payload\":{text}}}"));
    }

    #[test]
    fn strings_survive_json(text in ".{0,40}") {
        let datum = plain(Type::String, string(&text));
        prop_assert_eq!(json(&[], &to_json(&[], &datum).unwrap().unwrap()).unwrap(), datum);
    }
}
