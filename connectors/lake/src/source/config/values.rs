//! The values of the replay source's settings: how each is read from its text, and what is wrong with it where it
//! cannot be. Pure.

use std::collections::BTreeMap;

use chrono::DateTime;
use fancy_regex::Regex;
use lakeferry_api::TopicPartition;
use lakeferry_api::config_def::Parsed;

use crate::manifest::model::OffsetRange;

/// A regular expression that must match as a whole.
pub(super) fn pattern(text: &str) -> std::result::Result<Regex, String> {
    Regex::new(&format!("^(?:{text})$")).map_err(|error| format!("'{text}' is no regular expression: {error}"))
}

/// Reads an ISO-8601 instant or milliseconds since the epoch; a part of a millisecond counts as a whole one where
/// `upwards`, else as none.
///
/// # Errors
/// What is wrong with it.
pub fn milliseconds(text: &str, upwards: bool) -> std::result::Result<i64, String> {
    if let Ok(milliseconds) = text.parse() {
        return Ok(milliseconds);
    }
    let instant = DateTime::parse_from_rfc3339(text).map_err(|_| {
        format!("'{text}' is no instant; write 2013-06-30T23:59:59.999Z, with its time zone, or milliseconds")
    })?;
    let rest = instant.timestamp_subsec_nanos() % 1_000_000 > 0;
    Ok(instant.timestamp_millis() + i64::from(upwards && rest))
}

/// `from:to`, each topic once.
pub(super) fn renames(items: &[String]) -> std::result::Result<BTreeMap<String, String>, String> {
    let mut renames = BTreeMap::new();
    for item in items.iter().filter(|item| !item.is_empty()) {
        let parts: Vec<_> = item.split(':').map(str::trim).collect();
        let [from, to] = parts[..] else { return Err(format!("'{item}' is not from:to")) };
        if from.is_empty() || to.is_empty() {
            return Err(format!("'{item}' is not from:to"));
        }
        if renames.insert(from.to_owned(), to.to_owned()).is_some() {
            return Err(format!("{from} is renamed twice"));
        }
    }
    Ok(renames)
}

/// Sorted, disjoint ranges by partition.
pub(super) type Ranges = BTreeMap<TopicPartition, Vec<OffsetRange>>;

/// `topic:partition:from:to`; `None` where there is none.
pub(super) fn offsets(items: &[String]) -> std::result::Result<Option<Ranges>, String> {
    let mut ranges = Ranges::new();
    for item in items.iter().filter(|item| !item.is_empty()) {
        let bad = || format!("'{item}' is not topic:partition:from:to with from at most to");
        let parts: Vec<_> = item.split(':').map(str::trim).collect();
        let [topic, partition, from, to] = parts[..] else { return Err(bad()) };
        let partition: i32 = partition.parse().map_err(|_| bad())?;
        let range = OffsetRange::new(from.parse().map_err(|_| bad())?, to.parse().map_err(|_| bad())?);
        if topic.is_empty() || partition < 0 || range.from < 0 || range.width() == 0 {
            return Err(bad());
        }
        ranges.entry(TopicPartition::new(topic, partition)).or_default().push(range);
    }
    for ranges in ranges.values_mut() {
        ranges.sort();
        if let Some(pair) = ranges.windows(2).find(|pair| pair[1].from <= pair[0].to) {
            return Err(format!("{}..{} and {}..{} overlap", pair[0].from, pair[0].to, pair[1].from, pair[1].to));
        }
    }
    Ok((!ranges.is_empty()).then_some(ranges))
}

pub(super) fn is_pattern(value: &Parsed) -> std::result::Result<(), String> {
    match value {
        Parsed::Text(text) => pattern(text).map(drop),
        _ => Ok(()),
    }
}

pub(super) fn is_instant(value: &Parsed) -> std::result::Result<(), String> {
    match value {
        Parsed::Text(text) => milliseconds(text, false).map(drop),
        _ => Ok(()),
    }
}

pub(super) fn is_rename(value: &Parsed) -> std::result::Result<(), String> {
    match value {
        Parsed::List(items) => renames(items).map(drop),
        _ => Ok(()),
    }
}

pub(super) fn is_offsets(value: &Parsed) -> std::result::Result<(), String> {
    match value {
        Parsed::List(items) => offsets(items).map(drop),
        _ => Ok(()),
    }
}

pub(super) fn is_incarnation(value: &Parsed) -> std::result::Result<(), String> {
    match value {
        Parsed::Text(text) if text.is_empty() => Err("write latest, the number of a lineage, or a topic id".to_owned()),
        Parsed::Text(text) if text == "0" => Err("lineages are counted from 1".to_owned()),
        _ => Ok(()),
    }
}

/// True where `text` is written as Kafka writes the ids of topics: 16 bytes in the URL-safe alphabet of base64.
pub(super) fn is_topic_id(text: &str) -> bool {
    let is_of_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() == 22 && text.bytes().all(is_of_alphabet)
}

pub(super) fn is_rate(value: &Parsed) -> std::result::Result<(), String> {
    if matches!(value, Parsed::Integer(-1 | 1..)) { Ok(()) } else { Err("write bytes a second, or -1".to_owned()) }
}

pub(super) fn is_replication_factor(value: &Parsed) -> std::result::Result<(), String> {
    if matches!(value, Parsed::Integer(-1 | 1..=32_767)) { Ok(()) } else { Err("write a number, or -1".to_owned()) }
}
