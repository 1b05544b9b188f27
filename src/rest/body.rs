//! Request bodies. Read as loosely as Connect reads them (numbers and booleans are text where text is expected, keeping
//! their letters), refused in words that begin as Connect's do, because clients match them. A body is bounded, and so
//! are all that are read at a time: a large one needs leave.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::server::Client;

/// The largest body that is read: a distributed worker's config topic takes a quarter of it in one record.
const BODY_BYTES: usize = 4 << 20;
/// A body up to here is read without leave.
pub(super) const SMALL_BODY_BYTES: usize = 64 << 10;
/// Values in one body: each takes up to some hundred bytes of memory, and two bytes of the body if it is empty.
const BODY_VALUES: usize = 128 << 10;
/// Of a longer text an error shows the beginning.
const MAX_SHOWN: usize = 500;

/// The JSON of a request's body; null where there is none.
pub(super) struct Body(pub(super) Value);

/// A flat map; `None` is JSON's null.
pub(super) type TextMap = BTreeMap<String, Option<String>>;

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let typed = request.headers().contains_key(header::CONTENT_TYPE);
        let bytes = read(request).await?;
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Value::Null));
        }
        if !typed {
            return Err(ApiError::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        parse(text).map(Self)
    }
}

fn parse(text: &[u8]) -> Result<Value, ApiError> {
    if count_values(text) > BODY_VALUES {
        return Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The body of a request may hold {BODY_VALUES} values at most"),
        ));
    }
    match serde_json::from_slice(text) {
        Ok(value) => Ok(with_literal_numbers(value, text)),
        Err(error) => Err(ApiError::internal(malformed(text, &error))),
    }
}

/// How many values a JSON text holds at most, well formed or not: as many as begin, and one behind each comma.
fn count_values(text: &[u8]) -> usize {
    let mut count = 1;
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        count += usize::from(b"[{,".contains(byte));
        rest = if *byte == b'"' { after_string(after) } else { after };
    }
    count
}

/// The bytes of a body. One that is refused is read to its end all the same, and thrown away: a client that is cut off
/// while it sends does not see the answer.
async fn read(request: Request) -> Result<BytesMut, ApiError> {
    let client = request.extensions().get::<Client>().cloned();
    let _waiting = client.as_ref().map(Client::wait);
    let mut body = request.into_body();
    let (mut bytes, mut leave, mut refusal) = (BytesMut::new(), None, None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("The body cannot be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if refusal.is_some() {
            continue;
        }
        let length = bytes.len() + data.len();
        if length > SMALL_BODY_BYTES && leave.is_none() {
            leave = client.as_ref().and_then(Client::may_send_much);
        }
        if length > BODY_BYTES {
            refusal = Some(ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("The body of a request may have {BODY_BYTES} bytes at most"),
            ));
        } else if length > SMALL_BODY_BYTES && leave.is_none() {
            refusal = Some(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("Too many bodies of more than {SMALL_BODY_BYTES} bytes are sent at this moment; try again"),
            ));
        } else {
            bytes.extend_from_slice(&data);
            continue;
        }
        (bytes, leave) = (BytesMut::new(), None);
    }
    if let Some((client, leave)) = client.as_ref().zip(leave) {
        client.keep_until_answered(leave);
    }
    refusal.map_or(Ok(bytes), Err)
}

/// The members of an object.
///
/// # Errors
/// What `value` is instead.
pub(super) fn object(value: Value, what: &str, at: &str) -> Result<Map<String, Value>, ApiError> {
    match value {
        Value::Object(map) => Ok(map),
        Value::Array(_) => Err(wrong_type(what, &value, at)),
        other => Err(ApiError::internal(format!(
            "Cannot construct instance of `{what}` (although at least one Creator exists): no {}-argument \
             constructor/factory method to deserialize from {} value ({}){}",
            argument(&other),
            kind(&other),
            shown(&other),
            chain(at)
        ))),
    }
}

/// The items of an array.
///
/// # Errors
/// What `value` is instead.
pub(super) fn array(value: Value, what: &str, at: &str) -> Result<Vec<Value>, ApiError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(wrong_type(what, &other, at)),
    }
}

/// A text; numbers and booleans are theirs.
///
/// # Errors
/// What `value` is instead.
pub(super) fn text(value: Value, at: &str) -> Result<Option<String>, ApiError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Bool(_) | Value::Number(_) => Ok(Some(value.to_string())),
        Value::Array(_) | Value::Object(_) => Err(wrong_type("String", &value, at)),
    }
}

/// A flat map of texts; `None` where the value is null.
///
/// # Errors
/// What `value` is instead.
pub(super) fn text_map(value: Value, at: &str) -> Result<Option<TextMap>, ApiError> {
    if value.is_null() {
        return Ok(None);
    }
    let entry = |(key, value): (String, Value)| {
        let at = if at.is_empty() { key.clone() } else { format!("{at}->{key}") };
        Ok((key, text(value, &at)?))
    };
    object(value, "Map<String,String>", at)?.into_iter().map(entry).collect::<Result<_, _>>().map(Some)
}

