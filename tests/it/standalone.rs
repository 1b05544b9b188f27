//! `lakeferry connect-standalone` as a user meets it: the command line, exit codes, signals, restarts, and a broker
//! that is not there yet.

#![allow(clippy::disallowed_methods, reason = "how long a process takes is seen on the clock of the wall")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::Request;
use crate::journey::Worker;
use crate::kit::{self, Kafka, KafkaOptions, Launch};

const LIMIT: Duration = Duration::from_secs(30);

/// Nobody listens there.
const NO_BROKER: &str = "127.0.0.1:9";

#[test]
fn wrong_usage_and_configuration_end_with_2() {
    let dir = kit::instance_dir("usage").unwrap();
    let ends_with = |args: &[&str], code: i32, word: &str| {
        let log = dir.join(format!("log-{}", args.len()));
        let launch = Launch::new(env!("CARGO_BIN_EXE_lakeferry"), &log).args(args);
        let status = launch.start().unwrap().wait(LIMIT).unwrap_or_else(|| panic!("{args:?} does not end"));
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
    };
    ends_with(&[], 2, "Usage");
    ends_with(&["connect-standalone"], 2, "WORKER.properties");
    ends_with(&["connect-standalone", "no-such-file.properties"], 2, "no-such-file.properties");
    ends_with(&["connect-standalone", "--no-such-option", "a"], 2, "--no-such-option");
}

#[test]
fn a_worker_that_cannot_be_configured_ends_with_2() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("http://{}", taken.local_addr().unwrap());
    let cases = [
        ("offset.flush.interval.ms", "soon", "Not a number of type LONG"),
        ("key.converter", "NoSuchConverter", "NoSuchConverter"),
        ("listeners", "https://127.0.0.1:0", "https is not supported yet"),
        ("listeners", taken.as_str(), "cannot be opened"),
        ("offset.storage.file.filename", "/dev/null/offsets", "/dev/null"),
    ];
    for (key, value, word) in cases {
        let mut worker = Worker::new(NO_BROKER, &[(key, value)]).unwrap();
        worker.run(&[]).unwrap();
        assert_eq!(worker.wait().code(), Some(2), "{key}={value}: {}", worker.log());
        assert!(worker.log().contains(word), "{key}={value}: {}", worker.log());
    }
}

#[test]
fn the_rest_api_answers_even_without_a_broker() {
    let mut worker = Worker::new(NO_BROKER, &[]).unwrap();
    // Again after a stop, on the same port.
    for _ in 0..2 {
        worker.run(&[]).unwrap();
        let answered = kit::poll_until(LIMIT, || Request::new("GET", "/").send(&worker.address()).ok());
        let answered = answered.unwrap_or_else(|| panic!("no answer\n{}", worker.log()));
        let root = answered.json();
        assert_eq!(
            (answered.status, &root["version"], &root["kafka_cluster_id"]),
            (200, &json!("4.3.1"), &Value::Null)
        );
        let waits_for_no_broker = ["/connectors", "/connector-plugins", "/admin/loggers", "/metrics"];
        for path in waits_for_no_broker {
            assert_eq!(worker.get(path).status, 200, "{path}");
        }
        assert_eq!(worker.stop().code(), Some(0), "{}", worker.log());
    }
}

#[test]
fn slow_and_greedy_clients_keep_nobody_from_the_rest_api() {
    let mut worker = Worker::start(NO_BROKER, &[], &[]);
    let half = |n: usize| {
        let mut stream = kit::http::connect(&worker.address()).unwrap();
        match n % 3 {
            0 => Ok(()),
            1 => stream.write_all(b"GET / HTTP/1.1\r\nX-Slow: "),
            _ => stream.write_all(b"POST /connectors HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"),
        }
        .unwrap();
        stream
    };
    // More than a listener has, each of them waiting for the worker to give up.
    let slow: Vec<_> = (0..400).map(half).collect();
    for _ in 0..20 {
        assert_eq!(worker.get("/connectors").status, 200);
    }
    let mut heads = Request::new("GET", "/");
    heads.headers = (0..200).map(|n| (format!("X-{n}"), "x".to_owned())).collect();
    assert_eq!(worker.send(&heads).status, 431);
    let large = json!({ "name": "large", "config": { "x": "x".repeat(5 << 20) } });
    let (status, answer) = worker.request("POST", "/connectors", &large);
    assert_eq!((status, &answer["error_code"]), (413, &json!(413)), "{answer}");
    drop(slow);
    assert_eq!(worker.stop().code(), Some(0), "{}", worker.log());
}

