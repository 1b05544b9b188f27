//! The guess at what a header's text is: null, boolean, array, map, time, date, timestamp, number, or the text itself
//! (Connect's `Values.parseString`).

use std::sync::Arc;

use lakeferry_api::decimal::Decimal;
use lakeferry_api::schema::Type;
use lakeferry_api::{Datum, Schema, Value, logical};

use super::tokens::{Tokens, is_blank, trim};

/// How deep arrays and maps may stand in each other.
const MAX_DEPTH: usize = 100;

/// The text is nested deeper than [`MAX_DEPTH`].
pub(super) struct TooDeep;

/// Why no value stands where one was looked for.
enum Failure {
    /// It is no array or map after all: what holds it is text.
    Syntax,
    Depth,
}

type Parsed = Result<Option<Datum>, Failure>;

pub(super) fn infer(text: &str) -> Result<Datum, TooDeep> {
    if text.is_empty() {
        return Ok(string(text));
    }
    match (Inference { text, tokens: Tokens::new(text) }).value(false, 0) {
        Ok(datum) => Ok(datum.unwrap_or(Datum::NULL)),
        Err(Failure::Syntax) => Ok(string(text)),
        Err(Failure::Depth) => Err(TooDeep),
    }
}

struct Inference<'a> {
    text: &'a str,
    tokens: Tokens,
}

impl Inference<'_> {
    fn value(&mut self, embedded: bool, depth: usize) -> Parsed {
        if depth > MAX_DEPTH {
            return Err(Failure::Depth);
        }
        if !self.tokens.has_next() {
            return Ok(None);
        }
        if embedded && self.tokens.accept("\"") {
            return Ok(Some(self.quoted()));
        }
        for (literal, value) in [("null", None), ("true", Some(true)), ("false", Some(false))] {
            if self.literal(embedded, literal) {
                return Ok(value.map(|value| Datum::new(plain(Type::Boolean), Value::Boolean(value))));
            }
        }
        let start = self.tokens.mark();
        let container = if self.tokens.accept("[") {
            Some(self.array(depth))
        } else if self.tokens.accept("{") {
            Some(self.map(depth))
        } else {
            None
        };
        match container {
            Some(Err(Failure::Syntax)) => self.tokens.rewind(start),
            Some(parsed) => return parsed,
            None => {}
        }
        let token = self.tokens.next();
        if is_blank(&token) {
            return Ok(Some(string(&token)));
        }
        self.scalar(embedded, trim(&token))
    }

    /// A literal counts at the top level only where nothing follows it.
    fn literal(&mut self, embedded: bool, literal: &str) -> bool {
        let start = self.tokens.mark();
        if self.tokens.accept(literal) && (embedded || !self.tokens.has_next()) {
            return true;
        }
        self.tokens.rewind(start);
        false
    }

    fn scalar(&mut self, embedded: bool, token: &str) -> Parsed {
        let first = token.chars().next().unwrap_or(' ');
        if first.is_ascii_digit()
            && let Some(temporal) = self.temporal_tokens(token)
        {
            return Ok(Some(temporal));
        }
        if (first.is_ascii_digit() || matches!(first, '+' | '-'))
            && let Some(decimal) = Decimal::parse(token)
        {
            return Ok(Some(number(&decimal)));
        }
        if embedded { Err(Failure::Syntax) } else { Ok(Some(string(self.text))) }
    }

    fn quoted(&mut self) -> Datum {
        let mut content = String::new();
        while self.tokens.has_next() && !self.tokens.accept("\"") {
            content.push_str(&self.tokens.next());
        }
        temporal(&content).unwrap_or_else(|| string(&content))
    }

    fn array(&mut self, depth: usize) -> Parsed {
        let mut items = Vec::new();
        while self.tokens.has_next() {
            if self.tokens.accept("]") {
                return aligned_array(items).map(Some);
            }
            if self.tokens.accept(",") {
                return Err(Failure::Syntax);
            }
            items.push(self.value(true, depth + 1)?);
            let mark = self.tokens.mark();
            if self.tokens.accept("]") {
                self.tokens.rewind(mark);
            } else if !self.tokens.accept(",") {
                return Err(Failure::Syntax);
            }
        }
        Err(Failure::Syntax)
    }

    fn map(&mut self, depth: usize) -> Parsed {
        let mut entries: Vec<(Datum, Option<Datum>)> = Vec::new();
        while self.tokens.has_next() {
            if self.tokens.accept("}") {
                return aligned_map(entries).map(Some);
            }
            if self.tokens.accept(",") {
                return Err(Failure::Syntax);
            }
            let key = self.value(true, depth + 1)?.ok_or(Failure::Syntax)?;
            if !self.tokens.accept(":") {
                return Err(Failure::Syntax);
            }
            let value = self.value(true, depth + 1)?;
            self.tokens.accept(",");
            match entries.iter_mut().find(|(known, _)| known.value == key.value) {
                Some(entry) => entry.1 = value,
                None => entries.push((key, value)),
            }
        }
        Err(Failure::Syntax)
    }

    /// Times and timestamps may be cut into five tokens by their colons.
    fn temporal_tokens(&mut self, token: &str) -> Option<Datum> {
        let mark = self.tokens.mark();
        if let Some(rest) = self.tokens.next_text(4)
            && let Some(datum) = temporal(&format!("{token}{rest}"))
        {
            return Some(datum);
        }
        self.tokens.rewind(mark);
        temporal(token)
    }
}

