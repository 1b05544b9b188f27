//! The real worker as a child process, driven through its REST API as a user drives it.

#![allow(dead_code, unreachable_pub, reason = "each area uses its own part")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::kit::home::{Port, instance_dir};
use crate::kit::process::{Launch, Process};
use crate::kit::{self, http, poll_until};

/// How long the worker may take to answer for the first time, and to stop.
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A standalone worker. It ends when dropped.
pub struct Worker {
    dir: PathBuf,
    port: Port,
    launch: Launch,
    process: Option<Process>,
}

impl Worker {
    /// Starts a worker of its own on `bootstrap`, with further properties and connectors (JSON texts, as files on the
    /// command line).
    pub fn start(bootstrap: &str, properties: &[(&str, &str)], connectors: &[Value]) -> Worker {
        let dir = instance_dir("worker").unwrap();
        let port = Port::claim().unwrap();
        let mut lines = vec![
            format!("bootstrap.servers={bootstrap}"),
            format!("listeners=http://{}", port.address()),
            format!("offset.storage.file.filename={}", dir.join("offsets").display()),
            "key.converter=org.apache.kafka.connect.converters.ByteArrayConverter".to_owned(),
            "value.converter=org.apache.kafka.connect.converters.ByteArrayConverter".to_owned(),
            "offset.flush.interval.ms=500".to_owned(),
        ];
        lines.extend(properties.iter().map(|(key, value)| format!("{key}={value}")));
        std::fs::write(dir.join("worker.properties"), lines.join("\n")).unwrap();
        let mut arguments = vec!["connect-standalone".to_owned(), "worker.properties".to_owned()];
        for (number, connector) in connectors.iter().enumerate() {
            let file = format!("connector-{number}.json");
            std::fs::write(dir.join(&file), connector.to_string()).unwrap();
            arguments.push(file);
        }
        let launch = Launch::new(program(), dir.join("worker.log"))
            .args(&arguments)
            .env("LAKEFERRY_LOG", "info")
            .env("NO_COLOR", "1");
        let mut worker = Worker { dir, port, launch, process: None };
        worker.restart();
        worker
    }

    /// Starts it again after [`Worker::kill`] or [`Worker::stop`], with the same files and the same port.
    pub fn restart(&mut self) {
        let mut process = self.launch.start().unwrap();
        let address = self.port.address();
        process.wait_ready("the worker", START_LIMIT, || http::is_ok(&address, "/")).unwrap();
        self.process = Some(process);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and waits until it has stopped.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.terminate(STOP_LIMIT).unwrap();
        }
    }

    /// `127.0.0.1:port` of its REST API.
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// Its folder: properties, log, offsets.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// One request; status and JSON body (null where there is none).
    pub fn request(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = http::request(method, &self.address(), path, &text).unwrap();
        (status, serde_json::from_str(&answer).unwrap_or(Value::Null))
    }

    /// Creates a connector, which must be accepted.
    pub fn create(&self, connector: &Value) {
        let (status, answer) = self.request("POST", "/connectors", connector);
        assert_eq!(status, 201, "{answer}");
    }

    /// The sum of the offsets that the connector's group has committed: what its manifests say is archived.
    pub fn archived(&self, connector: &str) -> i64 {
        let (_, answer) = self.request("GET", &format!("/connectors/{connector}/offsets"), &Value::Null);
        let offsets = answer["offsets"].as_array().cloned().unwrap_or_default();
        offsets.iter().filter_map(|entry| entry["offset"]["kafka_offset"].as_i64()).sum()
    }

    /// Waits until `archived` reaches `records`; a FAILED task ends the wait with its trace.
    pub fn wait_archived(&self, connector: &str, records: i64, limit: Duration) {
        let done = poll_until(limit, || {
            self.assert_no_failure(connector);
            (self.archived(connector) >= records).then_some(())
        });
        if done.is_none() {
            let archived = self.archived(connector);
            panic!("{connector}: {archived} of {records} archived after {limit:?}\n{}", self.log());
        }
    }

    /// Waits until connector and tasks all are in `state`.
    pub fn wait_state(&self, connector: &str, state: &str, limit: Duration) -> Value {
        let status = || self.request("GET", &format!("/connectors/{connector}/status"), &Value::Null).1;
        let reached = poll_until(limit, || {
            let status = status();
            let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
            let all = !tasks.is_empty() && tasks.iter().all(|task| task["state"] == state);
            (all && status["connector"]["state"] == state).then_some(status)
        });
        reached.unwrap_or_else(|| panic!("{connector} is not {state}: {}\n{}", status(), self.log()))
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log_tail).unwrap_or_default()
    }

    fn assert_no_failure(&self, connector: &str) {
        let (_, status) = self.request("GET", &format!("/connectors/{connector}/status"), &Value::Null);
        let failed = status["tasks"].as_array().is_some_and(|tasks| tasks.iter().any(|task| task["state"] == "FAILED"));
        assert!(!failed, "{status:#}\n{}", self.log());
    }
}

/// The program under test.
pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_lakeferry")
}

/// Runs a command of the program to its end; its exit code, standard output and standard error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(program())
        .args(arguments)
        .env("LAKEFERRY_LOG", "warn")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Settings of an S3 lake in `bucket` of the kit's server, as connector keys.
pub fn s3_settings(s3: &kit::S3, bucket: &str) -> Vec<(String, String)> {
    vec![
        ("store.url".to_owned(), format!("s3://{bucket}/lake")),
        ("store.aws_endpoint".to_owned(), s3.endpoint()),
        ("store.aws_region".to_owned(), kit::S3::REGION.to_owned()),
        ("store.aws_access_key_id".to_owned(), kit::S3::ACCESS_KEY.to_owned()),
        ("store.aws_secret_access_key".to_owned(), kit::S3::SECRET_KEY.to_owned()),
    ]
}
