//! Values as text, in the words of Java's `toString`: what a StringConverter writes and a file sink prints, so that a
//! pipeline gives the same bytes here as in a JVM worker.
//!
//! Bytes have no such text (Java prints an address), so there is none here either. Dates, times and timestamps are
//! printed in ISO form, UTC: Java's form depends on the machine's zone and language.

use crate::decimal::Decimal;
use crate::logical;
use crate::schema::{Schema, Type};
use crate::value::{Datum, Value};

/// The text of `datum`; `None` where it holds bytes that are no number.
pub fn of(datum: &Datum) -> Option<String> {
    text(datum.schema.as_deref(), &datum.value)
}

/// A float as `Float.toString` writes it.
pub fn of_f32(number: f32) -> String {
    java_float(&format!("{number:e}"), number.into())
}

/// A double as `Double.toString` writes it.
pub fn of_f64(number: f64) -> String {
    java_float(&format!("{number:e}"), number)
}

/// The Java class that Connect's messages name for a value.
pub fn java_class(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Int8(_) => "class java.lang.Byte",
        Value::Int16(_) => "class java.lang.Short",
        Value::Int32(_) => "class java.lang.Integer",
        Value::Int64(_) => "class java.lang.Long",
        Value::Float32(_) => "class java.lang.Float",
        Value::Float64(_) => "class java.lang.Double",
        Value::Boolean(_) => "class java.lang.Boolean",
        Value::String(_) => "class java.lang.String",
        Value::Bytes(_) => "class [B",
        Value::Array(_) => "class java.util.ArrayList",
        Value::Map(_) => "class java.util.HashMap",
        Value::Struct(_) => "class org.apache.kafka.connect.data.Struct",
    }
}

/// The time of a Date, Time or Timestamp in milliseconds; `None` for any other value.
pub fn epoch_ms(schema: Option<&Schema>, value: &Value) -> Option<i64> {
    match (schema?.name.as_deref()?, value) {
        (logical::DATE, Value::Int32(days)) => Some(i64::from(*days) * 86_400_000),
        (logical::TIME, Value::Int32(ms)) => Some((*ms).into()),
        (logical::TIMESTAMP, Value::Int64(ms)) => Some(*ms),
        _ => None,
    }
}

/// The decimal that `value` holds; `None` where it is none.
pub fn decimal(schema: Option<&Schema>, value: &Value) -> Option<Decimal> {
    let schema = schema.filter(|schema| schema.name.as_deref() == Some(logical::DECIMAL))?;
    match value {
        Value::Bytes(bytes) => Decimal::from_bytes(bytes, schema.parameters.get(logical::SCALE)?.parse().ok()?),
        _ => None,
    }
}

/// Year, month and day of a number of days since the epoch, in the Gregorian calendar.
pub fn civil_date(days: i64) -> (i64, u32, u32) {
    // Counts years from March on, so that the leap day ends them, in eras of 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day as u32)
}

/// `yyyy-MM-ddTHH:mm:ss.SSSZ`.
pub fn iso_timestamp(epoch_ms: i64) -> String {
    let (days, ms) = (epoch_ms.div_euclid(86_400_000), epoch_ms.rem_euclid(86_400_000));
    format!("{}T{}", iso_date(days), iso_time(ms))
}

