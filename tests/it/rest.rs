//! The REST scenarios of `tests/rest`: each runs against our worker and against a JVM worker of the same Kafka release,
//! and both must pass the same file. Where the JVM worker answers by accident and we do not copy it, the step says so
//! under `java` with the reason.
//!
//! In a scenario `$run` is a word that no other run has (for names of connectors, topics and loggers), `$dir` a folder
//! of this run, `$address` the worker's `host:port`, and `$name` what an earlier step captured under `name`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::http::{Request, Response};
use crate::{journey, kit};

/// How long a step with `poll` may take to hold.
const LIMIT: Duration = Duration::from_secs(30);

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        const SCENARIOS: &[&str] = &[$(stringify!($name)),*];
        mod ours {
            $(#[test] fn $name() { super::run_ours(stringify!($name)); })*
        }
        mod java {
            $(#[test] fn $name() { super::run_java(stringify!($name)); })*
        }
    };
}

scenarios!(
    bodies,
    create,
    delete,
    initial_state,
    internal,
    list,
    loggers,
    names,
    patch,
    pause,
    plugins,
    put,
    restart,
    server,
    sink_offsets,
    source_offsets,
    stop,
    topics,
    validate,
);

#[test]
fn every_file_is_a_scenario() {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = files.map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, SCENARIOS);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    /// Files of `$dir` with their text.
    #[serde(default)]
    files: BTreeMap<String, String>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// One request, as `GET /connectors`.
    request: Option<String>,
    /// Or several, each with the same answer.
    #[serde(default)]
    each: Vec<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Sent as JSON.
    body: Option<Value>,
    /// Sent as it is, as JSON unless the headers say something else.
    raw: Option<String>,
    /// Asked again until it holds.
    #[serde(default)]
    poll: bool,
    expect: Expected,
    /// What differs on the JVM worker, and why that is not copied.
    java: Option<Expected>,
    /// Variables from the answer, by JSON pointer.
    #[serde(default)]
    capture: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    status: u16,
    /// The whole body.
    json: Option<Value>,
    /// Members that the body has, among others; an array has as many items.
    like: Option<Value>,
    /// Items that an array has, among others.
    #[serde(default)]
    contains: Vec<Value>,
    /// Items that an array has not.
    #[serde(default)]
    lacks: Vec<Value>,
    /// An error body whose message begins so.
    error: Option<String>,
    /// Headers that the answer has.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The body is empty.
    #[serde(default)]
    empty: bool,
    /// Of `java` only.
    because: Option<String>,
}

fn run_ours(name: &str) {
    let worker = kit::need!(journey::shared());
    run(name, "ours", &worker.address());
}

/// One at a time: the standalone herder of 4.3.1 can lock itself up for good where connectors are deleted, paused and
/// changed at the same moment.
fn run_java(name: &str) {
    static ALONE: Mutex<()> = Mutex::new(());
    let worker = kit::need!(kit::connect_worker());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    run(name, "java", &worker.address());
}

fn run(name: &str, engine: &str, address: &str) {
    let dir = kit::instance_dir(&format!("{name}-{engine}")).unwrap();
    let run = format!("{name}-{engine}-{}", std::process::id());
    let mut variables = BTreeMap::from([
        ("run".to_owned(), run),
        ("dir".to_owned(), dir.display().to_string()),
        ("address".to_owned(), address.to_owned()),
    ]);
    let text = fs::read_to_string(folder().join(format!("{name}.yaml"))).unwrap();
    let scenario: Scenario = serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{name}.yaml: {error}"));
    for (file, text) in &scenario.files {
        fs::write(dir.join(file), text).unwrap();
    }
    for (number, step) in scenario.steps.iter().enumerate() {
        let expected = step.expected_of(engine);
        for line in step.request.iter().chain(&step.each) {
            let request = step.request(line, &variables);
            let (response, verdict) = ask(&request, address, step.poll, expected, &variables);
            if let Err(why) = verdict {
                panic!(
                    "{name}.yaml, step {}, {engine}: {line}: {why}\nasked: {request:?}\nanswer: {response:#?}",
                    number + 1
                );
            }
            for (variable, pointer) in &step.capture {
                let json = response.json();
                let found = json.pointer(pointer).unwrap_or_else(|| panic!("{name}.yaml: no {pointer} in {json}"));
                variables.insert(variable.clone(), found.as_str().map_or_else(|| found.to_string(), str::to_owned));
            }
        }
    }
}

