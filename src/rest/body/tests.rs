use lakeferry_api::measure::peak_of;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// What a handler does with a body.
fn take(text: &[u8]) -> Result<(), ApiError> {
    let mut map = object(parse(text)?, "CreateConnectorRequest", "")?;
    known_fields(&map, "CreateConnectorRequest", &["name", "config", "initial_state", "offsets"])?;
    let mut member = |name: &str| map.remove(name).unwrap_or_default();
    text_of_all(member("name"), member("config"), member("offsets"))
}

fn text_of_all(name: Value, config: Value, offsets: Value) -> Result<(), ApiError> {
    text(name, "name")?;
    text_map(config, "config")?;
    array(offsets, "ArrayList", "offsets").map(drop)
}

/// What is wrong, and where: a place in the text, a member, or the chain of members that leads there.
fn names_the_place(error: &ApiError, text: &[u8]) -> bool {
    let message = &error.message;
    if error.status != StatusCode::INTERNAL_SERVER_ERROR || message.len() > 4 * MAX_SHOWN + 1000 {
        return false;
    }
    let no_json = ["Unexpected end-of-input: ", "Unrecognized token '", "Unexpected character ('"];
    if no_json.iter().any(|begin| message.starts_with(begin)) {
        let place = message.rsplit_once("\n at [line: ").and_then(|(_, place)| place.strip_suffix(']'));
        let place = place.and_then(|place| place.split_once(", column: "));
        let Some((Ok(line), Ok(column))) = place.map(|(line, column)| (line.parse::<usize>(), column.parse::<usize>()))
        else {
            return false;
        };
        let lines: Vec<_> = text.split(|byte| *byte == b'\n').collect();
        return (1..=lines.len()).contains(&line) && column <= lines[line - 1].len();
    }
    // The whole text is JSON then, and what the error names is in it.
    let Ok(value) = serde_json::from_slice::<Value>(text) else { return false };
    if let Some(rest) = message.strip_prefix("Unrecognized field \"") {
        let known = rest.contains("(class CreateConnectorRequest)") && rest.contains("(known properties: \"name\"");
        let mut keys = value.as_object().into_iter().flat_map(Map::keys);
        return known && keys.any(|key| rest.starts_with(&format!("{}\" ", brief(key))));
    }
    let wrong = ["Cannot construct instance of `", "Cannot deserialize value of type `"];
    let chain = message.rsplit_once(" (through reference chain: ").and_then(|(_, chain)| chain.strip_suffix(')'));
    let chain_is_there = match chain {
        None => message.contains("`CreateConnectorRequest`") && !value.is_object(),
        Some(chain) => match chain.split_once("->") {
            None => value.get(chain).is_some() || chain == "offsets" && value.get(chain).is_none(),
            Some((outer, _)) => {
                let mut keys = value[outer].as_object().into_iter().flat_map(Map::keys);
                keys.any(|key| brief(&format!("{outer}->{key}")) == chain)
            }
        },
    };
    wrong.iter().any(|begin| message.starts_with(begin)) && chain_is_there
}

/// Beyond its own length a body takes up to some hundred bytes for each of its values.
fn most_held(text: &[u8]) -> usize {
    (16 << 10) + 8 * text.len() + 400 * count_values(text)
}