/// `yyyy-MM-dd`.
pub fn iso_date(days: i64) -> String {
    let (year, month, day) = civil_date(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `HH:mm:ss.SSSZ`.
pub fn iso_time(ms_of_day: i64) -> String {
    let (seconds, ms) = (ms_of_day / 1000, ms_of_day % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn text(schema: Option<&Schema>, value: &Value) -> Option<String> {
    if let Some(decimal) = decimal(schema, value) {
        return Some(decimal.to_string());
    }
    if let Some(ms) = epoch_ms(schema, value) {
        return Some(match schema.and_then(|schema| schema.name.as_deref()) {
            Some(logical::DATE) => iso_date(ms.div_euclid(86_400_000)),
            Some(logical::TIME) => iso_time(ms.rem_euclid(86_400_000)),
            _ => iso_timestamp(ms),
        });
    }
    Some(match value {
        Value::Null => "null".to_owned(),
        Value::Int8(number) => number.to_string(),
        Value::Int16(number) => number.to_string(),
        Value::Int32(number) => number.to_string(),
        Value::Int64(number) => number.to_string(),
        Value::Float32(number) => of_f32(*number),
        Value::Float64(number) => of_f64(*number),
        Value::Boolean(value) => value.to_string(),
        Value::String(text) => text.to_string(),
        Value::Bytes(_) => return None,
        Value::Array(items) => {
            let item_schema = schema.and_then(|schema| match &schema.kind {
                Type::Array(item) => Some(item.as_ref()),
                _ => None,
            });
            let items: Option<Vec<_>> = items.iter().map(|item| text(item_schema, item)).collect();
            format!("[{}]", items?.join(", "))
        }
        Value::Map(entries) => {
            let schemas = schema.and_then(|schema| match &schema.kind {
                Type::Map(key, value) => Some((key.as_ref(), value.as_ref())),
                _ => None,
            });
            let entry = |(key, value): &(Value, Value)| {
                Some(format!("{}={}", text(schemas.map(|s| s.0), key)?, text(schemas.map(|s| s.1), value)?))
            };
            let entries: Option<Vec<_>> = entries.iter().map(entry).collect();
            format!("{{{}}}", entries?.join(", "))
        }
        Value::Struct(values) => format!("Struct{{{}}}", fields(schema?, values)?.join(",")),
    })
}

/// Fields that are null are left out, and a default stands in for them, as in `Struct.toString`.
fn fields(schema: &Schema, values: &[Value]) -> Option<Vec<String>> {
    let Type::Struct(fields) = &schema.kind else { return None };
    let set = fields.iter().zip(values).filter(|(_, value)| !value.is_null());
    set.map(|(field, value)| Some(format!("{}={}", field.name, text(Some(&field.schema), value)?))).collect()
}

/// Shortest digits from Rust, laid out as Java lays them out.
fn java_float(scientific: &str, number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() };
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number == 0.0 || (-3..7).contains(&exponent) {
        let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
        let digits: String = mantissa.chars().filter(|letter| *letter != '.').collect();
        let Ok(point) = usize::try_from(exponent + 1) else {
            return format!("{sign}0.{}{digits}", "0".repeat((-exponent - 1).unsigned_abs() as usize));
        };
        if point == 0 {
            return format!("{sign}0.{digits}");
        }
        let whole: String = digits.chars().chain(std::iter::repeat('0')).take(point).collect();
        let fraction = digits.get(point..).filter(|fraction| !fraction.is_empty()).unwrap_or("0");
        return format!("{sign}{whole}.{fraction}");
    }
    let point = if mantissa.contains('.') { "" } else { ".0" };
    format!("{mantissa}{point}E{exponent}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::schema::Field;

    #[test]
    fn floats_look_as_in_java() {
        let doubles = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (100.0, "100.0"),
            (0.001, "0.001"),
            (0.012345, "0.012345"),
            (0.5, "0.5"),
            (0.0001, "1.0E-4"),
            (1234567.0, "1234567.0"),
            (12345678.5, "1.23456785E7"),
            (1e10, "1.0E10"),
            (-123.456, "-123.456"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (number, text) in doubles {
            assert_eq!(of_f64(number), text);
        }
        assert_eq!(
            (of_f32(0.1), of_f32(1.5e10), of_f32(16777216.0)),
            ("0.1".into(), "1.5E10".into(), "1.6777216E7".into())
        );
    }

    #[test]
    fn containers_look_as_in_java() {
        let field = |name: &str, kind| Field { name: name.into(), schema: Arc::new(Schema::optional(kind)) };
        let schema = Arc::new(Schema::new(Type::Struct(vec![
            field("a", Type::Int32),
            field("b", Type::String),
            field("c", Type::String),
        ])));
        let value = Value::Struct(vec![Value::Int32(1), Value::Null, Value::String("x".into())]);
        assert_eq!(of(&Datum::new(schema, value)).unwrap(), "Struct{a=1,c=x}");
        let map = Value::Map(vec![(Value::String("k".into()), Value::Array(vec![Value::Int64(1), Value::Null]))]);
        assert_eq!(of(&Datum::schemaless(map)).unwrap(), "{k=[1, null]}");
        assert_eq!(of(&Datum::schemaless(Value::Bytes(Bytes::from_static(b"x")))), None);
    }

    #[test]
    fn logical_types_have_text() {
        let logical = |name: &str, kind| Arc::new(Schema::new(kind).named(name, 1));
        let text = |name, kind, value| of(&Datum::new(logical(name, kind), value)).unwrap();
        assert_eq!(text(logical::DATE, Type::Int32, Value::Int32(-1)), "1969-12-31");
        assert_eq!(text(logical::TIME, Type::Int32, Value::Int32(3_723_004)), "01:02:03.004Z");
        assert_eq!(text(logical::TIMESTAMP, Type::Int64, Value::Int64(951_782_400_001)), "2000-02-29T00:00:00.001Z");
        let mut decimal = Schema::new(Type::Bytes).named(logical::DECIMAL, 1);
        decimal.parameters.insert(logical::SCALE.to_owned(), "2".to_owned());
        assert_eq!(of(&Datum::new(Arc::new(decimal), Value::Bytes(Bytes::from_static(&[150, 1])))).unwrap(), "-271.35");
    }
}