/// Refuses members that `known` does not name.
///
/// # Errors
/// The first such member.
pub(super) fn known_fields(map: &Map<String, Value>, what: &str, known: &[&str]) -> Result<(), ApiError> {
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => {
            let properties: Vec<_> = known.iter().map(|name| format!("\"{name}\"")).collect();
            Err(ApiError::internal(format!(
                "Unrecognized field \"{}\" (class {what}), not marked as ignorable (known properties: {})",
                brief(key),
                properties.join(", ")
            )))
        }
        None => Ok(()),
    }
}

fn wrong_type(what: &str, value: &Value, at: &str) -> ApiError {
    let token = match value {
        Value::Array(_) => "START_ARRAY",
        Value::Object(_) => "START_OBJECT",
        Value::String(_) => "VALUE_STRING",
        Value::Bool(true) => "VALUE_TRUE",
        Value::Bool(false) => "VALUE_FALSE",
        Value::Null => "VALUE_NULL",
        Value::Number(number) if is_integer(number) => "VALUE_NUMBER_INT",
        Value::Number(_) => "VALUE_NUMBER_FLOAT",
    };
    ApiError::internal(format!(
        "Cannot deserialize value of type `{what}` from {} value (token `JsonToken.{token}`){}",
        kind(value),
        chain(at)
    ))
}

fn chain(at: &str) -> String {
    if at.is_empty() { String::new() } else { format!(" (through reference chain: {})", brief(at)) }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "Array",
        Value::Object(_) => "Object",
        Value::String(_) => "String",
        Value::Bool(_) => "Boolean",
        Value::Number(_) => "Number",
        Value::Null => "Null",
    }
}

fn argument(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "String",
        Value::Bool(_) => "boolean/Boolean",
        Value::Number(number) if !is_integer(number) => "double/Double",
        _ => "int/Int",
    }
}

fn is_integer(number: &serde_json::Number) -> bool {
    number.as_str().bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
}

/// The beginning of `text`, if it is long.
fn brief(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]).into(),
        None => text.into(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", brief(text)),
        other => brief(&other.to_string()).into_owned(),
    }
}

/// `value` with its numbers as the client wrote them: the parser adds a sign to exponents, and `1.50e1` in a config
/// must stay `1.50e1`.
fn with_literal_numbers(mut value: Value, text: &[u8]) -> Value {
    let literals = number_literals(text);
    // A key given twice has dropped a value; then nobody can say which literal is whose.
    if count_numbers(&value) == literals.len() {
        put_literals(&mut value, &mut literals.into_iter());
    }
    value
}

/// Every number of a JSON text that is known to be well formed, in order.
fn number_literals(text: &[u8]) -> Vec<String> {
    let of_number = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let mut literals = Vec::new();
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = match byte {
            b'"' => after_string(after),
            b'-' | b'0'..=b'9' => {
                let length = rest.iter().take_while(|byte| of_number(byte)).count();
                literals.push(String::from_utf8_lossy(&rest[..length]).into_owned());
                &rest[length..]
            }
            _ => after,
        };
    }
    literals
}

/// What follows the string that `text` is inside of.
fn after_string(text: &[u8]) -> &[u8] {
    let mut escaped = false;
    let end = text.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.map_or(&[], |end| &text[end + 1..])
}

fn count_numbers(value: &Value) -> usize {
    match value {
        Value::Number(_) => 1,
        Value::Array(items) => items.iter().map(count_numbers).sum(),
        Value::Object(map) => map.values().map(count_numbers).sum(),
        Value::Null | Value::Bool(_) | Value::String(_) => 0,
    }
}

fn put_literals(value: &mut Value, literals: &mut impl Iterator<Item = String>) {
    match value {
        Value::Number(number) => {
            if let Some(literal) = literals.next() {
                *number = serde_json::Number::from_string_unchecked(literal);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| put_literals(item, literals)),
        Value::Object(map) => map.values_mut().for_each(|member| put_literals(member, literals)),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn malformed(text: &[u8], error: &serde_json::Error) -> String {
    let position = format!("\n at [line: {}, column: {}]", error.line(), error.column());
    if error.is_eof() {
        return format!("Unexpected end-of-input: {error}{position}");
    }
    let line = text.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let before = &line[..error.column().min(line.len())];
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let start = before.iter().rposition(|byte| !word(byte)).map_or(0, |last| last + 1);
    let token: Vec<u8> = line[start..].iter().copied().take_while(word).collect();
    if start < before.len() && token.first().is_some_and(u8::is_ascii_alphabetic) {
        let token = String::from_utf8_lossy(&token);
        let token = brief(&token);
        return format!(
            "Unrecognized token '{token}': was expecting (JSON String, Number, Array, Object or token 'null', 'true' \
             or 'false'){position}"
        );
    }
    let letter = before.last().copied().unwrap_or_default();
    format!("Unexpected character ('{}' (code {letter})): {error}{position}", char::from(letter))
}

#[cfg(test)]
mod tests;