fn ask(
    request: &Request,
    address: &str,
    poll: bool,
    expected: &Expected,
    variables: &BTreeMap<String, String>,
) -> (Response, Result<(), String>) {
    let once = || {
        let response = request.send(address).unwrap_or_else(|error| panic!("{request:?}: {error}"));
        let verdict = expected.check(&response, variables);
        (response, verdict)
    };
    let mut last = None;
    let limit = if poll { LIMIT } else { Duration::ZERO };
    kit::poll_until(limit, || last.insert(once()).1.is_ok().then_some(()));
    last.unwrap()
}

impl Step {
    fn request(&self, line: &str, variables: &BTreeMap<String, String>) -> Request {
        let (method, path) = line.split_once(' ').unwrap_or_else(|| panic!("'{line}' is no request"));
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), filled(value, variables)));
        let mut headers: Vec<_> = headers.filter(|(_, value)| value != "none").collect();
        let body = self.raw.clone().or_else(|| self.body.as_ref().map(Value::to_string));
        if body.is_some() && !self.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type")) {
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        }
        let body = body.map(|body| filled(&body, variables));
        Request { method: method.to_owned(), path: filled(path, variables), headers, body }
    }

    fn expected_of(&self, engine: &str) -> &Expected {
        match &self.java {
            Some(accident) if engine == "java" => {
                assert!(accident.because.is_some(), "a difference has a reason");
                accident
            }
            _ => &self.expect,
        }
    }
}

impl Expected {
    fn check(&self, response: &Response, variables: &BTreeMap<String, String>) -> Result<(), String> {
        if response.status != self.status {
            return Err(format!("status {} instead of {}", response.status, self.status));
        }
        let body = response.json();
        if let Some(json) = &self.json {
            let json = filled_json(json, variables);
            if body != json {
                return Err(format!("body {body}\ninstead of {json}"));
            }
        }
        if let Some(like) = &self.like {
            includes(&body, &filled_json(like, variables), "")?;
        }
        let items = body.as_array().map(Vec::as_slice).unwrap_or_default();
        let has = |item: &Value| items.contains(&filled_json(item, variables));
        if !self.contains.iter().all(has) || self.lacks.iter().any(has) {
            return Err(format!("{body} contains not all of {:?} or some of {:?}", self.contains, self.lacks));
        }
        if let Some(error) = &self.error {
            let (code, message) = (&body["error_code"], body["message"].as_str().unwrap_or_default());
            let error = filled(error, variables);
            if *code != self.status || !message.starts_with(&error) {
                return Err(format!("error {code} '{message}' instead of {} '{error}'", self.status));
            }
        }
        for (name, value) in &self.headers {
            let value = filled(value, variables);
            if response.header(name) != Some(&value) {
                return Err(format!("header {name} is {:?} instead of {value}", response.header(name)));
            }
        }
        if self.empty && !response.body.is_empty() {
            return Err(format!("body '{}' instead of none", response.body));
        }
        Ok(())
    }
}

/// Whether `body` has everything that `like` has.
fn includes(body: &Value, like: &Value, at: &str) -> Result<(), String> {
    match (body, like) {
        (Value::Object(body), Value::Object(like)) => like.iter().try_for_each(|(key, value)| {
            let found = body.get(key).ok_or_else(|| format!("no {at}/{key}"))?;
            includes(found, value, &format!("{at}/{key}"))
        }),
        (Value::Array(body), Value::Array(like)) if body.len() == like.len() => {
            let mut pairs = body.iter().zip(like).enumerate();
            pairs.try_for_each(|(index, (body, like))| includes(body, like, &format!("{at}/{index}")))
        }
        (body, like) if body == like => Ok(()),
        (body, like) => Err(format!("{at} is {body} instead of {like}")),
    }
}

fn filled(text: &str, variables: &BTreeMap<String, String>) -> String {
    variables.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
}

fn filled_json(json: &Value, variables: &BTreeMap<String, String>) -> Value {
    match json {
        Value::String(text) => Value::String(filled(text, variables)),
        Value::Array(items) => items.iter().map(|item| filled_json(item, variables)).collect(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| (filled(key, variables), filled_json(value, variables))).collect()
        }
        other => other.clone(),
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rest")
}