#[test]
fn connectors_of_the_command_line_are_created_in_every_form() {
    let mut worker = Worker::new(NO_BROKER, &[]).unwrap();
    let flat = json!({"name": "flat", "connector.class": "FileStreamSink", "topics": "t", "tasks.max": 2});
    let request = json!({"name": "request", "config": {"connector.class": "FileStreamSink", "topics": "t"}, "initial_state": "STOPPED"});
    let files = [
        file(worker.dir(), "properties", "name=properties\nconnector.class=FileStreamSink\ntopics=t\n"),
        file(worker.dir(), "flat.json", &flat.to_string()),
        file(worker.dir(), "request.json", &request.to_string()),
    ];
    worker.run(&files.iter().map(PathBuf::as_path).collect::<Vec<_>>()).unwrap();
    worker.wait_ready().unwrap();
    let names = || worker.get("/connectors").json();
    kit::wait_until("three connectors", LIMIT, || names() == json!(["flat", "properties", "request"])).unwrap();
    assert_eq!(worker.get("/connectors/flat/tasks").json().as_array().unwrap().len(), 2);
    assert_eq!(worker.get("/connectors/request/status").json()["connector"]["state"], "STOPPED");
    assert_eq!(worker.stop().code(), Some(0), "{}", worker.log());
}

#[test]
fn a_connector_that_cannot_be_created_at_start_ends_the_worker_with_3() {
    let cases = [
        ("name=c\nconnector.class=NoSuchClass\n", "NoSuchClass"),
        ("name=c\nconnector.class=FileStreamSink\n", "Must configure one of topics or topics.regex"),
        ("connector.class=FileStreamSink\n", "no connector is named"),
    ];
    for (text, word) in cases {
        let mut worker = Worker::new(NO_BROKER, &[]).unwrap();
        let file = file(worker.dir(), "c.properties", text);
        worker.run(&[&file]).unwrap();
        assert_eq!(worker.wait().code(), Some(3), "{text}: {}", worker.log());
        assert!(worker.log().contains(word), "{text}: {}", worker.log());
    }
}

#[test]
fn what_hangs_is_left_behind_after_the_grace_period() {
    let mut worker = Worker::new(NO_BROKER, &[("task.shutdown.graceful.timeout.ms", "1000")]).unwrap();
    // Opening a pipe that nobody writes to does not come back.
    let pipe = worker.dir().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let config = format!("name=c\nconnector.class=FileStreamSource\ntopic=t\nfile={}\n", pipe.display());
    let file = file(worker.dir(), "c.properties", &config);
    worker.run(&[&file]).unwrap();
    worker.wait_ready().unwrap();
    let begin = Instant::now();
    assert_eq!(worker.stop().code(), Some(0), "{}", worker.log());
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}\n{}", begin.elapsed(), worker.log());
}