fn plain(kind: Type) -> Arc<Schema> {
    Arc::new(Schema::new(kind))
}

fn string(text: &str) -> Datum {
    Datum::new(plain(Type::String), Value::String(text.into()))
}

/// The smallest integer type that holds a whole number, else a float, else a double, else a decimal.
fn number(decimal: &Decimal) -> Datum {
    let tiny = !decimal.is_zero() && decimal.magnitude() < 0;
    if !tiny && decimal.is_whole() && (decimal.is_zero() || decimal.magnitude() <= 19) {
        match decimal.to_i64() {
            Some(number) => return integer(number),
            None if decimal.scale() == 0 => return of_decimal(decimal),
            None => {}
        }
    }
    let text = decimal.to_string();
    let float = text.parse::<f32>().ok().filter(|float| float.is_finite() && decimal.scale() != 0);
    let double = text.parse::<f64>().ok().filter(|double| double.is_finite() && decimal.scale() != 0);
    match (float, double) {
        (Some(float), _) => Datum::new(plain(Type::Float32), Value::Float32(float)),
        (None, Some(double)) => Datum::new(plain(Type::Float64), Value::Float64(double)),
        (None, None) => of_decimal(decimal),
    }
}

fn integer(number: i64) -> Datum {
    if let Ok(number) = i8::try_from(number) {
        return Datum::new(plain(Type::Int8), Value::Int8(number));
    }
    if let Ok(number) = i16::try_from(number) {
        return Datum::new(plain(Type::Int16), Value::Int16(number));
    }
    match i32::try_from(number) {
        Ok(number) => Datum::new(plain(Type::Int32), Value::Int32(number)),
        Err(_) => Datum::new(plain(Type::Int64), Value::Int64(number)),
    }
}

fn of_decimal(decimal: &Decimal) -> Datum {
    let mut schema = Schema::new(Type::Bytes).named(logical::DECIMAL, 1);
    schema.parameters.insert(logical::SCALE.to_owned(), decimal.scale().to_string());
    Datum::new(Arc::new(schema), Value::Bytes(decimal.to_bytes().into()))
}

/// A time, timestamp or date in ISO form, told by its length.
fn temporal(text: &str) -> Option<Datum> {
    let text = text.replace("\\:", ":");
    let (date, time) = match text.len() {
        10 => (Some(text.as_str()), None),
        13 => (None, Some(text.as_str())),
        24 => (Some(text.get(..10)?), Some(text.get(10..)?.strip_prefix('T')?)),
        _ => return None,
    };
    let days = date.map(days_of).unwrap_or(Some(0))?;
    let ms = time.map(ms_of).unwrap_or(Some(0))?;
    let (name, kind, value) = match (date, time) {
        (Some(_), None) => (logical::DATE, Type::Int32, Value::Int32(i32::try_from(days).ok()?)),
        (None, _) => (logical::TIME, Type::Int32, Value::Int32(i32::try_from(ms).ok()?)),
        (Some(_), Some(_)) => (logical::TIMESTAMP, Type::Int64, Value::Int64(days * 86_400_000 + ms)),
    };
    Some(Datum::new(Arc::new(Schema::new(kind).named(name, 1)), value))
}

/// `yyyy-MM-dd`. Months and days may run over, as in Java's lenient calendar.
fn days_of(text: &str) -> Option<i64> {
    let [year, month, day] = numbers(text, ['-', '-'])?;
    let months = year * 12 + month - 1;
    Some(days_of_month(months.div_euclid(12), months.rem_euclid(12)) + day - 1)
}