fn check(text: &[u8]) -> Result<(), TestCaseError> {
    let (held, taken) = peak_of(|| take(text));
    prop_assert!(held <= most_held(text), "{held} bytes of {}", text.len());
    if let Err(error) = taken {
        prop_assert!(names_the_place(&error, text), "{error:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes)?;
    }

    #[test]
    fn no_damage_makes_it_panic(
        at in any::<prop::sample::Index>(), len in 0..20usize,
        with in "([\\[\\]{}\",:0-9a-zü.+eE\\\\-]|\n){0,12}",
    ) {
        let whole = r#"{"name":"c","config":{"a":1.50e1,"b":true,"c":null,"d":"x \" ü"},"offsets":[{"partition":{},"offset":-1E+2}]}"#;
        let mut text = whole.as_bytes().to_vec();
        let at = at.index(text.len());
        text.splice(at..(at + len).min(text.len()), with.bytes());
        check(&text)?;
    }

    /// A text that is well formed and none of ours: some member of it is told.
    #[test]
    fn what_is_none_of_ours_is_told_by_its_place(
        key in "[a-z\"\\\\é]{0,600}", which in 0..4, value in prop_oneof![
            Just(json!([1])), Just(json!({"a": [true]})), Just(json!(1.5)), Just(json!("t")), Just(Value::Null),
        ],
    ) {
        let body = match which {
            0 => json!({ key.as_str(): value }),
            1 => json!({ "name": value, "offsets": [] }),
            2 => json!({ "name": "c", "config": { key.as_str(): value }, "offsets": [] }),
            _ => json!({ "name": "c", "config": value, "offsets": value }),
        };
        check(body.to_string().as_bytes())?;
    }
}

#[test]
fn nesting_without_end_is_refused() {
    for open in ["[", "{\"a\":"] {
        let text = open.repeat(100_000);
        check(text.as_bytes()).unwrap();
        assert!(take(text.as_bytes()).is_err());
        assert!(take(open.repeat(500_000).as_bytes()).is_err());
    }
}

/// What takes the most memory for its bytes is many small values: then they are counted, and refused unread.
#[test]
fn a_body_of_too_many_values_is_refused_before_they_are_held() {
    let body = |item: &str, count: usize| {
        let items = item.repeat(count);
        format!("{{\"offsets\":[{}]}}", items.trim_end_matches(','))
    };
    for item in ["0,", "[],", "{},", "\"\",", "1e1,", "{\"\":0},", "\"[,{\\\"[,{\","] {
        let some = body(item, 50_000);
        let (held, taken) = peak_of(|| take(some.as_bytes()));
        taken.unwrap();
        assert!(held <= most_held(some.as_bytes()), "{item}: {held} bytes");
        if item.len() > 10 {
            continue;
        }
        let many = body(item, BODY_VALUES);
        let (held, taken) = peak_of(|| take(many.as_bytes()));
        let expected = "The body of a request may hold 131072 values at most";
        assert_eq!(taken.unwrap_err(), ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, expected));
        assert!(held < 1 << 10, "{item}: {held} bytes");
    }
}

fn refusal(text: &str) -> String {
    malformed(text.as_bytes(), &serde_json::from_str::<Value>(text).unwrap_err())
}

#[test]
fn malformed_json_is_described_as_connect_does() {
    assert!(refusal("{").starts_with("Unexpected end-of-input: "));
    assert!(refusal("nope").starts_with("Unrecognized token 'nope': was expecting (JSON String"));
    assert!(refusal("{\"a\":1} trailing").starts_with("Unrecognized token 'trailing'"));
    assert!(refusal("{\"name\":\"a\",}").starts_with("Unexpected character ('}' (code 125)): "));
    assert!(refusal("{'name':'a'}").starts_with("Unexpected character (''' (code 39)): "));
    assert!(refusal("{\n  ?}").ends_with("at [line: 2, column: 3]"));
}

#[test]
fn text_keeps_the_letters_of_numbers() {
    let shown = |text: &str| {
        let value = with_literal_numbers(serde_json::from_str(text).unwrap(), text.as_bytes());
        let map = text_map(value, "").unwrap().unwrap();
        map.into_values().map(|value| value.unwrap_or("null".to_owned())).collect::<Vec<_>>()
    };
    let text = r#"{"a":1.50e1,"b":true,"c":null,"d":"x 7 \" 8","e":-1E+2,"f":12345678901234567890.0}"#;
    assert_eq!(shown(text), ["1.50e1", "true", "null", "x 7 \" 8", "-1E+2", "12345678901234567890.0"]);
    assert_eq!(shown(r#"{"a":1,"a":2e1,"b":3}"#), ["2e+1", "3"]);
}

#[test]
fn wrong_types_are_named_with_their_place() {
    let nested = text_map(json!({"x": [1]}), "config").unwrap_err();
    let words = "Cannot deserialize value of type `String` from Array value (token `JsonToken.START_ARRAY`) \
                 (through reference chain: config->x)";
    assert_eq!(nested, ApiError::internal(words));
    let flat = format!("{:?}", text_map(json!("x"), "").unwrap_err());
    assert!(flat.contains("Cannot construct instance of `Map<String,String>`"), "{flat}");
}
