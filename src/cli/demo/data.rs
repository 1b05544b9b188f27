//! The demo's data: a day of a small shop, made from a seed, so that every run tells the same story.
//!
//! `orders` holds updates of the same keys and tombstones; `clicks` has headers (a repeated one and a null one among
//! them) and timestamps that are out of order by up to a minute and a half, as phones that were offline send them. At
//! [`DEPLOYMENT_MS`] a faulty release starts to delete every order it sees.

use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::record::RawRecord;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

/// The topics and how many partitions each has.
pub(super) const TOPICS: [(&str, i32); 2] = [("orders", 3), ("clicks", 4)];
/// 2026-03-14T09:00:00Z: the shop opens.
const OPENING_MS: i64 = 1_773_478_800_000;
/// Eight hours later it closes.
const CLOSING_MS: i64 = OPENING_MS + 8 * 3_600_000;
/// 14:30: the faulty release goes live. The moment before it is what the demo restores.
pub(super) const DEPLOYMENT_MS: i64 = OPENING_MS + 5 * 3_600_000 + 1_800_000;
/// Clicks arrive late by up to this.
const LATENESS_MS: i64 = 90_000;
const SEED: u64 = 0x1a4e_f311;

const CITIES: [&str; 6] = ["Lindau", "Bregenz", "Konstanz", "Rorschach", "Friedrichshafen", "Meersburg"];
const PAGES: [&str; 5] = ["/", "/timetable", "/ferries/austria", "/cart", "/checkout"];
const AGENTS: [&str; 3] = ["Firefox/148.0", "Safari/26.1", "Chrome/151.0"];

/// `count` records in the order in which they are produced, about two clicks for each order.
pub(super) fn records(count: u64) -> impl Iterator<Item = RawRecord> {
    let mut rng = SmallRng::seed_from_u64(SEED);
    let mut orders = 0;
    (0..count).map(move |n| {
        let now_ms = OPENING_MS + (CLOSING_MS - OPENING_MS) * n as i64 / count.max(1) as i64;
        if n % 3 == 0 { order(&mut rng, &mut orders, now_ms) } else { click(&mut rng, now_ms) }
    })
}

fn order(rng: &mut SmallRng, orders: &mut u64, now_ms: i64) -> RawRecord {
    let is_new = *orders == 0 || rng.random_bool(0.4);
    if is_new {
        *orders += 1;
    }
    let number = if is_new { *orders } else { rng.random_range(1..=*orders) };
    let deleted = now_ms >= DEPLOYMENT_MS || (!is_new && rng.random_bool(0.03));
    let status = if is_new { "created" } else { ["paid", "packed", "shipped"][rng.random_range(0..3)] };
    let value = json!({
        "order": number,
        "status": status,
        "city": CITIES[rng.random_range(0..CITIES.len())],
        "tickets": rng.random_range(1..=6),
        "amount_cents": rng.random_range(450..9_800),
    });
    record("orders", number, now_ms, format!("order-{number}"), (!deleted).then(|| value.to_string()))
}

fn click(rng: &mut SmallRng, now_ms: i64) -> RawRecord {
    let visitor = rng.random_range(1..=500_u64);
    let late_ms = if rng.random_bool(0.2) { rng.random_range(0..LATENESS_MS) } else { 0 };
    let value = json!({ "visitor": visitor, "page": PAGES[rng.random_range(0..PAGES.len())] });
    let mut click = record("clicks", visitor, now_ms - late_ms, format!("visitor-{visitor}"), Some(value.to_string()));
    let header = |key: &str, value: Option<String>| (Arc::from(key), value.map(Bytes::from));
    click.headers.push(header("agent", Some(AGENTS[rng.random_range(0..AGENTS.len())].to_owned())));
    click.headers.push(header("trace", Some(format!("{:016x}", rng.random::<u64>()))));
    if rng.random_bool(0.1) {
        click.headers.push(header("trace", Some(format!("{:016x}", rng.random::<u64>()))));
        click.headers.push(header("referrer", None));
    }
    click
}

fn record(topic: &str, number: u64, timestamp_ms: i64, key: String, value: Option<String>) -> RawRecord {
    let partitions = TOPICS.iter().find(|(name, _)| *name == topic).map_or(1, |(_, partitions)| *partitions);
    RawRecord {
        topic: topic.into(),
        partition: Some((number % partitions as u64) as i32),
        timestamp: Some(timestamp_ms),
        key: Some(key.into()),
        value: value.map(Bytes::from),
        headers: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_holds_what_the_demo_tells() {
        let all: Vec<_> = records(3_000).collect();
        assert_eq!(all.len(), 3_000);
        assert!(all.iter().any(|record| record.value.is_none()), "tombstones");
        assert!(all.iter().any(|record| record.headers.iter().any(|(_, value)| value.is_none())), "null headers");
        let clicks: Vec<_> = all.iter().filter(|record| &*record.topic == "clicks").map(|r| r.timestamp).collect();
        assert!(!clicks.is_sorted(), "timestamps out of order");
        let orders_after = all.iter().filter(|r| &*r.topic == "orders" && r.timestamp >= Some(DEPLOYMENT_MS));
        assert!(orders_after.clone().count() > 100 && orders_after.clone().all(|record| record.value.is_none()));
        assert_eq!(all, records(3_000).collect::<Vec<_>>(), "the same story every time");
    }
}