/// Days from the epoch to the first of a month, counted from 0.
fn days_of_month(year: i64, month: i64) -> i64 {
    let from_march = (month + 10) % 12;
    let year = if month < 2 { year - 1 } else { year };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leaps + (153 * from_march + 2) / 5 - 719_468
}

/// `HH:mm:ss.SSSZ`. Hours, minutes and seconds may run over.
fn ms_of(text: &str) -> Option<i64> {
    let (seconds, ms) = text.strip_suffix('Z')?.split_once('.')?;
    let [hours, minutes, seconds] = numbers(seconds, [':', ':'])?;
    Some(((hours * 60 + minutes) * 60 + seconds) * 1000 + digits(ms)?)
}

fn numbers(text: &str, separators: [char; 2]) -> Option<[i64; 3]> {
    let (first, rest) = text.split_once(separators[0])?;
    let (second, third) = rest.split_once(separators[1])?;
    Some([digits(first)?, digits(second)?, digits(third)?])
}

fn digits(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The schema that all values have in common: the widest number, or one type.
fn common_schema<'a>(mut data: impl Iterator<Item = &'a Datum>) -> Option<Arc<Schema>> {
    let first = data.next()?.schema.clone()?;
    data.try_fold(first, |common, datum| merge(&common, datum.schema.as_ref()?))
}

fn merge(common: &Arc<Schema>, latest: &Arc<Schema>) -> Option<Arc<Schema>> {
    let same = std::mem::discriminant(&common.kind) == std::mem::discriminant(&latest.kind);
    let (before, after) = (width(common), width(latest));
    match same {
        true if common.name != latest.name || common.parameters != latest.parameters => None,
        true => Some(Arc::clone(latest)),
        false => Some(Arc::clone(if before? >= after? { common } else { latest })),
    }
}

fn width(schema: &Schema) -> Option<u8> {
    if schema.name.is_some() {
        return None;
    }
    match schema.kind {
        Type::Int8 => Some(1),
        Type::Int16 => Some(2),
        Type::Int32 => Some(3),
        Type::Int64 => Some(4),
        Type::Float32 => Some(5),
        Type::Float64 => Some(6),
        _ => None,
    }
}

fn aligned_array(items: Vec<Option<Datum>>) -> Result<Datum, Failure> {
    match common_schema(items.iter().flatten()) {
        Some(schema) => {
            let items = items.into_iter().map(|item| align(&schema, item)).collect::<Result<_, _>>()?;
            Ok(Datum::new(plain(Type::Array(schema)), Value::Array(items)))
        }
        None => Ok(Datum::schemaless(Value::Array(items.into_iter().map(value_of).collect()))),
    }
}

fn aligned_map(entries: Vec<(Datum, Option<Datum>)>) -> Result<Datum, Failure> {
    let keys = common_schema(entries.iter().map(|(key, _)| key));
    let values = common_schema(entries.iter().filter_map(|(_, value)| value.as_ref()));
    let (Some(keys), Some(values)) = (keys, values) else {
        let entries = entries.into_iter().map(|(key, value)| (key.value, value_of(value))).collect();
        return Ok(Datum::schemaless(Value::Map(entries)));
    };
    let entry = |(key, value)| Ok((align(&keys, Some(key))?, align(&values, value)?));
    let entries = entries.into_iter().map(entry).collect::<Result<_, Failure>>()?;
    Ok(Datum::new(plain(Type::Map(keys, values)), Value::Map(entries)))
}

fn value_of(datum: Option<Datum>) -> Value {
    datum.map_or(Value::Null, |datum| datum.value)
}

/// The value in the common type; a null beside values of one type makes the whole text a string, as in Connect.
fn align(schema: &Schema, datum: Option<Datum>) -> Result<Value, Failure> {
    let value = datum.ok_or(Failure::Syntax)?.value;
    let whole = match &value {
        Value::Int8(number) => Some(i64::from(*number)),
        Value::Int16(number) => Some(i64::from(*number)),
        Value::Int32(number) => Some(i64::from(*number)),
        Value::Int64(number) => Some(*number),
        _ => None,
    };
    Ok(match (&schema.kind, whole, &value) {
        (Type::Int16, Some(number), _) => Value::Int16(number as i16),
        (Type::Int32, Some(number), _) => Value::Int32(number as i32),
        (Type::Int64, Some(number), _) => Value::Int64(number),
        (Type::Float32, Some(number), _) => Value::Float32(number as f32),
        (Type::Float64, Some(number), _) => Value::Float64(number as f64),
        (Type::Float64, None, Value::Float32(number)) => Value::Float64((*number).into()),
        _ => value,
    })
}