#[test]
fn lines_survive_sigterm_and_sigkill() {
    let kafka = kit::need!(kit::kafka());
    let topic = format!("standalone-{}", std::process::id());
    kafka.create_topic(&topic, 1, &[]).unwrap();
    let mut worker = Worker::new(&kafka.bootstrap(), &[]).unwrap();
    let (input, output) = (worker.dir().join("in.txt"), worker.dir().join("out.txt"));
    let source =
        format!("name={topic}-in\nconnector.class=FileStreamSource\ntopic={topic}\nfile={}\n", input.display());
    // The broker gives a killed member's partition away only when its session ends.
    let sink = format!(
        "name={topic}-out\nconnector.class=FileStreamSink\ntopics={topic}\nfile={}\n\
         consumer.override.session.timeout.ms=6000\n",
        output.display()
    );
    let files = [file(worker.dir(), "in", &source), file(worker.dir(), "out", &sink)];
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let written = || fs::read_to_string(&output).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();

    append(&input, 0..1000);
    worker.run(&files).unwrap();
    worker.wait_ready().unwrap();
    kit::wait_until("1000 lines", LIMIT, || written().len() >= 1000).unwrap();
    append(&input, 1000..1500);
    kit::wait_until("some of the next lines", LIMIT, || written().len() > 1000).unwrap();
    assert_eq!(worker.stop().code(), Some(0), "{}", worker.log());
    append(&input, 1500..2000);
    worker.run(&files).unwrap();
    worker.wait_ready().unwrap();
    kit::wait_until("2000 lines", LIMIT, || written().len() >= 2000).unwrap();
    // A worker that was asked to stop commits what it has done: nothing comes twice.
    assert_eq!(written(), (0..2000).map(line).collect::<Vec<_>>());

    append(&input, 2000..3000);
    worker.kill();
    worker.run(&files).unwrap();
    worker.wait_ready().unwrap();
    kit::wait_until("3000 lines", LIMIT, || written().contains(&line(2999))).unwrap();
    // One that was killed may do something twice, but leaves nothing out.
    let mut all = written();
    all.sort();
    all.dedup();
    let mut expected: Vec<_> = (0..3000).map(line).collect();
    expected.sort();
    assert_eq!(all, expected);
    assert_eq!(worker.stop().code(), Some(0), "{}", worker.log());
}

#[test]
fn a_broker_that_comes_late_is_waited_for() {
    let mut kafka = kit::need!(Kafka::start(KafkaOptions::default()));
    kafka.create_topic("late", 1, &[]).unwrap();
    kafka.stop().unwrap();
    let mut worker = Worker::new(&kafka.bootstrap(), &[]).unwrap();
    worker.run(&[]).unwrap();
    worker.wait_ready().unwrap();
    let (input, output) = (worker.dir().join("in.txt"), worker.dir().join("out.txt"));
    append(&input, 0..10);
    let create = |name: &str, config: Value| {
        let response = worker.send(&Request::new("POST", "/connectors").json(&json!({"name": name, "config": config})));
        assert_eq!(response.status, 201, "{response:?}");
    };
    let creation = ("topic.creation.default.replication.factor", "topic.creation.default.partitions");
    let source =
        json!({"connector.class": "FileStreamSource", "topic": "late", "file": input, creation.0: 1, creation.1: 1});
    create("in", source);
    create("out", json!({"connector.class": "FileStreamSink", "topics": "late", "file": output}));
    assert_eq!(worker.get("/").json()["kafka_cluster_id"], Value::Null);
    // Both go on, and say what they are waiting for.
    for name in ["in", "out"] {
        let waits = || {
            let task = worker.get(&format!("/connectors/{name}/tasks/0/status")).json();
            task["state"] == "RUNNING" && task["trace"].as_str().is_some_and(|trace| !trace.is_empty())
        };
        // A request gives up after 30 seconds at the latest; then the status says so.
        kit::wait_until(&format!("a trace of {name}"), Duration::from_secs(60), waits).unwrap();
    }
    assert_eq!(worker.get("/health").status, 200);
    kafka.restart().unwrap();
    let lines = || fs::read_to_string(&output).unwrap_or_default().lines().count();
    kit::wait_until("10 lines", Duration::from_secs(60), || lines() >= 10).unwrap();
    kit::wait_until("the cluster's id", LIMIT, || worker.get("/").json()["kafka_cluster_id"].is_string()).unwrap();
    for name in ["in", "out"] {
        let well = || worker.get(&format!("/connectors/{name}/tasks/0/status")).json()["trace"].is_null();
        kit::wait_until(&format!("no trace of {name}"), LIMIT, well).unwrap();
    }
}

fn line(number: usize) -> String {
    format!("line {number}")
}

fn append(path: &Path, numbers: std::ops::Range<usize>) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    numbers.for_each(|number| writeln!(file, "{}", line(number)).unwrap());
}

fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path
}
