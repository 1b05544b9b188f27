//! Hostile bodies at the REST API of a real worker: every route that the sources name, by every method, with bytes that
//! are no JSON, JSON that is none of ours, and good requests with something broken out of them. Each gets an answer
//! that says what is wrong, and the worker goes on. Clients that are slow or send too much stand in `standalone`.
//!
//! The bodies are drawn from one seed: a run is the same each time.

use std::fmt::Write as _;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::http::{Request, Response};
use crate::journey::Worker;

/// Nobody listens there: what is asked of a broker is another test.
const NO_BROKER: &str = "127.0.0.1:9";
const SEED: u64 = 4;
/// Bodies for each route and method that takes one.
const BODIES: usize = 60;
const METHODS: &[&str] = &["GET", "DELETE", "POST", "PUT", "PATCH"];
const THERE: &str = "there";

/// Paths of `route(...)` in the router's sources: a route that is added is tried, too.
fn routes() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rest");
    let mut routes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let production = text.split("#[cfg(test)]").next().unwrap();
        let found = production.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next());
        routes.extend(found.map(str::to_owned));
    }
    routes.sort();
    routes
}

/// A good body of `route`, to break something out of.
fn good(route: &str) -> Value {
    let config = json!({ "connector.class": "FileStreamSource", "topic": "t", "file": "/dev/null", "tasks.max": 1 });
    let offset = json!({ "partition": { "filename": "/dev/null" }, "offset": { "position": -1 } });
    match route.rsplit('/').next() {
        Some("connectors") => json!({ "name": "made", "config": config, "initial_state": "STOPPED" }),
        Some("offsets") => json!({ "offsets": [offset] }),
        Some("{logger}") => json!({ "level": "INFO" }),
        Some("tasks") => json!([config]),
        _ => config,
    }
}

/// The route's path with names in it: of what is there, and of what is not.
fn path(dice: &mut StdRng, route: &str) -> String {
    let odd = ["absent", "%00", "%F0%9F%A6%80", "a%2Fb", "%ff", "..", "-1", "99999999999999999999", "%22%7B"];
    let mut text = String::new();
    for segment in route.split('/').skip(1) {
        let known = match segment {
            "{connector}" => THERE,
            "{task}" => "0",
            "{plugin}" => "FileStreamSource",
            "{logger}" => "lakeferry.absent",
            fixed => fixed,
        };
        let is_odd = segment.starts_with('{') && dice.random_bool(0.2);
        let _ = write!(text, "/{}", if is_odd { odd[dice.random_range(0..odd.len())] } else { known });
    }
    text
}

/// Text that no client would send.
fn body(dice: &mut StdRng, good: &Value) -> String {
    match dice.random_range(0..6) {
        0 => (0..dice.random_range(0..200)).map(|_| dice.random::<char>()).collect(),
        1 => json_of(dice, good, 4).to_string(),
        // Deeper than any reader may follow, and numbers that no type holds.
        2 => ["[", "{\"name\":", "{\"config\":["][dice.random_range(0..3)].repeat(dice.random_range(1..3_000)),
        3 => good.to_string().replace("null", "1e999999").replace("-1", &"9".repeat(dice.random_range(1..400))),
        _ => broken(dice, good.to_string()),
    }
}

/// `text` with some of its letters replaced by others.
fn broken(dice: &mut StdRng, text: String) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for _ in 0..dice.random_range(1..4) {
        let at = dice.random_range(0..=letters.len());
        let until = (at + dice.random_range(0..12)).min(letters.len());
        let with = "[]{}\",:0-9aü.+eE\\\u{0}\n";
        let with: Vec<char> = with.chars().filter(|_| dice.random_bool(0.15)).collect();
        letters.splice(at..until, with);
    }
    letters.into_iter().collect()
}

/// Any JSON, with the names of `good` in it.
fn json_of(dice: &mut StdRng, good: &Value, depth: u32) -> Value {
    match dice.random_range(0..if depth == 0 { 5 } else { 8 }) {
        0 => Value::Null,
        1 => json!(dice.random::<bool>()),
        2 => json!(dice.random::<i64>()),
        3 => json!(dice.random::<f32>()),
        4 => json!(broken(dice, "name".to_owned())),
        5 => (0..dice.random_range(0..4)).map(|_| json_of(dice, good, depth - 1)).collect(),
        _ => {
            let names = good.as_object().into_iter().flat_map(|object| object.keys().cloned());
            let names = names.filter(|_| dice.random_bool(0.7)).collect::<Vec<_>>();
            names.into_iter().map(|name| (name, json_of(dice, good, depth - 1))).collect()
        }
    }
}

/// Every refusal is JSON that says what is wrong, under the status that it came with.
fn assert_answered(request: &Request, answer: &Response) {
    if answer.status < 400 {
        return;
    }
    let said = answer.json();
    let is_said = said["error_code"] == answer.status && said["message"].as_str().is_some_and(|text| !text.is_empty());
    assert!(is_said && answer.body.len() < 64 << 10, "{request:?} is answered by {answer:?}");
}

#[test]
fn no_body_on_any_route_goes_without_an_answer_or_harms_the_worker() {
    let mut dice = StdRng::seed_from_u64(SEED);
    let mut worker = Worker::start(NO_BROKER, &[], &[]);
    let (routes, mut taken, mut refused) = (routes(), 0, 0);
    assert!(routes.len() >= 20, "{routes:?}");
    for route in &routes {
        let good = good(route);
        for method in METHODS {
            let there = json!({ "name": THERE, "config": self::good("config"), "initial_state": "STOPPED" });
            let (status, answer) = worker.request("POST", "/connectors", &there);
            assert!(matches!(status, 201 | 409), "{status} {answer}");
            let bodies = if matches!(*method, "GET" | "DELETE") { BODIES / 10 } else { BODIES };
            for _ in 0..bodies {
                let mut request = Request::new(method, &path(&mut dice, route));
                request.headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
                request.body = Some(body(&mut dice, &good));
                let answer = worker.send(&request);
                assert_answered(&request, &answer);
                if answer.status < 400 { taken += 1 } else { refused += 1 }
            }
        }
    }
    // Neither is everything refused before it is read, nor everything taken.
    assert!(taken > 50 && refused > 1_000, "{taken} taken, {refused} refused");
    assert_eq!(worker.get("/").json()["version"], "4.3.1");
    assert_eq!(worker.get("/health").status, 200);
    let log = worker.log();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(worker.stop().code(), Some(0), "{}", worker.log());
}
